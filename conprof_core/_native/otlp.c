/* otlp.c: see otlp.h. Field numbers are those of profiles.proto and profiles_service.proto. */
#include "otlp.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "hash.h"
#include "merge.h"
#include "tables.h"
#include "threads.h"
#include "wire.h"

static const struct conprof_text FRAME_TYPE = {"profile.frame.type", 18};
static const struct conprof_text FRAME_TYPE_PYTHON = {"cpython", 7};

struct attribute {
    uint32_t key;  /* string */
    uint32_t text; /* string; 0: a number */
    int64_t number;
};

/* Where the attribute indices of a record stand in `encoder.indices`, once they were
 * asked for. */
struct span {
    size_t first, bytes;
    bool is_known;
};

struct encoder {
    const struct conprof_window *window;
    const struct conprof_otlp *request;
    struct conprof_merged merged;
    struct conprof_tables tables;
    struct conprof_ids attribute_ids; /* their count is the table's */
    struct attribute *attributes;     /* by id - 1 */
    uint32_t attribute_room;
    uint32_t *stack_of; /* stack of the window -> index, 0 not seen or empty */
    struct span *spans; /* by record */
    uint32_t *link_of;  /* trace of the window -> index, 0 not seen */
    uint32_t stack_count;
    uint32_t link_count;
    uint32_t profile_count;
    bool failed;
    /* `indices`, `stacks` and `links` collect; the others serve one nesting level each. */
    struct conprof_wire indices, stacks, links, profile_indices, scope, profile, message, inner;
};

/* ---- tables ---- */

static bool
same_attribute(const void *context, uint32_t id, const void *key)
{
    const struct attribute *a = &((const struct encoder *)context)->attributes[id - 1], *b = key;
    return a->key == b->key && a->text == b->text && a->number == b->number;
}

static uint32_t
attribute_id(struct encoder *encoder, struct attribute key)
{
    uint64_t hash = conprof_hash_word(conprof_hash_word(key.key, key.text), (uint64_t)key.number);
    struct conprof_ids *ids = &encoder->attribute_ids;
    uint32_t *place = conprof_ids_find(ids, hash, same_attribute, encoder, &key);
    if (place == NULL || !conprof_array_reach((void **)&encoder->attributes,
                                              &encoder->attribute_room, ids->count, sizeof key)) {
        encoder->failed = true;
        return 0;
    }
    if (*place == 0) {
        encoder->attributes[ids->count] = key;
        *place = ++ids->count;
    }
    return *place;
}

static void
put_text_attribute(struct encoder *encoder, struct conprof_wire *to, struct conprof_text key,
                   struct conprof_text value)
{
    if (key.bytes > 0 && value.bytes > 0) {
        uint32_t key_id = conprof_tables_string(&encoder->tables, key);
        uint32_t value_id = conprof_tables_string(&encoder->tables, value);
        conprof_wire_varint(to, attribute_id(encoder, (struct attribute){key_id, value_id, 0}));
    }
}

/* The stack of a sample enters the table, with its locations. */
static void
reach_stack(struct encoder *encoder, uint32_t index)
{
    const struct conprof_stack_row *stack = &encoder->window->stacks[index];
    if (encoder->stack_of[index] != 0 || stack->length == 0) {
        return;
    }
    conprof_tables_put_stack(&encoder->tables, &encoder->inner, stack);
    conprof_wire_message(&encoder->message, 1, &encoder->inner);
    conprof_wire_message(&encoder->stacks, 7, &encoder->message);
    encoder->stack_of[index] = ++encoder->stack_count;
}

/* The labels of a record enter the tables. */
static void
reach_labels(struct encoder *encoder, uint32_t index)
{
    struct span *span = &encoder->spans[index];
    if (span->is_known) {
        return;
    }
    const struct conprof_label_record *record = encoder->merged.records[index];
    span->first = encoder->indices.used;
    for (uint32_t i = 0; i < record->count; i++) {
        const struct conprof_label *label = &record->labels[i];
        struct conprof_text key = {label->key, label->key_bytes};
        put_text_attribute(encoder, &encoder->indices,
                           conprof_naming_key(&encoder->request->naming, key),
                           (struct conprof_text){label->value, label->value_bytes});
    }
    span->bytes = encoder->indices.used - span->first;
    span->is_known = true;
}

