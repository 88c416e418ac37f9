/* Tiles in SBUF and PSUM, and the DMA transfers between them and views in HBM. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/lower/turn.h"

#include <string.h>

enum {
    N_LOAD_RINGS = 4,
    FIRST_STORE_RING = 4,
    N_STORE_RINGS = 3,
    COPY_RING = 7,
};

uint32_t lower_sbuf_round(uint64_t n_bytes) {
    return (uint32_t)((n_bytes + LOWER_SBUF_ALIGN - 1) & ~(uint64_t)(LOWER_SBUF_ALIGN - 1));
}

uint32_t lower_sbuf_alloc(lower *l, uint64_t n_bytes) {
    uint32_t addr = l->sbuf_cursor;
    l->sbuf_cursor += lower_sbuf_round(n_bytes);
    return addr;
}

vtrn_ap tile_ap_cols(const tile *t, uint32_t n_rows, uint32_t col, uint32_t n_cols) {
    return (vtrn_ap){.space = t->space,
                     .dtype = t->dtype,
                     .n_dims = 1,
                     .partition = t->partition,
                     .n_partitions = (uint16_t)n_rows,
                     .addr = t->addr + (int64_t)col * (int64_t)dtype_size(t->dtype),
                     .partition_step = 1,
                     .dim = {{1, n_cols}}};
}

vtrn_ap tile_ap(const tile *t, uint32_t n_rows, uint32_t n_cols) {
    return tile_ap_cols(t, n_rows, 0, n_cols);
}

/* Truth values lie as bytes: the engines know them as uint8. */
static uint8_t memory_dtype(vtrn_dtype t) {
    return t == VTRN_DTYPE_PRED ? VTRN_DTYPE_UINT8 : (uint8_t)t;
}

typedef struct transfer {
    lower *l;
    const view *v;
    const tile *t;
    int64_t col0; /* where the columns at hand begin in the tile */
    bool is_store, is_accumulate;
    view_box rows; /* at hand */
} transfer;

static vtrn_status emit_transfer(transfer *x, const vtrn_ap *hbm, const vtrn_ap *sbuf) {
    lower *l = x->l;
    vtrn_instr *dma =
        lower_append(l, VTRN_OP_DMA_COPY, x->is_store ? VTRN_ENGINE_GPSIMD : VTRN_ENGINE_SYNC);
    if (!dma)
        return VTRN_OUT_OF_MEMORY(sizeof *dma);
    if (x->is_store) {
        dma->queue = (uint8_t)(FIRST_STORE_RING + l->store_ring);
        l->store_ring = (l->store_ring + 1) % N_STORE_RINGS;
        dma->ap[0] = *hbm;
        dma->ap[1] = *sbuf;
        dma->flags = x->is_accumulate ? VTRN_FLAG_ACCUMULATE : 0;
    } else {
        dma->queue = (uint8_t)l->load_ring;
        l->load_ring = (l->load_ring + 1) % N_LOAD_RINGS;
        dma->ap[0] = *sbuf;
        dma->ap[1] = *hbm;
    }
    return NULL;
}

static vtrn_status stride_error(const view_factor *f) {
    return VTRN_ERROR(VTRN_CAPACITY,
                      "DMA: a stride of %lld elements or a run of %lld does not fit an access "
                      "pattern (32 bits); use a smaller tensor",
                      (long long)f->stride, (long long)f->size);
}

static bool fits_dim(const view_factor *f) {
    return f->stride <= INT32_MAX && f->stride >= INT32_MIN && f->size <= UINT32_MAX;
}

static int64_t inner_size(const view_box *box) {
    int64_t size = 1;
    for (int i = 1; i < box->n; i++)
        size *= box->f[i].size;
    return size;
}

/* A box and one index of its outermost factor. */
static view_box without_outermost(const view_box *box, int64_t index) {
    view_box part = {.start = box->start + index * inner_size(box),
                     .offset = box->offset + index * box->f[0].stride,
                     .n = box->n - 1};
    memcpy(part.f, box->f + 1, (size_t)part.n * sizeof part.f[0]);
    return part;
}

/* The rows' outermost factor is the pattern's own, the others take free dimensions before the
 * columns do. */
static bool row_dims_fit(const view_box *rows) {
    for (int i = 1; i < rows->n; i++)
        if (!fits_dim(&rows->f[i]))
            return false;
    return true;
}

