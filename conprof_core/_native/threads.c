/* threads.c: see threads.h. */
#include "threads.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hash.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* A full scan after this many cheap looks: a thread may have come while another
 * went. With a look every 100 ms of CPU that is once a second of CPU. */
#define LOOKS_PER_SCAN 10

static struct conprof_thread *threads; /* immutable after init: CONPROF_MAX_THREADS slots */

/* owner: holder of the session lock */
static uint32_t high_water; /* slots at or above have never been used */
static uint32_t armed;
static uint64_t refused;
static int timer_signal;
static _Atomic uint64_t timer_period_ns; /* also read by handlers */
static uint64_t random_state = 0x853C49E6748FEA9B;
static pid_t excluded_tid;
static nlink_t last_links;
static uint32_t looks;
static void (*observer)(struct conprof_thread *, bool); /* or NULL */
static char names[CONPROF_MAX_THREAD_NAMES][CONPROF_MAX_THREAD_NAME_BYTES + 1];
static uint32_t name_count = 1;

bool
conprof_threads_init(void)
{
    if (threads == NULL) {
        /* Not populated: a slot costs memory only when a thread uses it. */
        void *memory = mmap(NULL, CONPROF_MAX_THREADS * sizeof *threads, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) {
            return false;
        }
        threads = memory;
    }
    return true;
}

static char values[CONPROF_TIMERS]; /* only its addresses are used */

void *
conprof_timer_value(uint32_t index)
{
    return &values[index];
}

uint32_t
conprof_timer_index(const void *value)
{
    uintptr_t offset = (uintptr_t)value - (uintptr_t)values;
    return offset < CONPROF_TIMERS ? (uint32_t)offset : CONPROF_TIMERS;
}

/* The kernel's id of a timer, which comes with its signals: it is what libc's timer_t holds (the
 * self-test compares). No two timers of a process have one at a time, and ids are not
 * used again until the kernel's counter has gone round. */
static inline int
kernel_id(timer_t timer)
{
    return (int)(intptr_t)timer;
}

struct conprof_thread *
conprof_threads_own(uint32_t index, const siginfo_t *info)
{
    struct conprof_thread *thread = &threads[index];
    if (atomic_load_explicit(&thread->tid, memory_order_acquire) == 0) {
        return NULL;
    }
    timer_t timer = atomic_load_explicit(&thread->timer, memory_order_relaxed);
    return kernel_id(timer) == info->si_timerid ? thread : NULL;
}

static inline uint64_t
read_clock(clockid_t clock)
{
    struct timespec now;
    if (clock_gettime(clock, &now) != 0) {
        return 0;
    }
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The kernel's encoding of "CPU clock of thread tid" (linux/posix-timers.h). */
static inline clockid_t
clock_of(pid_t tid)
{
    return (clockid_t)((~(uint32_t)tid << 3) | 6u);
}

uint64_t
conprof_cpu_own_ns(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t
conprof_cpu_of_ns(pid_t tid)
{
    return read_clock(clock_of(tid));
}

uint64_t
conprof_cpu_process_ns(void)
{
    return read_clock(CLOCK_PROCESS_CPUTIME_ID);
}

void
conprof_threads_configure(int signal_number, uint64_t period_ns)
{
    timer_signal = signal_number;
    atomic_store_explicit(&timer_period_ns, period_ns, memory_order_relaxed);
    random_state ^= read_clock(CLOCK_MONOTONIC) * UINT64_C(0x9E3779B97F4A7C15);
    last_links = 0;
    looks = 0;
}

void
conprof_threads_exclude(pid_t tid)
{
    excluded_tid = tid;
}

/* SIGNAL-SAFE. xorshift64*: the phase of a timer needs no better. */
static uint64_t
next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545F4914F6CDD1D);
}

/* SIGNAL-SAFE. */
static uint64_t
period(void)
{
    return atomic_load_explicit(&timer_period_ns, memory_order_relaxed);
}

static struct timespec
to_timespec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u),
                             .tv_nsec = (long)(ns % 1000000000u)};
}

struct conprof_thread *
conprof_threads_find(pid_t tid)
{
    for (uint32_t i = 0; i < high_water; i++) {
        if (atomic_load_explicit(&threads[i].tid, memory_order_relaxed) == tid) {
            return &threads[i];
        }
    }
    return NULL;
}

/* Publishes the slot before the timer runs: the handler that it triggers sees all of
 * it. On failure the caller takes the slot back. */
