/* pprof.c: see pprof.h. Field numbers are those of profile.proto. */
#include "pprof.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "hash.h"
#include "threads.h"

/* ---- a growing buffer; after a failure it stays failed ---- */

struct buffer {
    char *data;
    size_t used, room;
    bool failed;
};

static void
put_bytes(struct buffer *buffer, const void *data, size_t bytes)
{
    if (buffer->used + bytes > buffer->room && !buffer->failed) {
        size_t room = buffer->room == 0 ? 1024 : buffer->room;
        while (room < buffer->used + bytes) {
            room *= 2;
        }
        char *bigger = realloc(buffer->data, room);
        buffer->failed = bigger == NULL;
        if (bigger != NULL) {
            buffer->data = bigger;
            buffer->room = room;
        }
    }
    if (!buffer->failed && bytes > 0) {
        memcpy(buffer->data + buffer->used, data, bytes);
        buffer->used += bytes;
    }
}

static size_t
varint(char *to, uint64_t value)
{
    size_t n = 0;
    for (; value >= 0x80; value >>= 7) {
        to[n++] = (char)(value | 0x80);
    }
    to[n++] = (char)value;
    return n;
}

static void
put_varint(struct buffer *buffer, uint64_t value)
{
    char bytes[10];
    put_bytes(buffer, bytes, varint(bytes, value));
}

/* A scalar field; proto3 leaves zeros out. */
static void
put_number(struct buffer *buffer, uint32_t field, uint64_t value)
{
    if (value != 0) {
        put_varint(buffer, field << 3);
        put_varint(buffer, value);
    }
}

static void
put_block(struct buffer *buffer, uint32_t field, const void *data, size_t bytes)
{
    put_varint(buffer, field << 3 | 2);
    put_varint(buffer, bytes);
    put_bytes(buffer, data, bytes);
}

static void
put_message(struct buffer *buffer, uint32_t field, struct buffer *message)
{
    buffer->failed |= message->failed;
    put_block(buffer, field, message->data, message->used);
    message->used = 0;
}

/* ---- tables with ids ---- */

/* An open-addressing set of ids; what a key is, the caller's `same` knows. */
struct ids {
    uint32_t *entries; /* id, 0 is free */
    uint64_t *hashes;
    uint32_t size, count;
};

/* The place of a key: an id found, or 0 and where it belongs. */
static uint32_t *
ids_find(struct ids *ids, uint64_t hash, bool (*same)(const void *, uint32_t, const void *),
         const void *context, const void *key)
{
    if (ids->size < 2 * (ids->count + 1)) {
        uint32_t size = ids->size == 0 ? 1024 : ids->size * 2;
        uint32_t *entries = calloc(size, sizeof *entries);
        uint64_t *hashes = calloc(size, sizeof *hashes);
        if (entries == NULL || hashes == NULL) {
            free(entries);
            free(hashes);
            return NULL;
        }
        for (uint32_t i = 0; i < ids->size; i++) {
            if (ids->entries[i] != 0) {
                uint32_t at = (uint32_t)ids->hashes[i] & (size - 1);
                while (entries[at] != 0) {
                    at = (at + 1) & (size - 1);
                }
                entries[at] = ids->entries[i];
                hashes[at] = ids->hashes[i];
            }
        }
        free(ids->entries);
        free(ids->hashes);
        ids->entries = entries;
        ids->hashes = hashes;
        ids->size = size;
    }
    uint32_t at = (uint32_t)hash & (ids->size - 1);
    while (ids->entries[at] != 0 &&
           !(ids->hashes[at] == hash && same(context, ids->entries[at], key))) {
        at = (at + 1) & (ids->size - 1);
    }
    ids->hashes[at] = hash;
    return &ids->entries[at];
}

static void
ids_free(struct ids *ids)
{
    free(ids->entries);
    free(ids->hashes);
}

struct function_key {
    const struct conprof_code *code;
    uint32_t name, file;
};

struct location_key {
    uint32_t function;
    int32_t line;
};

/* What two rows must share to be one sample. */
struct sample_key {
    const struct conprof_row *row;
    const struct conprof_label_record *record;
    uint32_t name_id;
};

struct encoder {
    const struct conprof_window *window;
    const struct conprof_naming *naming;
    struct buffer strings, functions, locations, samples, message, packed;
    struct ids string_ids, function_ids, location_ids, sample_ids, record_ids;
    const struct conprof_label_record **record; /* by record id - 1 */
    struct conprof_text *texts;                 /* by string id */
    struct function_key *function;              /* by function id - 1 */
    struct location_key *location;              /* by location id - 1 */
    struct merged {
        struct sample_key key;
        uint64_t values[CONPROF_MAX_SAMPLE_TYPES];
    } *merged;             /* by sample id - 1 */
    uint32_t *location_id; /* window location -> location id, 0 not seen */
    size_t text_room, function_room, location_room;
    bool failed;
};

