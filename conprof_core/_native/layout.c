/* layout.c: see layout.h. All functions run with the GIL held, none in signal context. */
#include "layout.h"

#include "safemem.h"
#include "state.h"

#define CODE_HEAD offsetof(PyCodeObject, co_code_adaptive)

/* ---- thread state ---- */

static const char *
check_context(void)
{
    PyThreadState before, inside, after;
    uintptr_t ts = (uintptr_t)PyThreadState_Get();
    PyObject *context = PyContext_New();
    bool is_read = context != NULL && conprof_state_copy(&before, ts) &&
                   PyContext_Enter(context) == 0 && conprof_state_copy(&inside, ts) &&
                   PyContext_Exit(context) == 0 && conprof_state_copy(&after, ts);
    Py_XDECREF(context);
    if (!is_read || before.context == context || inside.context != context ||
        after.context == context) {
        return "the context is not where it is expected in the thread's state";
    }
    if (inside.context_ver == before.context_ver || after.context_ver == inside.context_ver) {
        return "the context's version is not where it is expected in the thread's state";
    }
    return NULL;
}

static const char *
check_chunks(void)
{
    static const char *const differs = "the stack of frames is not laid out as expected";
    PyThreadState copy;
    if (!conprof_state_copy(&copy, (uintptr_t)PyThreadState_Get())) {
        return differs;
    }
    uintptr_t at = (uintptr_t)copy.datastack_chunk, top = (uintptr_t)copy.datastack_top;
    uintptr_t limit = (uintptr_t)copy.datastack_limit;
    for (uint32_t i = 0; at != 0; i++) {
        _PyStackChunk head;
        if (i == 1024 || !conprof_safe_read(&head, at, offsetof(_PyStackChunk, data))) {
            return differs;
        }
        uintptr_t data = at + offsetof(_PyStackChunk, data);
        if (head.size < 4096 ||
            (i == 0 && (limit != at + head.size || top < data || top > limit))) {
            return differs;
        }
        at = (uintptr_t)head.previous;
    }
    return NULL;
}

static const char *
check_interpreter(void)
{
    PyThreadState copy;
    const PyThreadState *ts = PyThreadState_Get();
    if (!conprof_state_copy(&copy, (uintptr_t)ts) ||
        copy.interp != PyThreadState_GetInterpreter((PyThreadState *)ts)) {
        return "the interpreter is not where it is expected in the thread's state";
    }
    if (!conprof_interpreters_are_where_expected()) {
        return "the list of interpreters is not where it is expected";
    }
    uintptr_t gil = conprof_gil_address(copy.interp);
    struct _gil_runtime_state held, free;
    bool is_read = conprof_safe_read(&held, gil, sizeof held);
    Py_BEGIN_ALLOW_THREADS;
    is_read = is_read && conprof_safe_read(&free, gil, sizeof free);
    Py_END_ALLOW_THREADS;
    /* Another thread may have taken it. */
    if (!is_read || conprof_gil_holder((uintptr_t)&held) != (uintptr_t)ts ||
        conprof_gil_holder((uintptr_t)&free) == (uintptr_t)ts) {
        return "the GIL is not laid out as expected";
    }
    return NULL;
}

/* ---- code and strings ---- */

/* Is the object at this address, found at a private offset, the attribute of this name? */
static bool
is_attribute(PyObject *object, const char *name, const void *found)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    bool is_same = value != NULL && value == found;
    Py_XDECREF(value);
    return is_same;
}

static bool
is_number(PyObject *object, const char *name, long found)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    bool is_same = value != NULL && PyLong_AsLong(value) == found;
    Py_XDECREF(value);
    return is_same;
}

/* Do a frame's variables begin where we think? Looked at where the first one has a value, in its
 * own slot: as `self` has in what starts the engine. */
