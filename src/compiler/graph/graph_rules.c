/* Shape rules of the operations that walk windows or index arrays: dot, convolution, windows,
 * gather and scatter. Source: the constraints of the StableHLO specification. */
#include "compiler/graph/graph_rules.h"

#include <string.h>

static const int64_t LIMIT = (int64_t)1 << 46;

bool rules_same_dims(const graph_type *a, const graph_type *b) {
    return a->rank == b->rank && a->is_token == b->is_token &&
           memcmp(a->dims, b->dims, a->rank * sizeof *a->dims) == 0;
}

bool rules_are_dims(graph_ints dims, int rank) {
    uint32_t seen = 0;
    for (int64_t i = 0; i < dims.n; i++) {
        if (dims.v[i] < 0 || dims.v[i] >= rank || (seen >> dims.v[i] & 1))
            return false;
        seen |= 1u << dims.v[i];
    }
    return true;
}

bool rules_has_dim(graph_ints dims, int64_t dim) {
    for (int64_t i = 0; i < dims.n; i++)
        if (dims.v[i] == dim)
            return true;
    return false;
}

bool rules_are_bounded(graph_ints ints, int64_t n, int64_t low) {
    if (ints.n != n)
        return false;
    for (int64_t i = 0; i < n; i++)
        if (ints.v[i] < low || ints.v[i] > LIMIT)
            return false;
    return true;
}

bool rules_is_scalar_region(const graph *g, const graph_region *r, uint32_t n_args,
                            uint32_t n_results) {
    if (r->n_args != n_args || r->n_results != n_results)
        return false;
    for (uint32_t i = 0; i < n_args; i++)
        if (g->types[r->args[i]].rank || g->types[r->args[i]].is_token)
            return false;
    for (uint32_t i = 0; i < n_results; i++)
        if (g->types[r->results[i]].rank || g->types[r->results[i]].is_token)
            return false;
    return true;
}

vtrn_status rules_is_reducer(const graph *g, const graph_op *op, const graph_region *r,
                             uint32_t n) {
    RULE(rules_is_scalar_region(g, r, 2 * n, n), "the region does not take %u scalars and give %u",
         2 * n, n);
    for (uint32_t i = 0; i < n; i++) {
        vtrn_dtype t = OPERAND(i)->dtype;
        RULE(g->types[r->args[i]].dtype == t && g->types[r->args[n + i]].dtype == t &&
                 g->types[r->results[i]].dtype == t,
             "the region does not take and give %s, the type of operand %u; convert the operand "
             "first",
             dtype_name(t), i);
    }
    return NULL;
}

static bool are_disjoint_dims(graph_ints a, graph_ints b, int rank) {
    if (!rules_are_dims(a, rank) || !rules_are_dims(b, rank))
        return false;
    for (int64_t i = 0; i < b.n; i++)
        if (rules_has_dim(a, b.v[i]))
            return false;
    return true;
}

static bool are_paired(const graph_type *a, graph_ints a_dims, const graph_type *b,
                       graph_ints b_dims) {
    if (a_dims.n != b_dims.n)
        return false;
    for (int64_t i = 0; i < a_dims.n; i++)
        if (a->dims[a_dims.v[i]] != b->dims[b_dims.v[i]])
            return false;
    return true;
}

