/* context.c: a look-up in CPython's hash array mapped trie. See context.h. */
#include "context.h"

#include "safemem.h"

/* 32 hash bits, five a level, and one level for equal hashes. */
#define MAX_DEPTH 8

/* immutable after conprof_context_init */
static PyTypeObject *bitmap_type, *array_type;
static PyObject *variable;
static PyTypeObject *cell_type;
static uint32_t variable_hash;

/* SIGNAL-SAFE. hamt.c folds a hash to 32 bits and avoids -1. */
static uint32_t
fold(Py_hash_t hash)
{
    uint64_t wide = (uint64_t)hash;
    int32_t folded = (int32_t)(uint32_t)(wide ^ wide >> 32);
    return folded == -1 ? (uint32_t)-2 : (uint32_t)folded;
}

/* SIGNAL-SAFE. Our variable's value below `node`. A collision node would mean
 * that another variable has the same 32-bit hash: it reads as "no label". */
static PyObject *
find(PyObject *node)
{
    uint32_t shift = 0;
    for (int depth = 0; depth < MAX_DEPTH && node != NULL; depth++, shift += 5) {
        uint32_t bits = variable_hash >> shift & 31;
        if (Py_TYPE(node) == bitmap_type) {
            const conprof_hamt_bitmap_node *bitmap = (conprof_hamt_bitmap_node *)node;
            uint32_t bit = (uint32_t)1 << bits;
            if (!(bitmap->b_bitmap & bit)) {
                return NULL;
            }
            int index = __builtin_popcount(bitmap->b_bitmap & (bit - 1));
            PyObject *key = bitmap->b_array[2 * index];
            PyObject *value = bitmap->b_array[2 * index + 1];
            if (key != NULL) {
                return key == variable ? value : NULL;
            }
            node = value;
        }
        else if (Py_TYPE(node) == array_type) {
            node = ((conprof_hamt_array_node *)node)->a_array[bits];
        }
        else {
            return NULL;
        }
    }
    return NULL;
}

conprof_label_cell *
conprof_context_cell(const PyThreadState *ts)
{
    const PyContext *context = (const PyContext *)ts->context;
    if (context == NULL || Py_TYPE((PyObject *)context) != &PyContext_Type ||
        context->ctx_vars == NULL) {
        return NULL;
    }
    PyObject *value = find((PyObject *)((PyHamtObject *)context->ctx_vars)->h_root);
    return value != NULL && Py_TYPE(value) == cell_type ? (conprof_label_cell *)value : NULL;
}

/* Any thread. As find(), in memory that may vanish meanwhile. */
static uintptr_t
find_remote(uintptr_t node)
{
    uint32_t shift = 0;
    for (int depth = 0; depth < MAX_DEPTH && node != 0; depth++, shift += 5) {
        conprof_hamt_bitmap_node head;
        uint32_t bits = variable_hash >> shift & 31;
        if (!conprof_safe_read(&head, node, offsetof(conprof_hamt_bitmap_node, b_array))) {
            return 0;
        }
        if (Py_TYPE((PyObject *)&head) == bitmap_type) {
            uint32_t bit = (uint32_t)1 << bits;
            uintptr_t pair[2];
            if (!(head.b_bitmap & bit)) {
                return 0;
            }
            size_t index = 2 * (size_t)__builtin_popcount(head.b_bitmap & (bit - 1));
            uintptr_t at =
                node + offsetof(conprof_hamt_bitmap_node, b_array) + index * sizeof(PyObject *);
            if (!conprof_safe_read(pair, at, sizeof pair)) {
                return 0;
            }
            if (pair[0] != 0) {
                return pair[0] == (uintptr_t)variable ? pair[1] : 0;
            }
            node = pair[1];
        }
        else if (Py_TYPE((PyObject *)&head) == array_type) {
            uintptr_t at =
                node + offsetof(conprof_hamt_array_node, a_array) + bits * sizeof(PyObject *);
            if (!conprof_safe_read(&node, at, sizeof node)) {
                return 0;
            }
        }
        else {
            return 0;
        }
    }
    return 0;
}

/* Any thread. Copies the current context. */
static bool
read_context(const PyThreadState *copy, PyContext *context)
{
    uintptr_t at = (uintptr_t)copy->context;
    return at != 0 && conprof_safe_read(context, at, sizeof *context) &&
           Py_TYPE((PyObject *)context) == &PyContext_Type;
}

bool
conprof_context_remote_is_entered(const PyThreadState *copy)
{
    PyContext context;
    return read_context(copy, &context) && context.ctx_entered != 0;
}

uintptr_t
conprof_context_remote_cell(const PyThreadState *copy)
{
    PyContext context;
    PyHamtObject tree;
    if (!read_context(copy, &context) || context.ctx_vars == NULL ||
        !conprof_safe_read(&tree, (uintptr_t)context.ctx_vars, sizeof tree)) {
        return 0;
    }
    PyObject head;
    uintptr_t cell = find_remote((uintptr_t)tree.h_root);
    return cell != 0 && conprof_safe_read(&head, cell, sizeof head) && Py_TYPE(&head) == cell_type
               ? cell
               : 0;
}

/* Enters a fresh context with `count` variables set and returns the type of its
 * root node, borrowed; NULL with an exception on failure. */
static PyTypeObject *
root_type_of(int count)
{
    PyTypeObject *type = NULL;
    PyObject *context = PyContext_New();
    PyObject *variables = PyList_New(0);
    if (context == NULL || variables == NULL || PyContext_Enter(context) < 0) {
        goto done;
    }
    for (int i = 0; i < count; i++) {
        PyObject *var = PyContextVar_New("conprof_probe", NULL);
        PyObject *token = var == NULL ? NULL : PyContextVar_Set(var, Py_None);
        int kept = token == NULL ? -1 : PyList_Append(variables, var);
        Py_XDECREF(var);
        Py_XDECREF(token);
        if (kept < 0) {
            break;
        }
    }
    /* Through the kernel: where a context is laid out otherwise there is no tree, and the self-test
     * says so. */
    PyContext copy;
    PyHamtObject tree;
    PyObject root;
    if (!PyErr_Occurred() && conprof_safe_read(&copy, (uintptr_t)context, sizeof copy) &&
        conprof_safe_read(&tree, (uintptr_t)copy.ctx_vars, sizeof tree) &&
        conprof_safe_read(&root, (uintptr_t)tree.h_root, sizeof root)) {
        type = Py_TYPE(&root);
    }
    if (PyContext_Exit(context) < 0) {
        type = NULL;
    }
done:
    Py_XDECREF(variables);
    Py_XDECREF(context);
    return type;
}

int
conprof_context_init(void)
{
    variable = conprof_labels_variable();
    cell_type = conprof_labels_cell_type();
    conprof_safemem_init();
    variable_hash = fold(conprof_context_var_hash(variable));
    /* A node turns from bitmap to array at 16 children. */
    bitmap_type = root_type_of(1);
    array_type = PyErr_Occurred() ? NULL : root_type_of(200);
    if (bitmap_type == array_type) {
        bitmap_type = array_type = NULL; /* an unknown shape */
    }
    return PyErr_Occurred() ? -1 : 0;
}
