/* Computes with integers of 2 and 4 bits as int8 and uint8; packs parameters and results. */
#include "compiler/passes/small_types.h"

#include <stdlib.h>
#include <string.h>

/* Every new operation keeps the number of the value that it gives, so values outside of an
 * operation need no new names; only what leaves the range of a small type gets one before it is
 * cut.
 */
typedef struct widening {
    graph *g;
    const uint8_t *was; /* [n_was], by value: the dtype that the program has for it */
    uint32_t n_was;
    const char *place; /* of the operation at hand */
} widening;

/* The operations of a region, as they are made. */
typedef struct op_list {
    graph_op *ops;
    uint32_t n, max;
} op_list;

static bool is_small(vtrn_dtype t) {
    return dtype_is_int(t) && dtype_per_byte(t) > 1;
}

static bool was_small(const widening *w, graph_value v) {
    return v < w->n_was && is_small((vtrn_dtype)w->was[v]);
}

static vtrn_dtype wide_type(vtrn_dtype t) {
    return dtype_is_signed_int(t) ? VTRN_DTYPE_INT8 : VTRN_DTYPE_UINT8;
}

static vtrn_status push(op_list *list, const graph_op *op) {
    if (list->n == list->max) {
        uint32_t max = 2 * list->max + 64;
        graph_op *ops = realloc(list->ops, max * sizeof *ops);
        if (!ops)
            return VTRN_OUT_OF_MEMORY(max * sizeof *ops);
        list->ops = ops;
        list->max = max;
    }
    list->ops[list->n++] = *op;
    return NULL;
}

static vtrn_status new_value(widening *w, graph_type type, graph_value *out) {
    VTRN_RETURN_IF_ERROR(graph_reserve_values(w->g, w->g->n_values + 1));
    *out = w->g->n_values++;
    w->g->types[*out] = type;
    return NULL;
}

/* Appends an operation of the kind with result `to`. */
static vtrn_status make(widening *w, op_list *list, graph_op op, const graph_value *operands,
                        graph_value to) {
    arena *home = &w->g->arena;
    op.operands = ARENA_NEW(home, graph_value, op.n_operands);
    op.results = ARENA_NEW(home, graph_value, 1);
    op.name = arena_printf(home, "stablehlo.%s", graph_kind_name((graph_kind)op.kind));
    op.place = w->place;
    if (!op.operands || !op.results || !op.name)
        return VTRN_OUT_OF_MEMORY((op.n_operands + 1) * sizeof(graph_value));
    for (uint32_t i = 0; i < op.n_operands; i++)
        op.operands[i] = operands[i];
    op.results[0] = to;
    op.n_results = 1;
    return push(list, &op);
}

static vtrn_status make_unary(widening *w, op_list *list, graph_kind kind, graph_value a,
                              graph_value to) {
    return make(w, list, (graph_op){.kind = (uint16_t)kind, .n_operands = 1}, &a, to);
}

/* GRAPH_UNPACK or GRAPH_PACK of values of `bits`. */
static vtrn_status make_packing(widening *w, op_list *list, graph_kind kind, int bits,
                                graph_value a, graph_value to) {
    int64_t *dims = ARENA_NEW(&w->g->arena, int64_t, 1);
    if (!dims)
        return VTRN_OUT_OF_MEMORY(sizeof *dims);
    dims[0] = bits;
    graph_op op = {.kind = (uint16_t)kind, .n_operands = 1};
    op.attrs.dims.dims = (graph_ints){.n = 1, .v = dims};
    return make(w, list, op, &a, to);
}

static vtrn_status make_number(widening *w, op_list *list, const graph_type *type, int number,
                               graph_value *out) {
    uint64_t *data = ARENA_NEW(&w->g->arena, uint64_t, 1);
    const double value = number;
    if (!data)
        return VTRN_OUT_OF_MEMORY(sizeof *data);
    dtype_convert(VTRN_DTYPE_FP64, &value, (vtrn_dtype)type->dtype, data, 1);
    graph_op op = {.kind = GRAPH_CONSTANT};
    op.attrs.constant.data = data;
    op.attrs.constant.is_splat = true;
    VTRN_RETURN_IF_ERROR(new_value(w, *type, out));
    return make(w, list, op, NULL, *out);
}

