/* drain.h: the one background thread of the engine.
 *
 * The drain has no Python state and never takes the GIL. It sleeps until
 *   - the process has used 100 ms of CPU (a timer on the process's CPU clock; where that cannot be
 *     had, it looks once a second), or
 *   - a handler calls because the ring fills, or
 *   - something is due (calls.h, offcpu.h, turn.h).
 * So an idle process does not wake it. It empties the ring into the open window, looks for new
 * threads, and has Python called.
 *
 * It says by when it will have come round again. What runs anyway with the GIL (requests, threads
 * that begin, stats) looks at that time, which costs a clock read, and gets it going again: where
 * no thread could be had behind a fork, and where the one that there was has gone or hangs.
 */
#ifndef CONPROF_DRAIN_H
#define CONPROF_DRAIN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "aggregate.h"
#include "compat.h"

/* CPU time of the process between two wakings of the drain; monotonic time between them where no
 * such timer can be had. */
#define CONPROF_DRAIN_EVERY_NS 100000000u
#define CONPROF_DRAIN_POLL_NS UINT64_C(1000000000)

/* How long stop() waits for the drain, the handlers and all else of ours together; and what a fork
 * waits for the drain. What has not ended by then is given up, and counted. */
#define CONPROF_STOP_WAIT_NS UINT64_C(2000000000)
#define CONPROF_FORK_WAIT_NS UINT64_C(500000000)

/* Starts the drain; false when no thread can be had, which is tried again by conprof_drain_check
 * while a session runs. */
bool conprof_drain_start(void);

/* Ends it, and waits for that no longer than until then. Never waits for the GIL. */
void conprof_drain_stop(uint64_t until_ns);

/* A new session begins: its counters are zero. */
void conprof_drain_reset(void);

/* In the child of a fork: there is no drain. The first by the bare fork, async-signal-safe. */
void conprof_drain_is_gone(void);
void conprof_drain_forget(void);

/* Monotonic time by which the drain will have come round, or it is time to try again; 0: nobody
 * waits for it. Written by: the drain, start, stop, inspect. */
extern _Atomic uint64_t conprof_drain_due_ns;

/* GIL held; the drain is late. */
void conprof_drain_inspect(void);

/* GIL held, at any time while a session may run: gets the drain going where it is missing. */
static inline void
conprof_drain_check(void)
{
    uint64_t due = atomic_load_explicit(&conprof_drain_due_ns, memory_order_relaxed);
    if (due != 0) {
        struct timespec now; /* of the last tick, for a fraction of the price */
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        if ((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec > due) {
            conprof_drain_inspect();
        }
    }
}

/* Session lock held: moves all published records into `window`, and frees label
 * records in limbo when that is safe. */
void conprof_drain_ring(struct conprof_window *window);

/* Session lock held: CPU of the drain not charged yet; charges it. */
uint64_t conprof_drain_outstanding_ns(void);
void conprof_drain_charge(void);

/* Any thread. */
struct conprof_drain_counters {
    uint64_t cpu_ns;         /* of all drains so far */
    uint64_t signal_changes; /* times the signal had to change */
    uint64_t missing;        /* 1: it should run, and no thread could be had */
    uint64_t refused;        /* attempts at a thread that failed */
    uint64_t lost;           /* drains that did not come round any more and were replaced */
    uint64_t polls;          /* wakings without the timer */
};
struct conprof_drain_counters conprof_drain_counters(void);

/* Any thread. A wait of ours was given up; how many were, since the session began. */
void conprof_drain_count_given_up(void);
uint64_t conprof_drain_given_up(void);

#endif
