/* turn.c: see turn.h. */
#include "turn.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

#include "compat.h"
#include "own_tid.h"
#include "threads.h"

static _Atomic pid_t wanting;    /* thread id, 0: none; written by: begin, end, forget */
static atomic_bool is_pending;   /* written by: the drain, the main thread */
static _Atomic uint64_t asked;   /* written by: the drain, forget */
static _Atomic uint64_t look_ns; /* monotonic, of the next look, 0: none yet; written by: begin, the
                                  * drain */

/* written by: the drain */
static pid_t seen;
static uint64_t seen_ns, seen_cpu_ns, pause_ns;
static unsigned looks;

void
conprof_turn_begin(void)
{
    atomic_store(&look_ns, 0);
    atomic_store(&wanting, conprof_own_tid());
}

void
conprof_turn_end(void)
{
    pid_t self = conprof_own_tid();
    atomic_compare_exchange_strong(&wanting, &self, 0);
}

void
conprof_turn_forget(void)
{
    atomic_store(&wanting, 0);
    atomic_store(&asked, 0);
    /* A call that is pending stays so, in the child of a fork too. */
}

uint64_t
conprof_turns_asked(void)
{
    return atomic_load(&asked);
}

/* A pending call: the main thread, GIL held. */
static int
stand_aside(void *Py_UNUSED(argument))
{
    atomic_store(&is_pending, false);
    if (atomic_load(&wanting) == 0) {
        return 0;
    }
    struct timespec left = {.tv_nsec = CONPROF_ASIDE_NS};
    Py_BEGIN_ALLOW_THREADS;
    nanosleep(&left, NULL); /* cut short by a signal: the next look asks again */
    Py_END_ALLOW_THREADS;
    return 0;
}

uint64_t
conprof_turn_wait_ns(uint64_t now_ns)
{
    if (atomic_load(&wanting) == 0) {
        return UINT64_MAX;
    }
    uint64_t due = atomic_load(&look_ns);
    return due > now_ns ? due - now_ns : 0;
}

/* The drain. */
static void
ask(void)
{
    if (atomic_exchange(&is_pending, true)) {
        return;
    }
    if (Py_AddPendingCall(stand_aside, NULL) == 0) {
        atomic_fetch_add(&asked, 1);
    }
    else {
        atomic_store(&is_pending, false); /* the queue is full */
    }
}

void
conprof_turn_look(uint64_t now_ns)
{
    pid_t tid = atomic_load(&wanting);
    uint64_t due = atomic_load(&look_ns);
    if (tid == 0 || now_ns < due) {
        return;
    }
    uint64_t cpu_ns = conprof_cpu_of_ns(tid);
    if (tid != seen || due == 0) {
        seen = tid;
        looks = 0;
        pause_ns = CONPROF_TURN_LOOK_NS;
    }
    else {
        /* A thread that is woken in vain again and again uses some CPU too. */
        if ((cpu_ns - seen_cpu_ns) * 4 < now_ns - seen_ns) {
            ask();
        }
        if (++looks > CONPROF_TURN_LOOKS && pause_ns < CONPROF_TURN_LOOK_MAX_NS) {
            pause_ns *= 2;
        }
    }
    seen_ns = now_ns;
    seen_cpu_ns = cpu_ns;
    atomic_store(&look_ns, now_ns + pause_ns);
}
