/* pprof.h: a detached window -> pprof bytes (google/pprof proto/profile.proto).
 *
 * Pure computation: no lock, no GIL, no session. The profile has one mapping to
 * which every location points, ids 1..n in table order, string labels only, no
 * system names, the start line of every function. Its samples are those of merge.h.
 */
#ifndef CONPROF_PPROF_H
#define CONPROF_PPROF_H

#include <stddef.h>
#include <stdint.h>

#include "naming.h"

/* One profile of a window; all texts borrowed. */
struct conprof_pprof {
    struct conprof_naming naming;
    struct conprof_text period_type, period_unit;
    int64_t period;
    struct conprof_text default_sample_type; /* no data: leave it out */
    struct conprof_text mapping_file;
    struct conprof_text *comments;
    size_t comment_count;
    uint32_t first_sample; /* of the merged samples: what precedes it is left out */
};

/* Encodes into a malloc'd block that the caller frees. NULL without memory, and with
 * `*bytes` 1 when there is no sample from `first_sample` > 0 on. */
char *conprof_pprof_encode(const struct conprof_window *window, const struct conprof_pprof *profile,
                           size_t *bytes);

#endif
