/* faults.c: a test extension that makes the worst of every moment, beside conprof's own.
 *
 * A helper thread sends a signal to each thread with a timer of conprof's, thousands of times a
 * second. Its handler, in the thread, at any instruction,
 *   - ends the chunk of frames here, so that the next call takes another chunk and gives it back
 *     when it returns (fenced.c makes that one inaccessible, and ends the one before again);
 *   - fills what is dead of the chunk, above the top, with a pattern that is no address;
 *   - calls conprof's handler as the kernel would for that thread's timer;
 *   - every now and then sets the trap flag: then SIGTRAP comes after each instruction, and does
 *     all this again.
 *
 * Why this is sound. While a thread is attached only it changes its chunks. CPython compares
 * `datastack_limit` with `datastack_top` as signed differences and takes a new chunk when there is
 * no room, so a limit may fall at any instruction, also between the comparison and the use: the
 * memory is there. (On 3.11 the difference is unsigned: there it falls outside CPython's code
 * only.) It sets the limit to the chunk's end when it comes back to a chunk, therefore the chunk's
 * `size` is changed, too; whoever frees it is told a size that fenced.c does not believe. In the
 * middle of a push or a pop top, limit and chunk do not fit together, and then nothing is done.
 * What lies above the top may be unmapped by a pop at any time, so nothing of CPython's reads it;
 * but a compiler may fill in a frame before it stores the top above it. It does so in the
 * interpreter's loop, for the two frames that a class's __init__ takes. So memory is poisoned in
 * whatever the loop calls, such as the function that pops, and still is when that has returned.
 * All of this is tried without conprof, too (run.py --control).
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "fenced.h"
#include "targets.h"

#define POISON 0xDB
/* Bytes of code; a shorter one only jumps to where its instructions are. */
#define SMALLEST_LOOP 16384u
/* A frame that is larger than this is poisoned in part. */
#define POISONED_BYTES 2048u
#define TRAP_FLAG 0x100
/* Chunks whose size may have been set between a comparison and its use. */
#define CHUNKS_BACK 8

typedef void handler(int number, siginfo_t *info, void *context);

static long steps_every_ns;
static uint32_t steps_in_a_row;
static int own_signal, profiler_signal; /* the latter 0: control, conprof does not run */
static handler *profiler;
struct range {
    uintptr_t from, to;
};

/* immutable once started: of CPython's code the interpreter's loop, the function that pops a
 * frame, and all of it. The loop is empty where each instruction is a function of its own. */
static struct range loop, pop, code;
/* written by: handlers */
static _Atomic uint64_t signals, steps, ends, poisons, walks;
/* The static model: the first touch of another one's storage may allocate. owner: the thread */
static _Thread_local struct target *own __attribute__((tls_model("initial-exec")));
static _Thread_local uint32_t steps_left __attribute__((tls_model("initial-exec")));
static _Thread_local uint64_t stepped_ns __attribute__((tls_model("initial-exec")));

static void
add(_Atomic uint64_t *counter, uint64_t by)
{
    atomic_fetch_add_explicit(counter, by, memory_order_relaxed);
}

static uint64_t
now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The state of the calling thread if it is attached, else NULL. */
static PyThreadState *
attached(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyThreadState_GetUnchecked();
#elif PY_VERSION_HEX >= 0x030C0000
    return _PyThreadState_UncheckedGet();
#else
    /* There it is one variable of the process. */
    PyThreadState *current = _PyThreadState_UncheckedGet();
    return current != NULL && current->thread_id == (unsigned long)pthread_self() ? current : NULL;
#endif
}

static void
set_size(_PyStackChunk *chunk, uintptr_t end)
{
    if (fenced_size((uintptr_t)chunk) != 0) {
        chunk->size = end - (uintptr_t)chunk;
    }
}

void
fenced_gave_back(void)
{
    /* Not before: the self-test looks at the sizes that CPython gives. */
    PyThreadState *ts = targets_are_signalled() ? attached() : NULL;
    _PyStackChunk *chunk = ts == NULL ? NULL : ts->datastack_chunk;
    uintptr_t top = chunk == NULL ? 0 : (uintptr_t)ts->datastack_top;
    if (chunk != NULL && top >= (uintptr_t)chunk->data &&
        top <= (uintptr_t)chunk + fenced_size((uintptr_t)chunk)) {
        set_size(chunk, top);
    }
}

static bool
holds(const struct range *range, uintptr_t instruction)
{
    return instruction >= range->from && instruction < range->to;
}

