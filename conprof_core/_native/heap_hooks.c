/* heap_hooks.c: see heap_hooks.h and the invariants in heap.h.
 *
 * Everything above the line "install and remove" runs inside the allocator: with the GIL
 * or, in the RAW domain, without; in any thread, at any depth, during garbage collection and
 * after Python was finalized. Our CPU handler may interrupt it anywhere and shares nothing
 * with it but the ring, which is made for that.
 *
 * The path of a small block that is not sampled is what a profiled program pays for each
 * allocation: one subtraction and two branches that are foretold; then the block is taken from
 * pymalloc's pools where that is known to be right (heap_pools.h), else a jump to the next
 * allocator returns to our caller. When it is freed it pays nothing where MEM and OBJ need no hook
 * on free (`frees_come_as_raw`), and elsewhere a bit of the filter.
 */
#if defined(__GNUC__) && !defined(__clang__)
/* It is so short that keeping a frame pointer would be a third of it. */
#pragma GCC optimize("omit-frame-pointer")
#endif
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "heap_hooks.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "heap.h"
#include "heap_pools.h"
#include "heap_sample.h"
#include "heap_table.h"
#include "sampler.h"
#include "signals.h"

#define LIKELY(condition) __builtin_expect(!!(condition), 1)

/* pymalloc passes larger requests on to RAW (SMALL_REQUEST_THRESHOLD is 512 in
 * Objects/obmalloc.c; the debug hooks add up to 32 bytes). */
#define SMALL_BYTES CONPROF_HEAP_POOLED_BYTES

/* The smallest block that pymalloc does not keep in its pools, and never will on realloc. */
#define UNPOOLED_BYTES 513u

/* While off, a thread looks up at this distance. */
#define IDLE_BYTES 65536

enum domain { RAW, MEM, OBJ, DOMAINS };
static const PyMemAllocatorDomain python_domains[DOMAINS] = {
    [RAW] = PYMEM_DOMAIN_RAW, [MEM] = PYMEM_DOMAIN_MEM, [OBJ] = PYMEM_DOMAIN_OBJ};

/* Whom our hooks call. A chain never changes once it is published: a thread may stand between two
 * loads. That is true of every domain, as MEM and OBJ serve interpreters with a GIL of their own,
 * too. */
struct chain {
    PyMemAllocatorEx next[DOMAINS];
};
#define MAX_CHAINS 16
static struct chain chains[MAX_CHAINS]; /* written by: holder of the main interpreter's GIL */
static uint32_t chain_count;            /* owner: holder of the main interpreter's GIL */
static _Atomic(struct chain *) chain;   /* written by: holder of the main interpreter's GIL */
/* owner: holder of the main interpreter's GIL */
static bool is_installed;                   /* ours are in front, or below others */
static PyMemAllocatorEx installed[DOMAINS]; /* what stands in the table then */

/* Written by: holder of the main interpreter's GIL. Other interpreters may see an old value, and
 * need none: their blocks are not followed. The allocators of MEM and OBJ are pymalloc, or call it
 * with our addresses: it hands what does not lie in its pools to RAW, to be allocated and to be
 * freed. So a block of theirs that may be followed is made too large for the pools, and theirs need
 * no hook on free: most blocks are never sampled, and of those nobody asks. */
static atomic_bool frees_come_as_raw;

/* owner: its thread. Zero in a new thread. */
static __thread struct {
    int64_t left;        /* bytes to the next sample point; below 0 while a hook works it out */
    uint32_t inside;     /* depth of calls to the next allocator that may come back as RAW */
    bool is_probing;     /* the next allocation shall only say that it came */
    const void *watched; /* NULL, or a block: RAW's hook on free shall say that it came */
    double mean;         /* of the draw behind `left`; 0: none yet */
} own __attribute__((tls_model("initial-exec")));

/* ---- counting ---- */

/* A block of `bytes` bytes reached the next sample point, or there is none yet. */
static __attribute__((noinline)) void
reached(uintptr_t address, size_t bytes)
{
    if (own.is_probing) {
        own.is_probing = false;
        return;
    }
    int saved_errno = errno;
    /* As in the CPU handler: stop() clears is_active and waits for in_handler to be 0, and
     * label records in limbo stay while it is not. */
    conprof_signal_set mask;
    conprof_signals_block(&mask);
    atomic_fetch_add(&conprof_sampler.in_handler, 1);
    if (!atomic_load(&conprof_heap.is_on) || !atomic_load(&conprof_sampler.is_active)) {
        own.left = IDLE_BYTES;
        own.mean = 0;
    }
    else {
        double mean = (double)atomic_load_explicit(&conprof_heap.mean, memory_order_relaxed);
        if (own.mean == 0) {
            own.mean = mean;
            own.left = (int64_t)(-log(conprof_heap_draw()) * mean) - (int64_t)bytes;
        }
        if (own.left < 0) {
            if (!conprof_heap_is_forking()) {
                conprof_heap_sample(address, bytes, own.mean);
            }
            own.mean = mean;
            own.left = (int64_t)(-log(conprof_heap_draw()) * mean);
        }
    }
    atomic_fetch_sub(&conprof_sampler.in_handler, 1);
    conprof_signals_restore(&mask);
    errno = saved_errno;
}

