/* pprof.c: see pprof.h. Field numbers are those of profile.proto. */
#include "pprof.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "merge.h"
#include "tables.h"
#include "threads.h"
#include "wire.h"

/* Delay of a part of a window for each sample before it; the twin of that in _pprof.py. */
#define PART_OFFSET_NS 1000u

/* Where the labels of a record stand in `encoder.labels`, once they were asked for. */
struct span {
    size_t first, bytes;
    bool is_known;
};

/* A span id as text; the string table points to it. */
struct span_text {
    char text[24];
};

struct encoder {
    const struct conprof_window *window;
    const struct conprof_pprof *profile;
    struct conprof_tables tables;
    struct conprof_merged merged;
    struct span *spans;      /* by record */
    struct span thread_span; /* the label of the thread below: mostly the next sample's too */
    uint32_t thread_name_id;
    struct span_text *span_texts; /* by trace of the window; NULL where none is a text */
    /* `labels` collects; the others serve one nesting level at a time. */
    struct conprof_wire labels, message, inner;
};

/* ---- samples ---- */

static void
put_label(struct encoder *encoder, struct conprof_wire *to, struct conprof_text key,
          struct conprof_text value)
{
    uint32_t key_id = conprof_tables_string(&encoder->tables, key);
    uint32_t value_id = conprof_tables_string(&encoder->tables, value);
    if (key_id != 0 && value_id != 0) {
        conprof_wire_number(&encoder->inner, 1, key_id);
        conprof_wire_number(&encoder->inner, 2, value_id);
        conprof_wire_message(to, 3, &encoder->inner);
    }
}

/* The labels of a record, encoded once: many samples share them. */
static const struct span *
labels_of(struct encoder *encoder, uint32_t index)
{
    struct span *span = &encoder->spans[index];
    if (!span->is_known) {
        const struct conprof_label_record *record = encoder->merged.records[index];
        span->first = encoder->labels.used;
        for (uint32_t i = 0; i < record->count; i++) {
            const struct conprof_label *label = &record->labels[i];
            struct conprof_text key = {label->key, label->key_bytes};
            put_label(encoder, &encoder->labels, conprof_naming_key(&encoder->profile->naming, key),
                      (struct conprof_text){label->value, label->value_bytes});
        }
        span->bytes = encoder->labels.used - span->first;
        span->is_known = true;
    }
    return span;
}

/* The same for the name of a thread. */
static const struct span *
thread_label_of(struct encoder *encoder, uint32_t name_id)
{
    struct span *span = &encoder->thread_span;
    if (!span->is_known || encoder->thread_name_id != name_id) {
        const char *name = conprof_thread_name(name_id);
        *span = (struct span){.first = encoder->labels.used, .is_known = true};
        encoder->thread_name_id = name_id;
        struct conprof_text key = encoder->profile->naming.thread_label;
        if (key.bytes > 0 && name[0] != '\0') {
            put_label(encoder, &encoder->labels, key, (struct conprof_text){name, strlen(name)});
        }
        span->bytes = encoder->labels.used - span->first;
    }
    return span;
}

static void
put_span(struct encoder *encoder, const struct span *span)
{
    if (span->bytes > 0) {
        conprof_wire_bytes(&encoder->message, encoder->labels.data + span->first, span->bytes);
    }
}

/* The span id of a sample, under each of its keys. */
static void
put_trace(struct encoder *encoder, uint32_t trace)
{
    const struct conprof_naming *naming = &encoder->profile->naming;
    uint64_t span = encoder->window->traces[trace - 1].span;
    struct conprof_text text = {NULL, 0};
    if (encoder->span_texts != NULL) {
        struct span_text *place = &encoder->span_texts[trace - 1];
        const char *format = naming->span_form == CONPROF_SPAN_HEX ? "%016" PRIx64 : "%" PRIu64;
        text.data = place->text;
        text.bytes = (size_t)snprintf(place->text, sizeof place->text, format, span);
    }
    for (size_t i = 0; i < naming->span_key_count; i++) {
        if (text.bytes > 0) {
            put_label(encoder, &encoder->message, naming->span_keys[i], text);
        }
        else {
            conprof_wire_number(&encoder->inner, 1,
                                conprof_tables_string(&encoder->tables, naming->span_keys[i]));
            conprof_wire_number(&encoder->inner, 3, span);
            conprof_wire_message(&encoder->message, 3, &encoder->inner);
        }
    }
}

