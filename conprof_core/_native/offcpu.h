/* offcpu.h: the looker: what threads spend while they do not run, by stack.
 *
 * Wall time of a thread = its CPU time + its time off the CPU. The first comes from the
 * samples of the CPU engine (conprof_window_add). The second is known exactly at every
 * look: elapsed time less CPU time. A look, 20 times a second, by the drain, without the
 * GIL:
 *   - a thread whose CPU clock stands where it stood has not moved: what it waits for is
 *     known, it only gains weight. This is one clock read;
 *   - a thread that has moved is read again (remote.h): stack, labels, and what the kernel
 *     says that it waits for. Its time off the CPU since the last look goes there.
 *   - a thread that runs, or that moved while it was read, gives nothing: its time off the
 *     CPU is carried to the next look that succeeds, as the CPU engine carries weight.
 * Invariant: for each thread, what was charged plus what is pending is the time that it
 * has lived less its CPU time, since it was armed. So sums are exact, whatever is missed.
 *
 * All functions want the session lock, and none the GIL. A look takes at most
 * CONPROF_LOOK_CAPTURES stacks; who is passed over carries.
 */
#ifndef CONPROF_OFFCPU_H
#define CONPROF_OFFCPU_H

#include "aggregate.h"
#include "compat.h"
#include "threads.h"

/* Stacks captured in one look, about 20 µs each. */
#define CONPROF_LOOK_CAPTURES 64u

/* Threads looked at before the session lock is given to others for a moment. */
#define CONPROF_LOOK_BATCH 32u

/* Begins with `rate_hz` looks a second on average; 0: there are none. */
void conprof_offcpu_configure(uint32_t rate_hz, PyInterpreterState *interpreter);

/* Any thread. Is WALL measured? */
bool conprof_offcpu_is_on(void);

/* The drain: nanoseconds until the next look at this monotonic time, UINT64_MAX when none
 * comes; 0: it is due. */
uint64_t conprof_offcpu_wait_ns(uint64_t now_ns);

/* The drain: looks at the next batch of threads. False when the look is complete, and
 * then the next one is scheduled. */
bool conprof_offcpu_look(struct conprof_window *window);

/* The window ends: all that threads have waited is charged to it. Of a thread that runs
 * just now, a little may be carried, unless this is the last window. */
void conprof_offcpu_close(struct conprof_window *window, bool is_last);

/* A thread begins, or its slot is about to be given up. The second charges what it has
 * waited; `window` may be NULL. */
void conprof_offcpu_begin(struct conprof_thread *thread);
void conprof_offcpu_end(struct conprof_window *window, struct conprof_thread *thread);

/* Counters since configure: looks at one thread, stacks captured, captures that failed. */
struct conprof_offcpu_counters {
    uint64_t looks, captures, torn;
};
struct conprof_offcpu_counters conprof_offcpu_counters(void);

#endif
