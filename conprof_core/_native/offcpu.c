/* offcpu.c: see offcpu.h. */
#include "offcpu.h"

#include "blocked.h"
#include "capture.h"
#include "clock.h"
#include "code_registry.h"
#include "drain.h"
#include "remote.h"
#include "sampler.h"
#include "wait_place.h"
#include "wait_state.h"

/* What could not be placed stays with the thread for the next window, up to this. */
#define MAX_CARRY_NS 100000000

/* How long it may stay open where a thread stands that could run and has no CPU. */
#define MAX_UNSURE_NS 500000000

/* owner: holder of the session lock */
static uint64_t period_ns; /* 0: off */
static PyInterpreterState *interpreter;
static uintptr_t gil;
static uint64_t next_look_ns, next_peek_ns = UINT64_MAX;
static uint64_t random_state = 0x9E3779B97F4A7C15;
static uint32_t cursor, captures_left;
static bool has_movement;          /* a thread has run since the round of looks before this one */
static uint64_t window_serial = 1; /* rows are remembered by number, valid in one window */
static struct conprof_offcpu_counters counters;
static struct conprof_remote remote; /* scratch */
static uint64_t words[CONPROF_MAX_FRAMES + 1];

void
conprof_offcpu_configure(uint32_t rate_hz, PyInterpreterState *of)
{
    period_ns = rate_hz == 0 ? 0 : 1000000000u / rate_hz;
    interpreter = of;
    gil = rate_hz == 0 ? 0 : conprof_gil_address(of);
    next_look_ns = conprof_monotonic_ns() + period_ns;
    next_peek_ns = UINT64_MAX;
    cursor = 0;
    captures_left = CONPROF_LOOK_CAPTURES;
    counters = (struct conprof_offcpu_counters){0};
    window_serial++;
}

bool
conprof_offcpu_is_on(void)
{
    return period_ns != 0;
}

uint64_t
conprof_offcpu_wait_ns(uint64_t now_ns)
{
    if (period_ns == 0) {
        return UINT64_MAX;
    }
    uint64_t next = next_peek_ns < next_look_ns ? next_peek_ns : next_look_ns;
    return next > now_ns ? next - now_ns : 0;
}

struct conprof_offcpu_counters
conprof_offcpu_counters(void)
{
    return counters;
}

/* ---- charging ---- */

static struct conprof_row *
row_of_frame(struct conprof_window *window, const struct conprof_thread *thread, uint64_t frame)
{
    struct conprof_marks marks = conprof_marks_none();
    return conprof_window_row(window, &frame, 1, &marks, thread->name_id);
}

/* Charges what is pending to the row where the thread was last seen to wait. */
static void
settle(struct conprof_window *window, struct conprof_thread *thread)
{
    struct conprof_wait_account *wait = &thread->wait;
    if (wait->pending_ns <= 0 || window == NULL) {
        return;
    }
    uint64_t waited = (uint64_t)wait->pending_ns;
    struct conprof_row *row = NULL;
    uint8_t reason = CONPROF_COLUMN_COUNT;
    if (wait->window_serial == window_serial && wait->row < window->row_count) {
        row = &window->rows[wait->row];
        reason = wait->reason;
    }
    else if (thread->target_uid != 0) {
        row = row_of_frame(window, thread, conprof_frame_word(thread->target_uid, 0));
    }
    else {
        row = row_of_frame(window, thread, conprof_frame_word(CONPROF_UID_OFF_CPU, 0));
    }
    conprof_window_charge(window, row, CONPROF_COLUMN_WALL_NS, waited);
    conprof_window_charge(window, row, CONPROF_COLUMN_WALL_SAMPLES, wait->looks);
    if (row != NULL) {
        conprof_blocked_add(atomic_load(&thread->loop), wait->version,
                            (uint32_t)(row - window->rows), waited);
    }
    if (reason < CONPROF_COLUMN_COUNT) {
        conprof_window_charge(window, row, (enum conprof_column)reason, waited);
    }
    wait->pending_ns = 0;
    wait->looks = 0;
}

/* ---- capturing ---- */

static bool
has_moved(const struct conprof_thread *thread)
{
    return conprof_cpu_of_ns(thread->tid) != thread->wait.cpu_ns;
}

/* Codes entered in the registry while their thread may have left them could die without
 * the registry's knowing: out with them. */
static void
forget_new_codes(uint64_t first_new)
{
    uint64_t end = conprof_registry_copied() + CONPROF_UID_FIRST;
    for (uint64_t uid = first_new; uid < end; uid++) {
        conprof_registry_forget(uid);
    }
}

/* The walked stack as frame words; their number, or 0 when it cannot be. */
static uint32_t
put_stack(struct conprof_stack *stack)
{
    return conprof_capture_translate(stack) < 0 ? 0 : conprof_capture_words(stack, words);
}

