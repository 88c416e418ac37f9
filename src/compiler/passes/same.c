#include "compiler/passes/same.h"

#include <string.h>

bool same_is_pure(const graph_op *op) {
    if (op->n_results != 1)
        return false;
    if (op->kind <= GRAPH_BITCAST_CONVERT || graph_kind_is_composite(op->kind))
        return true;
    switch (op->kind) {
    case GRAPH_REDUCE_PRECISION:
    case GRAPH_CONSTANT:
    case GRAPH_IOTA:
    case GRAPH_BROADCAST_IN_DIM:
    case GRAPH_RESHAPE:
    case GRAPH_TRANSPOSE:
    case GRAPH_REVERSE:
    case GRAPH_SLICE:
    case GRAPH_PAD:
    case GRAPH_CONCATENATE:
    case GRAPH_DOT_GENERAL:
    case GRAPH_GATHER:
        return true;
    case GRAPH_REDUCE:
        return op->reducer != GRAPH_REDUCER_GENERIC;
    default:
        return false;
    }
}

static bool same_ints(graph_ints a, graph_ints b) {
    return a.n == b.n && memcmp(a.v, b.v, (size_t)a.n * sizeof *a.v) == 0;
}

static bool same_constant(const graph *g, const graph_op *a, const graph_op *b) {
    const graph_type *t = &g->types[a->results[0]];
    bool is_splat = a->attrs.constant.is_splat;
    uint64_t n_bytes = is_splat ? dtype_size((vtrn_dtype)t->dtype) : graph_type_bytes(t);
    return is_splat == b->attrs.constant.is_splat &&
           memcmp(a->attrs.constant.data, b->attrs.constant.data, n_bytes) == 0;
}

static bool same_dot(const graph_attrs *a, const graph_attrs *b) {
    return same_ints(a->dot.lhs_batch, b->dot.lhs_batch) &&
           same_ints(a->dot.rhs_batch, b->dot.rhs_batch) &&
           same_ints(a->dot.lhs_contract, b->dot.lhs_contract) &&
           same_ints(a->dot.rhs_contract, b->dot.rhs_contract) &&
           a->dot.precision == b->dot.precision;
}

static bool same_gather(const graph_attrs *a, const graph_attrs *b) {
    return same_ints(a->gather.offset_dims, b->gather.offset_dims) &&
           same_ints(a->gather.collapsed, b->gather.collapsed) &&
           same_ints(a->gather.operand_batching, b->gather.operand_batching) &&
           same_ints(a->gather.indices_batching, b->gather.indices_batching) &&
           same_ints(a->gather.start_index_map, b->gather.start_index_map) &&
           same_ints(a->gather.slice_sizes, b->gather.slice_sizes) &&
           a->gather.index_vector_dim == b->gather.index_vector_dim &&
           a->gather.is_sorted == b->gather.is_sorted;
}

static bool same_attrs(const graph *g, const graph_op *a, const graph_op *b) {
    const graph_attrs *x = &a->attrs, *y = &b->attrs;
    switch (a->kind) {
    case GRAPH_COMPARE:
        return x->compare.direction == y->compare.direction && x->compare.type == y->compare.type;
    case GRAPH_REDUCE_PRECISION:
        return x->reduce_precision.exponent_bits == y->reduce_precision.exponent_bits &&
               x->reduce_precision.mantissa_bits == y->reduce_precision.mantissa_bits;
    case GRAPH_CONSTANT:
        return same_constant(g, a, b);
    case GRAPH_SLICE:
        return same_ints(x->slice.start, y->slice.start) &&
               same_ints(x->slice.limit, y->slice.limit) &&
               same_ints(x->slice.stride, y->slice.stride);
    case GRAPH_PAD:
        return same_ints(x->pad.low, y->pad.low) && same_ints(x->pad.high, y->pad.high) &&
               same_ints(x->pad.interior, y->pad.interior);
    case GRAPH_DOT_GENERAL:
        return same_dot(x, y);
    case GRAPH_GATHER:
        return same_gather(x, y);
    case GRAPH_REDUCE:
    case GRAPH_IOTA:
    case GRAPH_BROADCAST_IN_DIM:
    case GRAPH_TRANSPOSE:
    case GRAPH_REVERSE:
    case GRAPH_CONCATENATE:
        return a->reducer == b->reducer && same_ints(x->dims.dims, y->dims.dims);
    default: /* no attributes */
        return true;
    }
}

bool same_op(const graph *g, const graph_op *a, const graph_op *b) {
    return a->kind == b->kind && a->n_operands == b->n_operands &&
           memcmp(a->operands, b->operands, a->n_operands * sizeof *a->operands) == 0 &&
           graph_type_equal(&g->types[a->results[0]], &g->types[b->results[0]]) &&
           same_attrs(g, a, b);
}

uint64_t same_hash(const graph *g, const graph_op *op) {
    const graph_type *t = &g->types[op->results[0]];
    uint64_t h = op->kind * 0x9e3779b97f4a7c15u + t->dtype;
    for (int i = 0; i < t->rank; i++)
        h = (h ^ (uint64_t)t->dims[i]) * 0x100000001b3u;
    for (uint32_t i = 0; i < op->n_operands; i++)
        h = (h ^ op->operands[i]) * 0x100000001b3u;
    if (op->kind == GRAPH_CONSTANT) {
        uint64_t bits = 0;
        size_t size = dtype_size((vtrn_dtype)t->dtype);
        if (graph_type_count(t) > 0)
            memcpy(&bits, op->attrs.constant.data, size < sizeof bits ? size : sizeof bits);
        h = (h ^ bits) * 0x100000001b3u;
    }
    return h ^ h >> 29;
}
