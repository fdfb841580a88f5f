/* heap_pace.h: how far apart the sample points of heap.h lie.
 *
 * A server may allocate a gigabyte a second, of which next to nothing lives on. With points at a
 * fixed distance it would pay for each of them and learn nothing that a tenth of them does not
 * tell. So the distance grows until `rate` samples a second are left, and falls again when less is
 * allocated. A program that only starts up has a credit: it is sampled at the floor.
 *
 * Invariants
 *   - The mean depends on samples that were taken, never on those to come. Given all before it,
 *     each block is sampled with the probability that its own mean says; so sums stay unbiased.
 *   - The mean is never below the floor, which is what was asked for, and never above
 *     CONPROF_HEAP_MAX_MEAN.
 *
 * All functions: holder of the session lock, any thread, never in signal context.
 */
#ifndef CONPROF_HEAP_PACE_H
#define CONPROF_HEAP_PACE_H

#include <stdint.h>

/* The mean stops growing here: 64 GiB. */
#define CONPROF_HEAP_MAX_MEAN (UINT64_C(1) << 36)

/* A program begins, and goes on after a rest, with the samples of so many seconds. At 200 a second
 * and 512 KiB these are 750 MiB. */
#define CONPROF_HEAP_CREDIT_S 7.5

struct conprof_heap_pace {
    uint64_t floor;   /* bytes */
    uint64_t mean;    /* bytes */
    uint32_t rate;    /* samples a second; 0: the mean stays at the floor */
    double credit;    /* samples */
    uint64_t seen;    /* samples until the last step */
    uint64_t seen_ns; /* when that was */
};

void conprof_heap_pace_begin(struct conprof_heap_pace *pace, uint64_t floor, uint32_t rate,
                             uint64_t now_ns);

/* At any time, best some times a second. `samples`: since the session began. */
void conprof_heap_pace_step(struct conprof_heap_pace *pace, uint64_t samples, uint64_t now_ns);

/* When a step is due although nothing else gives cause to one; UINT64_MAX: at no time. So a mean
 * that grew comes down with what is sampled next, however little that is. */
uint64_t conprof_heap_pace_look_ns(const struct conprof_heap_pace *pace);

/* The table of live blocks is full: the floor doubles. */
void conprof_heap_pace_double(struct conprof_heap_pace *pace);

#endif
