/* Operations, regions and blocks of a VHLO artifact. Values keep the numbers of the artifact: they
 * start at 0 in an isolated operation and at the end of the enclosing regions' values elsewhere. */
#include "compiler/vhlo/vhlo_bytes.h"

enum { MAX_DEPTH = 64 };
enum {
    HAS_ATTRS = 1,
    HAS_RESULTS = 2,
    HAS_OPERANDS = 4,
    HAS_SUCCESSORS = 8,
    HAS_REGIONS = 0x10,
    HAS_USE_ORDERS = 0x20,
    HAS_PROPERTIES = 0x40,
};

/* An isolated numbering of values. */
typedef struct scope {
    uint64_t base; /* values of the enclosing regions */
    uint64_t next; /* the next value to define */
    uint64_t end;  /* of the current region */
    uint64_t max;  /* highest end met */
} scope;

static vtrn_status read_op(vhlo_module *m, vhlo_cursor *c, scope *s, int depth, vhlo_op **out);

/* Use-list orders serve to rebuild MLIR's own lists; nothing here needs them. */
static vtrn_status skip_use_orders(vhlo_cursor *c, uint32_t n_values) {
    uint64_t n = 1, n_indices, unused;
    if (n_values > 1)
        VTRN_RETURN_IF_ERROR(cursor_varint(c, &n));
    if (n > n_values)
        return VHLO_ERROR(c, "use-list orders of %llu values, there are %u", (unsigned long long)n,
                          n_values);
    for (uint64_t i = 0; i < n; i++) {
        if (n_values > 1)
            VTRN_RETURN_IF_ERROR(cursor_varint(c, &unused));
        VTRN_RETURN_IF_ERROR(cursor_varint(c, &n_indices));
        if (n_indices >> 1 > cursor_left(c))
            return VHLO_ERROR(c, "use-list order of %llu, %zu bytes left",
                              (unsigned long long)(n_indices >> 1), cursor_left(c));
        for (uint64_t k = 0; k < n_indices >> 1; k++)
            VTRN_RETURN_IF_ERROR(cursor_varint(c, &unused));
    }
    return NULL;
}

/* What indices count. */
typedef struct index_space {
    uint64_t limit;         /* indices are less */
    const char *what, *all; /* for messages: one, and all of them */
} index_space;

static vtrn_status read_indices(vhlo_module *m, vhlo_cursor *c, const index_space *space,
                                uint32_t *out_n, const uint32_t **out) {
    VTRN_RETURN_IF_ERROR(cursor_count(c, space->all, out_n));
    uint32_t *items = ARENA_NEW(&m->arena, uint32_t, *out_n);
    if (!items)
        return VTRN_OUT_OF_MEMORY(*out_n * sizeof *items);
    for (uint32_t i = 0; i < *out_n; i++)
        VTRN_RETURN_IF_ERROR(cursor_index(c, space->limit, space->what, space->all, &items[i]));
    *out = items;
    return NULL;
}

static vtrn_status define_values(vhlo_cursor *c, scope *s, uint32_t n, uint32_t *out_first) {
    if (n > s->end - s->next)
        return VHLO_ERROR(c, "value %llu defined, the region announced %llu",
                          (unsigned long long)(s->next + n), (unsigned long long)s->end);
    *out_first = (uint32_t)s->next;
    s->next += n;
    return NULL;
}

static vtrn_status read_block_args(vhlo_module *m, vhlo_cursor *c, scope *s, uint32_t *out_n,
                                   const uint32_t **out_types) {
    VTRN_RETURN_IF_ERROR(cursor_count(c, "block arguments", out_n));
    uint32_t *types = ARENA_NEW(&m->arena, uint32_t, *out_n);
    if (!types)
        return VTRN_OUT_OF_MEMORY(*out_n * sizeof *types);
    for (uint32_t i = 0; i < *out_n; i++) {
        size_t at = c->pos;
        uint64_t v;
        uint32_t unused;
        VTRN_RETURN_IF_ERROR(cursor_varint(c, &v));
        bool has_location = m->version < 4 || (v & 1);
        if (m->version >= 4)
            v >>= 1;
        if (v >= m->n_types)
            return VHLO_ERROR_AT(c, at, "type index %llu >= %u types", (unsigned long long)v,
                                 m->n_types);
        types[i] = (uint32_t)v;
        if (has_location)
            VTRN_RETURN_IF_ERROR(cursor_index(c, m->n_attrs, "location", "attributes", &unused));
    }
    *out_types = types;
    uint32_t first;
    return define_values(c, s, *out_n, &first);
}

