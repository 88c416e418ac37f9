/* Builds a graph from a VHLO module: functions found, calls and composites inlined, operations that
 * only carry sharding dropped, values renumbered. */
#include "compiler/graph/graph_build.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 200, MAX_WORK = 1 << 22, MAX_VALUES = 1 << 24 };

/* Composites that the graph knows as one operation; every other becomes its decomposition. */
static const struct {
    const char *name;
    int kind;
    uint32_t n_operands;
} KNOWN_COMPOSITES[] = {{"chlo.erf", GRAPH_ERF, 1}};

/* VHLO names that the graph keeps under another kind. */
static const struct {
    const char *name;
    int kind;
} ALIASES[] = {{"dot", GRAPH_DOT_GENERAL}, {"broadcast", GRAPH_BROADCAST_IN_DIM}};

/* Custom calls that stand for an operation: XLA writes what StableHLO lacks as calls. */
static const struct {
    const char *target;
    int kind;
} CALLED_KINDS[] = {{"mhlo.erf", GRAPH_ERF}};

/* Custom calls that change nothing where operand and result have one type. */
static const char *const IDENTITY_CALLS[] = {
    "Sharding",
    "annotate_device_placement",
    "SPMDFullToShardShape",
    "SPMDShardToFullShape",
};

/* Custom calls without results that do nothing when they run: they keep what makes their operands
 * in the module, or ask for a sharding when it is divided. */
static const char *const EMPTY_CALLS[] = {"dce_sink", "vtrn_inspect_sharding"};

static vtrn_status build_ops(graph_builder *b, size_t scope, const vhlo_region *v,
                             graph_value **out_results, uint32_t *out_n);

static vtrn_status new_value(graph_builder *b, const graph_type *type, graph_value *out) {
    graph *g = b->g;
    if (g->n_values >= MAX_VALUES)
        return VTRN_ERROR(
            VTRN_UNSUPPORTED,
            "more than %d values with calls inlined; replace unrolled loops by lax.scan, "
            "and with PyTorch call torch_xla.sync() more often",
            MAX_VALUES);
    VTRN_RETURN_IF_ERROR(graph_reserve_values(g, g->n_values + 1));
    g->types[g->n_values] = *type;
    *out = g->n_values++;
    return NULL;
}

/* A scope of n values of the artifact, none defined yet. */
static vtrn_status push_scope(graph_builder *b, uint32_t n, size_t *out_scope) {
    if (n > b->max_map - b->n_map) {
        size_t max = b->max_map * 2 > b->n_map + n ? b->max_map * 2 : b->n_map + n + 64;
        graph_value *map = realloc(b->map, max * sizeof *map);
        if (!map)
            return VTRN_OUT_OF_MEMORY(max * sizeof *map);
        b->map = map;
        b->max_map = max;
    }
    b->n_visited += n / 16; /* clearing costs, too */
    if (n)
        memset(b->map + b->n_map, 0xff, n * sizeof *b->map);
    *out_scope = b->n_map;
    b->n_map += n;
    return NULL;
}

static vtrn_status lookup(graph_builder *b, size_t scope, uint32_t value, graph_value *out) {
    *out = b->map[scope + value];
    if (*out == GRAPH_NO_VALUE)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "value %u is used before it is defined", value);
    return NULL;
}

typedef struct graph_list {
    graph_value *values;
    uint32_t n;
} graph_list;

/* Operands of what passes values on: values and tuples. */
static vtrn_status map_operands(graph_builder *b, size_t scope, const vhlo_op *v,
                                graph_value **out) {
    GRAPH_NEW(b, *out, v->n_operands);
    for (uint32_t i = 0; i < v->n_operands; i++)
        VTRN_RETURN_IF_ERROR(lookup(b, scope, v->operands[i], &(*out)[i]));
    return NULL;
}

static vtrn_status refuse_tuples(const graph_value *values, uint32_t n, const char *what) {
    for (uint32_t i = 0; i < n; i++)
        if (graph_is_tuple(values[i]))
            return VTRN_ERROR(VTRN_UNSUPPORTED,
                              "%s %u is a tuple; take it apart by get_tuple_element", what, i);
    return NULL;
}

/* Makes the results of v other names of values that exist, whose types must be the announced ones.
 */
