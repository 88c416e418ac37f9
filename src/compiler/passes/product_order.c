#include "compiler/passes/product_order.h"

#include "compiler/passes/make_op.h"
#include "compiler/passes/uses.h"

#include <stdlib.h>

/* An operand of a product, and where its dims that are neither batch nor summed over are read. */
typedef struct side {
    graph_value value;
    graph_ints batch, summed;
    int n_free;
    int64_t free[GRAPH_MAX_RANK];  /* dims of the operand, in order */
    int64_t made;                  /* the dim of the result that is the first of them */
    int64_t order[GRAPH_MAX_RANK]; /* which of `free` the transposed result has in each place */
} side;

typedef struct products {
    value_use *uses;
    uint32_t n_uses;
} products;

static bool contains(graph_ints list, int64_t v) {
    for (int64_t i = 0; i < list.n; i++)
        if (list.v[i] == v)
            return true;
    return false;
}

static side side_of(const graph *g, graph_value value, graph_ints batch, graph_ints summed,
                    int64_t made) {
    side s = {.value = value, .batch = batch, .summed = summed, .made = made};
    for (int d = 0; d < g->types[value].rank; d++)
        if (!contains(batch, d) && !contains(summed, d))
            s.free[s.n_free++] = d;
    return s;
}

/* Whether n dims of the transposed result, from `at` on, are the side's; finds their order. */
static bool find_order(side *s, graph_ints dims, int64_t at) {
    for (int i = 0; i < s->n_free; i++) {
        s->order[i] = dims.v[at + i] - s->made;
        if (s->order[i] < 0 || s->order[i] >= s->n_free)
            return false;
    }
    return true;
}

static bool is_in_order(const side *s) {
    for (int i = 0; i < s->n_free; i++)
        if (s->order[i] != i)
            return false;
    return true;
}

/* Whether the operand, read in the other order, is contiguous where it was. */
static bool keeps_runs(const graph *g, const side *s) {
    const graph_type *t = &g->types[s->value];
    int64_t last = -1, last_free = -1, moved = -1;
    for (int d = 0; d < t->rank; d++)
        last = t->dims[d] > 1 ? d : last;
    for (int i = 0; i < s->n_free; i++) {
        last_free = t->dims[s->free[i]] > 1 ? s->free[i] : last_free;
        moved = t->dims[s->free[s->order[i]]] > 1 ? s->free[s->order[i]] : moved;
    }
    return last_free != last || moved == last;
}

/* The operand with its free dims in the order of the result. */
static vtrn_status reorder(rewriter *r, const graph_op *like, side *s) {
    if (is_in_order(s))
        return NULL;
    graph_type from = r->g->types[s->value], to = from;
    int64_t *dims = ARENA_NEW(&r->g->arena, int64_t, (size_t)from.rank);
    if (!dims)
        return VTRN_OUT_OF_MEMORY((size_t)from.rank * sizeof *dims);
    for (int d = 0; d < from.rank; d++)
        dims[d] = d;
    for (int i = 0; i < s->n_free; i++) {
        dims[s->free[i]] = s->free[s->order[i]];
        to.dims[s->free[i]] = from.dims[s->free[s->order[i]]];
    }
    graph_op op = make_plain(GRAPH_TRANSPOSE, &s->value, 1);
    op.attrs.dims.dims = (graph_ints){.n = from.rank, .v = dims};
    return make_op(r, like, &op, &to, &s->value);
}

/* op, a transpose of the product, becomes the product. */
static vtrn_status replace(rewriter *r, graph_op *op, const graph_op *product, side *x, side *y) {
    VTRN_RETURN_IF_ERROR(reorder(r, product, x));
    VTRN_RETURN_IF_ERROR(reorder(r, product, y));
    graph_value *results = op->results, *operands = ARENA_NEW(&r->g->arena, graph_value, 2);
    if (!operands)
        return VTRN_OUT_OF_MEMORY(2 * sizeof *operands);
    operands[0] = y->value;
    operands[1] = x->value;
    *op = *product;
    op->operands = operands;
    op->results = results;
    op->attrs.dot.lhs_batch = y->batch;
    op->attrs.dot.lhs_contract = y->summed;
    op->attrs.dot.rhs_batch = x->batch;
    op->attrs.dot.rhs_contract = x->summed;
    return NULL;
}

/* Whether the product is better made in the order of the transpose; finds its operands. */
static bool is_worth(const graph *g, const graph_op *product, const graph_op *transpose, side *x,
                     side *y) {
    const graph_attrs *at = &product->attrs;
    graph_ints dims = transpose->attrs.dims.dims;
    int64_t n_batch = at->dot.lhs_batch.n;
    *x = side_of(g, product->operands[0], at->dot.lhs_batch, at->dot.lhs_contract, n_batch);
    *y = side_of(g, product->operands[1], at->dot.rhs_batch, at->dot.rhs_contract,
                 n_batch + x->n_free);
    for (int64_t d = 0; d < n_batch; d++)
        if (dims.v[d] != d)
            return false;
    if (x->n_free == 0 || y->n_free == 0 || !find_order(y, dims, n_batch) ||
        !find_order(x, dims, n_batch + y->n_free))
        return false;
    if (is_in_order(x) && is_in_order(y)) /* the contraction makes it so by itself */
        return false;
    return keeps_runs(g, x) && keeps_runs(g, y);
}

static vtrn_status order(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    const products *p = ctx;
    side x, y;
    *is_dropped = false;
    const graph_op *product = op->kind == GRAPH_TRANSPOSE ? r->maker[op->operands[0]] : NULL;
    bool is_alone = product && product->kind == GRAPH_DOT_GENERAL && op->operands[0] < p->n_uses &&
                    p->uses[op->operands[0]].n == 1;
    return is_alone && is_worth(r->g, product, op, &x, &y) ? replace(r, op, product, &x, &y) : NULL;
}

/* Whether there is any such product. */
static bool has_any(const graph *g, const products *p, const graph_region *region) {
    for (uint32_t i = 0; i < region->n_ops; i++) {
        const graph_op *op = &region->ops[i];
        const value_use *use = op->n_results ? &p->uses[op->results[0]] : NULL;
        side x, y;
        if (op->kind == GRAPH_DOT_GENERAL && use && use->n == 1 && use->user &&
            use->user->kind == GRAPH_TRANSPOSE && is_worth(g, op, use->user, &x, &y))
            return true;
        for (uint32_t k = 0; k < op->n_regions; k++)
            if (has_any(g, p, op->regions[k]))
                return true;
    }
    return false;
}

vtrn_status products_order(graph *g) {
    products p = {.n_uses = g->n_values};
    VTRN_RETURN_IF_ERROR(uses_count(g, &p.uses));
    vtrn_status status = has_any(g, &p, &g->body) ? rewrite_graph(g, order, &p) : NULL;
    free(p.uses);
    return status;
}
