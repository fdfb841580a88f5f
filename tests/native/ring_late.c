/* ring_late.c: a header that names more words than were reserved is never believed.
 *
 * Compiled with ring.c alone by test_drain.py. A writer that a reset of the ring has overtaken
 * publishes where others' records lie; the reader must neither overrun its buffer nor stop for
 * good.
 */
#include <stdio.h>
#include <string.h>

#include "../../conprof_core/_native/ring.h"

bool
conprof_safe_read(void *to, uintptr_t from, size_t bytes)
{
    memcpy(to, (const void *)from, bytes);
    return true;
}

static struct conprof_ring ring;
static struct {
    uint64_t words[CONPROF_RING_MAX_RECORD], guard;
} out;

static int
check(const char *what, bool is_so)
{
    if (!is_so) {
        printf("%s\n", what);
    }
    return !is_so;
}

/* The first record's header says `words`; then a whole one follows. */
static int
try_header(uint64_t header)
{
    struct conprof_ring_slot late, next;
    int kind, failed = 0;
    if (!conprof_ring_init(&ring)) {
        return 1;
    }
    uint64_t before = conprof_ring_corrupt(&ring);
    conprof_ring_reserve(&ring, 8, &late);
    conprof_ring_publish(&late, CONPROF_RECORD_SAMPLE);
    ring.words[0] = header;
    out.guard = 42;
    uint32_t n = conprof_ring_take(&ring, out.words, &kind);
    failed += check("nothing is believed", n == 0 && kind == CONPROF_RECORD_PAD);
    failed += check("the buffer is whole", out.guard == 42);
    failed += check("it is counted", conprof_ring_corrupt(&ring) == before + 1);
    failed += check("nothing is left", conprof_ring_fill(&ring) == 0);
    failed += check("the next is reserved", conprof_ring_reserve(&ring, 4, &next));
    conprof_ring_put(&next, 1, 7);
    conprof_ring_publish(&next, CONPROF_RECORD_CODE);
    n = conprof_ring_take(&ring, out.words, &kind);
    failed += check("and read", n == 3 && kind == CONPROF_RECORD_CODE && out.words[0] == 7);
    return failed;
}

int
main(void)
{
    uint64_t kind = (uint64_t)CONPROF_RECORD_SAMPLE << 32;
    return try_header(kind | 9) + try_header(kind | (CONPROF_RING_MAX_RECORD + 1)) +
           try_header(kind | UINT32_MAX) + try_header(kind);
}
