/* Sections of a VHLO artifact: header, strings, dialects and operation names, entry offsets and
 * properties. After it every table of the module is in place; the IR is not yet read. */
#include "compiler/vhlo/vhlo_bytes.h"

#include <stdlib.h>
#include <string.h>

enum {
    SECTION_STRING,
    SECTION_DIALECT,
    SECTION_ATTR_DATA,
    SECTION_ATTR_OFFSET,
    SECTION_IR,
    SECTION_RESOURCE,
    SECTION_RESOURCE_OFFSET,
    SECTION_DIALECT_VERSION,
    SECTION_PROPERTIES,
    N_SECTIONS
};
enum { LAST_VERSION = 6 };

#define NEW(m, out, count)                                                                         \
    do {                                                                                           \
        (out) = arena_alloc(&(m)->arena, (count), sizeof *(out));                                  \
        if (!(out))                                                                                \
            return VTRN_OUT_OF_MEMORY((count) * sizeof *(out));                                    \
    } while (0)

/* What a file that is no artifact looks like, for the message. */
static vtrn_status refuse_foreign(const uint8_t *bytes, size_t size) {
    size_t i = 0;
    while (i < size && strchr(" \t\r\n", bytes[i]) && bytes[i])
        i++;
    static const char *const TEXTS[] = {"module",         "#",        "//", "func.func",
                                        "builtin.module", "HloModule"};
    for (size_t k = 0; k < sizeof TEXTS / sizeof *TEXTS; k++) {
        size_t len = strlen(TEXTS[k]);
        if (size - i >= len && memcmp(bytes + i, TEXTS[k], len) == 0)
            return VTRN_ERROR(
                VTRN_BAD_ARGUMENT,
                "VHLO artifact: expected a StableHLO portable artifact (bytecode), got "
                "%s text; serialise it as a portable artifact first",
                k == 5 ? "HLO" : "MLIR");
    }
    if (size == 0)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "VHLO artifact: expected a StableHLO portable artifact "
                          "(bytecode), got no bytes; give what jax.export serialises");
    uint8_t b[4] = {0};
    memcpy(b, bytes, size < 4 ? size : 4);
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "VHLO artifact: expected a StableHLO portable artifact (bytecode), got %zu "
                      "bytes that start with %02x %02x %02x %02x; give what jax.export serialises",
                      size, b[0], b[1], b[2], b[3]);
}

static vtrn_status read_header(vhlo_module *m, vhlo_cursor *c) {
    static const uint8_t MAGIC[4] = {'M', 'L', 0xef, 'R'};
    if (m->size < 4 || memcmp(m->bytes, MAGIC, 4) != 0)
        return refuse_foreign(m->bytes, m->size);
    c->pos = 4;
    uint64_t version;
    VTRN_RETURN_IF_ERROR(cursor_varint(c, &version));
    if (version > LAST_VERSION)
        return VHLO_ERROR(c, "bytecode version %llu > %d", (unsigned long long)version,
                          LAST_VERSION);
    m->version = (uint32_t)version;
    const uint8_t *nul = memchr(c->bytes + c->pos, 0, cursor_left(c));
    if (!nul)
        return VHLO_ERROR(c, "%s", "producer string has no end");
    m->producer = (const char *)c->bytes + c->pos;
    c->pos = (size_t)(nul - c->bytes) + 1;
    return NULL;
}

/* Lengths come last string first, each with its NUL; the data comes first string first. */
static vtrn_status read_strings(vhlo_module *m, vhlo_cursor *c) {
    VTRN_RETURN_IF_ERROR(cursor_count(c, "strings", &m->n_strings));
    NEW(m, m->strings, m->n_strings);
    for (uint32_t i = m->n_strings; i-- > 0;) {
        uint64_t n;
        VTRN_RETURN_IF_ERROR(cursor_varint(c, &n));
        if (n == 0 || n > cursor_left(c))
            return VHLO_ERROR(c, "string %u of %llu bytes, %zu left", i, (unsigned long long)n,
                              cursor_left(c));
        m->strings[i].len = n - 1;
    }
    for (uint32_t i = 0; i < m->n_strings; i++) {
        const uint8_t *text;
        VTRN_RETURN_IF_ERROR(cursor_bytes(c, m->strings[i].len + 1, &text));
        if (text[m->strings[i].len] != 0)
            return VHLO_ERROR(c, "string %u does not end in NUL", i);
        m->strings[i].text = (const char *)text;
    }
    return NULL;
}

