/* calls.c: see calls.h. */
#include "calls.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <time.h>

#include "clock.h"
#include "rouse.h"
#include "sampler.h"
#include "session.h"
#include "signals.h"
#include "turn.h"

/* While a tick is under way its end says when the next is due; the drain looks so often anyway,
 * so that it can be told from one that is gone. */
#define WHILE_TICKING_NS UINT64_C(5000000000)
#define LOOK_AGAIN_NS UINT64_C(10000000)

static _Atomic uint64_t next_tick_ns;      /* monotonic; written by: callers, schedule */
static atomic_bool tick_is_running;        /* written by: drain, caller, forget */
static _Atomic uint64_t next_task_look_ns; /* monotonic, 0: none; written by: set, looker */
static atomic_bool task_look_is_running;   /* written by: drain, looker, forget */
static _Atomic uint64_t refused;           /* written by: drain, reset */
static _Atomic uint32_t serial;            /* of the callbacks; written by: set */

/* owner: GIL holder */
static struct conprof_callbacks callbacks;
static PyObject *task_look;

/* GIL held. The seconds that the callback returned, or -1; `later_s` where there is no memory to
 * run it, as where the application holds all that it may have. */
static double
call(PyObject *callback, double later_s)
{
    double seconds = -1;
    PyObject *function = Py_XNewRef(callback);
    PyObject *result = function == NULL ? NULL : PyObject_CallNoArgs(function);
    if (result != NULL && result != Py_None) {
        seconds = PyFloat_AsDouble(result);
    }
    if (PyErr_Occurred() != NULL && PyErr_ExceptionMatches(PyExc_MemoryError)) {
        PyErr_Clear();
        atomic_fetch_add(&refused, 1);
        seconds = later_s;
    }
    else if (PyErr_Occurred()) {
        PyErr_WriteUnraisable(function);
    }
    Py_XDECREF(result);
    Py_XDECREF(function);
    return seconds;
}

/* A thread of ours that knows nothing of Python yet. The same, taking the GIL. Not by
 * PyGILState_Ensure, which ends the process where there is no memory for a thread state: then
 * `later_s` is returned, and the call is counted as refused. */
static double
call_python(PyObject **callback, double later_s)
{
    conprof_turn_begin();
    conprof_rouse(); /* the drain looks at how we fare */
    PyThreadState *state = PyThreadState_New(PyInterpreterState_Main());
    if (state == NULL) {
        conprof_turn_end();
        atomic_fetch_add(&refused, 1);
        return later_s;
    }
    PyEval_RestoreThread(state);
    double seconds = call(*callback, later_s);
    conprof_turn_end();
    PyThreadState_Clear(state);
    PyThreadState_DeleteCurrent();
    return seconds;
}

static void *
run_tick(void *Py_UNUSED(argument))
{
    uint32_t began = atomic_load(&serial);
    prctl(PR_SET_NAME, "conprof-export", 0, 0, 0);
    conprof_signals_keep_out(conprof_sampler.signal_number);
    conprof_session_thread_begin("conprof-export", 14, NULL);
    double seconds = call_python(&callbacks.tick, 1);
    conprof_session_thread_end();
    /* A tick that failed comes back later. One of a session that has ended says nothing of the
     * next one. */
    if (atomic_load(&serial) == began) {
        conprof_calls_schedule(seconds < 0 ? 60 : seconds);
    }
    atomic_store(&tick_is_running, false);
    /* The drain sleeps until the old time: tell it the new one. */
    conprof_rouse();
    return NULL;
}

static void *
run_task_look(void *Py_UNUSED(argument))
{
    prctl(PR_SET_NAME, "conprof-tasks", 0, 0, 0);
    conprof_signals_keep_out(conprof_sampler.signal_number);
    conprof_session_thread_begin("conprof-tasks", 13, NULL);
    double seconds = call_python(&task_look, 5);
    conprof_session_thread_end();
    /* 0 meanwhile: there is nobody to call any more. */
    uint64_t expected = UINT64_MAX;
    uint64_t next = conprof_monotonic_ns() + (uint64_t)((seconds < 0.01 ? 5 : seconds) * 1e9);
    atomic_compare_exchange_strong(&next_task_look_ns, &expected, next);
    atomic_store(&task_look_is_running, false);
    conprof_rouse();
    return NULL;
}

