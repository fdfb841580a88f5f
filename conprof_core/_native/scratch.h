/* scratch.h: what a walk needs room for, and must not take from the stack it runs on: that may be
 * an application's thread of 64 KiB, or a signal stack of a few.
 */
#ifndef CONPROF_SCRATCH_H
#define CONPROF_SCRATCH_H

#include "far.h"
#include "outside.h"
#include "unwind.h"

/* written by: its owner, one walk at a time */
struct conprof_scratch {
    PyThreadState state;        /* copy */
    struct conprof_stack stack; /* what the walk found */
    struct conprof_outside outside;
    struct conprof_far far;
};

/* Any context but a handler. Zeroed; pages that no walk touches cost nothing. Never given back.
 * NULL without memory. */
struct conprof_scratch *conprof_scratch_new(void);

/* SIGNAL-SAFE, in the thread whose state was copied to `scratch->state` from `at`. Walks its
 * frames; `is_attached` as conprof_state_own said. [stack_low, stack_high) is the part of the C
 * stack known to be mapped, or empty. */
enum conprof_walk conprof_scratch_walk(struct conprof_scratch *scratch, uintptr_t at,
                                       bool is_attached, uintptr_t stack_low, uintptr_t stack_high);

#endif
