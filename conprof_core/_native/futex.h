/* futex.h: a 32-bit word that threads of ours sleep on.
 *
 * Waking is one system call that needs no memory, no thread id and no queue of signals, so it
 * does not fail when the user's RLIMIT_SIGPENDING is used up, and it is allowed wherever CPython
 * itself runs, whose locks are made of it.
 */
#ifndef CONPROF_FUTEX_H
#define CONPROF_FUTEX_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* The longest sleep where the kernel refuses the call: the word is looked at so often then. */
#define CONPROF_FUTEX_REFUSED_NS 20000000L

/* Any thread. Sleeps while the word is `seen`, at most `ns` nanoseconds of monotonic time; may
 * return early. errno is not kept. */
static inline void
conprof_futex_wait(_Atomic uint32_t *word, uint32_t seen, uint64_t ns)
{
    /* The call's own form of a time, whatever libc's is on 32 bits. */
    struct {
        long s, ns;
    } left = {.s = (long)(ns / 1000000000u), .ns = (long)(ns % 1000000000u)};
    if (syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, &left, NULL, 0) != 0 &&
        errno != EAGAIN && errno != EINTR && errno != ETIMEDOUT) {
        /* Not to be had: look again after a while, rather than without a pause. */
        long pause_ns =
            ns < (uint64_t)CONPROF_FUTEX_REFUSED_NS ? (long)ns : CONPROF_FUTEX_REFUSED_NS;
        nanosleep(&(struct timespec){.tv_nsec = pause_ns}, NULL);
    }
}

/* SIGNAL-SAFE, any thread. Wakes whoever sleeps on the word; errno is kept. */
static inline void
conprof_futex_wake(_Atomic uint32_t *word)
{
    int saved_errno = errno;
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
    errno = saved_errno;
}

#endif
