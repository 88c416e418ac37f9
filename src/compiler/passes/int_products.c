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

/* Elements [from, from + n) of what is contracted. */
typedef struct part_of_k {
    int64_t from, n;
    int64_t groups; /* of the first operand's features, each of which has these elements */
    bool stays;     /* as they are, else in bf16 */
} part_of_k;

/* [at.from, at.from + at.n) of v along a dim. */
static vtrn_status slice(rewriter *r, const graph_op *like, graph_value v, int64_t dim,
                         part_of_k at, graph_value *out) {
    graph_type type = r->g->types[v];
    *out = v;
    if (at.n == type.dims[dim])
        return NULL;
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
    limit[dim] = at.from + at.n;
    type.dims[dim] = at.n;
    graph_op op = make_plain(GRAPH_SLICE, out, 1);
    op.attrs.slice.start = (graph_ints){type.rank, bounds};
    op.attrs.slice.limit = (graph_ints){type.rank, limit};
    op.attrs.slice.stride = (graph_ints){type.rank, stride};
    return make_op(r, like, &op, &type, out);
}

static vtrn_status cut(rewriter *r, const graph_op *like, graph_value v, int64_t dim, part_of_k at,
                       graph_value *out) {
    VTRN_RETURN_IF_ERROR(slice(r, like, v, dim, at, out));
    if (at.stays)
        return NULL;
    graph_type type = r->g->types[*out];
    type.dtype = VTRN_DTYPE_BF16;
    graph_op op = make_plain(GRAPH_CONVERT, out, 1);
    return make_op(r, like, &op, &type, out);
}

/* The same features of each group: dim has the groups' features one after the other. */
static vtrn_status cut_groups(rewriter *r, const graph_op *like, graph_value v, int64_t dim,
                              part_of_k at, graph_value *out) {
    graph_type whole = r->g->types[v], apart = whole;
    const int64_t n_groups = at.groups, each = whole.dims[dim] / n_groups;
    if (n_groups == 1 || at.n == each) {
        at.n *= n_groups;
        return cut(r, like, v, dim, at, out);
    }
    for (int d = apart.rank++; d > dim; d--)
        apart.dims[d] = whole.dims[d - 1];
    apart.dims[dim] = n_groups;
    apart.dims[dim + 1] = each;
    whole.dims[dim] = n_groups * at.n;
    VTRN_RETURN_IF_ERROR(make_reshape(r, like, v, &apart, out));
    VTRN_RETURN_IF_ERROR(cut(r, like, *out, dim + 1, at, out));
    return make_reshape(r, like, *out, &whole, out);
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

/* What a product or a convolution of small integers is made of. */
typedef struct int_product {
    side a, b;
    int64_t of;     /* the contracted dim that is cut, of a.dims and b.dims */
    int64_t k;      /* its size, of a convolution that of a group */
    int64_t n_most; /* of it in one exact sum */
    int64_t groups; /* of features, one after the other in a's dim */
} int_product;

/* False: it is none. */
static bool describe_dot(const rewriter *r, const graph_op *op, int64_t largest_product,
                         int_product *p) {
    if (op->attrs.dot.lhs_contract.n == 0)
        return false;
    p->a.dims = op->attrs.dot.lhs_contract;
    p->b.dims = op->attrs.dot.rhs_contract;
    p->groups = 1;
    p->of = longest(r, p->a, largest_product, &p->n_most);
    p->k = r->g->types[p->a.v].dims[p->a.dims.v[p->of]];
    return true;
}

/* The features are cut; a sum has those of all taps of the window. */
static bool describe_conv(const rewriter *r, const graph_op *op, int64_t largest_product,
                          int_product *p) {
    const graph_type *weights = &r->g->types[p->b.v];
    int64_t taps = 1;
    for (int64_t i = 0; i < op->attrs.conv.rhs_spatial.n; i++) {
        int64_t n = weights->dims[op->attrs.conv.rhs_spatial.v[i]];
        if (n == 0 || n > EXACT_SUM / taps)
            return false;
        taps *= n;
    }
    p->a.dims = (graph_ints){1, &op->attrs.conv.lhs_feature_dim};
    p->b.dims = (graph_ints){1, &op->attrs.conv.rhs_in_dim};
    p->groups = op->attrs.conv.feature_groups;
    p->of = 0;
    p->k = weights->dims[op->attrs.conv.rhs_in_dim];
    p->n_most = EXACT_SUM / largest_product / taps;
    return p->groups == 1 || r->g->types[p->a.v].rank < GRAPH_MAX_RANK;
}

static vtrn_status widen(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    const bool *takes_int8 = ctx;
    *is_dropped = false;
    bool is_conv = op->kind == GRAPH_CONVOLUTION;
    if ((op->kind != GRAPH_DOT_GENERAL && !is_conv) ||
        r->g->types[op->results[0]].dtype != VTRN_DTYPE_INT32)
        return NULL;
    int_product p = {.a = {.v = narrow_of(r, op->operands[0])},
                     .b = {.v = narrow_of(r, op->operands[1])}};
    uint8_t from[] = {r->g->types[p.a.v].dtype, r->g->types[p.b.v].dtype};
    int64_t product = largest(from[0]) * largest(from[1]);
    if (!product ||
        !(is_conv ? describe_conv(r, op, product, &p) : describe_dot(r, op, product, &p)))
        return NULL;
    if (p.n_most == 0 || p.k == 0 || (p.k + p.n_most - 1) / p.n_most > MAX_PARTS)
        return NULL;
    bool stays = *takes_int8 && from[0] == VTRN_DTYPE_INT8 && from[1] == VTRN_DTYPE_INT8;
    graph_value sum = GRAPH_NO_VALUE;
    for (int64_t at = 0; at < p.k; at += p.n_most) {
        part_of_k taken = {at, p.k - at < p.n_most ? p.k - at : p.n_most, p.groups, stays};
        graph_value part[2], made;
        VTRN_RETURN_IF_ERROR(cut_groups(r, op, p.a.v, p.a.dims.v[p.of], taken, &part[0]));
        VTRN_RETURN_IF_ERROR(cut(r, op, p.b.v, p.b.dims.v[p.of], taken, &part[1]));
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
