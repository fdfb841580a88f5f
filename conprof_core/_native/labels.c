/* labels.c: the Python types LabelSet and LabelCell, and the ContextVar.
 *
 * All functions run with the GIL held. See labels.h for the life of a record.
 */
#include "labels.h"

#include "label_records.h"
#include "lock.h"

static PyObject *context_variable;     /* immutable after init */
static PyObject *empty_set;            /* immutable after init */
static _Atomic uint64_t next_cell = 1; /* written by: GIL holder */

/* ---- LabelSet ---- */

static void
label_set_dealloc(PyObject *self)
{
    conprof_label_set *set = (conprof_label_set *)self;
    if (set->record != NULL) {
        conprof_lock();
        conprof_labels_release(set->record);
        conprof_unlock();
    }
    Py_XDECREF(set->items);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *
label_set_items(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(((conprof_label_set *)self)->items);
}

static PyObject *
label_set_repr(PyObject *self)
{
    return PyUnicode_FromFormat("LabelSet(%R)", ((conprof_label_set *)self)->items);
}

static PyMethodDef label_set_methods[] = {
    {"items", label_set_items, METH_NOARGS, "The pairs, sorted by key."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject label_set_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "conprof_core._native.LabelSet",
    .tp_basicsize = sizeof(conprof_label_set),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .tp_doc = "An immutable, interned set of labels. Made by intern_labels().",
    .tp_dealloc = label_set_dealloc,
    .tp_repr = label_set_repr,
    .tp_methods = label_set_methods,
};

/* Reads sorted pairs of str; false with an exception. */
static bool
read_pairs(PyObject *pairs, struct conprof_label *labels)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(pairs); i++) {
        PyObject *pair = PyList_GET_ITEM(pairs, i);
        PyObject *key, *value;
        if (!PyTuple_Check(pair) || !PyArg_ParseTuple(pair, "UU", &key, &value)) {
            PyErr_SetString(PyExc_TypeError, "labels are pairs of str");
            return false;
        }
        Py_ssize_t key_bytes, value_bytes;
        labels[i].key = PyUnicode_AsUTF8AndSize(key, &key_bytes);
        labels[i].value =
            labels[i].key == NULL ? NULL : PyUnicode_AsUTF8AndSize(value, &value_bytes);
        if (labels[i].value == NULL) {
            return false;
        }
        labels[i].key_bytes = (uint32_t)key_bytes;
        labels[i].value_bytes = (uint32_t)value_bytes;
    }
    return true;
}

/* Makes a LabelSet of a sorted list of (str, str) tuples. */
static PyObject *
label_set_from_sorted(PyObject *pairs)
{
    Py_ssize_t count = PyList_GET_SIZE(pairs);
    if (count > (Py_ssize_t)CONPROF_MAX_LABELS) {
        return PyErr_Format(PyExc_ValueError, "a label set holds at most %d labels, not %zd",
                            (int)CONPROF_MAX_LABELS, count);
    }
    /* Not on the stack: it is the application's. */
    struct conprof_label *labels = PyMem_Malloc((size_t)count * sizeof *labels);
    if (labels == NULL) {
        return PyErr_NoMemory();
    }
    conprof_label_set *set = NULL;
    if (read_pairs(pairs, labels)) {
        set = PyObject_New(conprof_label_set, &label_set_type);
    }
    if (set != NULL) {
        set->record = NULL;
        set->items = PyList_AsTuple(pairs);
        if (set->items != NULL) {
            set->record = conprof_label_records_intern(labels, (uint32_t)count);
        }
        else {
            Py_CLEAR(set);
        }
    }
    PyMem_Free(labels);
    return (PyObject *)set;
}

/* A new sorted list of pairs without repeated keys; the later pair wins. */
static PyObject *
sorted_pairs(PyObject *pairs)
{
    PyObject *merged = PyDict_New();
    if (merged == NULL) {
        return NULL;
    }
    int failed = PyDict_Check(pairs) ? PyDict_Merge(merged, pairs, 1)
                                     : PyDict_MergeFromSeq2(merged, pairs, 1);
    PyObject *list = failed < 0 ? NULL : PyDict_Items(merged);
    Py_DECREF(merged);
    if (list != NULL && PyList_Sort(list) < 0) {
        Py_CLEAR(list);
    }
    return list;
}

