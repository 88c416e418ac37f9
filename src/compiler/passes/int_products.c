#include "compiler/passes/int_products.h"

#include "compiler/passes/make_op.h"

#include <string.h>

enum {
    EXACT_SUM = 1 << 24, /* up to here fp32 has every integer */
    MAX_PARTS = 64,      /* of k: assumed, more are as quick by the reference */
};

/* Of the largest element's magnitude; 0: no type of 8 bits. */
static int64_t largest(uint8_t dtype) {
    return dtype == VTRN_DTYPE_INT8 ? 128 : dtype == VTRN_DTYPE_UINT8 ? 255 : 0;
}

/* The value of 8 bits that v is, or that a conversion to int32 made it of. */
static graph_value narrow_of(const rewriter *r, graph_value v) {
    const graph_op *op = r->maker[v];
    bool is_widened = op && op->kind == GRAPH_CONVERT && r->g->types[v].dtype == VTRN_DTYPE_INT32;
    return is_widened && largest(r->g->types[op->operands[0]].dtype) ? op->operands[0] : v;
}

/* The contracted dims of one operand of a product. */
typedef struct side {
    graph_value v;
    graph_ints dims;
} side;

/* Elements [from, from + n) along contracted dim `of`; stays: as they are, else in bf16. */
typedef struct part_of_k {
    int64_t of, from, n;
    bool stays;
} part_of_k;

static vtrn_status cut(rewriter *r, const graph_op *like, side s, part_of_k at, graph_value *out) {
    graph_type type = r->g->types[s.v];
    int64_t dim = s.dims.v[at.of], n = at.n;
    *out = s.v;
    if (n < type.dims[dim]) {
        int64_t *bounds = ARENA_NEW(&r->g->arena, int64_t, 3 * (size_t)type.rank);
        if (!bounds)
            return VTRN_OUT_OF_MEMORY(3 * (size_t)type.rank * sizeof *bounds);
        int64_t *limit = bounds + type.rank, *stride = limit + type.rank;
        for (int d = 0; d < type.rank; d++) {
            bounds[d] = 0;
            limit[d] = type.dims[d];
            stride[d] = 1;
        }
        bounds[dim] = at.from;
        limit[dim] = at.from + n;
        type.dims[dim] = n;
        graph_op op = make_plain(GRAPH_SLICE, out, 1);
        op.attrs.slice.start = (graph_ints){type.rank, bounds};
        op.attrs.slice.limit = (graph_ints){type.rank, limit};
        op.attrs.slice.stride = (graph_ints){type.rank, stride};
        VTRN_RETURN_IF_ERROR(make_op(r, like, &op, &type, out));
    }
    if (at.stays)
        return NULL;
    type.dtype = VTRN_DTYPE_BF16;
    graph_op op = make_plain(GRAPH_CONVERT, out, 1);
    return make_op(r, like, &op, &type, out);
}

/* One part of k as int32. */
static vtrn_status multiply(rewriter *r, const graph_op *product, graph_value a, graph_value b,
                            graph_value *out) {
    graph_type type = r->g->types[product->results[0]];
    graph_value operands[] = {a, b};
    graph_op op = *product;
    op.operands = operands;
    type.dtype = VTRN_DTYPE_FP32;
    VTRN_RETURN_IF_ERROR(make_op(r, product, &op, &type, out));
    type.dtype = VTRN_DTYPE_INT32;
    op = make_plain(GRAPH_CONVERT, out, 1);
    return make_op(r, product, &op, &type, out);
}

/* The longest contracted dim, and how many of it a sum may have. */
static int64_t longest(const rewriter *r, side a, int64_t largest_product, int64_t *n_most) {
    const graph_type *t = &r->g->types[a.v];
    int64_t of = 0, others = 1;
    for (int64_t i = 1; i < a.dims.n; i++)
        if (t->dims[a.dims.v[i]] > t->dims[a.dims.v[of]])
            of = i;
    for (int64_t i = 0; i < a.dims.n; i++)
        others *= i == of ? 1 : t->dims[a.dims.v[i]];
    *n_most = others > EXACT_SUM ? 0 : EXACT_SUM / largest_product / others;
    return of;
}

static vtrn_status widen(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    const bool *takes_int8 = ctx;
    *is_dropped = false;
    if (op->kind != GRAPH_DOT_GENERAL || r->g->types[op->results[0]].dtype != VTRN_DTYPE_INT32 ||
        op->attrs.dot.lhs_contract.n == 0)
        return NULL;
    side a = {narrow_of(r, op->operands[0]), op->attrs.dot.lhs_contract};
    side b = {narrow_of(r, op->operands[1]), op->attrs.dot.rhs_contract};
    uint8_t from[] = {r->g->types[a.v].dtype, r->g->types[b.v].dtype};
    int64_t product = largest(from[0]) * largest(from[1]), n_most;
    if (!product)
        return NULL;
    int64_t of = longest(r, a, product, &n_most), k = r->g->types[a.v].dims[a.dims.v[of]];
    if (n_most == 0 || k == 0 || (k + n_most - 1) / n_most > MAX_PARTS)
        return NULL;
    bool stays = *takes_int8 && from[0] == VTRN_DTYPE_INT8 && from[1] == VTRN_DTYPE_INT8;
    graph_value sum = GRAPH_NO_VALUE;
    for (int64_t at = 0; at < k; at += n_most) {
        part_of_k taken = {of, at, k - at < n_most ? k - at : n_most, stays};
        graph_value part[2], made;
        VTRN_RETURN_IF_ERROR(cut(r, op, a, taken, &part[0]));
        VTRN_RETURN_IF_ERROR(cut(r, op, b, taken, &part[1]));
        VTRN_RETURN_IF_ERROR(multiply(r, op, part[0], part[1], &made));
        if (sum != GRAPH_NO_VALUE) {
            graph_value both[] = {sum, made};
            graph_op add = make_plain(GRAPH_ADD, both, 2);
            VTRN_RETURN_IF_ERROR(make_op(r, op, &add, &r->g->types[made], &made));
        }
        sum = made;
    }
    rewrite_replace(r, op->results[0], sum);
    *is_dropped = true;
    return NULL;
}

vtrn_status int_products_widen(graph *g, bool takes_int8) {
    return rewrite_graph(g, widen, &takes_int8);
}