static vtrn_status alias_results(graph_builder *b, size_t scope, const vhlo_op *v,
                                 const graph_value *values, uint32_t n) {
    if (n != v->n_results)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%u results for %u values", v->n_results, n);
    for (uint32_t i = 0; i < n; i++) {
        bool is_same_type;
        VTRN_RETURN_IF_ERROR(graph_has_type(b, v->result_types[i], values[i], &is_same_type));
        if (!is_same_type)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "result %u has another type than its value", i);
        b->map[scope + v->first_result + i] = values[i];
    }
    return NULL;
}

static vtrn_status alias_operands(graph_builder *b, size_t scope, const vhlo_op *v) {
    graph_value *values;
    VTRN_RETURN_IF_ERROR(map_operands(b, scope, v, &values));
    return alias_results(b, scope, v, values, v->n_operands);
}

static vtrn_status check_one_block(const vhlo_region *v) {
    return v->n_blocks == 1
               ? NULL
               : VTRN_ERROR(VTRN_UNSUPPORTED,
                            "region of %u blocks; write it as one, its branches as if or case",
                            v->n_blocks);
}

/* Builds the body of a function or a region in place of v, whose operands are the arguments. The
 * values of the body are in scope `inner`. */
static vtrn_status inline_body(graph_builder *b, size_t scope, const vhlo_op *v,
                               const vhlo_region *body, size_t inner, graph_list *out) {
    graph_value *args = NULL;
    VTRN_RETURN_IF_ERROR(map_operands(b, scope, v, &args));
    VTRN_RETURN_IF_ERROR(check_one_block(body));
    if (v->n_operands != body->n_args)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%u arguments for %u parameters", v->n_operands,
                          body->n_args);
    for (uint32_t i = 0; i < body->n_values; i++)
        b->map[inner + body->first_value + i] = GRAPH_NO_VALUE;
    for (uint32_t i = 0; i < v->n_operands; i++) {
        bool is_same_type;
        VTRN_RETURN_IF_ERROR(graph_has_type(b, body->arg_types[i], args[i], &is_same_type));
        if (!is_same_type)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "argument %u has another type than the parameter",
                              i);
        b->map[inner + body->first_value + i] = args[i];
    }
    return build_ops(b, inner, body, &out->values, &out->n);
}

static vtrn_status inline_region(graph_builder *b, size_t scope, const vhlo_op *v,
                                 const vhlo_region *body, size_t inner) {
    graph_list results = {0};
    VTRN_RETURN_IF_ERROR(inline_body(b, scope, v, body, inner, &results));
    return alias_results(b, scope, v, results.values, results.n);
}

static int compare_names(vhlo_string a, vhlo_string b) {
    int order = memcmp(a.text, b.text, a.len < b.len ? a.len : b.len);
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

static int compare_funcs(const void *a, const void *b) {
    const graph_func *x = a, *y = b;
    int order = compare_names(x->name, y->name);
    return order ? order : (x->op->byte > y->op->byte) - (x->op->byte < y->op->byte);
}

static graph_func *find_func(graph_builder *b, vhlo_string name) {
    uint32_t low = 0, high = b->n_funcs;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        int order = compare_names(name, b->funcs[mid].name);
        if (order == 0)
            return &b->funcs[mid];
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

/* Functions number their values from 0, except in artifacts of VHLO before 0.14, where they share
 * the numbering of the module. */
static uint32_t func_scope_size(const graph_builder *b, const vhlo_op *func) {
    return func->is_isolated ? func->scope_size : b->m->root->scope_size;
}

static vtrn_status inline_call(graph_builder *b, size_t scope, const vhlo_op *v,
                               const char *callee_attr) {
    const vhlo_entry *callee;
    vhlo_string name;
    VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, v, callee_attr, &callee));
    if (!vhlo_entry_string(callee, &name))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%s is not the name of a function", callee_attr);
    graph_func *f = find_func(b, name);
    if (!f)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "no function @%.*s",
                          name.len < 200 ? (int)name.len : 200, name.text);
    if (f->is_open)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "function @%s calls itself, but calls are inlined; write a while loop",
                          f->name.text);
    size_t inner = 0, mark = b->n_map;
    const graph_place outer_place = b->call_place;
    const bool was_random = b->is_random;
    graph_place place;
    VTRN_RETURN_IF_ERROR(graph_get_place(b, v->location, &place));
    VTRN_RETURN_IF_ERROR(push_scope(b, func_scope_size(b, f->op), &inner));
    f->is_open = true;
    b->call_place = place;
    b->is_random |= graph_is_random(name);
    VTRN_RETURN_IF_ERROR(inline_region(b, scope, v, &f->op->regions[0], inner));
    f->is_open = false;
    b->call_place = outer_place;
    b->is_random = was_random;
    b->n_map = mark;
    return NULL;
}

