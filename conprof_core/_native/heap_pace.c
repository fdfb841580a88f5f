/* heap_pace.c: see heap_pace.h. */
#include "heap_pace.h"

/* A rate is told from at least so much time: 100 samples at 200 a second. */
#define STEP_NS UINT64_C(500000000)

/* Of one step. A short burst shall not leave us blind for what comes right behind it. */
#define MAX_GROWTH 8.0

static double
between(double low, double value, double high)
{
    return value < low ? low : value > high ? high : value;
}

void
conprof_heap_pace_begin(struct conprof_heap_pace *pace, uint64_t floor, uint32_t rate,
                        uint64_t now_ns)
{
    *pace = (struct conprof_heap_pace){.floor = floor,
                                       .mean = floor,
                                       .rate = rate,
                                       .credit = rate * CONPROF_HEAP_CREDIT_S,
                                       .seen_ns = now_ns};
}

void
conprof_heap_pace_step(struct conprof_heap_pace *pace, uint64_t samples, uint64_t now_ns)
{
    if (pace->rate == 0 || now_ns < pace->seen_ns + STEP_NS) {
        return;
    }
    double taken = (double)(samples - pace->seen), rate = pace->rate;
    double meant = rate * (double)(now_ns - pace->seen_ns) * 1e-9;
    pace->seen = samples;
    pace->seen_ns = now_ns;
    /* A debt is paid back within a second: a burst shall not coarsen what comes long after it. */
    pace->credit = between(-rate, pace->credit + meant - taken, rate * CONPROF_HEAP_CREDIT_S);
    if (pace->mean == pace->floor && pace->credit >= 0) {
        return;
    }
    /* Bytes a second are about rate × mean. */
    double mean = (double)pace->mean, floor = (double)pace->floor;
    double next = between(floor, mean * taken / meant, MAX_GROWTH * mean);
    pace->mean = (uint64_t)between(floor, next, (double)CONPROF_HEAP_MAX_MEAN);
}

uint64_t
conprof_heap_pace_look_ns(const struct conprof_heap_pace *pace)
{
    return pace->mean > pace->floor ? pace->seen_ns + STEP_NS : UINT64_MAX;
}

void
conprof_heap_pace_double(struct conprof_heap_pace *pace)
{
    pace->floor *= 2;
    if (pace->mean < pace->floor) {
        pace->mean = pace->floor;
    }
}
