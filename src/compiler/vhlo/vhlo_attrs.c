/* Attributes and types of a VHLO artifact, decoded one at a time when asked for and kept. Decoding
 * never recurses: an entry names others by number. */
#include "compiler/vhlo/vhlo_bytes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_INTEGER_BITS = 1 << 14, MAX_LOCATION_DEPTH = 64 };

/* Formats by code; NULL is a code that does not exist. Letters: see vhlo_entry. */
static const char *const BUILTIN_ATTRS[] = {
    "A", "P",  "s",  "st", "a",  "aA",  "t",  "",    "tI",  "tF", "aa", "avv",
    "A", "Aa", "aa", "",   "tv", "tvb", "tb", "tvS", "taa", "a",  "aV",
};
static const char *const BUILTIN_TYPES[] = {
    "v",  "",  "TT", "",   "", "", "", "", "", "t", "Zta", "aZta", "", "Zt", "aZt", "T", "t",
    "at", "t", "Zt", NULL, "", "", "", "", "", "",  "",    "",     "", "",   "",    "",
};
static const char *const VHLO_ATTRS[] = {
    NULL, "A", "v",  "v", "v", "v", "P", "v",    "tF", "tI", "ZzZ", "v",  "v",
    "v",  "s", "tb", "v", "t", "Z", "v", "ddza", "zz", "aq", "aa",  "az", "ao",
};
static const char *const VHLO_TYPES[] = {
    "",         "t", "", "", "", "",   "",    "", "TT", "",        "",  "",   "",  "", "",
    "",         "",  "", "", "", "Zt", "aZt", "", "T",  "vttdzzz", "t", "",   "",  "", "",
    "vttvzzDZ", "",  "", "", "", "",   "",    "", "",   "",        "",  "Zt", "T",
};
static const char *const SDY_ATTRS[] = {
    "A", "sz",       "AZ", "zz", "so",  "ABv", "aAA",  "A", "Z",
    "A", "ZAAZZZZB", "A",  "A",  "Azz", "A",   "aAAA", "A", "aAAAz",
};

static const char *format_of(const vhlo_entry *e, uint64_t code) {
#define ROW(table) (code < sizeof table / sizeof *table ? table[code] : NULL)
    if (e->dialect == VHLO_DIALECT_BUILTIN)
        return e->is_type ? ROW(BUILTIN_TYPES) : ROW(BUILTIN_ATTRS);
    if (e->dialect == VHLO_DIALECT_VHLO)
        return e->is_type ? ROW(VHLO_TYPES) : ROW(VHLO_ATTRS);
    if (e->dialect == VHLO_DIALECT_SDY && !e->is_type)
        return ROW(SDY_ATTRS);
    if (e->dialect == VHLO_DIALECT_STABLEHLO && e->is_type)
        return code == STABLEHLO_TYPE_TOKEN ? "" : NULL;
    return NULL;
#undef ROW
}

/* A decode in progress; items gather in the module's scratch. */
typedef struct decode {
    vhlo_module *m;
    vhlo_cursor c;
    vhlo_entry *e;
    uint32_t last_type;
} decode;

static vtrn_status grow(void **items, size_t *capacity, size_t size) {
    size_t want = *capacity ? *capacity * 2 : 64;
    void *bigger = realloc(*items, want * size);
    if (!bigger)
        return VTRN_OUT_OF_MEMORY(want * size);
    *items = bigger;
    *capacity = want;
    return NULL;
}

static vtrn_status push_int(decode *d, int64_t v) {
    vhlo_module *m = d->m;
    if (d->e->n_ints == m->n_scratch_ints)
        VTRN_RETURN_IF_ERROR(grow((void **)&m->scratch_ints, &m->n_scratch_ints, sizeof v));
    m->scratch_ints[d->e->n_ints++] = v;
    return NULL;
}

static vtrn_status push_ref(decode *d, uint32_t v) {
    vhlo_module *m = d->m;
    if (d->e->n_refs == m->n_scratch_refs)
        VTRN_RETURN_IF_ERROR(grow((void **)&m->scratch_refs, &m->n_scratch_refs, sizeof v));
    m->scratch_refs[d->e->n_refs++] = v;
    return NULL;
}

