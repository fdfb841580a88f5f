/* heap_pools.h: the shortest path of pymalloc, taken by our hook itself.
 *
 * A hook that only calls the next allocator adds a call to every allocation, which is 2 to 3 % of
 * a web application, whoever hooks and for whatever (benchmarks/cost.py, "floor"). Nearly all
 * of these calls do one thing: the first pool of the size class gives its first free block
 * (Objects/obmalloc.c, pymalloc_alloc; the same from CPython 3.10 to 3.15). Where it has been shown
 * that the pools are what we take them for, the hook does that, and calls pymalloc for the rest.
 *
 * Invariants
 *   - Blocks are taken only where the next allocator of both MEM and OBJ is pymalloc itself, and
 *     only after an experiment in every size class: its first free block is the next block that
 *     pymalloc hands out, its count is one larger then, and a freed block is the first again. An
 *     interpreter in which anything differs is served as if this file did not exist.
 *   - They are taken only with the main interpreter's GIL, while there is no other interpreter:
 *     others may have a GIL and pools of their own. A new one's state comes from RAW, so the
 *     pools are closed before it exists, and opened again when it is gone.
 *   - A pool in the table has a free block, always: pymalloc puts pools that get full out of it.
 *     So the last free block of a pool is never taken here.
 */
#ifndef CONPROF_HEAP_POOLS_H
#define CONPROF_HEAP_POOLS_H

#include <stdatomic.h>

#include "compat.h"

/* The head of each pool: pool_header in CPython's pycore_obmalloc.h, in obmalloc.c before 3.12.
 * Blocks that are free begin with the address of the next one. */
struct conprof_heap_pool {
    uint32_t count; /* of blocks handed out */
    uint32_t padding;
    void *free; /* the first free block */
    struct conprof_heap_pool *next, *previous;
    uint32_t arena, size_class, next_offset, max_next_offset;
};

/* Sizes rise by as much from class to class. */
#define CONPROF_HEAP_POOL_STEP 16u

/* Larger blocks are left to pymalloc. */
#define CONPROF_HEAP_POOLED_BYTES 480u
#define CONPROF_HEAP_POOL_CLASSES (CONPROF_HEAP_POOLED_BYTES / CONPROF_HEAP_POOL_STEP)

/* Two words a class, as in `usedpools`: the first one and the last. Never NULL: while the pools
 * are closed it is a table in which every class is empty.
 * written by: GIL holder; and by any thread in conprof_heap_pools_close */
extern struct conprof_heap_pool **_Atomic conprof_heap_pools;

/* Main interpreter's GIL held. A block of so many bytes (from 1 to CONPROF_HEAP_POOLED_BYTES), or
 * NULL: then pymalloc has to see to it. */
static inline void *
conprof_heap_pools_take(size_t bytes)
{
    struct conprof_heap_pool **pools =
        atomic_load_explicit(&conprof_heap_pools, memory_order_relaxed);
    struct conprof_heap_pool *pool = pools[(bytes - 1) / CONPROF_HEAP_POOL_STEP * 2];
    if (__builtin_expect(pool->next == pool, 0)) {
        return NULL;
    }
    void *block = pool->free, *next = *(void **)block;
    if (__builtin_expect(next == NULL, 0)) {
        return NULL;
    }
    pool->free = next;
    pool->count++;
    return block;
}

/* GIL held, any interpreter. `mem` and `obj` are what our hooks call from now on; takes blocks
 * from their pools if that is proven right. Whether it is. */
bool conprof_heap_pools_prove(const PyMemAllocatorEx *mem, const PyMemAllocatorEx *obj);

/* GIL held. No block is taken any more. */
void conprof_heap_pools_forget(void);

/* Any thread, with a GIL or without: so many bytes of zeros are asked of RAW, which may become
 * another interpreter. Before they are handed out. */
void conprof_heap_pools_expect_interpreter(size_t bytes);

/* GIL held, now and then: opens the pools if the other interpreters are gone. */
void conprof_heap_pools_review(void);

/* Any thread. */
bool conprof_heap_pools_are_open(void);

#endif
