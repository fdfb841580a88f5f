/* refusals.h: system calls of ours that the kernel refuses as such.
 *
 * The self-test finds what a sandbox refuses at the start. One that closes later makes samples
 * poorer without a word, unless somebody counts: who reads the counts changes the engine.
 */
#ifndef CONPROF_REFUSALS_H
#define CONPROF_REFUSALS_H

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>

enum conprof_refusal {
    CONPROF_REFUSED_READ,  /* process_vm_readv */
    CONPROF_REFUSED_TIMER, /* timers on CPU clocks */
    CONPROF_REFUSED_CLOCK, /* CPU clocks */
    CONPROF_REFUSALS,
};

/* Since the process began, as a sandbox never opens again. written by: anybody, relaxed */
extern _Atomic uint64_t conprof_refused[CONPROF_REFUSALS] __attribute__((visibility("hidden")));

/* SIGNAL-SAFE, right after a call that failed: was it the call that is not allowed, and not what it
 * was about? Counts it then. */
static inline void
conprof_note_refusal(enum conprof_refusal what)
{
    if (errno == EPERM || errno == ENOSYS || errno == EACCES) {
        atomic_fetch_add_explicit(&conprof_refused[what], 1, memory_order_relaxed);
    }
}

#endif
