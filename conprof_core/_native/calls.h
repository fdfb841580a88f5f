/* calls.h: calls from the drain into Python, each on a short-lived thread of its own.
 *
 * The drain never waits for the GIL: what has to be done in Python is done by a thread that it
 * starts, with a Python state that lives as long as the call. Never two ticks at once, nor two
 * looks at tasks. Nobody waits for such a thread without a bound.
 */
#ifndef CONPROF_CALLS_H
#define CONPROF_CALLS_H

#include <stdbool.h>
#include <stdint.h>

#include "compat.h"

/* GIL held. What to call; references are taken over, NULL is nothing. `tick` returns the seconds
 * until it is due again. `terminate`: see terminate.h. `trouble` is called by the thread that
 * forked, when the drain could not be started again behind the fork. */
struct conprof_callbacks {
    PyObject *tick, *terminate, *trouble;
};
void conprof_calls_set(struct conprof_callbacks callbacks);

/* GIL held. What looks at suspended tasks while the session runs; returns seconds until the next
 * look. The reference is taken over; NULL: nothing. */
void conprof_calls_set_task_look(PyObject *look);

/* GIL held, released while waiting, a moment at most: until no such look is under way. */
void conprof_calls_await_task_look(void);

/* Any thread: the next tick is due in so many seconds; or now, and the drain is told. */
void conprof_calls_schedule(double seconds);
void conprof_calls_wake(void);

/* The drain: nanoseconds until something is due. Starts what is due. */
uint64_t conprof_calls_wait_ns(uint64_t now_ns);
void conprof_calls_begin_due(void);

/* In the child of a fork: no call is under way. */
void conprof_calls_forget(void);

/* Starts a detached thread; false when none can be had. */
bool conprof_calls_spawn(void *(*run)(void *), void *argument);

/* Any thread. How many could not be had since the session began. */
uint64_t conprof_calls_refused(void);
void conprof_calls_reset(void);

/* A thread of ours, without the GIL: calls `terminate`. */
void conprof_calls_terminate(void);

/* GIL held. Calls `trouble`. */
void conprof_calls_trouble(void);

#endif
