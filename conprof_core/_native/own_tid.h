/* own_tid.h: which thread this is. */
#ifndef CONPROF_OWN_TID_H
#define CONPROF_OWN_TID_H

#include <sys/types.h>

/* Any thread, not in signal context. The kernel's id of the calling thread. Where a sandbox refuses
 * gettid() it is what the C library noted when the thread began, wrong only in the child of a fork
 * that the C library knows nothing of; 0 where that is not known either. Keeps errno. */
pid_t conprof_own_tid(void);

/* SIGNAL-SAFE, any thread. The same, and 0 where gettid() is refused. */
pid_t conprof_own_tid_in_signal(void);

#endif
