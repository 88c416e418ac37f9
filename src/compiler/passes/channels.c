/* Each value has its own order of dims, and may have a twin in the order of a convolution. Ops on
 * values that were made as twins make twins; a transpose is appended where the other order is read.
 */
#include "compiler/passes/channels.h"

#include "compiler/graph/conv_geometry.h"

#include <stdlib.h>
#include <string.h>

/* The value with its dims in another order. */
typedef struct twin {
    graph_value value;             /* GRAPH_NO_VALUE: there is none */
    int64_t order[GRAPH_MAX_RANK]; /* dim i of the twin is dim order[i] of the value */
    bool is_made;                  /* an operation makes the twin, so the value is its transpose */
    bool has_value;                /* the value itself exists */
    const graph_op *maker;         /* of the value; NULL: an argument */
} twin;

typedef struct channels {
    graph *g;
    graph_op *ops; /* of the new body */
    uint32_t n_ops, max_ops;
    uint32_t n_old;
    twin *twins; /* by value of the old graph */
} channels;

/* --- building -----------------------------------------------------------------------------------
 */

static vtrn_status new_value(channels *c, const graph_type *type, graph_value *out) {
    VTRN_RETURN_IF_ERROR(graph_reserve_values(c->g, c->g->n_values + 1));
    *out = c->g->n_values++;
    c->g->types[*out] = *type;
    return NULL;
}

static vtrn_status append(channels *c, const graph_op *op) {
    if (c->n_ops == c->max_ops) {
        uint32_t max = c->max_ops * 2 + 256;
        graph_op *ops = realloc(c->ops, max * sizeof *ops);
        if (!ops)
            return VTRN_OUT_OF_MEMORY(max * sizeof *ops);
        c->ops = ops;
        c->max_ops = max;
    }
    c->ops[c->n_ops++] = *op;
    return NULL;
}

/* Room for n values in the graph's arena. */
static vtrn_status new_list(channels *c, uint32_t n, graph_value **out) {
    *out = ARENA_NEW(&c->g->arena, graph_value, n);
    return *out ? NULL : VTRN_OUT_OF_MEMORY(n * sizeof **out);
}

