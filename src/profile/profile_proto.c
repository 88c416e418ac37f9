/* Protobuf records, written field by field into a buffer. */
#include "profile/profile_proto.h"

#include <string.h>

enum { WIRE_VARINT = 0, WIRE_BYTES = 2 };

static void varint(profile_buffer *b, uint64_t value) {
    uint8_t bytes[10];
    size_t n = 0;
    do {
        bytes[n] = (uint8_t)(value & 0x7f);
        value >>= 7;
        bytes[n++] |= value ? 0x80 : 0;
    } while (value);
    profile_append(b, bytes, n);
}

void profile_proto_varint(profile_buffer *b, int field, uint64_t value) {
    varint(b, (uint64_t)field << 3 | WIRE_VARINT);
    varint(b, value);
}

void profile_proto_bytes(profile_buffer *b, int field, const void *data, size_t size) {
    varint(b, (uint64_t)field << 3 | WIRE_BYTES);
    varint(b, size);
    profile_append(b, data, size);
}

void profile_proto_text(profile_buffer *b, int field, const char *text) {
    profile_proto_bytes(b, field, text ? text : "", text ? strlen(text) : 0);
}

void profile_proto_message(profile_buffer *b, int field, profile_buffer *message) {
    profile_proto_bytes(b, field, message->data, message->size);
    b->is_short |= message->is_short;
    message->size = 0;
}
