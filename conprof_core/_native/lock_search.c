/* lock_search.c: see lock_search.h.
 *
 * Runs no code of the application: objects are asked for what they refer to as the garbage
 * collector asks them (tp_traverse), and only those that the collector tracks, which are
 * complete. A lock is recognized by the address that the kernel says the thread sleeps at.
 */
#include "lock_search.h"

/* From a local variable to its attributes, or to its class, the class's dict and what is there. */
#define MAX_DEPTH 4

/* Objects looked at in one search, some 10 ns each. */
#define MAX_VISITS 20000

struct search {
    uintptr_t address;
    PyTypeObject *type;
    PyObject *found; /* borrowed */
    uint32_t left;
    uint32_t depth;
};

static int visit(PyObject *object, void *argument);

static int
descend(PyObject *object, struct search *search)
{
    traverseproc traverse = Py_TYPE(object)->tp_traverse;
    if (traverse == NULL || search->depth == MAX_DEPTH || !PyObject_GC_IsTracked(object)) {
        return 0;
    }
    search->depth++;
    int is_over = traverse(object, visit, search);
    search->depth--;
    return is_over;
}

/* 1 ends the search. */
static int
visit(PyObject *object, void *argument)
{
    struct search *search = argument;
    if (object == NULL) {
        return 0;
    }
    if (search->left-- == 0) {
        search->left = 0;
        return 1;
    }
    if (Py_TYPE(object) == search->type) {
        uintptr_t address;
        memcpy(&address, (const char *)object + sizeof(PyObject), sizeof address);
        search->found = address == search->address ? object : NULL;
        return search->found != NULL;
    }
    /* Beyond what a variable refers to, only where attributes are kept. */
    if (search->depth <= 1 || PyDict_CheckExact(object)) {
        return descend(object, search);
    }
    return 0;
}

PyObject *
conprof_lock_search(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyFrameObject *frame;
    unsigned long long address;
    struct search search = {.left = MAX_VISITS};
    if (!PyArg_ParseTuple(args, "O!KO!:lock_search", &PyFrame_Type, &frame, &address, &PyType_Type,
                          &search.type)) {
        return NULL;
    }
    search.address = (uintptr_t)address;
    const conprof_frame *inner = frame->f_frame;
    if (!CONPROF_LOCK_HAS_ADDRESS || search.type->tp_basicsize < CONPROF_LOCK_HEAD_BYTES ||
        inner->owner == FRAME_OWNED_BY_FRAME_OBJECT) {
        Py_RETURN_NONE;
    }
    PyCodeObject *code = PyFrame_GetCode(frame);
    PyObject *globals = PyFrame_GetGlobals(frame);
    for (int i = 0; i < code->co_nlocalsplus && !visit(conprof_frame_slot(inner, i), &search);
         i++) {
    }
    if (search.found == NULL && PyDict_CheckExact(globals)) {
        search.depth = 1; /* of these, not the classes nor the instances */
        descend(globals, &search);
    }
    PyObject *found = Py_NewRef(search.found == NULL ? Py_None : search.found);
    Py_DECREF(globals);
    Py_DECREF(code);
    return found;
}
