/* labels.h: label sets as the native side holds them, and the cell that carries
 * them through a context.
 *
 * A label *record* is an immutable, interned list of key-value pairs. A label
 * *cell* is the value of the one ContextVar; copied contexts share it, so what
 * is bound to it later (the route) holds for all work begun before.
 *
 * Life of a record. `refs` counts LabelSet objects and aggregator entries, and
 * is changed under the session lock. A handler may copy the pointer of a record
 * into the ring while a live cell names it; therefore a record whose count
 * falls to zero goes to limbo and is freed only when, after that, no handler
 * was active and the ring was empty (conprof_labels_sweep). Until then it can be
 * revived, by a sample in the ring or by the same labels interned again.
 */
#ifndef CONPROF_LABELS_H
#define CONPROF_LABELS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "compat.h"
#include "traces.h"

/* Distinct label sets alive at once: in live cells, caches and the windows that
 * are not encoded yet. Beyond, samples carry the overflow set. */
#define CONPROF_MAX_LABEL_RECORDS 4096u

/* Labels in one set. */
#define CONPROF_MAX_LABELS 64u

/* Cells bound late, per window. Beyond, early samples keep the base labels. */
#define CONPROF_MAX_BINDINGS 4096u

struct conprof_label {
    const char *key, *value; /* UTF-8, not terminated; inside the record */
    uint32_t key_bytes, value_bytes;
};

struct conprof_label_record {
    uint32_t refs; /* owner: holder of the session lock */
    uint32_t count;
    uint64_t hash;
    struct conprof_label_record *next_in_limbo; /* owner: holder of the session lock */
    bool is_permanent;                          /* immutable */
    bool is_in_limbo;                           /* owner: holder of the session lock */
    struct conprof_label labels[];              /* sorted by key; strings follow */
};

typedef struct {
    PyObject_HEAD struct conprof_label_record *record; /* counted */
    PyObject *items;                                   /* tuple of (key, value), sorted */
} conprof_label_set;

typedef struct conprof_label_cell {
    PyObject_HEAD uint64_t id;                   /* never reused, never 0 */
    struct conprof_label_record *_Atomic record; /* written by: GIL holder; read by: handler */
    atomic_bool is_provisional;                  /* written by: GIL holder; read by: handler */
    atomic_bool was_sampled;                     /* written by: handler; read by: GIL holder */
    atomic_bool has_trace;                       /* written by: GIL holder; read by: handler */
    struct conprof_trace trace; /* written once, by: GIL holder, before `has_trace` is */
    PyObject *labels;           /* conprof_label_set, keeps `record` alive */
} conprof_label_cell;

/* What a sample says besides its stack: what stands in the cell of its context. */
struct conprof_marks {
    struct conprof_label_record *record;
    uint64_t cell_id;           /* of a provisional cell, or 0 */
    struct conprof_trace trace; /* `span` 0: none, or none yet */
};

/* GIL held. Creates types, ContextVar and permanent records; adds them to the
 * module. */
int conprof_labels_init(PyObject *module);

/* GIL held; borrowed. The ContextVar, and the type of its values. */
PyObject *conprof_labels_variable(void);
PyTypeObject *conprof_labels_cell_type(void);

/* GIL held. A new cell of a LabelSet; NULL with an exception when it is none. */
PyObject *conprof_label_cell_new(PyObject *labels, bool is_provisional);

/* GIL held. Gives a cell its final LabelSet; samples already taken under it get that as well. */
void conprof_label_cell_bind(PyObject *cell, PyObject *labels);

/* GIL held. */
bool conprof_is_label_set(PyObject *value);

/* The marks of no cell. */
struct conprof_marks conprof_marks_none(void);

/* The record of no labels, and of what found no room; never freed. */
struct conprof_label_record *conprof_labels_empty(void);
struct conprof_label_record *conprof_labels_overflow(void);

/* Session lock held. */
void conprof_labels_acquire(struct conprof_label_record *record);
void conprof_labels_release(struct conprof_label_record *record);

/* Session lock held. The record with one label more, or with another value of it; counted for
 * the caller. NULL when there is no room. */
struct conprof_label_record *conprof_labels_extend(const struct conprof_label_record *record,
                                                   const struct conprof_label *more);

/* Session lock held. Frees what is in limbo; the caller vouches that no handler
 * was active and the ring was empty at one moment after it took the lock. */
void conprof_labels_sweep(void);

/* Session lock held. The record bound to a cell since the last reset, or NULL. */
struct conprof_label_record *conprof_labels_binding(uint64_t cell_id);
void conprof_labels_reset_bindings(void);

/* Session lock held. Is this the address of a record that is alive? Not dereferenced. */
bool conprof_labels_is_known(const struct conprof_label_record *record);

/* SIGNAL-SAFE, any thread: this provisional cell was seen by somebody who could not say
 * so in the cell, which may die at any moment. Then, before the window is through, bind()
 * tells (GIL held): was it maybe seen? Wrongly yes is possible, and harmless. */
void conprof_labels_mark_looked(uint64_t cell_id);
bool conprof_labels_was_looked(uint64_t cell_id);

/* Session lock held: records alive now, intern requests and bindings refused. */
uint32_t conprof_labels_alive(void);
uint64_t conprof_labels_refused(void);

#endif