/* The trace of a sample enters the table. */
static void
reach_link(struct encoder *encoder, uint32_t trace)
{
    if (trace == 0 || encoder->link_of[trace - 1] != 0) {
        return;
    }
    const struct conprof_trace *ids = &encoder->window->traces[trace - 1];
    const uint64_t words[] = {htobe64(ids->high), htobe64(ids->low), htobe64(ids->span)};
    conprof_wire_block(&encoder->message, 1, words, 16);
    conprof_wire_block(&encoder->message, 2, words + 2, 8);
    conprof_wire_message(&encoder->links, 4, &encoder->message);
    encoder->link_of[trace - 1] = ++encoder->link_count;
}

/* Fills the tables that samples point into. */
static void
reach_all(struct encoder *encoder)
{
    for (uint32_t i = 0; i < encoder->merged.sample_count && !encoder->tables.failed; i++) {
        reach_stack(encoder, encoder->merged.samples[i].stack);
        reach_labels(encoder, encoder->merged.samples[i].record);
        reach_link(encoder, encoder->merged.samples[i].trace);
    }
    for (size_t i = 0; i < encoder->request->attribute_count; i++) {
        const struct conprof_otlp_attribute *attribute = &encoder->request->attributes[i];
        uint32_t key = conprof_tables_string(&encoder->tables, attribute->key);
        conprof_wire_varint(&encoder->profile_indices,
                            attribute_id(encoder, (struct attribute){key, 0, attribute->value}));
    }
}

/* ---- profiles ---- */

static void
put_value_type(struct encoder *encoder, uint32_t field, struct conprof_text type,
               struct conprof_text unit)
{
    conprof_wire_number(&encoder->message, 1, conprof_tables_string(&encoder->tables, type));
    conprof_wire_number(&encoder->message, 2, conprof_tables_string(&encoder->tables, unit));
    conprof_wire_message(&encoder->profile, field, &encoder->message);
}

static void
put_indices(struct encoder *encoder, const struct conprof_sample *sample)
{
    const struct conprof_text thread = encoder->request->naming.thread_label;
    const struct span *span = &encoder->spans[sample->record];
    if (span->bytes > 0) {
        conprof_wire_bytes(&encoder->inner, encoder->indices.data + span->first, span->bytes);
    }
    if (thread.bytes > 0) {
        const char *name = conprof_thread_name(sample->name_id);
        put_text_attribute(encoder, &encoder->inner, thread,
                           (struct conprof_text){name, strlen(name)});
    }
    if (encoder->inner.used > 0) {
        conprof_wire_message(&encoder->message, 2, &encoder->inner);
    }
}

/* The samples of one type from `first` on, at most as many as a profile may hold;
 * returns where to go on. */
static uint32_t
put_samples(struct encoder *encoder, size_t type, uint32_t first)
{
    uint32_t most = encoder->request->naming.max_samples, put = 0, at = first;
    for (; at < encoder->merged.sample_count && (most == 0 || put < most); at++) {
        const struct conprof_sample *sample = &encoder->merged.samples[at];
        if (sample->values[type] == 0) {
            continue;
        }
        conprof_wire_number(&encoder->message, 1, encoder->stack_of[sample->stack]);
        put_indices(encoder, sample);
        if (sample->trace != 0) {
            conprof_wire_number(&encoder->message, 3, encoder->link_of[sample->trace - 1]);
        }
        conprof_wire_varint(&encoder->inner, sample->values[type]);
        conprof_wire_message(&encoder->message, 4, &encoder->inner);
        conprof_wire_message(&encoder->profile, 2, &encoder->message);
        put++;
    }
    return at;
}

/* Ids of a request differ in their last two bytes. */
static void
put_profile_id(struct encoder *encoder)
{
    unsigned char id[CONPROF_OTLP_ID_BYTES];
    memcpy(id, encoder->request->profile_id.data, sizeof id);
    id[sizeof id - 2] ^= (unsigned char)(encoder->profile_count >> 8);
    id[sizeof id - 1] ^= (unsigned char)encoder->profile_count;
    conprof_wire_block(&encoder->profile, 7, id, sizeof id);
    encoder->profile_count++;
}