/* The words where a thread without Python frames stands. */
static uint32_t
put_idle(const struct conprof_thread *thread)
{
    words[0] = thread->target_uid != 0 ? conprof_frame_word(thread->target_uid, 0)
                                       : conprof_frame_word(CONPROF_UID_NATIVE, thread->name_id);
    return 1;
}

/* What else the time is charged to of a thread in this state, at the stack in `words`. */
static enum conprof_column
reason_of(enum conprof_wait state, uint32_t count)
{
    if (state == CONPROF_WAIT_GIL) {
        return CONPROF_COLUMN_GIL_WAIT_NS;
    }
    bool has_labels = remote.marks.record != conprof_labels_empty() || remote.marks.cell_id != 0;
    if (state == CONPROF_WAIT_LOCK && remote.stack.leaf_count != 0 &&
        conprof_wait_place_is_lock(conprof_wait_place_kind(words, count), has_labels)) {
        return CONPROF_COLUMN_LOCK_WAIT_NS;
    }
    return CONPROF_COLUMN_COUNT;
}

/* Of a thread that could run and does not: it has no CPU, and not the GIL. Either it is in C code
 * that needs none, or its wait for the GIL has just ended, or timed out: a waiting thread wakes
 * every few milliseconds to ask for it. */
static bool
is_unsure(const struct conprof_wait_account *wait)
{
    return wait->state_hint == 0 || conprof_gil_holder(gil) != wait->state_hint;
}

/* Finds out where a thread stands that does not run. False when it moved meanwhile. */
static bool
capture(struct conprof_window *window, struct conprof_thread *thread)
{
    struct conprof_wait_account *wait = &thread->wait;
    uint64_t first_new = conprof_registry_copied() + CONPROF_UID_FIRST;
    uintptr_t futex;
    int epoll;
    enum conprof_wait state = conprof_wait_of(thread->tid, gil, CONPROF_GIL_BYTES, &futex, &epoll);
    if (has_moved(thread)) {
        return false;
    }
    if (state == CONPROF_WAIT_CPU) {
        if (is_unsure(wait) && wait->reason == CONPROF_COLUMN_GIL_WAIT_NS) {
            state = CONPROF_WAIT_GIL; /* as when it was last seen: for want of a CPU */
        }
        else if (wait->pending_ns < MAX_UNSURE_NS) {
            /* The next look will tell. One that has just got the GIL is about to run, and says
             * nothing of the time around this look, most of which it may have waited. */
            return false;
        }
    }
    enum conprof_walk walk =
        conprof_remote_walk(interpreter, thread->tid, &wait->state_hint, &remote);
    if (walk == CONPROF_WALK_STALE || has_moved(thread)) {
        return false;
    }
    uint32_t count = walk == CONPROF_WALK_EMPTY ? put_idle(thread) : put_stack(&remote.stack);
    if (has_moved(thread)) {
        forget_new_codes(first_new);
        return false;
    }
    if (count == 0) {
        return false;
    }
    /* The thread has not moved: the record is alive, and the session lock keeps it. The
     * drain would free it if it were in limbo. */
    conprof_labels_acquire(remote.marks.record);
    if (conprof_ring_fill(&conprof_sampler.ring) != 0) {
        conprof_drain_ring(window); /* the row needs the codes that were just copied */
    }
    struct conprof_row *row =
        conprof_window_row(window, words, count, &remote.marks, thread->name_id);
    conprof_labels_release(remote.marks.record);
    if (row == NULL) {
        return false;
    }
    wait->row = (uint32_t)(row - window->rows);
    wait->window_serial = window_serial;
    wait->reason = walk == CONPROF_WALK_EMPTY ? CONPROF_COLUMN_COUNT : reason_of(state, count);
    wait->version = conprof_blocked_is_idle(thread, epoll) ? 0 : remote.version;
    return true;
}

/* ---- looking ---- */

/* Brings the account of a thread up to now; false when the thread is gone. */
static bool
advance(struct conprof_window *window, struct conprof_thread *thread)
{
    struct conprof_wait_account *wait = &thread->wait;
    uint64_t cpu = conprof_cpu_of_ns(thread->tid), now = conprof_monotonic_ns();
    if (cpu == 0) {
        return false;
    }
    int64_t elapsed = (int64_t)(now - wait->seen_ns), used = (int64_t)(cpu - wait->cpu_ns);
    wait->seen_ns = now;
    wait->cpu_ns = cpu;
    has_movement |= used != 0;
    if (atomic_load(&conprof_sampler.is_paused)) {
        settle(window, thread);
        wait->is_captured = false;
        return true;
    }
    int64_t waited = elapsed - used;
    if (used != 0 && wait->is_captured) {
        /* It left that place at some time between the looks: half is the best guess. */
        wait->pending_ns += waited / 2;
        waited -= waited / 2;
        settle(window, thread);
        wait->is_captured = false;
    }
    wait->pending_ns += waited;
    wait->looks += wait->is_captured;
    return true;
}