/* A region of an operation; its operations are moved off the stack when it is complete. */
static vtrn_status build_region(graph_builder *b, size_t scope, const vhlo_region *v,
                                graph_region **out) {
    VTRN_RETURN_IF_ERROR(check_one_block(v));
    graph_region *r;
    GRAPH_NEW(b, r, 1);
    GRAPH_NEW(b, r->args, v->n_args);
    r->n_args = v->n_args;
    for (uint32_t i = 0; i < v->n_values; i++)
        b->map[scope + v->first_value + i] = GRAPH_NO_VALUE;
    for (uint32_t i = 0; i < v->n_args; i++) {
        const graph_type *type;
        VTRN_RETURN_IF_ERROR(graph_convert_type(b, v->arg_types[i], &type));
        VTRN_RETURN_IF_ERROR(new_value(b, type, &r->args[i]));
        b->map[scope + v->first_value + i] = r->args[i];
    }
    size_t mark = b->n_ops;
    VTRN_RETURN_IF_ERROR(build_ops(b, scope, v, &r->results, &r->n_results));
    VTRN_RETURN_IF_ERROR(refuse_tuples(r->results, r->n_results, "result"));
    r->n_ops = (uint32_t)(b->n_ops - mark);
    GRAPH_NEW(b, r->ops, r->n_ops);
    if (r->n_ops)
        memcpy(r->ops, b->ops + mark, r->n_ops * sizeof *r->ops);
    b->n_ops = mark;
    *out = r;
    return NULL;
}

static vtrn_status build_regions(graph_builder *b, size_t scope, const vhlo_op *v, graph_op *op) {
    size_t mark = b->n_map;
    if (v->is_isolated)
        VTRN_RETURN_IF_ERROR(push_scope(b, v->scope_size, &scope));
    op->n_regions = v->n_regions;
    GRAPH_NEW(b, op->regions, v->n_regions);
    for (uint32_t i = 0; i < v->n_regions; i++)
        VTRN_RETURN_IF_ERROR(build_region(b, scope, &v->regions[i], &op->regions[i]));
    b->n_map = mark;
    return NULL;
}

static int find_kind(const vhlo_op_name *name) {
    if (!name->info)
        return GRAPH_UNKNOWN;
    for (size_t i = 0; i < sizeof ALIASES / sizeof *ALIASES; i++)
        if (strcmp(ALIASES[i].name, name->info->name) == 0)
            return ALIASES[i].kind;
    for (int kind = 0; kind < GRAPH_KIND_COUNT; kind++) {
        const char *text = graph_kind_name(kind);
        /* No VHLO operation is the composite's kind. */
        if (text[0] == name->info->name[0] && !graph_kind_is_composite(kind) &&
            !strcmp(text, name->info->name))
            return kind;
    }
    return graph_dynamic_kind(name->info->name);
}

static vtrn_status push_op(graph_builder *b, const graph_op *op) {
    if (b->n_ops == b->max_ops) {
        size_t max = b->max_ops ? b->max_ops * 2 : 256;
        graph_op *ops = realloc(b->ops, max * sizeof *ops);
        if (!ops)
            return VTRN_OUT_OF_MEMORY(max * sizeof *ops);
        b->ops = ops;
        b->max_ops = max;
    }
    b->ops[b->n_ops++] = *op;
    return NULL;
}

static vtrn_status op_name(graph_builder *b, const vhlo_op *v, int kind, const char **out) {
    static const char *const NAMES[] = {
#define G(e, name, attrs) "stablehlo." name,
#include "compiler/graph/graph_ops.def"
#undef G
    };
    *out = NAMES[kind];
    if (kind == GRAPH_UNKNOWN)
        *out = v->name->info
                   ? arena_printf(&b->g->arena, "stablehlo.%s", v->name->info->name)
                   : arena_printf(&b->g->arena, "%s.%s", v->name->dialect.text, v->name->name.text);
    return *out ? NULL : VTRN_OUT_OF_MEMORY(64);
}

