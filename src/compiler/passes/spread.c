#include "compiler/passes/spread.h"

#include "compiler/passes/make_op.h"

#include <stdlib.h>
#include <string.h>

enum {
    MIN_PART = 1 << 15, /* elements of a part, on average: fewer are one kernel. Assumed */
    MAX_PARTS = 256,
    MAX_DEPTH = 12, /* operations between a product and the stack */
    MAX_OPERANDS = 3,
};

static const graph_type *type_of(const rewriter *r, graph_value v) {
    return &r->g->types[v];
}

static bool is_elementwise(const graph_op *op) {
    return op->kind <= GRAPH_CONVERT && op->n_results == 1 && op->n_operands <= MAX_OPERANDS;
}

typedef struct spreader {
    bool *is_combined; /* by value: nothing but elementwise operations reads it */
    uint32_t n_values;
} spreader;

static void mark_others(bool *is_combined, const graph_region *region) {
    for (uint32_t i = 0; i < region->n_ops; i++) {
        const graph_op *op = &region->ops[i];
        for (uint32_t k = 0; k < op->n_operands && !is_elementwise(op); k++)
            is_combined[op->operands[k]] = false;
        for (uint32_t k = 0; k < op->n_regions; k++)
            mark_others(is_combined, op->regions[k]);
    }
}

/* Outputs of the program are written part by part all the same; other regions' results are not. */
static bool may_be_parts(const spreader *s, graph_value v) {
    return v < s->n_values && s->is_combined[v];
}

/* Whether the value is a product, behind changes of its view and few elementwise operations. */
static bool is_product(const rewriter *r, graph_value v, int depth) {
    const graph_op *op = r->maker[v];
    if (!op || depth == 0)
        return false;
    bool is_view = op->kind == GRAPH_RESHAPE || op->kind == GRAPH_TRANSPOSE ||
                   op->kind == GRAPH_BROADCAST_IN_DIM;
    for (uint32_t k = 0; k < op->n_operands && (is_view || is_elementwise(op)); k++)
        if (is_product(r, op->operands[k], depth - 1))
            return true;
    return op->kind == GRAPH_DOT_GENERAL;
}

/* Whether the operands of the concatenation are one behind the other in memory. */
static bool is_stack(const rewriter *r, const graph_op *op) {
    const graph_type *t = type_of(r, op->results[0]);
    for (int64_t d = 0; d < op->attrs.dims.dims.v[0]; d++)
        if (t->dims[d] != 1)
            return false;
    return op->n_operands <= MAX_PARTS && graph_type_count(t) / op->n_operands >= MIN_PART;
}

/* The stack of products that an elementwise operation reads; NULL: none. */
static const graph_op *stack_of(const spreader *s, const rewriter *r, const graph_op *op) {
    for (uint32_t k = 0; k < op->n_operands; k++) {
        const graph_op *maker = r->maker[op->operands[k]];
        if (!maker || maker->kind != GRAPH_CONCATENATE || !may_be_parts(s, op->operands[k]) ||
            !is_stack(r, maker))
            continue;
        for (uint32_t i = 0; i < maker->n_operands; i++)
            if (is_product(r, maker->operands[i], MAX_DEPTH))
                return maker;
    }
    return NULL;
}

static bool is_cut_alike(const rewriter *r, const graph_op *op, const graph_op *stack) {
    if (!op || op->kind != GRAPH_CONCATENATE || op->n_operands != stack->n_operands ||
        op->attrs.dims.dims.v[0] != stack->attrs.dims.dims.v[0])
        return false;
    for (uint32_t i = 0; i < op->n_operands; i++)
        if (memcmp(type_of(r, op->operands[i])->dims, type_of(r, stack->operands[i])->dims,
                   sizeof type_of(r, op->operands[i])->dims) != 0)
            return false;
    return true;
}

/* Part i of an operand, `at` elements along the dim; dims are those of the stack's part. */
typedef struct part {
    uint32_t i;
    int64_t at;
    const graph_type *dims;
} part;