static vtrn_status transfer_pattern(transfer *x, const view_box *rows, const view_box *cols) {
    vtrn_ap hbm = {.space = VTRN_SPACE_HBM,
                   .dtype = memory_dtype(x->v->dtype),
                   .n_partitions = (uint16_t)(rows->n ? rows->f[0].size : 1),
                   .slot = x->v->slot,
                   .addr = (x->v->offset + rows->offset + cols->offset) *
                           (int64_t)dtype_size(x->v->dtype),
                   .partition_step = rows->n ? rows->f[0].stride : 0};
    int64_t n_rows = hbm.n_partitions, n_cols = 1;
    for (int i = 1; i < rows->n; i++) {
        hbm.dim[hbm.n_dims++] = (vtrn_dim){(int32_t)rows->f[i].stride, (uint32_t)rows->f[i].size};
        n_rows *= rows->f[i].size;
    }
    for (int i = 0; i < cols->n; i++) {
        if (!fits_dim(&cols->f[i]))
            return stride_error(&cols->f[i]);
        hbm.dim[hbm.n_dims++] = (vtrn_dim){(int32_t)cols->f[i].stride, (uint32_t)cols->f[i].size};
        n_cols *= cols->f[i].size;
    }
    tile part = *x->t;
    part.partition = (uint16_t)(part.partition + rows->start);
    vtrn_ap sbuf =
        tile_ap_cols(&part, (uint32_t)n_rows, (uint32_t)(x->col0 + cols->start), (uint32_t)n_cols);
    return emit_transfer(x, &hbm, &sbuf);
}

/* One DMA for every index of the factors that an access pattern has no room for: of the two
 * outermost ones the smaller is cut first. */
static vtrn_status transfer_boxes(transfer *x, const view_box *rows, const view_box *cols) {
    int n_row_dims = rows->n > 1 ? rows->n - 1 : 0;
    bool rows_fit = row_dims_fit(rows);
    if (rows_fit && n_row_dims + cols->n <= VTRN_MAX_FREE_DIMS)
        return transfer_pattern(x, rows, cols);
    bool is_row = !rows_fit || cols->n == 0 || (n_row_dims && rows->f[0].size <= cols->f[0].size);
    const view_box *cut = is_row ? rows : cols;
    for (int64_t i = 0; i < cut->f[0].size; i++) {
        view_box part = without_outermost(cut, i);
        VTRN_RETURN_IF_ERROR(transfer_boxes(x, is_row ? &part : rows, is_row ? cols : &part));
    }
    return NULL;
}

static vtrn_status on_col_box(void *ctx, const view_box *cols) {
    transfer *x = ctx;
    return transfer_boxes(x, &x->rows, cols);
}

typedef struct row_walk {
    transfer x;
    const view_factor *col_factors;
    int n_col_factors;
    int64_t c0, c1;
} row_walk;

static vtrn_status on_row_box(void *ctx, const view_box *rows) {
    row_walk *w = ctx;
    w->x.rows = *rows;
    return view_for_boxes(w->col_factors, w->n_col_factors, w->c0, w->c1, on_col_box, &w->x);
}

static vtrn_status move_tile(lower *l, const view *v, int n_outer, int64_t r0, int64_t n_rows,
                             int64_t c0, int64_t n_cols, const tile *t, bool is_store,
                             bool is_accumulate) {
    row_walk w = {
        .x = {.l = l, .v = v, .t = t, .is_store = is_store, .is_accumulate = is_accumulate},
        .col_factors = v->f + n_outer,
        .n_col_factors = v->n - n_outer,
        .c0 = c0,
        .c1 = c0 + n_cols};
    return view_for_boxes(v->f, n_outer, r0, r0 + n_rows, on_row_box, &w);
}

vtrn_status lower_load(lower *l, const view *v, int n_outer, int64_t r0, int64_t n_rows, int64_t c0,
                       int64_t n_cols, const tile *dst) {
    return move_tile(l, v, n_outer, r0, n_rows, c0, n_cols, dst, false, false);
}

vtrn_status lower_store(lower *l, const view *v, int n_outer, int64_t r0, int64_t n_rows,
                        int64_t c0, int64_t n_cols, const tile *src, bool is_accumulate) {
    return move_tile(l, v, n_outer, r0, n_rows, c0, n_cols, src, true, is_accumulate);
}

/* Common refinement of two factor lists with equal counts: how many factors; -1: it has none. */
static int refine(const view *src, const view *dst, joint_factor *out) {
    view a = *src, b = *dst;
    view_coalesce(&a);
    view_coalesce(&b);
    int n = 0, i = a.n, j = b.n;
    joint_factor reversed[2 * VIEW_MAX_FACTORS];
    while (i > 0 && j > 0) {
        view_factor *x = &a.f[i - 1], *y = &b.f[j - 1];
        int64_t size = x->size < y->size ? x->size : y->size;
        if (x->size % size || y->size % size || n == 2 * VIEW_MAX_FACTORS)
            return -1;
        reversed[n++] = (joint_factor){size, x->stride, y->stride};
        x->size /= size;
        x->stride *= size;
        y->size /= size;
        y->stride *= size;
        i -= x->size == 1;
        j -= y->size == 1;
    }
    for (int k = 0; k < n; k++)
        out[k] = reversed[n - 1 - k];
    return n;
}

