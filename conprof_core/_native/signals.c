/* signals.c: see signals.h. */
#include "signals.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Bits of the signals that a fault of the thread itself raises. */
#define FAULTS                                                                                     \
    (UINT64_C(1) << (SIGSEGV - 1) | UINT64_C(1) << (SIGBUS - 1) | UINT64_C(1) << (SIGFPE - 1) |    \
     UINT64_C(1) << (SIGILL - 1) | UINT64_C(1) << (SIGTRAP - 1))

#if CONPROF_HAVE_TSAN

/* TSan keeps signals that came and delivers them at its interceptors, whatever the kernel's mask
 * says by then: it must see the change. glibc's set begins with the kernel's. */
static void
change(int how, const conprof_signal_set *set, conprof_signal_set *old)
{
    sigset_t wide, before;
    sigemptyset(&wide);
    memcpy(&wide, set, sizeof *set);
    pthread_sigmask(how, &wide, &before);
    if (old != NULL) {
        memcpy(old, &before, sizeof *old);
    }
}

#else

/* SIGNAL-SAFE. */
static void
change(int how, const conprof_signal_set *set, conprof_signal_set *old)
{
    int saved_errno = errno;
    syscall(SYS_rt_sigprocmask, how, set, old, sizeof *set);
    errno = saved_errno;
}

#endif

void
conprof_signals_block(conprof_signal_set *old)
{
    static const conprof_signal_set all = ~FAULTS;
    *old = 0;
    change(SIG_BLOCK, &all, old);
}

void
conprof_signals_restore(const conprof_signal_set *old)
{
    change(SIG_SETMASK, old, NULL);
}
