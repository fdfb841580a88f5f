/* lock_search.h: the lock that a thread waits for, found from the frame that waits. */
#ifndef CONPROF_LOCK_SEARCH_H
#define CONPROF_LOCK_SEARCH_H

#include "compat.h"

/* GIL held; module function, see its docstring in module.c. */
PyObject *conprof_lock_search(PyObject *module, PyObject *args);

#endif
