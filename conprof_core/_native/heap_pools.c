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

/* How often a class is tried: what is allocated to look at it may fill the pool. */
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

/* The table in which a pool that stands in front is a class's first, if it is one; or NULL. The
 * head of a class looks like a pool whose `next` and `previous` are the class's two words. */
static struct conprof_heap_pool **
table_of(const struct conprof_heap_pool *pool, uint32_t size_class)
{
    struct conprof_heap_pool copy, *first;
    uintptr_t word = (uintptr_t)pool;
    if (!conprof_safe_read(&copy, word, sizeof copy) || copy.size_class != size_class ||
        copy.count == 0 || !is_block_of(copy.free, pool)) {
        return NULL;
    }
    word = (uintptr_t)copy.previous + offsetof(struct conprof_heap_pool, next);
    if (!conprof_safe_read(&first, word, sizeof first) || first != pool) {
        return NULL;
    }
    return (struct conprof_heap_pool **)word - 2 * (uintptr_t)size_class;
}

/* `block` is one of a class whose pool stands in front: what becomes of the next one that is
 * allocated, and freed again? */
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

/* The table of pools as one class shows it, or NULL. */
static struct conprof_heap_pool **
look(const PyMemAllocatorEx *mem, const PyMemAllocatorEx *obj, uint32_t size_class)
{
    size_t bytes = (size_class + 1) * CONPROF_HEAP_POOL_STEP;
    void *held[TRIES];
    int n = 0;
    struct conprof_heap_pool **table = NULL;
    while (n < TRIES && table == NULL) {
        held[n] = obj->malloc(obj->ctx, bytes);
        if (held[n] == NULL) {
            break;
        }
        table = table_of(pool_of(held[n]), size_class);
        n++;
    }
    if (table != NULL) {
        const struct conprof_heap_pool *pool = pool_of(held[n - 1]);
        /* The smallest of the class, too. */
        if (!behaves(obj, bytes, pool) || !behaves(mem, bytes, pool) ||
            !behaves(obj, bytes - CONPROF_HEAP_POOL_STEP + 1, pool)) {
            table = NULL;
        }
    }
    while (n > 0) {
        obj->free(obj->ctx, held[--n]);
    }
    return table;
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
    struct conprof_heap_pool **table = look(mem, obj, 0);
    for (uint32_t i = 1; i < CONPROF_HEAP_POOL_CLASSES && table != NULL; i++) {
        if (look(mem, obj, i) != table) {
            table = NULL;
        }
    }
    conprof_heap_pools = table == NULL ? closed : table;
    return table != NULL;
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
