/* lock.c: see lock.h. */
#include "lock.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <unistd.h>

#include "signals.h"

static pthread_mutex_t session_lock = PTHREAD_MUTEX_INITIALIZER;
static conprof_signal_set mask_before; /* owner: holder of the lock */
static _Atomic pid_t home;             /* of whom the lock is; written by: lock, adopt */
static atomic_bool is_torn;            /* written by: lock */

/* The lock is taken. Is it by somebody who is not in this process? A fork by the raw system call
 * runs no pthread_atfork handler, and whoever held the lock stayed in the parent. */
static void
take_over_from_parent(void)
{
    pid_t before = atomic_load(&home), now = getpid();
    if (before != 0 && before != now && atomic_compare_exchange_strong(&home, &before, now)) {
        static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
        atomic_store(&is_torn, true);
        session_lock = fresh;
    }
}

void
conprof_lock(void)
{
    conprof_signal_set before;
    conprof_signals_block(&before);
    if (pthread_mutex_trylock(&session_lock) != 0) {
        take_over_from_parent();
        pthread_mutex_lock(&session_lock);
    }
    mask_before = before;
}

void
conprof_unlock(void)
{
    conprof_signal_set before = mask_before;
    pthread_mutex_unlock(&session_lock);
    conprof_signals_restore(&before);
}

conprof_signal_set
conprof_lock_mask(void)
{
    return mask_before;
}

void
conprof_lock_adopt(void)
{
    atomic_store(&home, getpid());
}

bool
conprof_lock_is_torn(void)
{
    return atomic_load(&is_torn);
}