static bool
has_first_local(PyFrameObject *frame, PyObject *code, uintptr_t inner)
{
    uintptr_t slot = 0;
    PyObject *cells = PyObject_GetAttrString(code, "co_cellvars");
    PyObject *names = PyObject_GetAttrString(code, "co_varnames");
    PyObject *locals = PyFrame_GetLocals(frame), *value = NULL;
    if (cells != NULL && PyTuple_GET_SIZE(cells) == 0 && names != NULL &&
        PyTuple_GET_SIZE(names) > 0 && locals != NULL) {
        value = PyObject_GetItem(locals, PyTuple_GET_ITEM(names, 0));
    }
    bool is_read =
        conprof_safe_read(&slot, inner + offsetof(conprof_frame, localsplus), sizeof slot);
    bool is_right = value == NULL || (is_read && (slot & ~(uintptr_t)7) == (uintptr_t)value);
    Py_XDECREF(value);
    Py_XDECREF(locals);
    Py_XDECREF(names);
    Py_XDECREF(cells);
    PyErr_Clear();
    return is_right;
}

static const char *
check_code(PyFrameObject *frame)
{
    static const char *const differs = "code objects are not laid out as expected";
    union {
        PyCodeObject object;
        char bytes[CODE_HEAD];
    } head;
    union {
        conprof_frame frame;
        char bytes[offsetof(conprof_frame, localsplus)];
    } inner;
    uintptr_t at = 0;
    PyObject *code = (PyObject *)PyFrame_GetCode(frame);
    const char *failed = NULL;
    if (!conprof_safe_read(head.bytes, (uintptr_t)code, CODE_HEAD) ||
        !is_attribute(code, "co_filename", head.object.co_filename) ||
        !is_attribute(code, "co_name", head.object.co_name) ||
        !is_attribute(code, "co_qualname", head.object.co_qualname) ||
        !is_attribute(code, "co_linetable", head.object.co_linetable) ||
        !is_attribute(code, "co_exceptiontable", head.object.co_exceptiontable) ||
        !is_number(code, "co_firstlineno", head.object.co_firstlineno) ||
        !is_number(code, "co_stacksize", head.object.co_stacksize)) {
        failed = differs;
    }
    else if (!conprof_safe_read(&at, (uintptr_t)frame + offsetof(PyFrameObject, f_frame),
                                sizeof at) ||
             !conprof_safe_read(inner.bytes, at, sizeof inner.bytes) ||
             conprof_frame_code(&inner.frame) != (uintptr_t)code ||
             !has_first_local(frame, code, at)) {
        failed = "frame objects are not laid out as expected";
    }
    Py_DECREF(code);
    return failed;
}

static bool
is_text(PyObject *string, size_t head_bytes, uint32_t kind, const void *characters, size_t length)
{
    char copy[16];
    PyASCIIObject head;
    return string != NULL && length * kind <= sizeof copy &&
           conprof_safe_read(&head, (uintptr_t)string, sizeof head) && head.state.compact &&
           head.state.kind == kind && head.state.ascii == (head_bytes == sizeof head) &&
           head.length == (Py_ssize_t)length &&
           conprof_safe_read(copy, (uintptr_t)string + head_bytes, length * kind) &&
           memcmp(copy, characters, length * kind) == 0;
}

static const char *
check_strings(void)
{
    static const uint16_t wide[] = {'x', 0x20AC};
    static const uint32_t wider[] = {'x', 0x1F600};
    PyObject *ascii = PyUnicode_FromString("xyz"), *latin = PyUnicode_FromString("x\xC3\xA9");
    PyObject *two = PyUnicode_FromString("x\xE2\x82\xAC"),
             *four = PyUnicode_FromString("x\xF0\x9F\x98\x80");
    PyObject *bytes = PyBytes_FromString("xyz");
    char copy[4] = "";
    PyVarObject head;
    bool is_right =
        is_text(ascii, sizeof(PyASCIIObject), 1, "xyz", 3) &&
        is_text(latin, sizeof(PyCompactUnicodeObject), 1, "x\xE9", 2) &&
        is_text(two, sizeof(PyCompactUnicodeObject), 2, wide, 2) &&
        is_text(four, sizeof(PyCompactUnicodeObject), 4, wider, 2) && bytes != NULL &&
        conprof_safe_read(&head, (uintptr_t)bytes, sizeof head) && head.ob_size == 3 &&
        conprof_safe_read(copy, (uintptr_t)bytes + offsetof(PyBytesObject, ob_sval), sizeof copy) &&
        memcmp(copy, "xyz", sizeof copy) == 0;
    Py_XDECREF(ascii);
    Py_XDECREF(latin);
    Py_XDECREF(two);
    Py_XDECREF(four);
    Py_XDECREF(bytes);
    return is_right ? NULL : "strings are not laid out as expected";
}

