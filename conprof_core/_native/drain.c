/* drain.c: see drain.h. */
#include "drain.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "blocked.h"
#include "clock.h"
#include "code_registry.h"
#include "gc_pause.h"
#include "heap.h"
#include "lock.h"
#include "offcpu.h"
#include "sampler.h"
#include "session.h"
#include "turn.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* written by: start and stop, under the GIL */
static pthread_t drain_thread;
static bool is_started;

static atomic_bool is_stopping;            /* written by: start, stop */
static _Atomic uint64_t next_tick_ns;      /* monotonic; written by: callers, schedule */
static atomic_bool tick_is_running;        /* written by: drain, caller */
static _Atomic uint64_t charged_ns;        /* drain CPU already emitted; session lock */
static _Atomic uint64_t total_ns;          /* CPU of drains that ended */
static _Atomic uint64_t signal_changes;    /* written by: drain */
static atomic_bool terminate_is_requested; /* written by: SIGTERM handler */
static sem_t terminate_is_done;            /* posted by: the caller of on_terminate */

static _Atomic uint64_t next_task_look_ns; /* monotonic, 0: none; written by: set, looker */
static atomic_bool task_look_is_running;   /* written by: drain, looker */

/* owner: GIL holder */
static PyObject *tick_callback, *terminate_callback, *task_look_callback;

/* Interrupts the drain's sleep. */
static void
rouse(void)
{
    pid_t drain = atomic_load(&conprof_sampler.drain_tid);
    if (drain != 0) {
        syscall(SYS_tgkill, getpid(), drain, conprof_sampler.signal_number);
    }
}

/* Signals of the application go to the application's threads. */
static void
block_signals_but(int number)
{
    sigset_t all;
    sigfillset(&all);
    if (number > 0) {
        sigdelset(&all, number);
    }
    pthread_sigmask(SIG_SETMASK, &all, NULL);
}

/* ---- calls into Python, on threads of their own ---- */

/* Runs `callback` with the GIL; the seconds it returned, or -1. */
static double
call_python(PyObject **callback)
{
    double seconds = -1;
    conprof_turn_begin();
    rouse(); /* the drain looks at how we fare */
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *function = Py_XNewRef(*callback);
    PyObject *result = function == NULL ? NULL : PyObject_CallNoArgs(function);
    if (result != NULL && result != Py_None) {
        seconds = PyFloat_AsDouble(result);
    }
    if (PyErr_Occurred()) {
        PyErr_WriteUnraisable(function);
    }
    Py_XDECREF(result);
    Py_XDECREF(function);
    conprof_turn_end();
    PyGILState_Release(state);
    return seconds;
}

static void *
run_tick(void *Py_UNUSED(argument))
{
    prctl(PR_SET_NAME, "conprof-export", 0, 0, 0);
    block_signals_but(conprof_sampler.signal_number);
    conprof_session_thread_begin("conprof-export", 14, NULL);
    double seconds = call_python(&tick_callback);
    conprof_session_thread_end();
    /* A tick that failed comes back later; one that was told to stop does not matter. */
    conprof_drain_schedule(seconds < 0 ? 60 : seconds);
    atomic_store(&tick_is_running, false);
    /* The drain sleeps until the old time: tell it the new one. */
    rouse();
    return NULL;
}

static void *
run_task_look(void *Py_UNUSED(argument))
{
    prctl(PR_SET_NAME, "conprof-tasks", 0, 0, 0);
    block_signals_but(conprof_sampler.signal_number);
    conprof_session_thread_begin("conprof-tasks", 13, NULL);
    double seconds = call_python(&task_look_callback);
    conprof_session_thread_end();
    /* 0 meanwhile: there is nobody to call any more. */
    uint64_t expected = UINT64_MAX;
    uint64_t next = conprof_monotonic_ns() + (uint64_t)((seconds < 0.01 ? 5 : seconds) * 1e9);
    atomic_compare_exchange_strong(&next_task_look_ns, &expected, next);
    atomic_store(&task_look_is_running, false);
    rouse();
    return NULL;
}

