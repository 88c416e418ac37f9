/* cumsum and its like: JAX writes them as a window over all that came before. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/lower/fusion.h"

enum { PARTITIONS = 128, MAX_COLS = 8192, N_TILES = 4 };

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

/* One pass of the Vector engine: res[i] = (x[i] op res[i-1]) op y[i]. A sum is 1 * res[i-1] + x[i];
 * a product has ones for y; to a maximum or minimum x adds nothing the second time. */
static vtrn_status emit_pass(const kernel_scan *s, lower *l, const tile *to, const tile *from,
                             const tile *one, uint32_t rows) {
    vtrn_ap x = tile_ap(from, rows, s->cols), ones = tile_ap(one, rows, s->cols);
    ones.dim[0].step = 0;
    LOWER_EMIT(scan, l, TENSOR_TENSOR_SCAN, VECTOR);
    scan->op0 = (uint8_t)(s->alu == VTRN_ALU_ADD ? VTRN_ALU_MULTIPLY : s->alu);
    scan->op1 = (uint8_t)s->alu;
    scan->imm[0].f = s->init;
    scan->ap[0] = tile_ap(to, rows, s->cols);
    scan->ap[1] = s->alu == VTRN_ALU_ADD ? ones : x;
    scan->ap[2] = s->alu == VTRN_ALU_MULTIPLY ? ones : x;
    return NULL;
}

/* Integers of 32 bits: each element takes in what lies 1, 2, 4, ... before it, on GpSimd, from one
 * tile to the other. *result: the tile that has the end of it. */
static vtrn_status emit_doubling(lower *l, vtrn_alu op, const tile *t, uint32_t rows, uint32_t cols,
                                 int *result) {
    int at = 0;
    for (uint32_t step = 1; step < cols; step *= 2, at ^= 1) {
        LOWER_EMIT(copy, l, TENSOR_COPY, VECTOR);
        copy->ap[0] = tile_ap_cols(&t[at ^ 1], rows, 0, step);
        copy->ap[1] = tile_ap_cols(&t[at], rows, 0, step);
        LOWER_EMIT(add, l, TENSOR_TENSOR, GPSIMD);
        add->op0 = (uint8_t)op;
        add->ap[0] = tile_ap_cols(&t[at ^ 1], rows, step, cols - step);
        add->ap[1] = tile_ap_cols(&t[at], rows, step, cols - step);
        add->ap[2] = tile_ap_cols(&t[at], rows, 0, cols - step);
    }
    *result = at;
    return NULL;
}

vtrn_status lower_cumulative(lower *l, const graph_op *op, bool *is_done) {
    if (op->kind != GRAPH_REDUCE_WINDOW || op->n_operands != 2 || op->n_results != 1)
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
        t->dims[dim] > MAX_COLS ||
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
    uint64_t sbuf_bytes =
        (uint64_t)N_TILES * lower_sbuf_round((uint64_t)cols * 4) + lower_sbuf_round(4);
    kernel_scan spec = {.from = {from, from_outer},
                        .to = {result, result_outer},
                        .n_rows = n_rows,
                        .cols = cols,
                        .dtype = is_int ? t->dtype : VTRN_DTYPE_FP32,
                        .alu = alu,
                        .init = (float)init};
    VTRN_RETURN_IF_ERROR(lower_kernel(l, KERNEL_SCAN, &spec, sizeof spec, sbuf_bytes));
    VTRN_RETURN_IF_ERROR(plan_reads(&l->plan, &from));
    return plan_writes(&l->plan, &result);
}

vtrn_status emit_scan_kernel(lower *l, const kernel *k) {
    const kernel_scan *s = k->spec;
    bool is_int = s->dtype != VTRN_DTYPE_FP32;
    uint32_t cols = s->cols;
    uint32_t bytes = lower_sbuf_round((uint64_t)cols * 4);
    tile t2[2][2], one = {.space = VTRN_SPACE_SBUF, .dtype = VTRN_DTYPE_FP32};
    for (int i = 0; i < N_TILES; i++)
        t2[i / 2][i % 2] =
            (tile){.space = VTRN_SPACE_SBUF, .dtype = s->dtype, .addr = lower_sbuf_alloc(l, bytes)};
    one.addr = lower_sbuf_alloc(l, 4);
    if (!is_int) {
        LOWER_EMIT(fill, l, MEMSET, VECTOR);
        fill->ap[0] = tile_ap(&one, PARTITIONS, 1);
        fill->imm[0].f = 1;
    }
    for (int64_t r = 0, b = 0; r < s->n_rows; r += PARTITIONS, b ^= 1) {
        uint32_t rows = (uint32_t)(s->n_rows - r < PARTITIONS ? s->n_rows - r : PARTITIONS);
        int at = 1;
        VTRN_RETURN_IF_ERROR(
            lower_load(l, &s->from.map, s->from.n_outer, r, rows, 0, cols, &t2[b][0]));
        VTRN_RETURN_IF_ERROR(is_int ? emit_doubling(l, s->alu, t2[b], rows, cols, &at)
                                    : emit_pass(s, l, &t2[b][1], &t2[b][0], &one, rows));
        VTRN_RETURN_IF_ERROR(
            lower_store(l, &s->to.map, s->to.n_outer, r, rows, 0, cols, &t2[b][at], false));
    }
    return NULL;
}
