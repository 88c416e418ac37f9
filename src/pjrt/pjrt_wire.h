/* Writing protobuf messages. */
#ifndef VTRN_PJRT_PJRT_WIRE_H
#define VTRN_PJRT_PJRT_WIRE_H

#include <stddef.h>
#include <stdint.h>

enum { PJRT_MAX_VARINT = 10 /* bytes */ };

/* Returns how many bytes it took. */
static inline size_t pjrt_write_varint(char *out, uint64_t v) {
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        out[n++] = (char)(v | 0x80);
    out[n++] = (char)v;
    return n;
}

#endif