/* Element i of a vector as a scalar. */
static vtrn_status push_element(graph_builder *b, const graph_op *reader, graph_value from,
                                int64_t i, graph_value *out) {
    graph_type type = {.dtype = b->g->types[from].dtype, .rank = 1, .dims = {1}};
    graph_op cut = {.kind = GRAPH_SLICE, .name = "stablehlo.slice", .place = reader->place};
    graph_op scalar = {.kind = GRAPH_RESHAPE, .name = "stablehlo.reshape", .place = reader->place};
    int64_t *ints;
    GRAPH_NEW(b, ints, 3);
    GRAPH_NEW(b, cut.operands, 2);
    GRAPH_NEW(b, scalar.results, 1);
    cut.results = scalar.operands = cut.operands + 1;
    cut.n_operands = cut.n_results = scalar.n_operands = scalar.n_results = 1;
    ints[0] = i;
    ints[1] = i + 1;
    ints[2] = 1;
    cut.attrs.slice.start = (graph_ints){1, ints};
    cut.attrs.slice.limit = (graph_ints){1, ints + 1};
    cut.attrs.slice.stride = (graph_ints){1, ints + 2};
    cut.operands[0] = from;
    VTRN_RETURN_IF_ERROR(new_value(b, &type, cut.results));
    type.rank = 0;
    VTRN_RETURN_IF_ERROR(new_value(b, &type, out));
    scalar.results[0] = *out;
    VTRN_RETURN_IF_ERROR(graph_verify_op(b->g, &cut));
    VTRN_RETURN_IF_ERROR(push_op(b, &cut));
    return push_op(b, &scalar);
}

/* real_dynamic_slice from where the program says, element by element: the type of the result says
 * how far. */
static vtrn_status build_computed_slice(graph_builder *b, graph_op *op) {
    const graph_type from = b->g->types[op->operands[0]], *starts = &b->g->types[op->operands[1]];
    const graph_type *to = &b->g->types[op->results[0]];
    graph_value *operands, start = op->operands[1];
    graph_ints strides;
    int64_t shape[2], *sizes;
    VTRN_RETURN_IF_ERROR(graph_shape_operand(b, op->operands[3], shape, &strides));
    bool is_each = starts->rank == 1 && starts->dims[0] == from.rank && strides.n == from.rank &&
                   to->rank == from.rank && !from.is_token;
    for (int64_t i = 0; i < strides.n && is_each; i++)
        is_each = strides.v[i] == 1;
    if (!is_each)
        return VTRN_ERROR(VTRN_UNSUPPORTED, "a slice from where data say, in strides other than 1; "
                                            "take all elements and cut the result");
    GRAPH_NEW(b, operands, (size_t)from.rank + 1);
    GRAPH_NEW(b, sizes, from.rank);
    memcpy(sizes, to->dims, (size_t)from.rank * sizeof *sizes);
    operands[0] = op->operands[0];
    for (int i = 0; i < from.rank; i++)
        VTRN_RETURN_IF_ERROR(push_element(b, op, start, i, &operands[i + 1]));
    op->kind = GRAPH_DYNAMIC_SLICE;
    op->name = "stablehlo.dynamic_slice";
    op->operands = operands;
    op->n_operands = (uint32_t)from.rank + 1;
    op->attrs.dims.dims = (graph_ints){from.rank, sizes};
    VTRN_RETURN_IF_ERROR(graph_verify_op(b->g, op));
    return push_op(b, op);
}

static vtrn_status build_kind(graph_builder *b, size_t scope, const vhlo_op *v, int kind) {
    graph_op op = {.kind = (uint16_t)kind, .n_operands = v->n_operands, .n_results = v->n_results};
    const uint32_t *types = v->result_types;
    VTRN_RETURN_IF_ERROR(op_name(b, v, kind, &op.name));
    VTRN_RETURN_IF_ERROR(graph_place_text(b, v->location, &op.place));
    VTRN_RETURN_IF_ERROR(map_operands(b, scope, v, &op.operands));
    VTRN_RETURN_IF_ERROR(refuse_tuples(op.operands, op.n_operands, "operand"));
    if (kind == GRAPH_CUSTOM_CALL)
        VTRN_RETURN_IF_ERROR(graph_call_result_types(b, v, &op.n_results, &types));
    GRAPH_NEW(b, op.results, op.n_results);
    for (uint32_t i = 0; i < op.n_results; i++) {
        const graph_type *type;
        VTRN_RETURN_IF_ERROR(graph_convert_type(b, types[i], &type));
        VTRN_RETURN_IF_ERROR(new_value(b, type, &op.results[i]));
    }
    if (v->n_regions && kind != GRAPH_UNKNOWN && !graph_kind_is_composite(kind))
        VTRN_RETURN_IF_ERROR(build_regions(b, scope, v, &op));
    if (types != v->result_types)
        VTRN_RETURN_IF_ERROR(
            graph_tuple_add(b, op.n_results, op.results, &b->map[scope + v->first_result]));
    else
        for (uint32_t i = 0; i < op.n_results; i++)
            b->map[scope + v->first_result + i] = op.results[i];
    if (kind == GRAPH_SLICE && op.n_operands == 4 && !graph_knows_shape_operand(b, op.operands[1]))
        return build_computed_slice(b, &op);
    VTRN_RETURN_IF_ERROR(graph_decode_attrs(b, v, &op));
    graph_drop_shape_operands(v, &op);
    graph_recognise_regions(&op);
    VTRN_RETURN_IF_ERROR(graph_verify_op(b->g, &op));
    return push_op(b, &op);
}

