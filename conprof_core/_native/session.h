/* session.h: the life of a native session, from start to stop, and over fork. */
#ifndef CONPROF_SESSION_H
#define CONPROF_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "aggregate.h"
#include "blocked.h"
#include "compat.h"

/* GIL held. Arms every thread of the process and starts the drain. 1; 0 when no thread can be had
 * for the drain, which is tried again as long as the session runs; or -1 with a Python exception,
 * and then nothing is left running. `wall_rate_hz`: looks at what does not
 * run, a second; 0: none, and no wall time. `blocked_ns`: what a callback of an event loop may
 * take before it counts as blocking. */
int conprof_session_start(uint32_t rate_hz, double period_s, uint32_t max_stacks,
                          uint32_t wall_rate_hz, uint64_t blocked_ns);

/* GIL held, released while waiting. Takes no more samples; harmless when stopped. */
void conprof_session_stop(void);

/* GIL held, released while working. The window since the last call, for the caller
 * to free; a new one is open when the session runs. NULL without memory. What is alive
 * grows older by the windows that end a period, not by those cut within one; `has_alive`:
 * is it told at all. */
struct conprof_window *conprof_session_take_window(bool ends_period, bool has_alive);

/* GIL held. The calling thread begins or ends: a Python thread's bootstrap calls
 * these. `target` is the code it was started for, or NULL; borrowed. Without
 * `target` no GIL is needed. */
void conprof_session_thread_begin(const char *name, size_t name_bytes, PyObject *target);
void conprof_session_thread_end(void);
/* Charges what the calling thread has used since its last sample to what it is labelled
 * now (residue.h). With the GIL; harmless while nothing runs. */
void conprof_session_charge_own(void);

/* A request begins or ends; the labels of what came before still stand. In a thread that has done
 * few of them, and may be gone after this one, charges them what it has used since its last sample:
 * at the thread's end nobody could say any more whose that was. With the GIL; two instructions in a
 * thread that lives on. */
void conprof_session_charge_request(void);

/* GIL held. Adds wall time that is no thread's to a stack of frame words, leaf first;
 * harmless while nothing runs or wall time is not measured. With `is_lock` it is a wait for a
 * lock, too. */
void conprof_session_charge_wall(const uint64_t *frames, uint32_t count,
                                 const struct conprof_marks *marks, uint64_t ns, bool is_lock);

/* GIL held. The event loops that run now; harmless while nothing runs. */
void conprof_session_watch_loops(const struct conprof_loop *loops, uint32_t count);

/* GIL held. Gives a thread that runs already its Python name. */
void conprof_session_name_thread(pid_t tid, const char *name, size_t name_bytes);

/* No GIL. `is_called`: by a signal or a writer, that is, CPU time was used. */
void conprof_session_drain(bool is_called);
/* Drain only. Looks at what threads wait for, when it is due. */
void conprof_session_look(void);
/* Drain only. Another signal: all timers anew. */
void conprof_session_reconfigure(void);

/* Any thread. Samples so many times per second of CPU time from now on; no weight is lost
 * or charged twice. Harmless when stopped. */
void conprof_session_set_rate(uint32_t rate_hz);

/* GIL held, in the child of a fork, alone: stopped, and nothing of the parent's window
 * is left. */
void conprof_session_forget(void);

/* Any thread: runs in this very process? */
bool conprof_session_is_running(void);

/* Any thread. */
void conprof_session_pause(bool is_paused);

#endif
