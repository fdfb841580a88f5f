/* request.c: see request.h. All functions run with the GIL held. */
#include "request.h"

#include "labels.h"
#include "session.h"

static int
set_current(PyObject *value)
{
    conprof_session_charge_request(); /* before: it charges to the labels that stand */
    PyObject *token = PyContextVar_Set(conprof_labels_variable(), value);
    Py_XDECREF(token);
    return token == NULL ? -1 : 0;
}

static PyObject *
enter_request(PyObject *Py_UNUSED(module), PyObject *labels)
{
    PyObject *outer;
    if (PyContextVar_Get(conprof_labels_variable(), NULL, &outer) < 0) {
        return NULL;
    }
    if (outer != Py_None) {
        Py_DECREF(outer);
        Py_RETURN_NONE;
    }
    Py_DECREF(outer);
    PyObject *cell = conprof_label_cell_new(labels, true);
    if (cell != NULL && set_current(cell) < 0) {
        Py_CLEAR(cell);
    }
    return cell;
}

static PyObject *
switch_request(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    PyObject *current;
    if (count != 2) {
        return PyErr_Format(PyExc_TypeError,
                            "switch_request() takes the cell that is current and the next");
    }
    if (PyContextVar_Get(conprof_labels_variable(), NULL, &current) < 0) {
        return NULL;
    }
    Py_DECREF(current); /* the context holds it */
    if (current != arguments[0]) {
        Py_RETURN_FALSE;
    }
    if (set_current(arguments[1]) < 0) {
        return NULL;
    }
    Py_RETURN_TRUE;
}

static PyMethodDef functions[] = {
    {"enter_request", enter_request, METH_O,
     "enter_request(labels) -> LabelCell | None\n\nMakes a provisional cell the current one; None "
     "where there is one already, and then nothing is done."},
    {"switch_request", (PyCFunction)(void (*)(void))switch_request, METH_FASTCALL,
     "switch_request(cell, next) -> bool\n\nMakes `next` current if `cell` is."},
    {NULL, NULL, 0, NULL},
};

int
conprof_request_init(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
