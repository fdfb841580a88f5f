/* wait_place.h: does a thread that sleeps on a futex wait for a lock, told from the place.
 *
 * The kernel tells a futex and no more: a pool's worker without work, a consumer at its queue
 * and a thread that wants a lock look the same. The functions of the standard library that
 * wait tell them apart. Their table is Python's (_engine/task_states.py), which names states
 * by it; here it is known by rank. Each code has the rank of its row from the moment that the
 * code table learns it, so that a capture compares numbers.
 */
#ifndef CONPROF_WAIT_PLACE_H
#define CONPROF_WAIT_PLACE_H

#include "compat.h"

struct conprof_code;

#define CONPROF_MAX_WAIT_PLACES 96u

enum conprof_wait_kind {
    CONPROF_KIND_IDLE,  /* not for a lock: idles, or waits for work, time or input */
    CONPROF_KIND_LOCK,  /* for what another one holds */
    CONPROF_KIND_EVENT, /* for a sign of another one: who serves nobody may idle in that way */
};

/* GIL held; module function, see its docstring in module.c. */
PyObject *conprof_wait_places_set(PyObject *module, PyObject *rows);

/* Session lock held. The rank of a function and file, 1 on; 0: it is in no row. */
uint8_t conprof_wait_place_rank(const char *name, size_t name_bytes, const char *file,
                                size_t file_bytes);

/* Session lock held. What a thread waits for that sleeps on a futex, by its stack of frame
 * words, leaf first; all its codes are in the code table. */
enum conprof_wait_kind conprof_wait_place_kind(const uint64_t *frames, uint32_t count);

/* Is it a wait for a lock? Work that has labels serves somebody, and does not idle. */
static inline bool
conprof_wait_place_is_lock(enum conprof_wait_kind kind, bool has_labels)
{
    return kind == CONPROF_KIND_LOCK || (kind == CONPROF_KIND_EVENT && has_labels);
}

#endif