vtrn_status rules_dot(const graph *g, const graph_op *op) {
    const graph_type *a = OPERAND(0), *b = OPERAND(1), *r = RESULT(0);
    graph_ints ab = op->attrs.dot.lhs_batch, bb = op->attrs.dot.rhs_batch;
    graph_ints ac = op->attrs.dot.lhs_contract, bc = op->attrs.dot.rhs_contract;
    RULE(are_disjoint_dims(ab, ac, a->rank) && are_disjoint_dims(bb, bc, b->rank),
         "batching and contracting dimensions overlap or exceed the ranks %d, %d; name each once",
         a->rank, b->rank);
    RULE(are_paired(a, ab, b, bb), "batching dimensions differ in size; broadcast one");
    RULE(are_paired(a, ac, b, bc),
         "contracting dimensions differ in size; transpose an operand or name others");
    graph_type want = {0};
    int64_t rank = (int64_t)a->rank + b->rank - ab.n - 2 * ac.n;
    RULE(rank == r->rank, "result of rank %d, the operands give %lld; declare that", r->rank,
         (long long)rank);
    for (int64_t i = 0; i < ab.n; i++)
        want.dims[want.rank++] = a->dims[ab.v[i]];
    for (int i = 0; i < a->rank; i++)
        if (!rules_has_dim(ab, i) && !rules_has_dim(ac, i))
            want.dims[want.rank++] = a->dims[i];
    for (int i = 0; i < b->rank; i++)
        if (!rules_has_dim(bb, i) && !rules_has_dim(bc, i))
            want.dims[want.rank++] = b->dims[i];
    RULE(rules_same_dims(&want, r),
         "the shape of the result is not the one the operands give; declare the dimensions of the "
         "batch, then of lhs, then of rhs");
    return NULL;
}

/* A window that walks along one dimension; all numbers are within the limits. */
typedef struct window_walk {
    int64_t dim, dilation, low, high; /* what it walks along */
    int64_t window, window_dilation, stride;
} window_walk;

/* Places of the window. */
static int64_t count_windows(const window_walk *w) {
    __int128 span = w->dim ? (__int128)(w->dim - 1) * w->dilation + 1 : 0;
    __int128 reach = w->window ? (__int128)(w->window - 1) * w->window_dilation + 1 : 0;
    span += w->low + w->high;
    return span < reach || w->window == 0 ? 0 : (int64_t)((span - reach) / w->stride + 1);
}

static bool is_permutation(int64_t x, int64_t y, graph_ints rest, int rank) {
    return rest.n == rank - 2 && rules_are_dims(rest, rank) && x >= 0 && x < rank && y >= 0 &&
           y < rank && x != y && !rules_has_dim(rest, x) && !rules_has_dim(rest, y);
}

vtrn_status rules_conv(const graph *g, const graph_op *op) {
    const graph_type *a = OPERAND(0), *b = OPERAND(1), *r = RESULT(0);
    const graph_attrs *at = &op->attrs;
    int rank = a->rank;
    RULE(rank >= 2 && b->rank == rank && r->rank == rank, "ranks %d, %d and %d differ or are < 2",
         rank, b->rank, r->rank);
    RULE(
        is_permutation(at->conv.lhs_batch_dim, at->conv.lhs_feature_dim, at->conv.lhs_spatial,
                       rank) &&
            is_permutation(at->conv.rhs_in_dim, at->conv.rhs_out_dim, at->conv.rhs_spatial, rank) &&
            is_permutation(at->conv.out_batch_dim, at->conv.out_feature_dim, at->conv.out_spatial,
                           rank),
        "dimension numbers are no permutation of rank %d; name each dimension once", rank);
    int64_t n = rank - 2, fg = at->conv.feature_groups, bg = at->conv.batch_groups;
    RULE(rules_are_bounded(at->conv.stride, n, 1) &&
             rules_are_bounded(at->conv.lhs_dilation, n, 1) &&
             rules_are_bounded(at->conv.rhs_dilation, n, 1) &&
             rules_are_bounded(at->conv.pad_low, n, -LIMIT) &&
             rules_are_bounded(at->conv.pad_high, n, -LIMIT) && at->conv.reversal.n == n,
         "strides, dilations, padding or reversal do not suit %lld spatial dimensions",
         (long long)n);
    int64_t in = a->dims[at->conv.lhs_feature_dim], out = b->dims[at->conv.rhs_out_dim];
    int64_t batch = a->dims[at->conv.lhs_batch_dim];
    RULE(fg >= 1 && bg >= 1 && (fg == 1 || bg == 1),
         "%lld feature and %lld batch groups; one of them must be 1", (long long)fg, (long long)bg);
    RULE(in % fg == 0 && out % fg == 0 && batch % bg == 0 && out % bg == 0,
         "features or batch do not divide into the groups; take a multiple of them");
    RULE(b->dims[at->conv.rhs_in_dim] == in / fg,
         "kernel takes %lld features, a group has %lld; give the kernel as many",
         (long long)b->dims[at->conv.rhs_in_dim], (long long)(in / fg));
    RULE(r->dims[at->conv.out_batch_dim] == batch / bg && r->dims[at->conv.out_feature_dim] == out,
         "batch or features of the result are not the ones the operands give; declare %lld and "
         "%lld",
         (long long)(batch / bg), (long long)out);
    for (int64_t i = 0; i < n; i++) {
        int64_t want = count_windows(&(window_walk){.dim = a->dims[at->conv.lhs_spatial.v[i]],
                                                    .dilation = at->conv.lhs_dilation.v[i],
                                                    .low = at->conv.pad_low.v[i],
                                                    .high = at->conv.pad_high.v[i],
                                                    .window = b->dims[at->conv.rhs_spatial.v[i]],
                                                    .window_dilation = at->conv.rhs_dilation.v[i],
                                                    .stride = at->conv.stride.v[i]});
        RULE(r->dims[at->conv.out_spatial.v[i]] == want,
             "spatial dimension %lld of the result is %lld, the window gives %lld; declare that",
             (long long)i, (long long)r->dims[at->conv.out_spatial.v[i]], (long long)want);
    }
    return NULL;
}

