/* join.h: detached windows added up to a new one: what was cut within a period, put
 * together for the upload; what one reader asked for; what was allocated so far.
 */
#ifndef CONPROF_JOIN_H
#define CONPROF_JOIN_H

#include "aggregate.h"

/* One of the windows, and which of its columns count: a bit for each, 1 << column. */
struct conprof_part {
    const struct conprof_window *window;
    uint32_t added, subtracted;
};

/* What the sum is like. */
struct conprof_joining {
    int64_t start_ns, end_ns;
    uint32_t max_stacks;
    uint32_t max_label_sets; /* distinct ones, those of the first parts first; what comes after
                              * shares the overflow set; 0: no bound */
    bool has_threads;        /* else rows of all threads, and of all traces, are one */
};

/* Any thread, without the GIL and the session lock, which is taken for some rows at a time.
 * The parts are only read. A column of the sum is that of int64: of what was subtracted it
 * may be negative. NULL without memory. */
struct conprof_window *conprof_join(const struct conprof_part *parts, size_t count,
                                    const struct conprof_joining *joining);

#endif
