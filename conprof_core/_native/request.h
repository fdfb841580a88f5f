/* request.h: a request begins, is bound to its route and ends, at the least price.
 *
 * Every request pays for this several times, mostly in code that has left the CPU's caches
 * since the request before. So what RequestScope (conprof_core/_scope.py) does for nearly all
 * of them is done here: no labels around the request, a prepared LabelSet, no trace ids, no
 * portable engine. For anything else the methods call those of the same name with an underscore
 * in front, which are Python and can do it all. What decides is looked up in the globals of the
 * Python modules: there is one truth.
 */
#ifndef CONPROF_REQUEST_H
#define CONPROF_REQUEST_H

#include "compat.h"

/* GIL held. Adds PlainScope, use_scope_state(), enter_request() and switch_request(). */
int conprof_request_init(PyObject *module);

#endif
