/* heap.c: the session's side of heap.h. */
#include "heap.h"

#include <math.h>
#include <string.h>
#include <sys/types.h>

#include "clock.h"
#include "code_registry.h"
#include "hash.h"
#include "heap_hooks.h"
#include "heap_stacks.h"
#include "heap_table.h"
#include "lock.h"
#include "sampler.h"

/* The floor of the mean doubles when more blocks than this are taken. */
#define THIN_AT (CONPROF_HEAP_MAX_BLOCKS / 8 * 7)

struct conprof_heap conprof_heap;

/* owner: holder of the session lock */
static struct conprof_heap_pace pace;
static uint64_t random_state = 1;
static uint32_t window_number;
static uint32_t old_windows; /* 0: age is not told */

double
conprof_heap_probability(size_t bytes, double mean)
{
    return -expm1(-(double)bytes / mean);
}

/* Evenly from [0, 1). */
static double
draw(void)
{
    random_state = conprof_hash_word(random_state, UINT64_C(0xD1B54A32D192ED03)) + 1;
    return (double)(random_state >> 11) * 0x1p-53;
}

/* A whole number whose mean is `value`: `chance` is even in [0, 1). */
static uint64_t
to_whole(double value, double chance)
{
    return (uint64_t)(value + chance);
}

void
conprof_heap_check(void)
{
    if (!atomic_load(&conprof_heap.is_on) || conprof_heap_hooks_are_reached()) {
        return;
    }
    atomic_fetch_add(&conprof_heap.detached, 1);
    if (conprof_heap_hooks_install() != NULL) {
        atomic_store(&conprof_heap.is_on, false);
    }
    conprof_lock();
    conprof_heap_clear();
    conprof_unlock();
}

void
conprof_heap_reset_counters(void)
{
    atomic_store(&conprof_heap.samples, 0);
    atomic_store(&conprof_heap.refused, 0);
    atomic_store(&conprof_heap.lost, 0);
    atomic_store(&conprof_heap.detached, 0);
    atomic_store(&conprof_heap.stacks_refused, 0);
}

/* Both locks held. */
static void
publish_pace(void)
{
    atomic_store(&conprof_heap.mean, pace.mean);
    atomic_store(&conprof_heap.look_ns, conprof_heap_pace_look_ns(&pace));
}

const char *
conprof_heap_start(uint64_t mean, uint32_t rate, uint32_t windows)
{
    if (!conprof_heap_table_init()) {
        return "there is no memory for its table";
    }
    conprof_lock();
    old_windows = windows;
    conprof_heap_pace_begin(&pace, mean, rate, conprof_monotonic_ns());
    conprof_heap_lock();
    publish_pace();
    conprof_heap_unlock();
    conprof_unlock();
    const char *failed = conprof_heap_hooks_install();
    atomic_store(&conprof_heap.is_on, failed == NULL);
    return failed;
}

void
conprof_heap_stop(void)
{
    if (atomic_exchange(&conprof_heap.is_on, false)) {
        conprof_heap_hooks_remove();
    }
}

/* Session lock held. */
static void
let_go(struct conprof_heap_block *block)
{
    if (block->is_known && block->record != NULL) {
        conprof_heap_stacks_release(block->stack);
        conprof_labels_release(block->record);
    }
    block->is_known = false;
    block->record = NULL;
}

/* Session lock held. Notes where a block came from, of which `row` tells, too, if the sample
 * was charged to one. */
static void
know(struct conprof_heap_block *block, const struct conprof_window *window,
     const struct conprof_row *row, const uint64_t *frames, uint32_t n)
{
    block->window = window_number;
    block->is_known = true;
    /* Most blocks have died by now, and have no more to tell. */
    if (atomic_load_explicit(&block->address, memory_order_relaxed) != 0) {
        block->stack = conprof_heap_stacks_intern(window, row, frames, n);
        conprof_labels_acquire(block->record);
    }
    else {
        block->record = NULL;
    }
}

