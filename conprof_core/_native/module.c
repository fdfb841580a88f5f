/* module.c: the Python boundary of the engine; nothing clever. */
#include "compat.h"

#include "code_registry.h"
#include "blocked.h"
#include "calls.h"
#include "context.h"
#include "drain.h"
#include "fork.h"
#include "gc_pause.h"
#include "heap.h"
#include "heap_hooks.h"
#include "heap_pools.h"
#include "heap_table.h"
#include "labels.h"
#include "lock.h"
#include "lock_search.h"
#include "loops.h"
#include "offcpu.h"
#include "refusals.h"
#include "request.h"
#include "abandoned.h"
#include "sampler.h"
#include "self_test.h"
#include "session.h"
#include "suspended.h"
#include "thread_facts.h"
#include "thread_hook.h"
#include "threads.h"
#include "turn.h"
#include "wait_place.h"
#include "window_object.h"
#include "with_blocks.h"

static PyObject *
start(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"rate_hz",    "period_s",     "max_stacks", "tick", "on_terminate",
                            "on_trouble", "wall_rate_hz", "blocked_ms", NULL};
    unsigned int rate_hz, max_stacks, wall_rate_hz = 0, blocked_ms = 100;
    double period_s;
    PyObject *tick, *on_terminate, *on_trouble;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$IdIOOOII:start", names, &rate_hz, &period_s,
                                     &max_stacks, &tick, &on_terminate, &on_trouble, &wall_rate_hz,
                                     &blocked_ms)) {
        return NULL;
    }
    if (rate_hz < 1 || rate_hz > 10000 || max_stacks < 1) {
        PyErr_SetString(PyExc_ValueError, "rate_hz must be 1 to 10000, max_stacks at least 1");
        return NULL;
    }
    if (wall_rate_hz > 1000) {
        PyErr_SetString(PyExc_ValueError, "wall_rate_hz must be 0 to 1000");
        return NULL;
    }
    if (conprof_session_is_running()) {
        PyErr_SetString(PyExc_RuntimeError, "the native session runs already");
        return NULL;
    }
    conprof_calls_set((struct conprof_callbacks){
        .tick = Py_NewRef(tick),
        .terminate = Py_NewRef(on_terminate),
        .trouble = Py_NewRef(on_trouble),
    });
    int is_drained = conprof_session_start(rate_hz, period_s, max_stacks, wall_rate_hz,
                                           (uint64_t)blocked_ms * 1000000u);
    if (is_drained < 0) {
        conprof_calls_set((struct conprof_callbacks){NULL, NULL, NULL});
        return NULL;
    }
    return PyBool_FromLong(is_drained);
}

static PyObject *
look_at_tasks(PyObject *Py_UNUSED(module), PyObject *look)
{
    conprof_calls_set_task_look(look == Py_None ? NULL : Py_NewRef(look));
    Py_RETURN_NONE;
}

static PyObject *
start_heap(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_ssize_t bytes;
    unsigned int rate = 0, old_windows = 0;
    if (!PyArg_ParseTuple(args, "n|II:start_heap", &bytes, &rate, &old_windows)) {
        return NULL;
    }
    if (bytes < 1 || (uint64_t)bytes > CONPROF_HEAP_MAX_MEAN) {
        PyErr_Format(PyExc_ValueError, "the mean must be 1 to %llu bytes",
                     (unsigned long long)CONPROF_HEAP_MAX_MEAN);
        return NULL;
    }
    if (!conprof_session_is_running()) {
        PyErr_SetString(PyExc_RuntimeError, "start() comes first");
        return NULL;
    }
    const char *failed = conprof_heap_start((uint64_t)bytes, rate, old_windows);
    return PyUnicode_FromString(failed == NULL ? "" : failed);
}

static PyObject *
stop(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    conprof_session_stop();
    Py_RETURN_NONE;
}

static PyObject *
take_window(PyObject *Py_UNUSED(module), PyObject *args)
{
    int ends_period = 1, has_alive = 1;
    if (!PyArg_ParseTuple(args, "|pp:take_window", &ends_period, &has_alive)) {
        return NULL;
    }
    return conprof_window_object_new(conprof_session_take_window(ends_period != 0, has_alive != 0));
}

static PyObject *
wake(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    conprof_calls_wake();
    Py_RETURN_NONE;
}

static PyObject *
pause_sampling(PyObject *Py_UNUSED(module), PyObject *flag)
{
    int is_paused = PyObject_IsTrue(flag);
    if (is_paused < 0) {
        return NULL;
    }
    conprof_session_pause(is_paused);
    Py_RETURN_NONE;
}

static PyObject *
set_rate(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned int rate_hz;
    if (!PyArg_ParseTuple(args, "I:set_rate", &rate_hz)) {
        return NULL;
    }
    if (rate_hz < 1 || rate_hz > 10000) {
        PyErr_SetString(PyExc_ValueError, "rate_hz must be 1 to 10000");
        return NULL;
    }
    conprof_session_set_rate(rate_hz);
    Py_RETURN_NONE;
}

