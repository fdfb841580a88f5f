/* request.c: see request.h. All functions run with the GIL held. */
#include "request.h"

#include <stddef.h>
#include <structmember.h>

#include "labels.h"
#include "session.h"

typedef struct {
    PyObject_HEAD PyObject *base; /* labels until it is bound */
    PyObject *late;               /* None, or says that the scope can be asked for labels */
    PyObject *cell, *outer;       /* None, or a LabelCell */
    char is_bound;
} plain_scope;

/* owner: GIL holder; set once. Dictionaries of modules, and what is in them for good. */
static PyObject *scope_globals, *labels_globals, *tracking_globals;
static PyObject *in_flight, *bound, *nested_cells;
static Py_ssize_t max_uncounted; /* of `bound`: then Python counts them */

/* ---- the cell of a request in the current context ---- */

static int
set_current(PyObject *value)
{
    conprof_session_charge_request(); /* before: it charges to the labels that stand */
    PyObject *token = PyContextVar_Set(conprof_labels_variable(), value);
    Py_XDECREF(token);
    return token == NULL ? -1 : 0;
}

/* A new reference: the cell, or None where there is one already; NULL with an exception. */
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

/* Whether `cell` was current, and `next` is now; -1 with an exception. */
static int
switch_from(PyObject *cell, PyObject *next)
{
    PyObject *current;
    if (PyContextVar_Get(conprof_labels_variable(), NULL, &current) < 0) {
        return -1;
    }
    Py_DECREF(current); /* the context holds it */
    if (current != cell) {
        return 0;
    }
    return set_current(next) < 0 ? -1 : 1;
}

static PyObject *
switch_request(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2) {
        return PyErr_Format(PyExc_TypeError,
                            "switch_request() takes the cell that is current and the next");
    }
    int is_switched = switch_from(arguments[0], arguments[1]);
    return is_switched < 0 ? NULL : PyBool_FromLong(is_switched);
}

/* ---- PlainScope ---- */

static PyObject *is_sampling_name, *read_trace_name, *thread_cells_name;
static PyObject *enter_name, *bind_name, *exit_name, *count_name, *swallow_name;

static PyObject *
global(PyObject *globals, PyObject *name)
{
    PyObject *found = globals == NULL ? NULL : PyDict_GetItemWithError(globals, name);
    return found == NULL ? Py_None : found;
}

/* Neither trace ids nor a portable engine want to hear of it. */
static bool
is_plain(void)
{
    return global(labels_globals, read_trace_name) == Py_None &&
           global(tracking_globals, thread_cells_name) == Py_None;
}

static int
scope_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"base", "late", NULL};
    plain_scope *scope = (plain_scope *)self;
    PyObject *base, *late = Py_None;
    if (kwargs == NULL && PyTuple_GET_SIZE(args) == 2) {
        base = PyTuple_GET_ITEM(args, 0);
        late = PyTuple_GET_ITEM(args, 1);
    }
    else if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:RequestScope", names, &base, &late)) {
        return -1;
    }
    Py_XSETREF(scope->base, Py_NewRef(base));
    Py_XSETREF(scope->late, Py_NewRef(late));
    Py_XSETREF(scope->cell, Py_NewRef(Py_None));
    Py_XSETREF(scope->outer, Py_NewRef(Py_None));
    scope->is_bound = 0;
    return 0;
}

static int
scope_traverse(PyObject *self, visitproc visit, void *arg)
{
    plain_scope *scope = (plain_scope *)self;
    Py_VISIT(scope->base);
    Py_VISIT(scope->late);
    Py_VISIT(scope->cell);
    Py_VISIT(scope->outer);
    return 0;
}

static int
scope_clear(PyObject *self)
{
    plain_scope *scope = (plain_scope *)self;
    Py_CLEAR(scope->base);
    Py_CLEAR(scope->late);
    Py_CLEAR(scope->cell);
    Py_CLEAR(scope->outer);
    return 0;
}