static vtrn_status slice_operand(rewriter *r, const graph_op *like, graph_value v, int dim,
                                 const part *p, graph_value *out) {
    graph_type type = *p->dims;
    type.dtype = type_of(r, v)->dtype;
    int64_t *bounds = ARENA_NEW(&r->g->arena, int64_t, 3 * (size_t)type.rank);
    if (!bounds)
        return VTRN_OUT_OF_MEMORY(3 * (size_t)type.rank * sizeof *bounds);
    int64_t *start = bounds, *limit = bounds + type.rank, *stride = bounds + 2 * type.rank;
    for (int d = 0; d < type.rank; d++) {
        start[d] = d == dim ? p->at : 0;
        limit[d] = start[d] + type.dims[d];
        stride[d] = 1;
    }
    graph_op slice = {.kind = GRAPH_SLICE, .n_operands = 1, .operands = &v};
    slice.attrs.slice.start = (graph_ints){.n = type.rank, .v = start};
    slice.attrs.slice.limit = (graph_ints){.n = type.rank, .v = limit};
    slice.attrs.slice.stride = (graph_ints){.n = type.rank, .v = stride};
    return make_op(r, like, &slice, &type, out);
}

static vtrn_status part_of(rewriter *r, const graph_op *like, const graph_op *stack, graph_value v,
                           const part *p, graph_value *out) {
    const graph_op *maker = r->maker[v];
    double value;
    graph_type type = *p->dims;
    type.dtype = type_of(r, v)->dtype;
    *out = v;
    if (graph_type_count(type_of(r, v)) == 1)
        return NULL;
    if (is_cut_alike(r, maker, stack)) {
        *out = maker->operands[p->i];
        return NULL;
    }
    if (maker && maker->kind == GRAPH_BROADCAST_IN_DIM && maker->attrs.dims.dims.n == 0)
        return make_op(r, like, maker, &type, out);
    if (maker && maker->kind == GRAPH_CONSTANT && rewrite_splat(r, v, &value))
        return make_op(r, like, maker, &type, out);
    return slice_operand(r, like, v, (int)stack->attrs.dims.dims.v[0], p, out);
}

/* op, elementwise on a stack, becomes the stack of what it makes of each part. */
static vtrn_status spread(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    *is_dropped = false;
    const graph_op *found = is_elementwise(op) ? stack_of(ctx, r, op) : NULL;
    if (!found)
        return NULL;
    graph_op stack = *found, joined = *found;
    joined.operands = ARENA_NEW(&r->g->arena, graph_value, stack.n_operands);
    joined.results = op->results;
    joined.place = op->place;
    if (!joined.operands)
        return VTRN_OUT_OF_MEMORY(stack.n_operands * sizeof *joined.operands);
    part p = {0};
    for (; p.i < stack.n_operands; p.i++) {
        graph_type dims = *type_of(r, stack.operands[p.i]), type = dims;
        graph_value in[MAX_OPERANDS];
        p.dims = &dims;
        for (uint32_t k = 0; k < op->n_operands; k++)
            VTRN_RETURN_IF_ERROR(part_of(r, op, &stack, op->operands[k], &p, &in[k]));
        graph_op made = *op;
        made.operands = in;
        type.dtype = type_of(r, op->results[0])->dtype;
        VTRN_RETURN_IF_ERROR(make_op(r, op, &made, &type, &joined.operands[p.i]));
        p.at += dims.dims[stack.attrs.dims.dims.v[0]];
    }
    *op = joined;
    return NULL;
}

vtrn_status spread_over_parts(graph *g) {
    spreader s = {.n_values = g->n_values};
    s.is_combined = malloc((size_t)g->n_values + 1);
    if (!s.is_combined)
        return VTRN_OUT_OF_MEMORY((size_t)g->n_values + 1);
    for (uint32_t i = 0; i < g->n_values; i++)
        s.is_combined[i] = true;
    mark_others(s.is_combined, &g->body);
    vtrn_status status = rewrite_graph(g, spread, &s);
    free(s.is_combined);
    return status;
}
