/* otlp.h: a detached window -> the bytes of an OTLP ExportProfilesServiceRequest
 * (opentelemetry-proto profiles/v1development, the layout since 1.10).
 *
 * Pure computation: no lock, no GIL, no session. The shape that the OpenTelemetry
 * Collector, Pyroscope and Parca all take: one resource, one scope for each shape, one
 * profile for each sample type with one value a sample, all on one dictionary whose
 * tables begin with their zero value. Its samples are those of merge.h.
 * conprof_core/_otlp.py is the reference: equal rows give equal bytes.
 */
#ifndef CONPROF_OTLP_H
#define CONPROF_OTLP_H

#include <stddef.h>
#include <stdint.h>

#include "naming.h"

#define CONPROF_OTLP_ID_BYTES 16

/* A Shape: its sample types are `type_count` of the naming's, from `first_type` on. */
struct conprof_otlp_shape {
    struct conprof_text name;
    struct conprof_text period_type, period_unit;
    int64_t period;
    size_t first_type, type_count;
};

/* A number that stands with every profile. */
struct conprof_otlp_attribute {
    struct conprof_text key;
    int64_t value;
};

/* One request; all texts borrowed. */
struct conprof_otlp {
    struct conprof_naming naming;
    struct conprof_otlp_shape shapes[CONPROF_MAX_SAMPLE_TYPES];
    size_t shape_count;
    struct conprof_text resource;   /* an encoded Resource */
    struct conprof_text version;    /* of the scopes */
    struct conprof_text profile_id; /* CONPROF_OTLP_ID_BYTES of the first profile */
    struct conprof_otlp_attribute *attributes;
    size_t attribute_count;
};

/* Encodes into a malloc'd block that the caller frees; NULL without memory, and with
 * `*bytes` 1 when there is no sample. */
char *conprof_otlp_encode(const struct conprof_window *window, const struct conprof_otlp *request,
                          size_t *bytes);

#endif