static PyObject *
intern_labels(PyObject *Py_UNUSED(module), PyObject *pairs)
{
    PyObject *list = sorted_pairs(pairs);
    if (list == NULL) {
        return NULL;
    }
    PyObject *set = label_set_from_sorted(list);
    Py_DECREF(list);
    return set;
}

/* ---- LabelCell ---- */

static void
cell_set(conprof_label_cell *cell, PyObject *labels)
{
    /* The record changes before the old set can die. */
    PyObject *old = cell->labels;
    cell->labels = Py_NewRef(labels);
    atomic_store_explicit(&cell->record, ((conprof_label_set *)labels)->record,
                          memory_order_release);
    Py_XDECREF(old);
}

static void
cell_dealloc(PyObject *self)
{
    Py_CLEAR(((conprof_label_cell *)self)->labels);
    Py_TYPE(self)->tp_free(self);
}

static PyTypeObject cell_type;

PyObject *
conprof_label_cell_new(PyObject *labels, bool is_provisional)
{
    if (!Py_IS_TYPE(labels, &label_set_type)) {
        PyErr_SetString(PyExc_TypeError, "a label cell holds a LabelSet");
        return NULL;
    }
    conprof_label_cell *cell = (conprof_label_cell *)cell_type.tp_alloc(&cell_type, 0);
    if (cell == NULL) {
        return NULL;
    }
    cell->id = atomic_fetch_add_explicit(&next_cell, 1, memory_order_relaxed);
    cell_set(cell, labels);
    atomic_store_explicit(&cell->is_provisional, is_provisional, memory_order_release);
    return (PyObject *)cell;
}

static PyObject *
cell_new(PyTypeObject *Py_UNUSED(type), PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"labels", "provisional", "within", NULL};
    PyObject *labels, *within = NULL;
    int provisional = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|$pO!:LabelCell", names, &label_set_type,
                                     &labels, &provisional, &cell_type, &within)) {
        return NULL;
    }
    PyObject *made = conprof_label_cell_new(labels, provisional != 0);
    if (made != NULL && within != NULL) {
        conprof_label_cell *cell = (conprof_label_cell *)made;
        const conprof_label_cell *outer = (conprof_label_cell *)within;
        if (atomic_load(&outer->has_trace)) {
            cell->trace = outer->trace;
            atomic_store(&cell->has_trace, true);
        }
    }
    return made;
}

bool
conprof_is_label_set(PyObject *value)
{
    return value != NULL && Py_IS_TYPE(value, &label_set_type);
}

void
conprof_label_cell_bind(PyObject *self, PyObject *labels)
{
    conprof_label_cell *cell = (conprof_label_cell *)self;
    bool was_provisional = atomic_exchange(&cell->is_provisional, false);
    cell_set(cell, labels);
    if (was_provisional &&
        (atomic_load(&cell->was_sampled) || conprof_labels_was_looked(cell->id))) {
        conprof_label_records_bind(cell->id, ((conprof_label_set *)labels)->record);
    }
}

static PyObject *
cell_bind(PyObject *self, PyObject *labels)
{
    if (!conprof_is_label_set(labels)) {
        PyErr_SetString(PyExc_TypeError, "bind() takes a LabelSet");
        return NULL;
    }
    conprof_label_cell_bind(self, labels);
    Py_RETURN_NONE;
}

/* Also after the samples: the handler stores `was_sampled`, then loads `has_trace`; here it is
 * the other way round, so at least one of the two sees the other. */
static PyObject *
cell_set_trace(PyObject *self, PyObject *args)
{
    conprof_label_cell *cell = (conprof_label_cell *)self;
    struct conprof_trace trace;
    unsigned long long high, low, span;
    if (!PyArg_ParseTuple(args, "KKK:set_trace", &high, &low, &span)) {
        return NULL;
    }
    if (span == 0 || cell->trace.span != 0) {
        Py_RETURN_FALSE;
    }
    trace = (struct conprof_trace){high, low, span};
    cell->trace = trace;
    atomic_store(&cell->has_trace, true);
    if (atomic_load(&cell->was_sampled) || conprof_labels_was_looked(cell->id)) {
        conprof_traces_bind(cell->id, &trace);
    }
    Py_RETURN_TRUE;
}

