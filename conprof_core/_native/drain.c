/* drain.c: see drain.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pthread_tryjoin_np */
#endif
#include "drain.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "abandoned.h"
#include "blocked.h"
#include "calls.h"
#include "clock.h"
#include "code_registry.h"
#include "futex.h"
#include "gc_pause.h"
#include "heap.h"
#include "lock.h"
#include "offcpu.h"
#include "own_tid.h"
#include "rouse.h"
#include "sampler.h"
#include "session.h"
#include "signals.h"
#include "terminate.h"
#include "threads.h"
#include "turn.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* What one round of the drain may take on a busy machine, before somebody asks. */
#define ROUND_NS UINT64_C(5000000000)

/* A drain that is asked to come round, and does not within this time, is given up. */
#define ANSWER_NS UINT64_C(2000000000)

/* Between two attempts at a thread. */
#define RETRY_NS UINT64_C(1000000000)

/* How long start() waits for the drain to begin. */
#define BEGIN_NS UINT64_C(2000000000)

/* Between two looks at whether a thread that is through with its work has ended. */
#define END_LOOK_NS 20000

/* One drain thread. Freed when the thread is joined; kept for good when it is given up, for the
 * thread may look at it yet. */
struct life {
    pthread_t thread;
    _Atomic uint32_t has_begun, has_ended; /* written by: the thread; others sleep on them */
};

/* Whose turn it is; a drain that finds another here, or NULL, ends. Written by: start, stop,
 * inspect, forget (GIL held, or alone). */
static _Atomic(struct life *) current;

_Atomic uint64_t conprof_drain_due_ns;
static atomic_bool is_asked;   /* to come round; written by: inspect, the drain */
static atomic_bool is_missing; /* no thread could be had; written by: start, stop, forget */

static _Atomic uint64_t charged_ns; /* drain CPU already emitted; session lock */
static _Atomic uint64_t total_ns;   /* CPU of drains that ended; written by: drains, reset */
static _Atomic uint64_t signal_changes, polls;   /* written by: the drain, reset */
static _Atomic uint64_t refused, lost, given_up; /* written by: any thread, reset */

/* ---- what it does ---- */

void
conprof_drain_ring(struct conprof_window *window)
{
    /* owner: holder of the session lock; too large for a stack */
    static uint64_t words[CONPROF_RING_MAX_RECORD];
    int kind;
    atomic_store(&conprof_sampler.drain_is_called, false);
    for (;;) {
        uint32_t n = conprof_ring_take(&conprof_sampler.ring, words, &kind);
        if (kind == 0) {
            if (conprof_abandoned_step_over(conprof_monotonic_ns())) {
                continue;
            }
            break;
        }
        struct conprof_trace trace = {0};
        if (kind & CONPROF_RECORD_TRACED && n >= CONPROF_TRACE_WORDS) {
            kind &= ~CONPROF_RECORD_TRACED;
            n -= CONPROF_TRACE_WORDS;
            memcpy(&trace, words + n, sizeof trace);
        }
        if (kind == CONPROF_RECORD_SAMPLE) {
            conprof_blocked_add_sample(window, words, conprof_window_add(window, words, n, &trace));
        }
        else if (kind == CONPROF_RECORD_CODE) {
            conprof_code_table_add(words, n);
        }
        else if (kind == CONPROF_RECORD_ALLOC) {
            conprof_heap_add(window, words, n, &trace);
        }
        else if (kind == CONPROF_RECORD_PAUSE) {
            conprof_gc_pause_add(window, words, n);
        }
    }
    conprof_heap_settle();
    if (conprof_code_table_is_full()) {
        conprof_registry_forget_all();
        conprof_code_table_reset();
        conprof_window_forget_cache();
    }
    /* In this order: a handler that began later can see no record in limbo. */
    if (atomic_load(&conprof_sampler.in_handler) == 0 &&
        conprof_ring_fill(&conprof_sampler.ring) == 0) {
        conprof_labels_sweep();
    }
}

uint64_t
conprof_drain_outstanding_ns(void)
{
    pid_t drain = atomic_load(&conprof_sampler.drain_tid);
    uint64_t used = drain == 0 ? 0 : conprof_cpu_of_ns(drain);
    uint64_t charged = atomic_load(&charged_ns);
    return used > charged ? used - charged : 0;
}

void
conprof_drain_charge(void)
{
    uint64_t outstanding = conprof_drain_outstanding_ns();
    if (outstanding > 0) {
        atomic_fetch_add(&charged_ns, outstanding);
        conprof_sampler_emit(conprof_frame_word(CONPROF_UID_DRAIN, 0), 0, outstanding);
    }
}

