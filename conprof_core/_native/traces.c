/* traces.c: see traces.h. */
#include "traces.h"

#include <stdlib.h>

#include "hash.h"
#include "lock.h"

/* At most half full, so every probe ends. */
#define SLOTS (CONPROF_MAX_LATE_TRACES * 2)

struct late {
    uint64_t cell_id; /* 0: free */
    struct conprof_trace trace;
};

/* owner: holder of the session lock */
static struct late *lates; /* SLOTS of them, or NULL before first use */
static uint32_t late_count;
static uint64_t refused;

/* Session lock held. The place of a cell, or the free one where it would stand. */
static struct late *
place_of(uint64_t cell_id)
{
    uint32_t at = (uint32_t)(conprof_hash_word(0, cell_id) % SLOTS);
    while (lates[at].cell_id != 0 && lates[at].cell_id != cell_id) {
        at = (at + 1) % SLOTS;
    }
    return &lates[at];
}

void
conprof_traces_bind(uint64_t cell_id, const struct conprof_trace *trace)
{
    conprof_lock();
    if (lates == NULL) {
        lates = calloc(SLOTS, sizeof *lates);
    }
    if (lates == NULL || late_count >= CONPROF_MAX_LATE_TRACES) {
        refused++;
    }
    else {
        struct late *place = place_of(cell_id);
        late_count += place->cell_id == 0;
        *place = (struct late){cell_id, *trace};
    }
    conprof_unlock();
}

const struct conprof_trace *
conprof_traces_binding(uint64_t cell_id)
{
    if (late_count == 0) {
        return NULL;
    }
    const struct late *place = place_of(cell_id);
    return place->cell_id == 0 ? NULL : &place->trace;
}

uint64_t
conprof_traces_reset(void)
{
    uint64_t before = refused;
    for (uint32_t i = 0; late_count > 0 && i < SLOTS; i++) {
        late_count -= lates[i].cell_id != 0;
        lates[i].cell_id = 0;
    }
    refused = 0;
    return before;
}
