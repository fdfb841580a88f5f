/* pprof.h: a detached window -> pprof bytes (google/pprof proto/profile.proto).
 *
 * Pure computation: no lock, no GIL, no session. The profile has one mapping to
 * which every location points, ids 1..n in table order, string labels only, no
 * system names, the start line of every function. Rows that differ only in what
 * the naming leaves out are merged; rows that
 * have nothing in the named columns are left out.
 */
#ifndef CONPROF_PPROF_H
#define CONPROF_PPROF_H

#include <stddef.h>
#include <stdint.h>

#include "aggregate.h"

#define CONPROF_MAX_SAMPLE_TYPES 16

struct conprof_text {
    const char *data;
    size_t bytes;
};

struct conprof_rename {
    struct conprof_text from, to;
};

/* How a window is named on the wire; all texts borrowed. */
struct conprof_naming {
    struct {
        struct conprof_text type, unit;
        enum conprof_column column;
    } sample_types[CONPROF_MAX_SAMPLE_TYPES];
    size_t sample_type_count;
    struct conprof_text period_type, period_unit;
    int64_t period;
    struct conprof_text default_sample_type; /* no data: leave it out */
    struct conprof_rename *renames;
    size_t rename_count;
    struct conprof_text thread_label; /* no data: threads are merged */
    struct conprof_text mapping_file;
    struct conprof_text *comments;
    size_t comment_count;
    uint32_t max_label_sets; /* distinct ones; what comes after shares one; 0: no bound */
    uint32_t first_sample;   /* of the merged samples: what precedes it is left out, */
    uint32_t max_samples;    /* and what follows these; 0: no bound */
};

/* Encodes into a malloc'd block that the caller frees. NULL without memory, and with
 * `*bytes` 1 when there is no sample from `first_sample` > 0 on. */
char *conprof_pprof_encode(const struct conprof_window *window, const struct conprof_naming *naming,
                           size_t *bytes);

#endif
