/* context.h: reading the label cell of the interrupted thread's context.
 *
 * Why this is sound in a handler: a thread's current context is changed only by
 * that thread, which stands in the handler; HAMT nodes are immutable; a new root
 * is stored before the old one is released; the thread state owns the context,
 * the context its tree, the tree our cell. So every pointer on the way is alive.
 */
#ifndef CONPROF_CONTEXT_H
#define CONPROF_CONTEXT_H

#include "labels.h"

/* GIL held. Learns the tree's node types from contexts made for the purpose (they
 * have no public name); where that cannot be, no cell is ever found. 0, or -1 with a Python
 * exception. */
int conprof_context_init(void);

/* SIGNAL-SAFE. The cell in `ts`'s current context, borrowed, or NULL. `ts` must be
 * the calling thread's own state, or the GIL be held. */
conprof_label_cell *conprof_context_cell(const PyThreadState *ts);

/* Any thread. The address of the cell in the current context of another thread, of whose
 * state `copy` is a copy; 0 when there is none. Reads through the kernel: the thread may
 * run meanwhile, so the answer counts only if it has not. */
uintptr_t conprof_context_remote_cell(const PyThreadState *copy);

/* The same for whether the current context was entered, as by Context.run(). */
bool conprof_context_remote_is_entered(const PyThreadState *copy);

#endif
