/* window_object.c: see window_object.h. All functions run with the GIL held and
 * release it for the encoding, which touches nothing of Python's. */
#include "window_object.h"

#include "join.h"
#include "naming_object.h"
#include "threads.h"

typedef struct {
    PyObject_HEAD struct conprof_window *window;
} window_object;

static void
window_dealloc(PyObject *self)
{
    struct conprof_window *window = ((window_object *)self)->window;
    Py_BEGIN_ALLOW_THREADS;
    conprof_window_free(window);
    Py_END_ALLOW_THREADS;
    Py_TYPE(self)->tp_free(self);
}

/* ---- encoding ---- */

/* What an encoder gave: bytes, None when there was nothing to encode, or MemoryError. */
static PyObject *
as_bytes(char *encoded, size_t bytes)
{
    PyObject *result;
    if (encoded != NULL) {
        result = PyBytes_FromStringAndSize(encoded, (Py_ssize_t)bytes);
    }
    else {
        result = bytes == 1 ? Py_NewRef(Py_None) : PyErr_NoMemory();
    }
    free(encoded);
    return result;
}

static PyObject *
window_encode_pprof(PyObject *self, PyObject *args, PyObject *kwargs)
{
    struct conprof_pprof profile;
    PyObject *result = NULL;
    if (conprof_naming_read_pprof(args, kwargs, &profile) == 0) {
        char *encoded;
        size_t bytes = 0;
        Py_BEGIN_ALLOW_THREADS;
        encoded = conprof_pprof_encode(((window_object *)self)->window, &profile, &bytes);
        Py_END_ALLOW_THREADS;
        result = as_bytes(encoded, bytes);
    }
    conprof_naming_release_pprof(&profile);
    return result;
}

static PyObject *
window_encode_otlp(PyObject *self, PyObject *args, PyObject *kwargs)
{
    struct conprof_otlp request;
    PyObject *result = NULL;
    if (conprof_naming_read_otlp(args, kwargs, &request) == 0) {
        char *encoded;
        size_t bytes = 0;
        Py_BEGIN_ALLOW_THREADS;
        encoded = conprof_otlp_encode(((window_object *)self)->window, &request, &bytes);
        Py_END_ALLOW_THREADS;
        result = as_bytes(encoded, bytes);
    }
    conprof_naming_release_otlp(&request);
    return result;
}

/* ---- rows, for doubles and tests ---- */

static PyObject *
build_frames(const struct conprof_window *window, const struct conprof_stack_row *stack)
{
    PyObject *frames = PyTuple_New(stack->length);
    for (uint32_t i = 0; frames != NULL && i < stack->length; i++) {
        const struct conprof_location *location =
            &window->locations[window->stack_words[stack->first + i]];
        const struct conprof_code *code = location->code;
        PyObject *frame =
            Py_BuildValue("(s#s#ii)", conprof_code_name(code), (Py_ssize_t)code->name_bytes,
                          conprof_code_file(code), (Py_ssize_t)code->file_bytes, location->line,
                          code->first_line);
        if (frame == NULL) {
            Py_CLEAR(frames);
            break;
        }
        PyTuple_SET_ITEM(frames, i, frame);
    }
    return frames;
}

static PyObject *
build_labels(const struct conprof_label_record *record)
{
    PyObject *labels = PyTuple_New(record->count);
    for (uint32_t i = 0; labels != NULL && i < record->count; i++) {
        const struct conprof_label *label = &record->labels[i];
        PyObject *pair = Py_BuildValue("(s#s#)", label->key, (Py_ssize_t)label->key_bytes,
                                       label->value, (Py_ssize_t)label->value_bytes);
        if (pair == NULL) {
            Py_CLEAR(labels);
            break;
        }
        PyTuple_SET_ITEM(labels, i, pair);
    }
    return labels;
}

/* (high, low, span), or None. */
static PyObject *
build_trace(const struct conprof_window *window, uint32_t trace)
{
    if (trace == 0) {
        Py_RETURN_NONE;
    }
    const struct conprof_trace *ids = &window->traces[trace - 1];
    return Py_BuildValue("(KKK)", (unsigned long long)ids->high, (unsigned long long)ids->low,
                         (unsigned long long)ids->span);
}

static PyObject *
build_row(const struct conprof_window *window, const struct conprof_row *row, PyObject *frames,
          PyObject *labels)
{
    PyObject *entry = PyTuple_New(3 + CONPROF_COLUMN_COUNT + 1);
    PyObject *name = PyUnicode_FromString(conprof_thread_name(row->name_id));
    PyObject *trace = build_trace(window, row->trace);
    if (entry == NULL || name == NULL || trace == NULL) {
        Py_XDECREF(entry);
        Py_XDECREF(name);
        Py_XDECREF(trace);
        return NULL;
    }
    PyTuple_SET_ITEM(entry, 3 + CONPROF_COLUMN_COUNT, trace);
    PyTuple_SET_ITEM(entry, 0, Py_NewRef(frames));
    PyTuple_SET_ITEM(entry, 1, Py_NewRef(labels));
    PyTuple_SET_ITEM(entry, 2, name);
    for (int i = 0; i < CONPROF_COLUMN_COUNT; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(row->values[i]);
        if (value == NULL) {
            Py_DECREF(entry);
            return NULL;
        }
        PyTuple_SET_ITEM(entry, 3 + i, value);
    }
    return entry;
}

