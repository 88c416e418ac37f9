/* Bytes, varints, blobs and section headers of MLIR bytecode, every read checked against the end.
 */
#include "compiler/vhlo/vhlo_bytes.h"

vtrn_status cursor_byte(vhlo_cursor *c, uint8_t *out) {
    if (c->pos >= c->end)
        return VHLO_ERROR(c, "%s", "data ends inside a value");
    *out = c->bytes[c->pos++];
    return NULL;
}

vtrn_status cursor_varint_slow(vhlo_cursor *c, uint64_t *out) {
    uint8_t first = 0;
    VTRN_RETURN_IF_ERROR(cursor_byte(c, &first));
    int n_more = first ? __builtin_ctz(first) : 8;
    if (cursor_left(c) < (size_t)n_more)
        return VHLO_ERROR(c, "varint needs %d more bytes, %zu left", n_more, cursor_left(c));
    uint64_t value = 0;
    for (int i = 0; i < n_more; i++)
        value |= (uint64_t)c->bytes[c->pos + i] << (8 * i);
    c->pos += n_more;
    /* With 8 more bytes the first byte carries nothing; else it holds the lowest 7-n bits. */
    *out = n_more == 8 ? value : (value << 8 | first) >> (n_more + 1);
    return NULL;
}

vtrn_status cursor_svarint(vhlo_cursor *c, int64_t *out) {
    uint64_t v = 0;
    VTRN_RETURN_IF_ERROR(cursor_varint(c, &v));
    *out = (int64_t)(v >> 1 ^ (0 - (v & 1)));
    return NULL;
}

vtrn_status cursor_index(vhlo_cursor *c, uint64_t limit, const char *what, const char *of,
                         uint32_t *out) {
    size_t at = c->pos;
    uint64_t v = 0;
    VTRN_RETURN_IF_ERROR(cursor_varint(c, &v));
    if (v >= limit)
        return VHLO_ERROR_AT(c, at, "%s index %llu >= %llu %s", what, (unsigned long long)v,
                             (unsigned long long)limit, of);
    *out = (uint32_t)v;
    return NULL;
}

vtrn_status cursor_count(vhlo_cursor *c, const char *what, uint32_t *out) {
    size_t at = c->pos;
    uint64_t v = 0;
    VTRN_RETURN_IF_ERROR(cursor_varint(c, &v));
    if (v > cursor_left(c) || v > INT32_MAX)
        return VHLO_ERROR_AT(c, at, "%llu %s announced, %zu bytes left", (unsigned long long)v,
                             what, cursor_left(c));
    *out = (uint32_t)v;
    return NULL;
}

vtrn_status cursor_bytes(vhlo_cursor *c, uint64_t n, const uint8_t **out) {
    if (n > cursor_left(c))
        return VHLO_ERROR(c, "%llu bytes announced, %zu left", (unsigned long long)n,
                          cursor_left(c));
    *out = c->bytes + c->pos;
    c->pos += n;
    return NULL;
}

vtrn_status cursor_blob(vhlo_cursor *c, const uint8_t **out, size_t *out_n) {
    uint64_t n = 0;
    VTRN_RETURN_IF_ERROR(cursor_varint(c, &n));
    VTRN_RETURN_IF_ERROR(cursor_bytes(c, n, out));
    *out_n = n;
    return NULL;
}

vtrn_status cursor_section(vhlo_cursor *c, uint8_t *out_id, vhlo_cursor *out) {
    static const char *const NAMES[] = {
        "string section",   "dialect section",  "attribute section", "offset section",
        "IR section",       "resource section", "resource offsets",  "dialect version section",
        "property section",
    };
    size_t at = c->pos;
    uint8_t id = 0;
    uint64_t n = 0, alignment = 0;
    VTRN_RETURN_IF_ERROR(cursor_byte(c, &id));
    VTRN_RETURN_IF_ERROR(cursor_varint(c, &n));
    if (id & 0x80) {
        VTRN_RETURN_IF_ERROR(cursor_varint(c, &alignment));
        if (alignment == 0 || (alignment & (alignment - 1)) || alignment > 1 << 20)
            return VHLO_ERROR_AT(c, at, "section alignment %llu is not a power of two <= 2^20",
                                 (unsigned long long)alignment);
        while (c->pos % alignment) {
            uint8_t pad = 0;
            VTRN_RETURN_IF_ERROR(cursor_byte(c, &pad));
            if (pad != 0xcb)
                return VHLO_ERROR_AT(c, c->pos - 1, "padding byte 0x%02x is not 0xcb", pad);
        }
    }
    id &= 0x7f;
    if (id >= sizeof NAMES / sizeof *NAMES)
        return VHLO_ERROR_AT(c, at, "unknown section %d", id);
    if (n > cursor_left(c))
        return VHLO_ERROR_AT(c, at, "%s of %llu bytes, %zu left", NAMES[id], (unsigned long long)n,
                             cursor_left(c));
    *out_id = id;
    *out = (vhlo_cursor){c->bytes, c->pos, c->pos + n, NAMES[id]};
    c->pos += n;
    return NULL;
}
