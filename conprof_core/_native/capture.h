/* capture.h: where the calling thread stands and what it is labelled, in the form
 * that records in the ring have. Shared by the CPU handler and the allocator hooks.
 */
#ifndef CONPROF_CAPTURE_H
#define CONPROF_CAPTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "labels.h"
#include "ring.h"
#include "unwind.h"

/* SIGNAL-SAFE. What the cell of `ts`'s context says, or no cell. `ts` is the calling
 * thread's own state, or a copy, and attached: then the context cannot die, and is changed by this
 * thread only; its tree is immutable, and a new one is stored before the old one is let go
 * (Python/context.c: contextvar_set, context_enter and _exit). The record stays alive while the
 * caller counts in conprof_sampler.in_handler, and while a record in the ring names it. */
struct conprof_marks conprof_capture_marks(const PyThreadState *ts);

/* SIGNAL-SAFE, any thread. The same of a copied state of which nothing may be dereferenced. The
 * record may be dead: who takes it under the session lock asks conprof_labels_is_known. */
struct conprof_marks conprof_capture_far_marks(const PyThreadState *copy);

/* SIGNAL-SAFE. Words that a record needs at its end for a trace. */
static inline uint32_t
conprof_capture_trace_words(const struct conprof_trace *trace)
{
    return trace->span == 0 ? 0 : CONPROF_TRACE_WORDS;
}

/* SIGNAL-SAFE. Publishes a record whose last words are kept for the trace, if there is one; false
 * when it was given up. */
bool conprof_capture_publish(const struct conprof_ring_slot *slot, enum conprof_record_kind kind,
                             const struct conprof_trace *trace);

/* SIGNAL-SAFE. Turns the frames of a walked stack into frame words, in place (a word in
 * `code`), dropping hidden ones. Returns how many words conprof_capture_put will write,
 * or -1 when a code address turned out not to be one. */
int conprof_capture_translate(struct conprof_stack *stack);

/* Any thread. As conprof_capture_put, into `words`, which has room for CONPROF_MAX_FRAMES + 1.
 * Returns their number. */
uint32_t conprof_capture_words(const struct conprof_stack *stack, uint64_t *words);

/* SIGNAL-SAFE. Writes the words of a translated stack from index `at` on. */
void conprof_capture_put(const struct conprof_ring_slot *slot, uint32_t at,
                         const struct conprof_stack *stack);

#endif