/* to = a op number; to GRAPH_NO_VALUE: a new value. */
static vtrn_status make_with(widening *w, op_list *list, graph_kind kind, graph_value *a,
                             int number, graph_value to) {
    const graph_type type = w->g->types[*a];
    graph_value operands[2] = {*a};
    VTRN_RETURN_IF_ERROR(make_number(w, list, &type, number, &operands[1]));
    if (to == GRAPH_NO_VALUE)
        VTRN_RETURN_IF_ERROR(new_value(w, type, &to));
    *a = to;
    return make(w, list, (graph_op){.kind = (uint16_t)kind, .n_operands = 2}, operands, to);
}

/* to = the value that the lowest bits of `from` have in the small type t. */
static vtrn_status cut(widening *w, op_list *list, vtrn_dtype t, graph_value from, graph_value to) {
    const int sign = 1 << (dtype_bits(t) - 1), mask = 2 * sign - 1;
    if (!dtype_is_signed_int(t))
        return make_with(w, list, GRAPH_AND, &from, mask, to);
    VTRN_RETURN_IF_ERROR(make_with(w, list, GRAPH_AND, &from, mask, GRAPH_NO_VALUE));
    VTRN_RETURN_IF_ERROR(make_with(w, list, GRAPH_XOR, &from, sign, GRAPH_NO_VALUE));
    return make_with(w, list, GRAPH_SUBTRACT, &from, sign, to);
}

/* The operation, with each small result cut. */
static vtrn_status push_cut(widening *w, op_list *list, graph_op *op) {
    graph_value *results = ARENA_NEW(&w->g->arena, graph_value, op->n_results);
    if (!results)
        return VTRN_OUT_OF_MEMORY(op->n_results * sizeof *results);
    const graph_value *named = op->results;
    for (uint32_t i = 0; i < op->n_results; i++) {
        results[i] = named[i];
        if (was_small(w, named[i]))
            VTRN_RETURN_IF_ERROR(new_value(w, w->g->types[named[i]], &results[i]));
    }
    op->results = results;
    VTRN_RETURN_IF_ERROR(push(list, op));
    for (uint32_t i = 0; i < op->n_results; i++)
        if (was_small(w, named[i]))
            VTRN_RETURN_IF_ERROR(cut(w, list, (vtrn_dtype)w->was[named[i]], results[i], named[i]));
    return NULL;
}

/* --- kinds of operations -------------------------------------------------------------------------
 */

/* Those that see a value's bits, or are no business of this file. */
static bool is_strange(const graph_op *op) {
    return op->kind == GRAPH_CUSTOM_CALL || op->kind == GRAPH_BITCAST_CONVERT ||
           op->kind == GRAPH_RNG_BIT_GENERATOR || op->kind == GRAPH_UNKNOWN;
}

/* With operands and results of the small types, a byte each. */
static vtrn_status keep_types(widening *w, op_list *list, graph_op *op) {
    arena *home = &w->g->arena;
    graph_value *operands = ARENA_NEW(home, graph_value, op->n_operands);
    graph_value *results = ARENA_NEW(home, graph_value, op->n_results);
    if (!operands || !results)
        return VTRN_OUT_OF_MEMORY((op->n_operands + op->n_results) * sizeof *operands);
    for (uint32_t i = 0; i < op->n_operands; i++) {
        graph_value v = operands[i] = op->operands[i];
        if (!was_small(w, v))
            continue;
        graph_type type = w->g->types[v];
        type.dtype = w->was[v];
        VTRN_RETURN_IF_ERROR(new_value(w, type, &operands[i]));
        VTRN_RETURN_IF_ERROR(make_unary(w, list, GRAPH_CONVERT, v, operands[i]));
    }
    const graph_value *named = op->results;
    for (uint32_t i = 0; i < op->n_results; i++) {
        graph_type type = w->g->types[named[i]];
        results[i] = named[i];
        if (!was_small(w, named[i]))
            continue;
        type.dtype = w->was[named[i]];
        VTRN_RETURN_IF_ERROR(new_value(w, type, &results[i]));
    }
    op->operands = operands;
    op->results = results;
    VTRN_RETURN_IF_ERROR(push(list, op));
    for (uint32_t i = 0; i < op->n_results; i++)
        if (results[i] != named[i])
            VTRN_RETURN_IF_ERROR(make_unary(w, list, GRAPH_CONVERT, results[i], named[i]));
    return NULL;
}

