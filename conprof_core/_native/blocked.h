/* blocked.h: time in which one callback kept an asyncio loop from all others.
 *
 * Looked at from outside; nothing is put into a loop. A thread that runs a loop is *watched*:
 * the look at tasks, which has the GIL, says which epoll descriptor the loop waits on. Then
 * every look (offcpu.c), without the GIL, reads of the thread:
 *   - PyThreadState.context_ver, which CPython raises whenever a context is entered or left,
 *     and at no other time. asyncio and uvloop run each callback, and each step of a task, in
 *     a context. So while the number stands, the thread is in one and the same callback, or in
 *     the loop's own code between two;
 *   - whether the current context was entered. The loop's own code runs outside;
 *   - whether it waits in epoll on the loop's descriptor, that is, is idle.
 * A *span* is a run of looks that find one number, inside, not idle. It is taken to begin
 * halfway between its first look and the one before, and to end likewise.
 *
 * Invariant: of a span longer than the threshold all its time is charged to LOOP_BLOCKED_NS,
 * of any other none. The time goes where the thread's wall time went with that number: CPU
 * samples carry it (CONPROF_SAMPLE_LOOP), and off-CPU time is settled with it.
 *
 * All functions want the session lock. Memory is fixed: CONPROF_MAX_LOOPS accounts; further
 * loops are not watched.
 */
#ifndef CONPROF_BLOCKED_H
#define CONPROF_BLOCKED_H

#include "aggregate.h"
#include "threads.h"

/* Threads whose loops are watched at once. Fits into CONPROF_SAMPLE_LOOP. */
#define CONPROF_MAX_LOOPS 64u

/* Distinct rows of one span; what comes beyond is added to the last. */
#define CONPROF_BLOCKED_PLACES 64u

/* Nanoseconds between looks at watched threads while one is suspect. */
#define CONPROF_BLOCKED_PEEK_NS 10000000u

/* Forgets all loops. `threshold_ns`: how long a callback may take. */
void conprof_blocked_configure(uint64_t threshold_ns);

/* The loops that run now: of each its thread and its epoll descriptor. Others are let go. */
struct conprof_loop {
    pid_t tid;
    int descriptor;
};
void conprof_blocked_watch(struct conprof_window *window, const struct conprof_loop *loops,
                           uint32_t count);

/* Is it the descriptor that the loop of a watched thread waits on? */
bool conprof_blocked_is_idle(const struct conprof_thread *thread, int descriptor);

/* Wall time of a watched thread's row; `version` as it was then. `loop` is
 * conprof_thread.loop. */
void conprof_blocked_add(uint32_t loop, uint64_t version, uint32_t row, uint64_t ns);

/* The same for a sample that was just added to `row`. */
void conprof_blocked_add_sample(const struct conprof_window *window, const uint64_t *words,
                                const struct conprof_row *row);

/* A look found a watched thread in the callback of this number, or, with 0, in none. `row`
 * is where it stands, or NULL. */
void conprof_blocked_look(struct conprof_window *window, const struct conprof_thread *thread,
                          uint64_t version, uint64_t now_ns, struct conprof_row *row);

/* When watched threads should be looked at again; UINT64_MAX when they can wait for the next
 * look at all threads. */
uint64_t conprof_blocked_peek_ns(void);

/* The window ends, after a last look: what is charged later belongs to the next. */
void conprof_blocked_close(struct conprof_window *window);

/* The thread's slot is about to be given up. */
void conprof_blocked_release(struct conprof_window *window, struct conprof_thread *thread);

/* Blocks charged since configure; loops watched now. */
uint64_t conprof_blocked_count(void);
uint32_t conprof_blocked_watched(void);

#endif
