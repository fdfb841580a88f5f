/* lock.c: see lock.h. */
#include "lock.h"

#include <pthread.h>

#include "signals.h"

static pthread_mutex_t session_lock = PTHREAD_MUTEX_INITIALIZER;
static conprof_signal_set mask_before; /* owner: holder of the lock */

void
conprof_lock(void)
{
    conprof_signal_set before;
    conprof_signals_block(&before);
    pthread_mutex_lock(&session_lock);
    mask_before = before;
}

void
conprof_unlock(void)
{
    conprof_signal_set before = mask_before;
    pthread_mutex_unlock(&session_lock);
    conprof_signals_restore(&before);
}
