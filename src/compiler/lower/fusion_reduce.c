/* Reductions: in a fusion, in two steps over long rows, or as sums of shifted copies. */
#include "compiler/lower/fusion.h"

#include "compiler/plan/fusion_sums.h"

#include <math.h>
#include <string.h>

enum {
    /* A reduction over more columns than this is done in two steps, unless there are rows for all
     * partitions: a row is then taken block by block (fusion_passes.c). */
    MAX_REDUCE_COLS = 4096,
};

static bool is_exact_int(vtrn_dtype t) {
    return t == VTRN_DTYPE_INT32 || t == VTRN_DTYPE_UINT32;
}

/* Whether the engines reduce this way on this type. */
static bool reducer_is_native(const graph_op *op, vtrn_dtype t) {
    switch ((graph_reducer)op->reducer) {
    case GRAPH_REDUCER_ADD:
    case GRAPH_REDUCER_MULTIPLY:
        return dtype_is_float(t) || is_exact_int(t);
    case GRAPH_REDUCER_MAXIMUM:
    case GRAPH_REDUCER_MINIMUM:
        return dtype_size(t) <= 4; /* narrow integers are exact in fp32 */
    case GRAPH_REDUCER_AND:
    case GRAPH_REDUCER_OR:
        return t == VTRN_DTYPE_PRED || is_exact_int(t);
    case GRAPH_REDUCER_XOR:
        return is_exact_int(t);
    default:
        return false;
    }
}

/* The smallest or greatest value of a type: OCP's FP8 has no infinity. */
static double extreme(vtrn_dtype t, bool is_greatest) {
    if (t == VTRN_DTYPE_FP8E4M3FN)
        return is_greatest ? 448 : -448;
    if (dtype_is_float(t))
        return is_greatest ? INFINITY : -INFINITY;
    if (t == VTRN_DTYPE_PRED)
        return is_greatest;
    int bits = 8 * (int)dtype_size(t);
    if (dtype_is_signed_int(t))
        return is_greatest ? ldexp(1, bits - 1) - 1 : -ldexp(1, bits - 1);
    return is_greatest ? ldexp(1, bits) - 1 : 0;
}

bool fusion_is_identity(graph_reducer r, vtrn_dtype t, double init) {
    switch (r) {
    case GRAPH_REDUCER_ADD:
    case GRAPH_REDUCER_OR:
    case GRAPH_REDUCER_XOR:
        return init == 0;
    case GRAPH_REDUCER_MULTIPLY:
        return init == 1;
    case GRAPH_REDUCER_MAXIMUM:
        return init == extreme(t, false);
    case GRAPH_REDUCER_MINIMUM:
        return init == extreme(t, true);
    case GRAPH_REDUCER_AND:
        return t == VTRN_DTYPE_PRED ? init != 0
                                    : init == (dtype_is_signed_int(t) ? -1 : 4294967295.0);
    default:
        return false;
    }
}

typedef enum { SHAPE_TRAILING, SHAPE_LEADING, SHAPE_MIXED } reduce_shape;

static reduce_shape shape_of(const graph_op *op, const graph_type *in, int64_t *n_reduced) {
    bool is_reduced[GRAPH_MAX_RANK] = {false};
    *n_reduced = 1;
    for (int64_t i = 0; i < op->attrs.dims.dims.n; i++) {
        is_reduced[op->attrs.dims.dims.v[i]] = true;
        *n_reduced *= in->dims[op->attrs.dims.dims.v[i]];
    }
    bool is_trailing = true, is_leading = true, seen_kept = false, seen_reduced = false;
    for (int d = 0; d < in->rank; d++) {
        if (in->dims[d] == 1)
            continue;
        if (is_reduced[d]) {
            seen_reduced = true;
            is_leading = is_leading && !seen_kept;
        } else {
            seen_kept = true;
            is_trailing = is_trailing && !seen_reduced;
        }
    }
    return is_trailing ? SHAPE_TRAILING : is_leading ? SHAPE_LEADING : SHAPE_MIXED;
}

