/* heap_stacks.h: the stacks of live blocks, each kept once and counted.
 *
 * A stack holds references to its codes, so the code objects of Python may die while a
 * block lives. All functions want the session lock.
 */
#ifndef CONPROF_HEAP_STACKS_H
#define CONPROF_HEAP_STACKS_H

#include "aggregate.h"

/* Locations in all stacks together: 1 MiB. What comes beyond shares the overflow stack. */
#define CONPROF_HEAP_MAX_LOCATIONS 65536u

struct conprof_heap_stack {
    struct conprof_heap_stack *next; /* in its bucket */
    uint32_t refs, length, hash;
    struct conprof_location locations[]; /* counted codes, leaf first */
};

/* The stack of frame words (leaf first, at most CONPROF_MAX_FRAMES + 1), counted for the
 * caller; NULL without memory. `row` is where the window has it, if it has, which saves
 * resolving it again. One that finds no room is counted in conprof_heap. */
struct conprof_heap_stack *conprof_heap_stacks_intern(const struct conprof_window *window,
                                                      const struct conprof_row *row,
                                                      const uint64_t *frames, uint32_t n);

void conprof_heap_stacks_release(struct conprof_heap_stack *stack);

#endif
