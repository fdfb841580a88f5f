/* wait_state.h: what a thread that does not run waits for, as the kernel sees it. */
#ifndef CONPROF_WAIT_STATE_H
#define CONPROF_WAIT_STATE_H

#include <stdint.h>
#include <sys/types.h>

enum conprof_wait {
    CONPROF_WAIT_UNKNOWN, /* the kernel does not say, or the thread is gone */
    CONPROF_WAIT_CPU,     /* runs, or could */
    CONPROF_WAIT_GIL,
    CONPROF_WAIT_LOCK, /* any other futex */
    CONPROF_WAIT_POLL, /* select, poll, epoll_wait */
    CONPROF_WAIT_SLEEP,
    CONPROF_WAIT_CALL, /* blocked in any other system call, or in a page fault */
};

/* Any thread, no GIL. Reads /proc/self/task/<tid>/syscall (proc(5)): 5 to 10 µs. `gil` and
 * `gil_bytes` say where the GIL lies. `futex`: the address that it sleeps on, else 0. `epoll`,
 * unless NULL, gets the descriptor that it waits on in epoll_wait, or -1. */
enum conprof_wait conprof_wait_of(pid_t tid, uintptr_t gil, size_t gil_bytes, uintptr_t *futex,
                                  int *epoll);

#endif