static vtrn_status push_attr_index(decode *d) {
    uint32_t i;
    VTRN_RETURN_IF_ERROR(cursor_index(&d->c, d->m->n_attrs, "attribute", "attributes", &i));
    return push_ref(d, i);
}

static vtrn_status push_type_index(decode *d) {
    uint32_t i;
    VTRN_RETURN_IF_ERROR(cursor_index(&d->c, d->m->n_types, "type", "types", &i));
    return push_ref(d, i);
}

static vtrn_status push_varint(decode *d) {
    uint64_t v;
    VTRN_RETURN_IF_ERROR(cursor_varint(&d->c, &v));
    return push_int(d, (int64_t)v);
}

static vtrn_status push_svarint(decode *d) {
    int64_t v;
    VTRN_RETURN_IF_ERROR(cursor_svarint(&d->c, &v));
    return push_int(d, v);
}

static vtrn_status push_list(decode *d, vtrn_status (*push)(decode *), int per_item) {
    uint32_t n;
    VTRN_RETURN_IF_ERROR(cursor_count(&d->c, "items", &n));
    VTRN_RETURN_IF_ERROR(push_int(d, n));
    for (uint64_t i = 0; i < (uint64_t)n * per_item; i++)
        VTRN_RETURN_IF_ERROR(push(d));
    return NULL;
}

/* Storage width in bits of a scalar type; 0 when it is none. */
static uint32_t scalar_bits(const vhlo_entry *type) {
    if (type->dialect == VHLO_DIALECT_BUILTIN) {
        static const uint8_t FLOATS[] = {
            [1] = 64,  [3] = 16, [4] = 16, [5] = 32, [6] = 64, [7] = 80, [8] = 128,
            [21] = 19, [22] = 8, [23] = 8, [24] = 8, [25] = 8, [26] = 8, [27] = 8,
            [28] = 8,  [29] = 4, [30] = 6, [31] = 6, [32] = 8,
        };
        if (type->code == BUILTIN_TYPE_INTEGER) {
            uint64_t bits = (uint64_t)type->ints[0] >> 2;
            return bits <= MAX_INTEGER_BITS ? (uint32_t)bits : 0;
        }
        return type->code < sizeof FLOATS ? FLOATS[type->code] : 0;
    }
    static const uint8_t BITS[] = {
        [0] = 1,   [2] = 16,  [3] = 16,  [4] = 32,  [5] = 64,  [6] = 8,  [7] = 8,  [9] = 64,
        [10] = 4,  [11] = 8,  [12] = 16, [13] = 32, [14] = 64, [15] = 4, [16] = 8, [17] = 16,
        [18] = 32, [19] = 64, [27] = 8,  [28] = 8,  [29] = 8,  [31] = 2, [32] = 2, [34] = 19,
        [35] = 8,  [36] = 8,  [37] = 4,  [38] = 6,  [39] = 6,  [40] = 8,
    };
    return type->dialect == VHLO_DIALECT_VHLO && type->code < sizeof BITS ? BITS[type->code] : 0;
}

/* An arbitrary-precision integer: one raw byte, a svarint, or a count of words. */
static vtrn_status push_integer(decode *d, uint32_t n_bits) {
    if (n_bits == 0)
        return VHLO_ERROR(&d->c, "%s", "a number of a type that is not a scalar");
    if (n_bits <= 8) {
        uint8_t v;
        VTRN_RETURN_IF_ERROR(cursor_byte(&d->c, &v));
        return push_int(d, n_bits == 8 ? (int8_t)v : v);
    }
    return n_bits <= 64 ? push_svarint(d) : push_list(d, push_svarint, 1);
}

static vtrn_status push_f64(decode *d) {
    return push_integer(d, 64);
}

static vtrn_status push_scalar(decode *d) {
    const vhlo_entry *type;
    VTRN_RETURN_IF_ERROR(vhlo_get_type(d->m, d->last_type, &type));
    return push_integer(d, type->is_text ? 0 : scalar_bits(type));
}

