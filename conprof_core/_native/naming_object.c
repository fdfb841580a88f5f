/* naming_object.c: see naming_object.h. */
#include "naming_object.h"

#include <string.h>

/* A str's UTF-8, borrowed from the str; None has no data. */
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

static int
as_raw(PyObject *object, void *to)
{
    if (!PyBytes_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "an encoded part must be bytes");
        return 0;
    }
    *(struct conprof_text *)to =
        (struct conprof_text){PyBytes_AS_STRING(object), (size_t)PyBytes_GET_SIZE(object)};
    return 1;
}

/* sample_types: a sequence of (type, unit, column), appended to those known. */
static int
read_sample_types(PyObject *types, struct conprof_naming *naming)
{
    Py_ssize_t count = PyTuple_GET_SIZE(types);
    Py_ssize_t room = CONPROF_MAX_SAMPLE_TYPES - (Py_ssize_t)naming->sample_type_count;
    if (count < 1 || count > room) {
        PyErr_Format(PyExc_ValueError, "1 to %d sample types, not %zd", CONPROF_MAX_SAMPLE_TYPES,
                     count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        const char *column;
        PyObject *entry = PyTuple_GET_ITEM(types, i);
        size_t at = naming->sample_type_count;
        if (!PyTuple_Check(entry) ||
            !PyArg_ParseTuple(entry, "O&O&s", as_text, &naming->sample_types[at].type, as_text,
                              &naming->sample_types[at].unit, &column)) {
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
        naming->sample_types[at].column = (enum conprof_column)known;
        naming->sample_type_count++;
    }
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

/* span_form and span_keys: how a trace travels. */
static int
read_spans(const char *form, PyObject *keys, struct conprof_naming *naming)
{
    static const char *const forms[] = {[CONPROF_SPAN_NONE] = "",
                                        [CONPROF_SPAN_HEX] = "hex",
                                        [CONPROF_SPAN_DECIMAL] = "decimal",
                                        [CONPROF_SPAN_NUMBER] = "number",
                                        [CONPROF_SPAN_LINK] = "link"};
    size_t known = 0, count = sizeof forms / sizeof *forms;
    while (known < count && strcmp(form, forms[known]) != 0) {
        known++;
    }
    if (known == count || PyTuple_GET_SIZE(keys) > CONPROF_MAX_SPAN_KEYS) {
        PyErr_Format(PyExc_ValueError, "there is no form %s of a span id with %zd keys", form,
                     PyTuple_GET_SIZE(keys));
        return -1;
    }
    naming->span_form = (enum conprof_span_form)known;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(keys); i++) {
        if (!as_text(PyTuple_GET_ITEM(keys, i), &naming->span_keys[i])) {
            return -1;
        }
        naming->span_key_count++;
    }
    return 0;
}

/* ---- pprof ---- */

static int
read_comments(PyObject *comments, struct conprof_pprof *profile)
{
    Py_ssize_t count = PyTuple_GET_SIZE(comments);
    profile->comments = PyMem_Calloc((size_t)count + 1, sizeof *profile->comments);
    if (profile->comments == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!as_text(PyTuple_GET_ITEM(comments, i), &profile->comments[i])) {
            return -1;
        }
    }
    profile->comment_count = (size_t)count;
    return 0;
}

int
conprof_naming_read_pprof(PyObject *args, PyObject *kwargs, struct conprof_pprof *profile)
{
    static char *names[] = {"sample_types",        "period_type", "period",
                            "default_sample_type", "label_names", "thread_label",
                            "mapping_file",        "comments",    "max_label_sets",
                            "first_sample",        "max_samples", "span_form",
                            "span_keys",           NULL};
    PyObject *types, *label_names, *comments, *span_keys;
    const char *span_form;
    long long period;
    *profile = (struct conprof_pprof){0};
    struct conprof_naming *naming = &profile->naming;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "$O!(O&O&)LO&O!O&O&O!IIIsO!:encode_pprof", names, &PyTuple_Type, &types,
            as_text, &profile->period_type, as_text, &profile->period_unit, &period, as_text,
            &profile->default_sample_type, &PyDict_Type, &label_names, as_text,
            &naming->thread_label, as_text, &profile->mapping_file, &PyTuple_Type, &comments,
            &naming->max_label_sets, &profile->first_sample, &naming->max_samples, &span_form,
            &PyTuple_Type, &span_keys)) {
        return -1;
    }
    profile->period = period;
    if (read_sample_types(types, naming) < 0 || read_renames(label_names, naming) < 0 ||
        read_spans(span_form, span_keys, naming) < 0) {
        return -1;
    }
    return read_comments(comments, profile);
}