/* The decomposition that jaxlib 0.10 writes for a scan in reverse runs forwards. */
static vtrn_status refuse_reverse_scan(graph_builder *b, const vhlo_op *v) {
    const vhlo_entry *e, *is_reverse;
    VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, v, "composite_attributes", &e));
    VTRN_RETURN_IF_ERROR(vhlo_dictionary_get(b->m, e, "is_reverse", &is_reverse));
    if (is_reverse &&
        !(vhlo_entry_is(is_reverse, VHLO_DIALECT_VHLO, VHLO_ATTR_BOOL) && is_reverse->ints[0] == 0))
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "chlo.scan in reverse; reverse its operands and its results instead");
    return NULL;
}

static vtrn_status build_composite(graph_builder *b, size_t scope, const vhlo_op *v) {
    const vhlo_entry *e;
    vhlo_string name;
    VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, v, "name", &e));
    if (vhlo_entry_string(e, &name) && vhlo_string_equal(name, "chlo.scan"))
        VTRN_RETURN_IF_ERROR(refuse_reverse_scan(b, v));
    if (vhlo_entry_string(e, &name))
        for (size_t i = 0; i < sizeof KNOWN_COMPOSITES / sizeof *KNOWN_COMPOSITES; i++)
            if (vhlo_string_equal(name, KNOWN_COMPOSITES[i].name) && v->n_results == 1 &&
                v->n_operands == KNOWN_COMPOSITES[i].n_operands)
                return build_kind(b, scope, v, KNOWN_COMPOSITES[i].kind);
    return inline_call(b, scope, v, "decomposition");
}

static vtrn_status build_custom_call(graph_builder *b, size_t scope, const vhlo_op *v) {
    const vhlo_entry *e;
    vhlo_string target;
    VTRN_RETURN_IF_ERROR(vhlo_op_attr(b->m, v, "call_target_name", &e));
    if (vhlo_entry_string(e, &target) && v->n_operands == 1 && v->n_results == 1) {
        graph_value value;
        bool is_one_type;
        VTRN_RETURN_IF_ERROR(lookup(b, scope, v->operands[0], &value));
        VTRN_RETURN_IF_ERROR(graph_has_type(b, v->result_types[0], value, &is_one_type));
        for (size_t i = 0; i < sizeof IDENTITY_CALLS / sizeof *IDENTITY_CALLS; i++)
            if (is_one_type && vhlo_string_equal(target, IDENTITY_CALLS[i]))
                return alias_operands(b, scope, v);
        for (size_t i = 0; i < sizeof CALLED_KINDS / sizeof *CALLED_KINDS; i++)
            if (vhlo_string_equal(target, CALLED_KINDS[i].target))
                return build_kind(b, scope, v, CALLED_KINDS[i].kind);
    }
    if (vhlo_entry_string(e, &target) && v->n_results == 0)
        for (size_t i = 0; i < sizeof EMPTY_CALLS / sizeof *EMPTY_CALLS; i++)
            if (vhlo_string_equal(target, EMPTY_CALLS[i]))
                return NULL;
    return build_kind(b, scope, v, GRAPH_CUSTOM_CALL);
}

static vtrn_status build_tuple(graph_builder *b, size_t scope, const vhlo_op *v) {
    graph_value *items, tuple;
    VTRN_RETURN_IF_ERROR(map_operands(b, scope, v, &items));
    VTRN_RETURN_IF_ERROR(graph_tuple_add(b, v->n_operands, items, &tuple));
    return alias_results(b, scope, v, &tuple, 1);
}

