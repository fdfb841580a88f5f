/* join.c: see join.h. */
#include "join.h"

#include <stdlib.h>

#include "hash.h"
#include "ids.h"
#include "lock.h"
#include "unwind.h"

/* Rows added while the session lock is held: a thread that begins, with the GIL, waits for
 * some tens of microseconds. */
#define ROWS_A_TURN 64u

/* Frames of one row. No stack is longer than CONPROF_MAX_FRAMES and a synthetic frame or two. */
#define MAX_LOCATIONS (2 * CONPROF_MAX_FRAMES)

struct joiner {
    const struct conprof_joining *joining;
    struct conprof_window *sum;
    struct conprof_ids ids;                /* index + 1 of `records` */
    struct conprof_label_record **records; /* of the sum, which counts them */
    uint32_t record_room;
    struct conprof_location locations[MAX_LOCATIONS];
};

static bool
same_record(const void *context, uint32_t id, const void *key)
{
    return ((const struct joiner *)context)->records[id - 1] == key;
}

/* The labels of a row of the sum; NULL without memory. */
static struct conprof_label_record *
record_of(struct joiner *joiner, struct conprof_label_record *record)
{
    uint32_t bound = joiner->joining->max_label_sets;
    if (bound == 0 || record == conprof_labels_overflow()) {
        return record;
    }
    uint64_t hash = conprof_hash_word(0, (uintptr_t)record);
    uint32_t *place = conprof_ids_find(&joiner->ids, hash, same_record, joiner, record);
    if (place == NULL) {
        return NULL;
    }
    if (*place == 0) {
        if (joiner->ids.count >= bound) {
            return conprof_labels_overflow();
        }
        if (!conprof_array_reach((void **)&joiner->records, &joiner->record_room, joiner->ids.count,
                                 sizeof *joiner->records)) {
            return NULL;
        }
        joiner->records[joiner->ids.count] = record;
        *place = ++joiner->ids.count;
    }
    return record;
}

static bool
has_values(const struct conprof_row *row, uint32_t columns)
{
    for (int column = 0; column < CONPROF_COLUMN_COUNT; column++) {
        if ((columns >> column & 1) != 0 && row->values[column] != 0) {
            return true;
        }
    }
    return false;
}

/* Session lock held. False without memory. */
static bool
add_row(struct joiner *joiner, const struct conprof_part *part, const struct conprof_row *row)
{
    const struct conprof_window *window = part->window;
    const struct conprof_stack_row *stack = &window->stacks[row->stack];
    uint32_t length = stack->length < MAX_LOCATIONS ? stack->length : MAX_LOCATIONS;
    for (uint32_t i = 0; i < length; i++) {
        joiner->locations[i] = window->locations[window->stack_words[stack->first + i]];
    }
    struct conprof_label_record *record = record_of(joiner, row->record);
    if (record == NULL) {
        return false;
    }
    const bool has_threads = joiner->joining->has_threads;
    const struct conprof_trace none = {0};
    const struct conprof_trace trace = row->trace == 0 ? none : window->traces[row->trace - 1];
    struct conprof_row *target =
        conprof_window_row_at(joiner->sum, joiner->locations, length, record,
                              has_threads ? row->name_id : 0, has_threads ? &trace : &none);
    for (int column = 0; column < CONPROF_COLUMN_COUNT; column++) {
        uint64_t value = (part->added >> column & 1) != 0 ? row->values[column] : 0;
        value -= (part->subtracted >> column & 1) != 0 ? row->values[column] : 0;
        conprof_window_charge(joiner->sum, target, (enum conprof_column)column, value);
    }
    return target != NULL;
}

static bool
add_part(struct joiner *joiner, const struct conprof_part *part)
{
    const struct conprof_window *window = part->window;
    bool done = true;
    for (uint32_t at = 0; done && at < window->row_count;) {
        conprof_lock();
        for (uint32_t turn = 0; done && turn < ROWS_A_TURN && at < window->row_count; at++) {
            if (has_values(&window->rows[at], part->added | part->subtracted)) {
                done = add_row(joiner, part, &window->rows[at]);
                turn++;
            }
        }
        conprof_unlock();
    }
    return done;
}

struct conprof_window *
conprof_join(const struct conprof_part *parts, size_t count, const struct conprof_joining *joining)
{
    struct joiner *joiner = calloc(1, sizeof *joiner);
    if (joiner == NULL) {
        return NULL;
    }
    joiner->joining = joining;
    joiner->sum = conprof_window_new(joining->max_stacks, joining->start_ns);
    bool done = joiner->sum != NULL;
    for (size_t i = 0; done && i < count; i++) {
        done = add_part(joiner, &parts[i]);
    }
    struct conprof_window *sum = joiner->sum;
    conprof_ids_free(&joiner->ids);
    free(joiner->records);
    free(joiner);
    if (!done) {
        conprof_window_free(sum);
        return NULL;
    }
    sum->end_ns = joining->end_ns;
    return sum;
}