static vtrn_status new_ints(channels *c, const int64_t *values, int64_t n, graph_ints *out) {
    int64_t *v = ARENA_NEW(&c->g->arena, int64_t, (size_t)n);
    if (!v)
        return VTRN_OUT_OF_MEMORY((size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++)
        v[i] = values[i];
    *out = (graph_ints){n, v};
    return NULL;
}

/* Where dim d is in an order of n dims. */
static int64_t place_of(const int64_t *order, int n, int64_t d) {
    int64_t at = 0;
    while (at < n && order[at] != d)
        at++;
    return at;
}

static graph_type ordered_type(const graph_type *t, const int64_t *order) {
    graph_type out = *t;
    for (int i = 0; i < t->rank; i++)
        out.dims[i] = t->dims[order[i]];
    return out;
}

/* result = transpose of operand, whose dim i is dim dims[i] of the operand. */
static vtrn_status append_transpose(channels *c, graph_value operand, graph_value result,
                                    const int64_t *dims, const char *place) {
    graph_op op = {.kind = GRAPH_TRANSPOSE,
                   .n_operands = 1,
                   .n_results = 1,
                   .name = "stablehlo.transpose",
                   .place = place};
    VTRN_RETURN_IF_ERROR(new_ints(c, dims, c->g->types[result].rank, &op.attrs.dims.dims));
    VTRN_RETURN_IF_ERROR(new_list(c, 1, &op.operands));
    VTRN_RETURN_IF_ERROR(new_list(c, 1, &op.results));
    op.operands[0] = operand;
    op.results[0] = result;
    return append(c, &op);
}

/* --- values and twins ---------------------------------------------------------------------------
 */

static bool is_twin(const channels *c, graph_value v) {
    return v < c->n_old && c->twins[v].is_made;
}

static const char *place_of_value(const channels *c, graph_value v) {
    return c->twins[v].maker ? c->twins[v].maker->place : "";
}

/* Makes sure that v exists in its own order. */
static vtrn_status need_value(channels *c, graph_value v) {
    twin *t = v < c->n_old ? &c->twins[v] : NULL;
    if (!t || t->has_value || t->value == GRAPH_NO_VALUE)
        return NULL;
    int64_t dims[GRAPH_MAX_RANK];
    int rank = c->g->types[v].rank;
    for (int d = 0; d < rank; d++)
        dims[d] = place_of(t->order, rank, d);
    t->has_value = true;
    return append_transpose(c, t->value, v, dims, place_of_value(c, v));
}

static bool has_order(const twin *t, const int64_t *order, int rank) {
    return t->value != GRAPH_NO_VALUE && memcmp(t->order, order, (size_t)rank * sizeof *order) == 0;
}

/* A broadcast makes its twin at once. */
static vtrn_status broadcast_twin(channels *c, const graph_op *from, const int64_t *order,
                                  graph_value result) {
    graph_op op = *from;
    int64_t dims[GRAPH_MAX_RANK];
    int rank = c->g->types[result].rank;
    for (int64_t i = 0; i < from->attrs.dims.dims.n; i++)
        dims[i] = place_of(order, rank, from->attrs.dims.dims.v[i]);
    VTRN_RETURN_IF_ERROR(need_value(c, from->operands[0]));
    VTRN_RETURN_IF_ERROR(new_ints(c, dims, from->attrs.dims.dims.n, &op.attrs.dims.dims));
    VTRN_RETURN_IF_ERROR(new_list(c, 1, &op.results));
    op.results[0] = result;
    return append(c, &op);
}

/* The value of v with its dims in the order. */
static vtrn_status need_twin(channels *c, graph_value v, const int64_t *order, graph_value *out) {
    twin *t = &c->twins[v];
    int rank = c->g->types[v].rank;
    if (has_order(t, order, rank)) {
        *out = t->value;
        return NULL;
    }
    graph_type type = ordered_type(&c->g->types[v], order);
    VTRN_RETURN_IF_ERROR(new_value(c, &type, out));
    t = &c->twins[v];
    if (t->maker && t->maker->kind == GRAPH_BROADCAST_IN_DIM && !t->is_made) {
        VTRN_RETURN_IF_ERROR(broadcast_twin(c, t->maker, order, *out));
    } else {
        VTRN_RETURN_IF_ERROR(need_value(c, v));
        VTRN_RETURN_IF_ERROR(append_transpose(c, v, *out, order, place_of_value(c, v)));
    }
    if (t->value == GRAPH_NO_VALUE) {
        t->value = *out;
        memcpy(t->order, order, (size_t)rank * sizeof *order);
    }
    return NULL;
}

/* The result of an operation that makes it in the order. */
static vtrn_status make_twin(channels *c, graph_value v, const int64_t *order, graph_value *out) {
    graph_type type = ordered_type(&c->g->types[v], order);
    VTRN_RETURN_IF_ERROR(new_value(c, &type, out));
    twin *t = &c->twins[v];
    t->value = *out;
    t->is_made = true;
    t->has_value = false;
    memcpy(t->order, order, (size_t)type.rank * sizeof *order);
    return NULL;
}

/* --- operations ---------------------------------------------------------------------------------
 */

/* An operation with other operands and results. */
static vtrn_status start_op(channels *c, const graph_op *from, graph_op *op) {
    *op = *from;
    VTRN_RETURN_IF_ERROR(new_list(c, from->n_operands, &op->operands));
    VTRN_RETURN_IF_ERROR(new_list(c, from->n_results, &op->results));
    memcpy(op->operands, from->operands, from->n_operands * sizeof *op->operands);
    memcpy(op->results, from->results, from->n_results * sizeof *op->results);
    return NULL;
}

/* All values of its own order that the operation reads, in its regions too. */
static vtrn_status need_all(channels *c, const graph_op *op) {
    for (uint32_t i = 0; i < op->n_operands; i++)
        VTRN_RETURN_IF_ERROR(need_value(c, op->operands[i]));
    for (uint32_t r = 0; r < op->n_regions; r++) {
        const graph_region *region = op->regions[r];
        for (uint32_t i = 0; i < region->n_ops; i++)
            VTRN_RETURN_IF_ERROR(need_all(c, &region->ops[i]));
        for (uint32_t i = 0; i < region->n_results; i++)
            VTRN_RETURN_IF_ERROR(need_value(c, region->results[i]));
    }
    return NULL;
}

static vtrn_status keep_op(channels *c, const graph_op *op) {
    VTRN_RETURN_IF_ERROR(need_all(c, op));
    return append(c, op);
}

/* [feature, batch, spatial...] as dims of an operand or result. */
static void conv_order(int64_t feature, int64_t batch, graph_ints spatial, int64_t *order) {
    order[0] = feature;
    order[1] = batch;
    for (int64_t i = 0; i < spatial.n; i++)
        order[2 + i] = spatial.v[i];
}

static vtrn_status rewrite_convolution(channels *c, const graph_op *from) {
    graph_op op;
    int64_t lhs[GRAPH_MAX_RANK], out[GRAPH_MAX_RANK], spatial[GRAPH_MAX_RANK];
    const graph_attrs *at = &from->attrs;
    conv_order(at->conv.lhs_feature_dim, at->conv.lhs_batch_dim, at->conv.lhs_spatial, lhs);
    conv_order(at->conv.out_feature_dim, at->conv.out_batch_dim, at->conv.out_spatial, out);
    VTRN_RETURN_IF_ERROR(start_op(c, from, &op));
    VTRN_RETURN_IF_ERROR(need_value(c, from->operands[1]));
    VTRN_RETURN_IF_ERROR(need_twin(c, from->operands[0], lhs, &op.operands[0]));
    VTRN_RETURN_IF_ERROR(make_twin(c, from->results[0], out, &op.results[0]));
    for (int64_t i = 0; i < at->conv.lhs_spatial.n; i++)
        spatial[i] = 2 + i;
    VTRN_RETURN_IF_ERROR(new_ints(c, spatial, at->conv.lhs_spatial.n, &op.attrs.conv.lhs_spatial));
    op.attrs.conv.out_spatial = op.attrs.conv.lhs_spatial;
    op.attrs.conv.lhs_feature_dim = op.attrs.conv.out_feature_dim = 0;
    op.attrs.conv.lhs_batch_dim = op.attrs.conv.out_batch_dim = 1;
    return append(c, &op);
}

static vtrn_status order_ints(channels *c, const int64_t *order, graph_ints *list) {
    int64_t v[GRAPH_MAX_RANK];
    for (int64_t i = 0; i < list->n; i++)
        v[i] = list->v[order[i]];
    return new_ints(c, v, list->n, list);
}

static vtrn_status order_dims(channels *c, const int64_t *order, int rank, graph_ints *list) {
    int64_t v[GRAPH_MAX_RANK];
    for (int64_t i = 0; i < list->n; i++)
        v[i] = place_of(order, rank, list->v[i]);
    return new_ints(c, v, list->n, list);
}

/* Attributes that have an entry a dim, or name dims, in the order. */
static vtrn_status order_attributes(channels *c, const int64_t *order, int rank, graph_op *op) {
    graph_attrs *at = &op->attrs;
    graph_ints *lists[6];
    int n = 0;
    switch ((graph_kind)op->kind) {
    case GRAPH_SLICE:
        lists[n++] = &at->slice.start;
        lists[n++] = &at->slice.limit;
        lists[n++] = &at->slice.stride;
        break;
    case GRAPH_PAD:
        lists[n++] = &at->pad.low;
        lists[n++] = &at->pad.high;
        lists[n++] = &at->pad.interior;
        break;
    case GRAPH_REDUCE_WINDOW:
    case GRAPH_SELECT_AND_SCATTER:
        lists[n++] = &at->window.window;
        lists[n++] = &at->window.stride;
        lists[n++] = &at->window.base_dilation;
        lists[n++] = &at->window.window_dilation;
        lists[n++] = &at->window.pad_low;
        lists[n++] = &at->window.pad_high;
        break;
    case GRAPH_CONCATENATE:
    case GRAPH_REVERSE:
        return order_dims(c, order, rank, &at->dims.dims);
    default:
        break;
    }
    for (int i = 0; i < n; i++)
        VTRN_RETURN_IF_ERROR(order_ints(c, order, lists[i]));
    return NULL;
}

/* Operations on tensors of one rank, dim by dim. */
static bool keeps_dims(const graph_op *op) {
    switch ((graph_kind)op->kind) {
    case GRAPH_SLICE:
    case GRAPH_PAD:
    case GRAPH_CONCATENATE:
    case GRAPH_REVERSE:
        return true;
    case GRAPH_REDUCE_WINDOW:
        return op->n_operands == 2;
    case GRAPH_SELECT_AND_SCATTER:
        return true;
    case GRAPH_OPTIMIZATION_BARRIER:
        return op->n_operands == 1;
    case GRAPH_BITCAST_CONVERT: /* between types of one size or the ranks differ */
        return true;
    default:
        return op->kind <= GRAPH_REDUCE_PRECISION || graph_kind_is_composite(op->kind);
    }
}

static vtrn_status rewrite_by_dims(channels *c, const graph_op *from, const int64_t *order) {
    graph_op op;
    int rank = c->g->types[from->results[0]].rank;
    VTRN_RETURN_IF_ERROR(start_op(c, from, &op));
    for (uint32_t i = 0; i < op.n_operands; i++) {
        graph_value v = from->operands[i];
        if (c->g->types[v].rank == rank)
            VTRN_RETURN_IF_ERROR(need_twin(c, v, order, &op.operands[i]));
        else
            VTRN_RETURN_IF_ERROR(need_value(c, v));
    }
    VTRN_RETURN_IF_ERROR(make_twin(c, from->results[0], order, &op.results[0]));
    VTRN_RETURN_IF_ERROR(order_attributes(c, order, rank, &op));
    return append(c, &op);
}

/* Whether a reduction covers the spatial dims of a small image, which the pooling does in an
 * instruction for each 128 channels. */
static bool is_pooling_of_images(const graph *g, const graph_op *op, const int64_t *order) {
    const graph_type *t = &g->types[op->operands[0]];
    int64_t n_taps = 1;
    bool is_known = op->reducer == GRAPH_REDUCER_ADD || op->reducer == GRAPH_REDUCER_MAXIMUM ||
                    op->reducer == GRAPH_REDUCER_MINIMUM;
    if (!is_known || t->rank < 3 || op->attrs.dims.dims.n != t->rank - 2)
        return false;
    for (int64_t i = 0; i < op->attrs.dims.dims.n; i++) {
        int64_t d = op->attrs.dims.dims.v[i];
        if (d == order[0] || d == order[1])
            return false;
        n_taps *= t->dims[d];
    }
    return n_taps > 1 && n_taps <= CONV_MAX_TAPS;
}

/* A reduce_window over whole images, and its result without their dims. */
static vtrn_status pool_images(channels *c, const graph_op *from, const int64_t *order) {
    graph_op op, flat;
    graph_type type = ordered_type(&c->g->types[from->operands[0]], order);
    int64_t window[GRAPH_MAX_RANK], ones[GRAPH_MAX_RANK], zeros[GRAPH_MAX_RANK] = {0};
    bool is_batch_first = order[1] < order[0];
    const int64_t swapped[] = {1, 0};
    for (int d = 0; d < type.rank; d++) {
        window[d] = d < 2 ? 1 : type.dims[d];
        ones[d] = 1;
    }
    VTRN_RETURN_IF_ERROR(start_op(c, from, &op));
    op.kind = GRAPH_REDUCE_WINDOW;
    op.operands[0] = c->twins[from->operands[0]].value;
    VTRN_RETURN_IF_ERROR(need_value(c, from->operands[1]));
    VTRN_RETURN_IF_ERROR(new_ints(c, window, type.rank, &op.attrs.window.window));
    VTRN_RETURN_IF_ERROR(new_ints(c, ones, type.rank, &op.attrs.window.stride));
    VTRN_RETURN_IF_ERROR(new_ints(c, zeros, type.rank, &op.attrs.window.pad_low));
    op.attrs.window.base_dilation = op.attrs.window.window_dilation = op.attrs.window.stride;
    op.attrs.window.pad_high = op.attrs.window.pad_low;
    for (int d = 2; d < type.rank; d++)
        type.dims[d] = 1;
    VTRN_RETURN_IF_ERROR(new_value(c, &type, &op.results[0]));
    VTRN_RETURN_IF_ERROR(append(c, &op));
    flat = (graph_op){.kind = GRAPH_RESHAPE,
                      .n_operands = 1,
                      .n_results = 1,
                      .operands = op.results,
                      .name = "stablehlo.reshape",
                      .place = from->place};
    VTRN_RETURN_IF_ERROR(new_list(c, 1, &flat.results));
    flat.results[0] = from->results[0];
    if (is_batch_first)
        VTRN_RETURN_IF_ERROR(make_twin(c, from->results[0], swapped, &flat.results[0]));
    return append(c, &flat);
}

/* A reduction leaves the dims that it keeps in the order of its operand's. */
static vtrn_status rewrite_reduce(channels *c, const graph_op *from, const int64_t *order) {
    graph_op op;
    if (is_pooling_of_images(c->g, from, order))
        return pool_images(c, from, order);
    int rank = c->g->types[from->operands[0]].rank, n_kept = 0;
    int64_t kept[GRAPH_MAX_RANK], number[GRAPH_MAX_RANK];
    bool is_reduced[GRAPH_MAX_RANK] = {false}, is_same = true;
    for (int64_t i = 0; i < from->attrs.dims.dims.n; i++)
        is_reduced[from->attrs.dims.dims.v[i]] = true;
    for (int d = 0; d < rank; d++)
        number[d] = is_reduced[d] ? 0 : n_kept++;
    n_kept = 0;
    for (int i = 0; i < rank; i++)
        if (!is_reduced[order[i]])
            kept[n_kept++] = number[order[i]];
    for (int i = 0; i < n_kept; i++)
        is_same = is_same && kept[i] == i;
    VTRN_RETURN_IF_ERROR(start_op(c, from, &op));
    op.operands[0] = c->twins[from->operands[0]].value;
    VTRN_RETURN_IF_ERROR(need_value(c, from->operands[1]));
    VTRN_RETURN_IF_ERROR(order_dims(c, order, rank, &op.attrs.dims.dims));
    if (!is_same)
        VTRN_RETURN_IF_ERROR(make_twin(c, from->results[0], kept, &op.results[0]));
    return append(c, &op);
}

static bool is_identity(const int64_t *dims, int rank) {
    for (int i = 0; i < rank; i++)
        if (dims[i] != i)
            return false;
    return true;
}

/* The transpose of a twin is another order of the same dims. */
static vtrn_status rewrite_transpose(channels *c, const graph_op *from) {
    const twin *t = &c->twins[from->operands[0]];
    int64_t dims[GRAPH_MAX_RANK];
    int rank = c->g->types[from->results[0]].rank;
    for (int i = 0; i < rank; i++)
        dims[i] = place_of(t->order, rank, from->attrs.dims.dims.v[i]);
    graph_op op;
    VTRN_RETURN_IF_ERROR(start_op(c, from, &op));
    op.operands[0] = t->value;
    if (is_identity(dims, rank)) {
        op.kind = GRAPH_RESHAPE;
        op.attrs = (graph_attrs){0};
        return append(c, &op);
    }
    VTRN_RETURN_IF_ERROR(new_ints(c, dims, rank, &op.attrs.dims.dims));
    return append(c, &op);
}

/* The first operand of the result's rank that was made as a twin, or GRAPH_NO_VALUE. */
static graph_value leading_twin(const channels *c, const graph_op *op) {
    int rank = c->g->types[op->results[0]].rank;
    for (uint32_t i = 0; i < op->n_operands; i++)
        if (is_twin(c, op->operands[i]) && c->g->types[op->operands[i]].rank == rank)
            return op->operands[i];
    return GRAPH_NO_VALUE;
}

static vtrn_status rewrite_op(channels *c, const graph_op *op) {
    for (uint32_t r = 0; r < op->n_results; r++) {
        c->twins[op->results[r]].maker = op;
        c->twins[op->results[r]].has_value = true;
    }
    if (op->kind == GRAPH_CONVOLUTION)
        return rewrite_convolution(c, op);
    if (op->n_results != 1)
        return keep_op(c, op);
    if (op->kind == GRAPH_REDUCE && op->n_operands == 2 && is_twin(c, op->operands[0]))
        return rewrite_reduce(c, op, c->twins[op->operands[0]].order);
    if (op->kind == GRAPH_TRANSPOSE && is_twin(c, op->operands[0]))
        return rewrite_transpose(c, op);
    graph_value leading = keeps_dims(op) ? leading_twin(c, op) : GRAPH_NO_VALUE;
    if (leading != GRAPH_NO_VALUE)
        return rewrite_by_dims(c, op, c->twins[leading].order);
    return keep_op(c, op);
}

static vtrn_status rewrite_body(channels *c) {
    graph_region *body = &c->g->body;
    for (uint32_t i = 0; i < body->n_args; i++)
        c->twins[body->args[i]].has_value = true;
    for (uint32_t i = 0; i < body->n_ops; i++)
        VTRN_RETURN_IF_ERROR(rewrite_op(c, &body->ops[i]));
    for (uint32_t i = 0; i < body->n_results; i++)
        VTRN_RETURN_IF_ERROR(need_value(c, body->results[i]));
    graph_op *ops = ARENA_NEW(&c->g->arena, graph_op, c->n_ops);
    if (!ops)
        return VTRN_OUT_OF_MEMORY(c->n_ops * sizeof *ops);
    memcpy(ops, c->ops, c->n_ops * sizeof *ops);
    body->ops = ops;
    body->n_ops = c->n_ops;
    return NULL;
}

/* --- what is done first --------------------------------------------------------------------------
 */

enum { MAX_EARLY_ELEMENTS = 1 << 14 /* small beside any image: assumed */ };

static bool is_elementwise(const graph_op *op) {
    return op->kind <= GRAPH_REDUCE_PRECISION || graph_kind_is_composite(op->kind) ||
           op->kind == GRAPH_RESHAPE || op->kind == GRAPH_BROADCAST_IN_DIM ||
           op->kind == GRAPH_CONSTANT;
}

/* Whether the operation computes little, and from parameters alone: scales and shifts of channels.
 */
static bool is_early(const graph *g, const graph_op *op, const bool *is_known) {
    bool is_small = op->n_results == 1 && op->n_regions == 0 && is_elementwise(op) &&
                    graph_type_count(&g->types[op->results[0]]) <= MAX_EARLY_ELEMENTS;
    for (uint32_t i = 0; i < op->n_operands; i++)
        is_small = is_small && is_known[op->operands[i]];
    return is_small;
}

/* Early operations are placed before all others: a kernel between two convolutions would have the
 * second one wait for it. */
static vtrn_status move_early_first(graph *g) {
    graph_region *body = &g->body;
    graph_op *ops = ARENA_NEW(&g->arena, graph_op, body->n_ops);
    bool *is_known = calloc((size_t)g->n_values + 1, sizeof *is_known);
    bool *is_first = calloc((size_t)body->n_ops + 1, sizeof *is_first);
    uint32_t n = 0;
    if (ops && is_known && is_first) {
        for (uint32_t i = 0; i < body->n_args; i++)
            is_known[body->args[i]] = true;
        for (uint32_t i = 0; i < body->n_ops; i++) {
            is_first[i] = is_early(g, &body->ops[i], is_known);
            if (!is_first[i])
                continue;
            is_known[body->ops[i].results[0]] = true;
            ops[n++] = body->ops[i];
        }
        for (uint32_t i = 0; i < body->n_ops; i++)
            if (!is_first[i])
                ops[n++] = body->ops[i];
        body->ops = ops;
    }
    bool is_done = n == body->n_ops;
    free(is_known);
    free(is_first);
    return is_done ? NULL : VTRN_OUT_OF_MEMORY(body->n_ops * sizeof *ops);
}

/* --- which graphs -------------------------------------------------------------------------------
 */

typedef struct makers {
    const graph *g;
    const graph_op **of; /* by value; NULL: an argument of the body, or a value of a region */
} makers;

/* Whether a value is made of parameters alone by operations that keep its elements apart: weights
 * are, and the gradients that a weight gradient convolves with are not. */
static bool is_weights(const makers *m, graph_value v, int depth) {
    enum { MAX_DEPTH = 16 };
    const graph_op *op = m->of[v];
    if (!op)
        return true;
    bool is_kept = is_elementwise(op) || op->kind == GRAPH_TRANSPOSE || op->kind == GRAPH_REVERSE ||
                   op->kind == GRAPH_SLICE;
    for (uint32_t i = 0; i < op->n_operands && is_kept; i++)
        is_kept = depth < MAX_DEPTH && is_weights(m, op->operands[i], depth + 1);
    return is_kept;
}

/* Whether each convolution can be computed with its channels outermost, and some has windows: those
 * of one tap alone are products of matrices in the order of memory. */
static bool suits(const makers *m) {
    uint32_t n_with_windows = 0;
    for (uint32_t i = 0; i < m->g->body.n_ops; i++) {
        const graph_op *op = &m->g->body.ops[i];
        if (op->kind != GRAPH_CONVOLUTION)
            continue;
        if (!conv_has_geometry(m->g, op) || !is_weights(m, op->operands[1], 0))
            return false;
        n_with_windows += conv_geometry_of(m->g, op).n_taps > 1;
    }
    return n_with_windows > 0;
}

static vtrn_status find_makers(const graph *g, makers *m) {
    *m = (makers){.g = g, .of = calloc((size_t)g->n_values + 1, sizeof *m->of)};
    if (!m->of)
        return VTRN_OUT_OF_MEMORY(g->n_values * sizeof *m->of);
    for (uint32_t i = 0; i < g->body.n_ops; i++)
        for (uint32_t r = 0; r < g->body.ops[i].n_results; r++)
            m->of[g->body.ops[i].results[r]] = &g->body.ops[i];
    return NULL;
}

vtrn_status channels_outermost(graph *g) {
    makers m;
    VTRN_RETURN_IF_ERROR(find_makers(g, &m));
    bool is_suited = suits(&m);
    free(m.of);
    if (!is_suited)
        return NULL;
    channels c = {.g = g, .n_old = g->n_values};
    c.twins = calloc(g->n_values, sizeof *c.twins);
    vtrn_status status = c.twins ? NULL : VTRN_OUT_OF_MEMORY(g->n_values * sizeof *c.twins);
    for (uint32_t v = 0; v < c.n_old && !status; v++)
        c.twins[v].value = GRAPH_NO_VALUE;
    if (!status)
        status = rewrite_body(&c);
    if (!status)
        status = move_early_first(g);
    free(c.twins);
    free(c.ops);
    return status;
}
