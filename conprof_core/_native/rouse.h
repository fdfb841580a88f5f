/* rouse.h: what wakes the drain.
 *
 * A counter that everybody may increase and the drain sleeps on. Nothing is queued, so nothing
 * can be refused, and a call that comes while the drain is at work is not lost: it sleeps only
 * while the counter is what it was when it looked last.
 */
#ifndef CONPROF_ROUSE_H
#define CONPROF_ROUSE_H

#include <stdbool.h>
#include <stdint.h>

/* SIGNAL-SAFE, any thread. The drain looks at everything soon. */
void conprof_rouse(void);

/* The drain. How often it has been roused so far. */
uint32_t conprof_rouse_count(void);

/* The drain. Sleeps until it was roused more often than `*seen`, at most `ns` nanoseconds. Updates
 * `*seen`; true when it was roused. */
bool conprof_rouse_wait(uint32_t *seen, uint64_t ns);

#endif