/* The profiles of one sample type: none, one, or more when there are many samples. */
static void
put_type(struct encoder *encoder, const struct conprof_otlp_shape *shape, size_t type)
{
    const struct conprof_window *window = encoder->window;
    const struct conprof_naming *naming = &encoder->request->naming;
    for (uint32_t next = 0;;) {
        while (next < encoder->merged.sample_count &&
               encoder->merged.samples[next].values[type] == 0) {
            next++;
        }
        if (next == encoder->merged.sample_count) {
            return;
        }
        put_value_type(encoder, 1, naming->sample_types[type].type,
                       naming->sample_types[type].unit);
        next = put_samples(encoder, type, next);
        conprof_wire_fixed64(&encoder->profile, 3, (uint64_t)window->start_ns);
        conprof_wire_number(&encoder->profile, 4, (uint64_t)(window->end_ns - window->start_ns));
        put_value_type(encoder, 5, shape->period_type, shape->period_unit);
        conprof_wire_number(&encoder->profile, 6, (uint64_t)shape->period);
        put_profile_id(encoder);
        if (encoder->profile_indices.used > 0) {
            conprof_wire_block(&encoder->profile, 11, encoder->profile_indices.data,
                               encoder->profile_indices.used);
        }
        conprof_wire_message(&encoder->scope, 2, &encoder->profile);
    }
}

static void
put_resource_profiles(struct encoder *encoder, struct conprof_wire *out)
{
    const struct conprof_otlp *request = encoder->request;
    struct conprof_wire resource = {0};
    conprof_wire_block(&resource, 1, request->resource.data, request->resource.bytes);
    for (size_t i = 0; i < request->shape_count; i++) {
        const struct conprof_otlp_shape *shape = &request->shapes[i];
        conprof_wire_block(&encoder->message, 1, shape->name.data, shape->name.bytes);
        conprof_wire_block(&encoder->message, 2, request->version.data, request->version.bytes);
        conprof_wire_message(&encoder->scope, 1, &encoder->message);
        uint32_t before = encoder->profile_count;
        for (size_t type = 0; type < shape->type_count; type++) {
            put_type(encoder, shape, shape->first_type + type);
        }
        if (encoder->profile_count == before) {
            encoder->scope.used = 0;
            continue;
        }
        conprof_wire_message(&resource, 2, &encoder->scope);
    }
    conprof_wire_message(out, 1, &resource);
    conprof_wire_free(&resource);
}

/* ---- the dictionary ---- */

static void
put_locations(struct encoder *encoder, struct conprof_wire *out)
{
    const struct conprof_tables *tables = &encoder->tables;
    conprof_wire_block(out, 2, "", 0);
    for (uint32_t i = 0; i < tables->location_ids.count; i++) {
        const struct conprof_location_entry *location = &tables->locations[i];
        conprof_wire_number(&encoder->inner, 1, location->function);
        conprof_wire_number(&encoder->inner, 2, (uint64_t)(int64_t)location->line);
        conprof_wire_message(&encoder->message, 3, &encoder->inner);
        /* A frame without a file is synthetic. */
        if (tables->functions[location->function - 1].file != 0) {
            put_text_attribute(encoder, &encoder->inner, FRAME_TYPE, FRAME_TYPE_PYTHON);
            conprof_wire_message(&encoder->message, 4, &encoder->inner);
        }
        conprof_wire_message(out, 2, &encoder->message);
    }
}

static void
put_functions(struct encoder *encoder, struct conprof_wire *out)
{
    const struct conprof_tables *tables = &encoder->tables;
    conprof_wire_block(out, 3, "", 0);
    for (uint32_t i = 0; i < tables->function_ids.count; i++) {
        const struct conprof_function_entry *function = &tables->functions[i];
        conprof_wire_number(&encoder->message, 1, function->name);
        conprof_wire_number(&encoder->message, 3, function->file);
        conprof_wire_number(&encoder->message, 4, (uint64_t)(int64_t)function->first_line);
        conprof_wire_message(out, 3, &encoder->message);
    }
}

