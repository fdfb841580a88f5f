/* code_table.h: what the drain knows of each code: its names and its lines.
 *
 * Filled from the code records of the ring, keyed by content: the thousandth
 * exec of the same source is the same entry. Entries are immutable and counted;
 * a window keeps those it uses alive. All functions want the session lock
 * unless they say otherwise.
 */
#ifndef CONPROF_CODE_TABLE_H
#define CONPROF_CODE_TABLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Above this many bytes the table forgets everything and learns anew. */
#define CONPROF_CODE_TABLE_MAX_BYTES ((size_t)8 << 20)

struct conprof_code {
    _Atomic uint32_t refs;
    uint32_t name_bytes, file_bytes, table_bytes;
    int32_t first_line;
    uint8_t wait_rank; /* of wait_place.h */
    uint64_t hash;     /* of names and first line: of what a profile tells */
    char data[];       /* name, filename (both UTF-8, not terminated), line table */
};

static inline const char *
conprof_code_name(const struct conprof_code *code)
{
    return code->data;
}

static inline const char *
conprof_code_file(const struct conprof_code *code)
{
    return code->data + code->name_bytes;
}

/* Any thread, no lock: have two codes the same names and first line? Then a profile cannot tell
 * them apart. Two lambdas of one line are such twins; and a code that is held for long, as a live
 * block does, may have one that the table learnt anew. */
bool conprof_code_is_twin(const struct conprof_code *a, const struct conprof_code *b);

/* Any thread, no lock. */
void conprof_code_release(struct conprof_code *code);

/* Takes in a code record (`words` behind the header, `n` of them). */
void conprof_code_table_add(const uint64_t *words, uint32_t n);

/* The code of a uid, or NULL when it is not known (any more). Borrowed. */
struct conprof_code *conprof_code_table_find(uint64_t uid);

/* A code made of two strings, for synthetic frames and thread targets. New
 * reference, or NULL without memory. */
struct conprof_code *conprof_code_new(const char *name, size_t name_bytes, const char *file,
                                      size_t file_bytes, int32_t first_line);

/* True when the table is over its bound and wants conprof_code_table_reset. */
bool conprof_code_table_is_full(void);
void conprof_code_table_reset(void);

/* Any thread, no lock: the line of an instruction (index in code units, -1 before
 * the first), from the location table of PEP 626 and its successor format
 * (CPython Objects/locations.md). The first line where there is no table or it does not say. */
int32_t conprof_code_line(const struct conprof_code *code, int32_t instruction);

#endif