void
conprof_naming_release_pprof(struct conprof_pprof *profile)
{
    PyMem_Free(profile->naming.renames);
    PyMem_Free(profile->comments);
}

/* ---- OTLP ---- */

/* shapes: a sequence of Shape, which is a tuple. */
static int
read_shapes(PyObject *shapes, struct conprof_otlp *request)
{
    Py_ssize_t count = PyTuple_GET_SIZE(shapes);
    if (count > CONPROF_MAX_SAMPLE_TYPES) {
        PyErr_Format(PyExc_ValueError, "%zd shapes are too many", count);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        struct conprof_otlp_shape *shape = &request->shapes[i];
        PyObject *types, *unused, *entry = PyTuple_GET_ITEM(shapes, i);
        long long period;
        if (!PyTuple_Check(entry) ||
            !PyArg_ParseTuple(entry, "O&O!(O&O&)LO", as_text, &shape->name, &PyTuple_Type, &types,
                              as_text, &shape->period_type, as_text, &shape->period_unit, &period,
                              &unused)) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_TypeError, "a shape is a Shape");
            }
            return -1;
        }
        shape->period = period;
        shape->first_type = request->naming.sample_type_count;
        if (read_sample_types(types, &request->naming) < 0) {
            return -1;
        }
        shape->type_count = request->naming.sample_type_count - shape->first_type;
        request->shape_count++;
    }
    return 0;
}

/* attributes: a sequence of (key, number). */
static int
read_attributes(PyObject *attributes, struct conprof_otlp *request)
{
    Py_ssize_t count = PyTuple_GET_SIZE(attributes);
    request->attributes = PyMem_Calloc((size_t)count + 1, sizeof *request->attributes);
    if (request->attributes == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        struct conprof_otlp_attribute *attribute = &request->attributes[i];
        PyObject *entry = PyTuple_GET_ITEM(attributes, i);
        long long value;
        if (!PyTuple_Check(entry) ||
            !PyArg_ParseTuple(entry, "O&L", as_text, &attribute->key, &value)) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_TypeError, "an attribute is (key, number)");
            }
            return -1;
        }
        attribute->value = value;
        request->attribute_count++;
    }
    return 0;
}

int
conprof_naming_read_otlp(PyObject *args, PyObject *kwargs, struct conprof_otlp *request)
{
    static char *names[] = {
        "shapes",     "label_names",    "thread_label", "resource",  "version", "profile_id",
        "attributes", "max_label_sets", "max_samples",  "span_form", NULL};
    PyObject *shapes, *label_names, *attributes;
    const char *span_form;
    *request = (struct conprof_otlp){0};
    struct conprof_naming *naming = &request->naming;
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "$O!O!O&O&O&O&O!IIs:encode_otlp", names, &PyTuple_Type, &shapes,
            &PyDict_Type, &label_names, as_text, &naming->thread_label, as_raw, &request->resource,
            as_text, &request->version, as_raw, &request->profile_id, &PyTuple_Type, &attributes,
            &naming->max_label_sets, &naming->max_samples, &span_form)) {
        return -1;
    }
    if (request->profile_id.bytes != CONPROF_OTLP_ID_BYTES) {
        PyErr_Format(PyExc_ValueError, "a profile id has %d bytes", CONPROF_OTLP_ID_BYTES);
        return -1;
    }
    PyObject *no_keys = PyTuple_New(0);
    int done = no_keys == NULL ? -1 : read_spans(span_form, no_keys, naming);
    Py_XDECREF(no_keys);
    if (done < 0 || read_shapes(shapes, request) < 0 || read_renames(label_names, naming) < 0) {
        return -1;
    }
    return read_attributes(attributes, request);
}

void
conprof_naming_release_otlp(struct conprof_otlp *request)
{
    PyMem_Free(request->naming.renames);
    PyMem_Free(request->attributes);
}
