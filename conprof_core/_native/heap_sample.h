/* heap_sample.h: one sampled block, from its allocation into the ring and the table of live blocks.
 *
 * Both run inside the allocator, by the first invariant of heap.h: any thread, with the GIL or
 * without, at any depth; not in signal context.
 */
#ifndef CONPROF_HEAP_SAMPLE_H
#define CONPROF_HEAP_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

/* Evenly from (0, 1]. */
double conprof_heap_draw(void);

/* A sampler is on (`in_handler` is held), and no fork is under way in the calling thread. `mean`:
 * of the draw that chose the block. */
void conprof_heap_sample(uintptr_t address, size_t bytes, double mean);

#endif