static bool
make_room(struct encoder *encoder, void **array, size_t *room, size_t index, size_t size)
{
    if (index < *room) {
        return true;
    }
    size_t wanted = *room == 0 ? 512 : *room * 2;
    void *bigger = realloc(*array, wanted * size);
    if (bigger == NULL) {
        encoder->failed = true;
        return false;
    }
    *array = bigger;
    *room = wanted;
    return true;
}

static bool
same_text(const void *context, uint32_t id, const void *key)
{
    const struct conprof_text *a = &((const struct encoder *)context)->texts[id], *b = key;
    return a->bytes == b->bytes && (a->bytes == 0 || memcmp(a->data, b->data, a->bytes) == 0);
}

/* The index of a string. Index 0 is "", as the format demands; ids in the set are
 * index + 1 so that 0 stays free. */
static uint32_t
string_id(struct encoder *encoder, struct conprof_text text)
{
    if (text.bytes == 0) {
        return 0;
    }
    uint32_t *place = ids_find(&encoder->string_ids, conprof_hash_bytes(1, text.data, text.bytes),
                               same_text, encoder, &text);
    if (place == NULL) {
        encoder->failed = true;
        return 0;
    }
    if (*place == 0 && make_room(encoder, (void **)&encoder->texts, &encoder->text_room,
                                 encoder->string_ids.count + 1, sizeof *encoder->texts)) {
        *place = ++encoder->string_ids.count;
        encoder->texts[*place] = text;
        put_block(&encoder->strings, 6, text.data, text.bytes);
    }
    return *place;
}

static bool
same_function(const void *context, uint32_t id, const void *key)
{
    const struct function_key *a = &((const struct encoder *)context)->function[id - 1], *b = key;
    return a->name == b->name && a->file == b->file && a->code->first_line == b->code->first_line;
}

static uint32_t
function_id(struct encoder *encoder, const struct conprof_code *code)
{
    struct function_key key = {
        code, string_id(encoder, (struct conprof_text){conprof_code_name(code), code->name_bytes}),
        string_id(encoder, (struct conprof_text){conprof_code_file(code), code->file_bytes})};
    uint64_t hash =
        conprof_hash_word(conprof_hash_word(key.name, key.file), (uint32_t)code->first_line);
    uint32_t *place = ids_find(&encoder->function_ids, hash, same_function, encoder, &key);
    if (place == NULL) {
        encoder->failed = true;
        return 0;
    }
    if (*place == 0 && make_room(encoder, (void **)&encoder->function, &encoder->function_room,
                                 encoder->function_ids.count, sizeof key)) {
        encoder->function[encoder->function_ids.count] = key;
        *place = ++encoder->function_ids.count;
        put_number(&encoder->message, 1, *place);
        put_number(&encoder->message, 2, key.name);
        put_number(&encoder->message, 4, key.file);
        put_number(&encoder->message, 5, (uint64_t)(int64_t)code->first_line);
        put_message(&encoder->functions, 5, &encoder->message);
    }
    return *place;
}

static bool
same_location(const void *context, uint32_t id, const void *key)
{
    const struct location_key *a = &((const struct encoder *)context)->location[id - 1], *b = key;
    return a->function == b->function && a->line == b->line;
}

static uint32_t
location_id(struct encoder *encoder, uint32_t index)
{
    if (encoder->location_id[index] != 0) {
        return encoder->location_id[index];
    }
    const struct conprof_location *location = &encoder->window->locations[index];
    struct location_key key = {function_id(encoder, location->code), location->line};
    uint64_t hash = conprof_hash_word(key.function, (uint32_t)key.line);
    uint32_t *place = ids_find(&encoder->location_ids, hash, same_location, encoder, &key);
    if (place == NULL) {
        encoder->failed = true;
        return 0;
    }
    if (*place == 0 && make_room(encoder, (void **)&encoder->location, &encoder->location_room,
                                 encoder->location_ids.count, sizeof key)) {
        encoder->location[encoder->location_ids.count] = key;
        *place = ++encoder->location_ids.count;
        struct buffer line = {0};
        put_number(&line, 1, key.function);
        put_number(&line, 2, (uint64_t)(int64_t)key.line);
        put_number(&encoder->message, 1, *place);
        put_number(&encoder->message, 2, 1);
        put_message(&encoder->message, 4, &line);
        free(line.data);
        put_message(&encoder->locations, 4, &encoder->message);
    }
    encoder->location_id[index] = *place;
    return *place;
}

/* ---- samples ---- */

/* By identity: records are interned (label_records.c), stacks and names have ids, so
 * equal content is the same record, stack or id within a window. */
