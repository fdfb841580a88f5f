/* signals.h: signal masks as the kernel sees them.
 *
 * libc's calls leave out the signals that libc keeps for itself. Ours is one of these
 * (handler.c), so masks of ours are set by the raw system call.
 *
 * What holds a lock of ours, or has reserved a record that it has not published, must not be
 * left half done: another's handler that runs on top of it may leave by siglongjmp and never
 * come back. Therefore everything of ours that does so on a thread of the application runs
 * between conprof_signals_block and conprof_signals_restore; our own handler has the same
 * mask by its sa_mask.
 */
#ifndef CONPROF_SIGNALS_H
#define CONPROF_SIGNALS_H

#include <stdint.h>

/* Built with ThreadSanitizer? It must see what signals do, which it only does through libc. */
#ifdef __SANITIZE_THREAD__
#define CONPROF_HAVE_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CONPROF_HAVE_TSAN 1
#endif
#endif
#ifndef CONPROF_HAVE_TSAN
#define CONPROF_HAVE_TSAN 0
#endif

/* The kernel's set of signals: signal n is bit n - 1. */
typedef uint64_t conprof_signal_set;

static inline conprof_signal_set
conprof_signal_bit(int number)
{
    return (conprof_signal_set)1 << (number - 1);
}

/* SIGNAL-SAFE, any thread. Blocks every signal in the calling thread but those of a fault of its
 * own (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP: the kernel kills a thread that blocks them), and
 * stores what was blocked before in `old`. Pairs may nest. errno stays as it was. */
void conprof_signals_block(conprof_signal_set *old);
void conprof_signals_restore(const conprof_signal_set *old);

#endif