static void
scope_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    scope_clear(self);
    Py_TYPE(self)->tp_free(self);
}

/* Returns a result, or where there is none what is said instead of it: the exception, unless it is
 * one that belongs to the application, is counted and logged. Takes over both. */
static PyObject *
or_swallowed(PyObject *result, PyObject *instead)
{
    if (result != NULL || !PyErr_ExceptionMatches(PyExc_Exception)) {
        Py_DECREF(instead);
        return result;
    }
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    PyObject *swallow = global(scope_globals, swallow_name);
    PyObject *done = PyObject_CallOneArg(swallow, error == NULL ? Py_None : error);
    if (done == NULL) { /* a test wants to see it */
        Py_CLEAR(instead);
    }
    Py_XDECREF(done);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return instead;
}

static bool
is_none(PyObject *value)
{
    return value == NULL || value == Py_None;
}

static PyObject *
try_enter(PyObject *self)
{
    plain_scope *scope = (plain_scope *)self;
    if (global(scope_globals, is_sampling_name) != Py_True) {
        return Py_NewRef(self);
    }
    if (!is_plain() || !conprof_is_label_set(scope->base)) {
        return PyObject_CallMethodNoArgs(self, enter_name);
    }
    PyObject *cell = enter_request(NULL, scope->base);
    if (cell == NULL) {
        return NULL;
    }
    if (cell == Py_None) {
        Py_DECREF(cell);
        return PyObject_CallMethodNoArgs(self, enter_name);
    }
    Py_XSETREF(scope->cell, cell);
    if (!is_none(scope->late) && PySet_Add(in_flight, self) < 0) {
        return NULL;
    }
    return Py_NewRef(self);
}

static PyObject *
scope_enter(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return or_swallowed(try_enter(self), Py_NewRef(self));
}

/* Nobody needs to ask it for labels any more. `late` often is a method of what holds the scope:
 * no cycle stays. */
static int
forget_late(plain_scope *scope)
{
    if (is_none(scope->late)) {
        return 0;
    }
    Py_XSETREF(scope->late, Py_NewRef(Py_None));
    return PySet_Discard(in_flight, (PyObject *)scope) < 0 ? -1 : 0;
}

