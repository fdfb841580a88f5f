/* ids.h: an open-addressing set of ids, each of which stands for a key that the caller keeps.
 *
 * Pure computation in one thread: no lock, no GIL. Zeroed is empty.
 */
#ifndef CONPROF_IDS_H
#define CONPROF_IDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* owner: one encoder. */
struct conprof_ids {
    uint32_t *entries; /* id, 0 is free */
    uint64_t *hashes;
    uint32_t size, count; /* `count` is the caller's: raised with each id it enters */
};

/* Makes room for `count` keys in all, as every search does for one more; false without memory. */
bool conprof_ids_reach(struct conprof_ids *ids, uint32_t count);

/* The place of a key: an id found, or 0 where a new one belongs; NULL without memory.
 * `same` tells whether an id stands for the key. */
uint32_t *conprof_ids_find(struct conprof_ids *ids, uint64_t hash,
                           bool (*same)(const void *context, uint32_t id, const void *key),
                           const void *context, const void *key);

void conprof_ids_free(struct conprof_ids *ids);

/* Makes room for element `index` of an array that grows by doubling; false without
 * memory, and the array is as it was. */
bool conprof_array_reach(void **array, uint32_t *room, uint32_t index, size_t element_bytes);

#endif