/* `in` walked by the window gives `out`. */
static vtrn_status check_window(const graph_op *op, const graph_type *in, const graph_type *out) {
    const graph_attrs *a = &op->attrs;
    int n = in->rank;
    RULE(rules_are_bounded(a->window.window, n, 1) && rules_are_bounded(a->window.stride, n, 1) &&
             rules_are_bounded(a->window.base_dilation, n, 1) &&
             rules_are_bounded(a->window.window_dilation, n, 1) &&
             rules_are_bounded(a->window.pad_low, n, -LIMIT) &&
             rules_are_bounded(a->window.pad_high, n, -LIMIT),
         "window, strides, dilations or padding do not suit rank %d; one a dimension, all but the "
         "padding from 1",
         n);
    RULE(out->rank == n, "rank %d, the window gives %d", out->rank, n);
    for (int i = 0; i < n; i++) {
        int64_t want =
            count_windows(&(window_walk){.dim = in->dims[i],
                                         .dilation = a->window.base_dilation.v[i],
                                         .low = a->window.pad_low.v[i],
                                         .high = a->window.pad_high.v[i],
                                         .window = a->window.window.v[i],
                                         .window_dilation = a->window.window_dilation.v[i],
                                         .stride = a->window.stride.v[i]});
        RULE(out->dims[i] == want, "dimension %d is %lld, the window gives %lld; declare that", i,
             (long long)out->dims[i], (long long)want);
    }
    return NULL;
}

vtrn_status rules_reduce_window(const graph *g, const graph_op *op) {
    uint32_t n = op->n_results;
    RULE(n >= 1 && op->n_operands == 2 * n, "%u operands for %u results", op->n_operands, n);
    for (uint32_t i = 0; i < n; i++) {
        RULE(rules_same_dims(OPERAND(i), OPERAND(0)),
             "inputs 0 and %u differ in shape; broadcast or slice one", i);
        RULE(OPERAND(n + i)->rank == 0, "initial value %u is no scalar; reshape it to one", i);
        RULE(OPERAND(i)->dtype == RESULT(i)->dtype && OPERAND(i)->dtype == OPERAND(n + i)->dtype,
             "input, initial value and result %u differ in type; convert them first", i);
        VTRN_RETURN_IF_ERROR(check_window(op, OPERAND(i), RESULT(i)));
    }
    return rules_is_reducer(g, op, op->regions[0], n);
}

