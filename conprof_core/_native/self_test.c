/* self_test.c: see self_test.h. Every check compares what the engine reads by its
 * own means with what CPython says. */
#include "self_test.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "context.h"
#include "layout.h"
#include "own_tid.h"
#include "safemem.h"
#include "sampler.h"
#include "scratch.h"
#include "signals.h"
#include "state.h"
#include "threads.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* Does the kernel let a process read itself, and refuse what is not there? */
static const char *
check_safe_read(void)
{
    uint64_t here = 0x0123456789ABCDEF, copy = 0;
    conprof_safemem_init();
    if (!conprof_safe_read(&copy, (uintptr_t)&here, sizeof here) || copy != here) {
        return "process_vm_readv is refused (a sandbox or seccomp profile)";
    }
    if (conprof_safe_read(&copy, 16, sizeof copy)) {
        return "process_vm_readv reads what is not mapped";
    }
    return NULL;
}

/* How much CPU the wait for a timer may take: ticks of the kernel are at most 10 ms apart. */
#define TIMER_TEST_NS 200000000u

/* Runs until the timer of a thread's CPU clock has called the handler, or for the time given. */
static bool
waits_for(timer_t timer)
{
    struct itimerspec soon = {.it_value = {.tv_nsec = 1}};
    uint64_t until = conprof_cpu_own_ns() + TIMER_TEST_NS;
    atomic_store(&conprof_sampler.tested_timer, -1);
    if (timer_settime(timer, 0, &soon, NULL) != 0) {
        return false;
    }
    while (atomic_load(&conprof_sampler.tested_timer) == -1 && conprof_cpu_own_ns() < until) {
    }
    /* The handler knows a thread's timer by this. */
    return atomic_load(&conprof_sampler.tested_timer) == (int)(intptr_t)timer;
}

/* Does a timer on this thread's CPU clock call our handler? In earnest, as a sandbox or an
 * emulator may offer each call and do nothing. */
static const char *
check_timer(void)
{
    int number = conprof_sampler_install();
    pid_t self = conprof_own_tid();
    timer_t timer;
    struct sigevent event;
    if (number < 0) {
        return "no signal can be had for the timers";
    }
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = number;
    event.sigev_value.sival_ptr = conprof_timer_value(CONPROF_TIMER_TEST);
    event.sigev_notify_thread_id = self;
    if (conprof_cpu_of_ns(self) == 0) {
        return "CPU clocks of threads are refused";
    }
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) != 0) {
        return errno == EAGAIN ? "no timer can be had: the limit of pending signals "
                                 "(RLIMIT_SIGPENDING, ulimit -i) is used up"
                               : "timers on thread CPU clocks are refused";
    }
    conprof_signal_set before;
    conprof_signals_unblock(number, &before);
    bool is_called = waits_for(timer);
    conprof_signals_restore(&before);
    timer_delete(timer);
    return is_called ? NULL : "a timer on a thread's CPU clock does not call its handler";
}

/* The walk against the frames that Python sees. A frame that Python hides (not yet
 * started) may stand between. */
