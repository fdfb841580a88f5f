/* layout.h: is this interpreter laid out as the headers say that the extension was built with?
 *
 * CPython's private structures change between patch releases too: 3.13 and 3.14 both appended
 * fields to the thread state after their first release, which moves all that lies behind it. A
 * wheel is built with the headers of one release and runs on another. So before anything relies on
 * a private offset, an experiment shows that what lies there is what the public API says: each
 * field that is read has a check here or in self_test.c, and all of them read through the kernel,
 * so that a wrong offset gives a wrong value and not a crash. Where one fails the portable engine
 * serves, with the reason.
 *
 * What is checked where
 *   thread state   interp, ids, attached or not: state.c; context, context_ver, chunk: here;
 *                  current frame: the walk of self_test.c
 *   frame          code, instruction, previous, owner: the walk; a frame object's frame: here
 *   generator      its frame: the walk, which stands in one
 *   code, strings, bytes   here
 *   context, HAMT, variable   the label look-up of self_test.c, in a small and a large tree
 *   interpreter    the GIL: here
 *   runtime        the list of interpreters: here
 *   pools of pymalloc   heap_pools.c
 *   running event loop  conprof_layout_loop, which finds the offset
 */
#ifndef CONPROF_LAYOUT_H
#define CONPROF_LAYOUT_H

#include "compat.h"

/* GIL held. NULL when all is where it is expected, else what is not, in words for the user. A
 * Python exception may be set as well. */
const char *conprof_layout_check(void);

/* GIL held. The asyncio loop that runs in a thread, borrowed; NULL or None where none does, or
 * where it cannot be told where CPython keeps it. Makes no object that the collector knows. */
PyObject *conprof_layout_loop(PyThreadState *ts);

#endif
