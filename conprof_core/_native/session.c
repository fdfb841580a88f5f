/* session.c: see session.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_getattr_np */
#endif
#include "session.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "abandoned.h"
#include "clock.h"
#include "code_registry.h"
#include "blocked.h"
#include "calls.h"
#include "context.h"
#include "drain.h"
#include "fork.h"
#include "gc_pause.h"
#include "heap.h"
#include "lock.h"
#include "offcpu.h"
#include "own_tid.h"
#include "residue.h"
#include "safemem.h"
#include "sampler.h"
#include "signals.h"
#include "state.h"
#include "terminate.h"
#include "threads.h"

/* A remainder of process CPU smaller than this waits for the next window. */
#define MIN_REMAINDER_NS 1000000

/* Turns of the wait for handlers after which those are looked for that will never end. */
#define LOOK_AT_HANDLERS 500

/* Wakings without a call, such as looks, after which threads are looked for anyway. */
#define WAKINGS_PER_SCAN 20

/* owner: holder of the session lock */
static struct conprof_window *window;
static uint32_t max_stacks;
static uint64_t period_ns;
static uint64_t process_start_ns; /* process CPU when the session began */

/* A thread that serves more requests than these lives long: what it used since its
 * last sample then falls to the next request as often as it was taken from the one
 * before. Owner: the thread itself; a thread not begun by a hook of ours is such. */
#define REQUESTS_CHARGED 64
static __thread uint32_t requests_charged = REQUESTS_CHARGED;

static _Atomic pid_t session_pid; /* written by: GIL holder; 0: stopped */
static pid_t state_pid;           /* of whom all this is; owner: GIL holder; 0: of nobody yet */

bool
conprof_session_is_running(void)
{
    return atomic_load(&session_pid) == getpid();
}

void
conprof_session_pause(bool is_paused)
{
    atomic_store(&conprof_sampler.is_paused, is_paused);
}

static void
reset_counters(void)
{
    struct conprof_counters *counters = &conprof_sampler.counters;
    _Atomic uint64_t *all = (_Atomic uint64_t *)counters;
    for (size_t i = 0; i < sizeof *counters / sizeof *all; i++) {
        atomic_store(&all[i], 0);
    }
}

static int
fail(const char *what)
{
    PyErr_Format(PyExc_RuntimeError, "%s", what);
    return -1;
}

/* The main thread's stack ends here; glibc has it from the kernel. Weak: other libcs do not. */
extern void *__libc_stack_end __attribute__((weak));

/* What of the main thread's stack can be no other mapping: the kernel keeps at least 128 MiB free
 * for its growth (arch/x86/mm/mmap.c and mm/util.c, MIN_GAP). */
#define MAIN_STACK_BYTES ((uintptr_t)64 << 20)

/* Where the calling thread's C stack begins and ends; both 0 when unknown. */
static void
find_own_stack(uintptr_t *low, uintptr_t *high)
{
    pthread_attr_t attributes;
    void *at = NULL;
    size_t size = 0;
    *low = *high = 0;
    if (conprof_own_tid() == getpid()) {
        /* pthread_getattr_np would parse /proc/self/maps. */
        *high = &__libc_stack_end == NULL ? 0 : (uintptr_t)__libc_stack_end;
        *low = *high > MAIN_STACK_BYTES ? *high - MAIN_STACK_BYTES : *high;
    }
    else if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
        pthread_attr_getstack(&attributes, &at, &size);
        pthread_attr_destroy(&attributes);
        *low = (uintptr_t)at;
        *high = (uintptr_t)at + size;
    }
}

/* Session lock held. What is known of the calling thread only by itself. */
static void
note_own_stack(void)
{
    uintptr_t low, high;
    struct conprof_thread *self = conprof_threads_find(conprof_own_tid());
    find_own_stack(&low, &high);
    if (self != NULL) {
        conprof_thread_set_stack(self, low, high);
    }
}

/* Session lock held. */
static struct conprof_window *
new_window(void)
{
    struct conprof_window *fresh = conprof_window_new(max_stacks, conprof_unix_ns());
    if (fresh != NULL) {
        fresh->began_ns = conprof_monotonic_ns();
        fresh->has_wall = conprof_offcpu_is_on();
    }
    return fresh;
}

/* Session lock held. */
static void
observe_thread(struct conprof_thread *thread, bool is_new)
{
    if (is_new) {
        conprof_offcpu_begin(thread);
    }
    else {
        conprof_offcpu_end(window, thread);
    }
}

/* Waits until no handler runs, at most until then; false when one still does. It hardly ever
 * lasts: a handler waits for nothing. */
