/* threads.h: the thread table and one CPU-time timer per thread.
 *
 * Each thread of the process has a slot with a POSIX timer on its own CPU clock.
 * The timer's signal goes to that thread only and carries the slot's index, so the
 * handler finds its slot without a search.
 *
 * A slot is written under the session lock, but for `last_cpu_ns`, `failures`,
 * `random_state`, `due_ns` and `scratch`, which belong to the slot's own thread (its handler) while
 * armed.
 */
#ifndef CONPROF_THREADS_H
#define CONPROF_THREADS_H

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "scratch.h"

struct conprof_label_record;

/* Threads of one process that can be sampled at once. The CPU of further ones is
 * charged to [untracked threads]. */
#define CONPROF_MAX_THREADS 8192u

/* Distinct thread names, digits folded. Further threads share one name. */
#define CONPROF_MAX_THREAD_NAMES 512u
#define CONPROF_MAX_THREAD_NAME_BYTES 63u

/* What a thread has spent off the CPU; kept by offcpu.c, under the session lock. */
struct conprof_wait_account {
    uint64_t seen_ns;       /* monotonic time of the last look */
    uint64_t cpu_ns;        /* the thread's CPU clock then */
    int64_t pending_ns;     /* off the CPU, not charged yet; clocks are read one after the other,
                             * so it may be a little below 0 */
    uintptr_t state_hint;   /* where its PyThreadState was found */
    uint64_t window_serial; /* of the window that `row` is in */
    uint32_t row;           /* where it was seen to wait last */
    uint32_t looks;         /* that pending_ns stands for */
    uint64_t version;       /* where it stands now: the callback of its loop, or 0 (blocked.h) */
    bool is_captured;       /* `row` is where it stands now, unless its clock moves */
    uint8_t reason;         /* enum conprof_column: the time there is charged to it, too;
                             * CONPROF_COLUMN_COUNT: to none */
};

/* Can a thread be sampled? */
enum conprof_reach {
    CONPROF_REACHED,
    CONPROF_REACH_BLOCKED, /* the kernel's mask of the thread blocks our signal: somebody did that
                            * by the raw system call, for libc would not */
    CONPROF_REACH_REFUSED, /* the kernel refuses a timer */
    CONPROF_REACHES,
};

struct conprof_thread {
    _Atomic pid_t tid;               /* 0: the slot is free */
    _Atomic(timer_t) timer;          /* written by: holder of the session lock; read by: handler */
    enum conprof_reach reach;        /* owner: holder of the session lock */
    _Atomic uint64_t unreached_ns;   /* CPU time up to which no signal reached it, without end while
                                      * none does; written by: holder of the session lock */
    uint32_t name_id;                /* written before `tid` */
    uint64_t target_uid;             /* uid of the code the thread was started for, or 0 */
    uintptr_t stack_low, stack_high; /* the thread's own C stack where known, else 0 */
    _Atomic uint64_t last_cpu_ns;    /* CPU time up to which weight was emitted */
    uint32_t failures;               /* walks that failed in a row */
    uint64_t handler_ns;             /* CPU time of its handler's last run that walked */
    uint64_t random_state;           /* of the timer's jitter */
    uint64_t due_ns;                 /* CPU time at which the next signal is due */
    uint32_t runs;                   /* of its handler, so far; owner: its handler */
    _Atomic uint32_t inside; /* the number of the run under way, or 0; written by: its handler,
                              * and by who knows that it never ends (abandoned.h) */
    bool was_seen;           /* by the scan under way */
    _Atomic uint32_t loop;   /* number of its asyncio loop, or 0 (blocked.h); written by: holder
                              * of the session lock; read by: handler */
    struct conprof_wait_account wait;
    struct conprof_scratch *scratch; /* of the handler; stays with the slot once it has one */
};

/* Session lock held, in the slot's own thread, whose handler may interrupt it: a low end without
 * the high one means nothing. */
static inline void
conprof_thread_set_stack(struct conprof_thread *thread, uintptr_t low, uintptr_t high)
{
    thread->stack_low = low;
    atomic_signal_fence(memory_order_seq_cst);
    thread->stack_high = high;
}

/* Maps the table. False without memory. */
bool conprof_threads_init(void);

/* What a timer of ours sends with its signal, by which the handler knows it from anybody else's:
 * an address within an array of ours. An index is that of a slot, or one of those below. */
#define CONPROF_TIMER_DRAIN CONPROF_MAX_THREADS       /* the drain's, on the process's CPU clock */
#define CONPROF_TIMER_TEST (CONPROF_MAX_THREADS + 1u) /* the self-test's */
#define CONPROF_TIMERS (CONPROF_MAX_THREADS + 2u)
void *conprof_timer_value(uint32_t index);

