/* signals.c: see signals.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "signals.h"
#include "own_tid.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* Signals that a fault of the thread itself raises. */
#define FAULTS                                                                                     \
    (UINT64_C(1) << (SIGSEGV - 1) | UINT64_C(1) << (SIGBUS - 1) | UINT64_C(1) << (SIGFPE - 1) |    \
     UINT64_C(1) << (SIGILL - 1) | UINT64_C(1) << (SIGTRAP - 1))

/* ---- masks ---- */

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

void
conprof_signals_unblock(int number, conprof_signal_set *old)
{
    conprof_signal_set set = conprof_signal_bit(number);
    *old = 0;
    change(SIG_UNBLOCK, &set, old);
}

void
conprof_signals_keep_out(int number)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    if (number > 0) {
        conprof_signal_set old;
        conprof_signals_unblock(number, &old);
    }
}

struct conprof_thread_status
conprof_signals_status(pid_t tid)
{
    static char text[4096]; /* owner: holder of the session lock; too large for a stack */
    struct conprof_thread_status status = {.is_known = false};
    char path[48];
    snprintf(path, sizeof path, "/proc/self/task/%d/status", (int)tid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0) {
        close(file);
    }
    text[got < 0 ? 0 : got] = '\0';
    const char *state = strstr(text, "\nState:\t"), *blocked = strstr(text, "\nSigBlk:\t");
    if (state != NULL && blocked != NULL) {
        status.is_known = true;
        status.state = state[strlen("\nState:\t")];
        status.blocked = strtoull(blocked + strlen("\nSigBlk:\t"), NULL, 16);
    }
    return status;
}

/* ---- the signal ---- */

#ifdef CONPROF_SIGNAL_OF_LIBC

/* The kernel's struct sigaction. */
struct action {
    uintptr_t handler;
    unsigned long flags;
    uintptr_t restorer;
    conprof_signal_set mask;
};

/* Who stands behind us; SIG_DFL, SIG_IGN or a function. Each is written while no signal can tell
 * one from the other: what comes between two of the stores finds a function with the mask or
 * the stack of the one before it, and libc installs its only one once. written by: install */
static struct {
    _Atomic uintptr_t handler;
    _Atomic unsigned long flags;
    _Atomic conprof_signal_set mask;
} behind;

/* owner: its thread. How deep in pass_on it is: two copies of this extension in one process may
 * each stand behind the other. */
static __thread unsigned passing __attribute__((tls_model("initial-exec")));
#define MAX_PASSING 4

#ifdef __x86_64__
#define KERNEL_RESTORER 0x04000000UL /* SA_RESTORER */
/* Where a handler returns to. The bytes are those of libc's own, by which debuggers and unwinders
 * know the frame of a signal; the nop is for those that look up the byte before a return
 * address. */
__asm__(".pushsection .text.conprof_sigaction_restorer,\"ax\",@progbits\n"
        ".balign 16\n"
        "nop\n"
        ".type conprof_sigaction_restorer,@function\n"
        "conprof_sigaction_restorer:\n"
        "movq $15, %rax\n" /* SYS_rt_sigreturn */
        "syscall\n"
        ".size conprof_sigaction_restorer, .-conprof_sigaction_restorer\n"
        ".popsection\n");
extern void conprof_sigaction_restorer(void) __attribute__((visibility("hidden")));
_Static_assert(SYS_rt_sigreturn == 15, "as the restorer says");
#else
#define KERNEL_RESTORER 0UL
#endif

/* SIGNAL-SAFE. */
static bool
raw_sigaction(int number, const struct action *action, struct action *old)
{
    return syscall(SYS_rt_sigaction, number, action, old, sizeof action->mask) == 0;
}

/* Any context. */
static struct action
action_of(uintptr_t handler, unsigned long flags, conprof_signal_set mask)
{
    struct action action = {.handler = handler, .flags = flags | KERNEL_RESTORER, .mask = mask};
#ifdef __x86_64__
    action.restorer = (uintptr_t)conprof_sigaction_restorer;
#endif
    return action;
}