/* Adds the reduction that op is. Of node its dtype, operand and is_column are given. */
static vtrn_status add_reduce(lower *l, fusion *f, const graph_op *op, fusion_node node,
                              int *out_node) {
    VTRN_CHECK(f->n_nodes < FUSION_MAX_NODES, "room for a reduction");
    node.op = GRAPH_REDUCE;
    node.shape = NODE_ROW;
    node.reducer = op->reducer;
    node.is_reduced = true;
    node.n_in = 1;
    node.source = l->build->source;
    *out_node = f->n_nodes;
    f->nodes[f->n_nodes++] = node;
    return NULL;
}

/* The operand's view with the reduced dims before the kept ones, or behind them. */
static bool move_reduced(const lower *l, const graph_op *op, const view *operand, bool is_first,
                         view *out) {
    const graph_type *in = &l->g->types[op->operands[0]];
    int first[GRAPH_MAX_RANK + 1];
    view v = *operand;
    if (!view_split_dims(&v, in->dims, in->rank, first))
        return false;
    *out = v;
    out->n = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int d = 0; d < in->rank; d++) {
            bool is_reduced = false;
            for (int64_t i = 0; i < op->attrs.dims.dims.n; i++)
                is_reduced |= op->attrs.dims.dims.v[i] == d;
            if (is_reduced == ((pass == 0) == is_first))
                for (int k = first[d]; k < first[d + 1]; k++)
                    out->f[out->n++] = v.f[k];
        }
    return true;
}

bool fusion_reduced_last(const lower *l, const graph_op *op, const view *operand, view *out) {
    return move_reduced(l, op, operand, false, out);
}

/* Smallest share of `cols` that fills partitions and fits a tile; 1: no need. */
int64_t fusion_first_share(const lower *l, int64_t rows, int64_t cols) {
    if (cols <= MAX_REDUCE_COLS || rows >= tile_max_rows(l->chip))
        return 1;
    int64_t best = 1;
    for (int64_t k = 2; k <= cols / 16; k++) {
        if (cols % k)
            continue;
        best = k;
        if (cols / k <= MAX_REDUCE_COLS && rows * k >= tile_max_rows(l->chip))
            break;
    }
    return best;
}

static vtrn_status scratch_view(lower *l, vtrn_dtype dtype, int64_t n, view *out) {
    graph_type t = {.dtype = (uint8_t)dtype, .rank = 1, .dims = {n}};
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(
        build_slot_add(l->build, VTRN_SLOT_SCRATCH, dtype, graph_type_bytes(&t), 0, &slot));
    *out = view_dense(slot, &t);
    return NULL;
}

/* Reduction over the trailing n_reduced elements of a view, in one or two steps, into `result`. */
static vtrn_status reduce_view(lower *l, const graph_op *op, const view *from, int64_t n_reduced) {
    graph_value result = op->results[0];
    int64_t n = view_count(from), rows = n / n_reduced;
    int64_t share = fusion_first_share(l, rows, n_reduced);
    view v = *from;
    vtrn_dtype dtype;
    fusion_tile_dtype(v.dtype, &dtype);
    fusion *f = NULL;
    int node = 0;
    if (share > 1) {
        VTRN_RETURN_IF_ERROR(fusion_open(l, n, &f));
        f->cols = n_reduced / share;
        f->nodes[f->n_nodes++] = (fusion_node){.op = FUSION_LOAD,
                                               .dtype = (uint8_t)dtype,
                                               .source_view = v,
                                               .source = l->build->source};
        VTRN_RETURN_IF_ERROR(add_reduce(
            l, f, op,
            (fusion_node){.dtype = (uint8_t)(dtype_is_float(dtype) ? VTRN_DTYPE_FP32 : dtype),
                          .in = {{.node = 0}}},
            &node));
        VTRN_RETURN_IF_ERROR(
            scratch_view(l, dtype_is_float(dtype) ? VTRN_DTYPE_FP32 : dtype, rows * share, &v));
        f->nodes[node].is_stored = true;
        f->nodes[node].store_view = v;
        VTRN_RETURN_IF_ERROR(fusion_close(l, f));
        return reduce_view(l, op, &v, share);
    }
    VTRN_RETURN_IF_ERROR(fusion_open(l, n, &f));
    f->cols = n_reduced;
    vtrn_dtype load_dtype;
    fusion_tile_dtype(v.dtype, &load_dtype);
    f->nodes[f->n_nodes++] = (fusion_node){.op = FUSION_LOAD,
                                           .dtype = (uint8_t)load_dtype,
                                           .source_view = v,
                                           .source = l->build->source};
    vtrn_dtype out_dtype;
    fusion_tile_dtype(l->g->types[result].dtype, &out_dtype);
    VTRN_RETURN_IF_ERROR(add_reduce(
        l, f, op, (fusion_node){.dtype = (uint8_t)out_dtype, .in = {{.node = 0}}}, &node));
    return fusion_name(l, f, result, node, NULL);
}

