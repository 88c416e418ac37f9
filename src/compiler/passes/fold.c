#include "compiler/passes/fold.h"

#include "compiler/passes/rewrite.h"
#include "compiler/reference/reference.h"

#include <math.h>
#include <string.h>

enum {
    MAX_ELEMENTS = 1024, /* of a constant that is computed here: assumed, small beside a tensor */
    MAX_OPERANDS = REFERENCE_MAX_ELEMENTS,
};

static const graph_type *type_of(const rewriter *r, graph_value v) {
    return &r->g->types[v];
}

/* --- operations that change nothing --------------------------------------------------------------
 */

static bool is_splat(const rewriter *r, graph_value v, double want) {
    double value;
    return rewrite_splat(r, v, &value) && value == want && signbit(value) == signbit(want);
}

static bool is_float(const rewriter *r, graph_value v) {
    return dtype_is_float((vtrn_dtype)type_of(r, v)->dtype);
}

static bool is_truth(const rewriter *r, graph_value v) {
    return type_of(r, v)->dtype == VTRN_DTYPE_PRED;
}

/* The constant c with which operand k of a binary operation leaves the other operand as it is. -0
 * is what adds nothing to a float: 0 would make 0 of -0. */
static bool is_neutral(const rewriter *r, const graph_op *op, uint32_t k) {
    graph_value c = op->operands[k];
    bool is_number = !is_truth(r, c);
    switch (op->kind) {
    case GRAPH_ADD:
        return is_number && is_splat(r, c, is_float(r, c) ? -0.0 : 0);
    case GRAPH_SUBTRACT:
        return is_number && k == 1 && is_splat(r, c, 0);
    case GRAPH_MULTIPLY:
        return is_number && is_splat(r, c, 1);
    case GRAPH_DIVIDE:
        return is_number && k == 1 && is_splat(r, c, 1);
    case GRAPH_MAXIMUM:
        return is_float(r, c) && is_splat(r, c, -INFINITY);
    case GRAPH_MINIMUM:
        return is_float(r, c) && is_splat(r, c, INFINITY);
    case GRAPH_AND:
        return is_truth(r, c) && is_splat(r, c, 1);
    case GRAPH_OR:
        return is_truth(r, c) && is_splat(r, c, 0);
    default:
        return false;
    }
}

/* A conversion back from a wider float. */
static bool is_round_trip(const rewriter *r, const graph_op *op, graph_value *from) {
    const graph_op *there = r->maker[op->operands[0]];
    if (!there || there->kind != GRAPH_CONVERT)
        return false;
    *from = there->operands[0];
    const graph_type *narrow = type_of(r, *from), *wide = type_of(r, op->operands[0]);
    return narrow->dtype == type_of(r, op->results[0])->dtype &&
           dtype_is_float((vtrn_dtype)narrow->dtype) && wide->dtype == VTRN_DTYPE_FP32 &&
           dtype_size((vtrn_dtype)narrow->dtype) <= 2;
}

static bool counts_up(graph_ints dims) {
    for (int64_t i = 0; i < dims.n; i++)
        if (dims.v[i] != i)
            return false;
    return true;
}

/* The operand that the operation's result equals. */
static bool find_equal(const rewriter *r, const graph_op *op, graph_value *out) {
    const graph_type *to = type_of(r, op->results[0]);
    double pred;
    if (op->n_results != 1 || op->n_operands == 0)
        return false;
    *out = op->operands[0];
    bool is_same_type = graph_type_equal(type_of(r, *out), to);
    switch (op->kind) {
    case GRAPH_RESHAPE:
        return is_same_type;
    case GRAPH_CONVERT:
        return is_same_type || is_round_trip(r, op, out);
    case GRAPH_BROADCAST_IN_DIM:
    case GRAPH_TRANSPOSE:
        return is_same_type && counts_up(op->attrs.dims.dims);
    case GRAPH_SLICE:
    case GRAPH_CONCATENATE:
        return op->n_operands == 1 && is_same_type;
    case GRAPH_NEGATE: {
        const graph_op *in = r->maker[*out];
        if (!in || in->kind != GRAPH_NEGATE)
            return false;
        *out = in->operands[0];
        return true;
    }
    case GRAPH_SELECT:
        if (!rewrite_splat(r, *out, &pred))
            return false;
        *out = op->operands[pred != 0 ? 1 : 2];
        return true;
    default:
        break;
    }
    for (uint32_t k = 0; k < 2 && op->n_operands == 2; k++) {
        *out = op->operands[1 - k];
        if (is_neutral(r, op, k) && graph_type_equal(type_of(r, *out), to))
            return true;
    }
    return false;
}

