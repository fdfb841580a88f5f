/* traces.h: the ids of a trace's span, and those that a label cell was given late.
 *
 * A cell may hold the ids of the span that its request or job is, as a tracer sees it. They
 * are no labels: each request has its own, so they have their own fields in cells, records of
 * the ring and rows, and their own bounds. Without a tracer the fields are 0, records of the
 * ring are without them, and no table is allocated.
 *
 * A tracer may begin its span after samples were taken in the cell. Those carry the id of the
 * cell, because it is provisional; the late ids are kept here until the window is resolved.
 */
#ifndef CONPROF_TRACES_H
#define CONPROF_TRACES_H

#include <stdbool.h>
#include <stdint.h>

/* Cells that are given ids late, per window. Beyond, their early samples have none. */
#define CONPROF_MAX_LATE_TRACES 4096u

struct conprof_trace {
    uint64_t high, low; /* of the trace id */
    uint64_t span;      /* of the span at its root in this process; 0: there is no trace */
};

/* Words of a trace at the end of a record in the ring. */
#define CONPROF_TRACE_WORDS (sizeof(struct conprof_trace) / sizeof(uint64_t))

/* GIL held; takes the session lock. Samples of this cell in the open window get these ids. */
void conprof_traces_bind(uint64_t cell_id, const struct conprof_trace *trace);

/* Session lock held. The ids given to a cell since the last reset, borrowed, or NULL. */
const struct conprof_trace *conprof_traces_binding(uint64_t cell_id);

/* Session lock held. Forgets them; returns how many found no room. */
uint64_t conprof_traces_reset(void);

#endif