static vtrn_status build_tuple_element(graph_builder *b, size_t scope, const vhlo_op *v) {
    graph_value tuple, item;
    VTRN_RETURN_IF_ERROR(lookup(b, scope, v->operands[0], &tuple));
    VTRN_RETURN_IF_ERROR(graph_tuple_item(b, v, tuple, &item));
    return alias_results(b, scope, v, &item, 1);
}

/* A collective that is started here and waited for elsewhere is done where it is started: what its
 * future stands for are the results, as a tuple. */
static vtrn_status build_async_start(graph_builder *b, size_t scope, const vhlo_op *v) {
    graph_list results = {0};
    graph_value future;
    b->g->has_no_hlo = true;
    if (v->n_regions != 1)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%u regions, not 1", v->n_regions);
    size_t mark = b->n_map, inner = scope;
    if (v->is_isolated)
        VTRN_RETURN_IF_ERROR(push_scope(b, v->scope_size, &inner));
    VTRN_RETURN_IF_ERROR(inline_body(b, scope, v, &v->regions[0], inner, &results));
    b->n_map = mark;
    VTRN_RETURN_IF_ERROR(refuse_tuples(results.values, results.n, "result"));
    VTRN_RETURN_IF_ERROR(graph_tuple_add(b, results.n, results.values, &future));
    return alias_results(b, scope, v, &future, 1);
}

static vtrn_status build_async_done(graph_builder *b, size_t scope, const vhlo_op *v) {
    graph_value future;
    VTRN_RETURN_IF_ERROR(lookup(b, scope, v->operands[0], &future));
    if (!graph_is_tuple(future))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "the operand is no future");
    const graph_tuple *t = &b->tuples[future - GRAPH_FIRST_TUPLE];
    return alias_results(b, scope, v, t->items, t->n);
}

/* A manual computation or a sharding constraint over several partitions. */
static vtrn_status build_sharded(graph_builder *b, size_t scope, const vhlo_op *v, int kind) {
    graph_op op = {.kind = (uint16_t)kind, .n_operands = v->n_operands, .n_results = v->n_results};
    op.name =
        kind == GRAPH_MANUAL_COMPUTATION ? "sdy.manual_computation" : "sdy.sharding_constraint";
    VTRN_RETURN_IF_ERROR(graph_place_text(b, v->location, &op.place));
    VTRN_RETURN_IF_ERROR(map_operands(b, scope, v, &op.operands));
    VTRN_RETURN_IF_ERROR(refuse_tuples(op.operands, op.n_operands, "operand"));
    GRAPH_NEW(b, op.results, op.n_results);
    for (uint32_t i = 0; i < op.n_results; i++) {
        const graph_type *type;
        VTRN_RETURN_IF_ERROR(graph_convert_type(b, v->result_types[i], &type));
        VTRN_RETURN_IF_ERROR(new_value(b, type, &op.results[i]));
    }
    VTRN_RETURN_IF_ERROR(build_regions(b, scope, v, &op));
    for (uint32_t i = 0; i < op.n_results; i++)
        b->map[scope + v->first_result + i] = op.results[i];
    VTRN_RETURN_IF_ERROR(kind == GRAPH_MANUAL_COMPUTATION ? graph_sdy_manual(b, v, &op)
                                                          : graph_sdy_constraint(b, v, &op));
    return push_op(b, &op);
}

/* Shardy: on one device, operations that place data are dropped, and a manual region is its body.
 */
static vtrn_status build_sdy(graph_builder *b, size_t scope, const vhlo_op *v) {
    vhlo_string name = v->name->name;
    if (v->n_results == 0 && v->n_regions == 0)
        return NULL; /* mesh, sharding_group */
    b->g->has_no_hlo = true;
    bool is_manual = vhlo_string_equal(name, "manual_computation");
    bool is_alone = b->g->n_partitions <= 1;
    if (v->n_regions == 1 && is_manual && !is_alone)
        return build_sharded(b, scope, v, GRAPH_MANUAL_COMPUTATION);
    if (v->n_regions == 1 && (is_manual || vhlo_string_equal(name, "named_computation"))) {
        size_t mark = b->n_map, inner = scope;
        if (v->is_isolated)
            VTRN_RETURN_IF_ERROR(push_scope(b, v->scope_size, &inner));
        VTRN_RETURN_IF_ERROR(inline_region(b, scope, v, &v->regions[0], inner));
        b->n_map = mark;
        return NULL;
    }
    bool is_unary = v->n_operands == 1 && v->n_results == 1 && v->n_regions == 0;
    if (is_unary && !is_alone &&
        (vhlo_string_equal(name, "sharding_constraint") || vhlo_string_equal(name, "reshard")))
        return build_sharded(b, scope, v, GRAPH_SHARDING_CONSTRAINT);
    if (is_unary && (is_alone || vhlo_string_equal(name, "propagation_barrier")))
        return alias_operands(b, scope, v); /* sharding_constraint, reshard, collectives */
    return build_kind(b, scope, v, GRAPH_UNKNOWN);
}

