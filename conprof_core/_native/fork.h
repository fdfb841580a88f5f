/* fork.h: the three steps of a fork, and the lock around the fork itself.
 *
 * Order: prefork (Python's hook, GIL held), before_fork (pthread_atfork, inside the
 * fork), the fork, after_fork_in_parent or after_fork_in_child (likewise), then
 * postfork_parent or postfork_child (Python's hooks). Between Python's hooks and the
 * fork CPython waits for the GIL, so nothing of ours may be locked there.
 */
#ifndef CONPROF_FORK_H
#define CONPROF_FORK_H

/* Any thread. Registers the handlers inside the fork, once. */
void conprof_fork_install(void);

/* GIL held. */
void conprof_fork_prefork(void);
void conprof_fork_postfork_parent(void);
void conprof_fork_postfork_child(void);

#endif
