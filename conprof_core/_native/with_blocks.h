/* with_blocks.h: whose `with` blocks a frame stands in: who holds a lock, and where.
 *
 * A lock of CPython does not know who holds it (an RLock does). But who took it by `with` keeps
 * its __exit__ on the frame's value stack as long as the block lasts, and the code says where:
 * each instruction inside is protected by a handler that begins with PUSH_EXC_INFO and
 * WITH_EXCEPT_START, and the exception table has the depth of the stack there.
 *
 * Invariant: only slots are read that are alive. A slot below the depth that the table gives
 * for an instruction is filled and stays so while the frame stands at that instruction; that
 * is what the interpreter itself relies on when an exception arises there. The frame stands
 * still because the GIL is held.
 */
#ifndef CONPROF_WITH_BLOCKS_H
#define CONPROF_WITH_BLOCKS_H

#include "compat.h"

/* GIL held; module functions, see their docstrings in module.c. */
PyObject *conprof_with_blocks(PyObject *module, PyObject *args);
PyObject *conprof_first_local(PyObject *module, PyObject *args);
PyObject *conprof_lock_address(PyObject *module, PyObject *lock);

#endif
