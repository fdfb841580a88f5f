/* naming_object.h: the arguments of the encoders, from Python's Naming and Shapes.
 *
 * GIL held. Each reads into plain data that borrows the texts of the arguments, so it
 * is of use as long as these live. -1 with an exception set; released all the same.
 */
#ifndef CONPROF_NAMING_OBJECT_H
#define CONPROF_NAMING_OBJECT_H

#include "compat.h"
#include "otlp.h"
#include "pprof.h"

int conprof_naming_read_pprof(PyObject *args, PyObject *kwargs, struct conprof_pprof *profile);
void conprof_naming_release_pprof(struct conprof_pprof *profile);

int conprof_naming_read_otlp(PyObject *args, PyObject *kwargs, struct conprof_otlp *request);
void conprof_naming_release_otlp(struct conprof_otlp *request);

#endif
