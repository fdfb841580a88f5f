/* wait_state.c: see wait_state.h. */
#include <stddef.h>

#include "wait_state.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static enum conprof_wait
classify(long number, uintptr_t first, uintptr_t gil, size_t gil_bytes)
{
    switch (number) {
    case SYS_futex:
        return first >= gil && first < gil + gil_bytes ? CONPROF_WAIT_GIL : CONPROF_WAIT_LOCK;
    case SYS_nanosleep:
    case SYS_clock_nanosleep:
        return CONPROF_WAIT_SLEEP;
#ifdef SYS_select
    case SYS_select:
#endif
#ifdef SYS_poll
    case SYS_poll:
#endif
#ifdef SYS_epoll_wait
    case SYS_epoll_wait:
#endif
#ifdef SYS_epoll_pwait2
    case SYS_epoll_pwait2:
#endif
    case SYS_pselect6:
    case SYS_ppoll:
    case SYS_epoll_pwait:
        return CONPROF_WAIT_POLL;
    default:
        return CONPROF_WAIT_CALL;
    }
}

static bool
is_epoll(long number)
{
#ifdef SYS_epoll_wait
    if (number == SYS_epoll_wait) {
        return true;
    }
#endif
#ifdef SYS_epoll_pwait2
    if (number == SYS_epoll_pwait2) {
        return true;
    }
#endif
    return number == SYS_epoll_pwait;
}

enum conprof_wait
conprof_wait_of(pid_t tid, uintptr_t gil, size_t gil_bytes, uintptr_t *futex, int *epoll)
{
    *futex = 0;
    if (epoll != NULL) {
        *epoll = -1;
    }
    char path[48], text[256], *end;
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", (int)tid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return CONPROF_WAIT_UNKNOWN;
    }
    ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    if (got <= 0) {
        return CONPROF_WAIT_UNKNOWN;
    }
    text[got] = '\0';
    if (strncmp(text, "running", 7) == 0) {
        return CONPROF_WAIT_CPU;
    }
    long number = strtol(text, &end, 10);
    if (end == text) {
        return CONPROF_WAIT_UNKNOWN;
    }
    uintptr_t first = (uintptr_t)strtoull(end, NULL, 16);
    if (epoll != NULL && is_epoll(number)) {
        *epoll = (int)first;
    }
    *futex = number == SYS_futex ? first : 0;
    return classify(number, first, gil, gil_bytes);
}