/* A reduction over dimensions of one element, from the reducer's identity on, is a reshape. */
static bool is_reshape(const rewriter *r, const graph_op *op) {
    double init;
    if (op->kind != GRAPH_REDUCE || op->n_operands != 2 ||
        !rewrite_splat(r, op->operands[1], &init))
        return false;
    const graph_type *in = type_of(r, op->operands[0]);
    for (int64_t i = 0; i < op->attrs.dims.dims.n; i++)
        if (in->dims[op->attrs.dims.dims.v[i]] != 1)
            return false;
    switch (op->reducer) {
    case GRAPH_REDUCER_ADD:
        return init == 0;
    case GRAPH_REDUCER_MULTIPLY:
        return init == 1;
    case GRAPH_REDUCER_MAXIMUM:
        return dtype_is_float((vtrn_dtype)in->dtype) && init == -INFINITY;
    case GRAPH_REDUCER_MINIMUM:
        return dtype_is_float((vtrn_dtype)in->dtype) && init == INFINITY;
    default:
        return false;
    }
}

/* A reduction of no elements gives what it begins with. */
static bool is_of_nothing(const rewriter *r, const graph_op *op) {
    return op->kind == GRAPH_REDUCE && op->n_operands == 2 &&
           graph_type_count(type_of(r, op->operands[0])) == 0 &&
           graph_type_count(type_of(r, op->results[0])) > 0;
}

/* op becomes an operation of one operand, that of the number k, without attributes. */
static void become(graph_op *op, graph_kind kind, const char *name, int k) {
    op->kind = (uint16_t)kind;
    op->name = name;
    op->operands += k;
    op->n_operands = 1;
    op->n_regions = 0;
    op->reducer = 0;
    memset(&op->attrs, 0, sizeof op->attrs);
}

/* Which dimension of its result each dimension of the operand becomes, for a view that adds
 * dimensions and repeats elements; false: op is none. */
static bool find_spread(const rewriter *r, const graph_op *op, int64_t *dims) {
    const graph_type *in = type_of(r, op->operands[0]), *out = type_of(r, op->results[0]);
    if (op->kind == GRAPH_BROADCAST_IN_DIM) {
        memcpy(dims, op->attrs.dims.dims.v, (size_t)in->rank * sizeof *dims);
        return true;
    }
    if (op->kind != GRAPH_RESHAPE || out->rank < in->rank)
        return false;
    int k = 0;
    for (int d = 0; d < out->rank; d++) {
        if (k < in->rank && in->dims[k] == out->dims[d])
            dims[k++] = d;
        else if (out->dims[d] != 1)
            return false;
    }
    return k == in->rank;
}

/* A broadcast of what only adds dimensions is one broadcast. */
static vtrn_status join_broadcasts(rewriter *r, graph_op *op) {
    const graph_op *first = op->kind == GRAPH_BROADCAST_IN_DIM ? r->maker[op->operands[0]] : NULL;
    int64_t dims[GRAPH_MAX_RANK];
    if (!first || first->n_operands != 1 || !find_spread(r, first, dims))
        return NULL;
    int rank = type_of(r, first->operands[0])->rank;
    int64_t *joined = ARENA_NEW(&r->g->arena, int64_t, rank);
    if (!joined)
        return VTRN_OUT_OF_MEMORY((size_t)rank * sizeof *joined);
    for (int i = 0; i < rank; i++)
        joined[i] = op->attrs.dims.dims.v[dims[i]];
    op->operands[0] = first->operands[0];
    op->attrs.dims.dims = (graph_ints){rank, joined};
    return NULL;
}

