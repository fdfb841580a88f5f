/* turn.h: a thread of ours has its turn with the GIL beside a main thread that hogs it.
 *
 * A thread that waits for the GIL is woken each time it is offered, and only a wait of a whole
 * switch interval without an offer asks for it. So a main thread that releases the GIL every
 * few hundred microseconds, for a short write, and has it back before the other is awake, keeps
 * that one out for seconds (take_gil() in CPython's Python/ceval_gil.c).
 *
 * While a thread of ours is in Python and has used no CPU for a while, the drain asks the main
 * thread, by a pending call, to stand aside: to release the GIL for longer than waking takes.
 * It cannot be known whether that thread waits for the GIL or for an agent, so asking becomes
 * rarer after a while, and a main thread that waits somewhere is not woken: it runs the call
 * when it next runs Python. Threads other than the main one are never asked.
 *
 * Invariant: at most one call of ours is pending at any time.
 */
#ifndef CONPROF_TURN_H
#define CONPROF_TURN_H

#include <stdint.h>

/* How long the main thread stands aside. */
#define CONPROF_ASIDE_NS 200000u

/* Between two looks; after so many of them doubled each time, up to the longest. */
#define CONPROF_TURN_LOOK_NS 5000000u
#define CONPROF_TURN_LOOKS 64
#define CONPROF_TURN_LOOK_MAX_NS 160000000u

/* No GIL: this thread is about to want it. Of several the last one counts. */
void conprof_turn_begin(void);

/* The GIL held or not: this thread wants it no more. */
void conprof_turn_end(void);

/* The drain: nanoseconds until the next look, or UINT64_MAX. */
uint64_t conprof_turn_wait_ns(uint64_t now_ns);

/* The drain, no lock held: looks, and asks the main thread when it is time. */
void conprof_turn_look(uint64_t now_ns);

/* The drain: how often the main thread was asked. Any thread. */
uint64_t conprof_turns_asked(void);

/* In the child of a fork, and before a session: nobody wants anything. */
void conprof_turn_forget(void);

#endif
