/* clock.h: the one clock of waits, pauses, rates and durations, and that of the calendar. */
#ifndef CONPROF_CLOCK_H
#define CONPROF_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Any thread, also in signal context: clock_gettime is async-signal-safe (POSIX.1-2017, 2.4.3). */
static inline uint64_t
conprof_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* As above. The wall clock, which is set now and then: no difference of two readings is a
 * duration. */
static inline int64_t
conprof_unix_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* A window begins where the one before it ended, unless the wall clock says otherwise by more than
 * this: it was set, or the machine slept. */
#define CONPROF_SAME_CLOCK_NS 100000000

#endif