static vtrn_status read_block(vhlo_module *m, vhlo_cursor *c, scope *s, int depth,
                              vhlo_region *out) {
    uint64_t v;
    VTRN_RETURN_IF_ERROR(cursor_varint(c, &v));
    out->n_args = 0;
    if (v & 1) {
        VTRN_RETURN_IF_ERROR(read_block_args(m, c, s, &out->n_args, &out->arg_types));
        uint8_t has_orders = 0;
        if (m->version >= 3)
            VTRN_RETURN_IF_ERROR(cursor_byte(c, &has_orders));
        if (has_orders)
            VTRN_RETURN_IF_ERROR(skip_use_orders(c, out->n_args));
    }
    uint64_t n_ops = v >> 1;
    if (n_ops > cursor_left(c) / 3)
        return VHLO_ERROR(c, "%llu operations announced, %zu bytes left", (unsigned long long)n_ops,
                          cursor_left(c));
    out->n_ops = (uint32_t)n_ops;
    vhlo_op **next = &out->first_op;
    for (uint64_t i = 0; i < n_ops; i++) {
        VTRN_RETURN_IF_ERROR(read_op(m, c, s, depth, next));
        next = &(*next)->next;
    }
    return NULL;
}

static vtrn_status read_region(vhlo_module *m, vhlo_cursor *c, scope *s, int depth,
                               vhlo_region *out) {
    VTRN_RETURN_IF_ERROR(cursor_count(c, "blocks", &out->n_blocks));
    out->first_value = (uint32_t)s->base;
    if (out->n_blocks == 0)
        return NULL;
    VTRN_RETURN_IF_ERROR(cursor_count(c, "values", &out->n_values));
    scope saved = *s;
    s->next = s->base;
    s->base = s->end = s->base + out->n_values;
    if (s->end > INT32_MAX)
        return VHLO_ERROR(c, "%llu values in one scope", (unsigned long long)s->end);
    s->max = s->end > s->max ? s->end : s->max;
    vhlo_region other;
    for (uint32_t i = 0; i < out->n_blocks; i++)
        VTRN_RETURN_IF_ERROR(read_block(m, c, s, depth, i == 0 ? out : &other));
    if (s->next != s->end)
        return VHLO_ERROR(c, "the region announced %u values and defined %llu", out->n_values,
                          (unsigned long long)(s->next - out->first_value));
    saved.max = s->max;
    *s = saved;
    return NULL;
}

static vtrn_status read_regions(vhlo_module *m, vhlo_cursor *c, scope *s, int depth, vhlo_op *op) {
    uint64_t v;
    VTRN_RETURN_IF_ERROR(cursor_varint(c, &v));
    if (v >> 1 > cursor_left(c))
        return VHLO_ERROR(c, "%llu regions announced, %zu bytes left", (unsigned long long)(v >> 1),
                          cursor_left(c));
    if (depth >= MAX_DEPTH)
        return VHLO_ERROR(c, "regions nest deeper than %d", MAX_DEPTH);
    op->n_regions = (uint32_t)(v >> 1);
    op->is_isolated = v & 1;
    op->regions = ARENA_NEW(&m->arena, vhlo_region, op->n_regions);
    if (!op->regions)
        return VTRN_OUT_OF_MEMORY(op->n_regions * sizeof *op->regions);
    scope own = {0};
    vhlo_cursor section;
    vhlo_cursor *in = c;
    if (op->is_isolated) {
        s = &own;
        if (m->version >= 2) { /* one section holds all regions of the operation */
            uint8_t id;
            VTRN_RETURN_IF_ERROR(cursor_section(c, &id, &section));
            if (id != 4)
                return VHLO_ERROR(c, "section %d where the regions of an operation should be", id);
            in = &section;
        }
    }
    for (uint32_t i = 0; i < op->n_regions; i++)
        VTRN_RETURN_IF_ERROR(read_region(m, in, s, depth + 1, &op->regions[i]));
    if (op->is_isolated)
        op->scope_size = (uint32_t)own.max;
    if (in == &section && section.pos != section.end)
        return VHLO_ERROR(&section, "%zu bytes too many after the regions of an operation",
                          cursor_left(&section));
    return NULL;
}

/* builtin.module: its name, 0 or an attribute number * 2 + 1; what follows is of no use here. */
static vtrn_status read_module_name(vhlo_module *m, vhlo_cursor *p) {
    uint64_t optional = 0;
    if (cursor_left(p) > 0)
        VTRN_RETURN_IF_ERROR(cursor_varint(p, &optional));
    if (optional & 1 && optional >> 1 < m->n_attrs)
        m->name_attr = (uint32_t)(optional >> 1);
    return NULL;
}

static vtrn_status read_sdy_properties(vhlo_module *m, vhlo_cursor *p, vhlo_op *op) {
    const char *names = vhlo_sdy_attrs(op->name->name);
    uint32_t n = names != NULL;
    for (const char *c = names; c && *c; c++)
        n += *c == ',';
    uint32_t *props = ARENA_NEW(&m->arena, uint32_t, n);
    if (!props)
        return VTRN_OUT_OF_MEMORY(n * sizeof *props);
    for (uint32_t k = 0; k < n; k++)
        VTRN_RETURN_IF_ERROR(cursor_index(p, m->n_attrs, "attribute", "attributes", &props[k]));
    op->props = n ? props : NULL;
    return NULL;
}