static void
put_sample(struct encoder *encoder, struct conprof_wire *out, const struct conprof_sample *sample)
{
    const struct conprof_naming *naming = &encoder->profile->naming;
    const struct conprof_stack_row *stack = &encoder->window->stacks[sample->stack];
    conprof_tables_put_stack(&encoder->tables, &encoder->inner, stack);
    conprof_wire_message(&encoder->message, 1, &encoder->inner);
    for (size_t i = 0; i < naming->sample_type_count; i++) {
        conprof_wire_varint(&encoder->inner, sample->values[i]);
    }
    conprof_wire_message(&encoder->message, 2, &encoder->inner);
    put_span(encoder, labels_of(encoder, sample->record));
    put_span(encoder, thread_label_of(encoder, sample->name_id));
    if (sample->trace != 0) {
        put_trace(encoder, sample->trace);
    }
    conprof_wire_message(out, 2, &encoder->message);
}

/* ---- the profile ---- */

static void
put_value_type(struct encoder *encoder, struct conprof_wire *out, uint32_t field,
               struct conprof_text type, struct conprof_text unit)
{
    conprof_wire_number(&encoder->message, 1, conprof_tables_string(&encoder->tables, type));
    conprof_wire_number(&encoder->message, 2, conprof_tables_string(&encoder->tables, unit));
    conprof_wire_message(out, field, &encoder->message);
}

static void
put_mapping(struct encoder *encoder, struct conprof_wire *out)
{
    uint32_t file = conprof_tables_string(&encoder->tables, encoder->profile->mapping_file);
    conprof_wire_number(&encoder->message, 1, 1);
    conprof_wire_number(&encoder->message, 5, file);
    conprof_wire_number(&encoder->message, 7, 1); /* has_functions, has_filenames, */
    conprof_wire_number(&encoder->message, 8, 1); /* has_line_numbers: pprof looks for no binary */
    conprof_wire_number(&encoder->message, 9, 1);
    conprof_wire_message(out, 3, &encoder->message);
}

static void
put_locations(struct encoder *encoder, struct conprof_wire *out)
{
    const struct conprof_tables *tables = &encoder->tables;
    for (uint32_t i = 0; i < tables->location_ids.count; i++) {
        conprof_wire_number(&encoder->inner, 1, tables->locations[i].function);
        conprof_wire_number(&encoder->inner, 2, (uint64_t)(int64_t)tables->locations[i].line);
        conprof_wire_number(&encoder->message, 1, i + 1);
        conprof_wire_number(&encoder->message, 2, 1);
        conprof_wire_message(&encoder->message, 4, &encoder->inner);
        conprof_wire_message(out, 4, &encoder->message);
    }
}

static void
put_functions(struct encoder *encoder, struct conprof_wire *out)
{
    const struct conprof_tables *tables = &encoder->tables;
    for (uint32_t i = 0; i < tables->function_ids.count; i++) {
        const struct conprof_function_entry *function = &tables->functions[i];
        conprof_wire_number(&encoder->message, 1, i + 1);
        conprof_wire_number(&encoder->message, 2, function->name);
        conprof_wire_number(&encoder->message, 4, function->file);
        conprof_wire_number(&encoder->message, 5, (uint64_t)(int64_t)function->first_line);
        conprof_wire_message(out, 5, &encoder->message);
    }
}

static void
put_strings(const struct conprof_tables *tables, struct conprof_wire *out)
{
    conprof_wire_block(out, 6, "", 0);
    for (uint32_t i = 1; i <= tables->string_ids.count; i++) {
        conprof_wire_block(out, 6, tables->strings[i].data, tables->strings[i].bytes);
    }
}