vtrn_status rules_select_and_scatter(const graph *g, const graph_op *op) {
    RULE(graph_type_equal(OPERAND(0), RESULT(0)), "result has another type than the operand");
    RULE(OPERAND(2)->rank == 0, "the initial value is no scalar; reshape it to one");
    vtrn_dtype t = OPERAND(0)->dtype;
    RULE(OPERAND(1)->dtype == t && OPERAND(2)->dtype == t,
         "operand, source and initial value differ in type; convert them first");
    VTRN_RETURN_IF_ERROR(check_window(op, OPERAND(0), OPERAND(1)));
    const graph_region *r = op->regions[0];
    RULE(rules_is_scalar_region(g, r, 2, 1) && g->types[r->args[0]].dtype == t &&
             g->types[r->args[1]].dtype == t && g->types[r->results[0]].dtype == VTRN_DTYPE_PRED,
         "the selection does not take two scalars of %s and give a boolean; compare them",
         dtype_name(t));
    return rules_is_reducer(g, op, op->regions[1], 1);
}

/* The sizes that the batch part of an index array gives, the index vector left out. */
static int index_dims(const graph_type *indices, int64_t index_vector_dim, int64_t *out) {
    int n = 0;
    for (int i = 0; i < indices->rank; i++)
        if (i != index_vector_dim)
            out[n++] = indices->dims[i];
    return n;
}

/* What gather and scatter say of their index array. `window` are the operand's dimensions that no
 * window spans. */
static vtrn_status check_indices(const graph_type *operand, const graph_type *indices,
                                 graph_ints map, graph_ints dropped, graph_ints batching,
                                 graph_ints indices_batching) {
    RULE(dtype_is_int(indices->dtype), "the indices are %s, not integers; convert them first",
         dtype_name(indices->dtype));
    RULE(!indices->is_token && are_disjoint_dims(dropped, batching, operand->rank),
         "collapsed and batching dimensions overlap or exceed rank %d", operand->rank);
    RULE(are_disjoint_dims(map, batching, operand->rank),
         "indexed and batching dimensions overlap or exceed rank %d", operand->rank);
    RULE(rules_are_dims(indices_batching, indices->rank) &&
             are_paired(operand, batching, indices, indices_batching),
         "batching dimensions of operand and indices do not pair up");
    return NULL;
}

vtrn_status rules_gather(const graph *g, const graph_op *op) {
    const graph_type *a = OPERAND(0), *ix = OPERAND(1), *r = RESULT(0);
    const graph_attrs *at = &op->attrs;
    int64_t ivd = at->gather.index_vector_dim;
    RULE(a->dtype == r->dtype, "operand and result differ in type");
    VTRN_RETURN_IF_ERROR(check_indices(a, ix, at->gather.start_index_map, at->gather.collapsed,
                                       at->gather.operand_batching, at->gather.indices_batching));
    RULE(ivd >= 0 && ivd <= ix->rank && !rules_has_dim(at->gather.indices_batching, ivd),
         "index_vector_dim %lld, the indices have rank %d; it counts from 0 to the rank",
         (long long)ivd, ix->rank);
    int64_t n_index = ivd < ix->rank ? ix->dims[ivd] : 1;
    RULE(at->gather.start_index_map.n == n_index, "%lld dimensions indexed, index vectors of %lld",
         (long long)at->gather.start_index_map.n, (long long)n_index);
    RULE(at->gather.slice_sizes.n == a->rank, "%lld slice sizes for rank %d; give one a dimension",
         (long long)at->gather.slice_sizes.n, a->rank);
    int64_t batch[GRAPH_MAX_RANK] = {0}, n_window = 0;
    int n_batch = index_dims(ix, ivd, batch), batch_i = 0, operand_i = 0;
    for (int i = 0; i < a->rank; i++) {
        int64_t size = at->gather.slice_sizes.v[i];
        bool is_dropped =
            rules_has_dim(at->gather.collapsed, i) || rules_has_dim(at->gather.operand_batching, i);
        RULE(size >= 0 && size <= a->dims[i] && (!is_dropped || size <= 1),
             "slice size %lld of dimension %d, which has %lld; it cannot be longer, and 1 where it "
             "is "
             "collapsed",
             (long long)size, i, (long long)a->dims[i]);
        n_window += !is_dropped;
    }
    RULE(at->gather.offset_dims.n == n_window && r->rank == n_window + n_batch &&
             rules_are_dims(at->gather.offset_dims, r->rank),
         "offset dimensions do not suit a result of rank %d", r->rank);
    for (int i = 0; i < r->rank; i++) {
        int64_t want;
        if (rules_has_dim(at->gather.offset_dims, i)) {
            while (rules_has_dim(at->gather.collapsed, operand_i) ||
                   rules_has_dim(at->gather.operand_batching, operand_i))
                operand_i++;
            want = at->gather.slice_sizes.v[operand_i++];
        } else {
            want = batch[batch_i++];
        }
        RULE(r->dims[i] == want,
             "dimension %d of the result is %lld, the slices give %lld; declare that", i,
             (long long)r->dims[i], (long long)want);
    }
    return NULL;
}

