#include "compiler/passes/rewrite.h"

#include <stdlib.h>
#include <string.h>

/* Whether the regions of an operation hold operations of the program, as control flow does. */
static bool has_body(const graph_op *op) {
    return op->kind == GRAPH_WHILE || op->kind == GRAPH_IF || op->kind == GRAPH_CASE;
}

static vtrn_status grow_values(rewriter *r, uint32_t n) {
    VTRN_RETURN_IF_ERROR(graph_reserve_values(r->g, n));
    if (r->maker && r->same_as && n <= r->max_values)
        return NULL;
    uint32_t max = n + n / 2 + 64;
    graph_op **maker = realloc(r->maker, max * sizeof *maker);
    r->maker = maker ? maker : r->maker;
    graph_value *same_as = realloc(r->same_as, max * sizeof *same_as);
    r->same_as = same_as ? same_as : r->same_as;
    if (!maker || !same_as)
        return VTRN_OUT_OF_MEMORY(max * sizeof *maker);
    for (uint32_t i = r->max_values; i < max; i++) {
        maker[i] = NULL;
        same_as[i] = GRAPH_NO_VALUE;
    }
    r->max_values = max;
    return NULL;
}

vtrn_status rewrite_new_value(rewriter *r, const graph_type *type, graph_value *out) {
    VTRN_RETURN_IF_ERROR(grow_values(r, r->g->n_values + 1));
    *out = r->g->n_values++;
    r->g->types[*out] = *type;
    return NULL;
}

static graph_value find(const rewriter *r, graph_value v) {
    while (r->same_as[v] != GRAPH_NO_VALUE)
        v = r->same_as[v];
    return v;
}

void rewrite_replace(rewriter *r, graph_value v, graph_value by) {
    r->same_as[v] = by;
}

bool rewrite_is_open(const rewriter *r, uint32_t region) {
    for (uint32_t i = 0; i < r->depth; i++)
        if (r->open[i] == region)
            return true;
    return false;
}

/* The values that are read in place of n values. */
static vtrn_status find_all(rewriter *r, graph_value **values, uint32_t n) {
    graph_value *found = ARENA_NEW(&r->g->arena, graph_value, n);
    if (!found)
        return VTRN_OUT_OF_MEMORY(n * sizeof *found);
    for (uint32_t i = 0; i < n; i++)
        found[i] = find(r, (*values)[i]);
    *values = found;
    return NULL;
}

/* The op is in the rewriter's arena, and stays at its place until the pass is over. */
static vtrn_status push(rewriter *r, graph_op *op) {
    if (r->n_ops == r->max_ops) {
        size_t max = r->max_ops * 2 + 256;
        graph_op **ops = realloc(r->ops, max * sizeof(graph_op *));
        if (!ops)
            return VTRN_OUT_OF_MEMORY(max * sizeof(graph_op *));
        r->ops = ops;
        r->max_ops = max;
    }
    r->ops[r->n_ops++] = op;
    for (uint32_t i = 0; i < op->n_results; i++)
        r->maker[op->results[i]] = op;
    return NULL;
}

static vtrn_status copy_op(rewriter *r, const graph_op *op, graph_op **out) {
    *out = ARENA_NEW(&r->tmp, graph_op, 1);
    if (!*out)
        return VTRN_OUT_OF_MEMORY(sizeof **out);
    **out = *op;
    return NULL;
}

vtrn_status rewrite_append(rewriter *r, const graph_op *op) {
    graph_op *copy;
    VTRN_RETURN_IF_ERROR(copy_op(r, op, &copy));
    return push(r, copy);
}

static vtrn_status rewrite_region(rewriter *r, graph_region *region, rewrite_fn *fn, void *ctx);

