/* fenced.h: an arena allocator for CPython whose memory faults as soon as it is freed, for ever.
 *
 * Arenas of pymalloc and chunks of a thread's frames come from it. Addresses are handed out once,
 * from one reservation, upwards; what is freed becomes PROT_NONE in free() itself.
 */
#ifndef CONPROF_FENCED_H
#define CONPROF_FENCED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All sizes and addresses are multiples of this; a chunk of CPython's is 16 KiB. */
#define FENCED_UNIT ((size_t)1 << 14)

struct fenced_counts {
    _Atomic uint64_t taken;    /* blocks handed out */
    _Atomic uint64_t fenced;   /* blocks freed, and made inaccessible */
    _Atomic uint64_t chunks;   /* those of them that are too small for an arena of pymalloc */
    _Atomic uint64_t unfenced; /* blocks that found no room in the reservation */
};

extern struct fenced_counts fenced_counts;

/* GIL held, once. Makes it CPython's allocator of arenas; false without address space. */
bool fenced_install(void);

/* Defined by whoever uses this: called in the thread that gives a block back, before CPython goes
 * on with the chunk before, if it is one. */
void fenced_gave_back(void);

/* Any context. How many bytes the block that begins here has, or 0 if it is none of ours, or was
 * given back. */
size_t fenced_size(uintptr_t block);

#endif
