/* outside.c: see outside.h. Everything here is SIGNAL-SAFE. */
#include "outside.h"

#include "safemem.h"

bool
conprof_is_generator_type(const PyTypeObject *type)
{
    return type == &PyGen_Type || type == &PyCoro_Type || type == &PyAsyncGen_Type;
}

void
conprof_outside_begin(struct conprof_outside *outside)
{
    outside->current ^= 1;
    outside->known = outside->noted;
    outside->noted = outside->next = outside->from = outside->to = 0;
}

/* Reads the known frames from number `first` on, as many as one call takes. */
static void
load(struct conprof_outside *outside, uint32_t first)
{
    const uintptr_t *known = outside->lists[outside->current];
    uint32_t count = outside->known - first;
    count = count < CONPROF_OUTSIDE_BATCH ? count : CONPROF_OUTSIDE_BATCH;
    for (uint32_t i = 0; i < count; i++) {
        outside->places[i].iov_base = (void *)(known[first + i] - CONPROF_GENERATOR_FRAME_OFFSET);
        outside->places[i].iov_len = sizeof outside->copies[i].parts;
    }
    _Static_assert(sizeof outside->copies[0] == sizeof outside->copies[0].parts,
                   "copies lie side by side, as the kernel writes them");
    outside->from = first;
    outside->to = first + conprof_safe_read_many(outside->copies, outside->places, count);
}

/* The copy of the frame at `at` among those of the walk before, or NULL. */
static const union conprof_outside_copy *
find(struct conprof_outside *outside, uintptr_t at)
{
    const uintptr_t *known = outside->lists[outside->current];
    uint32_t i = outside->next, end = i + CONPROF_OUTSIDE_AHEAD;
    end = end < outside->known ? end : outside->known;
    while (i < end && known[i] != at) {
        i++;
    }
    if (i >= end) {
        return NULL;
    }
    outside->next = i + 1;
    if (i < outside->from || i >= outside->to) {
        load(outside, i);
    }
    return i < outside->to ? &outside->copies[i - outside->from] : NULL;
}

bool
conprof_outside_read(struct conprof_outside *outside, uintptr_t at, conprof_frame *frame)
{
    if (outside->noted < CONPROF_OUTSIDE_KNOWN) {
        outside->lists[outside->current ^ 1][outside->noted++] = at;
    }
    const union conprof_outside_copy *copy = find(outside, at);
    if (copy == NULL) {
        copy = &outside->single;
        if (!conprof_safe_read(&outside->single.parts, at - CONPROF_GENERATOR_FRAME_OFFSET,
                               sizeof outside->single.parts)) {
            return false;
        }
    }
    __builtin_memcpy(frame, copy->parts.frame, CONPROF_FRAME_HEAD);
    return conprof_owner_is_entry(frame->owner) ||
           (frame->owner == CONPROF_OWNER_GENERATOR &&
            conprof_is_generator_type(copy->object.ob_type));
}
