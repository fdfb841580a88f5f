/* loops.c: see loops.h. All functions run with the GIL held. */
#include "loops.h"

#include "layout.h"
#include "session.h"

/* Collects first: making objects may run finalizers, and these other threads, whose states
 * then come and go. */
static uint32_t
collect(unsigned long *threads, PyObject **loops)
{
    uint32_t count = 0;
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Main());
    for (; ts != NULL && count < CONPROF_MAX_LOOPS; ts = PyThreadState_Next(ts)) {
        PyObject *loop = conprof_layout_loop(ts);
        if (loop != NULL && loop != Py_None) {
            threads[count] = ts->native_thread_id;
            loops[count++] = Py_NewRef(loop);
        }
    }
    return count;
}

PyObject *
conprof_loops_running(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    unsigned long threads[CONPROF_MAX_LOOPS];
    PyObject *loops[CONPROF_MAX_LOOPS];
    uint32_t count = collect(threads, loops);
    PyObject *pairs = PyList_New(0);
    for (uint32_t i = 0; i < count; i++) {
        PyObject *pair = pairs == NULL ? NULL : Py_BuildValue("kO", threads[i], loops[i]);
        if (pairs != NULL && (pair == NULL || PyList_Append(pairs, pair) < 0)) {
            Py_CLEAR(pairs);
        }
        Py_XDECREF(pair);
        Py_DECREF(loops[i]);
    }
    return pairs;
}

PyObject *
conprof_loops_watch(PyObject *Py_UNUSED(module), PyObject *pairs)
{
    struct conprof_loop loops[CONPROF_MAX_LOOPS];
    uint32_t count = 0;
    if (!PyList_CheckExact(pairs)) {
        PyErr_SetString(PyExc_TypeError, "pairs must be a list");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(pairs) && count < CONPROF_MAX_LOOPS; i++) {
        PyObject *pair = PyList_GET_ITEM(pairs, i);
        int tid, descriptor;
        if (!PyTuple_Check(pair) || !PyArg_ParseTuple(pair, "ii", &tid, &descriptor)) {
            PyErr_SetString(PyExc_TypeError, "a pair is (native thread id, descriptor)");
            return NULL;
        }
        loops[count++] = (struct conprof_loop){.tid = tid, .descriptor = descriptor};
    }
    conprof_session_watch_loops(loops, count);
    Py_RETURN_NONE;
}