int
conprof_signals_install(conprof_signal_handler *handler)
{
    struct action now,
        ours = action_of((uintptr_t)handler, SA_SIGINFO | SA_RESTART | SA_ONSTACK, ~FAULTS);
    if (!raw_sigaction(CONPROF_SIGNAL_OF_LIBC, NULL, &now)) {
        return -1;
    }
    if (now.handler == (uintptr_t)handler) {
        return CONPROF_SIGNAL_OF_LIBC;
    }
    atomic_store(&behind.flags, now.flags);
    atomic_store(&behind.mask, now.mask);
    atomic_store(&behind.handler, now.handler);
    return raw_sigaction(CONPROF_SIGNAL_OF_LIBC, &ours, NULL) ? CONPROF_SIGNAL_OF_LIBC : -1;
}

bool
conprof_signals_is_installed(int number, conprof_signal_handler *handler)
{
    struct action now;
    return number > 0 && raw_sigaction(number, NULL, &now) && now.handler == (uintptr_t)handler;
}

/* SIGNAL-SAFE. Gives the signal back to who stood before us and sends it again: it comes when our
 * handler has returned, on the stack and with the effect that it would have without us. The
 * drain puts us in front again. */
static void
hand_over(int number, uintptr_t handler)
{
    struct action theirs =
        action_of(handler, atomic_load(&behind.flags), atomic_load(&behind.mask));
    int saved_errno = errno;
    if (raw_sigaction(number, &theirs, NULL) &&
        syscall(SYS_tgkill, getpid(), conprof_own_tid_in_signal(), number) != 0) {
        syscall(SYS_kill, getpid(), number); /* a sandbox refuses to say which thread this is */
    }
    errno = saved_errno;
}

/* SIGNAL-SAFE. Does the handler run on an alternate stack? */
static bool
is_on_signal_stack(const ucontext_t *context)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    uintptr_t low = (uintptr_t)context->uc_stack.ss_sp;
    return !(context->uc_stack.ss_flags & SS_DISABLE) && here >= low &&
           here - low < context->uc_stack.ss_size;
}

void
conprof_signals_pass_on(int number, siginfo_t *info, void *context)
{
    uintptr_t handler = atomic_load(&behind.handler);
    /* No timer of another's is known to come here unless it has a handler; should one, we do not
     * let it end the process. */
    if (handler == (uintptr_t)SIG_IGN || passing >= MAX_PASSING ||
        (handler == (uintptr_t)SIG_DFL && info->si_code == SI_TIMER)) {
        return;
    }
    /* libc's may unwind the whole thread, more than an alternate stack may have room for; and
     * it asked for none. */
    if (handler == (uintptr_t)SIG_DFL ||
        (!(atomic_load(&behind.flags) & SA_ONSTACK) && is_on_signal_stack(context))) {
        hand_over(number, handler);
        return;
    }
    conprof_signal_set mask;
    memcpy(&mask, &((const ucontext_t *)context)->uc_sigmask, sizeof mask);
    mask |= atomic_load(&behind.mask) | conprof_signal_bit(number);
    change(SIG_SETMASK, &mask, NULL);
    passing++;
    ((conprof_signal_handler *)handler)(number, info, context);
    passing--;
}

#else

static bool
is_ours(const struct sigaction *action, conprof_signal_handler *handler)
{
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == handler;
}

int
conprof_signals_install(conprof_signal_handler *handler)
{
    struct sigaction ours = {0};
    ours.sa_sigaction = handler;
    sigfillset(&ours.sa_mask);
    for (int number = 1; number < 32; number++) {
        if (FAULTS & conprof_signal_bit(number)) {
            sigdelset(&ours.sa_mask, number);
        }
    }
    ours.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
    /* From near the top: the lowest ones belong to threading libraries, the very last to
     * debuggers. */
    for (int number = SIGRTMAX - 3; number > SIGRTMIN + 3; number--) {
        struct sigaction now;
        if (sigaction(number, NULL, &now) != 0) {
            continue;
        }
        bool is_free = !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL;
        if (is_ours(&now, handler) || (is_free && sigaction(number, &ours, NULL) == 0)) {
            return number;
        }
    }
    return -1;
}

bool
conprof_signals_is_installed(int number, conprof_signal_handler *handler)
{
    struct sigaction now;
    return number > 0 && sigaction(number, NULL, &now) == 0 && is_ours(&now, handler);
}

/* The signal was free: nobody stood there. */
void
conprof_signals_pass_on(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    (void)context;
}

#endif
