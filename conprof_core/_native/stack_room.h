/* stack_room.h: is there room on this stack for our handler?
 *
 * The handler runs on a stack that is not ours: the interrupted thread's, or an alternate one that
 * the application has set for the thread, of any size. Whoever asks here is the first function of
 * the handler, which needs no more of the stack than an empty handler would.
 */
#ifndef CONPROF_STACK_ROOM_H
#define CONPROF_STACK_ROOM_H

#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

#include "stack_bounds.h"

/* SIGNAL-SAFE. `context`: the handler's third argument. The kernel has put the thread's alternate
 * stack into it as it was when the signal came; being on it is told by the stack pointer alone, as
 * flags differ (SS_AUTODISARM). */
static inline __attribute__((always_inline)) bool
conprof_is_room_on_signal_stack(const void *context)
{
    const stack_t *stack = &((const ucontext_t *)context)->uc_stack;
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    uintptr_t above_low = here - (uintptr_t)stack->ss_sp;
    return above_low >= stack->ss_size || above_low >= CONPROF_HANDLER_STACK_BYTES;
}

/* SIGNAL-SAFE. The same on the thread's own stack [low, high), where that is known; another may be
 * one that a library has made, of which nothing is known. */
static inline bool
conprof_is_room_on_own_stack(uintptr_t low, uintptr_t high)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    return here < low || here >= high || here - low >= CONPROF_HANDLER_STACK_BYTES;
}

#endif