/* Between bytes and small integers, and from one of these to the other of the same bits. */
static vtrn_status bitcast(widening *w, op_list *list, graph_op *op) {
    const graph_value from = op->operands[0], to = op->results[0];
    const vtrn_dtype a = (vtrn_dtype)w->was[from], b = (vtrn_dtype)w->was[to];
    if (is_small(b) && a == VTRN_DTYPE_UINT8)
        return make_packing(w, list, GRAPH_UNPACK, dtype_bits(b), from, to);
    if (is_small(a) && b == VTRN_DTYPE_UINT8)
        return make_packing(w, list, GRAPH_PACK, dtype_bits(a), from, to);
    if (!is_small(a) || !is_small(b) || dtype_bits(a) != dtype_bits(b))
        return keep_types(w, list, op);
    op->kind = GRAPH_CONVERT;
    op->name = "stablehlo.convert";
    return push_cut(w, list, op);
}

/* *v in another type, by an operation of that kind. */
static vtrn_status make_typed(widening *w, op_list *list, graph_kind kind, graph_value *v,
                              vtrn_dtype t) {
    graph_type type = w->g->types[*v];
    graph_value to;
    type.dtype = (uint8_t)t;
    VTRN_RETURN_IF_ERROR(new_value(w, type, &to));
    VTRN_RETURN_IF_ERROR(kind == GRAPH_PACK ? make_packing(w, list, kind, 8, *v, to)
                                            : make_unary(w, list, kind, *v, to));
    *v = to;
    return NULL;
}

/* A float of 4 bits from its code: sign, exponent and mantissa in their places of an fp16, whose
 * exponent has a bias that is larger by 14. */
static vtrn_status decode(widening *w, op_list *list, const graph_op *op) {
    graph_value v = op->operands[0], sign;
    VTRN_RETURN_IF_ERROR(make_typed(w, list, GRAPH_PACK, &v, VTRN_DTYPE_UINT8));
    VTRN_RETURN_IF_ERROR(make_typed(w, list, GRAPH_CONVERT, &v, VTRN_DTYPE_UINT32));
    sign = v;
    VTRN_RETURN_IF_ERROR(make_with(w, list, GRAPH_AND, &v, 7, GRAPH_NO_VALUE));
    VTRN_RETURN_IF_ERROR(make_with(w, list, GRAPH_SHIFT_LEFT, &v, 9, GRAPH_NO_VALUE));
    VTRN_RETURN_IF_ERROR(make_with(w, list, GRAPH_AND, &sign, 8, GRAPH_NO_VALUE));
    VTRN_RETURN_IF_ERROR(make_with(w, list, GRAPH_SHIFT_LEFT, &sign, 12, GRAPH_NO_VALUE));
    const graph_value both[] = {v, sign};
    VTRN_RETURN_IF_ERROR(new_value(w, w->g->types[v], &v));
    VTRN_RETURN_IF_ERROR(make(w, list, (graph_op){.kind = GRAPH_OR, .n_operands = 2}, both, v));
    VTRN_RETURN_IF_ERROR(make_typed(w, list, GRAPH_CONVERT, &v, VTRN_DTYPE_UINT16));
    VTRN_RETURN_IF_ERROR(make_typed(w, list, GRAPH_BITCAST_CONVERT, &v, VTRN_DTYPE_FP16));
    VTRN_RETURN_IF_ERROR(make_typed(w, list, GRAPH_CONVERT, &v, VTRN_DTYPE_FP32));
    VTRN_RETURN_IF_ERROR(make_with(w, list, GRAPH_MULTIPLY, &v, 1 << 14, GRAPH_NO_VALUE));
    return make_unary(w, list, GRAPH_CONVERT, v, op->results[0]);
}

