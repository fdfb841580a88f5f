/* merge.c: see merge.h. */
#include "merge.h"

#include <stdlib.h>

#include "hash.h"
#include "ids.h"
#include "labels.h"

struct merger {
    const struct conprof_naming *naming;
    struct conprof_ids sample_ids, record_ids;
    struct conprof_sample *samples;              /* by id - 1 */
    const struct conprof_label_record **records; /* by id - 1 */
};

/* By identity: records are interned (label_records.c), stacks and names have ids, so
 * equal content is the same record, stack or id within a window. */
static bool
same_sample(const void *context, uint32_t id, const void *key)
{
    const struct conprof_sample *a = &((const struct merger *)context)->samples[id - 1], *b = key;
    return a->stack == b->stack && a->record == b->record && a->name_id == b->name_id;
}

static bool
same_record(const void *context, uint32_t id, const void *key)
{
    return ((const struct merger *)context)->records[id - 1] == key;
}

static bool
has_values(const struct conprof_naming *naming, const struct conprof_row *row)
{
    for (size_t i = 0; i < naming->sample_type_count; i++) {
        if (row->values[naming->sample_types[i].column] != 0) {
            return true;
        }
    }
    return false;
}

/* The labels of a row, or the overflow when there are more sets than wanted; NULL
 * without memory. */
static const struct conprof_label_record *
record_of(struct merger *merger, const struct conprof_row *row)
{
    uint32_t bound = merger->naming->max_label_sets;
    if (bound == 0) {
        return row->record;
    }
    uint32_t *place =
        conprof_ids_find(&merger->record_ids, conprof_hash_word(0, (uintptr_t)row->record),
                         same_record, merger, row->record);
    if (place == NULL) {
        return NULL;
    }
    if (*place == 0) {
        if (merger->record_ids.count >= bound) {
            return conprof_labels_overflow();
        }
        *place = ++merger->record_ids.count;
        merger->records[*place - 1] = row->record;
    }
    return row->record;
}

/* False without memory. */
static bool
add_row(struct merger *merger, const struct conprof_row *row)
{
    const struct conprof_naming *naming = merger->naming;
    struct conprof_sample key = {.stack = row->stack,
                                 .name_id = naming->thread_label.bytes ? row->name_id : 0,
                                 .record = record_of(merger, row)};
    if (key.record == NULL) {
        return false;
    }
    uint64_t hash =
        conprof_hash_word(conprof_hash_word((uintptr_t)key.record, key.stack), key.name_id);
    uint32_t *place = conprof_ids_find(&merger->sample_ids, hash, same_sample, merger, &key);
    if (place == NULL) {
        return false;
    }
    if (*place == 0) {
        *place = ++merger->sample_ids.count;
        merger->samples[*place - 1] = key;
    }
    for (size_t at = 0; at < naming->sample_type_count; at++) {
        merger->samples[*place - 1].values[at] += row->values[naming->sample_types[at].column];
    }
    return true;
}

struct conprof_sample *
conprof_merge_rows(const struct conprof_window *window, const struct conprof_naming *naming,
                   uint32_t *count)
{
    struct merger merger = {.naming = naming};
    merger.samples = calloc((size_t)window->row_count + 1, sizeof *merger.samples);
    merger.records = calloc((size_t)naming->max_label_sets + 1, sizeof *merger.records);
    bool merged = merger.samples != NULL && merger.records != NULL;
    for (uint32_t i = 0; merged && i < window->row_count; i++) {
        if (has_values(naming, &window->rows[i])) {
            merged = add_row(&merger, &window->rows[i]);
        }
    }
    *count = merger.sample_ids.count;
    conprof_ids_free(&merger.sample_ids);
    conprof_ids_free(&merger.record_ids);
    free(merger.records);
    if (!merged) {
        free(merger.samples);
        return NULL;
    }
    return merger.samples;
}
