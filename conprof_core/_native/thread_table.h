/* thread_table.h: slots of threads, found by index and by thread id. Everything here runs with
 * the session lock held, but for conprof_thread_slot. */
#ifndef CONPROF_THREAD_TABLE_H
#define CONPROF_THREAD_TABLE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "threads.h"

/* Maps the table. False without memory. */
bool conprof_thread_table_init(void);

/* SIGNAL-SAFE. The slot of an index below CONPROF_MAX_THREADS, whether it is taken or not. */
struct conprof_thread *conprof_thread_slot(uint32_t index);
uint32_t conprof_thread_index(const struct conprof_thread *thread);

/* The slot of a thread, or NULL. */
struct conprof_thread *conprof_thread_table_find(pid_t tid);

/* A free slot for a thread that has none, its fields as the last owner left them; NULL when all
 * are taken. */
struct conprof_thread *conprof_thread_table_take(pid_t tid);
void conprof_thread_table_drop(struct conprof_thread *thread);

/* Slots ever used, all below this index. */
uint32_t conprof_thread_table_top(void);

#endif