static vtrn_status copy_factors(lower *l, const view *src, const view *dst, const joint_factor *f,
                                int n, int64_t src_offset, int64_t dst_offset) {
    if (n > VTRN_MAX_FREE_DIMS + 1) {
        for (int64_t i = 0; i < f[0].size; i++)
            VTRN_RETURN_IF_ERROR(copy_factors(l, src, dst, f + 1, n - 1, src_offset + i * f[0].from,
                                              dst_offset + i * f[0].to));
        return NULL;
    }
    joint_factor split[VTRN_MAX_FREE_DIMS + 2];
    for (int i = 0; i < n; i++)
        split[i] = f[i];
    int64_t n_engines = l->chip->n_dma_engines, run = n == 1 ? f[0].size : 0;
    int64_t inner = run / n_engines;
    double share_bytes = (double)inner * (double)dtype_size((vtrn_dtype)src->dtype);
    bool is_shared = run % n_engines == 0 && share_bytes >= l->chip->dma.max_descriptor_bytes;
    if (n == 1 && is_shared) { /* one long run: a share for each DMA engine */
        split[0] = (joint_factor){n_engines, f[0].from * inner, f[0].to * inner};
        split[1] = (joint_factor){inner, f[0].from, f[0].to};
        n = 2;
    }
    int64_t rows = n > 1 ? split[0].size : 1;
    enum { MAX_ROWS = 32768 };
    for (int64_t r = 0; r < rows; r += MAX_ROWS) {
        int64_t n_rows = rows - r < MAX_ROWS ? rows - r : MAX_ROWS;
        LOWER_EMIT(dma, l, DMA_COPY, GPSIMD);
        dma->queue = COPY_RING;
        for (int side = 0; side < 2; side++) {
            const view *v = side ? src : dst;
            vtrn_ap *ap = &dma->ap[side];
            int64_t base = side ? src_offset : dst_offset;
            int64_t step = n > 1 ? (side ? split[0].from : split[0].to) : 0;
            *ap = (vtrn_ap){.space = VTRN_SPACE_HBM,
                            .dtype = memory_dtype(v->dtype),
                            .n_partitions = (uint16_t)n_rows,
                            .slot = v->slot,
                            .addr = (base + r * step) * (int64_t)dtype_size(v->dtype),
                            .partition_step = step};
            for (int i = n > 1; i < n; i++) {
                int64_t stride = side ? split[i].from : split[i].to;
                view_factor dim = {split[i].size, stride};
                if (!fits_dim(&dim))
                    return stride_error(&dim);
                ap->dim[ap->n_dims++] = (vtrn_dim){(int32_t)stride, (uint32_t)split[i].size};
            }
        }
    }
    return NULL;
}

/* Two copies by way of a dense one: a single factor has a common refinement with any list. */
static vtrn_status copy_twice(lower *l, const view *src, const view *dst) {
    graph_type flat = {.dtype = src->dtype, .rank = 1, .dims = {view_count(src)}};
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(
        lower_slot_add(l, VTRN_SLOT_SCRATCH, flat.dtype, graph_type_bytes(&flat), 0, &slot));
    view dense = view_dense(slot, &flat);
    VTRN_RETURN_IF_ERROR(lower_copy(l, src, &dense));
    return lower_copy(l, &dense, dst);
}

vtrn_status lower_copy(lower *l, const view *src, const view *dst) {
    VTRN_CHECK(view_count(src) == view_count(dst), "both sides of a copy have as many elements");
    if (view_count(src) == 0)
        return NULL;
    joint_factor f[2 * VIEW_MAX_FACTORS];
    int n = refine(src, dst, f);
    if (n < 0) /* as of 6 x 10 and 15 x 4, each with gaps between its rows */
        return copy_twice(l, src, dst);
    bool is_turned;
    VTRN_RETURN_IF_ERROR(turn_copy(l, src, dst, f, n, &is_turned));
    if (is_turned)
        return NULL;
    kernel_copy spec = {*src, *dst};
    VTRN_RETURN_IF_ERROR(lower_kernel(l, KERNEL_COPY, &spec, sizeof spec, 0));
    VTRN_RETURN_IF_ERROR(plan_reads(&l->plan, src));
    return plan_writes(&l->plan, dst);
}

vtrn_status emit_copy_kernel(lower *l, const kernel *k) {
    const kernel_copy *spec = k->spec;
    joint_factor f[2 * VIEW_MAX_FACTORS];
    int n = refine(&spec->from, &spec->to, f);
    VTRN_CHECK(n >= 0, "a copy is recorded where both sides have a common refinement");
    return copy_factors(l, &spec->from, &spec->to, f, n, spec->from.offset, spec->to.offset);
}
