/* merge.c: see merge.h. */
#include "merge.h"

#include <stdlib.h>
#include <string.h>

#include "hash.h"
#include "ids.h"
#include "labels.h"

#define NO_RECORD UINT32_MAX

/* A record of the window and what it is under the naming. */
struct known {
    const struct conprof_label_record *record;
    uint32_t index; /* of a record that says the same */
};

struct merger {
    const struct conprof_naming *naming;
    struct conprof_ids sample_ids, label_ids; /* index + 1 of `merged` */
    struct conprof_ids known_ids;             /* index + 1 of `known` */
    struct known *known;
    uint32_t known_room;
    struct conprof_merged *merged;
};

/* Stacks and names have ids, so equal content is the same id within a window. */
static bool
same_sample(const void *context, uint32_t id, const void *key)
{
    const struct conprof_sample *a = &((const struct merger *)context)->merged->samples[id - 1],
                                *b = key;
    return a->stack == b->stack && a->record == b->record && a->name_id == b->name_id &&
           a->trace == b->trace;
}

static bool
same_record(const void *context, uint32_t id, const void *key)
{
    return ((const struct merger *)context)->known[id - 1].record == key;
}

/* The next label from `*at` on that the naming keeps; NULL behind the last. */
static const struct conprof_label *
next_kept(const struct conprof_naming *naming, const struct conprof_label_record *record,
          uint32_t *at)
{
    while (*at < record->count) {
        const struct conprof_label *label = &record->labels[(*at)++];
        struct conprof_text key = {label->key, label->key_bytes};
        if (label->value_bytes > 0 && conprof_naming_key(naming, key).bytes > 0) {
            return label;
        }
    }
    return NULL;
}

static bool
same_text(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    return a_bytes == b_bytes && memcmp(a, b, a_bytes) == 0;
}

/* Records are sorted by key, so equal ones are equal label by label. */
static bool
same_labels(const void *context, uint32_t id, const void *key)
{
    const struct merger *merger = context;
    const struct conprof_label_record *one = merger->merged->records[id - 1], *other = key;
    for (uint32_t i = 0, j = 0;;) {
        const struct conprof_label *a = next_kept(merger->naming, one, &i);
        const struct conprof_label *b = next_kept(merger->naming, other, &j);
        if (a == NULL || b == NULL) {
            return a == b;
        }
        if (!same_text(a->key, a->key_bytes, b->key, b->key_bytes) ||
            !same_text(a->value, a->value_bytes, b->value, b->value_bytes)) {
            return false;
        }
    }
}

static uint64_t
hash_labels(const struct conprof_naming *naming, const struct conprof_label_record *record)
{
    uint64_t hash = 0;
    const struct conprof_label *label;
    for (uint32_t i = 0; (label = next_kept(naming, record, &i)) != NULL;) {
        hash = conprof_hash_bytes(hash, label->key, label->key_bytes);
        hash = conprof_hash_bytes(hash, label->value, label->value_bytes);
    }
    return hash;
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

/* The index of a record that says the same under the naming: this one, when there is
 * none and the table is not at its bound. Else, as without memory, NO_RECORD. */
static uint32_t
index_of_labels(struct merger *merger, const struct conprof_label_record *record, uint32_t bound)
{
    struct conprof_merged *merged = merger->merged;
    uint32_t *place = conprof_ids_find(&merger->label_ids, hash_labels(merger->naming, record),
                                       same_labels, merger, record);
    if (place == NULL) {
        return NO_RECORD;
    }
    if (*place == 0) {
        if (merged->record_count >= bound ||
            !conprof_array_reach((void **)&merged->records, &merged->record_room,
                                 merged->record_count, sizeof *merged->records)) {
            return NO_RECORD;
        }
        merged->records[merged->record_count++] = record;
        *place = ++merger->label_ids.count;
    }
    return *place - 1;
}

/* The same for a row, with the overflow set beyond the bound; NO_RECORD only without
 * memory. Many rows share a record, so it is looked at once. */
static uint32_t
index_of_record(struct merger *merger, const struct conprof_label_record *record)
{
    uint32_t *place = conprof_ids_find(&merger->known_ids, conprof_hash_word(0, (uintptr_t)record),
                                       same_record, merger, record);
    if (place == NULL || !conprof_array_reach((void **)&merger->known, &merger->known_room,
                                              merger->known_ids.count, sizeof *merger->known)) {
        return NO_RECORD;
    }
    if (*place == 0) {
        uint32_t bound = merger->naming->max_label_sets;
        uint32_t index = index_of_labels(merger, record, bound != 0 ? bound : UINT32_MAX);
        if (index == NO_RECORD) {
            index = index_of_labels(merger, conprof_labels_overflow(), UINT32_MAX);
        }
        merger->known[merger->known_ids.count] = (struct known){record, index};
        *place = ++merger->known_ids.count;
    }
    return merger->known[*place - 1].index;
}

/* False without memory. */
static bool
add_row(struct merger *merger, const struct conprof_row *row)
{
    const struct conprof_naming *naming = merger->naming;
    struct conprof_sample key = {.stack = row->stack,
                                 .name_id = naming->thread_label.bytes ? row->name_id : 0,
                                 .record = index_of_record(merger, row->record),
                                 .trace = naming->span_form != CONPROF_SPAN_NONE ? row->trace : 0};
    if (key.record == NO_RECORD) {
        return false;
    }
    uint64_t low = (uint64_t)key.trace << 32 | key.name_id;
    uint64_t hash = conprof_hash_word(conprof_hash_word(key.record, key.stack), low);
    uint32_t *place = conprof_ids_find(&merger->sample_ids, hash, same_sample, merger, &key);
    if (place == NULL) {
        return false;
    }
    if (*place == 0) {
        *place = ++merger->sample_ids.count;
        merger->merged->sample_count++;
        merger->merged->samples[*place - 1] = key;
    }
    for (size_t at = 0; at < naming->sample_type_count; at++) {
        merger->merged->samples[*place - 1].values[at] +=
            row->values[naming->sample_types[at].column];
    }
    return true;
}

bool
conprof_merge_rows(const struct conprof_window *window, const struct conprof_naming *naming,
                   struct conprof_merged *merged)
{
    struct merger merger = {.naming = naming, .merged = merged};
    *merged = (struct conprof_merged){0};
    merged->samples = calloc((size_t)window->row_count + 1, sizeof *merged->samples);
    bool done =
        merged->samples != NULL && conprof_ids_reach(&merger.sample_ids, window->row_count + 1);
    for (uint32_t i = 0; done && i < window->row_count; i++) {
        if (has_values(naming, &window->rows[i])) {
            done = add_row(&merger, &window->rows[i]);
        }
    }
    conprof_ids_free(&merger.sample_ids);
    conprof_ids_free(&merger.label_ids);
    conprof_ids_free(&merger.known_ids);
    free(merger.known);
    return done;
}

void
conprof_merge_free(struct conprof_merged *merged)
{
    free(merged->samples);
    free(merged->records);
}
