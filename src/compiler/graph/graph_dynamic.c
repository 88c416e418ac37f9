/* Operations that StableHLO gives their shape or padding as operands: where the results have a
 * static type and these operands are constants, they are operations of the graph. */
#include "compiler/graph/graph_build.h"

#include <string.h>

enum { MAX_JOINED = 8 }; /* how deep concatenations nest in what gives a shape */

static const struct {
    const char *name;
    int kind;
    uint32_t n_operands; /* of the operation of the graph: the others say how, not what */
} DYNAMIC[] = {
    {"dynamic_broadcast_in_dim", GRAPH_BROADCAST_IN_DIM, 1},
    {"dynamic_conv", GRAPH_CONVOLUTION, 2},
    {"dynamic_gather", GRAPH_GATHER, 2},
    {"dynamic_iota", GRAPH_IOTA, 0},
    {"dynamic_pad", GRAPH_PAD, 2},
    {"dynamic_reshape", GRAPH_RESHAPE, 1},
    {"get_dimension_size", GRAPH_CONSTANT, 0},
    {"real_dynamic_slice", GRAPH_SLICE, 1},
};

/* Attributes of the operation of the graph that are operands of the dynamic one. */
static const struct {
    const char *name, *attr;
    uint32_t operand;
} ATTRS[] = {
    {"dynamic_conv", "padding", 2},
    {"dynamic_gather", "slice_sizes", 2},
    {"dynamic_pad", "edge_padding_low", 2},
    {"dynamic_pad", "edge_padding_high", 3},
    {"dynamic_pad", "interior_padding", 4},
    {"real_dynamic_slice", "start_indices", 1},
    {"real_dynamic_slice", "limit_indices", 2},
    {"real_dynamic_slice", "strides", 3},
};

int graph_dynamic_kind(const char *name) {
    for (size_t i = 0; i < sizeof DYNAMIC / sizeof *DYNAMIC; i++)
        if (!strcmp(DYNAMIC[i].name, name))
            return DYNAMIC[i].kind;
    return GRAPH_UNKNOWN;
}

void graph_drop_shape_operands(const vhlo_op *v, graph_op *op) {
    if (!v->name->info)
        return;
    for (size_t i = 0; i < sizeof DYNAMIC / sizeof *DYNAMIC; i++)
        if (!strcmp(DYNAMIC[i].name, v->name->info->name) && op->kind == DYNAMIC[i].kind)
            op->n_operands = DYNAMIC[i].n_operands;
}

bool graph_find_shape_operand(const vhlo_op *v, const char *attr, uint32_t *out) {
    if (!v->name->info)
        return false;
    for (size_t i = 0; i < sizeof ATTRS / sizeof *ATTRS; i++)
        if (!strcmp(ATTRS[i].name, v->name->info->name) && !strcmp(ATTRS[i].attr, attr)) {
            *out = ATTRS[i].operand;
            return true;
        }
    return false;
}

/* The operation of an open region that makes the value; NULL: it is an argument. */
static const graph_op *find_maker(const graph_builder *b, graph_value value) {
    for (size_t i = b->n_ops; i-- > 0;)
        for (uint32_t k = 0; k < b->ops[i].n_results; k++)
            if (b->ops[i].results[k] == value)
                return &b->ops[i];
    return NULL;
}

static int64_t element(const graph_op *constant, const graph_type *t, int64_t i) {
    size_t size = dtype_size((vtrn_dtype)t->dtype);
    const uint8_t *at = constant->attrs.constant.data;
    at += constant->attrs.constant.is_splat ? 0 : (size_t)i * size;
    int64_t wide = 0;
    if (!size || size > sizeof wide)
        return 0; /* no integer type */
    memcpy(&wide, at, size);
    if (size == 0 || size >= 8 || !dtype_is_signed_int((vtrn_dtype)t->dtype))
        return wide;
    int shift = 64 - 8 * (int)size;
    return (int64_t)((uint64_t)wide << shift) >> shift;
}

/* Writes the elements of a value that is known now to out[0..]; false: it is not known. */
static bool find_elements(const graph_builder *b, graph_value value, int depth, int64_t *out) {
    const graph_op *op = find_maker(b, value);
    while (op && (op->kind == GRAPH_RESHAPE || op->kind == GRAPH_CONVERT))
        op = find_maker(b, op->operands[0]);
    if (!op)
        return false;
    const graph_type *t = &b->g->types[op->results[0]];
    if (op->kind == GRAPH_CONSTANT && dtype_is_int((vtrn_dtype)t->dtype)) {
        for (int64_t i = 0; i < graph_type_count(t); i++)
            out[i] = element(op, t, i);
        return true;
    }
    if (op->kind != GRAPH_CONCATENATE || t->rank != 1 || depth == MAX_JOINED)
        return false;
    for (uint32_t k = 0; k < op->n_operands; k++) {
        if (!find_elements(b, op->operands[k], depth + 1, out))
            return false;
        out += graph_type_count(&b->g->types[op->operands[k]]);
    }
    return true;
}

bool graph_knows_shape_operand(const graph_builder *b, graph_value value) {
    const graph_type *t = &b->g->types[value];
    int64_t v[GRAPH_MAX_RANK * 2];
    return !t->is_token && graph_type_count(t) <= GRAPH_MAX_RANK * 2 &&
           find_elements(b, value, 0, v);
}

vtrn_status graph_shape_operand(graph_builder *b, graph_value value, int64_t *out_shape,
                                graph_ints *out) {
    const graph_type *t = &b->g->types[value];
    int64_t n = graph_type_count(t), *v;
    if (t->is_token || t->rank > 2 || n > GRAPH_MAX_RANK * 2 || !dtype_is_int((vtrn_dtype)t->dtype))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "a shape or padding is not a list of at most %d integers",
                          GRAPH_MAX_RANK * 2);
    GRAPH_NEW(b, v, (size_t)n);
    if (!find_elements(b, value, 0, v))
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "a shape or padding that is computed as the program runs; make it a "
                          "constant: shapes are static");
    out_shape[0] = t->rank > 0 ? t->dims[0] : 1;
    out_shape[1] = t->rank > 1 ? t->dims[1] : 1;
    *out = (graph_ints){n, v};
    return NULL;
}

vtrn_status graph_dimension_size(graph_builder *b, const graph_op *op, int64_t dim,
                                 const void **out) {
    const graph_type *t = &b->g->types[op->operands[0]], *to = &b->g->types[op->results[0]];
    if (t->is_token || dim < 0 || dim >= t->rank || t->dims[dim] > INT32_MAX)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "dimension %lld of rank %d", (long long)dim, t->rank);
    if (to->rank != 0 || to->dtype != VTRN_DTYPE_INT32)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "the result is no int32 scalar");
    int32_t *size;
    GRAPH_NEW(b, size, 1);
    *size = (int32_t)t->dims[dim];
    *out = size;
    return NULL;
}
