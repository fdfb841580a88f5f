/* wire.c: see wire.h. */
#include "wire.h"

#include <stdlib.h>
#include <string.h>

enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BLOCK = 2 };

bool
conprof_wire_reach(struct conprof_wire *wire, size_t bytes)
{
    if (wire->failed || wire->room - wire->used >= bytes) {
        return !wire->failed;
    }
    size_t room = wire->room == 0 ? 1024 : wire->room;
    while (room - wire->used < bytes) {
        room *= 2;
    }
    char *bigger = realloc(wire->data, room);
    if (bigger == NULL) {
        /* No room is left to be found, so that nothing more is taken. */
        wire->failed = true;
        wire->room = wire->used;
        return false;
    }
    wire->data = bigger;
    wire->room = room;
    return true;
}

void
conprof_wire_bytes(struct conprof_wire *wire, const void *data, size_t bytes)
{
    if (bytes > 0 && conprof_wire_reach(wire, bytes)) {
        memcpy(wire->data + wire->used, data, bytes);
        wire->used += bytes;
    }
}

void
conprof_wire_number(struct conprof_wire *wire, uint32_t field, uint64_t value)
{
    if (value != 0) {
        conprof_wire_varint(wire, field << 3 | WIRE_VARINT);
        conprof_wire_varint(wire, value);
    }
}

void
conprof_wire_fixed64(struct conprof_wire *wire, uint32_t field, uint64_t value)
{
    if (value != 0) {
        unsigned char bytes[8];
        for (size_t i = 0; i < sizeof bytes; i++) {
            bytes[i] = (unsigned char)(value >> 8 * i);
        }
        conprof_wire_varint(wire, field << 3 | WIRE_FIXED64);
        conprof_wire_bytes(wire, bytes, sizeof bytes);
    }
}

void
conprof_wire_block(struct conprof_wire *wire, uint32_t field, const void *data, size_t bytes)
{
    conprof_wire_varint(wire, field << 3 | WIRE_BLOCK);
    conprof_wire_varint(wire, bytes);
    conprof_wire_bytes(wire, data, bytes);
}

void
conprof_wire_message(struct conprof_wire *wire, uint32_t field, struct conprof_wire *message)
{
    wire->failed |= message->failed;
    conprof_wire_block(wire, field, message->data, message->used);
    message->used = 0;
}

void
conprof_wire_free(struct conprof_wire *wire)
{
    free(wire->data);
    *wire = (struct conprof_wire){0};
}
