/* Checks on one operation that every later pass relies on: dimension numbers lie within ranks, and
 * shapes are the ones the operands give. Source: the constraints of the StableHLO specification. */
#include "compiler/graph/graph_build.h"
#include "compiler/graph/graph_rules.h"

static const int64_t LIMIT = (int64_t)1 << 46;

static vtrn_status elementwise(const graph *g, const graph_op *op) {
    for (uint32_t i = 0; i < op->n_operands; i++) {
        /* The predicate of select and the bounds of clamp may be scalars. */
        bool may_be_scalar =
            (op->kind == GRAPH_SELECT && i == 0) || (op->kind == GRAPH_CLAMP && i != 1);
        RULE(rules_same_dims(OPERAND(i), RESULT(0)) || (may_be_scalar && OPERAND(i)->rank == 0),
             "operand %u has another shape than the result; broadcast it first", i);
    }
    uint32_t first = op->kind == GRAPH_SELECT;
    for (uint32_t i = first + 1; i < op->n_operands; i++)
        RULE(OPERAND(i)->dtype == OPERAND(first)->dtype,
             "operands %u and %u differ in type; convert one of them", first, i);
    bool changes_dtype = op->kind == GRAPH_COMPARE || op->kind == GRAPH_CONVERT ||
                         op->kind == GRAPH_IS_FINITE || op->kind == GRAPH_REAL ||
                         op->kind == GRAPH_IMAG || op->kind == GRAPH_ABS ||
                         op->kind == GRAPH_COMPLEX;
    if (op->kind == GRAPH_COMPARE || op->kind == GRAPH_IS_FINITE)
        RULE(RESULT(0)->dtype == VTRN_DTYPE_PRED, "the result is not boolean; declare it i1");
    else
        RULE(changes_dtype || RESULT(0)->dtype == OPERAND(first)->dtype,
             "operand and result differ in type; only a convert changes it");
    if (op->kind == GRAPH_SELECT)
        RULE(OPERAND(0)->dtype == VTRN_DTYPE_PRED,
             "the predicate is not boolean; compare it with 0");
    if (op->kind == GRAPH_REDUCE_PRECISION)
        RULE(op->attrs.reduce_precision.exponent_bits >= 1 &&
                 op->attrs.reduce_precision.mantissa_bits >= 0,
             "%d exponent and %d mantissa bits; at least 1 and 0 are needed",
             op->attrs.reduce_precision.exponent_bits, op->attrs.reduce_precision.mantissa_bits);
    return NULL;
}

static uint64_t bits_of(const graph_type *t, int pred_bits) {
    int bits = t->dtype == VTRN_DTYPE_PRED ? pred_bits : dtype_bits((vtrn_dtype)t->dtype);
    return (uint64_t)graph_type_count(t) * (uint64_t)bits;
}

/* A boolean is a bit to StableHLO, and a byte to XLA, as which JAX reads it. */
static bool has_same_bits(const graph_type *a, const graph_type *b) {
    return bits_of(a, 1) == bits_of(b, 1) || bits_of(a, 8) == bits_of(b, 8);
}

static vtrn_status broadcast(const graph *g, const graph_op *op) {
    const graph_type *a = OPERAND(0), *r = RESULT(0);
    graph_ints dims = op->attrs.dims.dims;
    RULE(dims.n == a->rank && rules_are_dims(dims, r->rank),
         "broadcast_dimensions do not map rank %d into rank %d; name a dimension of the result for "
         "each of the operand",
         a->rank, r->rank);
    RULE(a->dtype == r->dtype, "operand and result differ in type");
    for (int i = 0; i < a->rank; i++)
        RULE(a->dims[i] == 1 || a->dims[i] == r->dims[dims.v[i]],
             "dimension %d of %lld does not broadcast to %lld; only 1 and equal sizes do", i,
             (long long)a->dims[i], (long long)r->dims[dims.v[i]]);
    return NULL;
}