static vtrn_status read_string_index(vhlo_module *m, vhlo_cursor *c, bool has_flag, bool *out_flag,
                                     vhlo_string *out) {
    size_t at = c->pos;
    uint64_t v;
    VTRN_RETURN_IF_ERROR(cursor_varint(c, &v));
    *out_flag = has_flag && (v & 1);
    v >>= has_flag;
    if (v >= m->n_strings)
        return VHLO_ERROR_AT(c, at, "string index %llu >= %u strings", (unsigned long long)v,
                             m->n_strings);
    *out = m->strings[v];
    return NULL;
}

/* Counts the items of a list of vhlo_ops.def; a variadic one makes the count a minimum. */
static uint16_t count_list(const char *list, bool *has_more) {
    uint16_t n = 0, n_variadic = 0;
    for (const char *p = list; *p; p++) {
        n += p == list || p[-1] == ',';
        n_variadic += *p == '*';
    }
    *has_more = n_variadic > 0;
    return n - n_variadic;
}

static void describe_name(vhlo_op_name *name) {
    if (name->dialect_id != VHLO_DIALECT_VHLO)
        return;
    const vhlo_op_info *info = name->info = vhlo_find_op(name->name.text, name->name.len);
    if (!info)
        return;
    bool unused;
    name->n_attrs = count_list(info->attrs, &unused);
    name->min_operands = count_list(info->operands, &name->has_more_operands);
    name->min_results = count_list(info->results, &name->has_more_results);
    name->min_regions = count_list(info->regions, &name->has_more_regions);
}

static vtrn_status read_names(vhlo_module *m, vhlo_cursor *c) {
    uint32_t capacity;
    uint64_t n_announced = 0;
    if (m->version >= 4)
        VTRN_RETURN_IF_ERROR(cursor_varint(c, &n_announced));
    capacity = (uint32_t)(cursor_left(c) < INT32_MAX ? cursor_left(c) : INT32_MAX);
    if (n_announced > capacity)
        return VHLO_ERROR(c, "%llu operation names announced, %zu bytes left",
                          (unsigned long long)n_announced, cursor_left(c));
    NEW(m, m->names, m->version >= 4 ? n_announced : capacity);
    if (m->version >= 4)
        capacity = (uint32_t)n_announced;
    while (c->pos < c->end) {
        uint32_t dialect, n;
        VTRN_RETURN_IF_ERROR(cursor_index(c, m->n_dialects, "dialect", "dialects", &dialect));
        VTRN_RETURN_IF_ERROR(cursor_count(c, "operation names", &n));
        if (n > capacity - m->n_names)
            return VHLO_ERROR(c, "more operation names than the %u announced", capacity);
        for (uint32_t i = 0; i < n; i++) {
            vhlo_op_name *name = &m->names[m->n_names++];
            VTRN_RETURN_IF_ERROR(
                read_string_index(m, c, m->version >= 5, &name->is_registered, &name->name));
            name->dialect = m->dialects[dialect];
            name->dialect_id = m->dialect_ids[dialect];
            describe_name(name);
        }
    }
    return NULL;
}

static uint8_t dialect_named(vhlo_string name) {
    static const char *const NAMES[] = {
        [VHLO_DIALECT_BUILTIN] = "builtin",
        [VHLO_DIALECT_VHLO] = "vhlo",
        [VHLO_DIALECT_SDY] = "sdy",
        [VHLO_DIALECT_STABLEHLO] = "stablehlo",
    };
    for (size_t i = VHLO_DIALECT_BUILTIN; i < sizeof NAMES / sizeof *NAMES; i++)
        if (vhlo_string_equal(name, NAMES[i]))
            return (uint8_t)i;
    return VHLO_DIALECT_OTHER;
}

static vtrn_status read_dialects(vhlo_module *m, vhlo_cursor *c) {
    VTRN_RETURN_IF_ERROR(cursor_count(c, "dialects", &m->n_dialects));
    NEW(m, m->dialects, m->n_dialects);
    NEW(m, m->dialect_ids, m->n_dialects);
    for (uint32_t i = 0; i < m->n_dialects; i++) {
        bool has_version;
        VTRN_RETURN_IF_ERROR(
            read_string_index(m, c, m->version >= 1, &has_version, &m->dialects[i]));
        if (has_version) {
            uint8_t id;
            vhlo_cursor version;
            VTRN_RETURN_IF_ERROR(cursor_section(c, &id, &version));
            if (id != SECTION_DIALECT_VERSION)
                return VHLO_ERROR(c, "section %d where the version of a dialect should be", id);
        }
        m->dialect_ids[i] = dialect_named(m->dialects[i]);
    }
    return read_names(m, c);
}

