/* with_blocks.c: see with_blocks.h. */
#include "with_blocks.h"

/* Handlers followed outwards from one instruction: nested blocks, and two for each of them. */
#define MAX_HANDLERS 64

struct entry {
    uint32_t target; /* of the handler, in code units */
    uint32_t depth;  /* values on the stack there, before the exception is pushed */
};

/* Integers of the exception table: six bits a byte, 0x40 says that more follow (CPython
 * Objects/exception_handling_notes.txt). */
static bool
read_number(const unsigned char **at, const unsigned char *end, uint32_t *value)
{
    *value = 0;
    while (*at < end) {
        unsigned char byte = *(*at)++;
        *value = *value << 6 | (byte & 0x3F);
        if (!(byte & 0x40)) {
            return true;
        }
    }
    return false;
}

/* The handler of an instruction (index in code units); false when it has none. */
static bool
handler_of(PyCodeObject *code, uint32_t instruction, struct entry *found)
{
    const unsigned char *at = (const unsigned char *)PyBytes_AS_STRING(code->co_exceptiontable);
    const unsigned char *end = at + PyBytes_GET_SIZE(code->co_exceptiontable);
    uint32_t start, size, target, depth;
    while (read_number(&at, end, &start) && read_number(&at, end, &size) &&
           read_number(&at, end, &target) && read_number(&at, end, &depth)) {
        if (instruction < start) {
            return false; /* the table is sorted */
        }
        if (instruction < start + size) {
            *found = (struct entry){target, depth >> 1};
            return true;
        }
    }
    return false;
}

/* Is it the handler of a `with` block? A tool that traces may have put its own instruction in
 * the first one's place. */
static bool
is_with_handler(PyCodeObject *code, uint32_t target)
{
    const unsigned char *units = (const unsigned char *)code + CONPROF_CODE_FIRST_INSTRUCTION;
    return target + 1 < (uint32_t)Py_SIZE(code) &&
           units[(target + 1) * sizeof(_Py_CODEUNIT)] == WITH_EXCEPT_START;
}

/* The object of a bound method, borrowed, or NULL. */
static PyObject *
self_of(PyObject *method)
{
    if (method != NULL && PyMethod_Check(method)) {
        return PyMethod_GET_SELF(method);
    }
    return method != NULL && PyCFunction_Check(method) ? PyCFunction_GET_SELF(method) : NULL;
}

/* The object whose block has a handler of this depth, borrowed, or NULL. */
static PyObject *
object_of_block(const conprof_frame *frame, int base, uint32_t depth)
{
    if (depth < CONPROF_WITH_SLOTS) {
        return NULL;
    }
    PyObject *last = conprof_frame_slot(frame, base + (int)depth - 1);
    if (CONPROF_WITH_SLOTS == 1) {
        return self_of(last);
    }
    /* __exit__ and its object, which is missing where __exit__ is bound to it. */
    return last != NULL ? last : self_of(conprof_frame_slot(frame, base + (int)depth - 2));
}

/* Is the type among these? Objects of other types, the application's, are left alone. */
static bool
is_one_of(PyObject *object, PyObject *types)
{
    for (Py_ssize_t i = 0; object != NULL && i < PyTuple_GET_SIZE(types); i++) {
        if ((PyObject *)Py_TYPE(object) == PyTuple_GET_ITEM(types, i)) {
            return true;
        }
    }
    return false;
}

static bool
append_blocks(PyObject *blocks, const conprof_frame *frame, PyCodeObject *code, uint32_t at,
              PyObject *types)
{
    struct entry entry;
    uint32_t limit = (uint32_t)code->co_stacksize;
    for (int i = 0; i < MAX_HANDLERS && handler_of(code, at, &entry); i++, at = entry.target) {
        if (i == 0) {
            /* All below is alive. Blocks around this one lie deeper; what other handlers on
             * the way say is of the stack as it would be in them. */
            limit = entry.depth < limit ? entry.depth : limit;
        }
        if (entry.depth > limit || !is_with_handler(code, entry.target)) {
            continue;
        }
        PyObject *object = object_of_block(frame, code->co_nlocalsplus, entry.depth);
        if (is_one_of(object, types) && PyList_Append(blocks, object) < 0) {
            return false;
        }
    }
    return true;
}

/* Takes (frame, types); false with an exception. */
static bool
parse(PyObject *args, const char *format, PyFrameObject **frame, PyObject **types)
{
    return PyArg_ParseTuple(args, format, &PyFrame_Type, frame, &PyTuple_Type, types);
}

PyObject *
conprof_with_blocks(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyFrameObject *frame;
    PyObject *types, *blocks;
    if (!parse(args, "O!O!:with_blocks", &frame, &types) || (blocks = PyList_New(0)) == NULL) {
        return NULL;
    }
    int last = PyFrame_GetLasti(frame);
    if (last < 0 || frame->f_frame->owner == FRAME_OWNED_BY_FRAME_OBJECT) {
        return blocks; /* it has not begun, or has ended */
    }
    PyCodeObject *code = PyFrame_GetCode(frame);
    if (!append_blocks(blocks, frame->f_frame, code, (uint32_t)last / sizeof(_Py_CODEUNIT),
                       types)) {
        Py_CLEAR(blocks);
    }
    Py_DECREF(code);
    return blocks;
}

PyObject *
conprof_first_local(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyFrameObject *frame;
    PyObject *types, *first = NULL;
    if (!parse(args, "O!O!:first_local", &frame, &types)) {
        return NULL;
    }
    PyCodeObject *code = PyFrame_GetCode(frame);
    if (code->co_argcount > 0 && frame->f_frame->owner != FRAME_OWNED_BY_FRAME_OBJECT) {
        first = conprof_frame_slot(frame->f_frame, 0);
    }
    Py_DECREF(code);
    return Py_NewRef(is_one_of(first, types) ? first : Py_None);
}

PyObject *
conprof_lock_address(PyObject *Py_UNUSED(module), PyObject *lock)
{
    const char *name = Py_TYPE(lock)->tp_name;
    /* The types have no name in C; a heap type of the same name could be anybody's, and then
     * its first word is no address that anybody waits at. */
    if (!CONPROF_LOCK_HAS_ADDRESS || Py_TYPE(lock)->tp_basicsize < CONPROF_LOCK_HEAD_BYTES ||
        (strcmp(name, "_thread.lock") != 0 && strcmp(name, "_thread.RLock") != 0)) {
        return PyLong_FromLong(0);
    }
    uintptr_t address;
    memcpy(&address, (const char *)lock + sizeof(PyObject), sizeof address);
    return PyLong_FromUnsignedLongLong(address);
}
