/* ring.h: the buffer between signal handlers and the drain.
 *
 * Protocol
 *   A fixed array of 64-bit words, many writers, one reader.
 *   `reserved` and `consumed` count words since start and never wrap in
 *   practice (2^64 words); word w lives at words[w & mask].
 *   A word that belongs to nobody holds the number of its lap, w / capacity, under
 *   a mark that no header has and no other word is likely to have (2^-48 for
 *   random ones).
 *
 *   Writer (a signal handler, or a thread that retires itself):
 *     1. at the position `reserved`, refused when reserved + n - consumed > capacity
 *        (the caller keeps what it has, nothing is overwritten): replaces the
 *        free word by an open header, which says how long the record is and whose,
 *        with one compare-and-swap. Whoever finds a header at `reserved` has come
 *        too late, and first moves `reserved` behind that record in its writer's place;
 *     2. moves `reserved` likewise;
 *     3. fills words 1..n-1 of the record, all of them;
 *     4. publishes: a compare-and-swap, with release order, from the open header to one
 *        with the kind. It fails when the record was given up meanwhile.
 *   Reader (holder of the session lock):
 *     1. load the header at `consumed` with acquire order; if it is open or the word
 *        is free nothing is published yet there, whatever is behind it;
 *     2. use the record, then make all its words free words of the next lap;
 *     3. advance `consumed` with release order: only now may writers reuse it.
 *   There is no ABA: positions only grow, and a writer that was asleep for a lap
 *   expects the free word of a lap that is over.
 *
 *   A writer that is descheduled between 1 and 4 delays the reader and nothing
 *   else. No writer ever waits. A writer that never comes back (its thread was
 *   unwound or has jumped away) would stop the reader for good: the size stands in
 *   the header from the start, so the reader can step over it, once it is proven
 *   that this writer will never write again (abandoned.h).
 */
#ifndef CONPROF_RING_H
#define CONPROF_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* 512 KiB: about 1 900 samples of 30 frames, or ten seconds of two busy cores
 * at 100 Hz without a single drain. */
#define CONPROF_RING_WORDS ((size_t)1 << 16)

/* One record may not take more than a quarter, so that no record starves. */
#define CONPROF_RING_MAX_RECORD (CONPROF_RING_WORDS / 4)

enum conprof_record_kind {
    CONPROF_RECORD_PAD = 1,    /* reserved, then given up; skip it */
    CONPROF_RECORD_SAMPLE = 2, /* sample.h */
    CONPROF_RECORD_CODE = 3,   /* code_registry.h */
    CONPROF_RECORD_ALLOC = 4,  /* heap.h */
    CONPROF_RECORD_PAUSE = 5,  /* gc_pause.h */
    CONPROF_RECORD_TRACED = 8, /* flag, with a sample or an allocation: a trace ends the record */
};

struct conprof_ring {
    uint64_t *words;           /* immutable after conprof_ring_init */
    _Atomic uint64_t reserved; /* written by: any writer */
    _Atomic uint64_t consumed; /* written by: the reader */
    _Atomic uint64_t corrupt;  /* headers that were not believed; written by: the reader */
};

/* A reserved record: `at` is the position of its header. */
struct conprof_ring_slot {
    struct conprof_ring *ring;
    uint64_t at;
    uint64_t header; /* the open one */
    uint32_t words;
};

/* Maps and prefaults the buffer; returns false when memory is refused. */
bool conprof_ring_init(struct conprof_ring *ring);

/* Forgets everything. No writer may be active. */
void conprof_ring_reset(struct conprof_ring *ring);

/* SIGNAL-SAFE. Reserves a record of `words` words including its header. */
bool conprof_ring_reserve(struct conprof_ring *ring, uint32_t words,
                          struct conprof_ring_slot *slot);

/* SIGNAL-SAFE. Stores word `index` (1 <= index < words) of a reserved record. */
static inline void
conprof_ring_put(const struct conprof_ring_slot *slot, uint32_t index, uint64_t value)
{
    slot->ring->words[(slot->at + index) & (CONPROF_RING_WORDS - 1)] = value;
}

/* SIGNAL-SAFE. Copies `bytes` bytes from `address`, which may be unreadable, into
 * the words from `index` on; false when they cannot be read. The rest of the last
 * word is zero. */
bool conprof_ring_copy(const struct conprof_ring_slot *slot, uint32_t index, uintptr_t address,
                       size_t bytes);

/* SIGNAL-SAFE. Publishes a reserved record; false when it was given up meanwhile. */
bool conprof_ring_publish(const struct conprof_ring_slot *slot, enum conprof_record_kind kind);

/* Reader only. Copies the next record's words (header excluded) into `out`,
 * which has room for CONPROF_RING_MAX_RECORD words, and consumes it. Returns the
 * number of words copied and the kind, or kind 0 when nothing is published.
 *
 * A header is believed only as far as words were reserved. None is ever wrong while resets keep to
 * their rule; if one is, all that is reserved by then is given up, and counted. */
uint32_t conprof_ring_take(struct conprof_ring *ring, uint64_t *out, int *kind);

/* Any thread. How often a header was not believed. */
uint64_t conprof_ring_corrupt(struct conprof_ring *ring);

/* Reader only. Whose record it is that stands open at `*at`, in the reader's way; 0: none does. */
pid_t conprof_ring_waits_for(struct conprof_ring *ring, uint64_t *at);

/* Reader only. Has this thread begun another record behind the one that stands open? */
bool conprof_ring_has_later(struct conprof_ring *ring, pid_t tid);

/* Reader only. The open record at `at` is to be stepped over: its writer will not write any more.
 * False when it has just been published. */
bool conprof_ring_give_up(struct conprof_ring *ring, uint64_t at);

/* Any thread. Words reserved and not consumed. */
uint64_t conprof_ring_fill(struct conprof_ring *ring);

#endif
