/* Windows to and from an array, by indirect DMA. */
#include "compiler/emit/emit_address.h"
#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/emit_transfer.h"

/* A transfer under way. */
typedef struct mover {
    emitter *e;
    const kernel_windows *k;
    const address_spec *s; /* of the kernel */
    window_cut c;
    window_tiles size;
    view array; /* rows, then columns */
    int n_outer;
    int64_t reach;
    address_tiles at;
    tile data[2], old[2];
    int flip;
} mover;

/* Some columns of a piece of as many windows as there are rows. */
typedef struct window_piece {
    int64_t r0; /* row of the array */
    uint32_t rows;
    uint32_t address_col; /* where the windows' addresses are */
    int64_t offset;       /* of the piece in the table */
    int64_t col0;         /* of the piece in the array */
    int64_t col;          /* of the piece, the first that is moved */
    uint32_t cols;
} window_piece;

static vtrn_status emit_indirect(mover *m, bool is_scatter, const window_piece *p,
                                 const tile *data) {
    const address_spec *s = m->s;
    vtrn_instr *dma = emit_append(m->e, is_scatter ? VTRN_OP_DMA_SCATTER : VTRN_OP_DMA_GATHER,
                                  VTRN_ENGINE_GPSIMD);
    if (!dma)
        return VTRN_OUT_OF_MEMORY(sizeof *dma);
    vtrn_ap table = {.space = VTRN_SPACE_HBM,
                     .dtype = emit_memory_dtype(s->table.dtype),
                     .n_partitions = (uint16_t)p->rows,
                     .slot = s->table.slot,
                     .partition_step = 1};
    int64_t offset = p->offset + s->table.offset;
    if (p->cols != m->c.cols) { /* part of a run */
        offset += p->col * m->c.inner[0].table;
        table.n_dims = 1;
        table.dim[0] = (vtrn_dim){(int32_t)m->c.inner[0].table, p->cols};
    } else {
        for (int i = 0; i < m->c.n_inner; i++)
            table.dim[table.n_dims++] =
                (vtrn_dim){(int32_t)m->c.inner[i].table, (uint32_t)m->c.inner[i].size};
    }
    table.addr = offset * (int64_t)dtype_size((vtrn_dtype)s->table.dtype);
    dma->queue = EMIT_GATHER_RING;
    dma->flags = s->is_skipped && is_scatter ? VTRN_FLAG_OOB_SKIP : VTRN_FLAG_CLAMP_INDEX;
    dma->arg[1] = (int32_t)(m->reach + 1);
    dma->ap[is_scatter ? 0 : 1] = table;
    dma->ap[is_scatter ? 1 : 0] = tile_ap(data, p->rows, p->cols);
    dma->ap[2] = tile_ap_cols(&m->at.sum, p->rows, p->address_col, 1);
    return NULL;
}

/* data = old combined with data */
static vtrn_status combine(mover *m, const window_piece *p, const tile *data, const tile *old) {
    bool is_int = data->dtype == VTRN_DTYPE_INT32 || data->dtype == VTRN_DTYPE_UINT32;
    bool is_bits = isa_alu_class(m->k->combine) == 'B';
    vtrn_ap to = tile_ap(data, p->rows, p->cols), from = tile_ap(old, p->rows, p->cols);
    return emit_tensor_tensor(m->e, is_int && !is_bits ? VTRN_ENGINE_GPSIMD : VTRN_ENGINE_VECTOR,
                              m->k->combine, &to, &from, &to);
}

/* All columns of a piece. */
static vtrn_status move_block(mover *m, window_piece p) {
    for (p.col = 0; p.col < m->c.cols; p.col += m->size.chunk) {
        p.cols = (uint32_t)(m->c.cols - p.col < m->size.chunk ? m->c.cols - p.col : m->size.chunk);
        view_part part = {&m->array, m->n_outer, p.r0, p.rows, p.col0 + p.col, p.cols};
        tile *data = &m->data[m->flip], *old = &m->old[m->flip];
        m->flip ^= 1;
        if (!m->k->is_scatter) {
            VTRN_RETURN_IF_ERROR(emit_indirect(m, false, &p, data));
            VTRN_RETURN_IF_ERROR(emit_store(m->e, &part, data, false));
            continue;
        }
        VTRN_RETURN_IF_ERROR(emit_load(m->e, &part, data));
        if (m->k->combine != VTRN_ALU_NONE) {
            VTRN_RETURN_IF_ERROR(emit_indirect(m, false, &p, old));
            VTRN_RETURN_IF_ERROR(combine(m, &p, data, old));
        }
        VTRN_RETURN_IF_ERROR(emit_indirect(m, true, &p, data));
    }
    return NULL;
}

