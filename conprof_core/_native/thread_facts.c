/* thread_facts.c: see thread_facts.h. */
#include "context.h"
#include "thread_facts.h"
#include "wait_state.h"

/* A recursion deeper than this is cut at its root. */
#define MAX_FRAMES 10000

struct facts {
    unsigned long ident;
    bool is_found;
    enum conprof_wait wait;
    uintptr_t futex; /* that it sleeps on, or 0 */
    unsigned long native_id;
    conprof_label_cell *cell; /* owned */
    PyObject *frames;         /* a list, owned */
};

/* GIL held. The frames of a thread, leaf first; NULL with an exception. One call, so that the
 * thread cannot move between two frames. */
static PyObject *
frames_of(PyThreadState *ts)
{
    PyObject *frames = PyList_New(0);
    PyFrameObject *frame = frames == NULL ? NULL : PyThreadState_GetFrame(ts);
    while (frame != NULL) {
        int failed = PyList_Append(frames, (PyObject *)frame);
        PyFrameObject *back = failed ? NULL : PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
        if (failed || PyList_GET_SIZE(frames) > MAX_FRAMES) {
            break;
        }
    }
    Py_XDECREF(frame);
    if (frames != NULL && PyErr_Occurred()) {
        Py_CLEAR(frames);
    }
    return frames;
}

/* GIL held, and no collection may run: no finalizer lets another thread run and end while the
 * list of threads is walked, or move while its stack is. A thread that waits for the GIL goes on
 * waiting while it is asked about. */
static void
find_all(struct facts *wanted, Py_ssize_t count)
{
    PyInterpreterState *interpreter = PyInterpreterState_Main();
    uintptr_t gil = conprof_gil_address(interpreter);
    const PyThreadState *own = PyThreadState_Get();
    PyThreadState *ts = PyInterpreterState_ThreadHead(interpreter);
    for (; ts != NULL; ts = PyThreadState_Next(ts)) {
        Py_ssize_t i = 0;
        while (i < count && wanted[i].ident != ts->thread_id) {
            i++;
        }
        if (i == count || wanted[i].is_found) {
            continue;
        }
        wanted[i].is_found = true;
        wanted[i].native_id = ts->native_thread_id;
        wanted[i].wait = ts == own ? CONPROF_WAIT_CPU
                                   : conprof_wait_of((pid_t)ts->native_thread_id, gil,
                                                     CONPROF_GIL_BYTES, &wanted[i].futex, NULL);
        wanted[i].cell = conprof_context_cell(ts);
        Py_XINCREF(wanted[i].cell);
        wanted[i].frames = frames_of(ts);
        if (wanted[i].frames == NULL) {
            return;
        }
    }
}

/* Adds what was found of one thread; false with an exception. */
static bool
add(PyObject *facts, PyObject *ident, const struct facts *found)
{
    PyObject *entry =
        Py_BuildValue("kiKOO", found->native_id, (int)found->wait, (unsigned long long)found->futex,
                      found->cell == NULL ? Py_None : (PyObject *)found->cell, found->frames);
    bool is_added = entry != NULL && PyDict_SetItem(facts, ident, entry) == 0;
    Py_XDECREF(entry);
    return is_added;
}

PyObject *
conprof_thread_facts(PyObject *Py_UNUSED(module), PyObject *idents)
{
    if (!PyList_CheckExact(idents)) {
        PyErr_SetString(PyExc_TypeError, "idents must be a list");
        return NULL;
    }
    PyObject *keys = PyList_AsTuple(idents), *facts = keys == NULL ? NULL : PyDict_New();
    Py_ssize_t count = facts == NULL ? 0 : PyTuple_GET_SIZE(keys);
    struct facts *wanted = PyMem_Calloc((size_t)count + 1, sizeof *wanted);
    if (facts == NULL || wanted == NULL) {
        PyMem_Free(wanted);
        Py_XDECREF(keys);
        Py_XDECREF(facts);
        return facts == NULL ? NULL : PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        wanted[i].ident = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(keys, i));
    }
    if (PyErr_Occurred()) {
        Py_CLEAR(facts);
    }
    else {
        int was_enabled = PyGC_Disable();
        find_all(wanted, count);
        if (was_enabled) {
            PyGC_Enable();
        }
        if (PyErr_Occurred()) {
            Py_CLEAR(facts);
        }
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (facts != NULL && wanted[i].is_found &&
            !add(facts, PyTuple_GET_ITEM(keys, i), &wanted[i])) {
            Py_CLEAR(facts);
        }
        Py_XDECREF(wanted[i].cell);
        Py_XDECREF(wanted[i].frames);
    }
    PyMem_Free(wanted);
    Py_DECREF(keys);
    return facts;
}