static bool
start_timer(struct conprof_thread *thread, pid_t tid)
{
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = timer_signal;
    event.sigev_value.sival_ptr = conprof_timer_value((uint32_t)(thread - threads));
    event.sigev_notify_thread_id = tid;
    timer_t timer;
    if (timer_create(clock_of(tid), &event, &timer) != 0) {
        return false;
    }
    atomic_store_explicit(&thread->timer, timer, memory_order_relaxed);
    /* A random phase: threads that live less than a period are sampled in
     * proportion to their CPU time. */
    uint64_t every_ns = period();
    uint64_t wait_ns = 1 + next_random(&random_state) % every_ns;
    struct itimerspec when = {.it_interval = to_timespec(every_ns),
                              .it_value = to_timespec(wait_ns)};
    thread->due_ns = conprof_cpu_of_ns(tid) + wait_ns;
    atomic_store_explicit(&thread->tid, tid, memory_order_release);
    if (timer_settime(timer, 0, &when, NULL) != 0) {
        timer_delete(timer);
        return false;
    }
    return true;
}

void
conprof_threads_disarm(struct conprof_thread *thread)
{
    timer_delete(thread->timer);
}

void
conprof_threads_observe(void (*whom)(struct conprof_thread *, bool))
{
    observer = whom;
}

uint32_t
conprof_threads_slots(void)
{
    return high_water;
}

struct conprof_thread *
conprof_threads_at(uint32_t index)
{
    return threads[index].tid != 0 ? &threads[index] : NULL;
}

void
conprof_threads_release(struct conprof_thread *thread)
{
    if (observer != NULL) {
        observer(thread, false);
    }
    atomic_store_explicit(&thread->tid, 0, memory_order_release);
    armed--;
}

static void
retire(struct conprof_thread *thread)
{
    conprof_threads_disarm(thread);
    conprof_threads_release(thread);
}

void
conprof_threads_rearm(void)
{
    for (uint32_t i = 0; i < high_water; i++) {
        pid_t tid = atomic_load_explicit(&threads[i].tid, memory_order_relaxed);
        if (tid != 0) {
            conprof_threads_disarm(&threads[i]);
            if (!start_timer(&threads[i], tid)) {
                conprof_threads_release(&threads[i]);
            }
        }
    }
}

/* A timer whose thread died reports no time left: its tid belongs to another. */
static bool
is_dead(const struct conprof_thread *thread)
{
    struct itimerspec left;
    return timer_gettime(thread->timer, &left) != 0 ||
           (left.it_value.tv_sec == 0 && left.it_value.tv_nsec == 0);
}

struct conprof_thread *
conprof_threads_arm(pid_t tid, uint32_t name_id, uint64_t since_ns)
{
    struct conprof_thread *thread = conprof_threads_find(tid);
    if (thread != NULL && !is_dead(thread)) {
        return thread;
    }
    if (thread != NULL) {
        retire(thread);
    }
    thread = conprof_threads_find(0);
    if (thread == NULL && high_water < CONPROF_MAX_THREADS) {
        thread = &threads[high_water++];
    }
    if (thread == NULL) {
        refused++;
        return NULL;
    }
    if (thread->scratch == NULL && (thread->scratch = conprof_scratch_new()) == NULL) {
        refused++;
        return NULL;
    }
    thread->name_id = name_id;
    thread->target_uid = 0;
    thread->stack_low = thread->stack_high = 0;
    thread->failures = 0;
    atomic_store(&thread->loop, 0);
    thread->random_state = next_random(&random_state) | 1;
    atomic_store_explicit(&thread->last_cpu_ns, since_ns, memory_order_relaxed);
    if (!start_timer(thread, tid)) {
        /* Either the thread is gone, or the limit of timers (RLIMIT_SIGPENDING) is
         * reached, which is EAGAIN. */
        atomic_store_explicit(&thread->tid, 0, memory_order_release);
        refused += errno == EAGAIN;
        return NULL;
    }
    armed++;
    if (observer != NULL) {
        observer(thread, true);
    }
    return thread;
}

void
conprof_threads_clear(bool has_timers)
{
    for (uint32_t i = 0; i < high_water; i++) {
        if (atomic_load_explicit(&threads[i].tid, memory_order_relaxed) != 0) {
            if (has_timers) {
                timer_delete(threads[i].timer);
            }
            atomic_store_explicit(&threads[i].tid, 0, memory_order_release);
        }
    }
    armed = 0;
}