static vtrn_status convert(widening *w, op_list *list, graph_op *op) {
    const vtrn_dtype to = (vtrn_dtype)w->was[op->results[0]];
    if (!was_small(w, op->results[0]))
        return push(list, op);
    vtrn_dtype from = (vtrn_dtype)w->g->types[op->operands[0]].dtype;
    if (!dtype_is_float(from) && !dtype_is_complex(from))
        return push_cut(w, list, op);
    /* a float is held between the type's bounds */
    const graph_type type = w->g->types[op->results[0]];
    const int n = 1 << dtype_bits(to), low = dtype_is_signed_int(to) ? -n / 2 : 0;
    graph_value operands[3];
    VTRN_RETURN_IF_ERROR(make_number(w, list, &type, low, &operands[0]));
    VTRN_RETURN_IF_ERROR(new_value(w, type, &operands[1]));
    VTRN_RETURN_IF_ERROR(make_unary(w, list, GRAPH_CONVERT, op->operands[0], operands[1]));
    VTRN_RETURN_IF_ERROR(make_number(w, list, &type, low + n - 1, &operands[2]));
    return make(w, list, (graph_op){.kind = GRAPH_CLAMP, .n_operands = 3}, operands,
                op->results[0]);
}

static vtrn_status constant(widening *w, op_list *list, graph_op *op) {
    const graph_value v = op->results[0];
    const graph_type *type = &w->g->types[v];
    size_t n = op->attrs.constant.is_splat ? 1 : (size_t)graph_type_count(type);
    void *data = arena_alloc(&w->g->arena, n ? n : 1, 1);
    if (!data)
        return VTRN_OUT_OF_MEMORY(n);
    dtype_convert((vtrn_dtype)w->was[v], op->attrs.constant.data, (vtrn_dtype)type->dtype, data, n);
    op->attrs.constant.data = data;
    return push(list, op);
}

/* Counts bits, or shifts in zeros or the highest bit: of the bits that the small type has. */
static vtrn_status of_bits(widening *w, op_list *list, graph_op *op) {
    const vtrn_dtype t = (vtrn_dtype)w->was[op->results[0]];
    const int sign = 1 << (dtype_bits(t) - 1);
    graph_value *operands = ARENA_NEW(&w->g->arena, graph_value, op->n_operands);
    if (!operands)
        return VTRN_OUT_OF_MEMORY(op->n_operands * sizeof *operands);
    memcpy(operands, op->operands, op->n_operands * sizeof *operands);
    op->operands = operands;
    VTRN_RETURN_IF_ERROR(
        make_with(w, list, GRAPH_AND, &operands[0], (1 << dtype_bits(t)) - 1, GRAPH_NO_VALUE));
    if (op->kind == GRAPH_SHIFT_RIGHT_ARITHMETIC) { /* the bits above become the highest one */
        VTRN_RETURN_IF_ERROR(make_with(w, list, GRAPH_XOR, &operands[0], sign, GRAPH_NO_VALUE));
        VTRN_RETURN_IF_ERROR(
            make_with(w, list, GRAPH_SUBTRACT, &operands[0], sign, GRAPH_NO_VALUE));
    }
    if (op->kind != GRAPH_COUNT_LEADING_ZEROS)
        return push_cut(w, list, op);
    graph_value counted;
    VTRN_RETURN_IF_ERROR(new_value(w, w->g->types[op->results[0]], &counted));
    VTRN_RETURN_IF_ERROR(make_unary(w, list, GRAPH_COUNT_LEADING_ZEROS, operands[0], counted));
    VTRN_RETURN_IF_ERROR(
        make_with(w, list, GRAPH_SUBTRACT, &counted, 8 - dtype_bits(t), GRAPH_NO_VALUE));
    return cut(w, list, t, counted, op->results[0]);
}

