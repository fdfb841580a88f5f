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

struct conprof_naming {
    struct {
        struct conprof_text type, unit;
        enum conprof_column column;
    } sample_types[CONPROF_MAX_SAMPLE_TYPES];
    size_t sample_type_count;
    struct conprof_rename *renames;
    size_t rename_count;
    struct conprof_text thread_label; /* no data: threads are merged */
    uint32_t max_label_sets;          /* distinct ones; what comes after shares one; 0: no bound */
    uint32_t max_samples;             /* in one profile; 0: no bound */
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
