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
    if (table_bytes > 0) {
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

static const char *
line_table(const struct conprof_code *code)
{
    return code->data + code->name_bytes + code->file_bytes;
}

static bool
is_same(const struct conprof_code *a, const struct conprof_code *b)
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

void
conprof_code_table_add(const uint64_t *words, uint32_t n)
{
    if (n < CONPROF_CODE_DATA) {
        return;
    }
    uint32_t name_kind = (uint32_t)(words[CONPROF_CODE_QUALNAME] >> 32);
    uint32_t name_raw = (uint32_t)words[CONPROF_CODE_QUALNAME];
    uint32_t file_kind = (uint32_t)(words[CONPROF_CODE_FILENAME] >> 32);
    uint32_t file_raw = (uint32_t)words[CONPROF_CODE_FILENAME];
    uint32_t table_bytes = (uint32_t)words[CONPROF_CODE_LINETABLE];
    const uint64_t *at = words + CONPROF_CODE_DATA;
    if (name_raw > CONPROF_MAX_NAME_BYTES || file_raw > CONPROF_MAX_NAME_BYTES ||
        table_bytes > CONPROF_MAX_LINETABLE_BYTES ||
        CONPROF_CODE_DATA + (name_raw + 7) / 8 + (file_raw + 7) / 8 + (table_bytes + 7) / 8 > n) {
        return;
    }
    /* Latin-1 doubles at most, wider kinds grow less. */
    char name[CONPROF_MAX_NAME_BYTES * 4], file[CONPROF_MAX_NAME_BYTES * 4];
    size_t name_bytes = decode(name, (const unsigned char *)at, name_raw, name_kind);
    at += (name_raw + 7) / 8;
    size_t file_bytes = decode(file, (const unsigned char *)at, file_raw, file_kind);
    at += (file_raw + 7) / 8;
    if (name_bytes == 0) {
        name[0] = '?';
        name_bytes = 1;
    }
    int32_t first_line = (int32_t)(uint32_t)words[CONPROF_CODE_FIRST_LINE];
    struct conprof_code *code = new_code(name, name_bytes, file, file_bytes, at, table_bytes,
                                         first_line < 1 ? 1 : first_line);
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
    const unsigned char *at = (const unsigned char *)line_table(code);
    const unsigned char *end = at + code->table_bytes;
    /* A table that was cut, or is none, may sum up to anything: 64 bits hold it (32 KiB
     * of deltas of 31 bits), and what is no line number is not passed on. */
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
