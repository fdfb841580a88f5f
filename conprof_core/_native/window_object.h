/* window_object.h: the Python face of a detached window. */
#ifndef CONPROF_WINDOW_OBJECT_H
#define CONPROF_WINDOW_OBJECT_H

#include "aggregate.h"
#include "compat.h"

/* GIL held. Adds the type Window to the module. */
int conprof_window_object_init(PyObject *module);

/* GIL held. Wraps a window, which it takes over even when it fails. */
PyObject *conprof_window_object_new(struct conprof_window *window);

/* GIL held, released meanwhile. The function join() of the module. */
PyObject *conprof_window_object_join(PyObject *module, PyObject *args, PyObject *kwargs);

#endif
