/* thread_hook.h: how Python threads are known from their first to their last moment.
 *
 * A scan of /proc finds a thread some time after it began, too late for one that
 * lives a few milliseconds. So threading.Thread._bootstrap is wrapped by a C
 * method (no Python frame on anybody's stack), which arms the thread's timer and
 * leaves a guard in the thread's state; CPython destroys the guard in the thread
 * itself when the thread ends, and the CPU used since the last sample is charged to
 * the thread's own target.
 */
#ifndef CONPROF_THREAD_HOOK_H
#define CONPROF_THREAD_HOOK_H

#include "compat.h"

/* GIL held. Adds bootstrap_descriptor() to the module. */
int conprof_thread_hook_init(PyObject *module);

#endif