static inline void
count(void *block, size_t bytes)
{
    own.left -= (int64_t)bytes;
    if (!LIKELY(own.left >= 0)) {
        reached((uintptr_t)block, bytes);
    }
}

/* ---- the hooks ---- */

static inline const PyMemAllocatorEx *
next_of(enum domain domain)
{
    return &atomic_load_explicit(&chain, memory_order_acquire)->next[domain];
}

/* The shortest path: takes a block off the distance, which is one instruction where it is written
 * like this. False when the block may be sampled: then give_back comes next. */
static inline bool
take(size_t bytes)
{
    own.left -= (int64_t)bytes;
    return LIKELY(own.left >= 0);
}

static inline void
give_back(size_t bytes)
{
    own.left += (int64_t)bytes;
}

/* What to ask the next allocator for; with the GIL, but for RAW. */
static inline size_t
to_ask(enum domain domain, size_t bytes)
{
    bool may_be_followed = (int64_t)bytes > own.left && domain != RAW &&
                           atomic_load_explicit(&frees_come_as_raw, memory_order_relaxed);
    return may_be_followed && bytes < UNPOOLED_BYTES ? UNPOOLED_BYTES : bytes;
}

static __attribute__((noinline)) void *
allocate(const PyMemAllocatorEx *next, enum domain domain, size_t bytes)
{
    size_t asked = to_ask(domain, bytes);
    own.inside++;
    void *block = next->malloc(next->ctx, asked);
    own.inside--;
    if (block != NULL) {
        count(block, bytes);
    }
    return block;
}

static __attribute__((noinline)) void *
allocate_taken(const PyMemAllocatorEx *next, enum domain domain, size_t bytes)
{
    give_back(bytes);
    return allocate(next, domain, bytes);
}

static __attribute__((noinline)) void *
allocate_zeroed(const PyMemAllocatorEx *next, enum domain domain, size_t elements, size_t size)
{
    size_t bytes;
    bool is_possible = !__builtin_mul_overflow(elements, size, &bytes);
    size_t asked = is_possible ? to_ask(domain, bytes) : 0;
    own.inside++;
    void *block = is_possible && asked != bytes ? next->calloc(next->ctx, 1, asked)
                                                : next->calloc(next->ctx, elements, size);
    own.inside--;
    if (block != NULL && is_possible) {
        count(block, bytes);
    }
    return block;
}

/* Free and allocate in one. If the next allocator cannot, the old block lives on. */
static void *
reallocate(const PyMemAllocatorEx *next, enum domain domain, void *old, size_t bytes)
{
    size_t asked = to_ask(domain, bytes);
    uint32_t known = CONPROF_HEAP_NO_BLOCK;
    if (!LIKELY(!conprof_heap_may_know(old))) {
        conprof_heap_lock();
        known = conprof_heap_table_detach((uintptr_t)old);
        conprof_heap_unlock();
    }
    own.inside++;
    void *block = next->realloc(next->ctx, old, asked);
    own.inside--;
    if (known != CONPROF_HEAP_NO_BLOCK) {
        conprof_heap_lock();
        if (block == NULL) {
            conprof_heap_table_attach(known);
        }
        else {
            conprof_heap_table_release(known);
        }
        conprof_heap_unlock();
    }
    if (block != NULL) {
        count(block, bytes);
    }
    return block;
}

static __attribute__((noinline)) void
forget_and_free(const PyMemAllocatorEx *next, void *block)
{
    conprof_heap_lock();
    uint32_t known = conprof_heap_table_detach((uintptr_t)block);
    if (known != CONPROF_HEAP_NO_BLOCK) {
        conprof_heap_table_release(known);
    }
    conprof_heap_unlock();
    next->free(next->ctx, block);
}

static inline void
release(enum domain domain, void *block)
{
    const PyMemAllocatorEx *next = next_of(domain);
    if (!LIKELY(!conprof_heap_may_know(block))) {
        forget_and_free(next, block);
        return;
    }
    next->free(next->ctx, block);
}

