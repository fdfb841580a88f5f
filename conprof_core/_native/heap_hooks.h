/* heap_hooks.h: our functions in front of CPython's allocators.
 *
 * The hooks are put in front of whatever serves the domains RAW, MEM and OBJ and always
 * call it. `ctx` of our entry is that of the entry we displace, so a thread that reads
 * CPython's table while it is written, which RAW allows, finds a pair that fits.
 */
#ifndef CONPROF_HEAP_HOOKS_H
#define CONPROF_HEAP_HOOKS_H

#include <stdbool.h>

/* GIL held. Puts the hooks in place, or finds them still there below somebody else's.
 * NULL, or why allocations do not reach them. */
const char *conprof_heap_hooks_install(void);

/* GIL held. Gives the allocators back, unless somebody has hooked on top of us: then ours
 * stay, do nothing and are found again by the next install. */
void conprof_heap_hooks_remove(void);

/* GIL held. Whether MEM and OBJ are hooked on free as well, which most allocators do not need. */
bool conprof_heap_hooks_see_all_frees(void);

/* GIL held. Does an allocation in each domain come to our hooks? */
bool conprof_heap_hooks_are_reached(void);

#endif