/* SIGNAL-SAFE. The index of a value of ours, of this session or an earlier one; else
 * CONPROF_TIMERS. */
uint32_t conprof_timer_index(const void *value);

/* SIGNAL-SAFE. The slot of an index below CONPROF_MAX_THREADS that came with a signal, if the
 * timer that sent it is still the slot's, so that the calling thread owns it; else NULL. */
struct conprof_thread *conprof_threads_own(uint32_t index, const siginfo_t *info);

/* SIGNAL-SAFE. CPU clocks in nanoseconds: the calling thread's, another thread's
 * (0 when it is gone), the process's. */
uint64_t conprof_cpu_own_ns(void);
uint64_t conprof_cpu_of_ns(pid_t tid);
uint64_t conprof_cpu_process_ns(void);

/* Session lock held. Starts sampling a thread every `period_ns` of its CPU time,
 * the first time after a random part of it, if signals reach it. CPU time up to `since_ns` is not
 * charged. Returns the slot (the present one when it has one), or NULL when all are taken or there
 * is no such thread. */
struct conprof_thread *conprof_threads_arm(pid_t tid, uint32_t name_id, uint64_t since_ns);

/* SIGNAL-SAFE, in the thread's own handler. Sets its next signal half to one and a
 * half periods after this one was due, evenly spread. A strict period beats with
 * work that has a period of its own, and then some of it is never seen. */
void conprof_threads_jitter(struct conprof_thread *thread);

/* Session lock held. The slot of a thread, or NULL. */
struct conprof_thread *conprof_threads_find(pid_t tid);

/* SIGNAL-SAFE. What an unsampled rest of a thread that signals reach can be at most: its timer is
 * due after one and a half periods, and the kernel's tick brings the signal. */
uint64_t conprof_threads_longest_residue_ns(void);

/* Session lock held. Does a slot stand for a thread that has ended, although another of the same
 * id may live by now? */
bool conprof_threads_is_dead(const struct conprof_thread *thread);

/* Session lock held. Looks whether signals reach a thread now, and arms or disarms it. */
void conprof_threads_retry(struct conprof_thread *thread);

/* Session lock held. Stops the timer, if there is one; no signal of it is taken for ours
 * afterwards. */
void conprof_threads_disarm(struct conprof_thread *thread);

/* Session lock held. Frees the slot of a disarmed thread. */
void conprof_threads_release(struct conprof_thread *thread);

/* Session lock held. Both. */
void conprof_threads_retire(struct conprof_thread *thread);

/* Session lock held. Gives all threads new timers, as configured now. */
void conprof_threads_rearm(void);

/* Session lock held. Deletes all timers and empties the table; `has_timers` is
 * false in the child of a fork, which inherited none. */
void conprof_threads_clear(bool has_timers);

/* Session lock held. Sets signal and period of the timers armed from now on. */
void conprof_threads_configure(int signal_number, uint64_t period_ns);

/* Session lock held. The scan leaves this thread alone: the drain waits for the
 * very signal and accounts for itself. */
void conprof_threads_exclude(pid_t tid);

/* Session lock held. Looks for threads without a slot and slots without a thread
 * in /proc/self/task. With `force` false it only looks when the number of threads
 * has changed. Threads found are charged for all their CPU time, or from now on
 * when `from_now`. */
void conprof_threads_scan(bool force, bool from_now);

/* Session lock held. The next scan looks, whatever was there before. */
void conprof_threads_scan_anew(void);

/* Session lock held. CPU that live threads used and have not been charged for. */
uint64_t conprof_threads_outstanding_ns(void);

/* Session lock held. Slots ever used, and the thread in one of them or NULL. */
uint32_t conprof_threads_slots(void);
struct conprof_thread *conprof_threads_at(uint32_t index);

/* Session lock held: called, with the lock, when a thread was armed (`is_new`) and before
 * its slot is given up. */
void conprof_threads_observe(void (*observer)(struct conprof_thread *thread, bool is_new));

/* Session lock held. Threads now: by how they are reached, and without a slot. */
uint32_t conprof_threads_count(enum conprof_reach reach);
uint32_t conprof_threads_without_slot(void);

/* Session lock held. The id of a name; runs of digits become N, so that pools do
 * not multiply stacks. Id 0 is the empty name. */
uint32_t conprof_thread_name_id(const char *name, size_t bytes);

/* Any thread: a name is never changed or freed. */
const char *conprof_thread_name(uint32_t id);

#endif