static void *
run_terminate(void *Py_UNUSED(argument))
{
    prctl(PR_SET_NAME, "conprof-export", 0, 0, 0);
    block_signals_but(0);
    call_python(&terminate_callback);
    sem_post(&terminate_is_done);
    return NULL;
}

static bool
spawn(void *(*run)(void *))
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    bool is_spawned = pthread_create(&thread, &attributes, run, NULL) == 0;
    pthread_attr_destroy(&attributes);
    return is_spawned;
}

/* ---- SIGTERM ---- */

/* Signal context. Async-signal-safe calls only. */
static void
on_sigterm(int number)
{
    int saved_errno = errno;
    pid_t drain = atomic_load(&conprof_sampler.drain_tid);
    if (drain != 0 && !atomic_exchange(&terminate_is_requested, true) &&
        syscall(SYS_tgkill, getpid(), drain, conprof_sampler.signal_number) == 0) {
        errno = saved_errno;
        return;
    }
    /* Nobody to flush, or a second SIGTERM: end at once, as without us. */
    signal(number, SIG_DFL);
    raise(number);
    errno = saved_errno;
}

static void
terminate(void)
{
    if (sem_init(&terminate_is_done, 0, 0) == 0 && spawn(run_terminate)) {
        uint64_t until = conprof_monotonic_ns() + CONPROF_TERMINATE_S * UINT64_C(1000000000), now;
        while (sem_trywait(&terminate_is_done) != 0 && (now = conprof_monotonic_ns()) < until) {
            struct timespec pause = {.tv_nsec = 2000000};
            nanosleep(&pause, NULL);
            conprof_turn_look(now);
        }
    }
    signal(SIGTERM, SIG_DFL);
    kill(getpid(), SIGTERM);
}

