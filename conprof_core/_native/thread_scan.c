/* thread_scan.c: the threads that this process has, see threads.h. Everything here runs with the
 * session lock held. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "threads.h"

/* A full scan after this many cheap looks: a thread may have come while another
 * went. With a look every 100 ms of CPU that is once a second of CPU. */
#define LOOKS_PER_SCAN 10

/* A thread that has used so much since its last sample may have come to block our signal. */
#define FAR_NS UINT64_C(300000000)

/* What can be asked of so many threads in one scan; of the others in the next ones. */
#define MAX_QUESTIONS 64

static pid_t excluded_tid;
static nlink_t last_links;
static uint32_t looks;
static uint32_t without_slot;  /* threads, when it looked last */
static bool was_full;          /* once in this session there was no slot for a thread */
static bool is_newborn;        /* a thread that may only just have been made was found blocking */
static uint32_t next_question; /* the slot that is asked first */

void
conprof_threads_scan_anew(void)
{
    last_links = 0;
    looks = 0;
    without_slot = 0;
    was_full = false;
}

void
conprof_threads_exclude(pid_t tid)
{
    excluded_tid = tid;
}

uint32_t
conprof_threads_without_slot(void)
{
    return without_slot;
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

/* Do signals still reach those that they reached, and do they reach the others by now? */
static void
ask(void)
{
    uint32_t slots = conprof_threads_slots(), questions = 0, i = 0;
    for (; i < slots && questions < MAX_QUESTIONS; i++) {
        struct conprof_thread *thread = conprof_threads_at((next_question + i) % slots);
        if (thread == NULL ||
            (thread->reach == CONPROF_REACHED &&
             conprof_cpu_of_ns(thread->tid) < atomic_load(&thread->last_cpu_ns) + FAR_NS)) {
            continue;
        }
        questions++;
        conprof_threads_retry(thread);
    }
    next_question = slots == 0 ? 0 : (next_question + i) % slots;
}

/* The slot of a thread that was found; NULL when none can be had, or it has ended. */
static struct conprof_thread *
meet(pid_t tid, bool from_now)
{
    struct conprof_thread *thread = conprof_threads_find(tid);
    if (thread != NULL && !conprof_threads_is_dead(thread)) {
        return thread;
    }
    uint64_t used = conprof_cpu_of_ns(tid);
    /* What one that got no slot before has used may be in a window already, as that of nobody
     * known: it begins now. */
    thread = conprof_threads_arm(tid, kernel_name_id(tid), from_now || was_full ? used : 0);
    if (thread == NULL && conprof_cpu_of_ns(tid) != 0) {
        without_slot++;
        was_full = true;
    }
    else if (thread != NULL && thread->reach == CONPROF_REACH_BLOCKED) {
        is_newborn = true; /* libc has a new thread block everything until it is set up */
    }
    return thread;
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
    uint32_t slots = conprof_threads_slots();
    for (uint32_t i = 0; i < slots; i++) {
        struct conprof_thread *thread = conprof_threads_at(i);
        if (thread != NULL) {
            thread->was_seen = false;
        }
    }
    without_slot = 0;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        pid_t tid = (pid_t)atoi(entry->d_name);
        struct conprof_thread *thread =
            tid <= 0 || tid == excluded_tid ? NULL : meet(tid, from_now);
        if (thread != NULL) {
            thread->was_seen = true;
        }
    }
    closedir(directory);
    for (uint32_t i = 0; i < slots; i++) {
        struct conprof_thread *thread = conprof_threads_at(i);
        if (thread != NULL && !thread->was_seen) {
            conprof_threads_retire(thread);
        }
    }
    ask();
    looks = is_newborn ? LOOKS_PER_SCAN : 0;
    is_newborn = false;
}
