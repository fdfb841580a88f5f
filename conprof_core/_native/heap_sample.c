/* heap_sample.c: see heap_sample.h. */
#include "heap_sample.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "capture.h"
#include "clock.h"
#include "code_registry.h"
#include "heap.h"
#include "heap_table.h"
#include "own_tid.h"
#include "sampler.h"
#include "scratch.h"
#include "state.h"

/* Where a sampled allocation waits for the drain, 2 ms at most. */
#define NEARLY_FULL (CONPROF_RING_WORDS / 4 * 3)
#define WAIT_STEP_NS 50000
#define WAIT_STEPS 20 /* each takes twice its time: the kernel's slack is as long */

/* The walk's buffer is too large for the stack of whoever allocates, which may be a few KiB from
 * its end. Who holds the lock has all signals blocked, takes only the heap lock behind it and
 * allocates nothing; who forks holds it meanwhile. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct conprof_scratch scratch; /* owner: holder of the lock */

/* owner: its thread. xorshift64*; 0: not seeded. */
static __thread uint64_t own_random __attribute__((tls_model("initial-exec")));

double
conprof_heap_draw(void)
{
    if (own_random == 0) {
        own_random =
            (conprof_monotonic_ns() ^ (uintptr_t)&own_random << 16 ^ (uint64_t)getpid() << 40) *
                UINT64_C(0x9E3779B97F4A7C15) |
            1;
    }
    own_random ^= own_random >> 12;
    own_random ^= own_random << 25;
    own_random ^= own_random >> 27;
    return (double)((own_random * UINT64_C(0x2545F4914F6CDD1D) >> 11) + 1) * 0x1p-53;
}

/* Whose allocation it is. */
struct caller {
    enum conprof_hold hold;
    uintptr_t state; /* where it lies; a copy is in the scratch */
    struct conprof_marks marks;
};

/* Lock held. Is it a thread of another interpreter than the sampled one? */
static bool
is_foreign(const struct caller *caller)
{
    return caller->hold != CONPROF_HOLD_NONE && scratch.state.interp != conprof_sampler.interpreter;
}

/* Lock held. Finds the caller's state and marks. Not inlined, as walk. */
static __attribute__((noinline)) void
look_at_caller(struct caller *caller)
{
    caller->hold = conprof_state_own(&scratch.state, &caller->state);
    if (caller->hold == CONPROF_HOLD_NONE || is_foreign(caller)) {
        caller->marks = conprof_marks_none();
    }
    else if (caller->hold == CONPROF_HOLD_ATTACHED) {
        caller->marks = conprof_capture_marks(&scratch.state);
    }
    else {
        caller->marks = conprof_capture_far_marks(&scratch.state);
    }
}

/* Lock held. Where the calling thread stands: how many words conprof_capture_put writes of the
 * scratch's stack, or 0 and one synthetic word in `word`. Without the GIL, as RAW's callers may be,
 * nothing of its state is dereferenced. Not inlined, as nothing of ours needs more stack. */
static __attribute__((noinline)) uint32_t
walk(const struct caller *caller, uint64_t *word)
{
    /* The drain knows the thread's name. */
    *word = conprof_frame_word(CONPROF_UID_NATIVE, 0);
    if (caller->hold == CONPROF_HOLD_NONE) {
        return 0;
    }
    if (is_foreign(caller)) {
        *word = conprof_frame_word(CONPROF_UID_SUBINTERPRETER, 0);
        return 0;
    }
    enum conprof_walk result =
        caller->hold == CONPROF_HOLD_ATTACHED
            ? conprof_unwind_caller((const PyThreadState *)caller->state, &scratch.stack)
            : conprof_far_walk(&scratch.far, &scratch.state, caller->state, &scratch.stack);
    if (result == CONPROF_WALK_EMPTY) {
        return 0;
    }
    int frames = result == CONPROF_WALK_OK ? conprof_capture_translate(&scratch.stack) : -1;
    if (frames > 0) {
        return (uint32_t)frames;
    }
    *word = conprof_frame_word(CONPROF_UID_UNWALKABLE, 0);
    return 0;
}

/* Enters the block, unless it drops out because the mean has grown since its point was
 * drawn; `mean` is that of the draw, then that of the sample. A subinterpreter's blocks are not
 * followed: its arenas vanish as a whole. */
static bool
follow(uintptr_t address, size_t bytes, bool is_followed, double *mean, uint32_t *block)
{
    double drawn = *mean, chance = conprof_heap_draw();
    bool is_kept = true;
    *block = CONPROF_HEAP_NO_BLOCK;
    conprof_heap_lock();
    double now = (double)atomic_load_explicit(&conprof_heap.mean, memory_order_relaxed);
    if (now > drawn) {
        is_kept =
            chance * conprof_heap_probability(bytes, drawn) <= conprof_heap_probability(bytes, now);
        drawn = now;
    }
    if (is_kept && is_followed) {
        *block = conprof_heap_table_add(address, bytes, drawn);
    }
    conprof_heap_unlock();
    *mean = drawn;
    if (is_kept && is_followed && *block == CONPROF_HEAP_NO_BLOCK) {
        atomic_fetch_add_explicit(&conprof_heap.refused, 1, memory_order_relaxed);
    }
    return is_kept;
}