static bool
wait_for_handlers(uint64_t until_ns)
{
    struct timespec pause = {.tv_nsec = 100000};
    for (unsigned turns = 1; atomic_load(&conprof_sampler.in_handler) != 0; turns++) {
        if (turns % LOOK_AT_HANDLERS == 0) {
            conprof_lock();
            conprof_abandoned_settle();
            conprof_unlock();
        }
        if (conprof_monotonic_ns() >= until_ns) {
            conprof_drain_count_given_up();
            return false;
        }
        nanosleep(&pause, NULL);
    }
    return true;
}

int
conprof_session_start(uint32_t rate_hz, double period_s, uint32_t stacks, uint32_t wall_rate_hz,
                      uint64_t blocked_ns)
{
    if (conprof_session_is_running()) {
        return fail("the native session runs already");
    }
    if (state_pid != 0 && state_pid != getpid()) {
        conprof_session_forget(); /* a fork that ran no hooks of ours */
    }
    /* One that stop() gave up may yet write into the ring, and into its thread's slot. */
    if (!wait_for_handlers(conprof_monotonic_ns() + CONPROF_STOP_WAIT_NS)) {
        return fail("a handler of the session before has not ended");
    }
    if (conprof_lock_is_torn()) {
        return fail("this process was forked while the native engine was at work");
    }
    conprof_safemem_init();
    conprof_lock(); /* with it no thread of ours is at the ring */
    bool has_memory = conprof_threads_init() && conprof_ring_init(&conprof_sampler.ring);
    conprof_unlock();
    if (!has_memory) {
        PyErr_NoMemory();
        return -1;
    }
    if (conprof_sampler_install() < 0) {
        return fail("no signal can be had for the timers");
    }
    if (conprof_registry_install() < 0) {
        return -1;
    }
    conprof_fork_install();
    state_pid = getpid();
    reset_counters();
    conprof_abandoned_reset();
    conprof_drain_reset();
    conprof_heap_reset_counters();
    conprof_sampler.interpreter = PyInterpreterState_Main();
    conprof_lock();
    conprof_window_forget_cache();
    conprof_window_free_locked(window);
    conprof_offcpu_configure(wall_rate_hz, conprof_sampler.interpreter);
    conprof_blocked_configure(blocked_ns);
    conprof_threads_observe(wall_rate_hz == 0 ? NULL : observe_thread);
    max_stacks = stacks;
    window = new_window();
    period_ns = 1000000000u / rate_hz;
    conprof_threads_configure(conprof_sampler.signal_number, period_ns);
    process_start_ns = conprof_cpu_process_ns();
    bool has_window = window != NULL;
    conprof_unlock();
    if (!has_window) {
        conprof_registry_uninstall();
        PyErr_NoMemory();
        return -1;
    }
    atomic_store(&conprof_sampler.is_paused, false);
    atomic_store(&conprof_sampler.is_active, true);
    atomic_store(&session_pid, getpid());
    conprof_calls_schedule(period_s);
    bool is_drained = conprof_drain_start();
    conprof_lock();
    conprof_threads_scan(true, true);
    note_own_stack();
    conprof_unlock();
    conprof_terminate_install();
    return is_drained;
}

void
conprof_session_drain(bool is_called)
{
    /* owner: holder of the session lock */
    static uint32_t since_scan;
    conprof_lock();
    if (window != NULL) {
        conprof_drain_ring(window);
    }
    /* A look alone is no reason: threads of Python's register themselves. */
    if (is_called || ++since_scan >= WAKINGS_PER_SCAN) {
        since_scan = 0;
        conprof_threads_scan(false, false);
    }
    conprof_unlock();
}

void
conprof_session_look(void)
{
    for (bool has_more = conprof_offcpu_wait_ns(conprof_monotonic_ns()) == 0; has_more;) {
        conprof_lock();
        has_more = window != NULL && conprof_offcpu_look(window);
        conprof_unlock();
    }
}

void
conprof_session_reconfigure(void)
{
    conprof_lock();
    conprof_threads_configure(conprof_sampler.signal_number, period_ns);
    conprof_threads_rearm();
    conprof_unlock();
}

void
conprof_session_set_rate(uint32_t rate_hz)
{
    conprof_lock();
    period_ns = 1000000000u / rate_hz;
    /* Timers of a stopped session are gone; the next start sets its own rate. What a thread
     * has used since its last sample stays with it: the next sample carries it, as ever. */
    if (conprof_session_is_running()) {
        conprof_threads_configure(conprof_sampler.signal_number, period_ns);
        conprof_threads_rearm();
    }
    conprof_unlock();
}