/* Whether results can be beyond the range of the small type, with the right low bits. */
static bool may_leave_range(const graph_op *op) {
    switch ((graph_kind)op->kind) {
    case GRAPH_ABS:
    case GRAPH_ADD:
    case GRAPH_DIVIDE:
    case GRAPH_IOTA:
    case GRAPH_MULTIPLY:
    case GRAPH_NEGATE:
    case GRAPH_NOT:
    case GRAPH_POWER:
    case GRAPH_SHIFT_LEFT:
    case GRAPH_SUBTRACT:
    case GRAPH_DOT_GENERAL:
    case GRAPH_CONVOLUTION:
        return true;
    default:
        return op->reducer == GRAPH_REDUCER_ADD || op->reducer == GRAPH_REDUCER_MULTIPLY;
    }
}

static bool has_small_value(const widening *w, const graph_op *op) {
    bool is_found = false;
    for (uint32_t i = 0; i < op->n_operands; i++)
        is_found |= was_small(w, op->operands[i]);
    for (uint32_t i = 0; i < op->n_results; i++)
        is_found |= was_small(w, op->results[i]);
    return is_found;
}

/* Whether the operation makes a float of engines of one of 4 bits. */
static bool is_decoded(const widening *w, const graph_op *op) {
    const vtrn_dtype to = (vtrn_dtype)w->g->types[op->results[0]].dtype;
    return w->g->types[op->operands[0]].dtype == VTRN_DTYPE_FP4E2M1FN &&
           (to == VTRN_DTYPE_FP32 || to == VTRN_DTYPE_BF16 || to == VTRN_DTYPE_FP16);
}

static vtrn_status widen_op(widening *w, op_list *list, graph_op *op) {
    w->place = op->place;
    if (op->kind == GRAPH_CONVERT && is_decoded(w, op))
        return decode(w, list, op);
    if (!has_small_value(w, op))
        return push(list, op);
    switch ((graph_kind)op->kind) {
    case GRAPH_CONVERT:
        return convert(w, list, op);
    case GRAPH_CONSTANT:
        return constant(w, list, op);
    case GRAPH_BITCAST_CONVERT:
        return bitcast(w, list, op);
    case GRAPH_POPCNT:
    case GRAPH_COUNT_LEADING_ZEROS:
    case GRAPH_SHIFT_RIGHT_ARITHMETIC:
    case GRAPH_SHIFT_RIGHT_LOGICAL:
        return of_bits(w, list, op);
    default:
        break;
    }
    if (is_strange(op))
        return keep_types(w, list, op);
    return may_leave_range(op) ? push_cut(w, list, op) : push(list, op);
}

/* --- regions -------------------------------------------------------------------------------------
 */

static vtrn_status widen_region(widening *w, graph_region *region);

/* A reduction by one operation is cut when it is over; other regions compute with small types as
 * the program does. */
static vtrn_status widen_regions(widening *w, graph_op *op) {
    if (op->n_regions == 0 || op->reducer != GRAPH_REDUCER_GENERIC)
        return NULL;
    graph_region **regions = ARENA_NEW(&w->g->arena, graph_region *, op->n_regions);
    graph_region *copies = ARENA_NEW(&w->g->arena, graph_region, op->n_regions);
    if (!regions || !copies)
        return VTRN_OUT_OF_MEMORY(op->n_regions * sizeof *copies);
    for (uint32_t i = 0; i < op->n_regions; i++) {
        copies[i] = *op->regions[i];
        regions[i] = &copies[i];
        VTRN_RETURN_IF_ERROR(widen_region(w, regions[i]));
    }
    op->regions = regions;
    return NULL;
}

/* A small parameter of @main is a vector of bytes, which the first operations unpack. */
static vtrn_status unpack_parameters(widening *w, op_list *list, graph_region *body) {
    graph_value *args = ARENA_NEW(&w->g->arena, graph_value, body->n_args);
    if (!args)
        return VTRN_OUT_OF_MEMORY(body->n_args * sizeof *args);
    for (uint32_t i = 0; i < body->n_args; i++) {
        const graph_value v = args[i] = body->args[i];
        const vtrn_dtype t = (vtrn_dtype)w->was[v];
        if (dtype_per_byte(t) == 1)
            continue;
        uint64_t n = (uint64_t)graph_type_count(&w->g->types[v]);
        graph_type bytes = {.dtype = VTRN_DTYPE_UINT8, .rank = 1};
        bytes.dims[0] = (int64_t)dtype_packed_size(t, n);
        VTRN_RETURN_IF_ERROR(new_value(w, bytes, &args[i]));
        VTRN_RETURN_IF_ERROR(make_packing(w, list, GRAPH_UNPACK, dtype_bits(t), args[i], v));
    }
    body->args = args;
    return NULL;
}

