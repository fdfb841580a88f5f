/* state.h: the calling thread's Python state, for those who may stand anywhere.
 *
 * Which state is the thread's own is told by pthread_getspecific alone: libpython's thread-local
 * storage is not touched, as the first touch in a thread allocates where libpython was loaded by
 * dlopen, and any touch may after a dlopen of something else (glibc grows its table of blocks).
 *
 * That key may be outdated: a state can be deleted by another thread while its own thread runs C
 * code without the GIL. So the state is copied by the kernel, and believed only when it says that
 * it is this thread's. While it is *attached* (its thread holds the GIL) nobody else may delete it
 * (CPython ends the process: Python/pystate.c, tstate_delete_common) or change what hangs on it:
 * then its chunks, and the objects of its context, are alive until this thread goes on. Else
 * nothing that it names may be dereferenced (far.h).
 */
#ifndef CONPROF_STATE_H
#define CONPROF_STATE_H

#include "compat.h"

enum conprof_hold {
    CONPROF_HOLD_NONE,     /* the thread has no state, or none that can be told */
    CONPROF_HOLD_DETACHED, /* it has one, and runs without the GIL */
    CONPROF_HOLD_ATTACHED,
};

/* SIGNAL-SAFE, any thread. Copies the part of the state at `at` that is ever looked at; false when
 * it cannot be read. */
bool conprof_state_copy(PyThreadState *copy, uintptr_t at);

/* GIL held, in the child of a fork, alone and with nothing being sampled: this thread's state is
 * its own, whichever thread id it says. */
void conprof_state_adopt(void);

/* SIGNAL-SAFE. Copies the calling thread's own state, which lies at `at`, and tells how it holds
 * it. */
enum conprof_hold conprof_state_own(PyThreadState *copy, uintptr_t *at);

/* GIL held. The calling thread has a state: where CPython keeps that in thread-local storage that
 * cannot be reached without touching it (3.15 with a libpython loaded by dlopen), only threads that
 * called this are known to have one. */
void conprof_state_note(void);

/* GIL held, before the first use. Learns how the state is found. False, and a reason, when it
 * cannot be. */
bool conprof_state_init(const char **why);

#endif