static const char *
check_walk(bool is_attached)
{
    static const char *const differs = "the frame walk differs from sys._getframe";
    struct conprof_scratch *scratch = calloc(1, sizeof *scratch);
    struct conprof_stack *stack = scratch == NULL ? NULL : &scratch->stack;
    uintptr_t at_state;
    PyFrameObject *frame = (PyFrameObject *)Py_XNewRef((PyObject *)PyEval_GetFrame());
    const char *failed = stack == NULL || frame == NULL ? "no frame to walk" : NULL;
    if (failed == NULL &&
        (conprof_state_own(&scratch->state, &at_state) != CONPROF_HOLD_ATTACHED ||
         conprof_scratch_walk(scratch, at_state, is_attached, 0, 0) != CONPROF_WALK_OK)) {
        failed = "the frame walk found no stack";
    }
    uint32_t at = 0;
    while (failed == NULL && frame != NULL && at < stack->leaf_count) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        uintptr_t first = (uintptr_t)code + CONPROF_CODE_FIRST_INSTRUCTION;
        uint32_t skipped = 0;
        while (at < stack->leaf_count && stack->frames[at].code != (uintptr_t)code && skipped < 8) {
            at++;
            skipped++;
        }
        if (at >= stack->leaf_count || stack->frames[at].code != (uintptr_t)code ||
            stack->frames[at].instruction + sizeof(_Py_CODEUNIT) < first ||
            stack->frames[at].instruction - first != (uintptr_t)(intptr_t)PyFrame_GetLasti(frame)) {
            failed = differs;
        }
        at++;
        Py_DECREF(code);
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_SETREF(frame, back);
    }
    if (failed == NULL && frame != NULL && !stack->is_truncated && stack->root_count == 0) {
        failed = differs;
    }
    Py_XDECREF(frame);
    free(scratch);
    return failed;
}

/* Does the look-up in the current context find this cell, or none? First through the kernel, which
 * cannot fault, whatever the context's tree looks like. */
static bool
finds_cell(PyObject *cell)
{
    PyThreadState copy;
    const PyThreadState *ts = PyThreadState_Get();
    return conprof_state_copy(&copy, (uintptr_t)ts) && conprof_context_remote_is_entered(&copy) &&
           conprof_context_remote_cell(&copy) == (uintptr_t)cell &&
           (PyObject *)conprof_context_cell(ts) == cell;
}

/* Sets so many variables in the current context, which keeps them. */
static bool
add_variables(int count)
{
    while (count > 0) {
        PyObject *variable = PyContextVar_New("conprof_probe", NULL);
        PyObject *token = variable == NULL ? NULL : PyContextVar_Set(variable, Py_None);
        Py_XDECREF(variable);
        Py_XDECREF(token);
        if (token == NULL) {
            PyErr_Clear();
            return false;
        }
        count--;
    }
    return true;
}

/* The label look-up against ContextVar.get, in a context of its own: of one variable, and of so
 * many that their tree has nodes of both kinds. */
static const char *
check_labels(void)
{
    const char *failed = "the label look-up differs from ContextVar.get";
    PyObject *context = PyContext_New();
    PyObject *type = (PyObject *)conprof_labels_cell_type();
    PyObject *none = PyDict_New();
    PyObject *module = PyImport_ImportModule("conprof_core._native");
    PyObject *set = module == NULL ? NULL : PyObject_CallMethod(module, "intern_labels", "O", none);
    PyObject *cell = set == NULL ? NULL : PyObject_CallOneArg(type, set);
    if (context != NULL && cell != NULL && PyContext_Enter(context) == 0) {
        bool is_absent = finds_cell(NULL);
        PyObject *token = PyContextVar_Set(conprof_labels_variable(), cell);
        if (is_absent && token != NULL && finds_cell(cell) && add_variables(100) &&
            finds_cell(cell)) {
            failed = NULL;
        }
        Py_XDECREF(token);
        if (PyContext_Exit(context) < 0) {
            failed = "a context could not be left";
        }
    }
    Py_XDECREF(cell);
    Py_XDECREF(set);
    Py_XDECREF(module);
    Py_XDECREF(none);
    Py_XDECREF(context);
    return failed;
}

const char *
conprof_self_test(void)
{
    const char *failed = check_safe_read();
    failed = failed != NULL ? failed : conprof_layout_check();
    /* Through the kernel first: that cannot fault, whatever the frames look like. */
    failed = failed != NULL ? failed : check_walk(false);
    failed = failed != NULL ? failed : check_walk(true);
    failed = failed != NULL ? failed : check_labels();
    /* The last: it installs the handler, and that stays. */
    failed = failed != NULL ? failed : check_timer();
    return failed;
}