/* Whether the last dim is kept: then shifted views have runs. */
static bool keeps_last(const graph_op *op, const graph_type *in) {
    int last = in->rank - 1;
    while (last > 0 && in->dims[last] == 1)
        last--;
    for (int64_t i = 0; i < op->attrs.dims.dims.n; i++)
        if (op->attrs.dims.dims.v[i] == last)
            return false;
    return true;
}

/* A reduction over a few leading indices of a long row: as many shifted views, added up
 * elementwise.
 */
static vtrn_status reduce_taps(lower *l, const graph_op *op, const view *from, int64_t n_taps,
                               bool *is_done) {
    enum { MAX_TAPS = 64, MIN_COLS = 2048 };
    int64_t cols = view_count(from) / n_taps;
    vtrn_dtype dtype;
    fusion_tile_dtype(from->dtype, &dtype);
    graph_kind kind;
    vtrn_alu alu;
    view v = *from;
    int n_outer;
    if (n_taps < 2 || n_taps > MAX_TAPS || cols < MIN_COLS ||
        !lower_reducer((graph_reducer)op->reducer, &kind, &alu) || !dtype_is_float(dtype) ||
        !view_split_at(&v, cols, &n_outer))
        return NULL;
    *is_done = true;
    fusion *f = NULL;
    VTRN_RETURN_IF_ERROR(fusion_open(l, cols, &f));
    fusion_in total = {.node = FUSION_NO_NODE}, next = total;
    for (int64_t tap = 0; tap < n_taps; tap++) {
        view row = {.slot = v.slot, .dtype = v.dtype, .offset = v.offset, .n = v.n - n_outer};
        memcpy(row.f, v.f + n_outer, (size_t)row.n * sizeof *row.f);
        int64_t index = tap;
        for (int i = n_outer - 1; i >= 0; i--) {
            row.offset += index % v.f[i].size * v.f[i].stride;
            index /= v.f[i].size;
        }
        VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &row, false, &next));
        if (tap == 0) {
            total = next;
            continue;
        }
        fusion_node node = {.op = (uint16_t)kind,
                            /* partial sums keep fp32, the result has its own type */
                            .dtype = tap + 1 < n_taps ? VTRN_DTYPE_FP32 : (uint8_t)dtype,
                            .n_in = 2,
                            .in = {total, next}};
        VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &node, &total));
    }
    return fusion_name(l, f, op->results[0], total.node, NULL);
}