void
conprof_heap_add(struct conprof_window *window, const uint64_t *words, uint32_t n,
                 const struct conprof_trace *trace)
{
    if (n <= CONPROF_ALLOC_FRAMES) {
        return;
    }
    struct conprof_marks marks = {
        .record = (struct conprof_label_record *)(uintptr_t)words[CONPROF_ALLOC_RECORD],
        .cell_id = words[CONPROF_ALLOC_CELL],
        .trace = *trace};
    if (words[CONPROF_ALLOC_THREAD] & CONPROF_ALLOC_IS_UNSURE &&
        !conprof_labels_is_known(marks.record)) {
        marks.record = conprof_labels_empty();
    }
    const struct conprof_thread *thread =
        conprof_threads_find((pid_t)(words[CONPROF_ALLOC_THREAD] >> CONPROF_ALLOC_TID_SHIFT));
    uint32_t name_id = thread == NULL ? 0 : thread->name_id;
    const uint64_t *frames = words + CONPROF_ALLOC_FRAMES;
    uint64_t native = conprof_frame_word(CONPROF_UID_NATIVE, name_id);
    n -= CONPROF_ALLOC_FRAMES;
    if (n == 1 && frames[0] >> CONPROF_FRAME_INSTRUCTION_BITS == CONPROF_UID_NATIVE) {
        frames = &native;
    }
    size_t bytes = words[CONPROF_ALLOC_BYTES];
    struct conprof_row *row = NULL;
    if ((words[CONPROF_ALLOC_THREAD] & CONPROF_ALLOC_IS_PAUSED) == 0) {
        double stands_for = 1 / conprof_heap_probability(bytes, (double)words[CONPROF_ALLOC_MEAN]);
        row = conprof_window_row(window, frames, n, &marks, name_id);
        conprof_window_charge(window, row, CONPROF_COLUMN_ALLOC_OBJECTS,
                              to_whole(stands_for, draw()));
        conprof_window_charge(window, row, CONPROF_COLUMN_ALLOC_BYTES,
                              to_whole(stands_for * (double)bytes, draw()));
    }
    if (words[CONPROF_ALLOC_BLOCK] < CONPROF_HEAP_MAX_BLOCKS) {
        struct conprof_heap_block *block =
            conprof_heap_block_at((uint32_t)words[CONPROF_ALLOC_BLOCK]);
        block->record = marks.record;
        block->cell_id = marks.cell_id;
        block->name_id = (uint16_t)name_id;
        know(block, window, row, frames, n);
    }
}

/* Both locks held. Has a block no longer followed. */
static void
drop(uint32_t index)
{
    uintptr_t address =
        atomic_load_explicit(&conprof_heap_block_at(index)->address, memory_order_relaxed);
    /* One that a hook holds in its hands, between detach and attach, is not in the table. */
    if (address != 0 && conprof_heap_table_detach(address) == index) {
        conprof_heap_table_release(index);
    }
}

/* Session lock held. Doubles the floor of the mean; blocks that it would not have sampled are
 * followed no more. How many these are. */
static uint32_t
thin(void)
{
    uint32_t dropped = 0;
    conprof_heap_lock();
    conprof_heap_pace_double(&pace);
    for (uint32_t i = 0; i < conprof_heap_table_top(); i++) {
        struct conprof_heap_block *block = conprof_heap_block_at(i);
        double mean = block->mean, floor = (double)pace.floor;
        if (mean >= floor) {
            continue;
        }
        if (draw() * conprof_heap_probability(block->bytes, mean) <
            conprof_heap_probability(block->bytes, floor)) {
            block->mean = (float)floor;
        }
        else {
            drop(i);
            dropped++;
        }
    }
    publish_pace();
    conprof_heap_unlock();
    return dropped;
}

/* Session lock held. */
static void
recycle_released(void)
{
    conprof_heap_lock();
    uint32_t at = conprof_heap_table_take_released();
    conprof_heap_unlock();
    uint32_t kept = CONPROF_HEAP_NO_BLOCK, done = CONPROF_HEAP_NO_BLOCK;
    while (at != CONPROF_HEAP_NO_BLOCK) {
        struct conprof_heap_block *block = conprof_heap_block_at(at);
        uint32_t next = block->next;
        /* Its sample may stand in the ring behind one that is not published yet. */
        uint32_t *list = block->is_known ? &done : &kept;
        let_go(block);
        block->next = *list;
        *list = at;
        at = next;
    }
    conprof_heap_lock();
    for (uint32_t next; done != CONPROF_HEAP_NO_BLOCK; done = next) {
        next = conprof_heap_block_at(done)->next;
        conprof_heap_table_recycle(done);
    }
    for (uint32_t next; kept != CONPROF_HEAP_NO_BLOCK; kept = next) {
        next = conprof_heap_block_at(kept)->next;
        conprof_heap_table_release(kept);
    }
    conprof_heap_unlock();
}