/* transpose, reverse and reshape: the elements, in another order. */
static vtrn_status rearrange(const graph *g, const graph_op *op) {
    const graph_type *a = OPERAND(0), *r = RESULT(0);
    graph_ints dims = op->attrs.dims.dims;
    RULE(a->dtype == r->dtype, "operand and result differ in type");
    RULE(graph_type_count(a) == graph_type_count(r),
         "%lld elements become %lld; their number must stay", (long long)graph_type_count(a),
         (long long)graph_type_count(r));
    if (op->kind == GRAPH_RESHAPE)
        return NULL;
    RULE(a->rank == r->rank && rules_are_dims(dims, a->rank),
         "dimensions do not suit rank %d; name each at most once, from 0", a->rank);
    if (op->kind == GRAPH_REVERSE) {
        RULE(rules_same_dims(a, r), "operand and result differ in shape");
        return NULL;
    }
    RULE(dims.n == a->rank, "permutation of %lld for rank %d; name every dimension",
         (long long)dims.n, a->rank);
    for (int i = 0; i < a->rank; i++)
        RULE(r->dims[i] == a->dims[dims.v[i]],
             "dimension %d of the result is %lld, the operand gives %lld; declare that", i,
             (long long)r->dims[i], (long long)a->dims[dims.v[i]]);
    return NULL;
}

static vtrn_status slice(const graph *g, const graph_op *op) {
    const graph_type *a = OPERAND(0), *r = RESULT(0);
    const graph_attrs *at = &op->attrs;
    RULE(a->dtype == r->dtype && a->rank == r->rank, "operand and result differ in type or rank");
    RULE(rules_are_bounded(at->slice.start, a->rank, 0) &&
             rules_are_bounded(at->slice.limit, a->rank, 0) &&
             rules_are_bounded(at->slice.stride, a->rank, 1),
         "starts, limits or strides do not suit rank %d; one a dimension, strides from 1", a->rank);
    for (int i = 0; i < a->rank; i++) {
        int64_t start = at->slice.start.v[i], limit = at->slice.limit.v[i];
        int64_t stride = at->slice.stride.v[i];
        RULE(start <= limit && limit <= a->dims[i],
             "dimension %d: [%lld, %lld) of %lld; a slice must lie inside", i, (long long)start,
             (long long)limit, (long long)a->dims[i]);
        RULE(r->dims[i] == (limit - start + stride - 1) / stride,
             "dimension %d of the result is %lld, the slice gives %lld; declare that", i,
             (long long)r->dims[i], (long long)((limit - start + stride - 1) / stride));
    }
    return NULL;
}

static vtrn_status dynamic_slice(const graph *g, const graph_op *op) {
    bool is_update = op->kind == GRAPH_DYNAMIC_UPDATE_SLICE;
    const graph_type *a = OPERAND(0), *r = RESULT(0), *part = is_update ? OPERAND(1) : r;
    uint32_t first = is_update ? 2 : 1;
    RULE(op->n_operands == first + a->rank, "%u start indices for rank %d; give one a dimension",
         op->n_operands - first, a->rank);
    RULE(a->dtype == r->dtype && a->dtype == part->dtype && part->rank == a->rank,
         "operand and slice differ in type or rank");
    for (int i = 0; i < a->rank; i++) {
        RULE(part->dims[i] <= a->dims[i],
             "dimension %d: slice of %lld from %lld; it cannot be longer", i,
             (long long)part->dims[i], (long long)a->dims[i]);
        RULE(OPERAND(first + i)->rank == 0 && dtype_is_int(OPERAND(first + i)->dtype),
             "start index %d is no integer scalar; convert or reshape it", i);
        if (!is_update)
            RULE(op->attrs.dims.dims.n == a->rank && op->attrs.dims.dims.v[i] == part->dims[i],
                 "slice sizes are not the shape of the result; declare them as its shape");
    }
    RULE(!is_update || graph_type_equal(a, r), "operand and result differ in type");
    return NULL;
}

