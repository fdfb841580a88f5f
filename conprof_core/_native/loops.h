/* loops.h: the asyncio loops that run, as Python tells them to the looker (blocked.h). */
#ifndef CONPROF_LOOPS_H
#define CONPROF_LOOPS_H

#include "compat.h"

/* GIL held; module functions, see their docstrings in module.c. */
PyObject *conprof_loops_running(PyObject *module, PyObject *ignored);
PyObject *conprof_loops_watch(PyObject *module, PyObject *pairs);

#endif