/* --- constants ----------------------------------------------------------------------------------
 */

static const graph_op *constant_of(const rewriter *r, graph_value v) {
    const graph_op *op = r->maker[v];
    return op && op->kind == GRAPH_CONSTANT ? op : NULL;
}

static bool is_elementwise(const graph_op *op) {
    return op->kind <= GRAPH_CONVERT || op->kind == GRAPH_REDUCE_PRECISION;
}

/* Whether the engines would give the same bits as the reference. Numbers are the reference's in any
 * case: no kernel computes them. */
static bool is_exact(const rewriter *r, const graph_op *op) {
    bool is_of_floats = is_float(r, op->operands[0]);
    switch (op->kind) {
    case GRAPH_CBRT:
    case GRAPH_COSINE:
    case GRAPH_EXPONENTIAL:
    case GRAPH_EXPONENTIAL_MINUS_ONE:
    case GRAPH_LOG:
    case GRAPH_LOG_PLUS_ONE:
    case GRAPH_LOGISTIC:
    case GRAPH_RSQRT:
    case GRAPH_SINE:
    case GRAPH_SQRT:
    case GRAPH_TAN:
    case GRAPH_TANH:
    case GRAPH_ATAN2:
    case GRAPH_ERF:
    case GRAPH_POWER:
        return false;
    case GRAPH_DIVIDE:
    case GRAPH_REMAINDER:
        return !is_of_floats;
    default:
        return true;
    }
}

/* A rearrangement of the elements, which the reference moves as they are. */
static bool is_move(const graph_op *op) {
    switch (op->kind) {
    case GRAPH_BROADCAST_IN_DIM:
    case GRAPH_RESHAPE:
    case GRAPH_TRANSPOSE:
    case GRAPH_REVERSE:
    case GRAPH_SLICE:
        return true;
    default:
        return false;
    }
}

/* A sum, maximum or the like of integers by index, whose order changes nothing, or a gather. */
static bool is_exact_by_index(const rewriter *r, const graph_op *op) {
    if (op->kind == GRAPH_GATHER)
        return true;
    return op->kind == GRAPH_SCATTER && op->n_operands == 3 && !is_float(r, op->operands[0]) &&
           !dtype_is_complex((vtrn_dtype)type_of(r, op->operands[0])->dtype) &&
           op->reducer != GRAPH_REDUCER_GENERIC && op->reducer != GRAPH_REDUCER_REPLACE;
}

static void become_constant(graph_op *op, const void *data, bool is_of_one) {
    op->kind = GRAPH_CONSTANT;
    op->name = "stablehlo.constant";
    op->n_operands = 0;
    op->n_regions = 0;
    op->reducer = 0;
    memset(&op->attrs, 0, sizeof op->attrs);
    op->attrs.constant.data = data;
    op->attrs.constant.is_splat = is_of_one;
}

/* Elementwise on constants of one value: one element is computed. */
static vtrn_status fold_splats(rewriter *r, graph_op *op, bool *is_done) {
    const void *inputs[MAX_OPERANDS];
    for (uint32_t i = 0; i < op->n_operands; i++)
        inputs[i] = constant_of(r, op->operands[i])->attrs.constant.data;
    void *data = ARENA_NEW(&r->g->arena, uint64_t, 2);
    if (!data)
        return VTRN_OUT_OF_MEMORY(2 * sizeof(uint64_t));
    VTRN_RETURN_IF_ERROR(reference_elements(r->g, op, inputs, data, is_done));
    if (*is_done)
        become_constant(op, data, true);
    return NULL;
}