static PyObject *
window_rows(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    const struct conprof_window *window = ((window_object *)self)->window;
    PyObject *rows = PyList_New(0);
    for (uint32_t i = 0; rows != NULL && i < window->row_count; i++) {
        const struct conprof_row *row = &window->rows[i];
        if (conprof_row_is_empty(row)) {
            continue;
        }
        PyObject *frames = build_frames(window, &window->stacks[row->stack]);
        PyObject *labels = frames == NULL ? NULL : build_labels(row->record);
        PyObject *entry = labels == NULL ? NULL : build_row(window, row, frames, labels);
        if (entry == NULL || PyList_Append(rows, entry) < 0) {
            Py_CLEAR(rows);
        }
        Py_XDECREF(frames);
        Py_XDECREF(labels);
        Py_XDECREF(entry);
    }
    return rows;
}

/* ---- numbers ---- */

enum number { START_NS, END_NS, SAMPLES, CPU_NS, STACKS, LOST_STACKS, LOST_TRACES };

static PyObject *
window_number(PyObject *self, void *which)
{
    const struct conprof_window *window = ((window_object *)self)->window;
    switch ((enum number)(intptr_t)which) {
    case START_NS:
        return PyLong_FromLongLong(window->start_ns);
    case END_NS:
        return PyLong_FromLongLong(window->end_ns);
    case SAMPLES:
        return PyLong_FromUnsignedLongLong(window->totals[CONPROF_COLUMN_SAMPLES]);
    case CPU_NS:
        return PyLong_FromUnsignedLongLong(window->totals[CONPROF_COLUMN_CPU_NS]);
    case STACKS:
        return PyLong_FromUnsignedLong(window->stack_count);
    case LOST_STACKS:
        return PyLong_FromUnsignedLongLong(window->lost[CONPROF_LOST_STACKS]);
    case LOST_TRACES:
        return PyLong_FromUnsignedLongLong(window->lost[CONPROF_LOST_TRACES]);
    }
    Py_UNREACHABLE();
}

static PyGetSetDef window_getset[] = {
    {"start_ns", window_number, NULL, "Unix time of its begin.", (void *)START_NS},
    {"end_ns", window_number, NULL, "Unix time of its end.", (void *)END_NS},
    {"samples", window_number, NULL, "Samples taken.", (void *)SAMPLES},
    {"cpu_ns", window_number, NULL, "CPU time of all rows.", (void *)CPU_NS},
    {"stacks", window_number, NULL, "Distinct stacks.", (void *)STACKS},
    {"overflowed", window_number, NULL, "Samples without a stack for lack of room.",
     (void *)LOST_STACKS},
    {"traces_refused", window_number, NULL, "Samples without their ids for lack of room.",
     (void *)LOST_TRACES},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef window_methods[] = {
    {"encode_pprof", (PyCFunction)(void (*)(void))window_encode_pprof, METH_VARARGS | METH_KEYWORDS,
     "The window as uncompressed pprof. Releases the GIL."},
    {"encode_otlp", (PyCFunction)(void (*)(void))window_encode_otlp, METH_VARARGS | METH_KEYWORDS,
     "The window as an uncompressed OTLP request. Releases the GIL."},
    {"rows", window_rows, METH_NOARGS, "A list of (frames, labels, thread_name, *columns, trace)."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject window_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "conprof_core._native.Window",
    .tp_basicsize = sizeof(window_object),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .tp_doc = "One detached window; immutable, independent of the session.",
    .tp_dealloc = window_dealloc,
    .tp_methods = window_methods,
    .tp_getset = window_getset,
};

int
conprof_window_object_init(PyObject *module)
{
    if (PyType_Ready(&window_type) < 0) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "Window", (PyObject *)&window_type);
}

PyObject *
conprof_window_object_new(struct conprof_window *window)
{
    if (window == NULL) {
        return PyErr_NoMemory();
    }
    window_object *object = PyObject_New(window_object, &window_type);
    if (object == NULL) {
        conprof_window_free(window);
        return NULL;
    }
    object->window = window;
    return (PyObject *)object;
}

/* ---- sums ---- */

/* parts: a tuple of (Window, bits added, bits subtracted). */
static int
read_parts(PyObject *tuple, struct conprof_part *parts)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
        PyObject *window, *entry = PyTuple_GET_ITEM(tuple, i);
        unsigned int added, subtracted;
        if (!PyTuple_Check(entry) ||
            !PyArg_ParseTuple(entry, "O!II", &window_type, &window, &added, &subtracted)) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_TypeError, "a part is (Window, bits, bits)");
            }
            return -1;
        }
        parts[i] = (struct conprof_part){((window_object *)window)->window, added, subtracted};
    }
    return 0;
}

PyObject *
conprof_window_object_join(PyObject *Py_UNUSED(module), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"parts",          "start_ns", "end_ns", "max_stacks",
                            "max_label_sets", "threads",  NULL};
    PyObject *tuple;
    long long start_ns, end_ns;
    int has_threads;
    struct conprof_joining joining = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!$LLIIp:join", names, &PyTuple_Type, &tuple,
                                     &start_ns, &end_ns, &joining.max_stacks,
                                     &joining.max_label_sets, &has_threads)) {
        return NULL;
    }
    joining.start_ns = start_ns;
    joining.end_ns = end_ns;
    joining.has_threads = has_threads != 0;
    size_t count = (size_t)PyTuple_GET_SIZE(tuple);
    struct conprof_part *parts = PyMem_Calloc(count + 1, sizeof *parts);
    if (parts == NULL) {
        return PyErr_NoMemory();
    }
    PyObject *result = NULL;
    if (read_parts(tuple, parts) == 0) {
        struct conprof_window *sum;
        /* The tuple, which nobody can change, keeps the windows alive. */
        Py_BEGIN_ALLOW_THREADS;
        sum = conprof_join(parts, count, &joining);
        Py_END_ALLOW_THREADS;
        result = conprof_window_object_new(sum);
    }
    PyMem_Free(parts);
    return result;
}
