/* merge.h: the rows of a window under the names of a destination.
 *
 * Rows that differ only in what the naming leaves out become one sample; rows that
 * have nothing in the named columns are left out; of more label sets than the naming
 * allows, the rest shares the overflow set. Pure computation on a detached window: no
 * lock, no GIL.
 */
#ifndef CONPROF_MERGE_H
#define CONPROF_MERGE_H

#include "naming.h"

struct conprof_sample {
    uint32_t stack; /* of the window */
    uint32_t name_id;
    uint32_t record;                           /* index into `records` */
    uint32_t trace;                            /* index into the window's traces + 1, or 0 */
    uint64_t values[CONPROF_MAX_SAMPLE_TYPES]; /* in the order of the naming's types */
};

/* Zeroed is empty. */
struct conprof_merged {
    struct conprof_sample *samples; /* in the order of their first rows */
    uint32_t sample_count;
    const struct conprof_label_record **records; /* borrowed from the window; each once */
    uint32_t record_count, record_room;
};

/* False without memory; freed all the same. */
bool conprof_merge_rows(const struct conprof_window *window, const struct conprof_naming *naming,
                        struct conprof_merged *merged);
void conprof_merge_free(struct conprof_merged *merged);

#endif
