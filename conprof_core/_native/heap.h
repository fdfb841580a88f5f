/* heap.h: sampled allocations: what was allocated in a window, and what is alive now.
 *
 * Method. Allocated bytes are a line on which sample points lie at random, `mean` bytes
 * apart (a Poisson process): each thread counts down the distance to its next point, drawn
 * from the exponential distribution. A block of s bytes that holds a point is sampled;
 * that happens with probability P(s) = 1 - exp(-s / mean), whatever came before. So a
 * sampled block stands for 1 / P(s) blocks and s / P(s) bytes: the estimator of Horvitz and
 * Thompson (1952), as tcmalloc and Go's runtime/pprof (scaleHeapSample) use it. Nothing
 * else about a block matters, so sums are unbiased for every mixture of sizes, and a block
 * may be taken out of the sample later with probability 1 - P'(s) / P(s): then the sample
 * is one of the larger mean. That is what happens when the table of live blocks fills.
 * How large the mean is meanwhile, heap_pace.h says.
 *
 * Invariants
 *   - A hook calls no Python API that allocates or changes anything, takes no lock but the
 *     heap lock and that of heap_sample.c, and waits for nobody who may want the GIL. It needs
 *     CONPROF_HOOK_STACK_BYTES of stack at most (stack_bounds.h): what finds no room in the
 *     ring, though the drain was given 2 ms, is lost and counted, never drained here.
 *   - A live block is in the heap table before its address is known to anybody, and out of
 *     it before the allocator gets its memory back. So a live block is never counted as
 *     freed, and a freed one never as live, whatever thread frees it.
 *   - Where MEM and OBJ have no hook on free, each of their blocks in the table is one that the
 *     allocator frees through RAW: it was asked for with more bytes than its pools take.
 *   - A followed block keeps the mean that chose it, which is never below the floor.
 *   - Each allocation counts once, in the domain that was called: what pymalloc passes on
 *     to RAW is not counted again (`inside`).
 *   - A sample travels through the ring like a CPU sample: label records stay alive by the
 *     rules of labels.h. The session side alone keeps counted references to them.
 *   - The result of every call is the next allocator's, bit for bit, and errno is kept. It may be
 *     of a larger block than was asked for, never of a smaller.
 *
 * heap_hooks.c counts inside the allocator, heap_pools.c serves what pymalloc would serve,
 * heap_sample.c takes a sample there, heap_table.c finds live blocks by address, heap_stacks.c
 * keeps their stacks, heap_pace.c sets the mean, heap.c fills windows.
 */
#ifndef CONPROF_HEAP_H
#define CONPROF_HEAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "aggregate.h"
#include "heap_pace.h"

/* Words of an allocation record behind its header; then one word a frame, leaf first. */
enum conprof_alloc_word {
    CONPROF_ALLOC_BLOCK,  /* index in the heap table, or CONPROF_HEAP_NO_BLOCK */
    CONPROF_ALLOC_CELL,   /* id of a provisional label cell, or 0 */
    CONPROF_ALLOC_RECORD, /* struct conprof_label_record * */
    CONPROF_ALLOC_THREAD, /* kernel's thread id << CONPROF_ALLOC_TID_SHIFT | flags */
    CONPROF_ALLOC_BYTES,
    CONPROF_ALLOC_MEAN, /* of the draw that chose it, in bytes */
    CONPROF_ALLOC_FRAMES,
};

#define CONPROF_ALLOC_TID_SHIFT 2
#define CONPROF_ALLOC_IS_PAUSED UINT64_C(1) /* sampling was */
#define CONPROF_ALLOC_IS_UNSURE UINT64_C(2) /* the label record may be dead */

struct conprof_heap {
    atomic_bool is_on;     /* written by: session, with the GIL */
    _Atomic uint64_t mean; /* bytes, of draws to come; written by: session, holder of both locks */
    /* When the next sample shall have the mean set anew; UINT64_MAX: never. written by: session,
     * holder of its lock */
    _Atomic uint64_t look_ns;
    /* Counters since the session began. written by: hooks, relaxed */
    _Atomic uint64_t samples;        /* blocks sampled */
    _Atomic uint64_t refused;        /* sampled blocks not followed: the table was full */
    _Atomic uint64_t lost;           /* blocks that would have been sampled: no room in the ring */
    _Atomic uint64_t stacks_refused; /* live stacks without room; holder of the session lock */
    _Atomic uint64_t detached;       /* times that somebody took our hooks away */
};

extern struct conprof_heap conprof_heap;

/* Any thread. The probability that a block of so many bytes is sampled. */
double conprof_heap_probability(size_t bytes, double mean);

/* Any thread: a session begins. */
void conprof_heap_reset_counters(void);

/* GIL held. Hooks the allocators. NULL, or what is in the way; then nothing has changed.
 * More than `rate` samples a second let the mean grow (heap_pace.h); 0: none do.
 * Blocks that were alive at the end of `old_windows` windows before have the label
 * heap.age=old, where there is room for one more label set; 0: none has. */
const char *conprof_heap_start(uint64_t mean, uint32_t rate, uint32_t old_windows);

/* GIL held. No allocation is sampled after the return. What is alive is still known: charge
 * it to the last window, then forget it. */
void conprof_heap_stop(void);

/* GIL held, at the end of a window: do allocations still come to our hooks? If somebody has
 * put the allocators back that stood before us, hooks them again and forgets all live
 * blocks: their end may have been missed. */
void conprof_heap_check(void);

/* Session lock held. Takes in an allocation record (`words` behind the header, without its
 * trace). What lives belongs to no span: only the allocation has the trace. */
void conprof_heap_add(struct conprof_window *window, const uint64_t *words, uint32_t n,
                      const struct conprof_trace *trace);

/* Session lock held, after the ring was drained. Lets go of what was freed, thins the table when
 * it fills, and sets the mean anew. */
void conprof_heap_settle(void);

/* Session lock held, before bindings are reset. Charges every live block to its row. At the end
 * of a period all of them are one window older afterwards. */
void conprof_heap_charge_live(struct conprof_window *window, bool ends_period);

/* Session lock held. Forgets all live blocks. */
void conprof_heap_clear(void);

/* GIL held, in the child of a fork, alone, session lock held: off and empty. */
void conprof_heap_forget(void);

#endif