static vtrn_status push_string_index(decode *d) {
    uint32_t i;
    VTRN_RETURN_IF_ERROR(cursor_index(&d->c, d->m->n_strings, "string", "strings", &i));
    d->e->data = (const uint8_t *)d->m->strings[i].text;
    d->e->n_data = d->m->strings[i].len;
    return NULL;
}

static vtrn_status push_optional(decode *d, char letter) {
    uint64_t v;
    size_t at = d->c.pos;
    VTRN_RETURN_IF_ERROR(cursor_varint(&d->c, &v));
    if (letter == 'q')
        return v ? push_attr_index(d) : NULL;
    if (!(v & 1))
        return NULL;
    if (v >> 1 >= d->m->n_attrs)
        return VHLO_ERROR_AT(&d->c, at, "attribute index %llu >= %u attributes",
                             (unsigned long long)(v >> 1), d->m->n_attrs);
    return push_ref(d, (uint32_t)(v >> 1));
}

static vtrn_status decode_field(decode *d, char letter) {
    switch (letter) {
    case 's':
        return push_string_index(d);
    case 'a':
        return push_attr_index(d);
    case 'o':
    case 'q':
        return push_optional(d, letter);
    case 't':
        VTRN_RETURN_IF_ERROR(cursor_index(&d->c, d->m->n_types, "type", "types", &d->last_type));
        if (d->e->type != VHLO_NONE)
            return push_ref(d, d->last_type);
        d->e->type = d->last_type;
        return NULL;
    case 'v':
        return push_varint(d);
    case 'z':
        return push_svarint(d);
    case 'd':
        return push_f64(d);
    case 'B': {
        uint8_t v;
        VTRN_RETURN_IF_ERROR(cursor_byte(&d->c, &v));
        return push_int(d, v);
    }
    case 'A':
        return push_list(d, push_attr_index, 1);
    case 'P':
        return push_list(d, push_attr_index, 2);
    case 'T':
        return push_list(d, push_type_index, 1);
    case 'Z':
        return push_list(d, push_svarint, 1);
    case 'V':
        return push_list(d, push_varint, 1);
    case 'D':
        return push_list(d, push_f64, 1);
    case 'S':
        return push_list(d, push_string_index, 1);
    case 'b':
        return cursor_blob(&d->c, &d->e->data, &d->e->n_data);
    case 'I':
    case 'F':
        return push_scalar(d);
    default:
        return VTRN_ERROR(VTRN_INTERNAL, "no field letter '%c'", letter);
    }
}

static vtrn_status decode_fields(decode *d) {
    uint64_t code;
    VTRN_RETURN_IF_ERROR(cursor_varint(&d->c, &code));
    const char *format = format_of(d->e, code);
    if (!format)
        return VHLO_ERROR(&d->c, "unknown %s code %llu of dialect %d",
                          d->e->is_type ? "type" : "attribute", (unsigned long long)code,
                          d->e->dialect);
    d->e->code = (uint8_t)code;
    d->e->format = format;
    for (const char *f = format; *f; f++)
        VTRN_RETURN_IF_ERROR(decode_field(d, *f));
    /* sdy grows fields at the end of an attribute from version to version; the others do not. */
    if (d->c.pos != d->c.end && d->e->dialect != VHLO_DIALECT_SDY)
        return VHLO_ERROR(&d->c, "%zu bytes too many after an entry of format '%s'",
                          cursor_left(&d->c), format);
    return NULL;
}

static vtrn_status decode_entry(vhlo_module *m, vhlo_entry *e) {
    vhlo_entry fresh = *e;
    fresh.type = VHLO_NONE;
    decode d = {m, {m->bytes, e->byte, e->byte + e->size, "attribute section"}, &fresh, VHLO_NONE};
    if (e->is_text) {
        fresh.format = "";
        fresh.data = m->bytes + e->byte;
        fresh.n_data = e->size;
    } else {
        VTRN_RETURN_IF_ERROR(decode_fields(&d));
    }
    if (fresh.n_ints) {
        int64_t *ints = ARENA_NEW(&m->arena, int64_t, fresh.n_ints);
        if (!ints)
            return VTRN_OUT_OF_MEMORY(fresh.n_ints * sizeof *ints);
        fresh.ints = memcpy(ints, m->scratch_ints, fresh.n_ints * sizeof *ints);
    }
    if (fresh.n_refs) {
        uint32_t *refs = ARENA_NEW(&m->arena, uint32_t, fresh.n_refs);
        if (!refs)
            return VTRN_OUT_OF_MEMORY(fresh.n_refs * sizeof *refs);
        fresh.refs = memcpy(refs, m->scratch_refs, fresh.n_refs * sizeof *refs);
    }
    fresh.is_decoded = true;
    *e = fresh;
    return NULL;
}