/* MEM and OBJ: called with the GIL (of the calling interpreter). */
#define HOOKS(name, DOMAIN)                                                                        \
    static void *name##_malloc(void *Py_UNUSED(ctx), size_t bytes)                                 \
    {                                                                                              \
        const PyMemAllocatorEx *next = next_of(DOMAIN);                                            \
        /* The next allocator may come to us as RAW with larger ones. */                           \
        if (!LIKELY(bytes <= SMALL_BYTES)) {                                                       \
            return allocate(next, DOMAIN, bytes);                                                  \
        }                                                                                          \
        return LIKELY(take(bytes)) ? next->malloc(next->ctx, bytes)                                \
                                   : allocate_taken(next, DOMAIN, bytes);                          \
    }                                                                                              \
    static void *name##_calloc(void *Py_UNUSED(ctx), size_t elements, size_t size)                 \
    {                                                                                              \
        const PyMemAllocatorEx *next = next_of(DOMAIN);                                            \
        /* The product is of two small numbers. */                                                 \
        if (!LIKELY((elements | size) <= SMALL_BYTES && elements * size <= SMALL_BYTES)) {         \
            return allocate_zeroed(next, DOMAIN, elements, size);                                  \
        }                                                                                          \
        if (!LIKELY(take(elements * size))) {                                                      \
            give_back(elements * size);                                                            \
            return allocate_zeroed(next, DOMAIN, elements, size);                                  \
        }                                                                                          \
        return next->calloc(next->ctx, elements, size);                                            \
    }                                                                                              \
    static void *name##_realloc(void *Py_UNUSED(ctx), void *block, size_t bytes)                   \
    {                                                                                              \
        return reallocate(next_of(DOMAIN), DOMAIN, block, bytes);                                  \
    }                                                                                              \
    static void name##_free(void *Py_UNUSED(ctx), void *block)                                     \
    {                                                                                              \
        release(DOMAIN, block);                                                                    \
    }

HOOKS(mem, MEM)
HOOKS(obj, OBJ)

/* MEM and OBJ where the next allocator of both is pymalloc, with pools that we know. */
static void *
pooled_malloc(void *Py_UNUSED(ctx), size_t bytes)
{
    if (!LIKELY(bytes - 1 < SMALL_BYTES)) {
        return allocate(next_of(OBJ), OBJ, bytes);
    }
    if (!LIKELY(take(bytes))) {
        return allocate_taken(next_of(OBJ), OBJ, bytes);
    }
    void *block = conprof_heap_pools_take(bytes);
    if (LIKELY(block != NULL)) {
        return block;
    }
    const PyMemAllocatorEx *next = next_of(OBJ);
    return next->malloc(next->ctx, bytes);
}

/* RAW: called with or without the GIL, also by the allocators below our other hooks. */
static void *
raw_malloc(void *Py_UNUSED(ctx), size_t bytes)
{
    const PyMemAllocatorEx *next = next_of(RAW);
    return own.inside > 0 ? next->malloc(next->ctx, bytes) : allocate(next, RAW, bytes);
}

static void *
raw_calloc(void *Py_UNUSED(ctx), size_t elements, size_t size)
{
    const PyMemAllocatorEx *next = next_of(RAW);
    return own.inside > 0 ? next->calloc(next->ctx, elements, size)
                          : allocate_zeroed(next, RAW, elements, size);
}

static void *
raw_realloc(void *Py_UNUSED(ctx), void *block, size_t bytes)
{
    const PyMemAllocatorEx *next = next_of(RAW);
    return own.inside > 0 ? next->realloc(next->ctx, block, bytes)
                          : reallocate(next, RAW, block, bytes);
}

static void
raw_free(void *Py_UNUSED(ctx), void *block)
{
    if (!LIKELY(own.watched == NULL) && own.watched == block) {
        own.watched = NULL;
    }
    release(RAW, block);
}

/* ---- install and remove: with the GIL ---- */

static const PyMemAllocatorEx hooks[DOMAINS] = {
    [RAW] = {NULL, raw_malloc, raw_calloc, raw_realloc, raw_free},
    [MEM] = {NULL, mem_malloc, mem_calloc, mem_realloc, mem_free},
    [OBJ] = {NULL, obj_malloc, obj_calloc, obj_realloc, obj_free},
};

static void
get(PyMemAllocatorEx now[DOMAINS])
{
    for (int i = 0; i < DOMAINS; i++) {
        PyMem_GetAllocator(python_domains[i], &now[i]);
    }
}

static bool
is_same(const PyMemAllocatorEx *a, const PyMemAllocatorEx *b)
{
    return a->ctx == b->ctx && a->malloc == b->malloc && a->calloc == b->calloc &&
           a->realloc == b->realloc && a->free == b->free;
}

/* Our RAW hook is in place: does it see what the next allocator of a domain frees, at the address
 * that our caller knows? */