/* The regions of an operation; without a function only the values that they read are renamed. */
static vtrn_status rewrite_bodies(rewriter *r, graph_op *op, rewrite_fn *fn, void *ctx) {
    graph_region **regions = ARENA_NEW(&r->g->arena, graph_region *, op->n_regions);
    graph_region *copies = ARENA_NEW(&r->g->arena, graph_region, op->n_regions);
    if (!regions || !copies)
        return VTRN_OUT_OF_MEMORY(op->n_regions * sizeof *copies);
    for (uint32_t i = 0; i < op->n_regions; i++) {
        copies[i] = *op->regions[i];
        regions[i] = &copies[i];
        VTRN_RETURN_IF_ERROR(rewrite_region(r, regions[i], fn, ctx));
    }
    op->regions = regions;
    return NULL;
}

static vtrn_status rewrite_op(rewriter *r, const graph_op *from, rewrite_fn *fn, void *ctx) {
    graph_op *op;
    bool is_dropped = false;
    VTRN_RETURN_IF_ERROR(copy_op(r, from, &op));
    VTRN_RETURN_IF_ERROR(find_all(r, &op->operands, op->n_operands));
    if (op->n_regions)
        VTRN_RETURN_IF_ERROR(rewrite_bodies(r, op, has_body(op) ? fn : NULL, ctx));
    if (fn)
        VTRN_RETURN_IF_ERROR(fn(r, ctx, op, &is_dropped));
    return is_dropped ? NULL : push(r, op);
}

static vtrn_status rewrite_region(rewriter *r, graph_region *region, rewrite_fn *fn, void *ctx) {
    if (r->depth == REWRITE_MAX_DEPTH)
        return VTRN_ERROR(VTRN_UNSUPPORTED, "regions nest deeper than %d; flatten the program",
                          REWRITE_MAX_DEPTH);
    size_t first = r->n_ops;
    r->open[r->depth++] = r->n_regions++;
    for (uint32_t i = 0; i < region->n_ops; i++)
        VTRN_RETURN_IF_ERROR(rewrite_op(r, &region->ops[i], fn, ctx));
    VTRN_RETURN_IF_ERROR(find_all(r, &region->results, region->n_results));
    size_t n = r->n_ops - first;
    graph_op *before = region->ops;
    bool is_body = r->depth == 1;
    region->ops = is_body && r->g->spare_ops && n <= r->g->n_spare_ops
                      ? r->g->spare_ops
                      : ARENA_NEW(&r->g->arena, graph_op, n);
    if (!region->ops)
        return VTRN_OUT_OF_MEMORY(n * sizeof *region->ops);
    if (is_body) { /* a pass may still hold operations of the body before it, none older */
        r->g->spare_ops = r->g->is_body_shared ? NULL : before;
        r->g->n_spare_ops = region->n_ops;
        r->g->is_body_shared = false;
    }
    for (size_t i = 0; i < n; i++)
        region->ops[i] = *r->ops[first + i];
    region->n_ops = (uint32_t)n;
    r->n_ops = first;
    r->depth--;
    return NULL;
}

vtrn_status rewrite_graph(graph *g, rewrite_fn *fn, void *ctx) {
    rewriter r = {.g = g, .tmp = ARENA_EMPTY};
    vtrn_status status = grow_values(&r, g->n_values);
    if (!status)
        status = rewrite_region(&r, &g->body, fn, ctx);
    free(r.maker);
    free(r.same_as);
    free(r.ops);
    arena_free(&r.tmp);
    return status;
}

bool rewrite_splat(const rewriter *r, graph_value v, double *out) {
    const graph_op *op = r->maker[v];
    while (op && (op->kind == GRAPH_BROADCAST_IN_DIM || op->kind == GRAPH_RESHAPE ||
                  op->kind == GRAPH_TRANSPOSE || op->kind == GRAPH_SLICE))
        op = r->maker[op->operands[0]];
    if (!op || op->kind != GRAPH_CONSTANT)
        return false;
    const graph_type *t = &r->g->types[op->results[0]];
    vtrn_dtype dtype = (vtrn_dtype)t->dtype;
    bool is_number = !dtype_is_complex(dtype);
    if (!is_number || !(op->attrs.constant.is_splat || graph_type_count(t) == 1))
        return false;
    dtype_convert(dtype, op->attrs.constant.data, VTRN_DTYPE_FP64, out, 1);
    return true;
}