static vtrn_status get(vhlo_module *m, uint32_t i, uint32_t first, uint32_t n,
                       const vhlo_entry **out) {
    *out = NULL;
    if (i >= n)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "VHLO artifact: entry %u >= %u entries", i, n);
    vhlo_entry *e = &m->entries[first + i];
    if (!e->is_decoded)
        VTRN_RETURN_IF_ERROR(decode_entry(m, e));
    *out = e;
    return NULL;
}

vtrn_status vhlo_get_attr(vhlo_module *m, uint32_t i, const vhlo_entry **out) {
    return get(m, i, 0, m->n_attrs, out);
}

vtrn_status vhlo_get_type(vhlo_module *m, uint32_t i, const vhlo_entry **out) {
    return get(m, i, m->n_attrs, m->n_types, out);
}

vtrn_status vhlo_decode_all(vhlo_module *m) {
    const vhlo_entry *unused;
    for (uint32_t i = 0; i < m->n_attrs + m->n_types; i++)
        VTRN_RETURN_IF_ERROR(get(m, i, 0, m->n_attrs + m->n_types, &unused));
    return NULL;
}

bool vhlo_entry_is(const vhlo_entry *e, vhlo_dialect dialect, int code) {
    return e && !e->is_text && e->dialect == dialect && e->code == code;
}

bool vhlo_entry_string(const vhlo_entry *e, vhlo_string *out) {
    if (!e || (!vhlo_entry_is(e, VHLO_DIALECT_VHLO, VHLO_ATTR_STRING) &&
               !vhlo_entry_is(e, VHLO_DIALECT_BUILTIN, BUILTIN_ATTR_STRING)))
        return false;
    *out = (vhlo_string){(const char *)e->data, e->n_data};
    return true;
}

vtrn_status vhlo_dictionary_get(vhlo_module *m, const vhlo_entry *dictionary, const char *name,
                                const vhlo_entry **out) {
    *out = NULL;
    if (!vhlo_entry_is(dictionary, VHLO_DIALECT_VHLO, VHLO_ATTR_DICTIONARY) &&
        !vhlo_entry_is(dictionary, VHLO_DIALECT_BUILTIN, BUILTIN_ATTR_DICTIONARY))
        return NULL;
    for (uint32_t i = 0; i + 1 < dictionary->n_refs; i += 2) {
        const vhlo_entry *key;
        vhlo_string text;
        VTRN_RETURN_IF_ERROR(vhlo_get_attr(m, dictionary->refs[i], &key));
        if (vhlo_entry_string(key, &text) && vhlo_string_equal(text, name))
            return vhlo_get_attr(m, dictionary->refs[i + 1], out);
    }
    return NULL;
}

/* The place of `name` in a comma-separated list, or -1. */
static int list_find(const char *list, const char *name) {
    size_t len = strlen(name);
    int i = 0;
    for (const char *p = list; p && *p; i++) {
        if (strncmp(p, name, len) == 0 && (p[len] == ',' || p[len] == 0))
            return i;
        p = strchr(p, ',');
        p = p ? p + 1 : NULL;
    }
    return -1;
}

const char *vhlo_sdy_attrs(vhlo_string name) {
    static const char *const OPS[][2] = {
        {"mesh", "mesh,sym_name"},
        {"manual_computation", "in_shardings,manual_axes,out_shardings"},
        {"sharding_constraint", "sharding"},
        {"reshard", "sharding"},
    };
    for (size_t i = 0; i < sizeof OPS / sizeof *OPS; i++)
        if (vhlo_string_equal(name, OPS[i][0]))
            return OPS[i][1];
    return NULL;
}