struct conprof_drain_counters
conprof_drain_counters(void)
{
    pid_t drain = atomic_load(&conprof_sampler.drain_tid);
    return (struct conprof_drain_counters){
        .cpu_ns = atomic_load(&total_ns) + (drain == 0 ? 0 : conprof_cpu_of_ns(drain)),
        .signal_changes = atomic_load(&signal_changes),
        .missing = atomic_load(&is_missing),
        .refused = atomic_load(&refused),
        .lost = atomic_load(&lost),
        .polls = atomic_load(&polls),
    };
}

void
conprof_drain_count_given_up(void)
{
    atomic_fetch_add(&given_up, 1);
}

uint64_t
conprof_drain_given_up(void)
{
    return atomic_load(&given_up);
}

/* ---- the thread ---- */

/* What wakes it when CPU was used. */
struct process_timer {
    timer_t id;
    bool is_armed;
};

/* The timer's signal goes to the drain, whose handler rouses it. */
static void
arm(struct process_timer *timer)
{
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = conprof_sampler.signal_number;
    event.sigev_value.sival_ptr = conprof_timer_value(CONPROF_TIMER_DRAIN);
    event.sigev_notify_thread_id = conprof_own_tid();
    struct itimerspec when = {.it_interval = {.tv_nsec = CONPROF_DRAIN_EVERY_NS},
                              .it_value = {.tv_nsec = CONPROF_DRAIN_EVERY_NS}};
    timer->is_armed = timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timer->id) == 0;
    if (timer->is_armed && timer_settime(timer->id, 0, &when, NULL) != 0) {
        timer_delete(timer->id);
        timer->is_armed = false;
    }
}

static void
disarm(struct process_timer *timer)
{
    if (timer->is_armed) {
        timer_delete(timer->id);
        timer->is_armed = false;
    }
}

/* Somebody put a handler over ours: ours goes in front again. Where our signal is not libc's we
 * have to move to another, with all timers. */
static void
change_signal(struct process_timer *timer)
{
    int before = conprof_sampler.signal_number;
    int number = conprof_sampler_install();
    if (number == before) {
        atomic_fetch_add(&signal_changes, 1);
        return;
    }
    disarm(timer);
    if (number < 0) {
        return; /* polling until one can be had */
    }
    atomic_fetch_add(&signal_changes, 1);
    conprof_signals_keep_out(conprof_sampler.signal_number);
    conprof_session_reconfigure();
    arm(timer);
}

/* "I shall have come round by then." Of drains that were given up nobody wants to know. */
static void
promise(const struct life *own, uint64_t now_ns, uint64_t wait_ns)
{
    if (atomic_load(&current) == own) {
        atomic_store(&is_asked, false);
        atomic_store(&conprof_drain_due_ns, now_ns + wait_ns + ROUND_NS);
    }
}

/* Sleeps until it is roused, or something is due. True when roused, or when it cannot be known
 * whether CPU was used. */
static bool
wait_for_work(const struct life *own, uint32_t *seen, const struct process_timer *timer)
{
    uint64_t now = conprof_monotonic_ns();
    uint64_t left = conprof_calls_wait_ns(now);
    uint64_t look = conprof_offcpu_wait_ns(now);
    left = look < left ? look : left;
    uint64_t turn = conprof_turn_wait_ns(now);
    left = turn < left ? turn : left;
    if (!timer->is_armed && CONPROF_DRAIN_POLL_NS < left) {
        left = CONPROF_DRAIN_POLL_NS;
    }
    promise(own, now, left);
    bool is_roused = conprof_rouse_wait(seen, left);
    promise(own, conprof_monotonic_ns(), 0);
    atomic_fetch_add(&polls, !is_roused && !timer->is_armed);
    return is_roused || !timer->is_armed;
}

static void *
run_drain(void *argument)
{
    struct life *own = argument;
    struct process_timer timer;
    prctl(PR_SET_NAME, "conprof-drain", 0, 0, 0);
    conprof_signals_keep_out(conprof_sampler.signal_number);
    pid_t self = conprof_own_tid();
    conprof_lock();
    conprof_threads_exclude(self);
    atomic_store(&charged_ns, 0);
    conprof_unlock();
    if (self > 0 && atomic_load(&current) == own) {
        atomic_store(&conprof_sampler.drain_tid, self);
    }
    uint32_t seen = conprof_rouse_count();
    arm(&timer);
    atomic_store(&own->has_begun, 1);
    conprof_futex_wake(&own->has_begun);
    while (atomic_load(&current) == own) {
        bool is_called = wait_for_work(own, &seen, &timer);
        conprof_terminate_if_requested();
        if (!conprof_sampler_is_installed()) {
            change_signal(&timer);
        }
        else if (!timer.is_armed) {
            arm(&timer); /* somebody may have given one back */
        }
        conprof_session_drain(is_called);
        conprof_session_look();
        conprof_turn_look(conprof_monotonic_ns());
        if (atomic_load(&current) == own) {
            conprof_calls_begin_due();
        }
    }
    disarm(&timer);
    pid_t mine = self;
    conprof_lock();
    if (atomic_load(&conprof_sampler.drain_tid) == self) {
        conprof_drain_charge();
    }
    conprof_unlock();
    atomic_fetch_add(&total_ns, conprof_cpu_own_ns());
    atomic_compare_exchange_strong(&conprof_sampler.drain_tid, &mine, 0);
    atomic_store(&own->has_ended, 1);
    conprof_futex_wake(&own->has_ended);
    return NULL;
}