/* Of a profile of so many samples, so that its buffer is made once: two bytes a frame, thirty for
 * values and labels, and a quarter for the tables. */
static size_t
likely_bytes(const struct encoder *encoder, uint32_t samples)
{
    const struct conprof_window *window = encoder->window;
    size_t frames =
        window->stack_count == 0 ? 0 : (size_t)window->stack_word_count / window->stack_count + 1;
    return samples * (2 * frames + 30) / 4 * 5;
}

static void
put_profile(struct encoder *encoder, struct conprof_wire *out)
{
    const struct conprof_pprof *profile = encoder->profile;
    const struct conprof_naming *naming = &profile->naming;
    uint32_t count = encoder->merged.sample_count, first = profile->first_sample, end = count;
    if (naming->max_samples != 0 && count - first > naming->max_samples) {
        end = first + naming->max_samples;
    }
    conprof_wire_reach(out, likely_bytes(encoder, end - first));
    for (size_t i = 0; i < naming->sample_type_count; i++) {
        put_value_type(encoder, out, 1, naming->sample_types[i].type, naming->sample_types[i].unit);
    }
    for (uint32_t i = first; i < end && !encoder->tables.failed; i++) {
        put_sample(encoder, out, &encoder->merged.samples[i]);
    }
    put_mapping(encoder, out);
    put_locations(encoder, out);
    put_functions(encoder, out);
    struct conprof_wire tail = {0};
    conprof_wire_number(&tail, 9,
                        (uint64_t)encoder->window->start_ns + (uint64_t)first * PART_OFFSET_NS);
    conprof_wire_number(&tail, 10, (uint64_t)(encoder->window->end_ns - encoder->window->start_ns));
    put_value_type(encoder, &tail, 11, profile->period_type, profile->period_unit);
    conprof_wire_number(&tail, 12, (uint64_t)profile->period);
    for (size_t i = 0; i < profile->comment_count; i++) {
        conprof_wire_number(&tail, 13,
                            conprof_tables_string(&encoder->tables, profile->comments[i]));
    }
    conprof_wire_number(&tail, 14,
                        conprof_tables_string(&encoder->tables, profile->default_sample_type));
    /* All strings are known now. */
    put_strings(&encoder->tables, out);
    conprof_wire_bytes(out, tail.data, tail.used);
    out->failed |= tail.failed;
    conprof_wire_free(&tail);
}

char *
conprof_pprof_encode(const struct conprof_window *window, const struct conprof_pprof *profile,
                     size_t *bytes)
{
    struct encoder encoder = {.window = window, .profile = profile};
    struct conprof_wire out = {0};
    bool done = conprof_merge_rows(window, &profile->naming, &encoder.merged);
    done &= conprof_tables_init(&encoder.tables, window);
    encoder.spans = calloc((size_t)encoder.merged.record_count + 1, sizeof *encoder.spans);
    done &= encoder.spans != NULL;
    enum conprof_span_form form = profile->naming.span_form;
    if (window->trace_count > 0 && (form == CONPROF_SPAN_HEX || form == CONPROF_SPAN_DECIMAL)) {
        encoder.span_texts = calloc(window->trace_count, sizeof *encoder.span_texts);
        done &= encoder.span_texts != NULL;
    }
    bool is_past =
        done && profile->first_sample > 0 && profile->first_sample >= encoder.merged.sample_count;
    if (done && !is_past) {
        put_profile(&encoder, &out);
        done = !encoder.tables.failed && !encoder.labels.failed && !encoder.message.failed &&
               !encoder.inner.failed && !out.failed;
    }
    conprof_merge_free(&encoder.merged);
    free(encoder.spans);
    free(encoder.span_texts);
    conprof_tables_free(&encoder.tables);
    conprof_wire_free(&encoder.labels);
    conprof_wire_free(&encoder.message);
    conprof_wire_free(&encoder.inner);
    if (!done || is_past) {
        conprof_wire_free(&out);
        *bytes = is_past;
        return NULL;
    }
    *bytes = out.used;
    return out.data;
}