/* Ends the chunk at its top, and poisons what is behind if that is dead. */
static void
make_the_worst(PyThreadState *ts, uintptr_t instruction)
{
    bool is_dead = loop.to != 0 ? !holds(&loop, instruction)
                                : holds(&pop, instruction) || !holds(&code, instruction);
    bool may_end = PY_VERSION_HEX >= 0x030C0000 || !holds(&code, instruction);
    _PyStackChunk *chunk = ts->datastack_chunk;
    uintptr_t at = (uintptr_t)chunk, top = (uintptr_t)ts->datastack_top;
    uintptr_t limit = (uintptr_t)ts->datastack_limit;
    if (chunk == NULL) {
        return;
    }
    size_t room = fenced_size(at);
    uintptr_t end = at + (room != 0 ? room : chunk->size);
    if (top < (uintptr_t)chunk->data || top > end || limit <= at || limit > end) {
        return; /* a push or a pop is under way */
    }
    if (may_end) {
        ts->datastack_limit = ts->datastack_top;
        set_size(chunk, top);
        add(&ends, 1);
    }
    if (is_dead) {
        memset((void *)top, POISON, end - top < POISONED_BYTES ? end - top : POISONED_BYTES);
        add(&poisons, 1);
    }
    for (int i = 0; i < CHUNKS_BACK && chunk->previous != NULL; i++) {
        chunk = chunk->previous;
        uintptr_t used = (uintptr_t)(chunk->data + chunk->top);
        if (used > (uintptr_t)chunk + chunk->size) {
            set_size(chunk, used);
        }
    }
#ifdef HAVE_CACHED_CHUNK
    /* Dead, but kept for the next call, which does not take it when it is too small. */
    _PyStackChunk *cached = ts->datastack_cached_chunk;
    if (cached != NULL && fenced_size((uintptr_t)cached) != 0) {
        cached->size = 0;
        memset(cached->data, POISON, POISONED_BYTES);
    }
#endif
}

static bool
is_blocked(const ucontext_t *context, int number)
{
    uint64_t mask;
    memcpy(&mask, &context->uc_sigmask, sizeof mask);
    return (mask >> (number - 1) & 1) != 0;
}

static void
strike(ucontext_t *context)
{
    PyThreadState *ts = attached();
    if (ts != NULL) {
        make_the_worst(ts, (uintptr_t)context->uc_mcontext.gregs[REG_RIP]);
    }
    /* Where conprof's own signal could not come it does not come from us. */
    if (profiler_signal != 0 && own != NULL && !is_blocked(context, profiler_signal)) {
        siginfo_t info = {0};
        info.si_signo = profiler_signal;
        info.si_code = SI_TIMER;
        info.si_timerid = own->timer;
        info.si_value.sival_ptr = own->value;
        profiler(profiler_signal, &info, context);
        add(&walks, 1);
    }
}

/* Signal context, where a step is to follow. Not into a system call that may block SIGTRAP or make
 * a thread or process that begins with all blocked: a step there would kill. */
static bool
may_step(const ucontext_t *context)
{
    const greg_t *registers = context->uc_mcontext.gregs;
    const unsigned char *next = (const unsigned char *)registers[REG_RIP]; /* NOLINT */
    if (is_blocked(context, SIGTRAP)) {
        return false;
    }
    if (next[0] != 0x0F || next[1] != 0x05) { /* syscall */
        return true;
    }
    long number = (long)registers[REG_RAX];
    return number != SYS_rt_sigprocmask && number != SYS_clone && number != SYS_clone3 &&
           number != SYS_fork && number != SYS_vfork;
}

/* Signal context. */
static void
on_signal(int Py_UNUSED(number), siginfo_t *info, void *context)
{
    int saved_errno = errno;
    ucontext_t *interrupted = context;
    struct target *target = info->si_value.sival_ptr;
    if (info->si_code != SI_QUEUE || !targets_have(target)) {
        errno = saved_errno;
        return;
    }
    own = target;
    add(&signals, 1);
    strike(interrupted);
    uint64_t now = now_ns();
    if (steps_in_a_row != 0 && now > stepped_ns + (uint64_t)steps_every_ns && steps_left == 0 &&
        may_step(interrupted)) {
        steps_left = steps_in_a_row;
        interrupted->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
    }
    atomic_fetch_add(&target->arrived, 1);
    errno = saved_errno;
}

/* Signal context, after an instruction. */
static void
on_step(int Py_UNUSED(number), siginfo_t *Py_UNUSED(info), void *context)
{
    int saved_errno = errno;
    ucontext_t *interrupted = context;
    add(&steps, 1);
    strike(interrupted);
    if (steps_left == 0 || --steps_left == 0 || !targets_are_signalled() ||
        !may_step(interrupted)) {
        steps_left = 0;
        stepped_ns = now_ns();
        interrupted->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
    }
    errno = saved_errno;
}