void
conprof_calls_terminate(void)
{
    call_python(&callbacks.terminate, 0);
}

void
conprof_calls_trouble(void)
{
    if (callbacks.trouble != NULL) {
        call(callbacks.trouble, 0);
    }
}

bool
conprof_calls_spawn(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    bool is_spawned = pthread_create(&thread, &attributes, run, argument) == 0;
    pthread_attr_destroy(&attributes);
    atomic_fetch_add(&refused, !is_spawned);
    return is_spawned;
}

uint64_t
conprof_calls_refused(void)
{
    return atomic_load(&refused);
}

void
conprof_calls_reset(void)
{
    atomic_store(&refused, 0);
}

uint64_t
conprof_calls_wait_ns(uint64_t now_ns)
{
    uint64_t next = atomic_load(&next_tick_ns);
    uint64_t left = next > now_ns ? next - now_ns : 0;
    if (atomic_load(&tick_is_running)) {
        left = WHILE_TICKING_NS;
    }
    uint64_t look = atomic_load(&next_task_look_ns);
    if (look != 0 && look != UINT64_MAX) {
        uint64_t until = look > now_ns ? look - now_ns : 0;
        if (until < LOOK_AGAIN_NS && atomic_load(&task_look_is_running)) {
            until = LOOK_AGAIN_NS; /* one of the session before has not ended yet */
        }
        left = until < left ? until : left;
    }
    return left;
}

/* Starts a look at suspended tasks when it is due. */
static void
look_at_tasks(void)
{
    uint64_t due = atomic_load(&next_task_look_ns);
    if (due == 0 || due > conprof_monotonic_ns() || atomic_exchange(&task_look_is_running, true)) {
        return;
    }
    /* Not due while it runs; the looker says when it is again. */
    if (!atomic_compare_exchange_strong(&next_task_look_ns, &due, UINT64_MAX)) {
        atomic_store(&task_look_is_running, false);
    }
    else if (!conprof_calls_spawn(run_task_look, NULL)) {
        due = UINT64_MAX;
        atomic_compare_exchange_strong(&next_task_look_ns, &due,
                                       conprof_monotonic_ns() + UINT64_C(5000000000));
        atomic_store(&task_look_is_running, false);
    }
}

void
conprof_calls_begin_due(void)
{
    look_at_tasks();
    if (conprof_monotonic_ns() >= atomic_load(&next_tick_ns) &&
        !atomic_exchange(&tick_is_running, true) && !conprof_calls_spawn(run_tick, NULL)) {
        atomic_store(&tick_is_running, false);
        conprof_calls_schedule(1);
    }
}

void
conprof_calls_forget(void)
{
    atomic_store(&tick_is_running, false);
    atomic_store(&task_look_is_running, false);
}

void
conprof_calls_set(struct conprof_callbacks fresh)
{
    struct conprof_callbacks old = callbacks;
    callbacks = fresh;
    atomic_fetch_add(&serial, 1);
    Py_XDECREF(old.tick);
    Py_XDECREF(old.terminate);
    Py_XDECREF(old.trouble);
}

void
conprof_calls_set_task_look(PyObject *look)
{
    PyObject *old = task_look;
    task_look = look;
    atomic_store(&next_task_look_ns, look == NULL ? 0 : conprof_monotonic_ns());
    conprof_rouse();
    Py_XDECREF(old);
}

void
conprof_calls_await_task_look(void)
{
    struct timespec pause = {.tv_nsec = 200000};
    Py_BEGIN_ALLOW_THREADS;
    for (int i = 0; i < 250 && atomic_load(&task_look_is_running); i++) {
        nanosleep(&pause, NULL);
    }
    Py_END_ALLOW_THREADS;
}

void
conprof_calls_schedule(double seconds)
{
    double bounded = seconds < 0 ? 0 : seconds > 86400 ? 86400 : seconds;
    atomic_store(&next_tick_ns, conprof_monotonic_ns() + (uint64_t)(bounded * 1e9));
}

void
conprof_calls_wake(void)
{
    conprof_calls_schedule(0);
    conprof_rouse();
}
