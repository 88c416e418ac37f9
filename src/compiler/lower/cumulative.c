/* cumsum and its like: JAX writes them as a window over all that came before. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/lower/fusion.h"

enum {
    MAX_BLOCK_COLS = 8192, /* longer rows are scanned block by block */
    N_TILES = 4,           /* two pairs */
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
    return (uint64_t)N_TILES * lower_sbuf_round((uint64_t)tile_cols * 4) + lower_sbuf_round(4);
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

/* One pass of the Vector engine: res[i] = (x[i] op res[i-1]) op y[i]. A sum is 1 * res[i-1] + x[i];
 * a product has ones for y; to a maximum or minimum x adds nothing the second time. */
static vtrn_status emit_pass(const kernel_scan *s, lower *l, const tile *pair, const tile *one,
                             uint32_t rows, uint32_t cols) {
    vtrn_ap x = tile_ap(&pair[0], rows, cols), ones = tile_ap(one, rows, cols);
    ones.dim[0].step = 0;
    LOWER_EMIT(scan, l, TENSOR_TENSOR_SCAN, VECTOR);
    scan->op0 = (uint8_t)(s->alu == VTRN_ALU_ADD ? VTRN_ALU_MULTIPLY : s->alu);
    scan->op1 = (uint8_t)s->alu;
    scan->imm[0].f = s->init;
    scan->ap[0] = tile_ap(&pair[1], rows, cols);
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
                        .tile_cols = scan_tile_cols(cols, l->sbuf_limit),
                        .dtype = is_int ? t->dtype : VTRN_DTYPE_FP32,
                        .alu = alu,
                        .init = (float)init};
    VTRN_RETURN_IF_ERROR(
        lower_kernel(l, KERNEL_SCAN, &spec, sizeof spec, scan_bytes(spec.tile_cols)));
    VTRN_RETURN_IF_ERROR(plan_reads(&l->plan, &from));
    return plan_writes(&l->plan, &result);
}

/* Where the tiles of a scan are. Pairs take turns. */
typedef struct scan_tiles {
    tile pair[2][2], one;
    int pair_i;
} scan_tiles;

static vtrn_status place_tiles(lower *l, const kernel_scan *s, scan_tiles *t) {
    t->pair_i = 0;
    for (int i = 0; i < N_TILES; i++)
        t->pair[i / 2][i % 2] = (tile){.space = VTRN_SPACE_SBUF,
                                       .dtype = s->dtype,
                                       .addr = lower_sbuf_alloc(l, (uint64_t)s->tile_cols * 4)};
    t->one =
        (tile){.space = VTRN_SPACE_SBUF, .dtype = VTRN_DTYPE_FP32, .addr = lower_sbuf_alloc(l, 4)};
    if (s->dtype != VTRN_DTYPE_FP32)
        return NULL;
    LOWER_EMIT(fill, l, MEMSET, VECTOR);
    fill->ap[0] = tile_ap(&t->one, lower_partitions(l), 1);
    fill->imm[0].f = 1;
    return NULL;
}

/* Rows [r, r + rows). A block begins with the result of the one before it, so that a row is summed
 * up in the order of its elements however it is cut. */
static vtrn_status scan_rows(lower *l, const kernel_scan *s, scan_tiles *t, int64_t r,
                             uint32_t rows) {
    const tile *made = NULL;
    uint32_t n_made = 0;
    for (uint32_t c = 0; c < s->cols; t->pair_i ^= 1) {
        const tile *pair = t->pair[t->pair_i];
        uint32_t n_left = made ? 1 : 0, room = s->tile_cols - n_left;
        uint32_t n = s->cols - c < room ? s->cols - c : room;
        if (made) {
            vtrn_ap first = tile_ap(&pair[0], rows, 1);
            vtrn_ap last = tile_ap_cols(made, rows, n_made - 1, 1);
            VTRN_RETURN_IF_ERROR(lower_emit_copy(l, &first, &last));
        }
        tile part = pair[0];
        part.addr += n_left * 4;
        VTRN_RETURN_IF_ERROR(lower_load(l, &s->from.map, s->from.n_outer, r, rows, c, n, &part));
        n_made = n_left + n;
        int at = 1;
        VTRN_RETURN_IF_ERROR(s->dtype == VTRN_DTYPE_FP32
                                 ? emit_pass(s, l, pair, &t->one, rows, n_made)
                                 : emit_doubling(l, s->alu, pair, rows, n_made, &at));
        made = &pair[at];
        part = *made;
        part.addr += n_left * 4;
        VTRN_RETURN_IF_ERROR(
            lower_store(l, &s->to.map, s->to.n_outer, r, rows, c, n, &part, false));
        c += n;
    }
    return NULL;
}

vtrn_status emit_scan_kernel(lower *l, const kernel *k) {
    const kernel_scan *s = k->spec;
    scan_tiles t;
    VTRN_RETURN_IF_ERROR(place_tiles(l, s, &t));
    for (int64_t r = 0; r < s->n_rows; r += lower_partitions(l))
        VTRN_RETURN_IF_ERROR(scan_rows(
            l, s, &t, r,
            (uint32_t)(s->n_rows - r < lower_partitions(l) ? s->n_rows - r : lower_partitions(l))));
    return NULL;
}
