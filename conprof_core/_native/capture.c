/* capture.c: see capture.h. Everything here is SIGNAL-SAFE. */
#include "capture.h"

#include "code_registry.h"
#include "context.h"
#include "safemem.h"
#include "sampler.h"

struct conprof_marks
conprof_capture_marks(const PyThreadState *ts)
{
    conprof_label_cell *cell = conprof_context_cell(ts);
    struct conprof_marks marks = conprof_marks_none();
    if (cell == NULL) {
        return marks;
    }
    if (atomic_load_explicit(&cell->is_provisional, memory_order_acquire)) {
        marks.cell_id = cell->id;
        /* Before the record and the trace are read: who changes them then looks here. */
        atomic_store(&cell->was_sampled, true);
    }
    if (atomic_load(&cell->has_trace)) {
        marks.trace = cell->trace;
    }
    marks.record = atomic_load_explicit(&cell->record, memory_order_acquire);
    return marks;
}

struct conprof_marks
conprof_capture_far_marks(const PyThreadState *copy)
{
    struct conprof_marks marks = conprof_marks_none();
    uintptr_t at = conprof_context_remote_cell(copy);
    conprof_label_cell cell;
    if (at == 0 || !conprof_safe_read(&cell, at, sizeof cell)) {
        return marks;
    }
    if (atomic_load(&cell.is_provisional)) {
        /* Before the record and the trace are read: who changes them then looks here. */
        conprof_labels_mark_looked(cell.id);
        marks.cell_id = cell.id;
        if (!conprof_safe_read(&cell, at, sizeof cell)) {
            return conprof_marks_none();
        }
    }
    if (atomic_load(&cell.has_trace)) {
        marks.trace = cell.trace;
    }
    marks.record = atomic_load(&cell.record);
    return marks;
}

bool
conprof_capture_publish(const struct conprof_ring_slot *slot, enum conprof_record_kind kind,
                        const struct conprof_trace *trace)
{
    if (trace->span == 0) {
        return conprof_ring_publish(slot, kind);
    }
    uint32_t at = slot->words - CONPROF_TRACE_WORDS;
    conprof_ring_put(slot, at, trace->high);
    conprof_ring_put(slot, at + 1, trace->low);
    conprof_ring_put(slot, at + 2, trace->span);
    return conprof_ring_publish(slot, kind | CONPROF_RECORD_TRACED);
}

/* Turns raw frames [from, to) into frame words. Returns the new end, or -1. */
static int
translate(struct conprof_raw_frame *frames, uint32_t from, uint32_t to)
{
    uint32_t kept = from;
    for (uint32_t i = from; i < to; i++) {
        uintptr_t code = frames[i].code;
        uint64_t uid = conprof_registry_uid(&conprof_sampler.ring, code);
        if (uid == CONPROF_UID_NONE) {
            return -1;
        }
        if (uid == CONPROF_UID_HIDDEN) {
            continue;
        }
        /* -1, before the first instruction, becomes 0. */
        int64_t index = (int64_t)(frames[i].instruction - code - CONPROF_CODE_FIRST_INSTRUCTION) /
                        (int64_t)sizeof(_Py_CODEUNIT);
        bool is_inside = index >= 0 && index < (int64_t)CONPROF_FRAME_INSTRUCTION_MASK;
        frames[kept++].code = conprof_frame_word(uid, is_inside ? (uint64_t)index + 1 : 0);
    }
    return (int)kept;
}

int
conprof_capture_translate(struct conprof_stack *stack)
{
    int leaf_end = translate(stack->frames, 0, stack->leaf_count);
    int root_end =
        translate(stack->frames, CONPROF_LEAF_FRAMES, CONPROF_LEAF_FRAMES + stack->root_count);
    if (leaf_end < 0 || root_end < 0) {
        return -1;
    }
    stack->leaf_count = (uint32_t)leaf_end;
    stack->root_count = (uint32_t)root_end - CONPROF_LEAF_FRAMES;
    return leaf_end + (int)stack->root_count + (stack->is_truncated ? 1 : 0);
}

void
conprof_capture_put(const struct conprof_ring_slot *slot, uint32_t at,
                    const struct conprof_stack *stack)
{
    for (uint32_t i = 0; i < stack->leaf_count; i++) {
        conprof_ring_put(slot, at++, stack->frames[i].code);
    }
    if (stack->is_truncated) {
        conprof_ring_put(slot, at++, conprof_frame_word(CONPROF_UID_TRUNCATED, 0));
    }
    for (uint32_t i = 0; i < stack->root_count; i++) {
        conprof_ring_put(slot, at++, stack->frames[CONPROF_LEAF_FRAMES + i].code);
    }
}

uint32_t
conprof_capture_words(const struct conprof_stack *stack, uint64_t *words)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < stack->leaf_count; i++) {
        words[count++] = stack->frames[i].code;
    }
    if (stack->is_truncated) {
        words[count++] = conprof_frame_word(CONPROF_UID_TRUNCATED, 0);
    }
    for (uint32_t i = 0; i < stack->root_count; i++) {
        words[count++] = stack->frames[CONPROF_LEAF_FRAMES + i].code;
    }
    return count;
}