const char *
conprof_layout_check(void)
{
    const char *failed = NULL;
    if (!conprof_state_init(&failed)) {
        return failed;
    }
    PyFrameObject *frame = PyEval_GetFrame();
    failed = check_interpreter();
    failed = failed != NULL ? failed : check_context();
    failed = failed != NULL ? failed : check_chunks();
    failed = failed != NULL ? failed : frame == NULL ? "no frame to look at" : check_code(frame);
    return failed != NULL ? failed : check_strings();
}

/* ---- the running event loop ---- */

#if CONPROF_LOOP_IS_IN_STATE

/* Looked for from here on: it lies behind the part of the state that has a public name. */
#define LOOP_FROM offsetof(PyThreadState, datastack_limit)
#define LOOP_BYTES 1024u

/* Experiments that fail before no more are made. */
#define LOOP_TRIALS 8

/* owner: GIL holder */
static size_t loop_offset;
static bool has_loop_offset;
static uint32_t loop_trials;

/* An experiment: an object that is nobody's is made the running loop of this thread, which runs
 * none, and is looked for in the thread's state. */
static bool
find_loop_offset(PyObject *asyncio)
{
    uintptr_t ts = (uintptr_t)PyThreadState_Get(), words[LOOP_BYTES / sizeof(uintptr_t)];
    size_t count = sizeof words / sizeof *words, found = 0;
    PyObject *loop = PyObject_CallMethod(asyncio, "_get_running_loop", NULL);
    PyObject *mark = PyBytes_FromString("conprof");
    PyObject *set = NULL, *reset = NULL;
    if (loop == Py_None && mark != NULL) {
        set = PyObject_CallMethod(asyncio, "_set_running_loop", "O", mark);
        /* Its end may lie before the words that are looked for: read what there is. */
        while (set != NULL && count > 0 &&
               !conprof_safe_read(words, ts + LOOP_FROM, count * sizeof *words)) {
            count /= 2;
        }
        for (size_t i = 0; i < count && set != NULL; i++) {
            if (words[i] == (uintptr_t)mark) {
                loop_offset = LOOP_FROM + i * sizeof *words;
                found++;
            }
        }
        reset = PyObject_CallMethod(asyncio, "_set_running_loop", "O", Py_None);
    }
    bool is_found = found == 1 && reset != NULL;
    Py_XDECREF(set);
    Py_XDECREF(reset);
    Py_XDECREF(mark);
    Py_XDECREF(loop);
    PyErr_Clear();
    return is_found;
}

PyObject *
conprof_layout_loop(PyThreadState *ts)
{
    if (!has_loop_offset && loop_trials < LOOP_TRIALS) {
        /* Not imported for this: without it no loop runs. */
        PyObject *modules = PyImport_GetModuleDict();
        PyObject *asyncio = PyDict_GetItemString(modules, "_asyncio");
        loop_trials += asyncio != NULL;
        has_loop_offset = asyncio != NULL && find_loop_offset(asyncio);
    }
    return has_loop_offset ? *(PyObject **)((char *)ts + loop_offset) : NULL;
}

#else

PyObject *
conprof_layout_loop(PyThreadState *ts)
{
    return conprof_running_loop_in_dict(ts);
}

#endif
