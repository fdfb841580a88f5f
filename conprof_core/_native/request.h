/* request.h: a request begins and ends: its label cell in the current context.
 *
 * What RequestScope does for most requests, in one call: adapters pay for it on each.
 */
#ifndef CONPROF_REQUEST_H
#define CONPROF_REQUEST_H

#include "compat.h"

/* GIL held. Adds enter_request() and switch_request() to the module. */
int conprof_request_init(PyObject *module);

#endif
