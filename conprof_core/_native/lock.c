/* lock.c: see lock.h. */
#include "lock.h"

#include <pthread.h>

static pthread_mutex_t session_lock = PTHREAD_MUTEX_INITIALIZER;

void
conprof_lock(void)
{
    pthread_mutex_lock(&session_lock);
}

void
conprof_unlock(void)
{
    pthread_mutex_unlock(&session_lock);
}
