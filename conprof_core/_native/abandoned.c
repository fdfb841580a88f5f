/* abandoned.c: see abandoned.h. */
#include "abandoned.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "sampler.h"
#include "signals.h"

/* A record that stands open for less is not looked at: its writer waits for a CPU. */
#define SLOW_NS UINT64_C(100000000)

/* A handler uses much less CPU than this, and sleeps much shorter: it waits for nothing, but a page
 * of memory, and that is no sleep that a signal could end. */
#define MOST_NS UINT64_C(1000000000)

/* owner: holder of the session lock. The record in the way. */
static struct {
    uint64_t at, since_ns, cpu_ns;
    pid_t tid; /* 0: none */
} open_record;

static _Atomic uint64_t given_up; /* written by: holder of the session lock */

/* Is a thread, seen in a handler of ours or with signals blocked `since_ns` ago, there no more? */
static bool
is_elsewhere(pid_t tid, uint64_t waited_ns, uint64_t used_ns)
{
    if (syscall(SYS_tgkill, getpid(), tid, 0) != 0 && errno == ESRCH) {
        return true;
    }
    struct conprof_thread_status status = conprof_signals_status(tid);
    if (!status.is_known) {
        return used_ns > MOST_NS;
    }
    /* There our signal is blocked. A thread that jumped away may have left it so. */
    bool is_blocked = status.blocked & conprof_signal_bit(conprof_sampler.signal_number);
    return !is_blocked || used_ns > MOST_NS || (status.state == 'S' && waited_ns > MOST_NS);
}

/* Counts what a handler of a thread has left counted. `run`: which run of it. */
static void
settle(struct conprof_thread *thread, uint32_t run)
{
    if (run != 0 && atomic_compare_exchange_strong(&thread->inside, &run, 0)) {
        atomic_fetch_sub(&conprof_sampler.in_handler, 1);
    }
}

bool
conprof_abandoned_step_over(uint64_t now_ns)
{
    uint64_t at;
    pid_t tid = conprof_ring_waits_for(&conprof_sampler.ring, &at);
    if (tid == 0) {
        open_record.tid = 0;
        return false;
    }
    uint64_t cpu_ns = conprof_cpu_of_ns(tid);
    if (open_record.tid != tid || open_record.at != at) {
        open_record.tid = tid;
        open_record.at = at;
        open_record.since_ns = now_ns;
        open_record.cpu_ns = cpu_ns;
        return false;
    }
    uint64_t waited_ns = now_ns - open_record.since_ns;
    if (waited_ns < SLOW_NS) {
        return false;
    }
    struct conprof_thread *thread = conprof_threads_find(tid);
    uint32_t run = thread == NULL ? 0 : atomic_load(&thread->inside);
    /* A thread has one record open at a time. */
    if (!conprof_ring_has_later(&conprof_sampler.ring, tid)) {
        if (!is_elsewhere(tid, waited_ns,
                          cpu_ns > open_record.cpu_ns ? cpu_ns - open_record.cpu_ns : 0)) {
            return false;
        }
        if (thread != NULL) {
            settle(thread, run);
        }
    }
    open_record.tid = 0;
    if (conprof_ring_give_up(&conprof_sampler.ring, at)) {
        atomic_fetch_add(&given_up, 1);
    }
    return true;
}

void
conprof_abandoned_settle(void)
{
    for (uint32_t i = 0; i < conprof_threads_slots(); i++) {
        struct conprof_thread *thread = conprof_threads_at(i);
        uint32_t run = thread == NULL ? 0 : atomic_load(&thread->inside);
        if (run != 0 && is_elsewhere(thread->tid, 0, 0)) {
            settle(thread, run);
            atomic_fetch_add(&given_up, 1);
        }
    }
}

void
conprof_abandoned_reset(void)
{
    open_record.tid = 0;
    atomic_store(&given_up, 0);
}

uint64_t
conprof_abandoned_count(void)
{
    return atomic_load(&given_up);
}
