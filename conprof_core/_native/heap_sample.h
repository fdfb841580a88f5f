/* heap_sample.h: one sampled block, from its allocation into the ring and the table of live blocks.
 *
 * What draws and samples runs inside the allocator, by the first invariant of heap.h: any thread,
 * with the GIL or without, at any depth, on any stack; not in signal context.
 */
#ifndef CONPROF_HEAP_SAMPLE_H
#define CONPROF_HEAP_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

/* Evenly from (0, 1]. */
double conprof_heap_draw(void);

/* A sampler is on (`in_handler` is held), all signals are blocked, and no fork is under way in the
 * calling thread. `mean`: of the draw that chose the block. */
void conprof_heap_sample(uintptr_t address, size_t bytes, double mean);

/* Called inside fork(), with the session lock held: before it, and after it in parent and child. */
void conprof_heap_sample_prefork(void);
void conprof_heap_sample_postfork(void);

#endif
