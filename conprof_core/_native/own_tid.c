/* own_tid.c: see own_tid.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* the mutex that checks for errors */
#endif
#include "own_tid.h"

#include <errno.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the C library takes for the calling thread's id: it has no call that says so
 * without asking the kernel, but writes it into a mutex that this thread locks (glibc,
 * nptl/pthread_mutex_lock.c). The mutex is nobody else's, so nothing waits or is woken. */
static pid_t
tid_of_libc(void)
{
#ifdef PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP
    pthread_mutex_t own = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP;
    if (pthread_mutex_lock(&own) == 0) {
        pid_t tid = own.__data.__owner;
        pthread_mutex_unlock(&own);
        return tid > 0 ? tid : 0;
    }
#endif
    return 0;
}

pid_t
conprof_own_tid_in_signal(void)
{
    int saved = errno;
    pid_t tid = (pid_t)syscall(SYS_gettid);
    errno = saved;
    return tid > 0 ? tid : 0;
}

pid_t
conprof_own_tid(void)
{
    pid_t tid = conprof_own_tid_in_signal();
    return tid > 0 ? tid : tid_of_libc();
}
