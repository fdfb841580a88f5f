/* far.c: see far.h. Everything here is SIGNAL-SAFE. */
#include "far.h"

#include "outside.h"
#include "safemem.h"

static bool
read_chunks(struct conprof_far *far, const PyThreadState *copy)
{
    uintptr_t at = (uintptr_t)copy->datastack_chunk;
    far->copied_from = far->copied_to = 0;
    for (far->chunk_count = 0; at != 0 && far->chunk_count < CONPROF_FAR_CHUNKS;
         far->chunk_count++) {
        _PyStackChunk head;
        if (!conprof_safe_read(&head, at, offsetof(_PyStackChunk, data))) {
            return false;
        }
        far->chunks[far->chunk_count].at = at;
        far->chunks[far->chunk_count].size = head.size;
        at = (uintptr_t)head.previous;
    }
    return true;
}

static uintptr_t
data_of(const struct conprof_far *far, uint32_t chunk)
{
    return far->chunks[chunk].at + offsetof(_PyStackChunk, data);
}

/* The first of the chunks from `from` on that holds `frame`; chunk_count: none. */
static uint32_t
find_chunk(const struct conprof_far *far, uint32_t from, uintptr_t frame)
{
    while (from < far->chunk_count &&
           (frame < data_of(far, from) ||
            frame + CONPROF_FRAME_HEAD > far->chunks[from].at + far->chunks[from].size)) {
        from++;
    }
    return from;
}

/* Copies a frame that lies in `chunk`, with what lies below it: its callers, most likely. */
static bool
read_inside(struct conprof_far *far, uint32_t chunk, uintptr_t at, conprof_frame *frame)
{
    uintptr_t end = at + CONPROF_FRAME_HEAD;
    if (at < far->copied_from || end > far->copied_to) {
        uintptr_t from = end - CONPROF_FAR_BYTES;
        if (from < far->chunks[chunk].at || from > end) {
            from = far->chunks[chunk].at;
        }
        far->copied_from = far->copied_to = 0;
        if (!conprof_safe_read(far->copied, from, end - from)) {
            return false;
        }
        far->copied_from = from;
        far->copied_to = end;
    }
    __builtin_memcpy(frame, far->copied + (at - far->copied_from), CONPROF_FRAME_HEAD);
    return true;
}

/* Copies a frame that lies in no chunk; false when it is neither an interpreter's entry frame nor
 * inside a generator. */
static bool
read_alone(uintptr_t at, conprof_frame *frame)
{
    PyObject object;
    if (!conprof_safe_read(frame, at, CONPROF_FRAME_HEAD)) {
        return false;
    }
    if (conprof_owner_is_entry(frame->owner)) {
        return true;
    }
    return frame->owner == CONPROF_OWNER_GENERATOR &&
           conprof_safe_read(&object, at - CONPROF_GENERATOR_FRAME_OFFSET, sizeof object) &&
           conprof_is_generator_type(Py_TYPE(&object));
}

/* As in conprof_unwind: the outermost frame lies where the first of a thread does. */
static bool
ends_at_root(const struct conprof_far *far, const PyThreadState *copy, uint32_t chunk,
             uintptr_t last)
{
    if (last != 0) {
        return chunk + 1 == far->chunk_count && last == data_of(far, chunk) + sizeof(PyObject *);
    }
    return far->chunk_count == 0 ||
           (far->chunk_count == 1 &&
            (uintptr_t)copy->datastack_top == data_of(far, 0) + sizeof(PyObject *));
}

enum conprof_walk
conprof_far_walk(struct conprof_far *far, const PyThreadState *copy, uintptr_t from,
                 struct conprof_stack *out)
{
    uintptr_t at = 0, bottom = (uintptr_t)conprof_bottom_frame(copy), last = 0;
    uint32_t total = 0, steps = 0, reads = 0, chunk = 0;
    if (!conprof_safe_read(&at, conprof_current_frame_slot(copy, from), sizeof at) ||
        !read_chunks(far, copy)) {
        return CONPROF_WALK_STALE;
    }
    for (; at != 0 && at != bottom && steps < CONPROF_MAX_STEPS && reads < CONPROF_FAR_READS;
         steps++) {
        conprof_frame frame;
        if (at % sizeof(void *) != 0 || at < CONPROF_GENERATOR_FRAME_OFFSET) {
            return CONPROF_WALK_STALE;
        }
        uint32_t holder = find_chunk(far, chunk, at);
        if (holder < far->chunk_count) {
            if (!read_inside(far, holder, at, &frame) || frame.owner != CONPROF_OWNER_THREAD ||
                (last != 0 && holder == chunk && at >= last)) {
                return CONPROF_WALK_STALE;
            }
            chunk = holder;
            last = at;
        }
        else {
            reads++;
            if (!read_alone(at, &frame)) {
                return CONPROF_WALK_STALE;
            }
        }
        if (!conprof_owner_is_entry(frame.owner)) {
            conprof_stack_append(out, total++, &frame);
        }
        at = (uintptr_t)frame.previous;
    }
    bool is_whole = at == 0 || at == bottom;
    if (is_whole && !ends_at_root(far, copy, chunk, last)) {
        return CONPROF_WALK_STALE;
    }
    conprof_stack_finish(out, total, is_whole);
    return total == 0 ? CONPROF_WALK_EMPTY : CONPROF_WALK_OK;
}
