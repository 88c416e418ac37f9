#include "compiler/passes/moments.h"

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

static vtrn_status append(rewriter *r, graph_op op, const graph_type *type, graph_value *v) {
    op.n_results = 1;
    op.results = ARENA_NEW(&r->g->arena, graph_value, 1);
    if (!op.results)
        return VTRN_OUT_OF_MEMORY(sizeof *op.results);
    if (*v == GRAPH_NO_VALUE)
        VTRN_RETURN_IF_ERROR(rewrite_new_value(r, type, v));
    op.results[0] = *v;
    return rewrite_append(r, &op);
}

/* The mean with the shape of x, as programs write it: then a difference that is there is the same.
 */
static vtrn_status append_broadcast(rewriter *r, const variance *v, const char *place,
                                    graph_value *out) {
    graph_type kept = *type_of(r, v->sum->results[0]), full = *type_of(r, v->x);
    graph_value *operands = ARENA_NEW(&r->g->arena, graph_value, 2);
    int rank = type_of(r, v->mean)->rank == full.rank ? full.rank : kept.rank;
    int64_t *dims = ARENA_NEW(&r->g->arena, int64_t, rank);
    if (!operands || !dims)
        return VTRN_OUT_OF_MEMORY(sizeof kept);
    operands[0] = v->mean;
    for (int i = 0; i < rank; i++)
        dims[i] = i;
    graph_op reshape = {.kind = GRAPH_RESHAPE,
                        .n_operands = 1,
                        .operands = operands,
                        .name = "stablehlo.reshape",
                        .place = place};
    graph_op broadcast = {.kind = GRAPH_BROADCAST_IN_DIM,
                          .n_operands = 1,
                          .operands = operands + 1,
                          .attrs.dims.dims = {rank, dims},
                          .name = "stablehlo.broadcast_in_dim",
                          .place = place};
    operands[1] = v->mean;
    if (rank == kept.rank && !graph_type_equal(type_of(r, v->mean), &kept)) {
        operands[1] = GRAPH_NO_VALUE;
        VTRN_RETURN_IF_ERROR(append(r, reshape, &kept, &operands[1]));
    }
    *out = GRAPH_NO_VALUE;
    return append(r, broadcast, &full, out);
}

static vtrn_status append_binary(rewriter *r, graph_kind kind, const char *name,
                                 const graph_value in[2], const graph_op *like, graph_value *out) {
    graph_value *operands = ARENA_NEW(&r->g->arena, graph_value, 2);
    if (!operands)
        return VTRN_OUT_OF_MEMORY(2 * sizeof *operands);
    operands[0] = in[0];
    operands[1] = in[1];
    graph_type type = *type_of(r, in[0]);
    graph_op op = {.kind = (uint16_t)kind,
                   .n_operands = 2,
                   .operands = operands,
                   .name = name,
                   .place = like->place};
    return append(r, op, &type, out);
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
    graph_value mean, difference = GRAPH_NO_VALUE, square = GRAPH_NO_VALUE, sum = GRAPH_NO_VALUE;
    VTRN_RETURN_IF_ERROR(append_broadcast(r, v, op->place, &mean));
    VTRN_RETURN_IF_ERROR(append_binary(r, GRAPH_SUBTRACT, "stablehlo.subtract",
                                       (graph_value[]){v->x, mean}, op, &difference));
    VTRN_RETURN_IF_ERROR(append_binary(r, GRAPH_MULTIPLY, "stablehlo.multiply",
                                       (graph_value[]){difference, difference}, op, &square));
    graph_value *operands = ARENA_NEW(&r->g->arena, graph_value, 3);
    if (!operands)
        return VTRN_OUT_OF_MEMORY(3 * sizeof *operands);
    graph_op reduce = *v->square_sum;
    graph_type kept = *type_of(r, reduce.results[0]), type = *type_of(r, op->results[0]);
    operands[0] = square;
    operands[1] = reduce.operands[1];
    reduce.operands = operands;
    VTRN_RETURN_IF_ERROR(append(r, reduce, &kept, &sum));
    operands[2] = sum;
    if (!graph_type_equal(&kept, &type)) {
        graph_op reshape = {.kind = GRAPH_RESHAPE,
                            .n_operands = 1,
                            .operands = operands + 2,
                            .name = "stablehlo.reshape",
                            .place = op->place};
        graph_value shaped = GRAPH_NO_VALUE;
        VTRN_RETURN_IF_ERROR(append(r, reshape, &type, &shaped));
        sum = shaped;
    }
    graph_op number = *constant_behind(r, v->square_division->operands[1]);
    graph_value n = GRAPH_NO_VALUE, result = op->results[0];
    number.attrs.constant.is_splat = true;
    VTRN_RETURN_IF_ERROR(append(r, number, &type, &n));
    return append_binary(r, (graph_kind)v->square_division->kind, v->square_division->name,
                         (graph_value[]){sum, n}, op, &result);
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