/* Tells of a thread that runs an event loop which callback it is in. */
static void
look_at_loop(struct conprof_window *window, struct conprof_thread *thread)
{
    struct conprof_wait_account *wait = &thread->wait;
    uint64_t version = wait->version;
    struct conprof_row *row = NULL;
    if (atomic_load(&conprof_sampler.is_paused)) {
        version = 0;
    }
    else if (wait->is_captured && !has_moved(thread)) {
        bool has_row = wait->window_serial == window_serial && wait->row < window->row_count;
        row = has_row ? &window->rows[wait->row] : NULL;
    }
    else if (!conprof_remote_version(interpreter, thread->tid, &wait->state_hint, &version)) {
        return;
    }
    conprof_blocked_look(window, thread, version, conprof_monotonic_ns(), row);
}

static void
look_at(struct conprof_window *window, struct conprof_thread *thread)
{
    struct conprof_wait_account *wait = &thread->wait;
    counters.looks++;
    if (!advance(window, thread) || wait->is_captured || captures_left == 0 ||
        atomic_load(&conprof_sampler.is_paused)) {
        return;
    }
    captures_left--;
    wait->version = 0;
    wait->is_captured = capture(window, thread);
    wait->looks = wait->is_captured;
    counters.captures += wait->is_captured;
    counters.torn += !wait->is_captured;
}

/* xorshift64*; evenly from half a period to one and a half: a strict period beats with
 * work that has a period of its own. */
static uint64_t
next_pause(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return period_ns / 2 + random_state * UINT64_C(0x2545F4914F6CDD1D) % period_ns;
}

/* Between two looks: only at threads whose loop may be blocked. */
static void
peek(struct conprof_window *window)
{
    for (uint32_t i = 0; i < conprof_threads_slots(); i++) {
        struct conprof_thread *thread = conprof_threads_at(i);
        if (thread != NULL && atomic_load(&thread->loop) != 0) {
            look_at_loop(window, thread);
        }
    }
    next_peek_ns = conprof_blocked_peek_ns();
}

bool
conprof_offcpu_look(struct conprof_window *window)
{
    if (cursor == 0 && conprof_monotonic_ns() < next_look_ns) {
        peek(window);
        return false;
    }
    uint32_t slots = conprof_threads_slots();
    for (uint32_t i = 0; i < CONPROF_LOOK_BATCH && cursor < slots; i++, cursor++) {
        struct conprof_thread *thread = conprof_threads_at(cursor);
        if (thread != NULL) {
            look_at(window, thread);
            if (atomic_load(&thread->loop) != 0) {
                look_at_loop(window, thread);
            }
        }
    }
    if (cursor < slots) {
        return true;
    }
    cursor = 0;
    captures_left = CONPROF_LOOK_CAPTURES;
    conprof_remote_renew();
    /* Where nobody moves there is nothing to see but the end of it, and half the looks do. */
    next_look_ns = conprof_monotonic_ns() + next_pause() * (has_movement ? 1 : 2);
    has_movement = false;
    next_peek_ns = conprof_blocked_peek_ns();
    return false;
}

void
conprof_offcpu_close(struct conprof_window *window, bool is_last)
{
    if (period_ns == 0) {
        return;
    }
    conprof_remote_renew();
    captures_left = CONPROF_MAX_THREADS;
    for (uint32_t i = 0; i < conprof_threads_slots(); i++) {
        struct conprof_thread *thread = conprof_threads_at(i);
        if (thread == NULL) {
            continue;
        }
        look_at(window, thread);
        if (atomic_load(&thread->loop) != 0) {
            look_at_loop(window, thread);
        }
        if (thread->wait.is_captured || is_last || thread->wait.pending_ns > MAX_CARRY_NS) {
            settle(window, thread);
        }
        thread->wait.is_captured = false;
    }
    conprof_blocked_close(window);
    captures_left = CONPROF_LOOK_CAPTURES;
    window_serial++;
}

void
conprof_offcpu_begin(struct conprof_thread *thread)
{
    thread->wait = (struct conprof_wait_account){.seen_ns = conprof_monotonic_ns(),
                                                 .cpu_ns = conprof_cpu_of_ns(thread->tid)};
}

void
conprof_offcpu_end(struct conprof_window *window, struct conprof_thread *thread)
{
    if (period_ns != 0 && window != NULL) {
        advance(window, thread);
        settle(window, thread);
    }
    conprof_blocked_release(window, thread);
    thread->wait = (struct conprof_wait_account){0};
}