static PyObject *
is_running(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(conprof_session_is_running());
}

static PyObject *
name_thread(PyObject *Py_UNUSED(module), PyObject *args)
{
    int tid;
    const char *name;
    Py_ssize_t bytes;
    if (!PyArg_ParseTuple(args, "is#:name_thread", &tid, &name, &bytes)) {
        return NULL;
    }
    conprof_session_name_thread(tid, name, (size_t)bytes);
    Py_RETURN_NONE;
}

static PyObject *
charge(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    conprof_session_charge_own();
    Py_RETURN_NONE;
}

static PyObject *
prefork(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    conprof_fork_prefork();
    Py_RETURN_NONE;
}

static PyObject *
postfork_parent(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    conprof_fork_postfork_parent();
    Py_RETURN_NONE;
}

static PyObject *
postfork_child(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    conprof_fork_postfork_child();
    Py_RETURN_NONE;
}

/* GIL held. */
static PyObject *
stats(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    const struct conprof_counters *c = &conprof_sampler.counters;
    conprof_drain_check();
    conprof_lock();
    struct conprof_offcpu_counters wall = conprof_offcpu_counters();
    struct conprof_drain_counters drain = conprof_drain_counters();
    const struct {
        const char *name;
        uint64_t value;
    } values[] = {
        {"signals", c->signals},
        {"samples", c->samples},
        {"walks_carried", c->carried_stale},
        {"ring_full_carried", c->carried_full},
        {"dear_walks_carried", c->carried_dear},
        {"unwalkable", c->unwalkable},
        {"no_stack_room", c->no_room},
        {"truncated", c->truncated},
        {"timer_overruns", c->overruns},
        {"foreign_signals", c->foreign},
        {"subinterpreter_samples", c->subinterpreter},
        {"native_samples", c->native},
        {"handler_ns", c->handler_ns},
        {"accounted_ns", c->accounted_ns},
        {"drain_cpu_ns", drain.cpu_ns},
        {"ring_corrupt", conprof_ring_corrupt(&conprof_sampler.ring)},
        {"drain_missing", drain.missing},
        {"drain_lost", drain.lost},
        {"drain_polls", drain.polls},
        {"drain_signal_changes", drain.signal_changes},
        {"own_threads_refused", drain.refused + conprof_calls_refused()},
        {"waits_given_up", conprof_drain_given_up()},
        {"turns_asked", conprof_turns_asked()},
        {"handlers_abandoned", conprof_abandoned_count()},
        {"threads", conprof_threads_count(CONPROF_REACHED)},
        {"threads_blocking_signals", conprof_threads_count(CONPROF_REACH_BLOCKED)},
        {"threads_untracked",
         conprof_threads_count(CONPROF_REACH_REFUSED) + conprof_threads_without_slot()},
        {"label_sets", conprof_labels_alive()},
        {"label_sets_refused", conprof_labels_refused()},
        {"heap_blocks", conprof_heap_table_used()},
        {"heap_mean_bytes", conprof_heap.mean},
        {"heap_samples", conprof_heap.samples},
        {"heap_blocks_refused", conprof_heap.refused},
        {"heap_samples_lost", conprof_heap.lost},
        {"heap_stacks_refused", conprof_heap.stacks_refused},
        {"heap_hooks_detached", conprof_heap.detached},
        {"heap_hooks_on_free", conprof_heap_hooks_see_all_frees()},
        {"heap_pools_open", conprof_heap_pools_are_open()},
        {"refused_reads", conprof_refused[CONPROF_REFUSED_READ]},
        {"refused_timers", conprof_refused[CONPROF_REFUSED_TIMER]},
        {"refused_clocks", conprof_refused[CONPROF_REFUSED_CLOCK]},
        {"signal_number", (uint64_t)conprof_sampler.signal_number},
        {"wall_looks", wall.looks},
        {"wall_captures", wall.captures},
        {"wall_torn", wall.torn},
        {"loop_blocks", conprof_blocked_count()},
        {"loops_watched", conprof_blocked_watched()},
    };
    conprof_unlock();
    PyObject *result = PyDict_New();
    for (size_t i = 0; result != NULL && i < sizeof values / sizeof values[0]; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(values[i].value);
        if (value == NULL || PyDict_SetItemString(result, values[i].name, value) < 0) {
            Py_CLEAR(result);
        }
        Py_XDECREF(value);
    }
    return result;
}

static PyObject *
self_test(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    const char *failed = conprof_self_test();
    if (failed == NULL && PyErr_Occurred()) {
        return NULL;
    }
    return PyUnicode_FromString(failed == NULL ? "" : failed);
}

