/* threads.c: timers of threads, see threads.h. The slots are in thread_table.c, the look at the
 * process's threads in thread_scan.c. */
#include "threads.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "hash.h"
#include "lock.h"
#include "own_tid.h"
#include "refusals.h"
#include "sampler.h"
#include "signals.h"
#include "thread_table.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* No timer's: what timer_create has not filled in is never deleted. */
#define NO_TIMER ((timer_t)(intptr_t)-1)

/* owner: holder of the session lock */
static uint32_t counts[CONPROF_REACHES];
static int timer_signal;
static _Atomic uint64_t timer_period_ns; /* also read by handlers */
static uint64_t random_state = 0x853C49E6748FEA9B;
static void (*observer)(struct conprof_thread *, bool); /* or NULL */

bool
conprof_threads_init(void)
{
    return conprof_thread_table_init();
}

static char values[CONPROF_TIMERS]; /* only its addresses are used */

void *
conprof_timer_value(uint32_t index)
{
    return &values[index];
}

uint32_t
conprof_timer_index(const void *value)
{
    uintptr_t offset = (uintptr_t)value - (uintptr_t)values;
    return offset < CONPROF_TIMERS ? (uint32_t)offset : CONPROF_TIMERS;
}

/* The kernel's id of a timer, which comes with its signals: it is what libc's timer_t holds (the
 * self-test compares). No two timers of a process have one at a time, and ids are not
 * used again until the kernel's counter has gone round. */
static inline int
kernel_id(timer_t timer)
{
    return (int)(intptr_t)timer;
}

struct conprof_thread *
conprof_threads_own(uint32_t index, const siginfo_t *info)
{
    struct conprof_thread *thread = conprof_thread_slot(index);
    /* With the timer everything that was written before it began is seen. */
    timer_t timer = atomic_load_explicit(&thread->timer, memory_order_acquire);
    return kernel_id(timer) == info->si_timerid && timer != NO_TIMER ? thread : NULL;
}

static inline uint64_t
read_clock(clockid_t clock)
{
    struct timespec now;
    if (clock_gettime(clock, &now) != 0) {
        conprof_note_refusal(CONPROF_REFUSED_CLOCK);
        return 0;
    }
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The kernel's encoding of "CPU clock of thread tid" (linux/posix-timers.h). */
static inline clockid_t
clock_of(pid_t tid)
{
    return (clockid_t)((~(uint32_t)tid << 3) | 6u);
}

uint64_t
conprof_cpu_own_ns(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t
conprof_cpu_of_ns(pid_t tid)
{
    return tid <= 0 ? 0 : read_clock(clock_of(tid)); /* -1 would name quite another clock */
}

uint64_t
conprof_cpu_process_ns(void)
{
    return read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

void
conprof_threads_configure(int signal_number, uint64_t period_ns)
{
    timer_signal = signal_number;
    atomic_store_explicit(&timer_period_ns, period_ns, memory_order_relaxed);
    random_state ^= read_clock(CLOCK_MONOTONIC) * UINT64_C(0x9E3779B97F4A7C15);
    conprof_threads_scan_anew();
}

/* SIGNAL-SAFE. xorshift64*: the phase of a timer needs no better. */
static uint64_t
next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545F4914F6CDD1D);
}

/* SIGNAL-SAFE. */
static uint64_t
period(void)
{
    return atomic_load_explicit(&timer_period_ns, memory_order_relaxed);
}

static struct timespec
to_timespec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
                             .tv_nsec = (long)(ns % 1000000000u)};
}

uint64_t
conprof_threads_longest_residue_ns(void)
{
    return 4 * period() + UINT64_C(20000000);
}

/* Session lock held. */
static void
set_reach(struct conprof_thread *thread, enum conprof_reach reach)
{
    counts[thread->reach]--;
    thread->reach = reach;
    counts[reach]++;
    if (reach != CONPROF_REACHED) {
        atomic_store(&thread->unreached_ns, UINT64_MAX);
    }
}

/* Session lock held. Would a signal of ours come through? */
static bool
is_blocked(pid_t tid)
{
    return tid == conprof_own_tid()
               ? (conprof_lock_mask() & conprof_signal_bit(timer_signal)) != 0
               : (conprof_signals_status(tid).blocked & conprof_signal_bit(timer_signal)) != 0;
}

