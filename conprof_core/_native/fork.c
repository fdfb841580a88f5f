/* fork.c: see fork.h. */
#include "fork.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "calls.h"
#include "clock.h"
#include "drain.h"
#include "heap_sample.h"
#include "heap_table.h"
#include "lock.h"
#include "own_tid.h"
#include "sampler.h"
#include "session.h"

/* Inside the fork, with nothing of Python's between: the lock is held, so that the
 * child finds whole data behind it. */
static void
before_fork(void)
{
    conprof_lock();
    conprof_heap_sample_prefork();
    conprof_heap_prefork();
}

static void
after_fork_in_parent(void)
{
    conprof_heap_postfork();
    conprof_heap_sample_postfork();
    conprof_unlock();
}

/* Also when Python does not know of the fork (uWSGI, C libraries): no handler may
 * sample with the parent's tables, no timer of ours exists. */
static void
after_fork_in_child(void)
{
    atomic_store(&conprof_sampler.is_active, false);
    conprof_drain_is_gone();
    conprof_lock_adopt();
    conprof_heap_postfork();
    conprof_heap_sample_postfork();
    conprof_unlock();
}

void
conprof_fork_install(void)
{
    static bool is_installed;
    if (!is_installed) {
        is_installed = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) == 0;
    }
    conprof_lock_adopt();
}

/* A fork is over by then, or the drain starts again beside it: its hooks belong to anybody. */
#define FORK_NS UINT64_C(5000000000)

/* CPython 3.12+ warns in the parent when other threads exist at a fork. Ours shall not
 * be a reason: it ends before the fork and starts when os.fork() is through. */
void
conprof_fork_prefork(void)
{
    if (conprof_session_is_running()) {
        uint64_t now = conprof_monotonic_ns();
        conprof_drain_stop(now + CONPROF_FORK_WAIT_NS);
        atomic_store(&conprof_drain_due_ns, now + FORK_NS);
        conprof_calls_await_task_look();
    }
}

/* Owner: GIL holder. The frame that called os.fork() in the main thread, the only one that runs
 * pending calls, until its drain is started again; or NULL. */
static PyObject *forker;

/* GIL held. Is this a frame of our own hooks? */
static bool
is_own_frame(PyFrameObject *frame)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    PyObject *package = PyUnicode_FromString("conprof_core");
    bool is_own = package != NULL && PyUnicode_Contains(code->co_filename, package) == 1;
    Py_XDECREF(package);
    Py_DECREF(code);
    PyErr_Clear();
    return is_own;
}

/* GIL held. The innermost frame that is not ours; new reference or NULL. */
static PyObject *
find_forker(void)
{
    PyFrameObject *frame = (PyFrameObject *)Py_XNewRef((PyObject *)PyEval_GetFrame());
    while (frame != NULL && is_own_frame(frame)) {
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_SETREF(frame, back);
    }
    return (PyObject *)frame;
}

/* GIL held. Do hooks of the fork still run, that is: has the forker called something
 * that runs Python code now? */
static bool
is_in_hooks(void)
{
    bool is_inside = false;
    PyFrameObject *frame = (PyFrameObject *)Py_XNewRef((PyObject *)PyEval_GetFrame());
    if ((PyObject *)frame != forker) {
        while (frame != NULL && !is_inside) {
            PyFrameObject *back = PyFrame_GetBack(frame);
            Py_SETREF(frame, back);
            is_inside = (PyObject *)frame == forker;
        }
    }
    Py_XDECREF(frame);
    return is_inside;
}

/* GIL held, behind a fork. */
static void
start_again(void)
{
    if (conprof_session_is_running() && !conprof_drain_start()) {
        conprof_calls_trouble();
    }
}

/* GIL held, main thread, between two instructions: a pending call. */
static int
restart_drain(void *Py_UNUSED(argument))
{
    if (forker != NULL && is_in_hooks() && Py_AddPendingCall(restart_drain, NULL) == 0) {
        return 0;
    }
    Py_CLEAR(forker);
    start_again();
    return 0;
}

void
conprof_fork_postfork_parent(void)
{
    if (!conprof_session_is_running()) {
        return;
    }
    /* Pending calls run in the main thread; elsewhere there is more than one thread
     * anyhow. */
    bool is_main = conprof_own_tid() == getpid();
    if (is_main) {
        Py_XSETREF(forker, find_forker());
    }
    if (!is_main || forker == NULL || Py_AddPendingCall(restart_drain, NULL) != 0) {
        start_again();
    }
}

void
conprof_fork_postfork_child(void)
{
    Py_CLEAR(forker);
    conprof_session_forget();
}
