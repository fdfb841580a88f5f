/* wire.h: the protobuf wire format, as far as profiles need it, into a growing buffer.
 *
 * Pure computation: no lock, no GIL. A buffer that finds no memory stays failed and
 * takes nothing more, so that callers look once, at the end. Zeroed is empty.
 */
#ifndef CONPROF_WIRE_H
#define CONPROF_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONPROF_WIRE_VARINT_BYTES 10 /* of 64 bits, 7 in a byte */

/* owner: one encoder, in one thread. */
struct conprof_wire {
    char *data;
    size_t used, room;
    bool failed;
};

/* Bytes as they are. */
void conprof_wire_bytes(struct conprof_wire *wire, const void *data, size_t bytes);

/* Makes room for `bytes` more; false without memory, and the buffer has failed. */
bool conprof_wire_reach(struct conprof_wire *wire, size_t bytes);

/* A bare varint, for packed fields. Inline: a window has 100 000 of them, and most are
 * ids of one or two bytes. */
static inline void
conprof_wire_varint(struct conprof_wire *wire, uint64_t value)
{
    if (wire->room - wire->used < CONPROF_WIRE_VARINT_BYTES &&
        !conprof_wire_reach(wire, CONPROF_WIRE_VARINT_BYTES)) {
        return;
    }
    char *to = wire->data + wire->used;
    for (; value >= 0x80; value >>= 7) {
        *to++ = (char)(value | 0x80);
    }
    *to++ = (char)value;
    wire->used = (size_t)(to - wire->data);
}

/* A varint field; proto3 leaves zeros out. */
void conprof_wire_number(struct conprof_wire *wire, uint32_t field, uint64_t value);

/* A fixed64 field; proto3 leaves zeros out. */
void conprof_wire_fixed64(struct conprof_wire *wire, uint32_t field, uint64_t value);

/* A length-delimited field, also when it is empty. */
void conprof_wire_block(struct conprof_wire *wire, uint32_t field, const void *data, size_t bytes);

/* The same with what `message` holds, which is empty after that and keeps its room. */
void conprof_wire_message(struct conprof_wire *wire, uint32_t field, struct conprof_wire *message);

/* Gives the memory back; the buffer is empty. */
void conprof_wire_free(struct conprof_wire *wire);

#endif