static const int synchronous[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

static bool
install(int number, handler *function)
{
    struct sigaction action = {0};
    action.sa_sigaction = function;
    action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
    /* All but those that say what went wrong in it. */
    sigfillset(&action.sa_mask);
    for (size_t i = 0; i < sizeof synchronous / sizeof *synchronous; i++) {
        sigdelset(&action.sa_mask, synchronous[i]);
    }
    return sigaction(number, &action, NULL) == 0;
}

/* What the kernel's rt_sigaction knows; libc hides the signals that it keeps for itself. */
static handler *
handler_of(int number)
{
    struct {
        handler *function;
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } action = {0};
    return syscall(SYS_rt_sigaction, number, NULL, &action, sizeof action.mask) == 0
               ? action.function
               : NULL;
}

/* For dl_iterate_phdr: the code that one function of CPython's is in. */
static int
find_code(struct dl_phdr_info *info, size_t Py_UNUSED(size), void *function)
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        struct range range = {info->dlpi_addr + part->p_vaddr,
                              info->dlpi_addr + part->p_vaddr + part->p_memsz};
        if (part->p_type == PT_LOAD && holds(&range, (uintptr_t)function)) {
            code = range;
            return 1;
        }
    }
    return 0;
}

static struct range
function_range(const char *name)
{
    Dl_info info;
    const ElfW(Sym) *symbol = NULL;
    void *at = dlsym(RTLD_DEFAULT, name);
    if (at == NULL || !dladdr1(at, &info, (void **)&symbol, RTLD_DL_SYMENT) || symbol == NULL) {
        return (struct range){0, 0};
    }
    return (struct range){(uintptr_t)at, (uintptr_t)at + symbol->st_size};
}

static bool
find_ranges(void)
{
    loop = function_range("_PyEval_EvalFrameDefault");
    pop = function_range("_PyThreadState_PopFrame");
    bool is_found = loop.to != 0 && dl_iterate_phdr(find_code, (void *)loop.from) == 1; /* NOLINT */
    if (loop.to - loop.from < SMALLEST_LOOP) {
        loop = (struct range){0, 0};
        is_found = is_found && pop.to != 0;
    }
    return is_found;
}

/* ---- Python's face ---- */

/* fence(): from now on what CPython frees of arenas and chunks faults. Before anything else. */
static PyObject *
fence(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    if (!fenced_install()) {
        return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

/* start(number of conprof's signal or 0, signals a second, steps in a row, ms between them). */
static PyObject *
start(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned int rate;
    if (!PyArg_ParseTuple(args, "iIIl:start", &profiler_signal, &rate, &steps_in_a_row,
                          &steps_every_ns)) {
        return NULL;
    }
    steps_every_ns *= 1000000;
    own_signal = SIGRTMAX - 1;
    profiler = profiler_signal == 0 ? NULL : handler_of(profiler_signal);
    if (!find_ranges()) {
        PyErr_SetString(PyExc_RuntimeError, "the interpreter's loop is not to be found");
        return NULL;
    }
    if ((profiler_signal != 0 && profiler == NULL) || !install(own_signal, on_signal) ||
        !install(SIGTRAP, on_step)) {
        PyErr_SetString(PyExc_RuntimeError, "no handler of conprof's to call");
        return NULL;
    }
    if (!targets_start(own_signal, profiler_signal, 1000000000L / (long)rate)) {
        PyErr_SetString(PyExc_RuntimeError, "no thread");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
stop(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    Py_BEGIN_ALLOW_THREADS targets_stop();
    Py_END_ALLOW_THREADS Py_RETURN_NONE;
}

static PyObject *
counts(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    PyThreadState *ts = PyThreadState_Get();
    return Py_BuildValue("{s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:K,s:O}", "signals",
                         (uint64_t)signals, "steps", (uint64_t)steps, "ends", (uint64_t)ends,
                         "poisons", (uint64_t)poisons, "walks", (uint64_t)walks, "sent",
                         (uint64_t)targets_sent, "unsent", (uint64_t)targets_unsent, "taken",
                         (uint64_t)fenced_counts.taken, "fenced", (uint64_t)fenced_counts.fenced,
                         "chunks_fenced", (uint64_t)fenced_counts.chunks, "unfenced",
                         (uint64_t)fenced_counts.unfenced, "own_chunk_is_fenced",
                         fenced_size((uintptr_t)ts->datastack_chunk) != 0 ? Py_True : Py_False);
}

static PyMethodDef methods[] = {
    {"fence", fence, METH_NOARGS, NULL},
    {"start", start, METH_VARARGS, NULL},
    {"stop", stop, METH_NOARGS, NULL},
    {"counts", counts, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_faults", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC
PyInit__faults(void)
{
    return PyModule_Create(&module);
}
