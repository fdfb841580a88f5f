/* ids.c: see ids.h. */
#include "ids.h"

#include <stdlib.h>

static bool
grow(struct conprof_ids *ids, uint32_t size)
{
    uint32_t *entries = calloc(size, sizeof *entries);
    uint64_t *hashes = calloc(size, sizeof *hashes);
    if (entries == NULL || hashes == NULL) {
        free(entries);
        free(hashes);
        return false;
    }
    for (uint32_t i = 0; i < ids->size; i++) {
        if (ids->entries[i] != 0) {
            uint32_t at = (uint32_t)ids->hashes[i] & (size - 1);
            while (entries[at] != 0) {
                at = (at + 1) & (size - 1);
            }
            entries[at] = ids->entries[i];
            hashes[at] = ids->hashes[i];
        }
    }
    conprof_ids_free(ids);
    ids->entries = entries;
    ids->hashes = hashes;
    ids->size = size;
    return true;
}

bool
conprof_ids_reach(struct conprof_ids *ids, uint32_t count)
{
    uint32_t size = ids->size == 0 ? 1024 : ids->size;
    while (size / 2 < count) {
        size *= 2;
    }
    return size == ids->size || grow(ids, size);
}

uint32_t *
conprof_ids_find(struct conprof_ids *ids, uint64_t hash,
                 bool (*same)(const void *, uint32_t, const void *), const void *context,
                 const void *key)
{
    if (!conprof_ids_reach(ids, ids->count + 1)) {
        return NULL;
    }
    uint32_t at = (uint32_t)hash & (ids->size - 1);
    while (ids->entries[at] != 0 &&
           !(ids->hashes[at] == hash && same(context, ids->entries[at], key))) {
        at = (at + 1) & (ids->size - 1);
    }
    ids->hashes[at] = hash;
    return &ids->entries[at];
}

void
conprof_ids_free(struct conprof_ids *ids)
{
    free(ids->entries);
    free(ids->hashes);
    ids->entries = NULL;
    ids->hashes = NULL;
}

bool
conprof_array_reach(void **array, uint32_t *room, uint32_t index, size_t element_bytes)
{
    if (index < *room) {
        return true;
    }
    uint32_t wanted = *room == 0 ? 512 : *room * 2;
    void *bigger = realloc(*array, wanted * element_bytes);
    if (bigger == NULL) {
        return false;
    }
    *array = bigger;
    *room = wanted;
    return true;
}
