/* residue.c: see residue.h. All functions run with the session lock held. */
#include "residue.h"

#include <stdlib.h>

#include "hash.h"

#define ANY_NAME UINT32_MAX

struct group {
    const struct conprof_label_record *record; /* NULL: the slot is free */
    uint32_t name_id;                          /* or ANY_NAME */
    uint64_t residue_ns;                       /* to be spread over the group's samples */
    uint64_t samples;
    uint64_t samples_before; /* of the rows that have had their part */
};

/* An open-addressing table, at most half full. */
struct groups {
    struct group *slots;
    uint32_t mask;
};

/* The group of a key, or the free slot where it belongs. */
static struct group *
find(const struct groups *groups, const struct conprof_label_record *record, uint32_t name_id)
{
    uint32_t at = (uint32_t)conprof_hash_word((uintptr_t)record, name_id) & groups->mask;
    while (groups->slots[at].record != NULL &&
           (groups->slots[at].record != record || groups->slots[at].name_id != name_id)) {
        at = (at + 1) & groups->mask;
    }
    return &groups->slots[at];
}

static void
add(const struct groups *groups, const struct conprof_label_record *record, uint32_t name_id,
    uint64_t residue_ns)
{
    struct group *group = find(groups, record, name_id);
    group->record = record;
    group->name_id = name_id;
    group->residue_ns += residue_ns;
}

static void
count_samples(struct group *group, uint64_t samples)
{
    if (group->record != NULL) {
        group->samples += samples;
    }
}

/* The window's totals had the time when it was added. */
static void
charge(const struct conprof_window *window, struct conprof_row *row, uint64_t ns)
{
    row->values[CONPROF_COLUMN_CPU_NS] += ns;
    if (window->has_wall) {
        row->values[CONPROF_COLUMN_WALL_NS] += ns;
    }
}

/* What a row gets of its group's residue, rounded so that all parts add up to it. */
static uint64_t
part_of(struct group *group, uint64_t samples)
{
    if (group->record == NULL || group->residue_ns == 0 || group->samples == 0) {
        return 0;
    }
    unsigned __int128 whole = group->residue_ns;
    uint64_t before = (uint64_t)(whole * group->samples_before / group->samples);
    group->samples_before += samples;
    return (uint64_t)(whole * group->samples_before / group->samples) - before;
}

/* A table for the residues of a window, of which those beyond the bound stay where they
 * are; no slots without memory, or when there is nothing to spread. */
static struct groups
new_groups(const struct conprof_window *window)
{
    uint32_t residues = 0, slots = 4;
    for (uint32_t i = 0; i < window->row_count; i++) {
        residues += window->rows[i].residue_ns != 0;
    }
    residues = residues < CONPROF_RESIDUE_GROUPS ? residues : CONPROF_RESIDUE_GROUPS;
    while (slots < 4 * residues) {
        slots *= 2;
    }
    struct groups groups = {NULL, slots - 1};
    if (residues != 0) {
        groups.slots = calloc(slots, sizeof *groups.slots);
    }
    return groups;
}

/* Groups by labels and name, and by labels alone. Time without labels is of all kinds:
 * other threads' samples say nothing about it. */
static void
collect(struct conprof_window *window, const struct groups *groups)
{
    uint32_t residues = 0;
    for (uint32_t i = 0; i < window->row_count; i++) {
        struct conprof_row *row = &window->rows[i];
        if (row->residue_ns == 0) {
            continue;
        }
        if (groups->slots == NULL || residues++ >= CONPROF_RESIDUE_GROUPS) {
            charge(window, row, row->residue_ns);
            row->residue_ns = 0;
            continue;
        }
        add(groups, row->record, row->name_id, row->residue_ns);
        if (row->record != conprof_labels_empty()) {
            add(groups, row->record, ANY_NAME, 0);
        }
    }
}

/* Residues whose labels and name have no sample. */
static void
settle_alone(struct conprof_window *window, const struct groups *groups)
{
    for (uint32_t i = 0; i < window->row_count; i++) {
        struct conprof_row *row = &window->rows[i];
        uint64_t residue_ns = row->residue_ns;
        row->residue_ns = 0;
        if (residue_ns == 0 || find(groups, row->record, row->name_id)->samples != 0) {
            continue;
        }
        struct group *any = find(groups, row->record, ANY_NAME);
        if (any->record != NULL && any->samples != 0) {
            any->residue_ns += residue_ns;
        }
        else {
            charge(window, row, residue_ns);
        }
    }
}

void
conprof_residue_spread(struct conprof_window *window)
{
    struct groups groups = new_groups(window);
    collect(window, &groups);
    if (groups.slots == NULL) {
        return;
    }
    for (uint32_t i = 0; i < window->row_count; i++) {
        const struct conprof_row *row = &window->rows[i];
        count_samples(find(&groups, row->record, row->name_id),
                      row->values[CONPROF_COLUMN_SAMPLES]);
        count_samples(find(&groups, row->record, ANY_NAME), row->values[CONPROF_COLUMN_SAMPLES]);
    }
    settle_alone(window, &groups);
    for (uint32_t i = 0; i < window->row_count; i++) {
        struct conprof_row *row = &window->rows[i];
        uint64_t samples = row->values[CONPROF_COLUMN_SAMPLES];
        uint64_t part = part_of(find(&groups, row->record, row->name_id), samples);
        charge(window, row, part + part_of(find(&groups, row->record, ANY_NAME), samples));
    }
    free(groups.slots);
}