/* The elements of a constant, all of them. */
static vtrn_status elements_of(rewriter *r, const graph_op *constant, const void **out) {
    const graph_type *t = type_of(r, constant->results[0]);
    *out = constant->attrs.constant.data;
    if (!constant->attrs.constant.is_splat)
        return NULL;
    size_t size = dtype_size((vtrn_dtype)t->dtype), n = (size_t)graph_type_count(t);
    uint8_t *all = arena_alloc(&r->g->arena, n, size);
    if (!all)
        return VTRN_OUT_OF_MEMORY(n * size);
    for (size_t i = 0; i < n; i++)
        memcpy(all + i * size, *out, size);
    *out = all;
    return NULL;
}

static vtrn_status fold_elements(rewriter *r, graph_op *op, bool *is_done) {
    const graph_type *to = type_of(r, op->results[0]);
    const void *inputs[MAX_OPERANDS];
    if (!reference_supports(r->g, op) || graph_type_count(to) > MAX_ELEMENTS)
        return NULL;
    for (uint32_t i = 0; i < op->n_operands; i++) {
        if (graph_type_count(type_of(r, op->operands[i])) > MAX_ELEMENTS)
            return NULL;
        VTRN_RETURN_IF_ERROR(elements_of(r, constant_of(r, op->operands[i]), &inputs[i]));
    }
    void *data = arena_alloc(&r->g->arena, (size_t)graph_type_bytes(to), 1);
    if (!data)
        return VTRN_OUT_OF_MEMORY((size_t)graph_type_bytes(to));
    VTRN_RETURN_IF_ERROR(reference_op(r->g, op, inputs, &data));
    become_constant(op, data, false);
    *is_done = true;
    return NULL;
}

static vtrn_status fold_constants(rewriter *r, graph_op *op, bool *is_done) {
    if (op->n_results != 1 || op->n_operands == 0 || op->n_operands > MAX_OPERANDS ||
        (!is_elementwise(op) && !is_move(op) && !is_exact_by_index(r, op)) ||
        graph_type_count(type_of(r, op->results[0])) == 0)
        return NULL;
    bool is_of_splats = true;
    for (uint32_t i = 0; i < op->n_operands; i++) {
        const graph_op *constant = constant_of(r, op->operands[i]);
        if (!constant || graph_type_count(type_of(r, op->operands[i])) == 0)
            return NULL;
        is_of_splats &=
            constant->attrs.constant.is_splat || graph_type_count(type_of(r, op->operands[i])) == 1;
    }
    if (is_exact_by_index(r, op))
        return fold_elements(r, op, is_done);
    if (!is_of_splats)
        return is_move(op) || is_exact(r, op) ? fold_elements(r, op, is_done) : NULL;
    if (!is_move(op))
        return fold_splats(r, op, is_done);
    become_constant(op, constant_of(r, op->operands[0])->attrs.constant.data, true);
    *is_done = true;
    return NULL;
}

static vtrn_status fold(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    (void)ctx;
    bool is_done = false;
    graph_value equal;
    VTRN_RETURN_IF_ERROR(fold_constants(r, op, &is_done));
    if (is_done)
        return NULL;
    VTRN_RETURN_IF_ERROR(join_broadcasts(r, op));
    if (find_equal(r, op, &equal)) {
        rewrite_replace(r, op->results[0], equal);
        *is_dropped = true;
    } else if (is_reshape(r, op)) {
        become(op, GRAPH_RESHAPE, "stablehlo.reshape", 0);
    } else if (is_of_nothing(r, op)) {
        become(op, GRAPH_BROADCAST_IN_DIM, "stablehlo.broadcast_in_dim", 1);
    }
    return NULL;
}

vtrn_status fold_known(graph *g) {
    return rewrite_graph(g, fold, NULL);
}
