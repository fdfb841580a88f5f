/* aggregate.h: a window of samples: (stack, label set, thread name, trace) -> values.
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

/* Traces in one window, and rows that have one: nearly every request has rows of its own, and
 * they must leave room for those that merge. Beyond, samples are added without their ids. */
#define CONPROF_MAX_TRACES 8192u
#define CONPROF_MAX_TRACED_ROWS (CONPROF_MAX_ROWS / 4)

struct conprof_location {
    struct conprof_code *code; /* counted */
    int32_t line;
};

struct conprof_stack_row {
    uint32_t first;  /* index into `stack_words` */
    uint32_t length; /* locations, leaf first */
    uint32_t hash;
};

/* What a row counts. The names of columns, as Python knows them, are in aggregate.c. */
enum conprof_column {
    CONPROF_COLUMN_SAMPLES,
    CONPROF_COLUMN_CPU_NS,
    CONPROF_COLUMN_WALL_SAMPLES,
    CONPROF_COLUMN_WALL_NS,
    CONPROF_COLUMN_GIL_WAIT_NS,
    CONPROF_COLUMN_LOCK_WAIT_NS,
    CONPROF_COLUMN_LOOP_BLOCKS,
    CONPROF_COLUMN_LOOP_BLOCKED_NS,
    CONPROF_COLUMN_GC_PAUSES,
    CONPROF_COLUMN_GC_PAUSE_NS,
    CONPROF_COLUMN_ALLOC_OBJECTS,
    CONPROF_COLUMN_ALLOC_BYTES,
    CONPROF_COLUMN_INUSE_OBJECTS,
    CONPROF_COLUMN_INUSE_BYTES,
    CONPROF_COLUMN_TASKS,
    CONPROF_COLUMN_COUNT,
};

extern const char *const conprof_column_names[CONPROF_COLUMN_COUNT];

struct conprof_row {
    struct conprof_label_record *record; /* counted under the session lock */
    uint64_t cell_id;                    /* provisional cell, 0 once resolved */
    uint64_t values[CONPROF_COLUMN_COUNT];
    uint64_t residue_ns; /* CPU time of unknown stack, 0 once the window is closed (residue.h) */
    uint32_t stack;
    uint16_t name_id;
    uint16_t trace; /* index into `traces` + 1; 0: none */
};

_Static_assert(CONPROF_MAX_TRACES <= UINT16_MAX, "a row has 16 bits for its trace");

/* An open-addressing index over an array: entries are index + 1, 0 is free. */
struct conprof_index {
    uint32_t *entries;
    uint32_t size; /* a power of two */
};

enum conprof_lost {
    CONPROF_LOST_STACKS, /* rows that went to the overflow stack */
    CONPROF_LOST_LABELS, /* label sets refused while the window was open */
    CONPROF_LOST_TRACES, /* samples added without their ids */
    CONPROF_LOST_COUNT,
};

struct conprof_window {
    int64_t start_ns, end_ns; /* Unix time, of the end by the clock of the begin */
    uint64_t began_ns;        /* monotonic time of the begin */
    bool has_wall;            /* CPU time is wall time, too */
    struct conprof_location *locations;
    uint32_t location_count, location_room;
    uint32_t *stack_words;
    uint32_t stack_word_count, stack_word_room;
    struct conprof_stack_row *stacks;
    uint32_t stack_count, stack_room, max_stacks;
    struct conprof_row *rows;
    uint32_t row_count, row_room, traced_row_count;
    struct conprof_trace *traces;
    uint32_t trace_count, trace_room;
    struct conprof_index location_index, stack_index, row_index, trace_index;
    uint64_t totals[CONPROF_COLUMN_COUNT];
    uint64_t lost[CONPROF_LOST_COUNT];
};

/* Any thread. A new, empty window; NULL without memory. */
struct conprof_window *conprof_window_new(uint32_t max_stacks, int64_t start_ns);

/* Any thread, of a window that one session has: it ends now, at this monotonic time; and one that
 * begins now begins there, unless the wall clock has been set. */
void conprof_window_end(struct conprof_window *window, uint64_t now_ns);
void conprof_window_begin(struct conprof_window *window, const struct conprof_window *before);

/* Frees a window, or does nothing with NULL. The first takes the session lock to
 * release the label records, for the second it is held. */
void conprof_window_free(struct conprof_window *window);
void conprof_window_free_locked(struct conprof_window *window);

/* Session lock held: the row of a stack (frame words, leaf first), marks and thread name.
 * When a table is full, the row of the overflow stack, which is counted as lost; NULL only
 * without memory for a first row. */
struct conprof_row *conprof_window_row(struct conprof_window *window, const uint64_t *frames,
                                       uint32_t n, const struct conprof_marks *marks,
                                       uint32_t name_id);

/* Session lock held: the same for a stack that is known as locations already. */
struct conprof_row *conprof_window_row_at(struct conprof_window *window,
                                          const struct conprof_location *locations, uint32_t n,
                                          struct conprof_label_record *record, uint32_t name_id,
                                          const struct conprof_trace *trace);

/* Session lock held: code and line of a frame word, borrowed; the code is NULL only
 * without memory. */
struct conprof_location conprof_location_of(uint64_t word);

/* Session lock held: adds to a row and to the total of the window. A row of NULL
 * takes nothing. */
static inline void
conprof_window_charge(struct conprof_window *window, struct conprof_row *row,
                      enum conprof_column column, uint64_t value)
{
    if (row != NULL) {
        row->values[column] += value;
        window->totals[column] += value;
    }
}

/* Any thread, on a detached window: has the row a value in any column? */
bool conprof_row_is_empty(const struct conprof_row *row);

/* Session lock held: adds a sample record (`words` behind the header, without its trace); its
 * row, or NULL. */
struct conprof_row *conprof_window_add(struct conprof_window *window, const uint64_t *words,
                                       uint32_t n, const struct conprof_trace *trace);

/* Session lock held: gives rows of provisional cells the labels and the trace bound since. */
void conprof_window_resolve(struct conprof_window *window);

/* Session lock held: forgets the cache of locations, which belongs to one window. */
void conprof_window_forget_cache(void);

#endif
