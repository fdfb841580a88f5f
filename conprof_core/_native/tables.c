/* tables.c: see tables.h. */
#include "tables.h"

#include <stdlib.h>

#include "hash.h"

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

uint32_t
conprof_tables_add_location(struct conprof_tables *tables, uint32_t index)
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