void
conprof_threads_jitter(struct conprof_thread *thread)
{
    uint64_t now = conprof_cpu_own_ns(), every_ns = period();
    /* Signals come with the kernel's tick, some time after they are due: counting
     * from the due time keeps the rate. */
    thread->due_ns += every_ns / 2 + 1 + next_random(&thread->random_state) % every_ns;
    if (thread->due_ns <= now) {
        thread->due_ns = now + every_ns / 2;
    }
    struct itimerspec when = {.it_interval = to_timespec(every_ns),
                              .it_value = to_timespec(thread->due_ns)};
    timer_settime(thread->timer, TIMER_ABSTIME, &when, NULL);
}

/* The kernel's name of a thread, for threads that Python did not name. */
static uint32_t
kernel_name_id(pid_t tid)
{
    char path[48], text[32];
    snprintf(path, sizeof path, "/proc/self/task/%d/comm", (int)tid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = file < 0 ? -1 : read(file, text, sizeof text);
    if (file >= 0) {
        close(file);
    }
    if (got > 0 && text[got - 1] == '\n') {
        got--;
    }
    for (ssize_t i = 0; i < got; i++) {
        text[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?'; /* any bytes are allowed */
    }
    return got <= 0 ? 0 : conprof_thread_name_id(text, (size_t)got);
}

void
conprof_threads_scan(bool force, bool from_now)
{
    struct stat task;
    if (!force) {
        /* The link count of the directory is the number of threads plus two. */
        bool is_same = stat("/proc/self/task", &task) == 0 && task.st_nlink == last_links;
        if (is_same && ++looks < LOOKS_PER_SCAN) {
            return;
        }
        last_links = is_same ? last_links : task.st_nlink;
    }
    looks = 0;
    DIR *directory = opendir("/proc/self/task");
    if (directory == NULL) {
        return;
    }
    for (uint32_t i = 0; i < high_water; i++) {
        threads[i].was_seen = false;
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        pid_t tid = (pid_t)atoi(entry->d_name);
        if (tid <= 0 || tid == excluded_tid) {
            continue;
        }
        struct conprof_thread *thread = conprof_threads_find(tid);
        if (thread == NULL || is_dead(thread)) {
            thread = conprof_threads_arm(tid, kernel_name_id(tid),
                                         from_now ? conprof_cpu_of_ns(tid) : 0);
        }
        if (thread != NULL) {
            thread->was_seen = true;
        }
    }
    closedir(directory);
    for (uint32_t i = 0; i < high_water; i++) {
        if (threads[i].tid != 0 && !threads[i].was_seen) {
            retire(&threads[i]);
        }
    }
}

uint64_t
conprof_threads_outstanding_ns(void)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < high_water; i++) {
        pid_t tid = atomic_load_explicit(&threads[i].tid, memory_order_relaxed);
        if (tid != 0) {
            uint64_t used = conprof_cpu_of_ns(tid);
            uint64_t charged = atomic_load(&threads[i].last_cpu_ns);
            sum += used > charged ? used - charged : 0;
        }
    }
    return sum;
}

uint32_t
conprof_threads_count(void)
{
    return armed;
}

uint64_t
conprof_threads_refused(void)
{
    return refused;
}

uint32_t
conprof_thread_name_id(const char *name, size_t bytes)
{
    char folded[CONPROF_MAX_THREAD_NAME_BYTES + 1];
    size_t length = 0;
    bool in_digits = false;
    for (size_t i = 0; i < bytes && length < CONPROF_MAX_THREAD_NAME_BYTES; i++) {
        bool is_digit = name[i] >= '0' && name[i] <= '9';
        if (!is_digit || !in_digits) {
            folded[length++] = is_digit ? 'N' : name[i];
        }
        in_digits = is_digit;
    }
    /* Never cut a UTF-8 character in two. */
    if (length == CONPROF_MAX_THREAD_NAME_BYTES) {
        while (length > 0 && ((unsigned char)folded[length - 1] & 0xC0) == 0x80) {
            length--;
        }
        if (length > 0 && ((unsigned char)folded[length - 1] & 0x80)) {
            length--;
        }
    }
    folded[length] = '\0';
    for (uint32_t i = 0; i < name_count; i++) {
        if (strcmp(names[i], folded) == 0) {
            return i;
        }
    }
    if (name_count == CONPROF_MAX_THREAD_NAMES - 1) {
        strcpy(names[name_count], "[other threads]");
        return name_count;
    }
    strcpy(names[name_count], folded);
    return name_count++;
}

const char *
conprof_thread_name(uint32_t id)
{
    return id < CONPROF_MAX_THREAD_NAMES ? names[id] : "";
}