/* A record of one attribute number per attribute of the table's row. */
static vtrn_status read_properties(vhlo_module *m, vhlo_cursor *c, vhlo_op *op) {
    uint32_t i;
    if (!op->name->is_registered)
        return cursor_index(c, m->n_attrs, "property", "attributes", &i);
    VTRN_RETURN_IF_ERROR(cursor_index(c, m->n_props, "property", "property records", &i));
    const uint8_t *data = (const uint8_t *)m->props[i].text;
    size_t pos = (size_t)(data - m->bytes);
    vhlo_cursor p = {m->bytes, pos, pos + m->props[i].len, "property section"};
    if (op->name->dialect_id == VHLO_DIALECT_SDY)
        return read_sdy_properties(m, &p, op);
    if (!op->name->info)
        return vhlo_string_equal(op->name->name, "module") ? read_module_name(m, &p) : NULL;
    uint32_t *props = ARENA_NEW(&m->arena, uint32_t, op->name->n_attrs);
    if (!props)
        return VTRN_OUT_OF_MEMORY(op->name->n_attrs * sizeof *props);
    for (uint32_t k = 0; k < op->name->n_attrs; k++)
        VTRN_RETURN_IF_ERROR(cursor_index(&p, m->n_attrs, "attribute", "attributes", &props[k]));
    if (p.pos != p.end)
        return VHLO_ERROR(&p, "vhlo.%s: %zu bytes more than its %u attributes", op->name->name.text,
                          cursor_left(&p), op->name->n_attrs);
    op->props = props;
    return NULL;
}

static vtrn_status check_counts(vhlo_cursor *c, const vhlo_op *op) {
    const vhlo_op_name *n = op->name;
    if (!n->info)
        return NULL;
#define CHECK_COUNT(what)                                                                          \
    if (op->n_##what < n->min_##what || (op->n_##what > n->min_##what && !n->has_more_##what))     \
    return VHLO_ERROR_AT(c, op->byte, "vhlo.%s has %u " #what ", its definition has %s%u",         \
                         n->name.text, op->n_##what, n->has_more_##what ? "at least " : "",        \
                         n->min_##what)
    CHECK_COUNT(operands);
    CHECK_COUNT(results);
    CHECK_COUNT(regions);
#undef CHECK_COUNT
    return NULL;
}

static vtrn_status read_op(vhlo_module *m, vhlo_cursor *c, scope *s, int depth, vhlo_op **out) {
    vhlo_op *op = ARENA_NEW(&m->arena, vhlo_op, 1);
    if (!op)
        return VTRN_OUT_OF_MEMORY(sizeof *op);
    *out = op;
    m->n_ops++;
    op->byte = c->pos;
    op->dictionary = VHLO_NONE;
    uint8_t mask;
    VTRN_RETURN_IF_ERROR(
        cursor_index(c, m->n_names, "operation name", "operation names", &op->name_i));
    op->name = &m->names[op->name_i];
    VTRN_RETURN_IF_ERROR(cursor_byte(c, &mask));
    VTRN_RETURN_IF_ERROR(cursor_index(c, m->n_attrs, "location", "attributes", &op->location));
    if (mask & HAS_ATTRS)
        VTRN_RETURN_IF_ERROR(
            cursor_index(c, m->n_attrs, "dictionary", "attributes", &op->dictionary));
    if (mask & HAS_PROPERTIES)
        VTRN_RETURN_IF_ERROR(read_properties(m, c, op));
    if (mask & HAS_RESULTS) {
        VTRN_RETURN_IF_ERROR(read_indices(m, c, &(index_space){m->n_types, "type", "types"},
                                          &op->n_results, &op->result_types));
        VTRN_RETURN_IF_ERROR(define_values(c, s, op->n_results, &op->first_result));
    }
    if (mask & HAS_OPERANDS)
        VTRN_RETURN_IF_ERROR(read_indices(m, c, &(index_space){s->end, "value", "values"},
                                          &op->n_operands, &op->operands));
    if (mask & HAS_SUCCESSORS)
        return VHLO_ERROR(c, "%s.%s has successor blocks, no operation here has any",
                          op->name->dialect.text, op->name->name.text);
    if (mask & HAS_USE_ORDERS)
        VTRN_RETURN_IF_ERROR(skip_use_orders(c, op->n_results));
    if (mask & HAS_REGIONS)
        VTRN_RETURN_IF_ERROR(read_regions(m, c, s, depth, op));
    return check_counts(c, op);
}

vtrn_status vhlo_read_ir(vhlo_module *m, vhlo_cursor *ir) {
    vhlo_region top = {0};
    scope s = {0};
    VTRN_RETURN_IF_ERROR(read_block(m, ir, &s, 0, &top));
    if (top.n_ops != 1 || top.first_op->name->dialect_id != VHLO_DIALECT_BUILTIN ||
        !vhlo_string_equal(top.first_op->name->name, "module"))
        return VHLO_ERROR(ir, "%s", "the top level is not one builtin.module");
    if (top.first_op->n_regions != 1)
        return VHLO_ERROR(ir, "builtin.module has %u regions, its definition has 1",
                          top.first_op->n_regions);
    if (!top.first_op->is_isolated)
        return VHLO_ERROR(ir, "%s", "builtin.module is not isolated");
    if (ir->pos != ir->end)
        return VHLO_ERROR(ir, "%zu bytes too many after the module", cursor_left(ir));
    m->root = top.first_op;
    return NULL;
}
