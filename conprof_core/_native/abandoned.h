/* abandoned.h: handlers that never ended.
 *
 * Nothing that libc knows interrupts our handler, nor what of ours runs with signals blocked. What
 * is left (a handler for SIGSEGV that somebody sent, and that leaves by siglongjmp; a thread that
 * ends itself by the raw system call in such a handler) leaves a record open in the ring, in
 * the reader's way for good, and a handler counted that has long gone. Both are put right once it
 * is proven that the thread is no longer where it was; until then it is taken for slow.
 */
#ifndef CONPROF_ABANDONED_H
#define CONPROF_ABANDONED_H

#include <stdbool.h>
#include <stdint.h>

/* Session lock held. Steps over an open record that stands in the reader's way, when its writer
 * will not write any more. To be called when the ring is not empty and nothing can be taken. True
 * when there is something to take now. */
bool conprof_abandoned_step_over(uint64_t now_ns);

/* Session lock held. Counts handlers no longer as running that will never end. */
void conprof_abandoned_settle(void);

/* Session lock held. A new session, or the child of a fork. */
void conprof_abandoned_reset(void);

/* Any thread. Records and handlers given up since the session began. */
uint64_t conprof_abandoned_count(void);

#endif
