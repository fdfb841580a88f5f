/* tables.c: see tables.h. */
#include "tables.h"

#include <stdlib.h>

#include "hash.h"

/* Of a varint of 32 bits; the last of a stack may write one byte behind itself. */
#define MAX_ID_BYTES 5

bool
conprof_tables_init(struct conprof_tables *tables, const struct conprof_window *window)
{
    *tables = (struct conprof_tables){.window = window};
    tables->location_of = calloc((size_t)window->location_count + 1, sizeof(uint32_t));
    tables->failed = tables->location_of == NULL;
    return !tables->failed;
}

void
conprof_tables_free(struct conprof_tables *tables)
{
    conprof_ids_free(&tables->string_ids);
    conprof_ids_free(&tables->function_ids);
    conprof_ids_free(&tables->location_ids);
    free(tables->strings);
    free(tables->functions);
    free(tables->locations);
    free(tables->location_of);
}

static bool
same_text(const void *context, uint32_t id, const void *key)
{
    const struct conprof_text *a = &((const struct conprof_tables *)context)->strings[id];
    const struct conprof_text *b = key;
    return a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0;
}

uint32_t
conprof_tables_string(struct conprof_tables *tables, struct conprof_text text)
{
    if (text.bytes == 0) {
        return 0;
    }
    struct conprof_ids *ids = &tables->string_ids;
    uint32_t *place = conprof_ids_find(ids, conprof_hash_bytes(1, text.data, text.bytes), same_text,
                                       tables, &text);
    if (place == NULL || !conprof_array_reach((void **)&tables->strings, &tables->string_room,
                                              ids->count + 1, sizeof text)) {
        tables->failed = true;
        return 0;
    }
    if (*place == 0) {
        *place = ++ids->count;
        tables->strings[*place] = text;
    }
    return *place;
}

static bool
same_function(const void *context, uint32_t id, const void *key)
{
    const struct conprof_function_entry *a =
        &((const struct conprof_tables *)context)->functions[id - 1];
    const struct conprof_function_entry *b = key;
    return a->name == b->name && a->file == b->file && a->first_line == b->first_line;
}

static uint32_t
function_id(struct conprof_tables *tables, const struct conprof_code *code)
{
    struct conprof_function_entry key = {
        conprof_tables_string(tables,
                              (struct conprof_text){conprof_code_name(code), code->name_bytes}),
        conprof_tables_string(tables,
                              (struct conprof_text){conprof_code_file(code), code->file_bytes}),
        code->first_line};
    uint64_t hash =
        conprof_hash_word(conprof_hash_word(key.name, key.file), (uint32_t)key.first_line);
    struct conprof_ids *ids = &tables->function_ids;
    uint32_t *place = conprof_ids_find(ids, hash, same_function, tables, &key);
    if (place == NULL || !conprof_array_reach((void **)&tables->functions, &tables->function_room,
                                              ids->count, sizeof key)) {
        tables->failed = true;
        return 0;
    }
    if (*place == 0) {
        tables->functions[ids->count] = key;
        *place = ++ids->count;
    }
    return *place;
}

static bool
same_location(const void *context, uint32_t id, const void *key)
{
    const struct conprof_location_entry *a =
        &((const struct conprof_tables *)context)->locations[id - 1];
    const struct conprof_location_entry *b = key;
    return a->function == b->function && a->line == b->line;
}

/* The id of a location that was not asked for before. */
static uint32_t
add_location(struct conprof_tables *tables, uint32_t index)
{
    const struct conprof_location *location = &tables->window->locations[index];
    struct conprof_location_entry key = {function_id(tables, location->code), location->line};
    uint64_t hash = conprof_hash_word(key.function, (uint32_t)key.line);
    struct conprof_ids *ids = &tables->location_ids;
    uint32_t *place = conprof_ids_find(ids, hash, same_location, tables, &key);
    if (place == NULL || !conprof_array_reach((void **)&tables->locations, &tables->location_room,
                                              ids->count, sizeof key)) {
        tables->failed = true;
        return 0;
    }
    if (*place == 0) {
        tables->locations[ids->count] = key;
        *place = ++ids->count;
    }
    tables->location_of[index] = *place;
    return *place;
}

/* A window has 150 000 frames, of which each destination writes all. So room is looked for once a
 * stack, and there is no branch on whether an id takes one byte or two. */
void
conprof_tables_put_stack(struct conprof_tables *tables, struct conprof_wire *wire,
                         const struct conprof_stack_row *stack)
{
    const uint32_t *words = tables->window->stack_words + stack->first;
    if (!conprof_wire_reach(wire, (size_t)stack->length * MAX_ID_BYTES)) {
        return;
    }
    unsigned char *to = (unsigned char *)wire->data + wire->used;
    for (uint32_t i = 0; i < stack->length; i++) {
        uint32_t id = tables->location_of[words[i]];
        if (id == 0) {
            id = add_location(tables, words[i]);
        }
        for (; id >= 1u << 14; id >>= 7) {
            *to++ = (unsigned char)(id | 0x80);
        }
        uint32_t is_long = id >= 0x80;
        to[0] = (unsigned char)(id | is_long << 7);
        to[1] = (unsigned char)(id >> 7);
        to += 1 + is_long;
    }
    wire->used = (size_t)(to - (unsigned char *)wire->data);
}