static vtrn_status pad(const graph *g, const graph_op *op) {
    const graph_type *a = OPERAND(0), *r = RESULT(0);
    const graph_attrs *at = &op->attrs;
    RULE(a->rank == r->rank && a->dtype == r->dtype && OPERAND(1)->dtype == a->dtype &&
             OPERAND(1)->rank == 0,
         "operand, padding value and result do not agree in type or rank; convert the value to the "
         "operand's type, as a scalar");
    RULE(rules_are_bounded(at->pad.low, a->rank, -LIMIT) &&
             rules_are_bounded(at->pad.high, a->rank, -LIMIT) &&
             rules_are_bounded(at->pad.interior, a->rank, 0),
         "padding does not suit rank %d; one low, high and interior a dimension, interior from 0",
         a->rank);
    for (int i = 0; i < a->rank; i++) {
        __int128 want = (__int128)at->pad.low.v[i] + at->pad.high.v[i] + a->dims[i];
        want += a->dims[i] ? (__int128)(a->dims[i] - 1) * at->pad.interior.v[i] : 0;
        RULE(want >= 0 && want <= LIMIT,
             "dimension %d: padding leaves less than nothing or more than 2^46; pad less", i);
        RULE(r->dims[i] == want,
             "dimension %d of the result is %lld, padding gives %lld; declare that", i,
             (long long)r->dims[i], (long long)want);
    }
    return NULL;
}

static vtrn_status concatenate(const graph *g, const graph_op *op) {
    const graph_type *r = RESULT(0);
    int64_t dim = op->attrs.dims.dims.v[0], sum = 0;
    RULE(op->n_operands >= 1 && dim >= 0 && dim < r->rank, "dimension %lld of rank %d",
         (long long)dim, r->rank);
    for (uint32_t i = 0; i < op->n_operands; i++) {
        graph_type same = *OPERAND(i);
        RULE(same.rank == r->rank && !same.is_token,
             "operand %u has rank %d, not %d; reshape it first", i, same.rank, r->rank);
        sum += same.dims[dim];
        RULE(sum <= r->dims[dim], "operands are longer than the result; declare their sum");
        same.dims[dim] = r->dims[dim];
        RULE(graph_type_equal(&same, r),
             "operand %u differs from the result in type or in another dimension", i);
    }
    RULE(sum == r->dims[dim], "operands are shorter than the result; declare their sum");
    return NULL;
}

static vtrn_status reduce(const graph *g, const graph_op *op) {
    uint32_t n = op->n_results;
    graph_ints dims = op->attrs.dims.dims;
    RULE(n >= 1 && op->n_operands == 2 * n, "%u operands for %u results", op->n_operands, n);
    const graph_type *a = OPERAND(0);
    RULE(rules_are_dims(dims, a->rank),
         "dimensions exceed rank %d or repeat; name each once, from 0", a->rank);
    graph_type want = {0};
    for (int i = 0; i < a->rank; i++)
        if (!rules_has_dim(dims, i))
            want.dims[want.rank++] = a->dims[i];
    for (uint32_t i = 0; i < n; i++) {
        RULE(rules_same_dims(OPERAND(i), a) && rules_same_dims(RESULT(i), &want),
             "input or result %u has another shape", i);
        RULE(OPERAND(n + i)->rank == 0 && !OPERAND(n + i)->is_token,
             "initial value %u is no scalar", i);
        RULE(OPERAND(i)->dtype == RESULT(i)->dtype && OPERAND(i)->dtype == OPERAND(n + i)->dtype,
             "input, initial value and result %u differ in type; convert them first", i);
    }
    return rules_is_reducer(g, op, op->regions[0], n);
}

static vtrn_status sort(const graph *g, const graph_op *op) {
    uint32_t n = op->n_operands;
    RULE(n >= 1 && op->n_results == n, "%u operands for %u results", n, op->n_results);
    int64_t dim = op->attrs.sort.dimension;
    RULE(dim >= 0 && dim < OPERAND(0)->rank, "dimension %lld of rank %d", (long long)dim,
         OPERAND(0)->rank);
    for (uint32_t i = 0; i < n; i++)
        RULE(rules_same_dims(OPERAND(i), OPERAND(0)) && graph_type_equal(OPERAND(i), RESULT(i)),
             "operand %u differs from the first or from its result", i);
    RULE(rules_is_scalar_region(g, op->regions[0], 2 * n, 1) &&
             g->types[op->regions[0]->results[0]].dtype == VTRN_DTYPE_PRED,
         "the comparator does not take %u scalars and give a boolean; two of each operand", 2 * n);
    for (uint32_t i = 0; i < 2 * n; i++)
        RULE(g->types[op->regions[0]->args[i]].dtype == OPERAND(i / 2)->dtype,
             "argument %u of the comparator is not %s, the type of operand %u", i,
             dtype_name(OPERAND(i / 2)->dtype), i / 2);
    return NULL;
}

