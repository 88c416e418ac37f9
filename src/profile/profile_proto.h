/* Protobuf records, written field by field into a buffer. */
#ifndef VTRN_PROFILE_PROFILE_PROTO_H
#define VTRN_PROFILE_PROFILE_PROTO_H

#include "profile/profile_buffer.h"

/* A field of a varint type: integers, bools and enumerations. */
void profile_proto_varint(profile_buffer *b, int field, uint64_t value);
void profile_proto_bytes(profile_buffer *b, int field, const void *data, size_t size);
void profile_proto_text(profile_buffer *b, int field, const char *text); /* NULL is "" */
/* The message is empty afterwards, and may be filled again. */
void profile_proto_message(profile_buffer *b, int field, profile_buffer *message);

#endif
