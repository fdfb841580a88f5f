/* clock.h: the one clock of waits, pauses and rates. */
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

#endif