/* One window: its address on every partition, plus where its rows begin. */
static vtrn_status move_rows(mover *m) {
    emitter *e = m->e;
    int64_t n = m->c.n_rows;
    int32_t *offsets = ARENA_NEW(&e->tmp, int32_t, (size_t)n);
    if (!offsets)
        return VTRN_OUT_OF_MEMORY((size_t)n * 4);
    for (int64_t w = 0; w < n; w++)
        offsets[w] = (int32_t)windows_offset(m->c.outer, m->c.n_outer, w);
    address_spec rows = *m->s;
    rows.has_base = true;
    rows.n = n;
    rows.base = (view){.dtype = VTRN_DTYPE_INT32, .n = 1, .f = {{n, 1}}};
    VTRN_RETURN_IF_ERROR(
        build_constant_add(e->build, VTRN_DTYPE_INT32, offsets, (uint64_t)n * 4, &rows.base.slot));
    for (int i = 0; i < rows.n_terms; i++)
        rows.term[i].index.f[0] = (view_factor){n, 0};
    int64_t n_max = tile_max_rows(e->chip), most = n_max * m->k->max_address_cols;
    for (int64_t first = 0; first < n; first += most) {
        int64_t part = n - first < most ? n - first : most;
        VTRN_RETURN_IF_ERROR(address_compute(e, &rows, &m->at, first, part));
        for (int64_t r = 0; r < part; r += n_max) {
            window_piece p = {.r0 = first + r,
                              .rows = (uint32_t)(part - r < n_max ? part - r : n_max),
                              .address_col = (uint32_t)(r / n_max)};
            VTRN_RETURN_IF_ERROR(move_block(m, p));
        }
    }
    return NULL;
}

static vtrn_status move_windows(mover *m) {
    int64_t n_max = tile_max_rows(m->e->chip), most = n_max * m->k->max_address_cols, n = m->s->n;
    for (int64_t first = 0; first < n; first += most) {
        int64_t part = n - first < most ? n - first : most;
        VTRN_RETURN_IF_ERROR(address_compute(m->e, m->s, &m->at, first, part));
        for (int64_t r = 0; r < part; r += n_max)
            for (int64_t w = 0; w < m->c.n_rows; w++) {
                window_piece p = {.r0 = first + r,
                                  .rows = (uint32_t)(part - r < n_max ? part - r : n_max),
                                  .address_col = (uint32_t)(r / n_max),
                                  .offset = windows_offset(m->c.outer, m->c.n_outer, w),
                                  .col0 = w * m->c.cols};
                VTRN_RETURN_IF_ERROR(move_block(m, p));
            }
    }
    return NULL;
}

static void array_view(mover *m) {
    const address_spec *s = m->s;
    m->array = (view){.slot = s->array.slot, .dtype = s->array.dtype, .offset = s->array.offset};
    view *v = &m->array;
    if (s->n > 1) {
        for (int i = 0; i < s->n_batch; i++)
            v->f[v->n++] = s->batch[i];
        m->n_outer = v->n;
    }
    for (int i = 0; i < m->c.n_outer; i++)
        v->f[v->n++] = (view_factor){m->c.outer[i].size, m->c.outer[i].array};
    if (s->n == 1)
        m->n_outer = v->n;
    for (int i = 0; i < m->c.n_inner; i++)
        v->f[v->n++] = (view_factor){m->c.inner[i].size, m->c.inner[i].array};
}

vtrn_status emit_windows_kernel(emitter *e, const kernel *k) {
    const kernel_windows *spec = k->spec;
    const address_spec *s = &spec->at;
    mover m = {.e = e, .k = spec, .s = s};
    m.c = windows_cut(e->chip, s, spec->max_row_bytes);
    m.size = windows_size(e->chip, spec, &m.c);
    array_view(&m);
    m.reach = windows_reach(s);
    if (s->n == 1)
        m.reach += windows_offset(m.c.outer, m.c.n_outer, m.c.n_rows - 1);
    address_tiles_alloc(e, m.size.address_cols, &m.at);
    for (int i = 0; i < m.size.n_row_tiles; i++)
        (i < 2 ? m.data : m.old)[i & 1] = (tile){.space = VTRN_SPACE_SBUF,
                                                 .dtype = emit_memory_dtype(s->table.dtype),
                                                 .addr = emit_sbuf_alloc(e, m.size.row_bytes)};
    return s->n == 1 ? move_rows(&m) : move_windows(&m);
}
