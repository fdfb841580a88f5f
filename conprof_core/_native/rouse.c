/* rouse.c: see rouse.h. */
#include "rouse.h"

#include "futex.h"

static _Atomic uint32_t count; /* written by: any thread, handlers */

void
conprof_rouse(void)
{
    atomic_fetch_add(&count, 1);
    conprof_futex_wake(&count);
}

uint32_t
conprof_rouse_count(void)
{
    return atomic_load(&count);
}

bool
conprof_rouse_wait(uint32_t *seen, uint64_t ns)
{
    if (atomic_load(&count) == *seen) {
        conprof_futex_wait(&count, *seen, ns);
    }
    uint32_t now = atomic_load(&count);
    bool is_roused = now != *seen;
    *seen = now;
    return is_roused;
}
