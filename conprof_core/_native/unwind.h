/* unwind.h: the bounded, validated walk of a thread's own Python frames.
 *
 * Invariant: whatever the interrupted instruction was, the walk reads no memory
 * that can fault, ends after a bounded number of steps, and either reports the
 * thread's stack or CONPROF_WALK_STALE.
 *
 * What it dereferences, and why that cannot vanish while its owner stands in the handler:
 *   - The data-stack chunks that are linked from the thread's state at this instant. Only their
 *     own thread links and frees them. It fills a chunk in before it links it, and unlinks it
 *     before it frees it (Python/pystate.c: push_chunk, _PyThreadState_PopFrame; the same from
 *     3.11 to 3.15). A frame that lies in no linked chunk is not in one: on 3.13 RETURN_GENERATOR
 *     pops its frame, and with it maybe the chunk, before `current_frame` moves.
 *   - The C stack from the interrupted stack pointer to the end of the thread's own stack, if
 *     that pointer lies within this stack: the caller says so, and says nothing where the thread
 *     stands on an alternate signal stack or on one that a library made.
 * All else is copied by the kernel (outside.h).
 *
 * What it validates: each frame lies in a chunk, below the frame it called, or inside
 * a generator, or is an interpreter's entry frame; the outermost frame lies where
 * CPython puts the first frame of a thread (data[1] of the first chunk).
 */
#ifndef CONPROF_UNWIND_H
#define CONPROF_UNWIND_H

#include "compat.h"

/* A deeper stack keeps its leaf and root ends with a synthetic frame between. */
#define CONPROF_LEAF_FRAMES 192u
#define CONPROF_ROOT_FRAMES 64u
#define CONPROF_MAX_FRAMES (CONPROF_LEAF_FRAMES + CONPROF_ROOT_FRAMES)

/* Steps of one walk: bounds the time in the handler for runaway recursion, to about 1 ms. Only a
 * stack deeper than this loses its root end. */
#define CONPROF_MAX_STEPS 65536u

/* Chunks of one thread that are searched for a frame (16 KiB each at least). */
#define CONPROF_MAX_CHUNKS 4096u

enum conprof_walk {
    CONPROF_WALK_OK,
    CONPROF_WALK_EMPTY, /* the thread runs no Python code */
    CONPROF_WALK_STALE, /* mid-update: emit nothing, carry the weight */
};

struct conprof_raw_frame {
    uintptr_t code;        /* a code object's address; not to be dereferenced */
    uintptr_t instruction; /* address of the current instruction */
};

struct conprof_stack {
    uint32_t leaf_count; /* frames[0 .. leaf_count), leaf first */
    uint32_t root_count; /* then this many of the root end, leaf first */
    bool is_truncated;   /* frames are missing between the two, or below */
    struct conprof_raw_frame frames[CONPROF_MAX_FRAMES];
};

struct conprof_outside;

/* SIGNAL-SAFE, in the thread whose state is attached and was copied to `copy` from `at`. Walks its
 * frames. [stack_low, stack_high) is the part of the C stack known to be mapped, or empty. */
enum conprof_walk conprof_unwind(const PyThreadState *copy, uintptr_t at, uintptr_t stack_low,
                                 uintptr_t stack_high, struct conprof_outside *outside,
                                 struct conprof_stack *out);

/* Not in signal context: called by Python, as the allocator hooks are, in the thread of `ts`, which
 * is attached. There the chain of frames is whole and all of it is alive, as whatever CPython has
 * stored before it calls a function is stored; tracemalloc walks it in its own hooks
 * (Python/tracemalloc.c, traceback_get_frames). So nothing is read through the kernel, which
 * in a program of coroutines would be a system call for each of them. */
enum conprof_walk conprof_unwind_caller(const PyThreadState *ts, struct conprof_stack *out);

/* SIGNAL-SAFE. The parts of a walk, for those who read frames in another way: adds the
 * frame number `index` of the walk, leaf first; puts the stack in order after `total`
 * frames. */
void conprof_stack_append(struct conprof_stack *out, uint32_t index, const conprof_frame *frame);
void conprof_stack_finish(struct conprof_stack *out, uint32_t total, bool is_whole);

#endif
