/* heap_pools.c: see heap_pools.h. Nothing here runs in signal context. */
#include "heap_pools.h"

#include <string.h>

#include "safemem.h"

_Static_assert(CONPROF_HEAP_POOL_CLASSES *CONPROF_HEAP_POOL_STEP == CONPROF_HEAP_POOLED_BYTES,
               "the largest class is cut short");

/* A class without a pool with free blocks: its head is a pool that follows itself. */
static struct conprof_heap_pool nothing = {.next = &nothing, .previous = &nothing};
static struct conprof_heap_pool *closed[2 * CONPROF_HEAP_POOL_CLASSES] = {
    [0 ... 2 * CONPROF_HEAP_POOL_CLASSES - 1] = &nothing};

struct conprof_heap_pool **conprof_heap_pools = closed;

/* Blocks that are allocated to look at a class. */
#define TRIES 4

static struct conprof_heap_pool *
pool_of(const void *block)
{
    return (struct conprof_heap_pool *)((uintptr_t)block & ~(uintptr_t)(CONPROF_POOL_BYTES - 1));
}

/* Whether an address is a block of a pool of this class. */
static bool
is_block_of(const void *block, const struct conprof_heap_pool *pool)
{
    return pool_of(block) == pool && block != pool &&
           (uintptr_t)block % CONPROF_HEAP_POOL_STEP == 0;
}

/* What looks like the first pool of a class that has none, or like the one before the first: its
 * `next` and `previous` are the class's two words. */
static struct conprof_heap_pool *
head_of(struct conprof_heap_pool **table, uint32_t size_class)
{
    uintptr_t words = (uintptr_t)(table + 2 * (size_t)size_class);
    return (struct conprof_heap_pool *)(words - offsetof(struct conprof_heap_pool, next));
}

/* The table in which a pool is a class's first one, if there is such a table; or NULL. The pool's
 * address is a guess. */
static struct conprof_heap_pool **
table_of(const struct conprof_heap_pool *pool, uint32_t size_class)
{
    struct conprof_heap_pool copy, *first;
    if (!conprof_safe_read(&copy, (uintptr_t)pool, sizeof copy) || copy.size_class != size_class ||
        copy.count == 0 || !is_block_of(copy.free, pool)) {
        return NULL;
    }
    uintptr_t words = (uintptr_t)copy.previous + offsetof(struct conprof_heap_pool, next);
    if (!conprof_safe_read(&first, words, sizeof first) || first != pool) {
        return NULL;
    }
    return (struct conprof_heap_pool **)words - 2 * (size_t)size_class;
}

/* A pool stands in front of its class: is its first free block the next that is handed out, and is
 * all as before when it is freed again? */
static bool
behaves(const PyMemAllocatorEx *by, size_t bytes, const struct conprof_heap_pool *pool)
{
    struct conprof_heap_pool before = *pool;
    void *second = *(void **)before.free;
    void *block = by->malloc(by->ctx, bytes);
    bool is_right = block == before.free && pool->count == before.count + 1 &&
                    (second == NULL || pool->free == second);
    by->free(by->ctx, block);
    return is_right && pool->free == block && pool->count == before.count &&
           (second == NULL || *(void **)block == second);
}

/* pymalloc's table, or NULL. Any class shows it, unless a block that is allocated there happens to
 * be the last free one of its pool. */
static struct conprof_heap_pool **
find_table(const PyMemAllocatorEx *obj)
{
    struct conprof_heap_pool **table = NULL;
    for (uint32_t i = 0; i < CONPROF_HEAP_POOL_CLASSES && table == NULL; i++) {
        void *block = obj->malloc(obj->ctx, (i + 1) * CONPROF_HEAP_POOL_STEP);
        table = block == NULL ? NULL : table_of(pool_of(block), i);
        obj->free(obj->ctx, block);
    }
    return table;
}

/* Is all of a class in this table as we think? */
static bool
is_right(struct conprof_heap_pool **table, const PyMemAllocatorEx *mem, const PyMemAllocatorEx *obj,
         uint32_t size_class)
{
    size_t bytes = (size_class + 1) * CONPROF_HEAP_POOL_STEP;
    void *held[TRIES];
    int n = 0;
    struct conprof_heap_pool *pool = NULL, *none = head_of(table, size_class);
    /* So that the class has a pool, and this one other blocks; the first may be its pool's last. */
    do {
        held[n++] = obj->malloc(obj->ctx, bytes);
        if (!conprof_safe_read(&pool, (uintptr_t)&table[2 * (size_t)size_class], sizeof pool)) {
            break;
        }
    } while (n < TRIES && pool == none);
    bool is_so = pool != none && table_of(pool, size_class) == table && behaves(obj, bytes, pool) &&
                 behaves(mem, bytes, pool) &&
                 /* the smallest of the class */
                 behaves(obj, bytes - CONPROF_HEAP_POOL_STEP + 1, pool);
    while (n > 0) {
        obj->free(obj->ctx, held[--n]);
    }
    return is_so;
}

bool
conprof_heap_pools_may_be_used(void)
{
    const char *name = _PyMem_GetCurrentAllocatorName();
    return name != NULL && strcmp(name, "pymalloc") == 0 &&
           conprof_interpreters_are_where_expected() &&
           PyInterpreterState_Get() == PyInterpreterState_Main();
}

bool
conprof_heap_pools_prove(const PyMemAllocatorEx *mem, const PyMemAllocatorEx *obj)
{
    struct conprof_heap_pool **table = find_table(obj);
    bool is_so = table != NULL;
    for (uint32_t i = 0; i < CONPROF_HEAP_POOL_CLASSES && is_so; i++) {
        is_so = is_right(table, mem, obj, i);
    }
    conprof_heap_pools = is_so ? table : closed;
    return is_so;
}

void
conprof_heap_pools_forget(void)
{
    conprof_heap_pools = closed;
}

bool
conprof_heap_pools_are_open(void)
{
    return conprof_heap_pools != closed && conprof_is_only_interpreter();
}