/* Session lock held. */
static void
charge_unreached(void)
{
    for (uint32_t i = 0; i < conprof_threads_slots(); i++) {
        struct conprof_thread *thread = conprof_threads_at(i);
        if (thread != NULL && thread->reach != CONPROF_REACHED) {
            conprof_sampler_take_unreached(thread);
        }
    }
}

/* Session lock held. Charges what no sample carried: the drain itself, threads that no signal
 * reaches, and those that were never seen or whose last moments nobody saw. */
static void
charge_remainder(void)
{
    conprof_drain_charge();
    charge_unreached();
    uint64_t process = conprof_cpu_process_ns() - process_start_ns;
    uint64_t known = atomic_load(&conprof_sampler.counters.accounted_ns) +
                     conprof_threads_outstanding_ns() + conprof_drain_outstanding_ns();
    if (process > known + MIN_REMAINDER_NS && !atomic_load(&conprof_sampler.is_paused)) {
        conprof_sampler_emit(conprof_frame_word(CONPROF_UID_EXITED, 0), 0, process - known);
    }
}

struct conprof_window *
conprof_session_take_window(bool ends_period, bool has_alive)
{
    struct conprof_window *taken = NULL;
    conprof_heap_check();
    Py_BEGIN_ALLOW_THREADS;
    conprof_lock();
    if (window != NULL) {
        struct conprof_window *next = new_window();
        if (next != NULL) {
            conprof_drain_ring(window);
            if (conprof_session_is_running()) {
                /* Who was not seen yet is armed first: the rest is of those who cannot be. */
                conprof_threads_scan(false, false);
                charge_remainder();
                conprof_drain_ring(window);
                if (has_alive) {
                    conprof_heap_charge_live(window, ends_period);
                }
                conprof_offcpu_close(window, false);
            }
            conprof_window_resolve(window);
            conprof_residue_spread(window);
            conprof_labels_reset_bindings();
            window->lost[CONPROF_LOST_TRACES] += conprof_traces_reset();
            conprof_window_forget_cache();
            taken = window;
            conprof_window_end(taken, next->began_ns);
            conprof_window_begin(next, taken);
            window = next;
        }
    }
    conprof_unlock();
    Py_END_ALLOW_THREADS;
    return taken;
}

void
conprof_session_stop(void)
{
    if (!conprof_session_is_running()) {
        return;
    }
    uint64_t until_ns = conprof_monotonic_ns() + CONPROF_STOP_WAIT_NS;
    conprof_terminate_uninstall();
    Py_BEGIN_ALLOW_THREADS;
    conprof_drain_stop(until_ns);
    Py_END_ALLOW_THREADS;
    conprof_calls_await_task_look();
    conprof_lock();
    struct conprof_thread *self = conprof_threads_find(conprof_own_tid());
    if (self != NULL) {
        conprof_sampler_take_residue(self);
    }
    conprof_unlock();
    atomic_store(&conprof_sampler.is_active, false);
    conprof_heap_stop();
    bool are_handlers_gone = wait_for_handlers(until_ns);
    conprof_lock();
    if (window != NULL) {
        conprof_offcpu_close(window, true);
    }
    if (window != NULL) {
        conprof_drain_ring(window);
        charge_unreached();
    }
    conprof_threads_clear(true);
    if (window != NULL) {
        conprof_drain_ring(window);
        charge_remainder();
        conprof_drain_ring(window);
        conprof_heap_charge_live(window, true);
        conprof_heap_clear();
        conprof_window_end(window, conprof_monotonic_ns());
    }
    conprof_unlock();
    conprof_registry_uninstall();
    if (are_handlers_gone) {
        conprof_registry_reset();
    }
    else {
        conprof_registry_forget_all();
    }
    conprof_calls_set((struct conprof_callbacks){NULL, NULL, NULL});
    conprof_calls_set_task_look(NULL);
    atomic_store(&session_pid, 0);
}

void
conprof_session_thread_begin(const char *name, size_t name_bytes, PyObject *target)
{
    if (!atomic_load(&conprof_sampler.is_active)) {
        return;
    }
    if (conprof_own_tid() == getpid()) {
        return; /* a greenlet that gevent runs as a thread: it begins on the main thread */
    }
    uintptr_t stack_low, stack_high;
    find_own_stack(&stack_low, &stack_high);
    conprof_lock();
    if (!atomic_load(&conprof_sampler.is_active)) { /* stopped meanwhile, or about to */
        conprof_unlock();
        return;
    }
    uint64_t uid =
        target == NULL ? 0 : conprof_registry_uid(&conprof_sampler.ring, (uintptr_t)target);
    bool is_new = conprof_threads_find(conprof_own_tid()) == NULL;
    struct conprof_thread *thread =
        conprof_threads_arm(conprof_own_tid(), conprof_thread_name_id(name, name_bytes), 0);
    if (thread != NULL) {
        thread->name_id = conprof_thread_name_id(name, name_bytes);
        conprof_thread_set_stack(thread, stack_low, stack_high);
        thread->target_uid = uid;
    }
    conprof_unlock();
    if (is_new) {
        requests_charged = 0;
    }
}