static vtrn_status map(const graph *g, const graph_op *op) {
    RULE(op->n_operands >= 1, "no operands");
    for (uint32_t i = 0; i < op->n_operands; i++)
        RULE(rules_same_dims(OPERAND(i), RESULT(0)), "operand %u has another shape", i);
    RULE(rules_is_scalar_region(g, op->regions[0], op->n_operands, 1),
         "the region does not take %u scalars and give one", op->n_operands);
    const graph_region *r = op->regions[0];
    for (uint32_t i = 0; i < op->n_operands; i++)
        RULE(g->types[r->args[i]].dtype == OPERAND(i)->dtype,
             "argument %u of the region is not %s, the type of operand %u", i,
             dtype_name(OPERAND(i)->dtype), i);
    RULE(g->types[r->results[0]].dtype == RESULT(0)->dtype,
         "the region does not give %s, the type of the result", dtype_name(RESULT(0)->dtype));
    return NULL;
}

/* The results of a region are the types in `want`. */
static bool gives(const graph *g, const graph_region *r, const graph_value *want, uint32_t n) {
    if (r->n_results != n)
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (!graph_type_equal(&g->types[r->results[i]], &g->types[want[i]]))
            return false;
    return true;
}

static vtrn_status control(const graph *g, const graph_op *op) {
    if (op->kind == GRAPH_WHILE) {
        const graph_region *cond = op->regions[0], *body = op->regions[1];
        uint32_t n = op->n_operands;
        RULE(op->n_results == n && cond->n_args == n && body->n_args == n,
             "%u operands, %u results, regions of %u and %u arguments", n, op->n_results,
             cond->n_args, body->n_args);
        for (uint32_t i = 0; i < n; i++)
            RULE(graph_type_equal(OPERAND(i), RESULT(i)) &&
                     graph_type_equal(OPERAND(i), &g->types[cond->args[i]]) &&
                     graph_type_equal(OPERAND(i), &g->types[body->args[i]]),
                 "carried value %u changes its type; convert it in the body", i);
        RULE(gives(g, body, op->results, n),
             "the body gives other types than it takes; convert or reshape its results");
        RULE(rules_is_scalar_region(g, cond, n, 1) || cond->n_results == 1, "no condition");
        const graph_type *t = &g->types[cond->results[0]];
        RULE(t->rank == 0 && t->dtype == VTRN_DTYPE_PRED && !t->is_token,
             "the condition is no boolean scalar; reduce it to one");
        return NULL;
    }
    const graph_type *t = OPERAND(0);
    bool is_if = op->kind == GRAPH_IF;
    RULE(t->rank == 0 && !t->is_token && t->dtype == (is_if ? VTRN_DTYPE_PRED : VTRN_DTYPE_INT32),
         "the selector is no %s scalar; convert or reduce it to one", is_if ? "boolean" : "int32");
    RULE(op->n_regions >= 1, "no branches");
    for (uint32_t i = 0; i < op->n_regions; i++)
        RULE(op->regions[i]->n_args == 0 && gives(g, op->regions[i], op->results, op->n_results),
             "branch %u takes arguments or gives other types than the results; all must give "
             "the same",
             i);
    return NULL;
}