/* Session lock held. Gives a thread without a timer one. False, with errno, when the kernel refuses
 * it. The handler finds the slot by the timer, which is stored before it runs. */
static bool
start_timer(struct conprof_thread *thread)
{
    pid_t tid = thread->tid;
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = timer_signal;
    event.sigev_value.sival_ptr = conprof_timer_value(conprof_thread_index(thread));
    event.sigev_notify_thread_id = tid;
    timer_t timer;
    if (timer_create(clock_of(tid), &event, &timer) != 0) {
        conprof_note_refusal(CONPROF_REFUSED_TIMER);
        return false;
    }
    /* A random phase: threads that live less than a period are sampled in
     * proportion to their CPU time. */
    uint64_t every_ns = period();
    uint64_t wait_ns = 1 + next_random(&random_state) % every_ns;
    struct itimerspec when = {.it_interval = to_timespec(every_ns),
                              .it_value = to_timespec(wait_ns)};
    thread->due_ns = conprof_cpu_of_ns(tid) + wait_ns;
    atomic_store_explicit(&thread->timer, timer, memory_order_release);
    if (timer_settime(timer, 0, &when, NULL) != 0) {
        conprof_note_refusal(CONPROF_REFUSED_TIMER);
        int failure = errno;
        conprof_threads_disarm(thread);
        errno = failure;
        return false;
    }
    return true;
}

void
conprof_threads_disarm(struct conprof_thread *thread)
{
    timer_t timer = atomic_exchange(&thread->timer, NO_TIMER);
    if (timer != NO_TIMER) {
        timer_delete(timer);
    }
}

/* Session lock held. Arms a thread without a timer, or notes why it cannot be. False when there is
 * no such thread. */
static bool
try_to_reach(struct conprof_thread *thread)
{
    if (is_blocked(thread->tid)) {
        set_reach(thread, CONPROF_REACH_BLOCKED);
        return true;
    }
    if (thread->reach != CONPROF_REACHED) {
        atomic_store(&thread->unreached_ns, conprof_cpu_of_ns(thread->tid));
    }
    if (start_timer(thread)) {
        set_reach(thread, CONPROF_REACHED);
        return true;
    }
    /* EAGAIN: the limit of timers (RLIMIT_SIGPENDING). ENOMEM and a sandbox that has closed are no
     * other; EINVAL and ESRCH are a thread that has ended. */
    set_reach(thread, CONPROF_REACH_REFUSED);
    return errno != EINVAL && errno != ESRCH;
}

void
conprof_threads_retry(struct conprof_thread *thread)
{
    bool is_armed = thread->reach == CONPROF_REACHED;
    if (is_armed && !is_blocked(thread->tid)) {
        return;
    }
    conprof_threads_disarm(thread);
    try_to_reach(thread);
}

void
conprof_threads_observe(void (*whom)(struct conprof_thread *, bool))
{
    observer = whom;
}

uint32_t
conprof_threads_slots(void)
{
    return conprof_thread_table_top();
}

struct conprof_thread *
conprof_threads_at(uint32_t index)
{
    struct conprof_thread *thread = conprof_thread_slot(index);
    return thread->tid != 0 ? thread : NULL;
}

struct conprof_thread *
conprof_threads_find(pid_t tid)
{
    return conprof_thread_table_find(tid);
}

void
conprof_threads_release(struct conprof_thread *thread)
{
    if (atomic_exchange(&thread->inside, 0) != 0) {
        atomic_fetch_sub(&conprof_sampler.in_handler, 1); /* it ended in its handler */
    }
    if (observer != NULL) {
        observer(thread, false);
    }
    counts[thread->reach]--;
    conprof_thread_table_drop(thread);
}

void
conprof_threads_retire(struct conprof_thread *thread)
{
    conprof_threads_disarm(thread);
    conprof_threads_release(thread);
}

void
conprof_threads_rearm(void)
{
    for (uint32_t i = 0; i < conprof_threads_slots(); i++) {
        struct conprof_thread *thread = conprof_threads_at(i);
        if (thread != NULL) {
            conprof_threads_disarm(thread);
            if (!try_to_reach(thread)) {
                conprof_threads_release(thread);
            }
        }
    }
}