vtrn_status fusion_reduce(lower *l, const graph_op *op, bool *is_done) {
    if (op->n_operands != 2)
        return NULL;
    const graph_type *in = &l->g->types[op->operands[0]];
    double init;
    vtrn_dtype dtype;
    if (!reducer_is_native(op, in->dtype) || !fusion_tile_dtype(in->dtype, &dtype) ||
        !lower_splat_float(l, op->operands[1], &init) ||
        !fusion_is_identity(op->reducer, in->dtype, init))
        return NULL;
    int64_t n_reduced, n = graph_type_count(in);
    reduce_shape shape = shape_of(op, in, &n_reduced);
    if (n == 0 || n_reduced == 0)
        return NULL;
    *is_done = true;
    lower_value *value = &l->values[op->operands[0]];
    int node = 0;
    if (n_reduced == 1) { /* nothing to add up: a reshape */
        bool is_joined = false;
        VTRN_RETURN_IF_ERROR(fusion_alias(l, op, &is_joined));
        if (is_joined)
            return NULL;
        view whole;
        VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[0], &whole));
        lower_set_view(l, op->results[0], &whole);
        return NULL;
    }
    if (value->state == VALUE_NODE) {
        fusion *f = value->fusion;
        const fusion_node *from = &f->nodes[value->node];
        int64_t cols = shape == SHAPE_TRAILING ? n_reduced : n / n_reduced;
        if (shape == SHAPE_LEADING && f->cols != cols)
            cols = fusion_sum_cols(l->chip, n_reduced, cols);
        bool is_open = n == f->n && !f->conv && !from->is_column && (!f->cols || f->cols == cols) &&
                       f->n_nodes + 1 < FUSION_MAX_NODES;
        fusion_in operand = {.node = (int16_t)value->node};
        if (is_open && shape == SHAPE_TRAILING && !fusion_has_wide_sums(f) &&
            fusion_first_share(l, n / n_reduced, n_reduced) == 1) {
            f->cols = cols;
            VTRN_RETURN_IF_ERROR(add_reduce(
                l, f, op, (fusion_node){.dtype = (uint8_t)dtype, .in = {operand}}, &node));
            return fusion_name(l, f, op->results[0], node, NULL);
        }
        bool is_row_total = f->cols && from->is_reduced && n == f->n / f->cols && n_reduced == n &&
                            !from->is_column && op->reducer == GRAPH_REDUCER_ADD &&
                            dtype == VTRN_DTYPE_FP32 && fusion_can_sum(l->chip, f, n, 1) &&
                            f->n_nodes + 1 < FUSION_MAX_NODES;
        if (is_row_total) { /* a loss: the sum of a ROW value over all rows */
            VTRN_RETURN_IF_ERROR(add_reduce(
                l, f, op,
                (fusion_node){.dtype = (uint8_t)dtype, .in = {operand}, .is_column = true}, &node));
            f->nodes[node].is_total = true;
            return fusion_name(l, f, op->results[0], node, NULL);
        }
        bool is_sum = op->reducer == GRAPH_REDUCER_ADD &&
                      fusion_can_sum(l->chip, f, n / cols, cols) &&
                      (dtype == VTRN_DTYPE_FP32 || dtype == VTRN_DTYPE_BF16);
        if (is_open && shape == SHAPE_LEADING && is_sum) {
            f->cols = cols;
            VTRN_RETURN_IF_ERROR(add_reduce(
                l, f, op,
                (fusion_node){.dtype = (uint8_t)dtype, .in = {operand}, .is_column = true}, &node));
            return fusion_name(l, f, op->results[0], node, NULL);
        }
    }
    view from, permuted;
    VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[0], &from));
    bool is_column = shape == SHAPE_LEADING && op->reducer == GRAPH_REDUCER_ADD &&
                     fusion_can_sum(l->chip, NULL, n_reduced, n / n_reduced) && n / n_reduced > 1 &&
                     (dtype == VTRN_DTYPE_FP32 || dtype == VTRN_DTYPE_BF16);
    bool is_wide = is_column && n / n_reduced > FUSION_MAX_WHOLE_SUM_COLS;
    if (!is_wide && keeps_last(op, in) && move_reduced(l, op, &from, true, &permuted)) {
        bool is_summed = false;
        VTRN_RETURN_IF_ERROR(reduce_taps(l, op, &permuted, n_reduced, &is_summed));
        if (is_summed)
            return NULL;
    }
    if (is_column) {
        fusion *f = NULL;
        VTRN_RETURN_IF_ERROR(fusion_open(l, n, &f));
        f->cols = fusion_sum_cols(l->chip, n_reduced, n / n_reduced);
        fusion_in operand_in;
        VTRN_RETURN_IF_ERROR(fusion_operand(l, f, op->operands[0], n, &operand_in));
        if (operand_in.node != FUSION_NO_NODE) {
            VTRN_RETURN_IF_ERROR(add_reduce(
                l, f, op,
                (fusion_node){.dtype = (uint8_t)dtype, .in = {operand_in}, .is_column = true},
                &node));
            return fusion_name(l, f, op->results[0], node, NULL);
        }
        VTRN_RETURN_IF_ERROR(fusion_close(l, f));
    }
    if (!fusion_reduced_last(l, op, &from, &permuted)) {
        VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[0], &from));
        VTRN_CHECK(fusion_reduced_last(l, op, &from, &permuted), "a dense view can be permuted");
    }
    return reduce_view(l, op, &permuted, n_reduced);
}
