/* Threads whose stack and signal stack have a given size and place, each with nothing but a guard
 * below it; and threads that Python has not started. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define GUARD (256u << 10) /* more than any one frame of C, so that no overrun leaps over it */
#define PAGE 4096u

struct order {
    void *alternate;
    size_t alternate_bytes;
    int tick_us;
    void (*work)(void);
    int error;
};

static void
on_tick(int number)
{
    (void)number;
}

/* Ticks of a signal with an empty handler, for the calling thread. */
static int
tick(timer_t *timer, int every_us)
{
    struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_ONSTACK | SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2};
    struct itimerspec times = {{0, every_us * 1000}, {0, every_us * 1000}};
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    return sigaction(SIGUSR2, &action, NULL) || timer_create(CLOCK_MONOTONIC, &event, timer) ||
           timer_settime(*timer, 0, &times, NULL);
}

static void *
run(void *given)
{
    struct order *order = given;
    timer_t timer;
    if (order->alternate_bytes > 0) {
        stack_t stack = {.ss_sp = order->alternate, .ss_size = order->alternate_bytes};
        if (sigaltstack(&stack, NULL) != 0) {
            order->error = errno;
            return NULL;
        }
    }
    if (order->tick_us > 0 && tick(&timer, order->tick_us) != 0) {
        order->error = errno;
        return NULL;
    }
    order->work();
    if (order->tick_us > 0) {
        timer_delete(timer);
    }
    return NULL;
}

static size_t
whole_pages(size_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

/* Calls `work` in a thread with these stacks; `above` puts the signal stack at the higher address.
 * Returns 0 or an errno. A signal stack of 0 bytes is none. */
int
cruel_on_stacks(size_t stack_bytes, size_t alternate_bytes, int above, int tick_us,
                void (*work)(void))
{
    size_t room = whole_pages(stack_bytes), other = whole_pages(alternate_bytes);
    size_t total = room + other + 3 * GUARD;
    char *map = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        return errno;
    }
    char *first = map + GUARD, *second = first + (above ? room : other) + GUARD;
    char *stack = above ? first : second, *alternate = above ? second : first;
    struct order order = {alternate, alternate_bytes, tick_us, work, 0};
    pthread_attr_t attributes;
    pthread_t thread;
    mprotect(stack, room, PROT_READ | PROT_WRITE);
    if (other > 0) {
        mprotect(alternate, other, PROT_READ | PROT_WRITE);
    }
    pthread_attr_init(&attributes);
    int error = pthread_attr_setstack(&attributes, stack, room);
    error = error ? error : pthread_create(&thread, &attributes, run, &order);
    if (error == 0) {
        pthread_join(thread, NULL);
        error = order.error;
    }
    pthread_attr_destroy(&attributes);
    munmap(map, total);
    return error;
}

static void *
allocate(void *given)
{
    double seconds = *(double *)given, used;
    uint32_t at = 1;
    char *held[64] = {0}; /* what it does is malloc and free, hardly anything else */
    struct timespec now;
    do {
        for (int i = 0; i < 1000; i++) {
            at = at * 1664525u + 1013904223u;
            char **slot = &held[at >> 26];
            free(*slot);
            *slot = malloc(1100 + (at >> 12) % 70000); /* too big for a cache without a lock */
        }
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
        used = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
    } while (used < seconds);
    for (int i = 0; i < 64; i++) {
        free(held[i]);
    }
    return NULL;
}

static void *
call(void *given)
{
    (*(void (**)(void))given)();
    return NULL;
}

/* `threads` threads that know nothing of Python, each with so much CPU time of malloc and free, beside
 * as many that call `work`, if any. Without the GIL. Returns 0 or an errno. */
int
cruel_native_threads(int threads, double seconds, void (*work)(void))
{
    pthread_t started[128];
    int count = 0, error = 0;
    for (int i = 0; i < threads && error == 0 && count < 126; i++) {
        error = pthread_create(&started[count], NULL, allocate, &seconds);
        count += error == 0;
        if (work != NULL && error == 0) {
            error = pthread_create(&started[count], NULL, call, &work);
            count += error == 0;
        }
    }
    while (count > 0) {
        pthread_join(started[--count], NULL);
    }
    return error;
}
