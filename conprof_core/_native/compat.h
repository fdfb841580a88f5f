/* compat.h: every CPython-version and platform difference of the extension.
 *
 * No other file may test PY_VERSION_HEX. A new CPython minor version is
 * supported by making this header right and running the self-test, the
 * accuracy benchmark and the stress target on it.
 *
 * Facts are from CPython's own headers of each version (pycore_frame.h,
 * pycore_interpframe_structs.h, pycore_context.h, pycore_hamt.h).
 */
#ifndef CONPROF_COMPAT_H
#define CONPROF_COMPAT_H

#ifndef Py_BUILD_CORE_MODULE
#define Py_BUILD_CORE_MODULE 1
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <ucontext.h>

#if PY_VERSION_HEX < 0x030B0000 || PY_VERSION_HEX >= 0x03100000
#error "conprof's native engine knows CPython 3.11 to 3.15"
#endif
#ifdef Py_GIL_DISABLED
#error "conprof's native engine needs a CPython with a GIL"
#endif
#if !defined(__linux__)
#error "conprof's native engine needs Linux"
#endif

#include <internal/pycore_context.h>
#include <internal/pycore_interp.h>
#include <internal/pycore_runtime.h>
#if PY_VERSION_HEX >= 0x030E0000
#include <internal/pycore_interpframe_structs.h>
#endif
#if PY_VERSION_HEX >= 0x030D0000
#include <internal/pycore_tstate.h>
#endif
#if PY_VERSION_HEX >= 0x030C0000
#include <internal/pycore_obmalloc.h>
#endif
#if PY_VERSION_HEX >= 0x030D0000
#include <internal/pycore_pymem.h>
#endif
#include <internal/pycore_frame.h>
#include <opcode.h>

typedef struct _PyInterpreterFrame conprof_frame;

/* Who owns a frame. THREAD: in a data-stack chunk. GENERATOR: inside a
 * generator, coroutine or async generator. ENTRY: pushed by the interpreter
 * on the C stack, carries no Python code (3.12+). */
#define CONPROF_OWNER_THREAD FRAME_OWNED_BY_THREAD
#define CONPROF_OWNER_GENERATOR FRAME_OWNED_BY_GENERATOR

/* May run in signal context. */
static inline bool
conprof_owner_is_entry(char owner)
{
#if PY_VERSION_HEX >= 0x030E0000
    return owner >= FRAME_OWNED_BY_INTERPRETER;
#elif PY_VERSION_HEX >= 0x030C0000
    return owner == FRAME_OWNED_BY_CSTACK;
#else
    (void)owner;
    return false;
#endif
}

/* The innermost frame of the calling thread, whose state `ts` is, and is attached. Not in signal
 * context: before 3.13 what it reads may lie on a signal stack that is gone. */
static inline const conprof_frame *
conprof_current_frame(const PyThreadState *ts)
{
#if PY_VERSION_HEX >= 0x030D0000
    return ts->current_frame;
#else
    return ts->cframe == NULL ? NULL : ts->cframe->current_frame;
#endif
}

/* The innermost frame, where a copy of the thread's state tells it; false before 3.13. May run in
 * signal context. The value can be stale for a few instructions, so it is only a candidate until
 * the walk has validated it. */
static inline bool
conprof_current_frame_in(const PyThreadState *copy, uintptr_t *frame)
{
#if PY_VERSION_HEX >= 0x030D0000
    *frame = (uintptr_t)copy->current_frame;
    return true;
#else
    (void)copy;
    (void)frame;
    return false;
#endif
}

/* Where the pointer to the innermost frame of a thread is stored, given a copy of the
 * thread's state and the address it was copied from. Any thread; not dereferenced. */
static inline uintptr_t
conprof_current_frame_slot(const PyThreadState *copy, uintptr_t from)
{
#if PY_VERSION_HEX >= 0x030D0000
    (void)copy;
    return from + offsetof(PyThreadState, current_frame);
#else
    (void)from;
    return (uintptr_t)copy->cframe + offsetof(_PyCFrame, current_frame);
#endif
}

/* The main interpreter's GIL: a thread that waits for it sleeps on a futex inside. Any
 * thread; the structure lives as long as the process. */
static inline uintptr_t
conprof_gil_address(PyInterpreterState *interpreter)
{
#if PY_VERSION_HEX >= 0x030C0000
    return (uintptr_t)interpreter->ceval.gil;
#else
    (void)interpreter;
    return (uintptr_t)&_PyRuntime.ceval.gil;
#endif
}

