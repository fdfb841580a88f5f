/* gc_pause.h: how long the garbage collector stops whoever it runs in.
 *
 * A builtin function in gc.callbacks: so it leaves no Python frame on anybody's stack. It runs
 * with the GIL, in the thread that collects, at any allocation or between two instructions.
 * A collection does not begin within another.
 *
 * At the end of a collection the pause is charged to where the thread stands and what it is
 * labelled, below a leaf [gc generation N]. Pauses shorter than CONPROF_GC_QUANTUM_NS are
 * added up, by generation, and the sum is charged to where the one that fills it falls: sums
 * are exact, the places of short ones a statistic, and a program that collects thousands of
 * times a second pays for a walk per half millisecond of pause at most.
 *
 * Invariant: nothing here allocates, waits or takes a lock; the record goes through the ring.
 * What finds no room there stays in the sum.
 */
#ifndef CONPROF_GC_PAUSE_H
#define CONPROF_GC_PAUSE_H

#include "aggregate.h"
#include "compat.h"

/* On average, evenly from half to one and a half. */
#define CONPROF_GC_QUANTUM_NS 500000u

/* Words of a CONPROF_RECORD_PAUSE behind its header; then one word a frame, leaf first. */
enum conprof_pause_word {
    CONPROF_PAUSE_NS,
    CONPROF_PAUSE_COUNT,  /* collections */
    CONPROF_PAUSE_CELL,   /* id of a provisional label cell, or 0 */
    CONPROF_PAUSE_RECORD, /* struct conprof_label_record * */
    CONPROF_PAUSE_THREAD, /* tid */
    CONPROF_PAUSE_FRAMES,
};

/* GIL held. Adds gc_callback() and gc_flush() to the module. */
int conprof_gc_pause_init(PyObject *module);

/* GIL held. What was added up is nobody's: a session begins, or a fork's child. */
void conprof_gc_pause_forget(void);

/* Session lock held: adds a record (`words` behind the header). */
void conprof_gc_pause_add(struct conprof_window *window, const uint64_t *words, uint32_t n);

#endif
