/* state.c: see state.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dl_iterate_phdr */
#endif
#include "state.h"

#include <link.h>
#include <pthread.h>
#include <unistd.h>

#include "own_tid.h"
#include "safemem.h"

#define IS_COPIED(field)                                                                           \
    (offsetof(PyThreadState, field) + sizeof((PyThreadState *)0)->field <= CONPROF_STATE_BYTES)
_Static_assert(IS_COPIED(interp) && IS_COPIED(thread_id) && IS_COPIED(native_thread_id) &&
                   IS_COPIED(context) && IS_COPIED(context_ver) && IS_COPIED(datastack_chunk) &&
                   IS_COPIED(datastack_top),
               "what is looked at is copied");

bool
conprof_state_copy(PyThreadState *copy, uintptr_t at)
{
    return conprof_safe_read(copy, at, CONPROF_STATE_BYTES);
}

#if CONPROF_STATE_IS_IN_TLS

/* written by: conprof_state_init, before any handler can run */
static bool is_static;    /* the variable lies at one distance from every thread's pointer */
static intptr_t distance; /* from there */
static pthread_key_t key; /* else: of the states that were noted */
static bool has_key;

/* Of the module whose code holds `function`: where this thread's part of its thread-local storage
 * lies. */
struct storage {
    uintptr_t function;
    uintptr_t at; /* 0: not found, or this thread has none yet */
    size_t size;
};

static int
look_at_module(struct dl_phdr_info *info, size_t Py_UNUSED(size), void *argument)
{
    struct storage *storage = argument;
    bool is_it = false;
    size_t bytes = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        uintptr_t at = info->dlpi_addr + part->p_vaddr;
        if (part->p_type == PT_LOAD && storage->function - at < part->p_memsz) {
            is_it = true;
        }
        bytes = part->p_type == PT_TLS ? part->p_memsz : bytes;
    }
    if (is_it && bytes > 0) {
        storage->at = (uintptr_t)info->dlpi_tls_data;
        storage->size = bytes;
    }
    return is_it;
}

static struct storage
find_storage(void)
{
    struct storage storage = {.function = (uintptr_t)&PyGILState_GetThisThreadState};
    dl_iterate_phdr(look_at_module, &storage);
    return storage;
}

/* A thread that has touched nothing: where the variable would lie in it, as a distance. */
static void *
look_from_thread(void *argument)
{
    struct storage *storage = argument;
    *storage = find_storage();
    storage->at -= storage->at == 0 ? 0 : (uintptr_t)__builtin_thread_pointer();
    return NULL;
}

/* GIL held. An experiment: of the words of libpython's thread-local storage that hold this thread's
 * state, the one looked for holds it without the GIL, too; and in a thread that has touched
 * nothing the storage is there already, at the same distance. */
static bool
learn_distance(void)
{
    PyThreadState *ts = PyThreadState_Get();
    struct storage own = find_storage(), other = {0};
    uintptr_t found = 0;
    uint32_t count = 0;
    pthread_t thread;
    if (own.at == 0) {
        return false;
    }
    Py_BEGIN_ALLOW_THREADS;
    for (size_t i = 0; i + sizeof ts <= own.size; i += sizeof ts) {
        uintptr_t value = 0;
        if (conprof_safe_read(&value, own.at + i, sizeof value) && value == (uintptr_t)ts) {
            found = own.at + i;
            count++;
        }
    }
    if (count == 1 && pthread_create(&thread, NULL, look_from_thread, &other) == 0) {
        pthread_join(thread, NULL);
    }
    Py_END_ALLOW_THREADS;
    uintptr_t pointer = (uintptr_t)__builtin_thread_pointer();
    distance = (intptr_t)(found - pointer);
    return count == 1 && other.at != 0 && other.at == own.at - pointer;
}

/* SIGNAL-SAFE. */
static uintptr_t
own_address(void)
{
    if (is_static) {
        return *(const uintptr_t *)((uintptr_t)__builtin_thread_pointer() + (uintptr_t)distance);
    }
    return has_key ? (uintptr_t)pthread_getspecific(key) : 0;
}

void
conprof_state_note(void)
{
    if (has_key) {
        pthread_setspecific(key, PyThreadState_Get());
    }
}

static bool
learn(void)
{
    if (!is_static && !has_key) {
        is_static = learn_distance();
        has_key = !is_static && pthread_key_create(&key, NULL) == 0;
        conprof_state_note();
    }
    return is_static || has_key;
}

#else

/* SIGNAL-SAFE: pthread_getspecific, and a look at a variable of the process. */
static uintptr_t
own_address(void)
{
    return (uintptr_t)PyGILState_GetThisThreadState();
}

void
conprof_state_note(void)
{
}

static bool
learn(void)
{
    return true;
}

#endif

/* Written by: conprof_state_adopt, while nothing is sampled. The thread that came out of a fork
 * which CPython knows nothing of: its state still says the id that it had in the parent. */
static unsigned long adopted_tid, adopted_from;

void
conprof_state_adopt(void)
{
    adopted_tid = (unsigned long)conprof_own_tid();
    adopted_from = PyThreadState_Get()->native_thread_id;
}

/* SIGNAL-SAFE. Does a state say that it is the calling thread's? Nothing speaks against it where a
 * sandbox refuses gettid(), to us or to CPython when the thread began. */
static bool
says_own(unsigned long native_thread_id)
{
    pid_t self = conprof_own_tid_in_signal();
    return self == 0 || native_thread_id == (unsigned long)-1 ||
           native_thread_id == (unsigned long)self ||
           ((unsigned long)self == adopted_tid && native_thread_id == adopted_from);
}

enum conprof_hold
conprof_state_own(PyThreadState *copy, uintptr_t *at)
{
    *at = own_address();
    if (*at == 0 || !conprof_state_copy(copy, *at) || !says_own(copy->native_thread_id) ||
        copy->thread_id != (unsigned long)pthread_self()) {
        return CONPROF_HOLD_NONE;
    }
    return conprof_state_is_attached(copy, *at) ? CONPROF_HOLD_ATTACHED : CONPROF_HOLD_DETACHED;
}

bool
conprof_state_init(const char **why)
{
    PyThreadState copy;
    uintptr_t at;
    if (!learn()) {
        *why = "the thread's state cannot be found without touching thread-local storage";
        return false;
    }
    if (conprof_state_own(&copy, &at) != CONPROF_HOLD_ATTACHED ||
        at != (uintptr_t)PyThreadState_Get()) {
        *why = "the thread's state is not found, or not seen to hold the GIL";
        return false;
    }
    enum conprof_hold hold;
    Py_BEGIN_ALLOW_THREADS;
    hold = conprof_state_own(&copy, &at);
    Py_END_ALLOW_THREADS;
    if (hold != CONPROF_HOLD_DETACHED) {
        *why = "the thread's state is not seen to give up the GIL";
        return false;
    }
    return true;
}
