/* terminate.h: SIGTERM, where nobody handles it: the window so far is sent, then it does what it
 * would have done without us.
 *
 * Its default action ends the process, after two seconds at the latest, by that signal. Pid 1 of a
 * container is spared by the kernel: there the window is sent, and everything goes on.
 */
#ifndef CONPROF_TERMINATE_H
#define CONPROF_TERMINATE_H

#include <stdbool.h>

/* How long the end of a process by SIGTERM may be delayed. */
#define CONPROF_TERMINATE_S 2

/* Any thread. Takes over SIGTERM if its action is the default, and gives it back. */
void conprof_terminate_install(void);
void conprof_terminate_uninstall(void);

/* The drain, no lock held. When a SIGTERM has come: has the window sent and ends the process.
 * Returns where nothing has come, and where the signal does not end the process. */
void conprof_terminate_if_requested(void);

/* A drain begins, or a forked child: none has come. */
void conprof_terminate_forget(void);

#endif
