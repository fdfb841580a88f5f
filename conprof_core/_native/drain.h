/* drain.h: the one background thread of the engine, and the callers it spawns.
 *
 * The drain has no Python state and never takes the GIL. It sleeps until
 *   - the process has used 100 ms of CPU (a timer on the process's CPU clock), or
 *   - a handler calls because the ring fills, or
 *   - the next tick is due.
 * So an idle process does not wake it. It empties the ring into the open window,
 * looks for new threads, and starts a short-lived thread with a Python state when
 * Python has something to do (a window's end, a retry, the end of the process).
 */
#ifndef CONPROF_DRAIN_H
#define CONPROF_DRAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "aggregate.h"
#include "compat.h"

/* CPU time of the process between two wakings of the drain. */
#define CONPROF_DRAIN_EVERY_NS 100000000u

/* How long the end of a process by SIGTERM may be delayed. */
#define CONPROF_TERMINATE_S 2

/* Starts the drain; false when no thread can be had. */
bool conprof_drain_start(void);

/* Stops and joins it. Never waits for the GIL. */
void conprof_drain_stop(void);

/* A new session begins: its counters are zero. */
void conprof_drain_reset(void);

/* In the child of a fork: there is no drain. */
void conprof_drain_forget(void);

/* Any thread: what to call, and seconds until then. References are taken over. */
void conprof_drain_set_callbacks(PyObject *tick, PyObject *on_terminate);
void conprof_drain_schedule(double seconds);

/* GIL held. What looks at suspended tasks while the session runs: called with the GIL in a
 * thread of its own, returns seconds until the next call; NULL: nothing. The reference is
 * taken over. */
void conprof_drain_set_task_look(PyObject *look);

/* GIL held, released while waiting, a moment at most: until no such look is under way. */
void conprof_drain_await_task_look(void);

/* Any thread: the next tick is due now. */
void conprof_drain_wake(void);

/* Session lock held: moves all published records into `window`, and frees label
 * records in limbo when that is safe. */
void conprof_drain_ring(struct conprof_window *window);

/* Session lock held: CPU of the drain not charged yet; charges it. */
uint64_t conprof_drain_outstanding_ns(void);
void conprof_drain_charge(void);

/* Takes over SIGTERM if nobody handles it, and gives it back. */
void conprof_terminate_install(void);
void conprof_terminate_uninstall(void);

/* Any thread: CPU time of all drains so far, ns; times the signal had to change. */
uint64_t conprof_drain_cpu_ns(void);
uint64_t conprof_drain_signal_changes(void);

#endif