void
conprof_heap_settle(void)
{
    if (conprof_heap_table_top() == 0) {
        return;
    }
    recycle_released();
    if (!atomic_load(&conprof_heap.is_on)) {
        return;
    }
    conprof_heap_pace_step(&pace, atomic_load(&conprof_heap.samples), conprof_monotonic_ns());
    conprof_heap_lock();
    publish_pace();
    conprof_heap_unlock();
    while (conprof_heap_table_used() > THIN_AT && pace.floor < CONPROF_HEAP_MAX_MEAN) {
        uint32_t before = conprof_heap_table_used(), dropped = thin();
        recycle_released();
        if (dropped > 0 && conprof_heap_table_used() == before) {
            break; /* their samples stand in the ring */
        }
    }
}

/* The label sets of old blocks, remembered while one window is filled: most blocks share few. */
#define AGED_SLOTS 64u
struct aged {
    const struct conprof_label_record *of;
    struct conprof_label_record *record; /* counted, or NULL: there is no room for it */
};

/* Session lock held. The labels of an old block: its own, and its age where there is room. */
static struct conprof_label_record *
aged_record(struct aged *memory, struct conprof_label_record *record)
{
    static const struct conprof_label old = {"heap.age", "old", 8, 3};
    struct aged *slot = &memory[conprof_hash_word(0, (uintptr_t)record) % AGED_SLOTS];
    if (slot->of != record) {
        if (slot->record != NULL) {
            conprof_labels_release(slot->record);
        }
        *slot = (struct aged){record, conprof_labels_extend(record, &old)};
    }
    return slot->record == NULL ? record : slot->record;
}

void
conprof_heap_charge_live(struct conprof_window *window, bool ends_period)
{
    /* owner: holder of the session lock, who may be a thread of the application's */
    static struct aged memory[AGED_SLOTS];
    memset(memory, 0, sizeof memory);
    uint32_t number = window_number + 1;
    if (ends_period) {
        window_number = number;
    }
    for (uint32_t i = 0; i < conprof_heap_table_top(); i++) {
        struct conprof_heap_block *block = conprof_heap_block_at(i);
        uintptr_t address = atomic_load_explicit(&block->address, memory_order_relaxed);
        if (address == 0 || !block->is_known || block->stack == NULL) {
            continue;
        }
        struct conprof_label_record *bound =
            block->cell_id == 0 ? NULL : conprof_labels_binding(block->cell_id);
        if (bound != NULL) {
            conprof_labels_acquire(bound);
            conprof_labels_release(block->record);
            block->record = bound;
            block->cell_id = 0;
        }
        bool is_old = old_windows > 0 && number - block->window > old_windows;
        struct conprof_row *row =
            conprof_window_row_at(window, block->stack->locations, block->stack->length,
                                  is_old ? aged_record(memory, block->record) : block->record,
                                  block->name_id, &(struct conprof_trace){0});
        double stands_for = 1 / conprof_heap_probability(block->bytes, block->mean);
        /* The same in every window, so that a difference of two shows no rounding. */
        double chance = (double)(conprof_hash_word(i, address) >> 11) * 0x1p-53;
        conprof_window_charge(window, row, CONPROF_COLUMN_INUSE_OBJECTS,
                              to_whole(stands_for, chance));
        conprof_window_charge(window, row, CONPROF_COLUMN_INUSE_BYTES,
                              to_whole(stands_for * (double)block->bytes, chance));
    }
    for (uint32_t i = 0; i < AGED_SLOTS; i++) {
        if (memory[i].record != NULL) {
            conprof_labels_release(memory[i].record);
        }
    }
}

void
conprof_heap_clear(void)
{
    conprof_heap_lock();
    for (uint32_t i = 0; i < conprof_heap_table_top(); i++) {
        drop(i);
    }
    conprof_heap_unlock();
    recycle_released();
}

void
conprof_heap_forget(void)
{
    conprof_heap_stop();
    for (uint32_t i = 0; i < conprof_heap_table_top(); i++) {
        let_go(conprof_heap_block_at(i));
    }
    conprof_heap_lock();
    conprof_heap_table_reset();
    conprof_heap_unlock();
    window_number = 0;
}