#define CONPROF_GIL_BYTES sizeof(struct _gil_runtime_state)

/* The address of the thread state that holds the GIL, or 0. Any thread; outdated at once,
 * unless the thread in question does not run. */
static inline uintptr_t
conprof_gil_holder(uintptr_t gil)
{
    const struct _gil_runtime_state *at = (const struct _gil_runtime_state *)gil;
    int locked;
    uintptr_t holder;
    _Static_assert(sizeof at->last_holder == sizeof holder && sizeof at->locked == sizeof locked,
                   "the fields of the GIL have another shape");
    __atomic_load((const int *)&at->locked, &locked, __ATOMIC_ACQUIRE);
    __atomic_load((const uintptr_t *)&at->last_holder, &holder, __ATOMIC_RELAXED);
    return locked == 1 ? holder : 0;
}

/* Is the asyncio loop that runs in a thread kept in the thread's state, behind the part that has
 * public names (pycore_tstate.h)? Before 3.13 it is kept in the thread's dictionary. */
#define CONPROF_LOOP_IS_IN_STATE (PY_VERSION_HEX >= 0x030D0000)

#if !CONPROF_LOOP_IS_IN_STATE
/* GIL held. The asyncio loop that runs in a thread, borrowed; NULL or None where none does.
 * Runs no Python code and makes no object that the collector knows. */
static inline PyObject *
conprof_running_loop_in_dict(PyThreadState *ts)
{
    PyObject *found =
        ts->dict == NULL ? NULL : PyDict_GetItemString(ts->dict, "__asyncio_running_event_loop__");
#if PY_VERSION_HEX < 0x030C0000
    /* Modules/_asynciomodule.c, PyRunningLoopHolder */
    struct holder {
        PyObject_HEAD PyObject *loop;
        pid_t pid;
    };
    bool is_holder = found != NULL && Py_TYPE(found)->tp_basicsize == sizeof(struct holder) &&
                     strcmp(Py_TYPE(found)->tp_name, "_RunningLoopHolder") == 0;
    found = is_holder ? ((struct holder *)found)->loop : NULL;
#endif
    return found;
}
#endif

/* The frame below which there is nothing: NULL, or on 3.15 a sentinel inside
 * the thread state. May run in signal context. */
static inline const conprof_frame *
conprof_bottom_frame(const PyThreadState *ts)
{
#if PY_VERSION_HEX >= 0x030F0000
    return ts->base_frame;
#else
    (void)ts;
    return NULL;
#endif
}

/* The code object of a frame, never dereferenced here; NULL when the frame has
 * none. 3.14+ keeps tag bits in the reference. May run in signal context. */
static inline uintptr_t
conprof_frame_code(const conprof_frame *f)
{
#if PY_VERSION_HEX >= 0x030E0000
    return f->f_executable.bits & ~(uintptr_t)7;
#elif PY_VERSION_HEX >= 0x030D0000
    return (uintptr_t)f->f_executable;
#else
    return (uintptr_t)f->f_code;
#endif
}

/* GIL held, of a frame that stands still: what a slot (local variables, then the value stack)
 * holds, borrowed; NULL when it is empty, or holds no object. The slot must be alive. */
static inline PyObject *
conprof_frame_slot(const conprof_frame *f, int index)
{
#if PY_VERSION_HEX >= 0x030E0000
    uintptr_t bits = f->localsplus[index].bits;
    return (bits & 3) == 3 ? NULL : (PyObject *)(bits & ~(uintptr_t)7);
#else
    return f->localsplus[index];
#endif
}

/* Slots that a `with` block keeps on the value stack: __exit__, and from 3.14 on its object. */
#if PY_VERSION_HEX >= 0x030E0000
#define CONPROF_WITH_SLOTS 2
#else
#define CONPROF_WITH_SLOTS 1
#endif

/* Locks of threads begin with the address of the semaphore that waiting threads sleep on. From
 * 3.14 on a thread sleeps on a semaphore of its own, and which lock it wants is not to be seen. */
#define CONPROF_LOCK_HAS_ADDRESS (PY_VERSION_HEX < 0x030E0000)
#define CONPROF_LOCK_HEAD_BYTES ((Py_ssize_t)(sizeof(PyObject) + sizeof(void *)))