static vtrn_status linalg(const graph *g, const graph_op *op) {
    const graph_type *a = OPERAND(0), *r = RESULT(0);
    int rank = a->rank;
    if (op->kind == GRAPH_FFT) {
        graph_ints length = op->attrs.fft.length;
        RULE(length.n >= 1 && length.n <= 3 && length.n <= rank && r->rank == rank &&
                 rules_are_bounded(length, length.n, 0),
             "%lld lengths for rank %d; give 1 to 3, of the last dimensions", (long long)length.n,
             rank);
        for (int64_t i = 0; i < rank; i++) {
            int64_t k = i - (rank - length.n), half = k >= 0 ? length.v[k] : 0;
            bool is_last = i == rank - 1;
            int64_t full_dim = op->attrs.fft.type == 3 ? r->dims[i] : a->dims[i];
            int64_t other = op->attrs.fft.type == 3 ? a->dims[i] : r->dims[i];
            RULE(k < 0 || full_dim == half,
                 "dimension %lld is not the length %lld; pad or slice it first", (long long)i,
                 (long long)half);
            bool is_halved = is_last && op->attrs.fft.type >= 2;
            RULE(other == (is_halved ? (full_dim ? full_dim / 2 + 1 : 0) : full_dim),
                 "dimension %lld of operand and result do not agree", (long long)i);
        }
        return NULL;
    }
    RULE(rank >= 2 && a->dims[rank - 1] == a->dims[rank - 2],
         "a is no square matrix; its last two dimensions must be equal");
    if (op->kind == GRAPH_CHOLESKY) {
        RULE(graph_type_equal(a, r), "operand and result differ in type");
        return NULL;
    }
    const graph_type *b = OPERAND(1);
    RULE(b->rank == rank && graph_type_equal(b, r) && b->dtype == a->dtype,
         "a, b and the result do not agree in rank or type; broadcast or convert them first");
    for (int i = 0; i < rank - 2; i++)
        RULE(a->dims[i] == b->dims[i], "batch dimension %d of a and b differ; broadcast one", i);
    RULE(b->dims[op->attrs.triangular.left_side ? rank - 2 : rank - 1] == a->dims[rank - 1],
         "a does not suit b");
    return NULL;
}

static vtrn_status batch_norm(const graph *g, const graph_op *op) {
    const graph_type *a = OPERAND(0);
    int64_t f = op->attrs.batch_norm.feature_index;
    RULE(f >= 0 && f < a->rank, "feature_index %lld of rank %d; count it from 0", (long long)f,
         a->rank);
    RULE(dtype_is_float(a->dtype), "the operand is %s, not a float; convert it first",
         dtype_name(a->dtype));
    for (uint32_t i = 1; i < op->n_operands; i++) {
        RULE(OPERAND(i)->dtype == a->dtype, "operands 0 and %u differ in type; convert one of them",
             i);
        bool is_full = op->kind == GRAPH_BATCH_NORM_GRAD && i == 4;
        RULE(is_full ? rules_same_dims(OPERAND(i), a)
                     : OPERAND(i)->rank == 1 && OPERAND(i)->dims[0] == a->dims[f],
             "operand %u does not suit the features; it holds one value a feature", i);
    }
    RULE(rules_same_dims(RESULT(0), a), "operand and result differ in shape");
    for (uint32_t i = 0; i < op->n_results; i++)
        RULE(RESULT(i)->dtype == a->dtype, "operand and result %u differ in type", i);
    for (uint32_t i = 1; i < op->n_results; i++)
        RULE(RESULT(i)->rank == 1 && RESULT(i)->dims[0] == a->dims[f],
             "result %u does not suit the features; it holds one value a feature", i);
    return NULL;
}

static vtrn_status collective(const graph *g, const graph_op *op) {
    const graph_attrs *at = &op->attrs;
    uint32_t n = op->n_operands;
    RULE(n >= 1 && op->n_results == n, "%u operands for %u results", n, op->n_results);
    bool keeps_shape = op->kind == GRAPH_ALL_REDUCE || op->kind == GRAPH_COLLECTIVE_PERMUTE ||
                       op->kind == GRAPH_COLLECTIVE_BROADCAST;
    for (uint32_t i = 0; i < n; i++) {
        const graph_type *a = OPERAND(i), *r = RESULT(i);
        RULE(!a->is_token && a->rank == r->rank && a->dtype == r->dtype,
             "operand and result %u differ in type or rank", i);
        RULE(!keeps_shape || rules_same_dims(a, r), "operand and result %u differ in shape", i);
        if (!keeps_shape)
            RULE(at->collective.dim >= 0 && at->collective.dim < a->rank,
                 "dimension %lld of rank %d", (long long)at->collective.dim, a->rank);
        if (op->kind == GRAPH_ALL_TO_ALL)
            RULE(at->collective.dim2 >= 0 && at->collective.dim2 < a->rank &&
                     at->collective.split_count >= 1 &&
                     a->dims[at->collective.dim] % at->collective.split_count == 0,
                 "%lld does not split into %lld; pad it to a multiple",
                 (long long)a->dims[at->collective.dim], (long long)at->collective.split_count);
    }
    if (op->kind == GRAPH_COLLECTIVE_PERMUTE)
        RULE(at->collective.group_size == 2 || at->collective.n_groups == 0,
             "source_target_pairs are no pairs; give (source, target) each");
    if (op->kind == GRAPH_ALL_REDUCE || op->kind == GRAPH_REDUCE_SCATTER)
        RULE(rules_is_scalar_region(g, op->regions[0], 2, 1),
             "the region does not take two scalars and give one");
    return NULL;
}

