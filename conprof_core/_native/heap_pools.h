/* heap_pools.h: the shortest path of pymalloc, taken by our hook itself.
 *
 * A hook that only calls the next allocator adds a call to every allocation, which is 2 to 3 % of
 * a web application, whoever hooks and for whatever (benchmarks/cost.py, "floor"). Nearly all
 * of these calls do one thing: the first pool of the size class gives its first free block
 * (Objects/obmalloc.c, pymalloc_alloc; the same from CPython 3.10 to 3.15). Where it has been shown
 * that the pools are what we take them for, the hook does that, and calls pymalloc for the rest.
 *
 * Invariants
 *   - Blocks are taken only where CPython's own allocators stand in all three domains, pymalloc in
 *     MEM and OBJ: nobody below us waits to be told of each block. And only after an experiment in
 *     every size class: its first free block is the next block that pymalloc hands out, its count
 *     is one larger then, and a freed block is the first again. An interpreter in which anything
 *     differs is served as if this file did not exist.
 *   - They are taken only by threads of the main interpreter, with its GIL: others may have a GIL
 *     and pools of their own. So nobody takes any while there is another one. It stands in the
 *     list of interpreters before its first allocation, and until after its last.
 *   - A pool in the table has a free block, always: pymalloc puts pools that get full out of it.
 *     So the last free block of a pool is never taken here.
 */
#ifndef CONPROF_HEAP_POOLS_H
#define CONPROF_HEAP_POOLS_H

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

/* Two words a class, as in `usedpools`: the first pool and the last. Never NULL: where nothing is
 * proven it is a table in which every class is empty. owner: GIL holder. Hidden, which a definition
 * is by our flags and a declaration is not: so its address needs no instruction. */
extern struct conprof_heap_pool **conprof_heap_pools __attribute__((visibility("hidden")));

/* GIL held, of any interpreter. A block of so many bytes (from 1 to CONPROF_HEAP_POOLED_BYTES), or
 * NULL: then pymalloc has to see to it. */
static inline void *
conprof_heap_pools_take(size_t bytes)
{
    if (__builtin_expect(!conprof_is_only_interpreter(), 0)) {
        return NULL;
    }
    struct conprof_heap_pool *pool = conprof_heap_pools[(bytes - 1) / CONPROF_HEAP_POOL_STEP * 2];
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

/* GIL held, and none of our hooks stand in the table of allocators: is it CPython's usual one? */
bool conprof_heap_pools_may_be_used(void);

/* GIL held. `mem` and `obj` are what our hooks call, of which the above was true; takes blocks from
 * their pools from now on if that is proven right. Whether it is. */
bool conprof_heap_pools_prove(const PyMemAllocatorEx *mem, const PyMemAllocatorEx *obj);

/* GIL held. No block is taken any more. */
void conprof_heap_pools_forget(void);

/* GIL held. Are blocks taken? */
bool conprof_heap_pools_are_open(void);

#endif
