/* ring.c: see ring.h for the protocol. */
#include "ring.h"

#include "safemem.h"

#include <string.h>
#include <sys/mman.h>

#define MASK (CONPROF_RING_WORDS - 1)

bool
conprof_ring_init(struct conprof_ring *ring)
{
    if (ring->words == NULL) {
        /* MAP_POPULATE: a handler should not take the page faults. */
        void *memory = mmap(NULL, CONPROF_RING_WORDS * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (memory == MAP_FAILED) {
            return false;
        }
        ring->words = memory;
    }
    conprof_ring_reset(ring);
    return true;
}

void
conprof_ring_reset(struct conprof_ring *ring)
{
    if (ring->words != NULL) {
        memset(ring->words, 0, CONPROF_RING_WORDS * sizeof(uint64_t));
    }
    atomic_store(&ring->reserved, 0);
    atomic_store(&ring->consumed, 0);
}

bool
conprof_ring_reserve(struct conprof_ring *ring, uint32_t words, struct conprof_ring_slot *slot)
{
    if (words == 0 || words > CONPROF_RING_MAX_RECORD) {
        return false;
    }
    uint64_t at = atomic_load_explicit(&ring->reserved, memory_order_relaxed);
    do {
        uint64_t consumed = atomic_load_explicit(&ring->consumed, memory_order_acquire);
        if (at + words - consumed > CONPROF_RING_WORDS) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&ring->reserved, &at, at + words,
                                                    memory_order_acq_rel, memory_order_relaxed));
    slot->ring = ring;
    slot->at = at;
    slot->words = words;
    return true;
}

bool
conprof_ring_copy(const struct conprof_ring_slot *slot, uint32_t index, uintptr_t address,
                  size_t bytes)
{
    size_t first = (slot->at + index) & MASK;
    size_t room = (CONPROF_RING_WORDS - first) * sizeof(uint64_t);
    size_t head = bytes < room ? bytes : room;
    if (head > 0 && !conprof_safe_read(&slot->ring->words[first], address, head)) {
        return false;
    }
    return bytes == head || conprof_safe_read(&slot->ring->words[0], address + head, bytes - head);
}

/* Headers are read by the reader while writers publish: always atomically. */
static inline _Atomic uint64_t *
header_at(struct conprof_ring *ring, uint64_t at)
{
    return (_Atomic uint64_t *)&ring->words[at & MASK];
}

void
conprof_ring_publish(const struct conprof_ring_slot *slot, enum conprof_record_kind kind)
{
    atomic_store_explicit(header_at(slot->ring, slot->at), ((uint64_t)kind << 32) | slot->words,
                          memory_order_release);
}

/* Reader only. Is not what a writer of this ring publishes at `at`? */
static bool
is_corrupt(struct conprof_ring *ring, uint64_t at, uint64_t header)
{
    uint32_t words = (uint32_t)header;
    uint64_t reserved = atomic_load_explicit(&ring->reserved, memory_order_acquire);
    return words == 0 || words > CONPROF_RING_MAX_RECORD || words > reserved - at;
}

/* Reader only. Gives up everything that is reserved now: where the next record begins cannot be
 * known any more. */
static void
skip_all(struct conprof_ring *ring, uint64_t at)
{
    uint64_t end = atomic_load_explicit(&ring->reserved, memory_order_acquire);
    for (uint64_t i = at; i != end; i++) {
        atomic_store_explicit(header_at(ring, i), 0, memory_order_relaxed);
    }
    atomic_fetch_add(&ring->corrupt, 1);
    atomic_store_explicit(&ring->consumed, end, memory_order_release);
}

uint32_t
conprof_ring_take(struct conprof_ring *ring, uint64_t *out, int *kind)
{
    uint64_t at = atomic_load_explicit(&ring->consumed, memory_order_relaxed);
    uint64_t header = atomic_load_explicit(header_at(ring, at), memory_order_acquire);
    *kind = (int)(header >> 32);
    if (header == 0) {
        return 0;
    }
    if (is_corrupt(ring, at, header)) {
        skip_all(ring, at);
        *kind = CONPROF_RECORD_PAD;
        return 0;
    }
    uint32_t words = (uint32_t)header;
    for (uint32_t i = 1; i < words; i++) {
        out[i - 1] = ring->words[(at + i) & MASK];
        ring->words[(at + i) & MASK] = 0;
    }
    atomic_store_explicit(header_at(ring, at), 0, memory_order_relaxed);
    atomic_store_explicit(&ring->consumed, at + words, memory_order_release);
    return words - 1;
}

uint64_t
conprof_ring_fill(struct conprof_ring *ring)
{
    uint64_t consumed = atomic_load_explicit(&ring->consumed, memory_order_acquire);
    return atomic_load_explicit(&ring->reserved, memory_order_acquire) - consumed;
}

uint64_t
conprof_ring_corrupt(struct conprof_ring *ring)
{
    return atomic_load(&ring->corrupt);
}