static bool
same_sample(const void *context, uint32_t id, const void *key)
{
    const struct sample_key *a = &((const struct encoder *)context)->merged[id - 1].key, *b = key;
    return a->row->stack == b->row->stack && a->record == b->record && a->name_id == b->name_id;
}

static bool
has_values(const struct conprof_naming *naming, const struct conprof_row *row)
{
    for (size_t i = 0; i < naming->sample_type_count; i++) {
        if (row->values[naming->sample_types[i].column] != 0) {
            return true;
        }
    }
    return false;
}

static bool
same_record(const void *context, uint32_t id, const void *key)
{
    return ((const struct encoder *)context)->record[id - 1] == key;
}

/* The labels of a row, or the overflow when there are more sets than wanted. */
static const struct conprof_label_record *
record_of(struct encoder *encoder, const struct conprof_row *row)
{
    uint32_t bound = encoder->naming->max_label_sets;
    if (bound == 0) {
        return row->record;
    }
    uint32_t *place = ids_find(&encoder->record_ids, conprof_hash_word(0, (uintptr_t)row->record),
                               same_record, encoder, row->record);
    if (place == NULL) {
        encoder->failed = true;
        return row->record;
    }
    if (*place == 0) {
        if (encoder->record_ids.count >= bound) {
            return conprof_labels_overflow();
        }
        *place = ++encoder->record_ids.count;
        encoder->record[*place - 1] = row->record;
    }
    return row->record;
}

static void
merge_rows(struct encoder *encoder)
{
    for (uint32_t i = 0; i < encoder->window->row_count && !encoder->failed; i++) {
        const struct conprof_row *row = &encoder->window->rows[i];
        if (!has_values(encoder->naming, row)) {
            continue;
        }
        struct sample_key key = {row, record_of(encoder, row),
                                 encoder->naming->thread_label.bytes ? row->name_id : 0};
        uint64_t hash =
            conprof_hash_word(conprof_hash_word((uintptr_t)key.record, row->stack), key.name_id);
        uint32_t *place = ids_find(&encoder->sample_ids, hash, same_sample, encoder, &key);
        if (place == NULL) {
            encoder->failed = true;
            return;
        }
        if (*place == 0) {
            *place = ++encoder->sample_ids.count;
            encoder->merged[*place - 1] = (struct merged){.key = key};
        }
        for (size_t at = 0; at < encoder->naming->sample_type_count; at++) {
            encoder->merged[*place - 1].values[at] +=
                row->values[encoder->naming->sample_types[at].column];
        }
    }
}

static void
put_label(struct encoder *encoder, struct buffer *sample, struct conprof_text key,
          struct conprof_text value)
{
    uint32_t key_id = string_id(encoder, key), value_id = string_id(encoder, value);
    if (key_id != 0 && value_id != 0) {
        put_number(&encoder->packed, 1, key_id);
        put_number(&encoder->packed, 2, value_id);
        put_message(sample, 3, &encoder->packed);
    }
}

static struct conprof_text
renamed(const struct conprof_naming *naming, struct conprof_text key)
{
    for (size_t i = 0; i < naming->rename_count; i++) {
        if (naming->renames[i].from.bytes == key.bytes &&
            memcmp(naming->renames[i].from.data, key.data, key.bytes) == 0) {
            return naming->renames[i].to;
        }
    }
    return key;
}

static void
put_sample(struct encoder *encoder, const struct merged *merged)
{
    const struct conprof_naming *naming = encoder->naming;
    const struct conprof_stack_row *stack = &encoder->window->stacks[merged->key.row->stack];
    struct buffer *sample = &encoder->message;
    for (uint32_t i = 0; i < stack->length; i++) {
        uint32_t index = encoder->window->stack_words[stack->first + i];
        put_varint(&encoder->packed, encoder->location_id[index]);
    }
    put_message(sample, 1, &encoder->packed);
    for (size_t i = 0; i < naming->sample_type_count; i++) {
        put_varint(&encoder->packed, merged->values[i]);
    }
    put_message(sample, 2, &encoder->packed);
    const struct conprof_label_record *record = merged->key.record;
    for (uint32_t i = 0; i < record->count; i++) {
        const struct conprof_label *label = &record->labels[i];
        put_label(encoder, sample,
                  renamed(naming, (struct conprof_text){label->key, label->key_bytes}),
                  (struct conprof_text){label->value, label->value_bytes});
    }
    const char *name = conprof_thread_name(merged->key.name_id);
    if (naming->thread_label.bytes > 0 && name[0] != '\0') {
        put_label(encoder, sample, naming->thread_label, (struct conprof_text){name, strlen(name)});
    }
    put_message(&encoder->samples, 2, sample);
}

/* ---- the profile ---- */