static PyObject *
try_bind(PyObject *self, PyObject *labels)
{
    plain_scope *scope = (plain_scope *)self;
    if (is_none(scope->cell)) {
        Py_RETURN_NONE;
    }
    if (!is_plain() || !conprof_is_label_set(labels) || !is_none(scope->outer) ||
        PyDict_GET_SIZE(nested_cells) > 0) {
        return PyObject_CallMethodOneArg(self, bind_name, labels);
    }
    conprof_label_cell_bind(scope->cell, labels);
    if (!scope->is_bound) {
        scope->is_bound = 1;
        if (PyList_Append(bound, labels) < 0) {
            return NULL;
        }
        if (PyList_GET_SIZE(bound) > max_uncounted) {
            PyObject *done = PyObject_CallNoArgs(global(scope_globals, count_name));
            if (done == NULL) {
                return NULL;
            }
            Py_DECREF(done);
        }
    }
    if (forget_late(scope) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
scope_bind(PyObject *self, PyObject *labels)
{
    return or_swallowed(try_bind(self, labels), Py_NewRef(Py_None));
}

static PyObject *
try_exit(PyObject *self)
{
    plain_scope *scope = (plain_scope *)self;
    if (is_none(scope->cell)) {
        Py_RETURN_NONE;
    }
    if (!is_plain()) {
        return PyObject_CallMethodNoArgs(self, exit_name);
    }
    if (forget_late(scope) < 0 || switch_from(scope->cell, scope->outer) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
scope_exit(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return or_swallowed(try_exit(self), Py_NewRef(Py_None));
}

static PyObject *
scope_with_exit(PyObject *self, PyObject *const *Py_UNUSED(arguments), Py_ssize_t Py_UNUSED(count))
{
    return scope_exit(self, NULL);
}

static PyMethodDef scope_methods[] = {
    {"enter", scope_enter, METH_NOARGS,
     "Label what the current context does from here on; returns the scope."},
    {"bind", scope_bind, METH_O,
     "Add labels, for the samples already taken as well. Works after exit() too."},
    {"exit", scope_exit, METH_NOARGS,
     "Put back what was there before; harmless when called twice or in another context."},
    {"__enter__", scope_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))scope_with_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef scope_members[] = {
    {"_base", T_OBJECT_EX, offsetof(plain_scope, base), 0, NULL},
    {"_late", T_OBJECT_EX, offsetof(plain_scope, late), 0, NULL},
    {"_cell", T_OBJECT_EX, offsetof(plain_scope, cell), 0, NULL},
    {"_outer", T_OBJECT_EX, offsetof(plain_scope, outer), 0, NULL},
    {"is_bound", T_BOOL, offsetof(plain_scope, is_bound), 0, "Whether it has been bound."},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject scope_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "conprof_core._native.PlainScope",
    .tp_basicsize = sizeof(plain_scope),
    .tp_flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .tp_doc = "PlainScope(base, late=None)\n\nWhat RequestScope does for most requests.",
    .tp_new = PyType_GenericNew,
    .tp_init = scope_init,
    .tp_dealloc = scope_dealloc,
    .tp_traverse = scope_traverse,
    .tp_clear = scope_clear,
    .tp_methods = scope_methods,
    .tp_members = scope_members,
};

/* ---- module ---- */

static PyObject *
use_scope_state(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *scope, *labels, *tracking, *requests, *counted, *nested;
    if (!PyArg_ParseTuple(args, "O!O!O!O!O!O!n:use_scope_state", &PyDict_Type, &scope, &PyDict_Type,
                          &labels, &PyDict_Type, &tracking, &PySet_Type, &requests, &PyList_Type,
                          &counted, &PyDict_Type, &nested, &max_uncounted)) {
        return NULL;
    }
    Py_XSETREF(scope_globals, Py_NewRef(scope));
    Py_XSETREF(labels_globals, Py_NewRef(labels));
    Py_XSETREF(tracking_globals, Py_NewRef(tracking));
    Py_XSETREF(in_flight, Py_NewRef(requests));
    Py_XSETREF(bound, Py_NewRef(counted));
    Py_XSETREF(nested_cells, Py_NewRef(nested));
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"enter_request", enter_request, METH_O,
     "enter_request(labels) -> LabelCell | None\n\nMakes a provisional cell the current one; None "
     "where there is one already, and then nothing is done."},
    {"switch_request", (PyCFunction)(void (*)(void))switch_request, METH_FASTCALL,
     "switch_request(cell, next) -> bool\n\nMakes `next` current if `cell` is."},
    {"use_scope_state", use_scope_state, METH_VARARGS,
     "use_scope_state(scope, labels, tracking, in_flight, bound, nested, max_uncounted) -> "
     "None\n\nWhere "
     "PlainScope finds what decides: globals of modules, and collections that stay the same."},
    {NULL, NULL, 0, NULL},
};

int
conprof_request_init(PyObject *module)
{
    const struct {
        PyObject **name;
        const char *text;
    } names[] = {
        {&is_sampling_name, "_is_sampling"},
        {&read_trace_name, "read_trace"},
        {&thread_cells_name, "thread_cells"},
        {&enter_name, "_enter"},
        {&bind_name, "_bind"},
        {&exit_name, "_exit"},
        {&count_name, "_count"},
        {&swallow_name, "_swallow"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (*names[i].name == NULL &&
            (*names[i].name = PyUnicode_InternFromString(names[i].text)) == NULL) {
            return -1;
        }
    }
    if (PyType_Ready(&scope_type) < 0 ||
        PyModule_AddObjectRef(module, "PlainScope", (PyObject *)&scope_type) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
