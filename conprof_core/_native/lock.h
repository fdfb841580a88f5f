/* lock.h: the session lock.
 *
 * One mutex guards everything that is neither ring nor code registry: thread
 * table, aggregator, code table, label records. Rules that must stay true:
 *   - never taken in signal context;
 *   - never held while waiting for the GIL or for the network;
 *   - held across fork() itself by a pthread_atfork handler, so that the child
 *     finds whole data behind it;
 *   - the holder takes no signal: a handler of the application's that leaves by
 *     siglongjmp would leave the lock taken for ever, and our own handler samples
 *     what the holder may be about to charge.
 */
#ifndef CONPROF_LOCK_H
#define CONPROF_LOCK_H

#include "signals.h"

#include <stdbool.h>

void conprof_lock(void);
void conprof_unlock(void);

/* Lock held. What the holder blocked before it took the lock. */
conprof_signal_set conprof_lock_mask(void);

/* The lock free or held by the caller: it is this process's from now on. */
void conprof_lock_adopt(void);

/* Any thread. Was the lock held by a thread of the parent when this process was forked by the raw
 * system call? What it guards is in no known state then, for good. */
bool conprof_lock_is_torn(void);

#endif
