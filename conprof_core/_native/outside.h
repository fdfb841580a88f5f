/* outside.h: frames that lie in no data-stack chunk, read through the kernel.
 *
 * Frames of generators and coroutines lie inside heap objects. Such an object may be freed while
 * the chain of frames still names it: for some instructions on 3.11 and 3.12, and on 3.13 a chain
 * may name a frame whose chunk is unmapped already (RETURN_GENERATOR pops its frame before
 * `current_frame` moves). So none of them is dereferenced.
 *
 * A system call for each would cost 0.6 us a frame. The chain of a program that awaits is mostly
 * the one of the sample before, so one call reads a batch of the addresses that the last walk
 * met, and only a frame that is not among them is read alone. What a walk gets was copied during
 * that walk, in which the thread stands still: an old address is a guess of where to look, never
 * of what is there.
 */
#ifndef CONPROF_OUTSIDE_H
#define CONPROF_OUTSIDE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "compat.h"

#define CONPROF_FRAME_HEAD offsetof(conprof_frame, localsplus)

/* Frames that one system call reads. */
#define CONPROF_OUTSIDE_BATCH 32u

/* Addresses of one walk that are remembered, leaf first. */
#define CONPROF_OUTSIDE_KNOWN 1024u

/* How far ahead an address is looked for among those remembered: the leaf end of a chain may have
 * changed while the rest has not. */
#define CONPROF_OUTSIDE_AHEAD 64u

/* A frame and what stands before it: the head of a generator, if it is one. */
union conprof_outside_copy {
    struct {
        char generator[CONPROF_GENERATOR_FRAME_OFFSET];
        char frame[CONPROF_FRAME_HEAD];
    } parts;
    PyObject object;
    uint64_t alignment;
};

/* All of it is written by: the walk of its owner (scratch.h). */
struct conprof_outside {
    uint32_t known;    /* addresses of the walk before */
    uint32_t noted;    /* of this one, so far */
    uint32_t next;     /* of the known ones, to be met next */
    uint32_t from, to; /* the known ones that `copies` holds */
    uint32_t current;  /* the list of the walk before */
    uintptr_t lists[2][CONPROF_OUTSIDE_KNOWN];
    struct iovec places[CONPROF_OUTSIDE_BATCH];
    union conprof_outside_copy copies[CONPROF_OUTSIDE_BATCH];
    union conprof_outside_copy single;
};

/* SIGNAL-SAFE. A walk begins: what was read for the last one is worth nothing now. */
void conprof_outside_begin(struct conprof_outside *outside);

/* SIGNAL-SAFE. Copies the head of the frame at `at`; false when it cannot be read, or is neither
 * an interpreter's entry frame nor inside a generator. */
bool conprof_outside_read(struct conprof_outside *outside, uintptr_t at, conprof_frame *frame);

/* SIGNAL-SAFE. Is it one of the types whose objects hold a frame? Not dereferenced. */
bool conprof_is_generator_type(const PyTypeObject *type);

#endif
