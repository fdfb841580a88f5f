/* unwind.c: see unwind.h. Everything here is SIGNAL-SAFE, but for conprof_unwind_caller. */
#include "unwind.h"

#include "outside.h"
#include "safemem.h"

static inline bool
chunk_holds(const _PyStackChunk *chunk, uintptr_t frame)
{
    uintptr_t data = (uintptr_t)&chunk->data[0];
    return frame >= data && frame + CONPROF_FRAME_HEAD <= (uintptr_t)chunk + chunk->size;
}

/* The chunk at or below `from` that holds `frame`, or NULL. */
static const _PyStackChunk *
find_chunk(const _PyStackChunk *from, uintptr_t frame)
{
    for (uint32_t hops = 0; from != NULL && hops < CONPROF_MAX_CHUNKS; hops++) {
        if (chunk_holds(from, frame)) {
            return from;
        }
        from = from->previous;
    }
    return NULL;
}

/* Where frames outside the chunks may be read, and how. */
struct reading {
    struct conprof_outside *outside; /* NULL: the chain is whole, and all of it alive */
    uintptr_t stack_low, stack_high; /* C stack that is mapped */
};

static bool
is_on_stack(const struct reading *reading, uintptr_t at, size_t size)
{
    return at >= reading->stack_low && at < reading->stack_high && size <= reading->stack_high - at;
}

/* Copies a frame outside the chunks; false when it is neither a generator's frame nor an
 * interpreter's entry frame. */
static bool
read_outside(const struct reading *reading, uintptr_t at, conprof_frame *frame)
{
    if (reading->outside == NULL) {
        PyObject generator;
        __builtin_memcpy(frame, (const void *)at, CONPROF_FRAME_HEAD);
        if (frame->owner != CONPROF_OWNER_GENERATOR) {
            return conprof_owner_is_entry(frame->owner);
        }
        __builtin_memcpy(&generator, (const void *)(at - CONPROF_GENERATOR_FRAME_OFFSET),
                         sizeof generator);
        return conprof_is_generator_type(generator.ob_type);
    }
    if (is_on_stack(reading, at, CONPROF_FRAME_HEAD)) {
        __builtin_memcpy(frame, (const void *)at, CONPROF_FRAME_HEAD);
        return conprof_owner_is_entry(frame->owner);
    }
    return conprof_outside_read(reading->outside, at, frame);
}

/* Appends a frame: the first ones to the leaf end, the others round and round in
 * the root end. */
void
conprof_stack_append(struct conprof_stack *out, uint32_t index, const conprof_frame *frame)
{
    uint32_t place =
        index < CONPROF_LEAF_FRAMES
            ? index
            : CONPROF_LEAF_FRAMES + (index - CONPROF_LEAF_FRAMES) % CONPROF_ROOT_FRAMES;
    out->frames[place].code = conprof_frame_code(frame);
    out->frames[place].instruction = conprof_frame_instruction(frame);
}

static void
reverse(struct conprof_raw_frame *frames, uint32_t from, uint32_t to)
{
    while (from + 1 < to) {
        struct conprof_raw_frame swapped = frames[from];
        frames[from++] = frames[--to];
        frames[to] = swapped;
    }
}

/* Puts the root end in order after `total` frames were appended. Where the walk ended before the
 * root, what it saw last is no root end, and is dropped. */
void
conprof_stack_finish(struct conprof_stack *out, uint32_t total, bool is_whole)
{
    out->leaf_count = total < CONPROF_LEAF_FRAMES ? total : CONPROF_LEAF_FRAMES;
    uint32_t rest = is_whole ? total - out->leaf_count : 0;
    out->root_count = rest < CONPROF_ROOT_FRAMES ? rest : CONPROF_ROOT_FRAMES;
    out->is_truncated = rest > CONPROF_ROOT_FRAMES || !is_whole;
    if (rest > CONPROF_ROOT_FRAMES) {
        /* Rotate left by the place of the oldest: three reversals, no memory. */
        uint32_t oldest = rest % CONPROF_ROOT_FRAMES;
        struct conprof_raw_frame *root = out->frames + CONPROF_LEAF_FRAMES;
        reverse(root, 0, oldest);
        reverse(root, oldest, CONPROF_ROOT_FRAMES);
        reverse(root, 0, CONPROF_ROOT_FRAMES);
    }
}

/* Is `last` (the outermost frame found in a chunk, or NULL) where a thread's first
 * frame lies? A chain that was cut mid-update ends elsewhere. */
static bool
ends_at_root(const PyThreadState *ts, const _PyStackChunk *chunk, uintptr_t last)
{
    if (last != 0) {
        return chunk->previous == NULL && last == (uintptr_t)&chunk->data[1];
    }
    chunk = ts->datastack_chunk;
    return chunk == NULL ||
           (chunk->previous == NULL && ts->datastack_top == (PyObject **)&chunk->data[1]);
}

static inline enum conprof_walk
walk(const PyThreadState *ts, uintptr_t current, const struct reading *reading,
     struct conprof_stack *out)
{
    const conprof_frame *bottom = conprof_bottom_frame(ts);
    const conprof_frame *at = (const conprof_frame *)current;
    const _PyStackChunk *chunk = ts->datastack_chunk;
    uintptr_t last = 0;
    uint32_t total = 0, steps = 0;
    for (; at != NULL && at != bottom && steps < CONPROF_MAX_STEPS; steps++) {
        conprof_frame outside;
        const conprof_frame *frame = at;
        uintptr_t address = (uintptr_t)at;
        if (address % sizeof(void *) != 0 || address < CONPROF_GENERATOR_FRAME_OFFSET) {
            return CONPROF_WALK_STALE;
        }
        const _PyStackChunk *holder = find_chunk(chunk, address);
        if (holder != NULL) {
            if (frame->owner != CONPROF_OWNER_THREAD ||
                (last != 0 && holder == chunk && address >= last)) {
                return CONPROF_WALK_STALE;
            }
            chunk = holder;
            last = address;
        }
        else {
            if (!read_outside(reading, address, &outside)) {
                return CONPROF_WALK_STALE;
            }
            frame = &outside;
        }
        if (!conprof_owner_is_entry(frame->owner)) {
            conprof_stack_append(out, total++, frame);
        }
        at = frame->previous;
    }
    bool is_whole = at == NULL || at == bottom;
    if (is_whole && !ends_at_root(ts, chunk, last)) {
        return CONPROF_WALK_STALE;
    }
    conprof_stack_finish(out, total, is_whole);
    return total == 0 ? CONPROF_WALK_EMPTY : CONPROF_WALK_OK;
}

enum conprof_walk
conprof_unwind(const PyThreadState *copy, uintptr_t at, uintptr_t stack_low, uintptr_t stack_high,
               struct conprof_outside *outside, struct conprof_stack *out)
{
    struct reading reading = {outside, stack_low, stack_high};
    uintptr_t current;
    conprof_outside_begin(outside);
    if (!conprof_current_frame_in(copy, &current)) {
        uintptr_t slot = conprof_current_frame_slot(copy, at);
        if (is_on_stack(&reading, slot, sizeof current)) {
            __builtin_memcpy(&current, (const void *)slot, sizeof current);
        }
        else if (!conprof_safe_read(&current, slot, sizeof current)) {
            return CONPROF_WALK_STALE;
        }
    }
    return walk(copy, current, &reading, out);
}

enum conprof_walk
conprof_unwind_caller(const PyThreadState *ts, struct conprof_stack *out)
{
    struct reading reading = {NULL, 0, 0};
    return walk(ts, (uintptr_t)conprof_current_frame(ts), &reading, out);
}
