/* scratch.c: see scratch.h. */
#include "scratch.h"

#include <sys/mman.h>

struct conprof_scratch *
conprof_scratch_new(void)
{
    void *memory = mmap(NULL, sizeof(struct conprof_scratch), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

enum conprof_walk
conprof_scratch_walk(struct conprof_scratch *scratch, uintptr_t at, bool is_attached,
                     uintptr_t stack_low, uintptr_t stack_high)
{
    if (!is_attached) {
        return conprof_far_walk(&scratch->far, &scratch->state, at, &scratch->stack);
    }
    return conprof_unwind(&scratch->state, at, stack_low, stack_high, &scratch->outside,
                          &scratch->stack);
}