bool
conprof_threads_is_dead(const struct conprof_thread *thread)
{
    struct itimerspec left;
    timer_t timer = atomic_load_explicit(&thread->timer, memory_order_relaxed);
    if (timer == NO_TIMER) {
        return conprof_cpu_of_ns(thread->tid) < atomic_load(&thread->last_cpu_ns);
    }
    /* A timer whose thread died reports no time left: its tid belongs to another. */
    if (timer_gettime(timer, &left) != 0) {
        conprof_note_refusal(CONPROF_REFUSED_TIMER);
        return errno == EINVAL; /* there is no such timer; one that may not be asked lives on */
    }
    return left.it_value.tv_sec == 0 && left.it_value.tv_nsec == 0;
}

struct conprof_thread *
conprof_threads_arm(pid_t tid, uint32_t name_id, uint64_t since_ns)
{
    if (tid <= 0) {
        return NULL; /* a sandbox that has closed does not tell which thread this is */
    }
    struct conprof_thread *thread = conprof_thread_table_find(tid);
    if (thread != NULL && !conprof_threads_is_dead(thread)) {
        if (thread->reach != CONPROF_REACHED) {
            conprof_threads_retry(thread); /* the scan saw it as it was born, all blocked */
        }
        return thread;
    }
    if (thread != NULL) {
        conprof_threads_retire(thread);
    }
    thread = conprof_thread_table_take(tid);
    if (thread == NULL) {
        return NULL;
    }
    if (thread->scratch == NULL && (thread->scratch = conprof_scratch_new()) == NULL) {
        conprof_thread_table_drop(thread);
        return NULL;
    }
    thread->name_id = name_id;
    thread->target_uid = 0;
    thread->stack_low = thread->stack_high = 0;
    thread->failures = 0;
    thread->handler_ns = 0;
    atomic_store(&thread->loop, 0);
    thread->random_state = next_random(&random_state) | 1;
    atomic_store_explicit(&thread->timer, NO_TIMER, memory_order_relaxed);
    atomic_store_explicit(&thread->last_cpu_ns, since_ns, memory_order_relaxed);
    thread->reach = CONPROF_REACHED; /* until it turns out otherwise */
    atomic_store(&thread->unreached_ns, 0);
    counts[thread->reach]++;
    if (!try_to_reach(thread)) {
        counts[thread->reach]--;
        conprof_thread_table_drop(thread);
        return NULL;
    }
    if (observer != NULL) {
        observer(thread, true);
    }
    return thread;
}

void
conprof_threads_clear(bool has_timers)
{
    for (uint32_t i = 0; i < conprof_threads_slots(); i++) {
        struct conprof_thread *thread = conprof_threads_at(i);
        if (thread != NULL) {
            if (has_timers) {
                conprof_threads_disarm(thread);
            }
            else {
                atomic_store(&thread->timer, NO_TIMER);
                atomic_store(&thread->inside, 0); /* in the parent */
            }
            counts[thread->reach]--;
            conprof_thread_table_drop(thread);
        }
    }
}

void
conprof_threads_jitter(struct conprof_thread *thread)
{
    uint64_t now = conprof_cpu_own_ns(), every_ns = period();
    /* Signals come with the kernel's tick, some time after they are due: counting
     * from the due time keeps the rate. */
    thread->due_ns += every_ns / 2 + 1 + next_random(&thread->random_state) % every_ns;
    if (thread->due_ns <= now) {
        thread->due_ns = now + every_ns / 2;
    }
    struct itimerspec when = {.it_interval = to_timespec(every_ns),
                              .it_value = to_timespec(thread->due_ns)};
    timer_t timer = atomic_load_explicit(&thread->timer, memory_order_relaxed);
    if (timer_settime(timer, TIMER_ABSTIME, &when, NULL) != 0) {
        conprof_note_refusal(CONPROF_REFUSED_TIMER); /* it goes on with its period */
    }
}

uint64_t
conprof_threads_outstanding_ns(void)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < conprof_threads_slots(); i++) {
        const struct conprof_thread *thread = conprof_threads_at(i);
        if (thread != NULL) {
            uint64_t used = conprof_cpu_of_ns(thread->tid);
            uint64_t charged = atomic_load(&thread->last_cpu_ns);
            sum += used > charged ? used - charged : 0;
        }
    }
    return sum;
}

uint32_t
conprof_threads_count(enum conprof_reach reach)
{
    return counts[reach];
}