/* A result that is a parameter stays as it came. */
static vtrn_status pack_results(widening *w, op_list *list, graph_region *body,
                                const graph_value *unpacked_args) {
    graph_value *results = ARENA_NEW(&w->g->arena, graph_value, body->n_results);
    if (!results)
        return VTRN_OUT_OF_MEMORY(body->n_results * sizeof *results);
    for (uint32_t i = 0; i < body->n_results; i++) {
        const graph_value v = results[i] = body->results[i];
        const vtrn_dtype t = (vtrn_dtype)w->was[v];
        if (dtype_per_byte(t) == 1)
            continue;
        for (uint32_t a = 0; a < body->n_args; a++)
            if (unpacked_args[a] == v)
                results[i] = body->args[a];
        for (uint32_t before = 0; before < i; before++)
            if (body->results[before] == v)
                results[i] = results[before];
        if (results[i] != v)
            continue;
        uint64_t n = (uint64_t)graph_type_count(&w->g->types[v]);
        graph_type bytes = {.dtype = VTRN_DTYPE_UINT8, .rank = 1};
        bytes.dims[0] = (int64_t)dtype_packed_size(t, n);
        VTRN_RETURN_IF_ERROR(new_value(w, bytes, &results[i]));
        VTRN_RETURN_IF_ERROR(make_packing(w, list, GRAPH_PACK, dtype_bits(t), v, results[i]));
    }
    body->results = results;
    return NULL;
}

static vtrn_status fill_region(widening *w, op_list *list, graph_region *region) {
    const bool is_main = region == &w->g->body;
    const graph_value *unpacked_args = region->args;
    w->place = "";
    if (is_main)
        VTRN_RETURN_IF_ERROR(unpack_parameters(w, list, region));
    for (uint32_t i = 0; i < region->n_ops; i++) {
        graph_op op = region->ops[i];
        VTRN_RETURN_IF_ERROR(widen_regions(w, &op));
        VTRN_RETURN_IF_ERROR(widen_op(w, list, &op));
    }
    w->place = "";
    if (is_main)
        VTRN_RETURN_IF_ERROR(pack_results(w, list, region, unpacked_args));
    graph_op *ops = ARENA_NEW(&w->g->arena, graph_op, list->n);
    if (!ops)
        return VTRN_OUT_OF_MEMORY(list->n * sizeof *ops);
    if (list->n)
        memcpy(ops, list->ops, list->n * sizeof *ops);
    region->ops = ops;
    region->n_ops = list->n;
    return NULL;
}

static vtrn_status widen_region(widening *w, graph_region *region) {
    op_list list = {0};
    vtrn_status status = fill_region(w, &list, region);
    free(list.ops);
    return status;
}

vtrn_status small_types_widen(graph *g) {
    bool is_needed = false;
    for (uint32_t v = 0; v < g->n_values; v++)
        is_needed |= dtype_per_byte((vtrn_dtype)g->types[v].dtype) > 1;
    if (!is_needed)
        return NULL;
    uint8_t *was = ARENA_NEW(&g->arena, uint8_t, g->n_values);
    if (!was)
        return VTRN_OUT_OF_MEMORY(g->n_values);
    VTRN_RETURN_IF_ERROR(graph_reserve_values(g, g->n_values + 1)); /* types of its own */
    for (uint32_t v = 0; v < g->n_values; v++) {
        was[v] = g->types[v].dtype;
        if (is_small((vtrn_dtype)was[v]))
            g->types[v].dtype = (uint8_t)wide_type((vtrn_dtype)was[v]);
    }
    widening w = {.g = g, .was = was, .n_was = g->n_values};
    VTRN_RETURN_IF_ERROR(widen_region(&w, &g->body));
    g->is_body_shared = false;
    g->spare_ops = NULL;
    return NULL;
}
