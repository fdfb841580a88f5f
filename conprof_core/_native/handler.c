/* handler.c: everything that runs in signal context.
 *
 * CONTRACT. The handler interrupts a thread between any two instructions, with or
 * without the GIL, maybe inside malloc. Therefore every function reachable from
 * on_timer()
 *   - takes no lock, allocates nothing, waits for nothing;
 *   - calls no Python API that changes anything: no reference count, no exception;
 *   - calls no libc function that is not async-signal-safe (clock_gettime,
 *     timer_settime, syscall and memcpy are);
 *   - reads only memory that cannot vanish (its own slot, ring, registry, the
 *     thread's own data-stack chunks and current context) or goes through
 *     conprof_safe_read;
 *   - does a bounded amount of work, and uses CONPROF_HANDLER_STACK_BYTES of stack at most:
 *     where less is left it does nothing but count that, and the weight is carried;
 *   - leaves errno as it was.
 * These functions, and those of capture, ring, code_registry, unwind, context and safemem
 * that are marked SIGNAL-SAFE in their headers, are all there is.
 *
 * Weight. A sample carries the CPU time since the thread's previous sample. If it
 * cannot be emitted, nothing is, and last_cpu_ns stays: the weight is carried to the
 * next one. So the sum over all samples is the CPU time, whatever is lost.
 */
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "capture.h"
#include "code_registry.h"
#include "rouse.h"
#include "sampler.h"
#include "signals.h"
#include "stack_room.h"
#include "state.h"

struct conprof_sampler conprof_sampler;