void
conprof_terminate_install(void)
{
    struct sigaction now, ours;
    memset(&ours, 0, sizeof ours);
    ours.sa_handler = on_sigterm;
    sigemptyset(&ours.sa_mask);
    ours.sa_flags = SA_RESTART | SA_ONSTACK;
    if (sigaction(SIGTERM, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
        now.sa_handler == SIG_DFL) {
        sigaction(SIGTERM, &ours, NULL);
    }
}

void
conprof_terminate_uninstall(void)
{
    struct sigaction now;
    if (sigaction(SIGTERM, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
        now.sa_handler == on_sigterm) {
        signal(SIGTERM, SIG_DFL);
    }
}

/* ---- the drain ---- */

void
conprof_drain_ring(struct conprof_window *window)
{
    /* owner: holder of the session lock; too large for a stack */
    static uint64_t words[CONPROF_RING_MAX_RECORD];
    int kind;
    atomic_store(&conprof_sampler.drain_is_called, false);
    for (;;) {
        uint32_t n = conprof_ring_take(&conprof_sampler.ring, words, &kind);
        if (kind == 0) {
            break;
        }
        struct conprof_trace trace = {0};
        if (kind & CONPROF_RECORD_TRACED) {
            kind &= ~CONPROF_RECORD_TRACED;
            n -= CONPROF_TRACE_WORDS;
            memcpy(&trace, words + n, sizeof trace);
        }
        if (kind == CONPROF_RECORD_SAMPLE) {
            conprof_blocked_add_sample(window, words, conprof_window_add(window, words, n, &trace));
        }
        else if (kind == CONPROF_RECORD_CODE) {
            conprof_code_table_add(words, n);
        }
        else if (kind == CONPROF_RECORD_ALLOC) {
            conprof_heap_add(window, words, n, &trace);
        }
        else if (kind == CONPROF_RECORD_PAUSE) {
            conprof_gc_pause_add(window, words, n);
        }
    }
    conprof_heap_settle();
    if (conprof_code_table_is_full()) {
        conprof_registry_reset();
        conprof_code_table_reset();
        conprof_window_forget_cache();
    }
    /* In this order: a handler that began later can see no record in limbo. */
    if (atomic_load(&conprof_sampler.in_handler) == 0 &&
        conprof_ring_fill(&conprof_sampler.ring) == 0) {
        conprof_labels_sweep();
    }
}

uint64_t
conprof_drain_outstanding_ns(void)
{
    pid_t drain = atomic_load(&conprof_sampler.drain_tid);
    uint64_t used = drain == 0 ? 0 : conprof_cpu_of_ns(drain);
    uint64_t charged = atomic_load(&charged_ns);
    return used > charged ? used - charged : 0;
}

void
conprof_drain_charge(void)
{
    uint64_t outstanding = conprof_drain_outstanding_ns();
    if (outstanding > 0) {
        atomic_fetch_add(&charged_ns, outstanding);
        conprof_sampler_emit(conprof_frame_word(CONPROF_UID_DRAIN, 0), 0, outstanding);
    }
}

uint64_t
conprof_drain_cpu_ns(void)
{
    pid_t drain = atomic_load(&conprof_sampler.drain_tid);
    return atomic_load(&total_ns) + (drain == 0 ? 0 : conprof_cpu_of_ns(drain));
}

uint64_t
conprof_drain_signal_changes(void)
{
    return atomic_load(&signal_changes);
}

static bool
start_process_timer(timer_t *timer)
{
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = conprof_sampler.signal_number;
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    struct itimerspec when = {.it_interval = {.tv_nsec = CONPROF_DRAIN_EVERY_NS},
                              .it_value = {.tv_nsec = CONPROF_DRAIN_EVERY_NS}};
    if (timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, timer) != 0) {
        return false;
    }
    return timer_settime(*timer, 0, &when, NULL) == 0;
}

/* Somebody took our signal: move to another, with all timers. */
static void
change_signal(timer_t *timer)
{
    if (conprof_sampler_install() < 0) {
        return;
    }
    atomic_fetch_add(&signal_changes, 1);
    conprof_session_reconfigure();
    timer_delete(*timer);
    start_process_timer(timer);
}

/* Sleeps until a signal of ours, the next tick or the next look. True when signalled. */
static bool
wait_for_work(void)
{
    sigset_t ours;
    sigemptyset(&ours);
    sigaddset(&ours, conprof_sampler.signal_number);
    uint64_t now = conprof_monotonic_ns(), next = atomic_load(&next_tick_ns);
    uint64_t left = next > now ? next - now : 0;
    if (atomic_load(&tick_is_running)) {
        left = UINT64_C(3600) * 1000000000u; /* its end signals us */
    }
    uint64_t look = conprof_offcpu_wait_ns(now);
    left = look < left ? look : left;
    uint64_t turn = conprof_turn_wait_ns(now);
    left = turn < left ? turn : left;
    uint64_t tasks = atomic_load(&next_task_look_ns);
    if (tasks != 0 && tasks != UINT64_MAX) {
        uint64_t until = tasks > now ? tasks - now : 0;
        left = until < left ? until : left;
    }
    struct timespec timeout = {.tv_sec = (time_t)(left / 1000000000u),
                               .tv_nsec = (long)(left % 1000000000u)};
    return sigtimedwait(&ours, NULL, &timeout) > 0;
}

/* Starts a look at suspended tasks when it is due. */
static void
look_at_tasks(void)
{
    uint64_t due = atomic_load(&next_task_look_ns);
    if (due == 0 || due > conprof_monotonic_ns() || atomic_load(&is_stopping) ||
        atomic_exchange(&task_look_is_running, true)) {
        return;
    }
    /* Not due while it runs; the looker says when it is again. */
    if (atomic_compare_exchange_strong(&next_task_look_ns, &due, UINT64_MAX) &&
        !spawn(run_task_look)) {
        due = UINT64_MAX;
        atomic_compare_exchange_strong(&next_task_look_ns, &due,
                                       conprof_monotonic_ns() + UINT64_C(5000000000));
        atomic_store(&task_look_is_running, false);
    }
}

static void *
run_drain(void *argument)
{
    sem_t *is_ready = argument;
    timer_t timer;
    prctl(PR_SET_NAME, "conprof-drain", 0, 0, 0);
    block_signals_but(0);
    pid_t self = (pid_t)syscall(SYS_gettid);
    conprof_lock();
    conprof_threads_exclude(self);
    atomic_store(&charged_ns, 0);
    conprof_unlock();
    atomic_store(&conprof_sampler.drain_tid, self);
    start_process_timer(&timer);
    sem_post(is_ready);
    while (!atomic_load(&is_stopping)) {
        bool is_called = wait_for_work();
        if (atomic_load(&terminate_is_requested)) {
            terminate();
            break;
        }
        if (!conprof_sampler_is_installed()) {
            change_signal(&timer);
        }
        conprof_session_drain(is_called);
        conprof_session_look();
        conprof_turn_look(conprof_monotonic_ns());
        look_at_tasks();
        if (!atomic_load(&is_stopping) && conprof_monotonic_ns() >= atomic_load(&next_tick_ns) &&
            !atomic_exchange(&tick_is_running, true) && !spawn(run_tick)) {
            atomic_store(&tick_is_running, false);
            conprof_drain_schedule(1);
        }
    }
    timer_delete(timer);
    conprof_lock();
    conprof_drain_charge();
    conprof_unlock();
    atomic_fetch_add(&total_ns, conprof_cpu_own_ns());
    atomic_store(&conprof_sampler.drain_tid, 0);
    return NULL;
}

bool
conprof_drain_start(void)
{
    sem_t is_ready;
    if (is_started || sem_init(&is_ready, 0, 0) != 0) {
        return is_started;
    }
    atomic_store(&is_stopping, false);
    atomic_store(&terminate_is_requested, false);
    is_started = pthread_create(&drain_thread, NULL, run_drain, &is_ready) == 0;
    if (is_started) {
        while (sem_wait(&is_ready) != 0) {
        }
    }
    sem_destroy(&is_ready);
    return is_started;
}

void
conprof_drain_stop(void)
{
    if (!is_started) {
        return;
    }
    atomic_store(&is_stopping, true);
    rouse();
    pthread_join(drain_thread, NULL);
    is_started = false;
}

void
conprof_drain_reset(void)
{
    atomic_store(&total_ns, 0);
    atomic_store(&signal_changes, 0);
    conprof_turn_forget();
}

void
conprof_drain_forget(void)
{
    is_started = false;
    atomic_store(&conprof_sampler.drain_tid, 0);
    atomic_store(&tick_is_running, false);
    atomic_store(&task_look_is_running, false);
    atomic_store(&terminate_is_requested, false);
    atomic_store(&charged_ns, 0);
    conprof_drain_reset();
}

void
conprof_drain_set_callbacks(PyObject *tick, PyObject *on_terminate)
{
    PyObject *old_tick = tick_callback, *old_terminate = terminate_callback;
    tick_callback = tick;
    terminate_callback = on_terminate;
    Py_XDECREF(old_tick);
    Py_XDECREF(old_terminate);
}

void
conprof_drain_set_task_look(PyObject *look)
{
    PyObject *old = task_look_callback;
    task_look_callback = look;
    atomic_store(&next_task_look_ns, look == NULL ? 0 : conprof_monotonic_ns());
    rouse();
    Py_XDECREF(old);
}

void
conprof_drain_await_task_look(void)
{
    struct timespec pause = {.tv_nsec = 200000};
    Py_BEGIN_ALLOW_THREADS;
    for (int i = 0; i < 250 && atomic_load(&task_look_is_running); i++) {
        nanosleep(&pause, NULL);
    }
    Py_END_ALLOW_THREADS;
}

void
conprof_drain_schedule(double seconds)
{
    double bounded = seconds < 0 ? 0 : seconds > 86400 ? 86400 : seconds;
    atomic_store(&next_tick_ns, conprof_monotonic_ns() + (uint64_t)(bounded * 1e9));
}

void
conprof_drain_wake(void)
{
    conprof_drain_schedule(0);
    rouse();
}