static bool is_named(const vhlo_op *v, const char *name) {
    return v->name->info && strcmp(v->name->info->name, name) == 0;
}

static vtrn_status build_op(graph_builder *b, size_t scope, const vhlo_op *v) {
    const vhlo_op_name *name = v->name;
    if (name->dialect_id == VHLO_DIALECT_SDY)
        return build_sdy(b, scope, v);
    if (name->dialect_id == VHLO_DIALECT_BUILTIN &&
        vhlo_string_equal(name->name, "unrealized_conversion_cast"))
        return alias_operands(b, scope, v);
    if (is_named(v, "call"))
        return inline_call(b, scope, v, "callee");
    if (is_named(v, "composite"))
        return build_composite(b, scope, v);
    if (is_named(v, "tuple"))
        return build_tuple(b, scope, v);
    if (is_named(v, "get_tuple_element"))
        return build_tuple_element(b, scope, v);
    if (is_named(v, "async_start"))
        return build_async_start(b, scope, v);
    if (is_named(v, "async_done"))
        return build_async_done(b, scope, v);
    int16_t *kind = &b->kinds[v->name_i];
    if (*kind < 0)
        *kind = (int16_t)find_kind(name);
    if (*kind == GRAPH_OPTIMIZATION_BARRIER)
        return alias_operands(b, scope, v);
    if (*kind == GRAPH_CUSTOM_CALL)
        return build_custom_call(b, scope, v);
    return build_kind(b, scope, v, *kind);
}

/* Names the operation and its place, once, in the error that came out of it. */
static vtrn_status annotate(graph_builder *b, const vhlo_op *v, vtrn_status status) {
    if (!status || b->is_annotated)
        return status;
    b->is_annotated = true;
    char place[256];
    vtrn_status_free(vhlo_location_text(b->m, v->location, place, sizeof place));
    return vtrn_status_annotate(status, "%s.%s%s%s", v->name->dialect.text, v->name->name.text,
                                place[0] ? ", " : "", place);
}

static bool is_return(const vhlo_op *v) {
    return (v->name->info && strcmp(v->name->info->name, "return") == 0) ||
           (v->name->dialect_id == VHLO_DIALECT_SDY && vhlo_string_equal(v->name->name, "return"));
}

static vtrn_status build_block(graph_builder *b, size_t scope, const vhlo_region *v,
                               graph_value **out_results, uint32_t *out_n) {
    for (const vhlo_op *op = v->first_op; op; op = op->next) {
        b->n_visited += 1 + op->n_operands + op->n_results;
        if (b->n_visited > MAX_WORK)
            return VTRN_ERROR(VTRN_UNSUPPORTED,
                              "program has more than %d operations and operands "
                              "with its calls inlined; replace unrolled loops by lax.scan, "
                              "and with PyTorch call torch_xla.sync() more often",
                              MAX_WORK);
        if (is_return(op)) {
            if (op->next)
                return VTRN_ERROR(VTRN_BAD_ARGUMENT, "operations after the return of a block");
            *out_n = op->n_operands;
            return annotate(b, op, map_operands(b, scope, op, out_results));
        }
        VTRN_RETURN_IF_ERROR(annotate(b, op, build_op(b, scope, op)));
    }
    return VTRN_ERROR(VTRN_BAD_ARGUMENT, "a block ends without a return");
}

static vtrn_status build_ops(graph_builder *b, size_t scope, const vhlo_region *v,
                             graph_value **out_results, uint32_t *out_n) {
    if (b->depth >= MAX_DEPTH)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "calls and regions nest deeper than %d; flatten the program", MAX_DEPTH);
    b->depth++;
    vtrn_status status = build_block(b, scope, v, out_results, out_n);
    b->depth--;
    return status;
}