/* Entries lie one after the other in the data section: attributes, then types. */
static vtrn_status read_offsets(vhlo_module *m, vhlo_cursor *c, const vhlo_cursor *data) {
    VTRN_RETURN_IF_ERROR(cursor_count(c, "attributes", &m->n_attrs));
    VTRN_RETURN_IF_ERROR(cursor_count(c, "types", &m->n_types));
    uint32_t n = m->n_attrs + m->n_types, i = 0;
    if (n > cursor_left(c))
        return VHLO_ERROR(c, "%u entries announced, %zu bytes left", n, cursor_left(c));
    NEW(m, m->entries, n);
    size_t pos = data->pos;
    for (int pass = 0; pass < 2; pass++) {
        uint32_t end = pass == 0 ? m->n_attrs : n;
        while (i < end) {
            uint32_t dialect, n_group;
            VTRN_RETURN_IF_ERROR(cursor_index(c, m->n_dialects, "dialect", "dialects", &dialect));
            VTRN_RETURN_IF_ERROR(cursor_count(c, "entries", &n_group));
            if (n_group > end - i)
                return VHLO_ERROR(c, "group of %u entries, %u are left", n_group, end - i);
            for (uint32_t k = 0; k < n_group; k++, i++) {
                uint64_t v;
                VTRN_RETURN_IF_ERROR(cursor_varint(c, &v));
                if (v >> 1 > data->end - pos)
                    return VHLO_ERROR(c,
                                      "entry %u of %llu bytes, %zu left in the attribute section",
                                      i, (unsigned long long)(v >> 1), data->end - pos);
                vhlo_entry *e = &m->entries[i];
                e->is_type = pass == 1;
                e->is_text = !(v & 1);
                e->dialect = m->dialect_ids[dialect];
                e->byte = pos;
                e->size = v >> 1;
                pos += e->size;
            }
        }
    }
    return NULL;
}

static vtrn_status read_properties(vhlo_module *m, vhlo_cursor *c) {
    VTRN_RETURN_IF_ERROR(cursor_count(c, "property records", &m->n_props));
    NEW(m, m->props, m->n_props);
    for (uint32_t i = 0; i < m->n_props; i++) {
        const uint8_t *data;
        VTRN_RETURN_IF_ERROR(cursor_blob(c, &data, &m->props[i].len));
        m->props[i].text = (const char *)data;
    }
    return NULL;
}

vtrn_status vhlo_read_sections(vhlo_module *m, vhlo_cursor *out_ir) {
    vhlo_cursor file = {m->bytes, 0, m->size, "header"};
    VTRN_RETURN_IF_ERROR(read_header(m, &file));
    vhlo_cursor sections[N_SECTIONS];
    bool has[N_SECTIONS] = {false};
    file.section = "section list";
    while (file.pos < file.end) {
        uint8_t id;
        vhlo_cursor section;
        size_t at = file.pos;
        VTRN_RETURN_IF_ERROR(cursor_section(&file, &id, &section));
        if (has[id])
            return VHLO_ERROR_AT(&file, at, "a second %s", section.section);
        has[id] = true;
        sections[id] = section;
    }
    static const int NEEDED[] = {SECTION_STRING, SECTION_DIALECT, SECTION_ATTR_DATA,
                                 SECTION_ATTR_OFFSET, SECTION_IR};
    for (size_t i = 0; i < sizeof NEEDED / sizeof *NEEDED; i++)
        if (!has[NEEDED[i]])
            return VHLO_ERROR(&file, "section %d is missing", NEEDED[i]);
    VTRN_RETURN_IF_ERROR(read_strings(m, &sections[SECTION_STRING]));
    VTRN_RETURN_IF_ERROR(read_dialects(m, &sections[SECTION_DIALECT]));
    VTRN_RETURN_IF_ERROR(
        read_offsets(m, &sections[SECTION_ATTR_OFFSET], &sections[SECTION_ATTR_DATA]));
    if (has[SECTION_PROPERTIES])
        VTRN_RETURN_IF_ERROR(read_properties(m, &sections[SECTION_PROPERTIES]));
    *out_ir = sections[SECTION_IR];
    return NULL;
}

vtrn_status vhlo_read(const void *bytes, size_t size, vhlo_module **out) {
    *out = NULL;
    vhlo_module *m = calloc(1, sizeof *m);
    if (!m)
        return VTRN_OUT_OF_MEMORY(sizeof *m);
    m->name_attr = VHLO_NONE;
    m->bytes = bytes;
    m->size = size;
    vhlo_cursor ir;
    vtrn_status status = vhlo_read_sections(m, &ir);
    if (!status)
        status = vhlo_read_ir(m, &ir);
    if (status) {
        vhlo_destroy(m);
        return status;
    }
    *out = m;
    return NULL;
}

void vhlo_destroy(vhlo_module *m) {
    if (!m)
        return;
    arena_free(&m->arena);
    free(m->scratch_ints);
    free(m->scratch_refs);
    free(m);
}
