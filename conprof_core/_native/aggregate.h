/* aggregate.h: a window of samples: (stack, label set, thread name) -> values.
 *
 * A window owns all that it needs: its codes and label records are counted
 * references, thread names live for ever. So once detached it is encoded without
 * any lock while the next one fills.
 *
 * Memory: bounded by the CONPROF_MAX_* below; tables start small and double. What
 * finds no room is added to one overflow row per label set, never lost.
 */
#ifndef CONPROF_AGGREGATE_H
#define CONPROF_AGGREGATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "code_table.h"
#include "labels.h"

#define CONPROF_MAX_LOCATIONS 65536u
#define CONPROF_MAX_STACK_WORDS (1u << 20)
#define CONPROF_MAX_ROWS 65536u

struct conprof_location {
    struct conprof_code *code; /* counted */
    int32_t line;
};

struct conprof_stack_row {
    uint32_t first;  /* index into `stack_words` */
    uint32_t length; /* locations, leaf first */
    uint32_t hash;
};

struct conprof_row {
    struct conprof_label_record *record; /* counted under the session lock */
    uint64_t cell_id;                    /* provisional cell, 0 once resolved */
    uint64_t samples;
    uint64_t cpu_ns;
    uint32_t stack;
    uint32_t name_id;
};

/* An open-addressing index over an array: entries are index + 1, 0 is free. */
struct conprof_index {
    uint32_t *entries;
    uint32_t size; /* a power of two */
};

enum conprof_lost {
    CONPROF_LOST_STACKS, /* rows that went to the overflow stack */
    CONPROF_LOST_LABELS, /* label sets refused while the window was open */
    CONPROF_LOST_COUNT,
};

struct conprof_window {
    int64_t start_ns, end_ns; /* Unix time */
    struct conprof_location *locations;
    uint32_t location_count, location_room;
    uint32_t *stack_words;
    uint32_t stack_word_count, stack_word_room;
    struct conprof_stack_row *stacks;
    uint32_t stack_count, stack_room, max_stacks;
    struct conprof_row *rows;
    uint32_t row_count, row_room;
    struct conprof_index location_index, stack_index, row_index;
    uint64_t samples, cpu_ns;
    uint64_t lost[CONPROF_LOST_COUNT];
};

/* Any thread. A new, empty window; NULL without memory. */
struct conprof_window *conprof_window_new(uint32_t max_stacks, int64_t start_ns);

/* Frees a window, or does nothing with NULL. The first takes the session lock to
 * release the label records, for the second it is held. */
void conprof_window_free(struct conprof_window *window);
void conprof_window_free_locked(struct conprof_window *window);

/* Session lock held: adds a sample record (`words` behind the header). */
void conprof_window_add(struct conprof_window *window, const uint64_t *words, uint32_t n);

/* Session lock held: gives rows of provisional cells the labels bound since. */
void conprof_window_resolve(struct conprof_window *window);

/* Session lock held: forgets the cache of locations, which belongs to one window. */
void conprof_window_forget_cache(void);

#endif
