/* window_object.c: see window_object.h. All functions run with the GIL held and
 * release it for the encoding, which touches nothing of Python's. */
#include "window_object.h"

#include <string.h>

#include "pprof.h"
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

/* ---- reading a Naming ---- */

/* A str's UTF-8, borrowed from the str. */
static int
as_text(PyObject *object, void *to)
{
    struct conprof_text *text = to;
    Py_ssize_t bytes;
    if (object == Py_None) {
        *text = (struct conprof_text){NULL, 0};
        return 1;
    }
    text->data = PyUnicode_Check(object) ? PyUnicode_AsUTF8AndSize(object, &bytes) : NULL;
    if (text->data == NULL) {
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_TypeError, "a name on the wire must be a str");
        }
        return 0;
    }
    text->bytes = (size_t)bytes;
    return 1;
}

/* sample_types: a sequence of (type, unit, column). */
static int
read_sample_types(PyObject *types, struct conprof_naming *naming)
{
    Py_ssize_t count = PyTuple_GET_SIZE(types);
    if (count < 1 || count > CONPROF_MAX_SAMPLE_TYPES) {
        PyErr_Format(PyExc_ValueError, "1 to %d sample types, not %zd", CONPROF_MAX_SAMPLE_TYPES,
                     count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        const char *column;
        PyObject *entry = PyTuple_GET_ITEM(types, i);
        if (!PyTuple_Check(entry) ||
            !PyArg_ParseTuple(entry, "O&O&s", as_text, &naming->sample_types[i].type, as_text,
                              &naming->sample_types[i].unit, &column)) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_TypeError, "a sample type is (type, unit, column)");
            }
            return -1;
        }
        int known = 0;
        while (known < CONPROF_COLUMN_COUNT && strcmp(column, conprof_column_names[known]) != 0) {
            known++;
        }
        if (known == CONPROF_COLUMN_COUNT) {
            PyErr_Format(PyExc_ValueError, "there is no column %s", column);
            return -1;
        }
        naming->sample_types[i].column = (enum conprof_column)known;
    }
    naming->sample_type_count = (size_t)count;
    return 0;
}

static int
read_renames(PyObject *names, struct conprof_naming *naming)
{
    PyObject *key, *value;
    Py_ssize_t at = 0;
    naming->renames = PyMem_Calloc((size_t)PyDict_GET_SIZE(names) + 1, sizeof *naming->renames);
    if (naming->renames == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    while (PyDict_Next(names, &at, &key, &value)) {
        struct conprof_rename *rename = &naming->renames[naming->rename_count++];
        if (!as_text(key, &rename->from) || !as_text(value, &rename->to)) {
            return -1;
        }
    }
    return 0;
}

static int
read_comments(PyObject *comments, struct conprof_naming *naming)
{
    Py_ssize_t count = PyTuple_GET_SIZE(comments);
    naming->comments = PyMem_Calloc((size_t)count + 1, sizeof *naming->comments);
    if (naming->comments == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!as_text(PyTuple_GET_ITEM(comments, i), &naming->comments[i])) {
            return -1;
        }
    }
    naming->comment_count = (size_t)count;
    return 0;
}

static PyObject *
window_encode_pprof(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"sample_types",   "period_type",  "period",       "default_sample_type",
                            "label_names",    "thread_label", "mapping_file", "comments",
                            "max_label_sets", "first_sample", "max_samples",  NULL};
    struct conprof_naming naming = {0};
    PyObject *types, *label_names, *comments, *result = NULL;
    long long period;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "$O!(O&O&)LO&O!O&O&O!III:encode_pprof", names, &PyTuple_Type, &types,
            as_text, &naming.period_type, as_text, &naming.period_unit, &period, as_text,
            &naming.default_sample_type, &PyDict_Type, &label_names, as_text, &naming.thread_label,
            as_text, &naming.mapping_file, &PyTuple_Type, &comments, &naming.max_label_sets,
            &naming.first_sample, &naming.max_samples)) {
        return NULL;
    }
    naming.period = period;
    if (read_sample_types(types, &naming) == 0 && read_renames(label_names, &naming) == 0 &&
        read_comments(comments, &naming) == 0) {
        char *encoded;
        size_t bytes = 0;
        Py_BEGIN_ALLOW_THREADS;
        encoded = conprof_pprof_encode(((window_object *)self)->window, &naming, &bytes);
        Py_END_ALLOW_THREADS;
        if (encoded != NULL) {
            result = PyBytes_FromStringAndSize(encoded, (Py_ssize_t)bytes);
        }
        else {
            result = bytes == 1 ? Py_NewRef(Py_None) : PyErr_NoMemory();
        }
        free(encoded);
    }
    PyMem_Free(naming.renames);
    PyMem_Free(naming.comments);
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

static PyObject *
build_row(const struct conprof_row *row, PyObject *frames, PyObject *labels)
{
    PyObject *entry = PyTuple_New(3 + CONPROF_COLUMN_COUNT);
    PyObject *name = PyUnicode_FromString(conprof_thread_name(row->name_id));
    if (entry == NULL || name == NULL) {
        Py_XDECREF(entry);
        Py_XDECREF(name);
        return NULL;
    }
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
        PyObject *entry = labels == NULL ? NULL : build_row(row, frames, labels);
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

enum number { START_NS, END_NS, SAMPLES, CPU_NS, STACKS, LOST_STACKS };

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
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef window_methods[] = {
    {"encode_pprof", (PyCFunction)(void (*)(void))window_encode_pprof, METH_VARARGS | METH_KEYWORDS,
     "The window as uncompressed pprof. Releases the GIL."},
    {"rows", window_rows, METH_NOARGS, "A list of (frames, labels, thread_name, *columns)."},
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
