/* naming.h: how a window is named on the wire; the Naming and the Shapes of Python.
 *
 * Plain data, all texts borrowed for the length of one encoding.
 */
#ifndef CONPROF_NAMING_H
#define CONPROF_NAMING_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "aggregate.h"

#define CONPROF_MAX_SAMPLE_TYPES 16

struct conprof_text {
    const char *data;
    size_t bytes;
};

struct conprof_rename {
    struct conprof_text from, to; /* to nothing: the key is left out */
};

/* How the trace of a sample travels. */
enum conprof_span_form {
    CONPROF_SPAN_NONE,    /* not at all: samples of all traces merge */
    CONPROF_SPAN_HEX,     /* the span id as a text of 16 hexadecimal digits */
    CONPROF_SPAN_DECIMAL, /* as a decimal text */
    CONPROF_SPAN_NUMBER,  /* as a number, in two's complement */
    CONPROF_SPAN_LINK,    /* trace and span id as a link of OTLP */
};

#define CONPROF_MAX_SPAN_KEYS 4

struct conprof_naming {
    struct {
        struct conprof_text type, unit;
        enum conprof_column column;
    } sample_types[CONPROF_MAX_SAMPLE_TYPES];
    size_t sample_type_count;
    struct conprof_rename *renames;
    size_t rename_count;
    struct conprof_text thread_label;                     /* no data: threads are merged */
    struct conprof_text span_keys[CONPROF_MAX_SPAN_KEYS]; /* labels that say the span id */
    size_t span_key_count;
    enum conprof_span_form span_form;
    uint32_t max_label_sets; /* distinct ones; what comes after shares one; 0: no bound */
    uint32_t max_samples;    /* in one profile; 0: no bound */
};

/* What a label key is called on the wire. */
static inline struct conprof_text
conprof_naming_key(const struct conprof_naming *naming, struct conprof_text key)
{
    for (size_t i = 0; i < naming->rename_count; i++) {
        const struct conprof_text *from = &naming->renames[i].from;
        if (from->bytes == key.bytes && memcmp(from->data, key.data, key.bytes) == 0) {
            return naming->renames[i].to;
        }
    }
    return key;
}

#endif
