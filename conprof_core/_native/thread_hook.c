/* thread_hook.c: see thread_hook.h. All functions run with the GIL held. */
#include "thread_hook.h"

#include <string.h>
#include <unistd.h>

#include "drain.h"
#include "own_tid.h"
#include "session.h"
#include "state.h"

static PyObject *original_bootstrap; /* written by: bootstrap_descriptor */

typedef struct {
    PyObject_HEAD pid_t process, thread;
} guard_object;

/* Runs in the thread that ends: its state's dictionary is being cleared. Any other
 * circumstance (a fork's child, somebody clearing the dictionary) is told apart by
 * the ids. */
static void
guard_dealloc(PyObject *self)
{
    guard_object *guard = (guard_object *)self;
    if (guard->process == getpid() && guard->thread == conprof_own_tid()) {
        conprof_session_thread_end();
    }
    Py_TYPE(self)->tp_free(self);
}

static PyTypeObject guard_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "conprof_core._native.ThreadGuard",
    .tp_basicsize = sizeof(guard_object),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .tp_doc = "Lives as long as a thread's state.",
    .tp_dealloc = guard_dealloc,
};

static void
leave_guard(void)
{
    PyObject *state = PyThreadState_GetDict(); /* borrowed */
    guard_object *guard = state == NULL ? NULL : PyObject_New(guard_object, &guard_type);
    if (guard != NULL) {
        guard->process = getpid();
        guard->thread = conprof_own_tid();
        /* Under gevent many greenlets bootstrap in one thread: the first guard stays. */
        PyObject *key = (PyObject *)&guard_type;
        if (PyDict_SetDefault(state, key, (PyObject *)guard) != (PyObject *)guard) {
            guard->process = 0;
        }
        Py_DECREF(guard);
    }
}

/* The code that a thread was made for: its target's, or that of its run(). New
 * reference, or NULL without an exception. */
static PyObject *
target_code(PyObject *thread)
{
    PyObject *function = PyObject_GetAttrString(thread, "_target");
    if (function == NULL || function == Py_None) {
        PyErr_Clear();
        Py_XDECREF(function);
        function = PyObject_GetAttrString((PyObject *)Py_TYPE(thread), "run");
    }
    if (function != NULL && PyMethod_Check(function)) {
        PyObject *bare = Py_NewRef(PyMethod_GET_FUNCTION(function));
        Py_SETREF(function, bare);
    }
    PyObject *code = NULL;
    if (function != NULL && PyFunction_Check(function)) {
        code = Py_NewRef(PyFunction_GET_CODE(function));
    }
    Py_XDECREF(function);
    PyErr_Clear();
    return code;
}

/* A str of which UTF-8 can hold all: with U+FFFD in place of lone surrogates (_text.py). New
 * reference; NULL with an exception. */
static PyObject *
valid_text(PyObject *text)
{
    if (PyUnicode_AsUTF8(text) != NULL) {
        return Py_NewRef(text);
    }
    PyErr_Clear();
    Py_ssize_t length = PyUnicode_GET_LENGTH(text);
    PyObject *valid = PyUnicode_New(length, PyUnicode_MAX_CHAR_VALUE(text) | 0xFFFD);
    for (Py_ssize_t i = 0; valid != NULL && i < length; i++) {
        Py_UCS4 c = PyUnicode_READ_CHAR(text, i);
        PyUnicode_WRITE(PyUnicode_KIND(valid), PyUnicode_DATA(valid), i,
                        c >= 0xD800 && c <= 0xDFFF ? 0xFFFD : c);
    }
    return valid;
}

static void
begin_thread(PyObject *thread)
{
    conprof_state_note();
    PyObject *name = PyObject_GetAttrString(thread, "_name");
    if (name != NULL) {
        Py_SETREF(name, PyUnicode_Check(name) ? valid_text(name) : NULL);
    }
    PyErr_Clear();
    PyObject *code = target_code(thread);
    Py_ssize_t bytes = 0;
    const char *text = name == NULL ? NULL : PyUnicode_AsUTF8AndSize(name, &bytes);
    conprof_session_thread_begin(text == NULL ? "" : text, (size_t)bytes, code);
    Py_XDECREF(name);
    Py_XDECREF(code);
    leave_guard();
    PyErr_Clear();
}

static PyObject *
bootstrap(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    if (conprof_session_is_running()) {
        conprof_drain_check();
        begin_thread(self);
    }
    return PyObject_CallOneArg(original_bootstrap, self);
}

static PyMethodDef bootstrap_method = {"_bootstrap", bootstrap, METH_NOARGS,
                                       "Thread._bootstrap, known to conprof."};

static PyObject *
bootstrap_descriptor(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *type, *original;
    if (!PyArg_ParseTuple(args, "O!O:bootstrap_descriptor", &PyType_Type, &type, &original)) {
        return NULL;
    }
    Py_XSETREF(original_bootstrap, Py_NewRef(original));
    return PyDescr_NewMethod((PyTypeObject *)type, &bootstrap_method);
}

static PyMethodDef functions[] = {
    {"bootstrap_descriptor", bootstrap_descriptor, METH_VARARGS,
     "bootstrap_descriptor(Thread, original) -> method descriptor\n\nA replacement for "
     "Thread._bootstrap that arms the new thread, then calls the original."},
    {NULL, NULL, 0, NULL},
};

int
conprof_thread_hook_init(PyObject *module)
{
    if (PyType_Ready(&guard_type) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
