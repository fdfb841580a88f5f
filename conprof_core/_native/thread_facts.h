/* thread_facts.h: what a snapshot wants to know of threads. */
#ifndef CONPROF_THREAD_FACTS_H
#define CONPROF_THREAD_FACTS_H

#include "compat.h"

/* GIL held; module function, see its docstring in module.c. */
PyObject *conprof_thread_facts(PyObject *module, PyObject *idents);

#endif
