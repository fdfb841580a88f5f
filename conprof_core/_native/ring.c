/* ring.c: see ring.h for the protocol. */
#include "ring.h"

#include "own_tid.h"
#include "safemem.h"

#include <sys/mman.h>
#include <unistd.h>

#define MASK (CONPROF_RING_WORDS - 1)

/* A header: words, kind and thread. An open one has no kind yet. */
#define WORDS_BITS 16
#define KIND_BITS 8
#define OPEN UINT64_C(0x80)
#define TID_SHIFT (WORDS_BITS + KIND_BITS)
#define FREE_MARK UINT64_C(0xF5EE)
#define MARK_SHIFT 48

_Static_assert(CONPROF_RING_MAX_RECORD < 1u << WORDS_BITS, "a size fits into a header");

/* SIGNAL-SAFE, as all of these. */
static inline uint64_t
free_word(uint64_t at)
{
    return FREE_MARK << MARK_SHIFT | at / CONPROF_RING_WORDS;
}

/* Thread ids have 22 bits (PID_MAX_LIMIT); 0: not known. */
static inline uint64_t
header_of(uint32_t words, uint64_t kind, pid_t tid)
{
    return (uint64_t)(uint32_t)tid << TID_SHIFT | kind << WORDS_BITS | words;
}

static inline uint32_t
words_of(uint64_t header)
{
    return header & ((1u << WORDS_BITS) - 1);
}

static inline uint64_t
kind_of(uint64_t header)
{
    return header >> WORDS_BITS & ((1u << KIND_BITS) - 1);
}

static inline pid_t
tid_of(uint64_t header)
{
    return (pid_t)(header >> TID_SHIFT);
}

/* Of a word at a place where a record begins or will begin. */
static inline bool
is_header(uint64_t word)
{
    return word >> MARK_SHIFT == 0;
}

/* Headers are read by the reader while writers publish: always atomically. */
static inline _Atomic uint64_t *
header_at(struct conprof_ring *ring, uint64_t at)
{
    return (_Atomic uint64_t *)&ring->words[at & MASK];
}

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
        for (uint64_t at = 0; at < CONPROF_RING_WORDS; at++) {
            ring->words[at] = free_word(at);
        }
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
    uint64_t header = header_of(words, OPEN, conprof_own_tid_in_signal());
    for (;;) {
        uint64_t at = atomic_load_explicit(&ring->reserved, memory_order_acquire);
        uint64_t consumed = atomic_load_explicit(&ring->consumed, memory_order_acquire);
        if (consumed > at) {
            continue; /* both have moved on meanwhile */
        }
        if (at + words - consumed > CONPROF_RING_WORDS) {
            return false;
        }
        uint64_t found = free_word(at);
        bool is_ours = atomic_compare_exchange_strong_explicit(
            header_at(ring, at), &found, header, memory_order_acq_rel, memory_order_acquire);
        if (is_ours || is_header(found)) {
            uint64_t end = at + (is_ours ? words : words_of(found));
            atomic_compare_exchange_strong_explicit(&ring->reserved, &at, end, memory_order_acq_rel,
                                                    memory_order_relaxed);
            if (is_ours) {
                slot->at = end - words;
                break;
            }
        }
    }
    slot->ring = ring;
    slot->header = header;
    slot->words = words;
    return true;
}

bool
conprof_ring_copy(const struct conprof_ring_slot *slot, uint32_t index, uintptr_t address,
                  size_t bytes)
{
    if (bytes % sizeof(uint64_t) != 0) {
        conprof_ring_put(slot, index + (uint32_t)(bytes / sizeof(uint64_t)), 0);
    }
    size_t first = (slot->at + index) & MASK;
    size_t room = (CONPROF_RING_WORDS - first) * sizeof(uint64_t);
    size_t head = bytes < room ? bytes : room;
    if (head > 0 && !conprof_safe_read(&slot->ring->words[first], address, head)) {
        return false;
    }
    return bytes == head || conprof_safe_read(&slot->ring->words[0], address + head, bytes - head);
}

bool
conprof_ring_publish(const struct conprof_ring_slot *slot, enum conprof_record_kind kind)
{
    uint64_t open = slot->header;
    uint64_t header = header_of(slot->words, kind, tid_of(open));
    return atomic_compare_exchange_strong_explicit(header_at(slot->ring, slot->at), &open, header,
                                                   memory_order_release, memory_order_relaxed);
}

/* Reader only. Is not what a writer of this ring publishes at `at`? */
static bool
is_corrupt(struct conprof_ring *ring, uint64_t at, uint32_t words)
{
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
        atomic_store_explicit(header_at(ring, i), free_word(i + CONPROF_RING_WORDS),
                              memory_order_relaxed);
    }
    atomic_fetch_add(&ring->corrupt, 1);
    atomic_store_explicit(&ring->consumed, end, memory_order_release);
}

uint32_t
conprof_ring_take(struct conprof_ring *ring, uint64_t *out, int *kind)
{
    uint64_t at = atomic_load_explicit(&ring->consumed, memory_order_relaxed);
    uint64_t header = atomic_load_explicit(header_at(ring, at), memory_order_acquire);
    *kind = 0;
    if (!is_header(header) || kind_of(header) == OPEN) {
        return 0;
    }
    uint32_t words = words_of(header);
    uint64_t expected = at;
    /* Its writer may be between steps 1 and 2 when another gave it up. */
    atomic_compare_exchange_strong(&ring->reserved, &expected, at + words);
    if (is_corrupt(ring, at, words)) {
        skip_all(ring, at);
        *kind = CONPROF_RECORD_PAD;
        return 0;
    }
    *kind = (int)kind_of(header);
    for (uint32_t i = 1; i < words; i++) {
        out[i - 1] = ring->words[(at + i) & MASK];
        ring->words[(at + i) & MASK] = free_word(at + i + CONPROF_RING_WORDS);
    }
    atomic_store_explicit(header_at(ring, at), free_word(at + CONPROF_RING_WORDS),
                          memory_order_relaxed);
    atomic_store_explicit(&ring->consumed, at + words, memory_order_release);
    return words - 1;
}

pid_t
conprof_ring_waits_for(struct conprof_ring *ring, uint64_t *at)
{
    *at = atomic_load_explicit(&ring->consumed, memory_order_relaxed);
    uint64_t header = atomic_load_explicit(header_at(ring, *at), memory_order_acquire);
    return is_header(header) && kind_of(header) == OPEN ? tid_of(header) : 0;
}

bool
conprof_ring_has_later(struct conprof_ring *ring, pid_t tid)
{
    uint64_t at = atomic_load_explicit(&ring->consumed, memory_order_relaxed);
    uint64_t end = atomic_load_explicit(&ring->reserved, memory_order_acquire);
    for (bool is_first = true; at < end; is_first = false) {
        /* Below `reserved` every record has a header, open or not. */
        uint64_t header = atomic_load_explicit(header_at(ring, at), memory_order_acquire);
        if (!is_header(header) || words_of(header) == 0) {
            return false;
        }
        if (!is_first && tid_of(header) == tid) {
            return true;
        }
        at += words_of(header);
    }
    return false;
}

bool
conprof_ring_give_up(struct conprof_ring *ring, uint64_t at)
{
    uint64_t open = atomic_load_explicit(header_at(ring, at), memory_order_acquire);
    return is_header(open) && kind_of(open) == OPEN &&
           atomic_compare_exchange_strong(header_at(ring, at), &open,
                                          header_of(words_of(open), CONPROF_RECORD_PAD, 0));
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
