/* cumsum and its like: JAX writes them as a window over all that came before. */
#include "compiler/lower/fusion.h"

enum {
    MAX_BLOCK_COLS = 8192, /* longer rows are scanned block by block */
};

/* The one dimension whose window reaches over all elements to one side, every other window being
 * one element. */
static bool read_scan(const graph_op *op, const graph_type *t, int *dim, bool *is_reverse) {
    const graph_attrs *at = &op->attrs;
    *dim = -1;
    for (int d = 0; d < t->rank; d++) {
        int64_t n = at->window.window.v[d], low = at->window.pad_low.v[d];
        int64_t high = at->window.pad_high.v[d];
        if (at->window.stride.v[d] != 1 || at->window.base_dilation.v[d] != 1 ||
            at->window.window_dilation.v[d] != 1)
            return false;
        if (n == 1 && low == 0 && high == 0)
            continue;
        bool is_forward = low == n - 1 && high == 0, is_backward = low == 0 && high == n - 1;
        if (*dim >= 0 || n != t->dims[d] || (!is_forward && !is_backward))
            return false;
        *dim = d;
        *is_reverse = !is_forward;
    }
    return *dim >= 0;
}

/* The scanned dimension last, running the way of the scan. */
static view scanned_last(const view *v, const int *first, int rank, int dim, bool is_reverse) {
    view out = {.slot = v->slot, .dtype = v->dtype, .offset = v->offset};
    for (int d = 0; d < rank; d++)
        for (int k = first[d]; d != dim && k < first[d + 1]; k++)
            out.f[out.n++] = v->f[k];
    for (int k = first[dim]; k < first[dim + 1]; k++) {
        view_factor f = v->f[k];
        if (is_reverse) {
            out.offset += (f.size - 1) * f.stride;
            f.stride = -f.stride;
        }
        out.f[out.n++] = f;
    }
    return out;
}

vtrn_status lower_dim_last(lower *l, graph_value v, int dim, bool is_reverse, view *out) {
    const graph_type *t = &l->g->types[v];
    int first[GRAPH_MAX_RANK + 1];
    view from;
    VTRN_RETURN_IF_ERROR(lower_materialise(l, v, &from));
    if (!view_split_dims(&from, t->dims, t->rank, first)) {
        VTRN_RETURN_IF_ERROR(lower_dense(l, v, &from));
        VTRN_CHECK(view_split_dims(&from, t->dims, t->rank, first), "a dense view can be cut");
    }
    *out = scanned_last(&from, first, t->rank, dim, is_reverse);
    return NULL;
}

static uint64_t scan_bytes(uint32_t tile_cols) {
    return (uint64_t)SCAN_TILES * sbuf_round((uint64_t)tile_cols * 4) + sbuf_round(4);
}

/* Columns of a tile: a whole row, or those of a block behind the last one of the block before. */
static uint32_t scan_tile_cols(uint32_t cols, uint64_t limit_bytes) {
    if (cols <= MAX_BLOCK_COLS && scan_bytes(cols) <= limit_bytes)
        return cols;
    uint32_t tile_cols = MAX_BLOCK_COLS + 1;
    while (tile_cols > 2 && scan_bytes(tile_cols) > limit_bytes)
        tile_cols = tile_cols / 2 + 1;
    return tile_cols;
}

vtrn_status lower_cumulative(lower *l, const graph_op *op, bool *is_done) {
    if (op->n_operands != 2 || op->n_results != 1)
        return NULL;
    const graph_type *t = &l->g->types[op->operands[0]];
    bool is_int = t->dtype == VTRN_DTYPE_INT32 || t->dtype == VTRN_DTYPE_UINT32;
    bool is_reverse = false;
    double init;
    graph_kind kind;
    vtrn_alu alu;
    int dim, first[GRAPH_MAX_RANK + 1];
    if (!lower_reducer((graph_reducer)op->reducer, &kind, &alu) ||
        !read_scan(op, t, &dim, &is_reverse) || graph_type_count(t) == 0 ||
        t->dims[dim] > INT32_MAX ||
        (!is_int &&
         (!dtype_is_float((vtrn_dtype)t->dtype) || dtype_size((vtrn_dtype)t->dtype) > 4)) ||
        !lower_splat_float(l, op->operands[1], &init) ||
        !fusion_is_identity((graph_reducer)op->reducer, (vtrn_dtype)t->dtype, init))
        return NULL;
    *is_done = true;
    uint32_t cols = (uint32_t)t->dims[dim];
    int64_t n_rows = graph_type_count(t) / cols;
    view from, result;
    VTRN_RETURN_IF_ERROR(lower_dim_last(l, op->operands[0], dim, is_reverse, &from));
    VTRN_RETURN_IF_ERROR(lower_result(l, op->results[0], &result));
    VTRN_CHECK(view_split_dims(&result, t->dims, t->rank, first), "a result is dense");
    result = scanned_last(&result, first, t->rank, dim, is_reverse);
    int from_outer, result_outer;
    VTRN_CHECK(view_split_at(&from, cols, &from_outer) &&
                   view_split_at(&result, cols, &result_outer),
               "the scanned dim is a boundary");
    kernel_scan spec = {.from = {from, from_outer},
                        .to = {result, result_outer},
                        .n_rows = n_rows,
                        .cols = cols,
                        .tile_cols = scan_tile_cols(cols, l->plan->sbuf_limit),
                        .dtype = is_int ? t->dtype : VTRN_DTYPE_FP32,
                        .alu = alu,
                        .init = (float)init};
    VTRN_RETURN_IF_ERROR(plan_kernel(l->plan, KERNEL_SCAN, &spec, sizeof spec,
                                     (kernel_demand){.sbuf_bytes = scan_bytes(spec.tile_cols)}));
    VTRN_RETURN_IF_ERROR(plan_reads(l->plan, &from));
    return plan_writes(l->plan, &result);
}
