/* A library that gives up on SIGALRM by siglongjmp. */
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>

static sigjmp_buf place;
static volatile sig_atomic_t is_ready;

static void
on_alarm(int number)
{
    (void)number;
    if (is_ready) {
        siglongjmp(place, 1);
    }
}

/* Uses CPU until it was thrown back so often; returns how often it was. */
int
cruel_jump(int times, int every_us)
{
    struct sigaction action;
    struct itimerval on = {{0, every_us}, {0, every_us}}, off = {{0, 0}, {0, 0}};
    volatile int done = 0;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm;
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &on, NULL);
    sigsetjmp(place, 1);
    if (done++ < times) {
        is_ready = 1;
        for (;;) {
            __asm__ volatile("" ::: "memory");
        }
    }
    is_ready = 0;
    setitimer(ITIMER_REAL, &off, NULL);
    return done - 1;
}