/* ---- start and stop ---- */

/* Sleeps until `*word` is set; false when it is not by then. */
static bool
await(_Atomic uint32_t *word, uint64_t until_ns)
{
    while (atomic_load(word) == 0) {
        uint64_t now = conprof_monotonic_ns();
        if (now >= until_ns) {
            return false;
        }
        conprof_futex_wait(word, 0, until_ns - now);
    }
    return true;
}

/* Never waits longer than until then. */
static bool
join(struct life *life, uint64_t until_ns)
{
    if (!await(&life->has_ended, until_ns)) {
        return false;
    }
    struct timespec pause = {.tv_nsec = END_LOOK_NS};
    while (pthread_tryjoin_np(life->thread, NULL) == EBUSY) {
        if (conprof_monotonic_ns() >= until_ns) {
            return false;
        }
        nanosleep(&pause, NULL);
    }
    return true;
}

static void
give_up(struct life *life)
{
    pthread_detach(life->thread);
    conprof_drain_count_given_up();
    atomic_store(&conprof_sampler.drain_tid, 0);
}

bool
conprof_drain_start(void)
{
    if (atomic_load(&current) != NULL) {
        return true;
    }
    struct life *life = calloc(1, sizeof *life);
    if (life != NULL) {
        conprof_terminate_forget();
        atomic_store(&is_asked, false);
        atomic_store(&conprof_drain_due_ns, conprof_monotonic_ns() + BEGIN_NS + ROUND_NS);
        atomic_store(&current, life);
        if (pthread_create(&life->thread, NULL, run_drain, life) == 0) {
            atomic_store(&is_missing, false);
            if (!await(&life->has_begun, conprof_monotonic_ns() + BEGIN_NS)) {
                conprof_drain_count_given_up(); /* it begins when it can */
            }
            return true;
        }
    }
    atomic_store(&current, NULL);
    free(life);
    atomic_fetch_add(&refused, 1);
    atomic_store(&is_missing, true);
    atomic_store(&conprof_drain_due_ns, conprof_monotonic_ns() + RETRY_NS);
    return false;
}

void
conprof_drain_stop(uint64_t until_ns)
{
    struct life *life = atomic_exchange(&current, NULL);
    atomic_store(&conprof_drain_due_ns, 0);
    atomic_store(&is_missing, false);
    if (life == NULL) {
        return;
    }
    conprof_rouse();
    if (join(life, until_ns)) {
        free(life);
    }
    else {
        give_up(life);
    }
}

void
conprof_drain_inspect(void)
{
    if (!conprof_session_is_running()) {
        /* The child of a fork that nobody told us of: the drain is the parent's. */
        atomic_store(&conprof_drain_due_ns, 0);
        return;
    }
    struct life *life = atomic_load(&current);
    if (life == NULL) {
        conprof_drain_start();
        return;
    }
    /* The whole process may have been stopped meanwhile: first it is asked. */
    if (!atomic_exchange(&is_asked, true)) {
        atomic_store(&conprof_drain_due_ns, conprof_monotonic_ns() + ANSWER_NS);
        conprof_rouse();
        return;
    }
    atomic_store(&current, NULL);
    give_up(life);
    atomic_fetch_add(&lost, 1);
    conprof_drain_start();
}

void
conprof_drain_reset(void)
{
    atomic_store(&total_ns, 0);
    atomic_store(&signal_changes, 0);
    atomic_store(&polls, 0);
    atomic_store(&refused, 0);
    atomic_store(&lost, 0);
    atomic_store(&given_up, 0);
    conprof_calls_reset();
    conprof_turn_forget();
}

void
conprof_drain_is_gone(void)
{
    atomic_store(&conprof_sampler.drain_tid, 0);
    atomic_store(&conprof_drain_due_ns, 0);
}

void
conprof_drain_forget(void)
{
    conprof_drain_is_gone();
    atomic_store(&current, NULL); /* of the parent: a few bytes that stay */
    atomic_store(&is_missing, false);
    atomic_store(&charged_ns, 0);
    conprof_calls_forget();
    conprof_terminate_forget();
    conprof_drain_reset();
}
