/* DMA transfers between tiles and views in HBM, and from view to view. */
#include "compiler/emit/emit_transfer.h"

#include "compiler/emit/emit_kernels.h"
#include "compiler/plan/kernel.h"

#include <string.h>

enum {
    N_LOAD_RINGS = 4,
    FIRST_STORE_RING = 4,
    N_STORE_RINGS = 3,
    COPY_RING = 7,
};

uint8_t emit_memory_dtype(vtrn_dtype t) {
    return t == VTRN_DTYPE_PRED ? VTRN_DTYPE_UINT8 : (uint8_t)t;
}

typedef struct transfer {
    emitter *e;
    const view *v;
    const tile *t;
    int64_t col0; /* where the columns at hand begin in the tile */
    bool is_store, is_accumulate;
    bool is_turned; /* loads: the tile has the columns on its partitions */
    view_box rows;  /* at hand */
} transfer;

static vtrn_status emit_transfer(transfer *x, const vtrn_ap *hbm, const vtrn_ap *sbuf) {
    emitter *e = x->e;
    vtrn_opcode opcode = x->is_turned ? VTRN_OP_DMA_TRANSPOSE : VTRN_OP_DMA_COPY;
    vtrn_instr *dma = emit_append(e, opcode, x->is_store ? VTRN_ENGINE_GPSIMD : VTRN_ENGINE_SYNC);
    if (!dma)
        return VTRN_OUT_OF_MEMORY(sizeof *dma);
    if (x->is_store) {
        dma->queue = (uint8_t)(FIRST_STORE_RING + e->store_ring);
        e->store_ring = (e->store_ring + 1) % N_STORE_RINGS;
        dma->ap[0] = *hbm;
        dma->ap[1] = *sbuf;
        dma->flags = x->is_accumulate ? VTRN_FLAG_ACCUMULATE : 0;
    } else {
        dma->queue = (uint8_t)e->load_ring;
        e->load_ring = (e->load_ring + 1) % N_LOAD_RINGS;
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
                   .dtype = emit_memory_dtype(x->v->dtype),
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
    if (x->is_turned) {
        part.partition = (uint16_t)(part.partition + cols->start);
        vtrn_ap turned =
            tile_ap_cols(&part, (uint32_t)n_cols, (uint32_t)rows->start, (uint32_t)n_rows);
        return emit_transfer(x, &hbm, &turned);
    }
    part.partition = (uint16_t)(part.partition + rows->start);
    vtrn_ap sbuf =
        tile_ap_cols(&part, (uint32_t)n_rows, (uint32_t)(x->col0 + cols->start), (uint32_t)n_cols);
    return emit_transfer(x, &hbm, &sbuf);
}

/* One DMA for every index of the factors that an access pattern has no room for: of the two
 * outermost ones the smaller is cut first. */
static vtrn_status transfer_boxes(transfer *x, const view_box *rows, const view_box *cols) {
    int n_row_dims = rows->n > 1 ? rows->n - 1 : 0;
    bool rows_fit = row_dims_fit(rows) && !(x->is_turned && rows->n > 1);
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

static vtrn_status move_part(transfer x, const view_part *part) {
    row_walk w = {.x = x,
                  .col_factors = part->v->f + part->n_outer,
                  .n_col_factors = part->v->n - part->n_outer,
                  .c0 = part->c0,
                  .c1 = part->c0 + part->n_cols};
    w.x.v = part->v;
    return view_for_boxes(part->v->f, part->n_outer, part->r0, part->r0 + part->n_rows, on_row_box,
                          &w);
}

vtrn_status emit_load(emitter *e, const view_part *part, const tile *dst) {
    return move_part((transfer){.e = e, .t = dst}, part);
}

vtrn_status emit_load_turned(emitter *e, const view_part *part, const tile *dst) {
    return move_part((transfer){.e = e, .t = dst, .is_turned = true}, part);
}

vtrn_status emit_store(emitter *e, const view_part *part, const tile *src, bool is_accumulate) {
    transfer x = {.e = e, .t = src, .is_store = true, .is_accumulate = is_accumulate};
    return move_part(x, part);
}

/* A part of a copy: n factors from an element of each side on. */
typedef struct copy_part {
    const view *from, *to;
    int64_t from_offset, to_offset;
    const joint_factor *f;
    int n;
} copy_part;

static vtrn_status copy_factors(emitter *e, const copy_part *p) {
    const joint_factor *f = p->f;
    int n = p->n;
    if (n > VTRN_MAX_FREE_DIMS + 1) {
        for (int64_t i = 0; i < f[0].size; i++) {
            copy_part part = *p;
            part.from_offset += i * f[0].from;
            part.to_offset += i * f[0].to;
            part.f++;
            part.n--;
            VTRN_RETURN_IF_ERROR(copy_factors(e, &part));
        }
        return NULL;
    }
    joint_factor split[VTRN_MAX_FREE_DIMS + 2];
    for (int i = 0; i < n; i++)
        split[i] = f[i];
    int64_t n_engines = e->chip->n_dma_engines, run = n == 1 ? f[0].size : 0;
    int64_t inner = run / n_engines;
    double share_bytes = (double)inner * (double)dtype_size((vtrn_dtype)p->from->dtype);
    bool is_shared = run % n_engines == 0 && share_bytes >= e->chip->dma.max_descriptor_bytes;
    if (n == 1 && is_shared) { /* one long run: a share for each DMA engine */
        split[0] = (joint_factor){n_engines, f[0].from * inner, f[0].to * inner};
        split[1] = (joint_factor){inner, f[0].from, f[0].to};
        n = 2;
    }
    int64_t rows = n > 1 ? split[0].size : 1;
    enum { MAX_ROWS = 32768 };
    for (int64_t r = 0; r < rows; r += MAX_ROWS) {
        int64_t n_rows = rows - r < MAX_ROWS ? rows - r : MAX_ROWS;
        EMIT(dma, e, DMA_COPY, GPSIMD);
        dma->queue = COPY_RING;
        for (int side = 0; side < 2; side++) {
            const view *v = side ? p->from : p->to;
            vtrn_ap *ap = &dma->ap[side];
            int64_t base = side ? p->from_offset : p->to_offset;
            int64_t step = n > 1 ? (side ? split[0].from : split[0].to) : 0;
            *ap = (vtrn_ap){.space = VTRN_SPACE_HBM,
                            .dtype = emit_memory_dtype(v->dtype),
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

vtrn_status emit_copy_kernel(emitter *e, const kernel *k) {
    const kernel_copy *spec = k->spec;
    joint_factor f[2 * VIEW_MAX_FACTORS];
    int n = view_refine(&spec->from, &spec->to, f);
    VTRN_CHECK(n >= 0, "a copy is recorded where both sides have a common refinement");
    copy_part all = {&spec->from, &spec->to, spec->from.offset, spec->to.offset, f, n};
    return copy_factors(e, &all);
}

vtrn_status emit_named_rows(emitter *e, const named_rows *rows, const tile *data, const tile *index,
                            bool is_scatter) {
    const view *table = rows->table;
    vtrn_instr *dma =
        emit_append(e, is_scatter ? VTRN_OP_DMA_SCATTER : VTRN_OP_DMA_GATHER, VTRN_ENGINE_GPSIMD);
    if (!dma)
        return VTRN_OUT_OF_MEMORY(sizeof *dma);
    dma->queue = EMIT_GATHER_RING;
    dma->flags = is_scatter ? VTRN_FLAG_OOB_SKIP : VTRN_FLAG_CLAMP_INDEX;
    dma->arg[1] = (int32_t)rows->n_rows;
    dma->ap[is_scatter ? 0 : 1] = (vtrn_ap){.space = VTRN_SPACE_HBM,
                                            .dtype = table->dtype,
                                            .n_dims = 1,
                                            .n_partitions = (uint16_t)rows->n_named,
                                            .slot = table->slot,
                                            .addr = (table->offset + rows->col) *
                                                    (int64_t)dtype_size((vtrn_dtype)table->dtype),
                                            .partition_step = (int32_t)rows->width,
                                            .dim = {{1, rows->n_cols}}};
    dma->ap[is_scatter ? 1 : 0] = tile_ap(data, rows->n_named, rows->n_cols);
    dma->ap[2] = tile_ap(index, rows->n_named, 1);
    return NULL;
}
