/* terminate.c: see terminate.h. */
#include "terminate.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "calls.h"
#include "clock.h"
#include "futex.h"
#include "own_tid.h"
#include "rouse.h"
#include "sampler.h"
#include "session.h"
#include "signals.h"
#include "turn.h"

/* Between two looks at how the sending thread fares with the GIL. */
#define LOOK_NS UINT64_C(2000000)

/* A signal that was sent has ended the process by then, if it does. */
#define END_NS 200000000L

static atomic_bool is_requested;       /* written by: the handler, the drain, forget */
static uint32_t requests;              /* owner: the drain */
static _Atomic uint32_t last_answered; /* written by: the caller of on_terminate */

/* SIGNAL-SAFE. As pid 1 of its namespace a process is spared by signals that it does not
 * handle. */
static bool
is_spared(void)
{
    return getpid() == 1;
}

/* SIGNAL-SAFE. To the calling thread; false when a sandbox refuses that. */
static bool
send_to_self(int number)
{
    return syscall(SYS_tgkill, getpid(), conprof_own_tid_in_signal(), number) == 0 ||
           kill(getpid(), number) == 0;
}

/* Signal context. Async-signal-safe calls only. */
static void
on_sigterm(int number)
{
    int saved_errno = errno;
    /* Without a drain there is nobody to send anything, and a fork that nobody told us of has
     * none. */
    bool has_drain = atomic_load(&conprof_sampler.drain_tid) != 0 && conprof_session_is_running();
    if (has_drain && !atomic_exchange(&is_requested, true)) {
        conprof_rouse();
    }
    else if (!is_spared()) {
        /* Nobody to send it, or a second SIGTERM: end at once, as without us. It comes when this
         * handler returns. */
        signal(number, SIG_DFL);
        if (!send_to_self(number)) {
            _exit(128 + number);
        }
    }
    errno = saved_errno;
}

static bool
is_ours(void)
{
    struct sigaction now;
    return sigaction(SIGTERM, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
           now.sa_handler == on_sigterm;
}

void
conprof_terminate_install(void)
{
    struct sigaction now, ours;
    memset(&ours, 0, sizeof ours);
    ours.sa_handler = on_sigterm;
    sigemptyset(&ours.sa_mask);
    ours.sa_flags = SA_RESTART | SA_ONSTACK;
    if (sigaction(SIGTERM, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
        now.sa_handler == SIG_DFL) {
        sigaction(SIGTERM, &ours, NULL);
    }
}

void
conprof_terminate_uninstall(void)
{
    if (is_ours()) {
        signal(SIGTERM, SIG_DFL);
    }
}

void
conprof_terminate_forget(void)
{
    atomic_store(&is_requested, false);
}

/* `argument`: the number of the request that this answers. */
static void *
run_terminate(void *argument)
{
    prctl(PR_SET_NAME, "conprof-export", 0, 0, 0);
    conprof_signals_keep_out(0);
    conprof_calls_terminate();
    atomic_store(&last_answered, (uint32_t)(uintptr_t)argument);
    conprof_futex_wake(&last_answered);
    return NULL;
}

static void
send_window(void)
{
    uint32_t number = ++requests;
    if (!conprof_calls_spawn(run_terminate, (void *)(uintptr_t)number)) {
        return;
    }
    uint64_t now, until = conprof_monotonic_ns() + CONPROF_TERMINATE_S * UINT64_C(1000000000);
    for (;;) {
        uint32_t answered = atomic_load(&last_answered);
        now = conprof_monotonic_ns();
        if (answered == number || now >= until) {
            return;
        }
        conprof_futex_wait(&last_answered, answered, LOOK_NS);
        conprof_turn_look(conprof_monotonic_ns());
    }
}

/* Does what the signal would have done. Returns where it does not end the process: somebody
 * handles or ignores it by now. */
static void
end_process(void)
{
    sigset_t open;
    sigemptyset(&open);
    sigaddset(&open, SIGTERM);
    conprof_terminate_uninstall();
    bool is_sent = kill(getpid(), SIGTERM) == 0;
    struct timespec pause = {.tv_nsec = END_NS};
    nanosleep(&pause, NULL);
    struct sigaction now;
    if (sigaction(SIGTERM, NULL, &now) != 0 || (now.sa_flags & SA_SIGINFO) ||
        now.sa_handler != SIG_DFL) {
        return;
    }
    /* Refused by a sandbox, or blocked in every thread meanwhile. */
    pthread_sigmask(SIG_UNBLOCK, &open, NULL);
    if (!is_sent && !send_to_self(SIGTERM)) {
        _exit(128 + SIGTERM);
    }
}

void
conprof_terminate_if_requested(void)
{
    if (!atomic_load(&is_requested)) {
        return;
    }
    send_window();
    if (!is_spared()) {
        end_process();
    }
    atomic_store(&is_requested, false);
}
