/* targets.h: the threads that conprof has timers for, and a helper thread that signals them. */
#ifndef CONPROF_TARGETS_H
#define CONPROF_TARGETS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* A thread, and what its timer of conprof's sends, as /proc/self/timers says. written by: the
 * helper thread, but for `arrived` */
struct target {
    _Atomic pid_t tid; /* 0: free */
    int timer;
    void *value;
    _Atomic uint32_t sent;
    _Atomic uint32_t arrived; /* written by: the thread's handler, which counts each signal */
};

/* Signals that were sent, and that could not be. */
extern _Atomic uint64_t targets_sent, targets_unsent;

/* Signals every thread with a timer that sends `of_timers`, or every thread at all when that is 0:
 * with `number`, by sigqueue, carrying its target. One is not signalled again before its last but
 * one signal has arrived. False when there is no thread to do it. */
bool targets_start(int number, int of_timers, long period_ns);
void targets_stop(void);

/* Any context. Is it running? Is it a target's address? */
bool targets_are_signalled(void);
bool targets_have(const struct target *target);

#endif