static PyMethodDef functions[] = {
    {"start", (PyCFunction)(void (*)(void))start, METH_VARARGS | METH_KEYWORDS,
     "start(*, rate_hz, period_s, max_stacks, tick, on_terminate, on_trouble, wall_rate_hz=0, "
     "blocked_ms=100) -> bool\n\nFalse: no thread can be had for the drain; it is tried again "
     "while the session runs."},
    {"stop", stop, METH_NOARGS, "Take no more samples; the last window stays to be taken."},
    {"take_window", take_window, METH_VARARGS,
     "take_window(ends_period=True, alive=True)\n\nThe window since the last call. One that ends "
     "no period makes nothing older, and need not tell what is alive."},
    {"join", (PyCFunction)(void (*)(void))conprof_window_object_join, METH_VARARGS | METH_KEYWORDS,
     "join(parts, *, start_ns, end_ns, max_stacks, max_label_sets, threads)\n\nA window that is "
     "the sum of others: (window, bits of columns added, bits subtracted)."},
    {"look_at_tasks", look_at_tasks, METH_O,
     "look_at_tasks(look)\n\nCalls look() in a thread of its own while the session runs, again "
     "after the seconds that it returns."},
    {"charge_suspended", (PyCFunction)(void (*)(void))conprof_suspended_charge, METH_VARARGS,
     "charge_suspended(frames, cell, ns, kind=0)\n\nAdds wall time to a suspended stack: (code, "
     "byte offset of the instruction), leaf first. What it waits for: enum conprof_wait_kind."},
    {"wait_places", conprof_wait_places_set, METH_O,
     "wait_places(rows)\n\nWhere the standard library waits: (end of the file's name, function or "
     "'' for any, enum conprof_wait_kind). Of several that fit, the first wins. Before the first "
     "start(); later calls change nothing."},
    {"running_loops", conprof_suspended_loops, METH_NOARGS,
     "running_loops()\n\nThe asyncio loops that run now, as far as thread states know them "
     "(3.14)."},
    {"loop_threads", conprof_loops_running, METH_NOARGS,
     "loop_threads()\n\n(native id of the thread, asyncio loop that runs in it) for each."},
    {"watch_loops", conprof_loops_watch, METH_O,
     "watch_loops(pairs)\n\nThe loops that run now: (native id of the thread, epoll descriptor). "
     "Callbacks that block them are charged."},
    {"thread_facts", conprof_thread_facts, METH_O,
     "thread_facts(idents)\n\nFor each ident of a thread that has a Python state: (id of the "
     "operating system, enum conprof_wait, address of the futex it sleeps on or 0, label cell or "
     "None, frames leaf first)."},
    {"with_blocks", conprof_with_blocks, METH_VARARGS,
     "with_blocks(frame, types)\n\nThe objects of exactly these types in whose `with` blocks a "
     "frame stands now, innermost first."},
    {"first_local", conprof_first_local, METH_VARARGS,
     "first_local(frame, types)\n\nWhat the first argument of a frame's function holds now, if its "
     "type is exactly one of these, else None."},
    {"lock_address", conprof_lock_address, METH_O,
     "lock_address(lock)\n\nWhere in memory threads wait for a lock or an RLock of _thread; 0 "
     "where "
     "that is not to be known."},
    {"lock_search", conprof_lock_search, METH_VARARGS,
     "lock_search(frame, address, type)\n\nThe lock of exactly this type at whose address threads "
     "wait, if the frame's variables or globals lead to it, else None."},
    {"start_heap", start_heap, METH_VARARGS,
     "start_heap(mean, rate=0, old_windows=0): sample allocations; what is in the way, or ''. "
     "After "
     "start()."},
    {"wake", wake, METH_NOARGS, "Have tick() called now."},
    {"pause", pause_sampling, METH_O, "pause(flag): discard samples while true."},
    {"set_rate", set_rate, METH_VARARGS,
     "set_rate(rate_hz): sample so many times per second of CPU time from now on."},
    {"is_running", is_running, METH_NOARGS, "Whether a session runs in this very process."},
    {"name_thread", name_thread, METH_VARARGS, "name_thread(native_id, name)"},
    {"charge", charge, METH_NOARGS,
     "Charge what the calling thread has used since its last sample to where it stands."},
    {"prefork", prefork, METH_NOARGS, "Before a fork."},
    {"postfork_parent", postfork_parent, METH_NOARGS, "In the parent, after a fork."},
    {"postfork_child", postfork_child, METH_NOARGS, "In the child, after a fork."},
    {"stats", stats, METH_NOARGS, "Counters since the session began."},
    {"self_test", self_test, METH_NOARGS, "What keeps the engine from running here, or ''."},
    {NULL, NULL, 0, NULL},
};

static int
module_exec(PyObject *module)
{
    /* The engine samples the main interpreter only and keeps static state. */
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError, "conprof profiles the main interpreter only");
        return -1;
    }
    if (conprof_labels_init(module) < 0 || conprof_context_init() < 0 ||
        conprof_window_object_init(module) < 0 || conprof_request_init(module) < 0 ||
        conprof_thread_hook_init(module) < 0 || conprof_gc_pause_init(module) < 0) {
        return -1;
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)module_exec},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "conprof_core._native",
    .m_doc = "The native engine of conprof. See conprof_core._engine.native.",
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
