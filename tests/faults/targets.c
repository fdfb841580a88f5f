/* targets.c: see targets.h. */
#define _GNU_SOURCE
#include "targets.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TARGETS 256u
/* Rounds between two looks for threads. */
#define LOOK_EVERY 256u

_Atomic uint64_t targets_sent, targets_unsent;

static struct target targets[TARGETS];
static atomic_bool is_running;
static pthread_t helper;
/* immutable while it runs */
static int signal_number, timer_signal;
static long period;

/* The thread's target, or a free one, or NULL. */
static struct target *
target_of(pid_t tid)
{
    struct target *unused = NULL;
    for (uint32_t i = 0; i < TARGETS; i++) {
        if (atomic_load(&targets[i].tid) == tid) {
            return &targets[i];
        }
        if (unused == NULL && atomic_load(&targets[i].tid) == 0) {
            unused = &targets[i];
        }
    }
    return unused;
}

static void
note(pid_t tid, int timer, void *value)
{
    struct target *target = tid == (pid_t)syscall(SYS_gettid) ? NULL : target_of(tid);
    if (target == NULL) {
        return;
    }
    target->timer = timer;
    target->value = value;
    if (atomic_load(&target->tid) != tid) {
        atomic_store(&target->sent, 0);
        atomic_store(&target->arrived, 0);
        atomic_store(&target->tid, tid);
    }
}

static void
find_armed(void)
{
    char line[160];
    int timer = -1, number = 0, tid;
    unsigned long value = 0;
    FILE *file = fopen("/proc/self/timers", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "ID: %d", &timer) != 1 &&
            sscanf(line, "signal: %d/%lx", &number, &value) != 2 &&
            sscanf(line, "notify: signal/tid.%d", &tid) == 1 && number == timer_signal) {
            note(tid, timer, (void *)value); /* NOLINT: an address, as text */
        }
    }
    if (file != NULL) {
        fclose(file);
    }
}

static void
find_all(void)
{
    DIR *directory = opendir("/proc/self/task");
    struct dirent *entry;
    while (directory != NULL && (entry = readdir(directory)) != NULL) {
        int tid = atoi(entry->d_name);
        if (tid != 0) {
            note(tid, 0, NULL);
        }
    }
    if (directory != NULL) {
        closedir(directory);
    }
}

/* Forgets threads that are gone, and finds new ones. */
static void
look(void)
{
    for (uint32_t i = 0; i < TARGETS; i++) {
        pid_t tid = atomic_load(&targets[i].tid);
        if (tid != 0 && syscall(SYS_tgkill, getpid(), tid, 0) != 0) {
            atomic_store(&targets[i].tid, 0);
        }
    }
    if (timer_signal != 0) {
        find_armed();
    }
    else {
        find_all();
    }
}

static void
send_to(struct target *target)
{
    pid_t tid = atomic_load(&target->tid);
    if (tid == 0 || atomic_load(&target->sent) - atomic_load(&target->arrived) > 1) {
        return; /* it blocks the signal, or did not come to it yet */
    }
    siginfo_t info = {0};
    info.si_signo = signal_number;
    info.si_code = SI_QUEUE;
    info.si_value.sival_ptr = target;
    if (syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, signal_number, &info) == 0) {
        atomic_fetch_add(&target->sent, 1);
        atomic_fetch_add(&targets_sent, 1);
    }
    else {
        atomic_fetch_add(&targets_unsent, 1);
    }
}

static void *
send_all(void *argument)
{
    struct timespec due;
    prctl(PR_SET_TIMERSLACK, 1L);
    prctl(PR_SET_NAME, "faults");
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (uint32_t round = 0; atomic_load(&is_running); round++) {
        if (round % LOOK_EVERY == 0) {
            look();
        }
        for (uint32_t i = 0; i < TARGETS; i++) {
            send_to(&targets[i]);
        }
        due.tv_nsec += period;
        due.tv_sec += due.tv_nsec / 1000000000;
        due.tv_nsec %= 1000000000;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
    }
    return argument;
}

bool
targets_start(int number, int of_timers, long period_ns)
{
    sigset_t all, old;
    signal_number = number;
    timer_signal = of_timers;
    period = period_ns;
    atomic_store(&is_running, true);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    bool failed = pthread_create(&helper, NULL, send_all, NULL) != 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (failed) {
        atomic_store(&is_running, false);
    }
    return !failed;
}

void
targets_stop(void)
{
    if (atomic_exchange(&is_running, false)) {
        pthread_join(helper, NULL);
    }
}

bool
targets_are_signalled(void)
{
    return atomic_load(&is_running);
}

bool
targets_have(const struct target *target)
{
    return target >= targets && target < targets + TARGETS;
}