static bool is_func(const vhlo_op *v) {
    return v->name->info && strcmp(v->name->info->name, "func") == 0;
}

static vtrn_status collect_funcs(graph_builder *b) {
    const vhlo_region *body = &b->m->root->regions[0];
    uint32_t n = 0;
    for (const vhlo_op *v = body->first_op; v; v = v->next)
        n += is_func(v);
    GRAPH_NEW(b, b->funcs, n);
    for (const vhlo_op *v = body->first_op; v; v = v->next) {
        if (!is_func(v))
            continue;
        graph_func *f = &b->funcs[b->n_funcs++];
        const vhlo_entry *e;
        vhlo_string visibility = {"", 0};
        VTRN_RETURN_IF_ERROR(annotate(b, v, vhlo_op_attr(b->m, v, "sym_name", &e)));
        if (!vhlo_entry_string(e, &f->name))
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "a function has no name");
        VTRN_RETURN_IF_ERROR(annotate(b, v, vhlo_op_attr(b->m, v, "sym_visibility", &e)));
        vhlo_entry_string(e, &visibility);
        f->is_public = !vhlo_string_equal(visibility, "private");
        f->op = v;
    }
    qsort(b->funcs, b->n_funcs, sizeof *b->funcs, compare_funcs);
    return NULL;
}

static vtrn_status build_graph(graph_builder *b) {
    vhlo_module *m = b->m;
    GRAPH_NEW(b, b->types, m->n_types);
    GRAPH_NEW(b, b->places, m->n_attrs);
    GRAPH_NEW(b, b->constants, m->n_attrs);
    GRAPH_NEW(b, b->kinds, m->n_names);
    memset(b->kinds, 0xff, m->n_names * sizeof *b->kinds);
    VTRN_RETURN_IF_ERROR(collect_funcs(b));
    VTRN_RETURN_IF_ERROR(graph_decode_module_attrs(b, NULL));
    graph_func *main = find_func(b, (vhlo_string){"main", 4});
    for (uint32_t i = 0; !main && i < b->n_funcs; i++)
        if (b->funcs[i].is_public)
            main = &b->funcs[i];
    if (!main)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "the module has no function @main and no public one; name one so");
    size_t scope = 0;
    graph_region *body = NULL;
    main->is_open = true;
    VTRN_RETURN_IF_ERROR(push_scope(b, func_scope_size(b, main->op), &scope));
    VTRN_RETURN_IF_ERROR(
        annotate(b, main->op, build_region(b, scope, &main->op->regions[0], &body)));
    VTRN_CHECK(body, "a region was built");
    b->g->body = *body;
    const vhlo_entry *e = NULL;
    vhlo_string name;
    if (m->name_attr != VHLO_NONE)
        VTRN_RETURN_IF_ERROR(vhlo_get_attr(m, m->name_attr, &e));
    else
        VTRN_RETURN_IF_ERROR(vhlo_op_attr(m, m->root, "sym_name", &e));
    b->g->name = vhlo_entry_string(e, &name) ? arena_strdup(&b->g->arena, name.text, name.len)
                                             : arena_strdup(&b->g->arena, "main", 4);
    if (!b->g->name)
        return VTRN_OUT_OF_MEMORY(64);
    VTRN_RETURN_IF_ERROR(graph_decode_module_attrs(b, main->op));
    VTRN_RETURN_IF_ERROR(graph_read_layouts(b, main->op));
    return b->g->n_partitions > 1 ? NULL : graph_apply_layouts(b->g);
}

vtrn_status graph_from_artifact(const void *bytes, size_t size, graph **out) {
    *out = NULL;
    graph_builder b = {0};
    VTRN_RETURN_IF_ERROR(vhlo_read(bytes, size, &b.m));
    b.g = calloc(1, sizeof *b.g);
    vtrn_status status = b.g ? build_graph(&b) : VTRN_OUT_OF_MEMORY(sizeof *b.g);
    free(b.ops);
    free(b.map);
    free(b.tuples);
    vhlo_destroy(b.m);
    if (status) {
        graph_destroy(b.g);
        return vtrn_status_category(status) == VTRN_BAD_ARGUMENT
                   ? vtrn_status_annotate(status,
                                          " correct what wrote the module, or export it again")
                   : status;
    }
    *out = b.g;
    return NULL;
}