static PyObject *
cell_end_trace(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    /* The ids themselves stay: a handler may stand between the two loads. */
    atomic_store(&((conprof_label_cell *)self)->has_trace, false);
    Py_RETURN_NONE;
}

static PyObject *
cell_get_trace(PyObject *self, void *Py_UNUSED(closure))
{
    const conprof_label_cell *cell = (conprof_label_cell *)self;
    if (!atomic_load(&cell->has_trace)) {
        Py_RETURN_NONE;
    }
    return Py_BuildValue("(KKK)", (unsigned long long)cell->trace.high,
                         (unsigned long long)cell->trace.low, (unsigned long long)cell->trace.span);
}

static PyObject *
cell_get_labels(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(((conprof_label_cell *)self)->labels);
}

static PyObject *
cell_get_id(PyObject *self, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((conprof_label_cell *)self)->id);
}

static PyObject *
cell_get_provisional(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(atomic_load(&((conprof_label_cell *)self)->is_provisional));
}

static PyMethodDef cell_methods[] = {
    {"bind", cell_bind, METH_O, "Set the final labels; earlier samples get them, too."},
    {"set_trace", cell_set_trace, METH_VARARGS,
     "set_trace(high, low, span) -> bool\n\nSet the ids of a span, for earlier samples of a "
     "provisional cell, too. False, and nothing done, in a cell that had some."},
    {"end_trace", cell_end_trace, METH_NOARGS, "Give later samples no ids."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef cell_getset[] = {
    {"labels", cell_get_labels, NULL, "The current LabelSet.", NULL},
    {"id", cell_get_id, NULL, "A number that no other cell has or had.", NULL},
    {"provisional", cell_get_provisional, NULL, "Whether bind() is still to come.", NULL},
    {"trace", cell_get_trace, NULL, "(high, low, span) that samples get, or None.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyTypeObject cell_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "conprof_core._native.LabelCell",
    .tp_basicsize = sizeof(conprof_label_cell),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .tp_doc = "LabelCell(labels, *, provisional=False, within=...)\n\n"
              "The value of the labels' context variable; shared by copied contexts. It begins "
              "with the ids of the cell that it is entered within.",
    .tp_new = cell_new,
    .tp_dealloc = cell_dealloc,
    .tp_methods = cell_methods,
    .tp_getset = cell_getset,
};

/* ---- module ---- */

static PyMethodDef functions[] = {
    {"intern_labels", intern_labels, METH_O,
     "intern_labels(pairs) -> LabelSet\n\nThe one set of these labels; a mapping or pairs of "
     "str. Returns the overflow set when too many distinct sets are alive."},
    {NULL, NULL, 0, NULL},
};

int
conprof_labels_init(PyObject *module)
{
    if (PyType_Ready(&label_set_type) < 0 || PyType_Ready(&cell_type) < 0) {
        return -1;
    }
    if (!conprof_label_records_init()) {
        PyErr_NoMemory();
        return -1;
    }
    if (context_variable == NULL) {
        context_variable = PyContextVar_New("conprof_labels", Py_None);
        PyObject *none = PyList_New(0);
        empty_set = none == NULL ? NULL : label_set_from_sorted(none);
        Py_XDECREF(none);
        if (context_variable == NULL || empty_set == NULL) {
            return -1;
        }
    }
    if (PyModule_AddFunctions(module, functions) < 0 ||
        PyModule_AddObjectRef(module, "LabelSet", (PyObject *)&label_set_type) < 0 ||
        PyModule_AddObjectRef(module, "LabelCell", (PyObject *)&cell_type) < 0 ||
        PyModule_AddObjectRef(module, "context_var", context_variable) < 0) {
        return -1;
    }
    return 0;
}

struct conprof_marks
conprof_marks_none(void)
{
    return (struct conprof_marks){.record = conprof_labels_empty()};
}

PyObject *
conprof_labels_variable(void)
{
    return context_variable;
}

PyTypeObject *
conprof_labels_cell_type(void)
{
    return &cell_type;
}
