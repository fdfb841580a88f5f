/* suspended.h: wall time of what is suspended and on no thread's stack: asyncio tasks. */
#ifndef CONPROF_SUSPENDED_H
#define CONPROF_SUSPENDED_H

#include "compat.h"

/* GIL held; module functions, see their docstrings in module.c. */
PyObject *conprof_suspended_charge(PyObject *module, PyObject *args);
PyObject *conprof_suspended_loops(PyObject *module, PyObject *ignored);

#endif
