/* The lowest layer of the VHLO reader: bounds-checked bytes, varints, blobs and sections. */
#ifndef VTRN_COMPILER_VHLO_VHLO_BYTES_H
#define VTRN_COMPILER_VHLO_VHLO_BYTES_H

#include "compiler/vhlo/vhlo.h"

/* A range of the artifact. Positions count from the start of the artifact. */
typedef struct vhlo_cursor {
    const uint8_t *bytes;
    size_t pos, end;
    const char *section;
} vhlo_cursor;

#define VHLO_ERROR_AT(c, byte, format, ...)                                                        \
    VTRN_ERROR(VTRN_BAD_ARGUMENT,                                                                  \
               "VHLO artifact: " format ", at byte %zu (%s): the file is damaged or no StableHLO " \
               "artifact; export it again",                                                        \
               __VA_ARGS__, (size_t)(byte), (c)->section)
#define VHLO_ERROR(c, format, ...) VHLO_ERROR_AT(c, (c)->pos, format, __VA_ARGS__)

static inline size_t cursor_left(const vhlo_cursor *c) {
    return c->end - c->pos;
}

vtrn_status cursor_varint_slow(vhlo_cursor *c, uint64_t *out);

/* PrefixVarInt: n trailing zero bits in the first byte announce n more bytes. */
static inline vtrn_status cursor_varint(vhlo_cursor *c, uint64_t *out) {
    if (c->pos < c->end && (c->bytes[c->pos] & 1)) {
        *out = c->bytes[c->pos++] >> 1;
        return NULL;
    }
    return cursor_varint_slow(c, out);
}

vtrn_status cursor_byte(vhlo_cursor *c, uint8_t *out);
vtrn_status cursor_svarint(vhlo_cursor *c, int64_t *out); /* zigzag */
/* A varint < limit; `what` names it and `of` the things counted by limit. */
vtrn_status cursor_index(vhlo_cursor *c, uint64_t limit, const char *what, const char *of,
                         uint32_t *out);
/* A count of things that take at least one byte each, so at most what is left. */
vtrn_status cursor_count(vhlo_cursor *c, const char *what, uint32_t *out);
/* n bytes, or as a blob with its length before. */
vtrn_status cursor_bytes(vhlo_cursor *c, uint64_t n, const uint8_t **out);
vtrn_status cursor_blob(vhlo_cursor *c, const uint8_t **out, size_t *out_n);
/* The next section: its number and a cursor on its data. */
vtrn_status cursor_section(vhlo_cursor *c, uint8_t *out_id, vhlo_cursor *out);

/* The other layers, in order. */
vtrn_status vhlo_read_sections(vhlo_module *m, vhlo_cursor *out_ir);
vtrn_status vhlo_read_ir(vhlo_module *m, vhlo_cursor *ir);

#endif