static void
put_attributes(struct encoder *encoder, struct conprof_wire *out)
{
    conprof_wire_block(out, 6, "", 0);
    for (uint32_t i = 0; i < encoder->attribute_ids.count; i++) {
        const struct attribute *attribute = &encoder->attributes[i];
        conprof_wire_number(&encoder->message, 1, attribute->key);
        if (attribute->text != 0) {
            const struct conprof_text *text = &encoder->tables.strings[attribute->text];
            conprof_wire_block(&encoder->inner, 1, text->data, text->bytes);
        }
        else {
            /* A member of a oneof: also a zero is written. */
            conprof_wire_varint(&encoder->inner, 3 << 3);
            conprof_wire_varint(&encoder->inner, (uint64_t)attribute->number);
        }
        conprof_wire_message(&encoder->message, 2, &encoder->inner);
        conprof_wire_message(out, 6, &encoder->message);
    }
}

/* Last: the tables are complete. */
static void
put_dictionary(struct encoder *encoder, struct conprof_wire *out)
{
    const struct conprof_tables *tables = &encoder->tables;
    struct conprof_wire dictionary = {0};
    conprof_wire_block(&dictionary, 1, "", 0); /* no mapping: Python code is in none */
    put_locations(encoder, &dictionary);
    put_functions(encoder, &dictionary);
    conprof_wire_block(&dictionary, 4, "", 0); /* no link; Parca wants its fields unset */
    conprof_wire_bytes(&dictionary, encoder->links.data, encoder->links.used);
    conprof_wire_block(&dictionary, 5, "", 0);
    for (uint32_t i = 1; i <= tables->string_ids.count; i++) {
        conprof_wire_block(&dictionary, 5, tables->strings[i].data, tables->strings[i].bytes);
    }
    put_attributes(encoder, &dictionary);
    conprof_wire_block(&dictionary, 7, "", 0);
    conprof_wire_bytes(&dictionary, encoder->stacks.data, encoder->stacks.used);
    conprof_wire_message(out, 2, &dictionary);
    conprof_wire_free(&dictionary);
}

static bool
has_failed(const struct encoder *encoder)
{
    return encoder->failed || encoder->tables.failed || encoder->indices.failed ||
           encoder->stacks.failed || encoder->links.failed || encoder->profile_indices.failed ||
           encoder->scope.failed || encoder->profile.failed || encoder->message.failed ||
           encoder->inner.failed;
}

static void
encoder_free(struct encoder *encoder)
{
    conprof_merge_free(&encoder->merged);
    conprof_tables_free(&encoder->tables);
    conprof_ids_free(&encoder->attribute_ids);
    free(encoder->attributes);
    free(encoder->stack_of);
    free(encoder->spans);
    free(encoder->link_of);
    struct conprof_wire *wires[] = {&encoder->indices,         &encoder->stacks, &encoder->links,
                                    &encoder->profile_indices, &encoder->scope,  &encoder->profile,
                                    &encoder->message,         &encoder->inner};
    for (size_t i = 0; i < sizeof wires / sizeof *wires; i++) {
        conprof_wire_free(wires[i]);
    }
}

char *
conprof_otlp_encode(const struct conprof_window *window, const struct conprof_otlp *request,
                    size_t *bytes)
{
    struct encoder encoder = {.window = window, .request = request};
    struct conprof_wire out = {0};
    bool done = conprof_merge_rows(window, &request->naming, &encoder.merged);
    done &= conprof_tables_init(&encoder.tables, window);
    encoder.stack_of = calloc((size_t)window->stack_count + 1, sizeof *encoder.stack_of);
    encoder.spans = calloc((size_t)encoder.merged.record_count + 1, sizeof *encoder.spans);
    encoder.link_of = calloc((size_t)window->trace_count + 1, sizeof *encoder.link_of);
    done &= encoder.stack_of != NULL && encoder.spans != NULL && encoder.link_of != NULL;
    bool is_empty = done && encoder.merged.sample_count == 0;
    if (done && !is_empty) {
        reach_all(&encoder);
        done = !has_failed(&encoder);
    }
    if (done && !is_empty) {
        put_resource_profiles(&encoder, &out);
        put_dictionary(&encoder, &out);
        done = !has_failed(&encoder) && !out.failed;
    }
    encoder_free(&encoder);
    if (!done || is_empty) {
        conprof_wire_free(&out);
        *bytes = is_empty;
        return NULL;
    }
    *bytes = out.used;
    return out.data;
}
