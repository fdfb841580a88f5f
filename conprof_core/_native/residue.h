/* residue.h: CPU time whose labels are known, and whose stack is not.
 *
 * When a short piece of work ends, such as an item of a pool or a request that has a
 * thread of its own, the CPU time since the thread's last sample belongs to the labels
 * that stand. On which stacks it was used, only samples of other such pieces can say. So
 * it waits in the `residue_ns` of a row until its window closes; then it is spread over
 * the samples of the same labels and thread name, where there are none over those of the
 * same labels in any thread, and where there are none either it stays with its row,
 * whose stack is what the thread was started for.
 *
 * Invariant: the CPU time (and the wall time that goes with it) of each label set, and
 * so of the window, is the same before and after.
 */
#ifndef CONPROF_RESIDUE_H
#define CONPROF_RESIDUE_H

#include "aggregate.h"

/* Session lock held, once, when the window closes and its labels are resolved. Without
 * memory, and beyond CONPROF_RESIDUE_GROUPS, residues stay with their rows. */
#define CONPROF_RESIDUE_GROUPS 8192u
void conprof_residue_spread(struct conprof_window *window);

#endif
