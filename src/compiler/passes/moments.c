#include "compiler/passes/moments.h"

#include "compiler/passes/make_op.h"
#include "compiler/passes/pattern.h"
#include "compiler/passes/rewrite.h"

#include <math.h>

enum {
    MAX_ELEMENTS =
        4096, /* of a row: longer ones are reduced in parts, which one pass over x suits */
};

static const graph_type *type_of(const rewriter *r, graph_value v) {
    return &r->g->types[v];
}

/* What makes v, behind views that keep the elements and their order. */
static const graph_op *maker_of(const rewriter *r, graph_value v) {
    const graph_op *op = r->maker[v];
    while (op && (op->kind == GRAPH_RESHAPE || op->kind == GRAPH_BROADCAST_IN_DIM) &&
           graph_type_count(type_of(r, op->operands[0])) ==
               graph_type_count(type_of(r, op->results[0])))
        op = r->maker[op->operands[0]];
    return op;
}

/* A mean: a sum over dimensions, divided by the number of its terms. */
static const graph_op *sum_of_mean(const rewriter *r, graph_value mean) {
    const graph_op *division = maker_of(r, mean);
    double n, init;
    if (!division || (division->kind != GRAPH_DIVIDE && division->kind != GRAPH_MULTIPLY))
        return NULL;
    const graph_op *sum = maker_of(r, division->operands[0]);
    if (!sum || sum->kind != GRAPH_REDUCE || sum->reducer != GRAPH_REDUCER_ADD ||
        sum->n_operands != 2 || !rewrite_splat(r, sum->operands[1], &init) || init != 0 ||
        !rewrite_splat(r, division->operands[1], &n))
        return NULL;
    const graph_type *in = type_of(r, sum->operands[0]), *out = type_of(r, sum->results[0]);
    double n_terms = (double)graph_type_count(in) / (double)graph_type_count(out);
    bool is_mean = division->kind == GRAPH_DIVIDE ? n == n_terms : fabs(n * n_terms - 1) < 0x1p-22;
    return is_mean ? sum : NULL;
}

/* The dimensions of a sum are the last ones, of rows that are reduced whole. */
static bool is_over_rows(const rewriter *r, const graph_op *sum) {
    const graph_type *in = type_of(r, sum->operands[0]);
    graph_ints dims = sum->attrs.dims.dims;
    int64_t n = 1;
    for (int64_t i = 0; i < dims.n; i++) {
        if (dims.v[i] != in->rank - dims.n + i)
            return false;
        n *= in->dims[dims.v[i]];
    }
    return n > 1 && n <= MAX_ELEMENTS;
}

static bool is_square_of(const graph_op *op, graph_value x) {
    return op && op->kind == GRAPH_MULTIPLY && op->operands[0] == x && op->operands[1] == x;
}

/* E[x^2] - E[x]^2, and what it is made of. */
typedef struct variance {
    graph_value x, mean;
    const graph_op *sum, *square_sum, *square_division;
} variance;

static bool find_variance(const rewriter *r, const graph_op *op, variance *out) {
    if (op->kind != GRAPH_SUBTRACT || type_of(r, op->results[0])->dtype != VTRN_DTYPE_FP32)
        return false;
    const graph_op *squared = maker_of(r, op->operands[1]);
    out->square_sum = sum_of_mean(r, op->operands[0]);
    if (!squared || squared->kind != GRAPH_MULTIPLY || !out->square_sum ||
        squared->operands[0] != squared->operands[1])
        return false;
    out->mean = squared->operands[0];
    out->sum = sum_of_mean(r, out->mean);
    if (!out->sum || !is_over_rows(r, out->sum) || !is_over_rows(r, out->square_sum) ||
        out->sum->attrs.dims.dims.n != out->square_sum->attrs.dims.dims.n)
        return false;
    out->x = out->sum->operands[0];
    out->square_division = maker_of(r, op->operands[0]);
    return is_square_of(r->maker[out->square_sum->operands[0]], out->x);
}

/* The mean with the shape of x, as programs write it: then a difference that is there is the same.
 */
static vtrn_status append_broadcast(rewriter *r, const variance *v, const graph_op *op,
                                    graph_value *out) {
    graph_type kept = *type_of(r, v->sum->results[0]), full = *type_of(r, v->x);
    int rank = type_of(r, v->mean)->rank == full.rank ? full.rank : kept.rank;
    int64_t *dims = ARENA_NEW(&r->g->arena, int64_t, rank);
    if (!dims)
        return VTRN_OUT_OF_MEMORY((size_t)rank * sizeof *dims);
    for (int i = 0; i < rank; i++)
        dims[i] = i;
    graph_value mean = v->mean;
    if (rank == kept.rank)
        VTRN_RETURN_IF_ERROR(make_reshape(r, op, mean, &kept, &mean));
    graph_op broadcast = make_plain(GRAPH_BROADCAST_IN_DIM, &mean, 1);
    broadcast.attrs.dims.dims = (graph_ints){rank, dims};
    return make_op(r, op, &broadcast, &full, out);
}

/* The constant that rewrite_splat() found. */
static const graph_op *constant_behind(const rewriter *r, graph_value v) {
    const graph_op *op = r->maker[v];
    while (op->kind != GRAPH_CONSTANT)
        op = r->maker[op->operands[0]];
    return op;
}

/* The sum of squared differences, divided as the sum of squares was; it makes op's result. */
static vtrn_status append_variance(rewriter *r, const variance *v, const graph_op *op) {
    const graph_type full = *type_of(r, v->x), type = *type_of(r, op->results[0]);
    const graph_type kept = *type_of(r, v->square_sum->results[0]);
    graph_value in[2] = {v->x}, difference, square, sum;
    VTRN_RETURN_IF_ERROR(append_broadcast(r, v, op, &in[1]));
    const graph_op subtract = make_plain(GRAPH_SUBTRACT, in, 2);
    VTRN_RETURN_IF_ERROR(make_op(r, op, &subtract, &full, &difference));
    in[0] = in[1] = difference;
    const graph_op multiply = make_plain(GRAPH_MULTIPLY, in, 2);
    VTRN_RETURN_IF_ERROR(make_op(r, op, &multiply, &full, &square));
    graph_op reduce = *v->square_sum;
    in[0] = square;
    in[1] = reduce.operands[1];
    reduce.operands = in;
    VTRN_RETURN_IF_ERROR(make_op(r, v->square_sum, &reduce, &kept, &sum));
    VTRN_RETURN_IF_ERROR(make_reshape(r, op, sum, &type, &in[0]));
    const graph_op *constant = constant_behind(r, v->square_division->operands[1]);
    graph_op number = *constant;
    number.attrs.constant.is_splat = true;
    VTRN_RETURN_IF_ERROR(make_op(r, constant, &number, &type, &in[1]));
    const graph_op divide = make_plain((graph_kind)v->square_division->kind, in, 2);
    return make_op_as(r, op, &divide, op->results[0]);
}

static vtrn_status normalise(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    (void)ctx;
    variance v;
    if (!find_variance(r, op, &v))
        return NULL;
    *is_dropped = true;
    return append_variance(r, &v, op);
}

vtrn_status moments_normalise(graph *g) {
    return rewrite_graph(g, normalise, NULL);
}