/* Address of the instruction a frame stands at. May run in signal context. */
static inline uintptr_t
conprof_frame_instruction(const conprof_frame *f)
{
#if PY_VERSION_HEX >= 0x030D0000
    return (uintptr_t)f->instr_ptr;
#else
    return (uintptr_t)f->prev_instr;
#endif
}

#define CONPROF_CODE_FIRST_INSTRUCTION offsetof(PyCodeObject, co_code_adaptive)
#define CONPROF_GENERATOR_FRAME_OFFSET offsetof(PyGenObject, gi_iframe)

/* How the death of a code object becomes known: a watcher where there is one,
 * the type's own deallocator before. */
#if PY_VERSION_HEX >= 0x030C0000
#define CONPROF_HAVE_CODE_WATCHER 1
#else
#define CONPROF_HAVE_CODE_WATCHER 0
#endif

/* What is read of a thread state: all before this field and the field itself. */
#define CONPROF_STATE_BYTES (offsetof(PyThreadState, datastack_limit) + sizeof(PyObject **))

/* May run in signal context, given a copy of the calling thread's own state and where it lies: is
 * it attached, that is, does the thread hold the GIL? It is set after the GIL was taken and cleared
 * before it is given away (Python/pystate.c: tstate_activate and tstate_deactivate on 3.12,
 * _PyThreadState_Attach and detach_thread from 3.13 on). On 3.11 one variable of the process names
 * the state that holds the GIL. */
static inline bool
conprof_state_is_attached(const PyThreadState *copy, uintptr_t at)
{
#if PY_VERSION_HEX >= 0x030D0000
    (void)at;
    return copy->state == 1; /* _Py_THREAD_ATTACHED */
#elif PY_VERSION_HEX >= 0x030C0000
    (void)at;
    return copy->_status.active;
#else
    (void)copy;
    return (uintptr_t)_PyThreadState_UncheckedGet() == at;
#endif
}

/* Does PyGILState_GetThisThreadState read thread-local storage, instead of asking
 * pthread_getspecific (which allocates nothing)? */
#define CONPROF_STATE_IS_IN_TLS (PY_VERSION_HEX >= 0x030F0000)

/* Is the main interpreter the only one? Any thread. Whoever runs in another gets the answer no, as
 * that one was put in front of the list before it ran anything. 3.11's interpreters share GIL and
 * allocator, and are treated the same. */
static inline bool
conprof_is_only_interpreter(void)
{
    return __atomic_load_n(&_PyRuntime.interpreters.head, __ATOMIC_RELAXED) ==
           _PyRuntime.interpreters.main;
}

/* GIL held. Whether the above looks at the right place, should a patch release ever have moved it:
 * the two stand side by side, and what stands before and behind them is no interpreter. */
static inline bool
conprof_interpreters_are_where_expected(void)
{
    return _PyRuntime.interpreters.head == PyInterpreterState_Head() &&
           _PyRuntime.interpreters.main == PyInterpreterState_Main();
}

/* Pools of pymalloc begin at multiples of this (obmalloc.c on 3.11). */
#if PY_VERSION_HEX >= 0x030C0000
#define CONPROF_POOL_BYTES POOL_SIZE
#else
#define CONPROF_POOL_BYTES (1 << 14)
#endif

/* May run in signal context: the stack pointer of what a signal interrupted, by its third
 * argument. 0 where the machine is not known. */
static inline uintptr_t
conprof_interrupted_stack(const void *context)
{
#if defined(__x86_64__)
    return (uintptr_t)((const ucontext_t *)context)->uc_mcontext.gregs[15]; /* REG_RSP */
#elif defined(__aarch64__)
    return (uintptr_t)((const ucontext_t *)context)->uc_mcontext.sp;
#else
    (void)context;
    return 0;
#endif
}

/* Nodes of the HAMT that holds a context's variables; private to CPython's
 * hamt.c and unchanged from 3.7 to 3.15. */
typedef struct {
    PyObject_VAR_HEAD uint32_t b_bitmap;
    PyObject *b_array[1];
} conprof_hamt_bitmap_node;

typedef struct {
    PyObject_HEAD PyObject *a_array[32];
    Py_ssize_t a_count;
} conprof_hamt_array_node;

static inline Py_hash_t
conprof_context_var_hash(PyObject *var)
{
    return ((PyContextVar *)var)->var_hash;
}

#endif