static vtrn_status check_updates(const graph_op *op, const graph_type *a, const graph_type *ix,
                                 const graph_type *u) {
    const graph_attrs *at = &op->attrs;
    int64_t batch[GRAPH_MAX_RANK] = {0};
    int n_batch = index_dims(ix, at->scatter.index_vector_dim, batch), batch_i = 0, operand_i = 0;
    int64_t n_window = a->rank - at->scatter.inserted_window.n - at->scatter.input_batching.n;
    RULE(at->scatter.update_window.n == n_window && u->rank == n_window + n_batch &&
             rules_are_dims(at->scatter.update_window, u->rank),
         "update window dimensions do not suit updates of rank %d", u->rank);
    for (int i = 0; i < u->rank; i++) {
        if (!rules_has_dim(at->scatter.update_window, i)) {
            RULE(u->dims[i] == batch[batch_i],
                 "dimension %d of the updates is %lld, the indices "
                 "give %lld; declare that",
                 i, (long long)u->dims[i], (long long)batch[batch_i]);
            batch_i++;
            continue;
        }
        while (rules_has_dim(at->scatter.inserted_window, operand_i) ||
               rules_has_dim(at->scatter.input_batching, operand_i))
            operand_i++;
        RULE(u->dims[i] <= a->dims[operand_i],
             "dimension %d of the updates is %lld, the input has "
             "%lld; an update must fit into it",
             i, (long long)u->dims[i], (long long)a->dims[operand_i]);
        operand_i++;
    }
    return NULL;
}

vtrn_status rules_scatter(const graph *g, const graph_op *op) {
    uint32_t n = op->n_results;
    const graph_attrs *at = &op->attrs;
    RULE(n >= 1 && op->n_operands == 2 * n + 1, "%u operands for %u results", op->n_operands, n);
    const graph_type *ix = OPERAND(n);
    int64_t ivd = at->scatter.index_vector_dim;
    VTRN_RETURN_IF_ERROR(check_indices(OPERAND(0), ix, at->scatter.scatter_dims_to_operand,
                                       at->scatter.inserted_window, at->scatter.input_batching,
                                       at->scatter.indices_batching));
    RULE(ivd >= 0 && ivd <= ix->rank && !rules_has_dim(at->scatter.indices_batching, ivd),
         "index_vector_dim %lld, the indices have rank %d; it counts from 0 to the rank",
         (long long)ivd, ix->rank);
    int64_t n_index = ivd < ix->rank ? ix->dims[ivd] : 1;
    RULE(at->scatter.scatter_dims_to_operand.n == n_index,
         "%lld dimensions indexed, index vectors of %lld",
         (long long)at->scatter.scatter_dims_to_operand.n, (long long)n_index);
    for (uint32_t i = 0; i < n; i++) {
        RULE(graph_type_equal(OPERAND(i), RESULT(i)) && rules_same_dims(OPERAND(i), OPERAND(0)),
             "input %u differs in type from its result or in shape from input 0", i);
        RULE(OPERAND(n + 1 + i)->dtype == OPERAND(i)->dtype,
             "input and updates %u differ in type; convert the updates first", i);
        VTRN_RETURN_IF_ERROR(check_updates(op, OPERAND(i), ix, OPERAND(n + 1 + i)));
    }
    return rules_is_reducer(g, op, op->regions[0], n);
}
