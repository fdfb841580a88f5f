/* code_table.c: see code_table.h. */
#include "code_table.h"

#include <stdlib.h>
#include <string.h>

#include "code_registry.h"
#include "hash.h"
#include "wait_place.h"

#define UID_SLOTS 16384u    /* direct-mapped: a later uid takes an earlier one's place */
#define CONTENT_SLOTS 8192u /* direct-mapped: a lost entry only costs a duplicate */

struct uid_slot {
    uint64_t uid;
    struct conprof_code *code;
};

/* owner: holder of the session lock */
static struct uid_slot by_uid[UID_SLOTS];
static struct conprof_code *by_content[CONTENT_SLOTS];
static size_t bytes_held;

static size_t
size_of(const struct conprof_code *code)
{
    return sizeof *code + code->name_bytes + code->file_bytes + code->table_bytes;
}

void
conprof_code_release(struct conprof_code *code)
{
    if (atomic_fetch_sub(&code->refs, 1) == 1) {
        free(code);
    }
}

/* Writes one code point as UTF-8; what some decoder would not take (NUL, lone
 * surrogates, numbers beyond Unicode) becomes U+FFFD. */
static size_t
put_utf8(char *to, uint32_t c)
{
    if (c == 0 || (c >= 0xD800 && c <= 0xDFFF) || c > 0x10FFFF) {
        c = 0xFFFD;
    }
    if (c < 0x80) {
        to[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        to[0] = (char)(0xC0 | c >> 6);
        to[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        to[0] = (char)(0xE0 | c >> 12);
        to[1] = (char)(0x80 | (c >> 6 & 0x3F));
        to[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    to[0] = (char)(0xF0 | c >> 18);
    to[1] = (char)(0x80 | (c >> 12 & 0x3F));
    to[2] = (char)(0x80 | (c >> 6 & 0x3F));
    to[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

/* Decodes `bytes` bytes of PEP 393 characters of `kind` bytes each. `to` has room
 * for 4 bytes a character. */
static size_t
decode(char *to, const unsigned char *from, uint32_t bytes, uint32_t kind)
{
    size_t written = 0;
    for (uint32_t i = 0; i + kind <= bytes; i += kind) {
        uint32_t c = from[i];
        if (kind >= 2) {
            c |= (uint32_t)from[i + 1] << 8;
        }
        if (kind == 4) {
            c |= (uint32_t)from[i + 2] << 16 | (uint32_t)from[i + 3] << 24;
        }
        written += put_utf8(to + written, c);
    }
    return written;
}

/* `table` may be NULL: then the caller fills it in. */
static struct conprof_code *
new_code(const char *name, size_t name_bytes, const char *file, size_t file_bytes,
         const void *table, size_t table_bytes, int32_t first_line)
{
    struct conprof_code *code = malloc(sizeof *code + name_bytes + file_bytes + table_bytes);
    if (code == NULL) {
        return NULL;
    }
    atomic_init(&code->refs, 1);
    code->name_bytes = (uint32_t)name_bytes;
    code->file_bytes = (uint32_t)file_bytes;
    code->table_bytes = (uint32_t)table_bytes;
    code->first_line = first_line;
    code->wait_rank = conprof_wait_place_rank(name, name_bytes, file, file_bytes);
    memcpy(code->data, name, name_bytes);
    memcpy(code->data + name_bytes, file, file_bytes);
    if (table != NULL && table_bytes > 0) {
        memcpy(code->data + name_bytes + file_bytes, table, table_bytes);
    }
    code->hash =
        conprof_hash_bytes((uint64_t)(uint32_t)first_line, code->data, name_bytes + file_bytes);
    return code;
}

struct conprof_code *
conprof_code_new(const char *name, size_t name_bytes, const char *file, size_t file_bytes,
                 int32_t first_line)
{
    return new_code(name, name_bytes, file, file_bytes, NULL, 0, first_line);
}

bool
conprof_code_is_twin(const struct conprof_code *a, const struct conprof_code *b)
{
    return a->hash == b->hash && a->first_line == b->first_line && a->name_bytes == b->name_bytes &&
           a->file_bytes == b->file_bytes &&
           memcmp(a->data, b->data, (size_t)a->name_bytes + a->file_bytes) == 0;
}

static char *
line_table(struct conprof_code *code)
{
    return code->data + code->name_bytes + code->file_bytes;
}

static bool
is_same(struct conprof_code *a, struct conprof_code *b)
{
    return conprof_code_is_twin(a, b) && a->table_bytes == b->table_bytes &&
           memcmp(line_table(a), line_table(b), a->table_bytes) == 0;
}

/* Replaces what a table place holds; takes over the reference of `code`. */
static void
replace(struct conprof_code **place, struct conprof_code *code)
{
    if (*place != NULL) {
        conprof_code_release(*place);
    }
    *place = code;
}

/* The ellipsis in UTF-8. */
#define MARK "\xe2\x80\xa6"
#define MARK_BYTES (sizeof MARK - 1)

/* Latin-1 doubles at most, wider kinds grow less. */
#define MAX_DECODED (2 * CONPROF_MAX_NAME_BYTES + MARK_BYTES)

/* Decodes the characters of a record's string into `to`, which has room for MAX_DECODED bytes;
 * where it was cut stands an ellipsis. 0 when the word is none. */
static size_t
read_string(char *to, uint64_t word, const void *from, bool lacks_begin)
{
    uint32_t kind = (uint32_t)(word >> 32) & 7, bytes = (uint32_t)word;
    if ((kind != 1 && kind != 2 && kind != 4) || bytes > CONPROF_MAX_NAME_BYTES) {
        return 0;
    }
    bool is_cut = (word & CONPROF_TEXT_IS_CUT) != 0;
    size_t at = 0;
    if (is_cut && lacks_begin) {
        memcpy(to, MARK, MARK_BYTES);
        at = MARK_BYTES;
    }
    at += decode(to + at, from, bytes, kind);
    if (is_cut && !lacks_begin) {
        memcpy(to + at, MARK, MARK_BYTES);
        at += MARK_BYTES;
    }
    return at;
}

/* Makes the code of a record of `n` words, whose table is in it or still in the code object. NULL
 * without memory, or if it is no such record. */
static struct conprof_code *
read_record(const uint64_t *words, uint32_t n)
{
    /* owner: holder of the session lock; too large for a stack */
    static char name[MAX_DECODED], file[MAX_DECODED];
    uint32_t name_words = ((uint32_t)words[CONPROF_CODE_QUALNAME] + 7) / 8;
    uint32_t file_words = ((uint32_t)words[CONPROF_CODE_FILENAME] + 7) / 8;
    uint32_t table_bytes = (uint32_t)words[CONPROF_CODE_LINETABLE];
    uint64_t far_bytes = words[CONPROF_CODE_FAR_BYTES];
    const uint64_t *at = words + CONPROF_CODE_DATA;
    if (name_words > CONPROF_MAX_NAME_BYTES / 8 || file_words > CONPROF_MAX_NAME_BYTES / 8 ||
        table_bytes > CONPROF_MAX_LINETABLE_BYTES ||
        CONPROF_CODE_DATA + name_words + file_words + (table_bytes + 7) / 8 > n) {
        return NULL;
    }
    size_t name_bytes = read_string(name, words[CONPROF_CODE_QUALNAME], at, false);
    size_t file_bytes = read_string(file, words[CONPROF_CODE_FILENAME], at + name_words, true);
    at += name_words + file_words;
    if (name_bytes == 0) {
        name[0] = '?';
        name_bytes = 1;
    }
    int32_t first_line = (int32_t)(uint32_t)words[CONPROF_CODE_FIRST_LINE];
    first_line = first_line < 1 ? 1 : first_line;
    if (far_bytes == 0 || far_bytes > CONPROF_MAX_FAR_LINETABLE_BYTES) {
        return new_code(name, name_bytes, file, file_bytes, at, table_bytes, first_line);
    }
    struct conprof_code *code =
        new_code(name, name_bytes, file, file_bytes, NULL, far_bytes, first_line);
    if (code != NULL &&
        !conprof_registry_read_table(words[CONPROF_CODE_UID], words[CONPROF_CODE_ADDRESS],
                                     words[CONPROF_CODE_FAR_TABLE], line_table(code), far_bytes)) {
        conprof_code_release(code);
        code = new_code(name, name_bytes, file, file_bytes, NULL, 0, first_line);
    }
    return code;
}

void
conprof_code_table_add(const uint64_t *words, uint32_t n)
{
    struct conprof_code *code = n < CONPROF_CODE_DATA ? NULL : read_record(words, n);
    if (code == NULL) {
        return;
    }
    uint64_t content = conprof_hash_bytes(code->hash, line_table(code), code->table_bytes);
    struct conprof_code **same = &by_content[content % CONTENT_SLOTS];
    if (*same != NULL && is_same(*same, code)) {
        conprof_code_release(code);
        code = *same;
    }
    else {
        bytes_held += size_of(code);
        replace(same, code);
    }
    struct uid_slot *slot = &by_uid[words[CONPROF_CODE_UID] % UID_SLOTS];
    atomic_fetch_add(&code->refs, 1);
    replace(&slot->code, code);
    slot->uid = words[CONPROF_CODE_UID];
}

struct conprof_code *
conprof_code_table_find(uint64_t uid)
{
    struct uid_slot *slot = &by_uid[uid % UID_SLOTS];
    return slot->uid == uid ? slot->code : NULL;
}

bool
conprof_code_table_is_full(void)
{
    return bytes_held > CONPROF_CODE_TABLE_MAX_BYTES;
}

void
conprof_code_table_reset(void)
{
    for (uint32_t i = 0; i < UID_SLOTS; i++) {
        if (by_uid[i].code != NULL) {
            replace(&by_uid[i].code, NULL);
            by_uid[i].uid = 0;
        }
    }
    for (uint32_t i = 0; i < CONTENT_SLOTS; i++) {
        if (by_content[i] != NULL) {
            replace(&by_content[i], NULL);
        }
    }
    bytes_held = 0;
}

/* The location table's variable-length integers: six bits a byte, 0x40 says that
 * more follow. Returns false at the end of the table. */
static bool
read_varint(const unsigned char **at, const unsigned char *end, uint32_t *value)
{
    uint32_t result = 0;
    unsigned shift = 0;
    while (*at < end && shift < 32) {
        unsigned char byte = *(*at)++;
        result |= (uint32_t)(byte & 0x3F) << shift;
        shift += 6;
        if (!(byte & 0x40)) {
            *value = result;
            return true;
        }
    }
    return false;
}

static bool
read_signed(const unsigned char **at, const unsigned char *end, int32_t *value)
{
    uint32_t raw;
    if (!read_varint(at, end, &raw)) {
        return false;
    }
    *value = raw & 1 ? -(int32_t)(raw >> 1) : (int32_t)(raw >> 1);
    return true;
}

int32_t
conprof_code_line(const struct conprof_code *code, int32_t instruction)
{
    const unsigned char *at =
        (const unsigned char *)code->data + code->name_bytes + code->file_bytes;
    const unsigned char *end = at + code->table_bytes;
    /* A table that is none may sum up to anything: 64 bits hold it (1 MiB of deltas of 31 bits),
     * and what is no line number is not passed on. */
    int64_t line = code->first_line, passed = 0;
    int32_t known = code->first_line;
    if (instruction < 0) {
        return code->first_line;
    }
    while (at < end) {
        unsigned char head = *at++;
        unsigned form = head >> 3 & 15;
        bool has_line = form != 15;
        if (!(head & 0x80)) {
            return known; /* not a table */
        }
        if (form == 13 || form == 14) {
            int32_t delta;
            uint32_t skipped;
            if (!read_signed(&at, end, &delta)) {
                return known;
            }
            line += delta;
            for (int i = 0; form == 14 && i < 3; i++) {
                if (!read_varint(&at, end, &skipped)) {
                    return known;
                }
            }
        }
        else if (form >= 10 && form <= 12) {
            line += (int32_t)form - 10;
            at += 2;
        }
        else if (form < 10) {
            at += 1;
        }
        if (has_line && line >= 0 && line <= INT32_MAX) {
            known = (int32_t)line;
        }
        passed += (head & 7) + 1;
        if (instruction < passed) {
            return known;
        }
    }
    return known;
}