vtrn_status vhlo_op_attr(vhlo_module *m, const vhlo_op *op, const char *name,
                         const vhlo_entry **out) {
    *out = NULL;
    const char *names = op->name->info                             ? op->name->info->attrs
                        : op->name->dialect_id == VHLO_DIALECT_SDY ? vhlo_sdy_attrs(op->name->name)
                                                                   : NULL;
    if (op->props && names) {
        int i = list_find(names, name);
        if (i >= 0)
            return vhlo_get_attr(m, op->props[i], out);
    }
    if (op->dictionary == VHLO_NONE)
        return NULL;
    const vhlo_entry *dictionary;
    VTRN_RETURN_IF_ERROR(vhlo_get_attr(m, op->dictionary, &dictionary));
    return vhlo_dictionary_get(m, dictionary, name, out);
}

static vtrn_status location_at(vhlo_module *m, uint32_t location, int depth, char *text,
                               size_t n_text) {
    const vhlo_entry *e, *file;
    vhlo_string path;
    VTRN_RETURN_IF_ERROR(vhlo_get_attr(m, location, &e));
    if (!e || e->is_text || e->dialect != VHLO_DIALECT_BUILTIN || depth > MAX_LOCATION_DEPTH)
        return NULL;
    switch (e->code) {
    case BUILTIN_ATTR_FILE_LINE_COL:
    case BUILTIN_ATTR_FILE_LINE_COL_RANGE: {
        VTRN_RETURN_IF_ERROR(vhlo_get_attr(m, e->refs[0], &file));
        bool is_range = e->code == BUILTIN_ATTR_FILE_LINE_COL_RANGE;
        int64_t line = !is_range ? e->ints[0] : e->n_ints > 1 ? e->ints[1] : 0;
        if (vhlo_entry_string(file, &path)) {
            const char *slash = memrchr(path.text, '/', path.len);
            snprintf(text, n_text, "%s:%lld", slash ? slash + 1 : path.text, (long long)line);
        }
        return NULL;
    }
    case BUILTIN_ATTR_NAME:
        return location_at(m, e->refs[1], depth + 1, text, n_text);
    case BUILTIN_ATTR_CALL_SITE: /* callee, then caller: the callee is the innermost frame */
    case BUILTIN_ATTR_FUSED:
    case BUILTIN_ATTR_FUSED_METADATA: {
        uint32_t n = e->code == BUILTIN_ATTR_CALL_SITE ? 2 : (uint32_t)e->ints[0];
        /* Branches multiply with depth, so only call sites look at a second one. */
        uint32_t n_tried = e->code == BUILTIN_ATTR_CALL_SITE ? n : n > 0;
        for (uint32_t i = 0; i < n_tried && !text[0]; i++)
            VTRN_RETURN_IF_ERROR(
                location_at(m, e->refs[i], i == 0 ? depth + 8 : depth + 1, text, n_text));
        return NULL;
    }
    default:
        return NULL;
    }
}

vtrn_status vhlo_location_text(vhlo_module *m, uint32_t location, char *text, size_t n_text) {
    text[0] = 0;
    return location_at(m, location, 0, text, n_text);
}

vtrn_status vhlo_location_name(vhlo_module *m, uint32_t location, vhlo_string *out) {
    const vhlo_entry *e, *name;
    for (int depth = 0; depth < MAX_LOCATION_DEPTH; depth++) {
        VTRN_RETURN_IF_ERROR(vhlo_get_attr(m, location, &e));
        if (!e || e->is_text || e->dialect != VHLO_DIALECT_BUILTIN)
            return NULL;
        bool is_fused = e->code == BUILTIN_ATTR_FUSED || e->code == BUILTIN_ATTR_FUSED_METADATA;
        if (is_fused && e->ints[0] > 0) {
            location = e->refs[0];
            continue;
        }
        if (e->code != BUILTIN_ATTR_NAME)
            return NULL;
        VTRN_RETURN_IF_ERROR(vhlo_get_attr(m, e->refs[0], &name));
        vhlo_entry_string(name, out);
        return NULL;
    }
    return NULL;
}
