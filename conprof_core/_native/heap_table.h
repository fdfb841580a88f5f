/* heap_table.h: which addresses are sampled blocks that are alive.
 *
 * Invariants
 *   - An address is in the table from before its allocation returns until before its
 *     memory is given back: whoever may free a block finds it here.
 *   - The filter bit of every address in the table is set. So the free path asks one bit
 *     of 16 KiB that stay in the cache, and goes on when it is clear.
 *   - A block is reused only after it was released (its memory is gone) and recycled
 *     (the session side has dropped what it holds for it).
 *
 * The heap lock guards the table. It is held for some tens of instructions (when the
 * table is thinned, for a millisecond), never while anything else is waited for, never in
 * signal context, and across fork(): the thread that forks holds it already and does not
 * take it again. It may be taken by a holder of the session lock, never the other way.
 */
#ifndef CONPROF_HEAP_TABLE_H
#define CONPROF_HEAP_TABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Sampled blocks alive at once: 16 GiB of small objects at the default mean. When seven
 * eighths are taken, the floor of the mean doubles (see heap.c). With index and filter, 2.4 MiB
 * when all are taken; pages that were never needed are never touched. */
#define CONPROF_HEAP_MAX_BLOCKS 32768u
#define CONPROF_HEAP_NO_BLOCK UINT32_MAX

/* Bits of the filter, and places of the index: 2^17. */
#define CONPROF_HEAP_HASH_BITS 17

struct conprof_heap_stack;
struct conprof_label_record;

struct conprof_heap_block {
    _Atomic uintptr_t address; /* 0: released; written under the heap lock */
    size_t bytes;              /* written by the hook, before it publishes the sample */
    uint32_t next;             /* owner: holder of the heap lock; link of the free lists */
    /* The rest belongs to the holder of the session lock. */
    uint32_t window;                     /* number of the window of its allocation */
    struct conprof_heap_stack *stack;    /* counted */
    struct conprof_label_record *record; /* counted */
    uint64_t cell_id;                    /* provisional cell, or 0 */
    uint16_t name_id;
    bool is_known; /* its sample has been drained: the fields above hold */
    /* Bytes: of the draw that chose it. By the hook, as `bytes`; then by holders of both locks. */
    float mean;
};

extern _Atomic uint64_t conprof_heap_filter[(1u << CONPROF_HEAP_HASH_BITS) / 64];

/* Any thread, without the GIL. One bit for 64 bytes of memory, one word for a page: neighbours
 * in memory are neighbours in the filter, and what a program frees in a row needs few lines of
 * the cache. Large blocks all begin at the same place of a page, and share 2 048 of the bits:
 * who frees one has more to do than to look it up. */
static inline uint32_t
conprof_heap_hash(uintptr_t address)
{
    return (uint32_t)(address >> 6) & ((1u << CONPROF_HEAP_HASH_BITS) - 1);
}

/* Any thread, without the GIL: can this address be in the table? Relaxed: who frees a
 * block was handed it by whoever allocated it. */
static inline bool
conprof_heap_may_know(const void *pointer)
{
    uint32_t hash = conprof_heap_hash((uintptr_t)pointer);
    return atomic_load_explicit(&conprof_heap_filter[hash / 64], memory_order_relaxed) >>
               (hash % 64) &
           1;
}

/* Any thread. Maps the table; false without memory. Harmless when done. */
bool conprof_heap_table_init(void);

/* Any thread but in signal context. A thread that holds it across fork() may take it
 * again. */
void conprof_heap_lock(void);
void conprof_heap_unlock(void);

/* Called inside fork(): before it, and after it in parent and child. Between them the
 * calling thread is forking, and holds the session lock, too. */
void conprof_heap_prefork(void);
void conprof_heap_postfork(void);
bool conprof_heap_is_forking(void);

/* Any thread. The block of an index. */
struct conprof_heap_block *conprof_heap_block_at(uint32_t index);

/* Heap lock held. Enters an address, sampled with this mean; the index of its block, or
 * CONPROF_HEAP_NO_BLOCK when all are taken. */
uint32_t conprof_heap_table_add(uintptr_t address, size_t bytes, double mean);

/* Heap lock held. Takes an address out, keeping its block: CONPROF_HEAP_NO_BLOCK when it
 * is not there. Then either attach it again, or release it. */
uint32_t conprof_heap_table_detach(uintptr_t address);
void conprof_heap_table_attach(uint32_t index);
void conprof_heap_table_release(uint32_t index);

/* Heap lock held. The list of released blocks (CONPROF_HEAP_NO_BLOCK: none), which is
 * empty afterwards; and what may become of each. */
uint32_t conprof_heap_table_take_released(void);
void conprof_heap_table_recycle(uint32_t index);

/* Any thread: blocks 0 to this were in use at some time; blocks not free now. */
uint32_t conprof_heap_table_top(void);
uint32_t conprof_heap_table_used(void);

/* Heap lock held, in the only thread of a process: another may stand between detach and
 * release. Forgets all addresses; every block is free. The session side has dropped what
 * it holds. */
void conprof_heap_table_reset(void);

#endif
