/* thread_table.c: see thread_table.h. */
#include "thread_table.h"

#include <sys/mman.h>

#define PLACES (4u * CONPROF_MAX_THREADS) /* at most a quarter is taken */
#define MASK (PLACES - 1)

_Static_assert((PLACES & MASK) == 0, "a power of two");
_Static_assert(CONPROF_MAX_THREADS < UINT16_MAX, "an index and one more fit into a place");

static struct conprof_thread *slots; /* immutable after init: CONPROF_MAX_THREADS of them */

/* owner: holder of the session lock. Places hold an index + 1, linear probing: a thread lies
 * between its home and the next empty place. */
static uint16_t places[PLACES];
static uint16_t free_slots[CONPROF_MAX_THREADS]; /* a stack of indices */
static uint32_t free_count;
static uint32_t top;

bool
conprof_thread_table_init(void)
{
    if (slots == NULL) {
        /* Not populated: a slot costs memory only when a thread uses it. */
        void *memory = mmap(NULL, CONPROF_MAX_THREADS * sizeof *slots, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) {
            return false;
        }
        slots = memory;
    }
    return true;
}

struct conprof_thread *
conprof_thread_slot(uint32_t index)
{
    return &slots[index];
}

uint32_t
conprof_thread_index(const struct conprof_thread *thread)
{
    return (uint32_t)(thread - slots);
}

uint32_t
conprof_thread_table_top(void)
{
    return top;
}

static pid_t
tid_at(uint32_t place)
{
    return atomic_load_explicit(&slots[places[place] - 1].tid, memory_order_relaxed);
}

/* Thread ids are given out in a row: neighbours shall not share a run of places. */
static uint32_t
home_of(pid_t tid)
{
    return ((uint32_t)tid * UINT32_C(0x9E3779B1)) >> 8 & MASK;
}

/* The place of a thread, or the empty place where it would go. */
static uint32_t
find(pid_t tid)
{
    uint32_t at = home_of(tid);
    while (places[at] != 0 && tid_at(at) != tid) {
        at = (at + 1) & MASK;
    }
    return at;
}

struct conprof_thread *
conprof_thread_table_find(pid_t tid)
{
    uint16_t place = places[find(tid)];
    return place == 0 ? NULL : &slots[place - 1];
}

struct conprof_thread *
conprof_thread_table_take(pid_t tid)
{
    if (free_count == 0 && top == CONPROF_MAX_THREADS) {
        return NULL;
    }
    uint32_t index = free_count > 0 ? free_slots[--free_count] : top++;
    places[find(tid)] = (uint16_t)(index + 1);
    atomic_store_explicit(&slots[index].tid, tid, memory_order_relaxed);
    return &slots[index];
}

void
conprof_thread_table_drop(struct conprof_thread *thread)
{
    uint32_t hole = find(atomic_load_explicit(&thread->tid, memory_order_relaxed));
    /* Closes the gap, so that every thread stays reachable from its home. */
    for (uint32_t at = (hole + 1) & MASK; places[at] != 0; at = (at + 1) & MASK) {
        if (((at - home_of(tid_at(at))) & MASK) >= ((at - hole) & MASK)) {
            places[hole] = places[at];
            hole = at;
        }
    }
    places[hole] = 0;
    atomic_store_explicit(&thread->tid, 0, memory_order_relaxed);
    free_slots[free_count++] = (uint16_t)conprof_thread_index(thread);
}
