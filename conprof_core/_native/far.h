/* far.h: the walk of a thread's frames where nothing of it may be dereferenced.
 *
 * All that belongs to the thread (its chunks and frames) is copied by the kernel, so memory that
 * vanishes makes a read fail, and memory that is used anew gives values that are checked or thrown
 * away. It serves looks at other threads (remote.h), and a thread's own handler where the
 * thread's state is not attached: somebody else may delete that state at any time.
 */
#ifndef CONPROF_FAR_H
#define CONPROF_FAR_H

#include "unwind.h"

/* Chunks of one thread that are known to the walk. */
#define CONPROF_FAR_CHUNKS 1024u

/* How much of a chunk is copied at once: CPython's smallest chunk. */
#define CONPROF_FAR_BYTES 16384u

/* Frames outside the chunks that one walk reads, each by a system call or two. */
#define CONPROF_FAR_READS 4096u

/* All of it is written by: the walk of its owner. */
struct conprof_far {
    struct {
        uintptr_t at;
        size_t size;
    } chunks[CONPROF_FAR_CHUNKS]; /* newest first */
    uint32_t chunk_count;
    uintptr_t copied_from, copied_to; /* what `copied` holds */
    char copied[CONPROF_FAR_BYTES];
};

/* SIGNAL-SAFE. Walks the frames of a thread state that was copied from `from`. What it finds is
 * true if the thread did not run meanwhile. */
enum conprof_walk conprof_far_walk(struct conprof_far *far, const PyThreadState *copy,
                                   uintptr_t from, struct conprof_stack *out);

#endif
