/* signals.h: our signal, and signal masks, as the kernel sees them.
 *
 * Our signal is the one that libc keeps for itself: number 32 of the kernel, which glibc and musl
 * use for their own timers and glibc for pthread_cancel. libc lets no application touch it: it
 * cannot be handled, reset, ignored, blocked or waited for through sigaction, pthread_sigmask,
 * sigwait or signalfd, and it is in no set that sigfillset makes. So our signals neither
 * reach a handler of the application's, nor kill it when it resets all signals, nor come
 * out of its sigwait, nor are held up by its masks. What libc sends by it goes on to libc's
 * handler (conprof_signals_pass_on). Handler and masks are set by the raw system calls.
 *
 * What holds a lock of ours, or has reserved a record that it has not published, must not be
 * left half done: another's handler that runs on top of it may leave by siglongjmp and never
 * come back. Therefore everything of ours that does so on a thread of the application runs
 * between conprof_signals_block and conprof_signals_restore; our own handler has the same
 * mask by its sa_mask.
 *
 * With ThreadSanitizer, which only knows what signals do when they go through libc, and on
 * processors whose system calls we have not tried, ours is a free real-time signal.
 */
#ifndef CONPROF_SIGNALS_H
#define CONPROF_SIGNALS_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

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

#if !CONPROF_HAVE_TSAN && (defined(__x86_64__) || defined(__aarch64__))
#define CONPROF_SIGNAL_OF_LIBC 32
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
 * stores what was blocked before in `old`. Pairs may nest. errno stays as it was. Only for a
 * moment: what libc sends to all threads waits, too. */
void conprof_signals_block(conprof_signal_set *old);
void conprof_signals_restore(const conprof_signal_set *old);

/* SIGNAL-SAFE, any thread. Lets `number` through, until conprof_signals_restore. */
void conprof_signals_unblock(int number, conprof_signal_set *old);

/* A thread of our own. Signals of the application go to the application's threads: blocks for good
 * all that libc lets anybody block. Not what libc itself sends to all threads (setuid() waits until
 * each has taken its signal), nor `number`, if it is not 0. */
void conprof_signals_keep_out(int number);

/* Any context but a handler; one thread at a time. Installs `handler` for our signal, before
 * whoever stands there, and returns the signal's number; -1 when it cannot be had. It is never
 * removed: a signal may be pending. */
typedef void conprof_signal_handler(int number, siginfo_t *info, void *context);
int conprof_signals_install(conprof_signal_handler *handler);

/* Any context. Does `handler` stand for signal `number`? */
bool conprof_signals_is_installed(int number, conprof_signal_handler *handler);

/* SIGNAL-SAFE, in the handler and before it has changed anything: passes a signal that is not
 * ours to what stood before us. It may not return: libc ends a thread from there. */
void conprof_signals_pass_on(int number, siginfo_t *info, void *context);

/* Session lock held. What the kernel says of a thread of this process, if it does. */
struct conprof_thread_status {
    bool is_known;
    char state; /* as in proc(5): R running, S asleep, D asleep in the kernel, ... */
    conprof_signal_set blocked;
};
struct conprof_thread_status conprof_signals_status(pid_t tid);

#endif