static void
put_value_type(struct encoder *encoder, struct buffer *out, uint32_t field,
               struct conprof_text type, struct conprof_text unit)
{
    put_number(&encoder->message, 1, string_id(encoder, type));
    put_number(&encoder->message, 2, string_id(encoder, unit));
    put_message(out, field, &encoder->message);
}

static void
put_mapping(struct encoder *encoder, struct buffer *out)
{
    put_number(&encoder->message, 1, 1);
    put_number(&encoder->message, 5, string_id(encoder, encoder->naming->mapping_file));
    put_number(&encoder->message, 7, 1); /* has_functions, has_filenames, */
    put_number(&encoder->message, 8, 1); /* has_line_numbers: pprof looks for no binary */
    put_number(&encoder->message, 9, 1);
    put_message(out, 3, &encoder->message);
}

static void
put_profile(struct encoder *encoder, struct buffer *out)
{
    const struct conprof_naming *naming = encoder->naming;
    uint32_t count = encoder->sample_ids.count, first = naming->first_sample, end = count;
    if (naming->max_samples != 0 && count - first > naming->max_samples) {
        end = first + naming->max_samples;
    }
    /* Locations first: `message` serves one nesting level at a time. */
    for (uint32_t i = first; i < end && !encoder->failed; i++) {
        const struct conprof_stack_row *stack =
            &encoder->window->stacks[encoder->merged[i].key.row->stack];
        for (uint32_t j = 0; j < stack->length; j++) {
            location_id(encoder, encoder->window->stack_words[stack->first + j]);
        }
    }
    for (uint32_t i = first; i < end && !encoder->failed; i++) {
        put_sample(encoder, &encoder->merged[i]);
    }
    for (size_t i = 0; i < naming->sample_type_count; i++) {
        put_value_type(encoder, out, 1, naming->sample_types[i].type, naming->sample_types[i].unit);
    }
    put_bytes(out, encoder->samples.data, encoder->samples.used);
    put_mapping(encoder, out);
    put_bytes(out, encoder->locations.data, encoder->locations.used);
    put_bytes(out, encoder->functions.data, encoder->functions.used);
    struct buffer tail = {0};
    put_number(&tail, 9, (uint64_t)encoder->window->start_ns);
    put_number(&tail, 10, (uint64_t)(encoder->window->end_ns - encoder->window->start_ns));
    put_value_type(encoder, &tail, 11, naming->period_type, naming->period_unit);
    put_number(&tail, 12, (uint64_t)naming->period);
    for (size_t i = 0; i < naming->comment_count; i++) {
        put_number(&tail, 13, string_id(encoder, naming->comments[i]));
    }
    put_number(&tail, 14, string_id(encoder, naming->default_sample_type));
    /* All strings are known now. */
    put_block(out, 6, "", 0);
    put_bytes(out, encoder->strings.data, encoder->strings.used);
    put_bytes(out, tail.data, tail.used);
    out->failed |= tail.failed;
    free(tail.data);
}

char *
conprof_pprof_encode(const struct conprof_window *window, const struct conprof_naming *naming,
                     size_t *bytes)
{
    struct encoder encoder = {.window = window, .naming = naming};
    struct buffer out = {0};
    encoder.merged = calloc((size_t)window->row_count + 1, sizeof *encoder.merged);
    encoder.location_id = calloc((size_t)window->location_count + 1, sizeof(uint32_t));
    encoder.record = calloc((size_t)naming->max_label_sets + 1, sizeof *encoder.record);
    encoder.failed =
        encoder.merged == NULL || encoder.location_id == NULL || encoder.record == NULL;
    if (!encoder.failed) {
        merge_rows(&encoder);
    }
    bool is_past = naming->first_sample > 0 && naming->first_sample >= encoder.sample_ids.count;
    if (!encoder.failed && !is_past) {
        put_profile(&encoder, &out);
    }
    bool failed = encoder.failed || out.failed || encoder.strings.failed ||
                  encoder.functions.failed || encoder.locations.failed || encoder.samples.failed ||
                  encoder.message.failed || encoder.packed.failed;
    free(encoder.merged);
    free(encoder.location_id);
    free(encoder.record);
    free(encoder.texts);
    free(encoder.function);
    free(encoder.location);
    struct buffer *buffers[] = {&encoder.strings, &encoder.functions, &encoder.locations,
                                &encoder.samples, &encoder.message,   &encoder.packed};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        free(buffers[i]->data);
    }
    ids_free(&encoder.string_ids);
    ids_free(&encoder.function_ids);
    ids_free(&encoder.location_ids);
    ids_free(&encoder.sample_ids);
    ids_free(&encoder.record_ids);
    if (failed || is_past) {
        free(out.data);
        *bytes = !failed;
        return NULL;
    }
    *bytes = out.used;
    return out.data;
}