/* Lock held. Puts the sample into the ring, with the walked stack, or `word` if that has no frames;
 * false when it has no room. */
static __attribute__((noinline)) bool
put(const struct caller *caller, uint32_t frames, uint64_t word, uintptr_t address, size_t bytes,
    double mean)
{
    const struct conprof_marks *marks = &caller->marks;
    bool is_main = !is_foreign(caller);
    struct conprof_ring_slot slot;
    if (!conprof_ring_reserve(&conprof_sampler.ring,
                              1 + CONPROF_ALLOC_FRAMES + (frames > 0 ? frames : 1) +
                                  conprof_capture_trace_words(&marks->trace),
                              &slot)) {
        return false;
    }
    uint32_t block;
    if (!follow(address, bytes, is_main, &mean, &block)) {
        conprof_ring_publish(&slot, CONPROF_RECORD_PAD);
        return true;
    }
    bool is_paused = atomic_load_explicit(&conprof_sampler.is_paused, memory_order_relaxed);
    conprof_ring_put(&slot, 1 + CONPROF_ALLOC_BLOCK, block);
    conprof_ring_put(&slot, 1 + CONPROF_ALLOC_CELL, marks->cell_id);
    conprof_ring_put(&slot, 1 + CONPROF_ALLOC_RECORD, (uint64_t)(uintptr_t)marks->record);
    conprof_ring_put(&slot, 1 + CONPROF_ALLOC_THREAD,
                     (uint64_t)conprof_own_tid() << CONPROF_ALLOC_TID_SHIFT |
                         (caller->hold == CONPROF_HOLD_DETACHED ? CONPROF_ALLOC_IS_UNSURE : 0) |
                         (is_paused ? CONPROF_ALLOC_IS_PAUSED : 0));
    conprof_ring_put(&slot, 1 + CONPROF_ALLOC_BYTES, bytes);
    conprof_ring_put(&slot, 1 + CONPROF_ALLOC_MEAN, (uint64_t)mean);
    if (frames > 0) {
        conprof_capture_put(&slot, 1 + CONPROF_ALLOC_FRAMES, &scratch.stack);
    }
    else {
        conprof_ring_put(&slot, 1 + CONPROF_ALLOC_FRAMES, word);
    }
    conprof_capture_publish(&slot, CONPROF_RECORD_ALLOC, &marks->trace);
    atomic_fetch_add_explicit(&conprof_heap.samples, 1, memory_order_relaxed);
    return true;
}

/* Gives the drain a moment when the ring is nearly full: memory is allocated faster than it gets a
 * turn. It wants neither GIL nor our lock. Twice in a row without any success nobody waits, and by
 * a raw call, as libc's is a point of cancellation. */
static void
wait_for_drain(void)
{
    static _Atomic uint64_t in_vain_at = UINT64_MAX; /* written by: hooks */
    const struct timespec pause = {.tv_nsec = WAIT_STEP_NS};
    struct conprof_ring *ring = &conprof_sampler.ring;
    uint64_t consumed = atomic_load(&ring->consumed);
    if (atomic_load(&in_vain_at) == consumed) {
        return;
    }
    conprof_sampler_call_drain();
    for (int i = 0; i < WAIT_STEPS; i++) {
        syscall(SYS_nanosleep, &pause, NULL);
        if (conprof_ring_fill(ring) < NEARLY_FULL) {
            return;
        }
    }
    atomic_store(&in_vain_at, consumed);
}

void
conprof_heap_sample(uintptr_t address, size_t bytes, double mean)
{
    struct caller caller;
    uint64_t word;
    if (conprof_ring_fill(&conprof_sampler.ring) > NEARLY_FULL) {
        wait_for_drain();
    }
    pthread_mutex_lock(&lock);
    look_at_caller(&caller);
    uint32_t frames = walk(&caller, &word);
    bool has_room = put(&caller, frames, word, address, bytes, mean);
    pthread_mutex_unlock(&lock);
    if (!has_room) {
        /* To drain here would take many times the stack and the time that an allocation may. */
        atomic_fetch_add_explicit(&conprof_heap.lost, 1, memory_order_relaxed);
    }
    if (conprof_ring_fill(&conprof_sampler.ring) > CONPROF_CALL_DRAIN_AT ||
        conprof_heap_table_used() > CONPROF_HEAP_MAX_BLOCKS / 8 * 7 ||
        conprof_monotonic_ns() >
            atomic_load_explicit(&conprof_heap.look_ns, memory_order_relaxed)) {
        conprof_sampler_call_drain();
    }
}

void
conprof_heap_sample_prefork(void)
{
    pthread_mutex_lock(&lock);
}

void
conprof_heap_sample_postfork(void)
{
    pthread_mutex_unlock(&lock);
}