void
conprof_session_thread_end(void)
{
    if (!atomic_load(&conprof_sampler.is_active) || conprof_own_tid() == getpid()) {
        return;
    }
    conprof_lock();
    struct conprof_thread *thread = conprof_threads_find(conprof_own_tid());
    if (thread != NULL && atomic_load(&conprof_sampler.is_active)) {
        conprof_threads_disarm(thread);
        conprof_sampler_take_residue(thread);
        conprof_threads_release(thread);
    }
    conprof_unlock();
}

/* Calls `take` for the calling thread, between two of its samples. */
static void
with_own_thread(void (*take)(struct conprof_thread *))
{
    if (!atomic_load(&conprof_sampler.is_active)) {
        return;
    }
    conprof_lock();
    struct conprof_thread *thread = conprof_threads_find(conprof_own_tid());
    if (thread != NULL && atomic_load(&conprof_sampler.is_active)) {
        take(thread);
    }
    conprof_unlock();
}

void
conprof_session_charge_own(void)
{
    conprof_drain_check();
    with_own_thread(conprof_sampler_take_labelled_residue);
}

void
conprof_session_charge_request(void)
{
    conprof_drain_check();
    if (requests_charged < REQUESTS_CHARGED) {
        requests_charged++;
        with_own_thread(conprof_sampler_take_labelled_residue);
    }
}

void
conprof_session_charge_wall(const uint64_t *frames, uint32_t count,
                            const struct conprof_marks *marks, uint64_t ns, bool is_lock)
{
    conprof_lock();
    if (window != NULL && window->has_wall && conprof_session_is_running() &&
        !atomic_load(&conprof_sampler.is_paused)) {
        conprof_labels_acquire(marks->record);
        conprof_drain_ring(window); /* the codes that were just copied */
        struct conprof_row *row = conprof_window_row(window, frames, count, marks, 0);
        conprof_window_charge(window, row, CONPROF_COLUMN_WALL_NS, ns);
        conprof_window_charge(window, row, CONPROF_COLUMN_WALL_SAMPLES, 1);
        if (is_lock) {
            conprof_window_charge(window, row, CONPROF_COLUMN_LOCK_WAIT_NS, ns);
        }
        conprof_labels_release(marks->record);
    }
    conprof_unlock();
}

void
conprof_session_watch_loops(const struct conprof_loop *loops, uint32_t count)
{
    conprof_lock();
    if (window != NULL && window->has_wall && conprof_session_is_running()) {
        conprof_blocked_watch(window, loops, count);
    }
    conprof_unlock();
}

void
conprof_session_name_thread(pid_t tid, const char *name, size_t name_bytes)
{
    conprof_lock();
    struct conprof_thread *thread = conprof_threads_find(tid);
    if (thread != NULL) {
        thread->name_id = conprof_thread_name_id(name, name_bytes);
    }
    conprof_unlock();
}

void
conprof_session_forget(void)
{
    atomic_store(&conprof_sampler.is_active, false);
    atomic_store(&conprof_sampler.in_handler, 0);
    atomic_store(&conprof_sampler.drain_is_called, false);
    atomic_store(&session_pid, 0);
    conprof_safemem_init();
    conprof_drain_forget();
    conprof_offcpu_configure(0, conprof_sampler.interpreter);
    conprof_blocked_configure(0);
    conprof_gc_pause_forget();
    conprof_terminate_uninstall();
    conprof_registry_uninstall();
    conprof_registry_reset();
    conprof_lock();
    conprof_ring_reset(&conprof_sampler.ring);
    conprof_abandoned_reset();
    conprof_threads_clear(false);
    /* Behind a lock that somebody of the parent held, nothing is whole: it stays as it is, and no
     * session starts any more in this process. */
    if (!conprof_lock_is_torn()) {
        conprof_heap_forget();
        conprof_labels_reset_bindings();
        conprof_traces_reset();
        conprof_window_free_locked(window);
        conprof_window_forget_cache();
    }
    window = NULL;
    conprof_unlock();
    conprof_state_adopt();
    state_pid = getpid();
    /* The callbacks belong to the parent's profiler; Python drops its own. */
    conprof_calls_set((struct conprof_callbacks){NULL, NULL, NULL});
    conprof_calls_set_task_look(NULL);
}