static vtrn_status check_tokens(const graph *g, const graph_op *op) {
    for (uint32_t i = 0; i < op->n_operands; i++)
        RULE(!OPERAND(i)->is_token, "operand %u is a token", i);
    for (uint32_t i = 0; i < op->n_results; i++)
        RULE(!RESULT(i)->is_token, "result %u is a token", i);
    return NULL;
}

vtrn_status graph_verify_op(const graph *g, const graph_op *op) {
    switch (op->kind) {
    case GRAPH_UNKNOWN:
    case GRAPH_CUSTOM_CALL:
    case GRAPH_CREATE_TOKEN:
    case GRAPH_AFTER_ALL:
    case GRAPH_OPTIMIZATION_BARRIER:
        return NULL;
    case GRAPH_WHILE:
    case GRAPH_IF:
    case GRAPH_CASE:
        return control(g, op);
    default:
        VTRN_RETURN_IF_ERROR(check_tokens(g, op));
    }
    if (op->kind <= GRAPH_CONVERT || op->kind == GRAPH_REDUCE_PRECISION)
        return elementwise(g, op);
    switch (op->kind) {
    case GRAPH_BITCAST_CONVERT:
        RULE(has_same_bits(OPERAND(0), RESULT(0)),
             "operand and result differ in bits; a narrower type needs one more dimension");
        return NULL;
    case GRAPH_RNG_BIT_GENERATOR:
        RULE(graph_type_equal(OPERAND(0), RESULT(0)), "the state changes its type");
        return NULL;
    case GRAPH_IOTA:
        RULE(op->attrs.dims.dims.v[0] >= 0 && op->attrs.dims.dims.v[0] < RESULT(0)->rank,
             "dimension %lld of rank %d", (long long)op->attrs.dims.dims.v[0], RESULT(0)->rank);
        return NULL;
    case GRAPH_BROADCAST_IN_DIM:
        return broadcast(g, op);
    case GRAPH_RESHAPE:
    case GRAPH_TRANSPOSE:
    case GRAPH_REVERSE:
        return rearrange(g, op);
    case GRAPH_SLICE:
        return slice(g, op);
    case GRAPH_DYNAMIC_SLICE:
    case GRAPH_DYNAMIC_UPDATE_SLICE:
        return dynamic_slice(g, op);
    case GRAPH_PAD:
        return pad(g, op);
    case GRAPH_CONCATENATE:
        return concatenate(g, op);
    case GRAPH_GATHER:
        return rules_gather(g, op);
    case GRAPH_SCATTER:
        return rules_scatter(g, op);
    case GRAPH_DOT_GENERAL:
        return rules_dot(g, op);
    case GRAPH_CONVOLUTION:
        return rules_conv(g, op);
    case GRAPH_REDUCE:
        return reduce(g, op);
    case GRAPH_REDUCE_WINDOW:
        return rules_reduce_window(g, op);
    case GRAPH_SELECT_AND_SCATTER:
        return rules_select_and_scatter(g, op);
    case GRAPH_SORT:
        return sort(g, op);
    case GRAPH_MAP:
        return map(g, op);
    case GRAPH_FFT:
    case GRAPH_CHOLESKY:
    case GRAPH_TRIANGULAR_SOLVE:
        return linalg(g, op);
    case GRAPH_BATCH_NORM_TRAINING:
    case GRAPH_BATCH_NORM_INFERENCE:
    case GRAPH_BATCH_NORM_GRAD:
        return batch_norm(g, op);
    case GRAPH_ALL_REDUCE:
    case GRAPH_ALL_GATHER:
    case GRAPH_REDUCE_SCATTER:
    case GRAPH_ALL_TO_ALL:
    case GRAPH_COLLECTIVE_PERMUTE:
    case GRAPH_COLLECTIVE_BROADCAST:
        return collective(g, op);
    default: /* constant: checked when decoded; ids and random bits have nothing to check */
        return NULL;
    }
}