static bool
comes_as_raw(enum domain domain, size_t bytes)
{
    const PyMemAllocatorEx *next = next_of(domain);
    own.inside++;
    void *block = next->malloc(next->ctx, bytes);
    own.inside--;
    own.watched = block;
    next->free(next->ctx, block);
    bool is_seen = own.watched == NULL;
    own.watched = NULL;
    return block != NULL && is_seen;
}

static void
put_in_front(void)
{
    const struct chain *now = atomic_load(&chain);
    bool may_be_pooled = conprof_heap_pools_may_be_used();
    conprof_heap_pools_forget();
    atomic_store(&frees_come_as_raw, false);
    for (int i = 0; i < DOMAINS; i++) {
        installed[i] = hooks[i];
        installed[i].ctx = now->next[i].ctx;
        PyMem_SetAllocator(python_domains[i], &installed[i]);
    }
    is_installed = true;
    bool all_come = true;
    for (int i = MEM; i <= OBJ; i++) {
        all_come = all_come && comes_as_raw(i, UNPOOLED_BYTES) && comes_as_raw(i, 4096);
    }
    if (all_come) {
        bool is_pooled =
            may_be_pooled && conprof_heap_pools_prove(&now->next[MEM], &now->next[OBJ]);
        for (int i = MEM; i <= OBJ; i++) {
            installed[i].malloc = is_pooled ? pooled_malloc : installed[i].malloc;
            installed[i].free = now->next[i].free;
            PyMem_SetAllocator(python_domains[i], &installed[i]);
        }
        atomic_store(&frees_come_as_raw, true);
    }
}

bool
conprof_heap_hooks_see_all_frees(void)
{
    return is_installed && !atomic_load(&frees_come_as_raw);
}

/* Domains of which an allocation of so many bytes comes to our hooks. */
static int
count_reached(size_t bytes)
{
    int reached_domains = 0;
    for (int i = 0; i < DOMAINS; i++) {
        own.is_probing = true;
        own.left = -1;
        if (i == RAW) {
            PyMem_RawFree(PyMem_RawMalloc(bytes));
        }
        else if (i == MEM) {
            PyMem_Free(PyMem_Malloc(bytes));
        }
        else {
            PyObject_Free(PyObject_Malloc(bytes));
        }
        reached_domains += !own.is_probing;
        own.is_probing = false;
    }
    own.left = 0;
    own.mean = 0;
    return reached_domains;
}

bool
conprof_heap_hooks_are_reached(void)
{
    return count_reached(16) == DOMAINS;
}

/* The chain of these allocators, made if need be; NULL when too many different ones have
 * been seen. */
static struct chain *
chain_of(const PyMemAllocatorEx next[DOMAINS])
{
    for (uint32_t i = 0; i < chain_count; i++) {
        bool is_equal = true;
        for (int domain = 0; domain < DOMAINS; domain++) {
            is_equal = is_equal && is_same(&chains[i].next[domain], &next[domain]);
        }
        if (is_equal) {
            return &chains[i];
        }
    }
    if (chain_count == MAX_CHAINS) {
        return NULL;
    }
    memcpy(chains[chain_count].next, next, sizeof chains[0].next);
    return &chains[chain_count++];
}

const char *
conprof_heap_hooks_install(void)
{
    PyMemAllocatorEx now[DOMAINS];
    get(now);
    /* Ours may be there without our doing: a tool that saved them puts them back after we left. */
    if (conprof_heap_hooks_are_reached()) {
        is_installed = true;
        return NULL;
    }
    /* Or in part. And somebody may have put back what stood there before us, as tracemalloc does
     * when it stops. To go in front of one that still calls us would close a circle. */
    if (count_reached(16) + count_reached(4096) + count_reached(1 << 20) > 0) {
        return "another tool has replaced some of the memory allocators";
    }
    struct chain *found = chain_of(now);
    if (found == NULL) {
        return "the memory allocators were replaced too often";
    }
    atomic_store(&chain, found);
    put_in_front();
    if (conprof_heap_hooks_are_reached()) {
        return NULL;
    }
    conprof_heap_hooks_remove();
    return "allocations do not reach the hooks";
}

void
conprof_heap_hooks_remove(void)
{
    PyMemAllocatorEx now[DOMAINS];
    get(now);
    for (int i = 0; i < DOMAINS; i++) {
        if (!is_same(&now[i], &installed[i])) {
            return;
        }
    }
    for (int i = 0; is_installed && i < DOMAINS; i++) {
        PyMem_SetAllocator(python_domains[i], &atomic_load(&chain)->next[i]);
    }
    conprof_heap_pools_forget();
    is_installed = false;
}