/* SIGNAL-SAFE. */
static inline void
count(_Atomic uint64_t *counter, uint64_t by)
{
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

void
conprof_sampler_call_drain(void)
{
    if (atomic_load_explicit(&conprof_sampler.drain_tid, memory_order_relaxed) != 0 &&
        !atomic_exchange(&conprof_sampler.drain_is_called, true)) {
        conprof_rouse();
    }
}

/* What a sample consists of before it is written. */
struct draft {
    uint64_t cpu_ns;
    struct conprof_marks marks;
    uint64_t loop;
    uint32_t name_id;
    uint32_t events;
    uint32_t flags; /* CONPROF_IS_RESIDUE, CONPROF_IS_UNSURE */
};

/* SIGNAL-SAFE. Writes the words before the frames; false when the ring is full. */
static bool
begin(const struct draft *draft, uint32_t frames, struct conprof_ring_slot *slot)
{
    uint32_t words =
        1 + CONPROF_SAMPLE_FRAMES + frames + conprof_capture_trace_words(&draft->marks.trace);
    if (!conprof_ring_reserve(&conprof_sampler.ring, words, slot)) {
        count(&conprof_sampler.counters.carried_full, 1);
        conprof_sampler_call_drain();
        return false;
    }
    conprof_ring_put(slot, 1 + CONPROF_SAMPLE_CPU_NS, draft->cpu_ns);
    conprof_ring_put(slot, 1 + CONPROF_SAMPLE_CELL, draft->marks.cell_id);
    conprof_ring_put(slot, 1 + CONPROF_SAMPLE_RECORD, (uint64_t)(uintptr_t)draft->marks.record);
    conprof_ring_put(slot, 1 + CONPROF_SAMPLE_NAME,
                     (uint64_t)draft->name_id << 32 | draft->flags | draft->events);
    conprof_ring_put(slot, 1 + CONPROF_SAMPLE_LOOP, draft->loop);
    return true;
}

/* SIGNAL-SAFE. False when the record was given up: we were too slow, and carry the weight. */
static bool
end(const struct draft *draft, const struct conprof_ring_slot *slot)
{
    if (!conprof_capture_publish(slot, CONPROF_RECORD_SAMPLE, &draft->marks.trace)) {
        return false;
    }
    count(&conprof_sampler.counters.samples, draft->events);
    count(&conprof_sampler.counters.accounted_ns, draft->cpu_ns);
    if (conprof_ring_fill(&conprof_sampler.ring) > CONPROF_CALL_DRAIN_AT) {
        conprof_sampler_call_drain();
    }
    return true;
}

/* SIGNAL-SAFE. Emits a sample whose stack is one synthetic frame. */
static bool
emit_one(const struct draft *draft, uint64_t frame)
{
    struct conprof_ring_slot slot;
    if (!begin(draft, 1, &slot)) {
        return false;
    }
    conprof_ring_put(&slot, 1 + CONPROF_SAMPLE_FRAMES, frame);
    return end(draft, &slot);
}

/* SIGNAL-SAFE. Emits the walked stack. */
static bool
emit_stack(const struct draft *draft, struct conprof_stack *stack)
{
    int frames = conprof_capture_translate(stack);
    if (frames < 0) {
        count(&conprof_sampler.counters.carried_stale, 1);
        return false;
    }
    struct conprof_ring_slot slot;
    if (!begin(draft, (uint32_t)frames, &slot)) {
        return false;
    }
    conprof_capture_put(&slot, 1 + CONPROF_SAMPLE_FRAMES, stack);
    count(&conprof_sampler.counters.truncated, stack->is_truncated ? 1 : 0);
    return end(draft, &slot);
}

/* SIGNAL-SAFE. The stack of a thread that runs no Python code now: what it was
 * started for, where that is known. */
static uint64_t
idle_frame(const struct conprof_thread *thread)
{
    return thread->target_uid != 0 ? conprof_frame_word(thread->target_uid, 0)
                                   : conprof_frame_word(CONPROF_UID_NATIVE, thread->name_id);
}

/* SIGNAL-SAFE. Whose state is in the scratch of `thread`, which the calling thread owns; `at`:
 * where it lies. The draft gets its marks. */
static enum conprof_hold
look_at_state(struct conprof_thread *thread, struct draft *draft, uintptr_t *at)
{
    PyThreadState *state = &thread->scratch->state;
    enum conprof_hold hold = conprof_state_own(state, at);
    if (hold == CONPROF_HOLD_NONE || state->interp != conprof_sampler.interpreter) {
        return hold;
    }
    if (hold == CONPROF_HOLD_ATTACHED) {
        draft->marks = conprof_capture_marks(state);
    }
    else {
        draft->marks = conprof_capture_far_marks(state);
        draft->flags |= CONPROF_IS_UNSURE;
    }
    return hold;
}

/* SIGNAL-SAFE. Samples the calling thread, which owns `thread`. True when the
 * weight was emitted. `interrupted` is the stack pointer of its live C frames. */
static bool
sample(struct conprof_thread *thread, uint64_t cpu_ns, uint32_t events, uintptr_t interrupted)
{
    struct draft draft = {.cpu_ns = cpu_ns,
                          .marks = conprof_marks_none(),
                          .name_id = thread->name_id,
                          .events = events};
    struct conprof_scratch *scratch = thread->scratch;
    uintptr_t at;
    enum conprof_hold hold = look_at_state(thread, &draft, &at);
    if (hold == CONPROF_HOLD_NONE) {
        count(&conprof_sampler.counters.native, 1);
        return emit_one(&draft, idle_frame(thread));
    }
    if (scratch->state.interp != conprof_sampler.interpreter) {
        count(&conprof_sampler.counters.subinterpreter, 1);
        return emit_one(&draft, conprof_frame_word(CONPROF_UID_SUBINTERPRETER, 0));
    }
    uint32_t loop = atomic_load_explicit(&thread->loop, memory_order_relaxed);
    draft.loop = loop == 0 ? 0 : scratch->state.context_ver << CONPROF_LOOP_BITS | loop;
    /* On an alternate signal stack, or one that a library made, nothing is known of the stack. */
    bool is_own = interrupted >= thread->stack_low && interrupted < thread->stack_high;
    switch (conprof_scratch_walk(scratch, at, hold == CONPROF_HOLD_ATTACHED, interrupted,
                                 is_own ? thread->stack_high : interrupted)) {
    case CONPROF_WALK_EMPTY:
        return emit_one(&draft, idle_frame(thread));
    case CONPROF_WALK_OK:
        if (emit_stack(&draft, &scratch->stack)) {
            thread->failures = 0;
            return true;
        }
        break;
    case CONPROF_WALK_STALE:
        count(&conprof_sampler.counters.carried_stale, 1);
        break;
    }
    if (++thread->failures < CONPROF_MAX_FAILURES) {
        return false;
    }
    thread->failures = 0;
    count(&conprof_sampler.counters.unwalkable, 1);
    return emit_one(&draft, conprof_frame_word(CONPROF_UID_UNWALKABLE, 0));
}

/* SIGNAL-SAFE. Emits CPU time up to `until` of a thread that no signal could reach: where it was
 * used nobody knows, and it is not charged to where the thread stands by now. */
static void
take_unreached(struct conprof_thread *thread, uint64_t until)
{
    uint64_t last = atomic_load_explicit(&thread->last_cpu_ns, memory_order_relaxed);
    struct draft draft = {
        .cpu_ns = until - last, .marks = conprof_marks_none(), .name_id = thread->name_id};
    if (until > last && emit_one(&draft, conprof_frame_word(CONPROF_UID_UNSAMPLED, 0))) {
        atomic_store_explicit(&thread->last_cpu_ns, until, memory_order_relaxed);
    }
}

/* SIGNAL-SAFE. How much of a thread's CPU time up to `now` was used while no signal reached it.
 * `is_rest`: it is told without a signal, at the end of something, and can be no more than what a
 * timer leaves, unless signals came to be blocked a moment ago or walks have failed. */
static uint64_t
unreached(const struct conprof_thread *thread, uint64_t now, bool is_rest)
{
    uint64_t last = atomic_load_explicit(&thread->last_cpu_ns, memory_order_relaxed);
    uint64_t until = atomic_load_explicit(&thread->unreached_ns, memory_order_relaxed);
    uint64_t longest =
        conprof_threads_longest_residue_ns() + CONPROF_LEAST_WORK * thread->handler_ns;
    if (is_rest && now > last && now - last > longest) {
        return now;
    }
    return until < now ? until : now;
}

/* SIGNAL-SAFE. Samples or discards the CPU time from the last sample to `now`; false when that is
 * so little that it is left for the next time. */
static bool
take(struct conprof_thread *thread, uint64_t now, uint32_t events, uintptr_t interrupted)
{
    if (!atomic_load_explicit(&conprof_sampler.is_paused, memory_order_relaxed)) {
        take_unreached(thread, unreached(thread, now, events == 0));
    }
    uint64_t last = atomic_load_explicit(&thread->last_cpu_ns, memory_order_relaxed);
    if (now <= last) {
        return false;
    }
    if (events != 0 && now - last < CONPROF_LEAST_WORK * thread->handler_ns) {
        count(&conprof_sampler.counters.carried_dear, 1);
        return false;
    }
    bool is_done = true;
    if (atomic_load_explicit(&conprof_sampler.is_paused, memory_order_relaxed)) {
        count(&conprof_sampler.counters.accounted_ns, now - last);
    }
    else {
        is_done = sample(thread, now - last, events, interrupted);
    }
    if (is_done) {
        atomic_store_explicit(&thread->last_cpu_ns, now, memory_order_relaxed);
    }
    return true;
}

/* SIGNAL-SAFE. A timer of the drain's or of the self-test's. */
static void
note(uint32_t index, const siginfo_t *info)
{
    if (index == CONPROF_TIMER_TEST) {
        atomic_store(&conprof_sampler.tested_timer, info->si_timerid);
    }
    else {
        conprof_rouse(); /* we are the drain, and CPU was used */
    }
}

/* SIGNAL-SAFE. Notes that the handler runs in this thread, and counts it. Sequentially consistent
 * with stop(): it clears is_active, then waits for in_handler to be 0. A run before that never
 * ended (abandoned.h) has been counted already. */
static void
enter(struct conprof_thread *thread)
{
    uint32_t run = thread->runs + 1;
    thread->runs = run == 0 ? 1 : run;
    if (atomic_exchange(&thread->inside, thread->runs) == 0) {
        atomic_fetch_add(&conprof_sampler.in_handler, 1);
    }
}

/* SIGNAL-SAFE. */
static void
leave(struct conprof_thread *thread)
{
    if (atomic_exchange(&thread->inside, 0) != 0) {
        atomic_fetch_sub(&conprof_sampler.in_handler, 1);
    }
}

/* Signal context. See the contract on top. Not inlined: the caller has looked at the room for it.
 */
static __attribute__((noinline)) void
handle(int number, siginfo_t *info, void *context)
{
    uint32_t index =
        info->si_code == SI_TIMER ? conprof_timer_index(info->si_value.sival_ptr) : CONPROF_TIMERS;
    if (index == CONPROF_TIMERS) {
        count(&conprof_sampler.counters.foreign, 1);
        conprof_signals_pass_on(number, info, context); /* may not return */
        return;
    }
    int saved_errno = errno;
    struct conprof_thread *thread =
        index < CONPROF_MAX_THREADS ? conprof_threads_own(index, info) : NULL;
    if (index >= CONPROF_MAX_THREADS) {
        note(index, info);
    }
    else if (thread != NULL) {
        enter(thread);
        if (atomic_load(&conprof_sampler.is_active)) {
            uint64_t began = conprof_cpu_own_ns();
            count(&conprof_sampler.counters.signals, 1);
            count(&conprof_sampler.counters.overruns, (uint64_t)info->si_overrun);
            bool is_taken = false;
            if (conprof_is_room_on_own_stack(thread->stack_low, thread->stack_high)) {
                is_taken = take(thread, began, 1, conprof_interrupted_stack(context));
            }
            else {
                count(&conprof_sampler.counters.no_room, 1);
            }
            conprof_threads_jitter(thread);
            uint64_t took = conprof_cpu_own_ns() - began;
            count(&conprof_sampler.counters.handler_ns, took);
            if (is_taken) {
                thread->handler_ns = took;
            }
        }
        leave(thread);
    }
    errno = saved_errno;
}

/* Signal context. Needs no more stack than an empty handler. What is carried is more than a timer
 * leaves, so whoever takes the rest of the thread (unreached) does not charge it to where that
 * stands by then. */
static void
on_timer(int number, siginfo_t *info, void *context)
{
    if (info->si_code == SI_TIMER && !conprof_is_room_on_signal_stack(context)) {
        count(&conprof_sampler.counters.no_room, 1);
        return;
    }
    handle(number, info, context);
}

void
conprof_sampler_take_residue(struct conprof_thread *thread)
{
    take(thread, conprof_cpu_own_ns(), 0, (uintptr_t)__builtin_frame_address(0));
}

void
conprof_sampler_take_unreached(struct conprof_thread *thread)
{
    if (!atomic_load_explicit(&conprof_sampler.is_paused, memory_order_relaxed)) {
        take_unreached(thread, unreached(thread, conprof_cpu_of_ns(thread->tid), false));
    }
}

void
conprof_sampler_take_labelled_residue(struct conprof_thread *thread)
{
    uint64_t last = atomic_load_explicit(&thread->last_cpu_ns, memory_order_relaxed);
    uint64_t now = conprof_cpu_own_ns();
    if (atomic_load_explicit(&conprof_sampler.is_paused, memory_order_relaxed)) {
        conprof_sampler_take_residue(thread); /* which discards it */
        return;
    }
    struct draft draft = {.cpu_ns = now - last,
                          .marks = conprof_marks_none(),
                          .name_id = thread->name_id,
                          .events = 0,
                          .flags = CONPROF_IS_RESIDUE};
    uintptr_t at;
    if (now <= last || look_at_state(thread, &draft, &at) == CONPROF_HOLD_NONE ||
        thread->scratch->state.interp != conprof_sampler.interpreter) {
        return;
    }
    /* It will be spread over samples of the same labels, whosever trace they have; unless it has
     * none for as long as that. */
    draft.marks.trace.span = 0;
    uint64_t frame = idle_frame(thread);
    if (unreached(thread, now, true) > last) {
        draft.flags &= ~CONPROF_IS_RESIDUE;
        frame = conprof_frame_word(CONPROF_UID_UNSAMPLED, 0);
    }
    if (emit_one(&draft, frame)) {
        atomic_store_explicit(&thread->last_cpu_ns, now, memory_order_relaxed);
    }
}

void
conprof_sampler_emit(uint64_t frame, uint32_t name_id, uint64_t cpu_ns)
{
    struct draft draft = {
        .cpu_ns = cpu_ns, .marks = conprof_marks_none(), .name_id = name_id, .events = 0};
    emit_one(&draft, frame);
}

bool
conprof_sampler_is_installed(void)
{
    return conprof_signals_is_installed(conprof_sampler.signal_number, on_timer);
}

int
conprof_sampler_install(void)
{
    int number = conprof_signals_install(on_timer);
    if (number > 0) {
        conprof_sampler.signal_number = number;
    }
    return number;
}
