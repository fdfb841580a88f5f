/* heap_table.c: see heap_table.h. */
#include "heap_table.h"

#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "signals.h"

#define PLACES (1u << CONPROF_HEAP_HASH_BITS)

_Atomic uint64_t conprof_heap_filter[PLACES / 64]; /* written by: holder of the heap lock */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static conprof_signal_set mask_before; /* owner: holder of the lock; as in lock.c */
static __thread bool is_forking __attribute__((tls_model("initial-exec")));

static struct conprof_heap_block *blocks; /* immutable after init */

/* owner: holder of the heap lock. Places hold an index + 1, linear probing; an address
 * lies between its home, the place of its hash, and the next empty place. */
static uint32_t places[PLACES];
static uint32_t free_list = CONPROF_HEAP_NO_BLOCK;
static uint32_t released_list = CONPROF_HEAP_NO_BLOCK;

static _Atomic uint32_t top;  /* written by: holder of the heap lock */
static _Atomic uint32_t used; /* written by: holder of the heap lock */

bool
conprof_heap_table_init(void)
{
    if (blocks == NULL) {
        void *mapped = mmap(NULL, CONPROF_HEAP_MAX_BLOCKS * sizeof *blocks, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) {
            return false;
        }
        blocks = mapped;
    }
    return true;
}

void
conprof_heap_lock(void)
{
    if (!is_forking) {
        conprof_signal_set before;
        conprof_signals_block(&before);
        pthread_mutex_lock(&lock);
        mask_before = before;
    }
}

void
conprof_heap_unlock(void)
{
    if (!is_forking) {
        conprof_signal_set before = mask_before;
        pthread_mutex_unlock(&lock);
        conprof_signals_restore(&before);
    }
}

void
conprof_heap_prefork(void)
{
    conprof_heap_lock();
    is_forking = true;
}

void
conprof_heap_postfork(void)
{
    is_forking = false;
    conprof_heap_unlock();
}

bool
conprof_heap_is_forking(void)
{
    return is_forking;
}

struct conprof_heap_block *
conprof_heap_block_at(uint32_t index)
{
    return &blocks[index];
}

static uintptr_t
address_of(uint32_t index)
{
    return atomic_load_explicit(&blocks[index].address, memory_order_relaxed);
}

static void
set_filter(uint32_t hash)
{
    atomic_fetch_or_explicit(&conprof_heap_filter[hash / 64], UINT64_C(1) << (hash % 64),
                             memory_order_relaxed);
}

static void
clear_filter(uint32_t hash)
{
    atomic_fetch_and_explicit(&conprof_heap_filter[hash / 64], ~(UINT64_C(1) << (hash % 64)),
                              memory_order_relaxed);
}

/* The place of an address, or the empty place where it would go. */
static uint32_t
find(uintptr_t address)
{
    uint32_t at = conprof_heap_hash(address);
    while (places[at] != 0 && address_of(places[at] - 1) != address) {
        at = (at + 1) & (PLACES - 1);
    }
    return at;
}

/* Closes the gap at `hole`, so that every address stays reachable from its home. */
static void
close_gap(uint32_t hole)
{
    for (uint32_t at = (hole + 1) & (PLACES - 1); places[at] != 0; at = (at + 1) & (PLACES - 1)) {
        uint32_t home = conprof_heap_hash(address_of(places[at] - 1));
        /* Is the hole between the home and where the address lies now? */
        if (((at - home) & (PLACES - 1)) >= ((at - hole) & (PLACES - 1))) {
            places[hole] = places[at];
            hole = at;
        }
    }
    places[hole] = 0;
}

static bool
has_other_of(uint32_t hash)
{
    for (uint32_t at = hash; places[at] != 0; at = (at + 1) & (PLACES - 1)) {
        if (conprof_heap_hash(address_of(places[at] - 1)) == hash) {
            return true;
        }
    }
    return false;
}

uint32_t
conprof_heap_table_detach(uintptr_t address)
{
    uint32_t at = find(address);
    if (places[at] == 0) {
        return CONPROF_HEAP_NO_BLOCK;
    }
    uint32_t index = places[at] - 1, hash = conprof_heap_hash(address);
    close_gap(at);
    if (!has_other_of(hash)) {
        clear_filter(hash);
    }
    return index;
}

void
conprof_heap_table_attach(uint32_t index)
{
    uintptr_t address = address_of(index);
    places[find(address)] = index + 1;
    set_filter(conprof_heap_hash(address));
}

void
conprof_heap_table_release(uint32_t index)
{
    atomic_store_explicit(&blocks[index].address, 0, memory_order_relaxed);
    blocks[index].next = released_list;
    released_list = index;
}

uint32_t
conprof_heap_table_add(uintptr_t address, size_t bytes, double mean)
{
    /* Memory that came back without our knowing: what was here is gone. */
    uint32_t stale = conprof_heap_table_detach(address), index = free_list;
    if (stale != CONPROF_HEAP_NO_BLOCK) {
        conprof_heap_table_release(stale);
    }
    if (index != CONPROF_HEAP_NO_BLOCK) {
        free_list = blocks[index].next;
    }
    else if (top < CONPROF_HEAP_MAX_BLOCKS) {
        index = atomic_fetch_add(&top, 1);
    }
    else {
        return CONPROF_HEAP_NO_BLOCK;
    }
    atomic_fetch_add(&used, 1);
    blocks[index].bytes = bytes;
    blocks[index].mean = (float)mean;
    atomic_store_explicit(&blocks[index].address, address, memory_order_relaxed);
    conprof_heap_table_attach(index);
    return index;
}

uint32_t
conprof_heap_table_take_released(void)
{
    uint32_t first = released_list;
    released_list = CONPROF_HEAP_NO_BLOCK;
    return first;
}

void
conprof_heap_table_recycle(uint32_t index)
{
    blocks[index].next = free_list;
    free_list = index;
    atomic_fetch_sub(&used, 1);
}

uint32_t
conprof_heap_table_top(void)
{
    return atomic_load(&top);
}

uint32_t
conprof_heap_table_used(void)
{
    return atomic_load(&used);
}

void
conprof_heap_table_reset(void)
{
    if (top == 0) {
        return; /* never used: touch no page */
    }
    for (uint32_t i = 0; i < PLACES / 64; i++) {
        atomic_store_explicit(&conprof_heap_filter[i], 0, memory_order_relaxed);
    }
    memset(places, 0, sizeof places);
    memset(blocks, 0, top * sizeof *blocks);
    free_list = released_list = CONPROF_HEAP_NO_BLOCK;
    atomic_store(&top, 0);
    atomic_store(&used, 0);
}
