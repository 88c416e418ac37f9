#include "compiler/passes/stacks.h"

#include "compiler/passes/make_op.h"
#include "compiler/passes/uses.h"

#include <stdlib.h>

enum {
    MAX_PARTS = 4096, /* of a sum */
    NOT_PADDED = -1,
};

typedef struct part {
    graph_value v;
    int64_t low, size; /* along the dim */
} part;

typedef struct stacks {
    value_use *uses;
    uint32_t n_values;
    int8_t *dim; /* by value: along which it is a tree of sums of padded tensors, or NOT_PADDED */
    part *parts; /* of the sum at hand */
    uint32_t n_parts;
} stacks;

static const graph_type *type_of(const rewriter *r, graph_value v) {
    return &r->g->types[v];
}

static bool is_padded(const stacks *s, graph_value v, int dim) {
    return v < s->n_values && s->uses[v].n == 1 && s->dim[v] == dim;
}

/* The one dim along which a pad puts zeros before and behind its operand, or NOT_PADDED. */
static int8_t padded_dim(const rewriter *r, const graph_op *op) {
    double zero;
    int8_t dim = NOT_PADDED;
    const graph_type *t = type_of(r, op->results[0]);
    if (!dtype_is_float((vtrn_dtype)t->dtype) || graph_type_count(t) == 0 ||
        !rewrite_splat(r, op->operands[1], &zero) || zero != 0)
        return NOT_PADDED;
    for (int d = 0; d < t->rank; d++) {
        int64_t low = op->attrs.pad.low.v[d], high = op->attrs.pad.high.v[d];
        if (low < 0 || high < 0 || op->attrs.pad.interior.v[d])
            return NOT_PADDED;
        if (low == 0 && high == 0)
            continue;
        if (dim != NOT_PADDED)
            return NOT_PADDED;
        dim = (int8_t)d;
    }
    return dim;
}

/* Lists the padded tensors of a tree of sums; false: too many. */
static bool collect(stacks *s, const rewriter *r, graph_value v) {
    const graph_op *op = r->maker[v];
    int dim = s->dim[v];
    while (op->kind ==
           GRAPH_ADD) { /* sums of many are chains: the long side is not recursed into */
        int k = r->maker[op->operands[0]]->kind == GRAPH_ADD;
        if (!collect(s, r, op->operands[k]))
            return false;
        op = r->maker[op->operands[1 - k]];
    }
    if (s->n_parts == MAX_PARTS)
        return false;
    s->parts[s->n_parts++] = (part){.v = op->operands[0],
                                    .low = op->attrs.pad.low.v[dim],
                                    .size = type_of(r, op->operands[0])->dims[dim]};
    return true;
}

static int by_low(const void *a, const void *b) {
    const part *x = a, *y = b;
    return (x->low > y->low) - (x->low < y->low);
}

/* An operand of the concatenation. */
static void add_operand(graph_op *op, graph_value v) {
    op->operands[op->n_operands++] = v;
}

static vtrn_status add_zeros(rewriter *r, const graph_op *like, int dim, int64_t n, graph_op *op) {
    graph_type type = *type_of(r, like->results[0]);
    graph_value zeros;
    type.dims[dim] = n;
    if (n == 0)
        return NULL;
    VTRN_RETURN_IF_ERROR(make_splat(r, like, 0, &type, &zeros));
    add_operand(op, zeros);
    return NULL;
}

/* op, the sum of the parts, becomes their concatenation; stays where two of them overlap. */
static vtrn_status concatenate(stacks *s, rewriter *r, graph_op *op, int dim) {
    int64_t at = 0;
    qsort(s->parts, s->n_parts, sizeof *s->parts, by_low);
    for (uint32_t i = 0; i < s->n_parts; at = s->parts[i].low + s->parts[i].size, i++)
        if (s->parts[i].low < at)
            return NULL;
    graph_op joined = {.kind = GRAPH_CONCATENATE,
                       .n_results = 1,
                       .results = op->results,
                       .name = make_name(r, GRAPH_CONCATENATE),
                       .place = op->place};
    int64_t *dims = ARENA_NEW(&r->g->arena, int64_t, 1);
    joined.operands = ARENA_NEW(&r->g->arena, graph_value, 2 * (size_t)s->n_parts + 1);
    if (!joined.operands || !joined.name || !dims)
        return VTRN_OUT_OF_MEMORY((2 * (size_t)s->n_parts + 1) * sizeof(graph_value));
    at = 0;
    for (uint32_t i = 0; i < s->n_parts; i++) {
        VTRN_RETURN_IF_ERROR(add_zeros(r, op, dim, s->parts[i].low - at, &joined));
        add_operand(&joined, s->parts[i].v);
        at = s->parts[i].low + s->parts[i].size;
    }
    VTRN_RETURN_IF_ERROR(
        add_zeros(r, op, dim, type_of(r, op->results[0])->dims[dim] - at, &joined));
    *dims = dim;
    joined.attrs.dims.dims = (graph_ints){.n = 1, .v = dims};
    *op = joined;
    return NULL;
}

/* Whether the sum is a term of another one of the same kind. */
static bool is_term(const stacks *s, graph_value v, int dim) {
    const graph_op *user = s->uses[v].user;
    return s->uses[v].n == 1 && user && user->kind == GRAPH_ADD && s->dim[user->results[0]] == dim;
}

static vtrn_status recognise(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    stacks *s = ctx;
    *is_dropped = false;
    if (op->kind != GRAPH_ADD || op->results[0] >= s->n_values)
        return NULL;
    graph_value v = op->results[0];
    int dim = s->dim[v];
    if (dim == NOT_PADDED || is_term(s, v, dim) || !is_padded(s, op->operands[0], dim) ||
        !is_padded(s, op->operands[1], dim))
        return NULL;
    s->n_parts = 0;
    bool is_listed = collect(s, r, op->operands[0]) && collect(s, r, op->operands[1]);
    return is_listed ? concatenate(s, r, op, dim) : NULL;
}

/* First walk: the values that are padded tensors, and trees of their sums. */
static vtrn_status mark(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    stacks *s = ctx;
    *is_dropped = false;
    if (op->n_results != 1 || (op->kind != GRAPH_PAD && op->kind != GRAPH_ADD))
        return NULL;
    int8_t *dim = &s->dim[op->results[0]];
    if (op->kind == GRAPH_PAD)
        *dim = padded_dim(r, op);
    else if (op->operands[0] != op->operands[1] && s->dim[op->operands[0]] != NOT_PADDED &&
             is_padded(s, op->operands[0], s->dim[op->operands[0]]) &&
             is_padded(s, op->operands[1], s->dim[op->operands[0]]))
        *dim = s->dim[op->operands[0]];
    return NULL;
}

vtrn_status stacks_recognise(graph *g) {
    stacks s = {.n_values = g->n_values};
    VTRN_RETURN_IF_ERROR(uses_count(g, &s.uses));
    s.dim = malloc((size_t)g->n_values + 1);
    s.parts = malloc(MAX_PARTS * sizeof *s.parts);
    vtrn_status status = s.dim && s.parts ? NULL : VTRN_OUT_OF_MEMORY(MAX_PARTS * sizeof *s.parts);
    for (uint32_t i = 0; i < g->n_values && !status; i++)
        s.dim[i] = NOT_PADDED;
    if (!status)
        status = rewrite_graph(g, mark, &s);
    if (!status)
        status = rewrite_graph(g, recognise, &s);
    free(s.uses);
    free(s.dim);
    free(s.parts);
    return status;
}
