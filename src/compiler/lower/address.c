/* Windows of a tensor at places that data decide. The address of a window is a sum of clamped
 * indices times strides, exact in GpSimd's 32-bit integers; an indirect DMA takes it from there.
 * Source: docs/hardware.md, "GpSimd". */
#include "compiler/lower/address.h"

#include "compiler/emit/emit_kernels.h"
#include "compiler/lower/movement.h"

#include <string.h>

enum {
    GATHER_RING = 6,
    ROW_BYTES = 16 << 10,  /* of a partition, at a time */
    SHORT_ROW_BYTES = 512, /* a longer run may be cut to occupy more partitions */
    ADDRESS_COLS = 256,    /* addresses computed at a time: 128 of them each */
    LEAST_ADDRESS_COLS = LOWER_SBUF_ALIGN / 4,
    MAX_FOLDED = 1 << 18, /* addresses that are listed one by one */
};

vtrn_status address_table(lower *l, graph_value v, view *table, int64_t *strides) {
    const graph_type *t = &l->g->types[v];
    bool is_reversed = false;
    VTRN_RETURN_IF_ERROR(lower_strided(l, v, table, strides));
    for (int d = 0; d < t->rank; d++)
        is_reversed = is_reversed || strides[d] < 0;
    if (!is_reversed)
        return NULL;
    VTRN_RETURN_IF_ERROR(lower_dense(l, v, table));
    VTRN_CHECK(view_dim_strides(table, t->dims, t->rank, strides), "a dense view has strides");
    return NULL;
}

vtrn_status address_add_term(lower *l, address_spec *s, graph_value indices, int64_t index_offset,
                             int64_t index_stride, int64_t limit, int64_t stride, bool *is_ok) {
    vtrn_dtype t = (vtrn_dtype)l->g->types[indices].dtype;
    double known;
    *is_ok = dtype_is_int(t) && dtype_size(t) <= 4 && s->n_terms < GRAPH_MAX_RANK;
    if (!*is_ok || (limit == 0 && !s->is_skipped))
        return NULL;
    if (!s->is_skipped && lower_splat_float(l, indices, &known)) {
        int64_t start = (int64_t)known;
        s->table.offset += (start < 0 ? 0 : start > limit ? limit : start) * stride;
        return NULL;
    }
    address_term *term = &s->term[s->n_terms++];
    *term = (address_term){.limit = limit, .stride = stride};
    VTRN_RETURN_IF_ERROR(lower_dense(l, indices, &term->index));
    term->index.offset += index_offset;
    term->index.n = 1;
    term->index.f[0] = (view_factor){s->n, index_stride};
    return NULL;
}

/* The largest address of a window. */
static int64_t reach_of(const address_spec *s) {
    int64_t reach = s->has_base ? s->base_limit : 0;
    for (int i = 0; i < s->n_terms; i++)
        reach += s->term[i].limit * s->term[i].stride;
    return reach;
}

bool address_fits(const address_spec *s) {
    int64_t reach = reach_of(s);
    for (int i = 0; i < s->n_window; i++)
        reach += (s->window[i].size - 1) * s->window[i].table;
    return reach < INT32_MAX;
}

/* --- addresses ----------------------------------------------------------------------------------
 */

uint64_t address_tiles_bytes(int64_t cols) {
    return 4ull * lower_sbuf_round((uint64_t)cols * 4);
}

void address_tiles_alloc(lower *l, int64_t cols, address_tiles *out) {
    tile t = {.space = VTRN_SPACE_SBUF, .dtype = VTRN_DTYPE_INT32};
    out->sum = out->index = out->valid = out->mark = t;
    out->sum.addr = lower_sbuf_alloc(l, (uint64_t)cols * 4);
    out->index.addr = lower_sbuf_alloc(l, (uint64_t)cols * 4);
    out->valid.addr = lower_sbuf_alloc(l, (uint64_t)cols * 4);
    out->mark.addr = lower_sbuf_alloc(l, (uint64_t)cols * 4);
}

/* dst = (a op0 s0) op1 s1 in 32-bit integers */
static vtrn_status int_scalar(lower *l, const vtrn_ap *dst, const vtrn_ap *a, vtrn_alu op0,
                              int64_t s0, vtrn_alu op1, int64_t s1) {
    return lower_emit_scalar_bits(l, VTRN_ENGINE_GPSIMD, dst, a, op0, (uint32_t)s0, op1,
                                  (uint32_t)s1);
}

static vtrn_status int_tensor(lower *l, const vtrn_ap *dst, const vtrn_ap *a, vtrn_alu op,
                              const vtrn_ap *b) {
    return lower_emit_tensor_tensor(l, VTRN_ENGINE_GPSIMD, op, dst, a, b);
}

/* Elements first + r + 128 c of a list at [r, c]. */
static vtrn_status load_list(lower *l, const view *list, int64_t first, uint32_t rows, uint32_t col,
                             uint32_t cols, const tile *dst) {
    int64_t stride = list->f[0].stride;
    view v = {.slot = list->slot,
              .dtype = list->dtype,
              .offset = list->offset + first * stride,
              .n = 2,
              .f = {{rows, stride}, {cols, lower_partitions(l) * stride}}};
    tile at = *dst;
    at.addr += col * 4;
    return lower_load(l, &v, 1, 0, rows, 0, cols, &at);
}

/* [rows, cols) of the address tile from column col: windows from the first on. */
static vtrn_status compute_part(lower *l, const address_spec *s, const address_tiles *t,
                                int64_t first, uint32_t rows, uint32_t col, uint32_t cols) {
    vtrn_ap sum = tile_ap_cols(&t->sum, rows, col, cols);
    vtrn_ap valid = tile_ap_cols(&t->valid, rows, col, cols);
    vtrn_ap mark = tile_ap_cols(&t->mark, rows, col, cols);
    bool has_sum = s->has_base;
    if (s->has_base)
        VTRN_RETURN_IF_ERROR(load_list(l, &s->base, first, rows, col, cols, &t->sum));
    for (int i = 0; i < s->n_terms; i++) {
        const address_term *term = &s->term[i];
        tile to = t->index; /* a narrow integer is cast by the DMA; uint32 keeps its comparisons */
        to.dtype = term->index.dtype == VTRN_DTYPE_UINT32 ? VTRN_DTYPE_UINT32 : VTRN_DTYPE_INT32;
        VTRN_RETURN_IF_ERROR(load_list(l, &term->index, first, rows, col, cols, &to));
        vtrn_ap index = tile_ap_cols(&to, rows, col, cols);
        if (s->is_skipped) { /* as unsigned, a negative start is beyond the limit too */
            vtrn_ap bits = index, *result = i ? &mark : &valid;
            bits.dtype = VTRN_DTYPE_UINT32;
            VTRN_RETURN_IF_ERROR(
                int_scalar(l, result, &bits, VTRN_ALU_IS_LE, term->limit, VTRN_ALU_NONE, 0));
            if (i)
                VTRN_RETURN_IF_ERROR(int_tensor(l, &valid, &valid, VTRN_ALU_MULTIPLY, &mark));
        } else {
            VTRN_RETURN_IF_ERROR(
                int_scalar(l, &index, &index, VTRN_ALU_MAX, 0, VTRN_ALU_MIN, term->limit));
        }
        vtrn_ap *to_sum = has_sum ? &index : &sum;
        VTRN_RETURN_IF_ERROR(
            int_scalar(l, to_sum, &index, VTRN_ALU_MULTIPLY, term->stride, VTRN_ALU_NONE, 0));
        if (has_sum)
            VTRN_RETURN_IF_ERROR(int_tensor(l, &sum, &sum, VTRN_ALU_ADD, &index));
        has_sum = true;
    }
    if (!has_sum) {
        LOWER_EMIT(zero, l, MEMSET, VECTOR);
        zero->ap[0] = sum;
    }
    if (!s->is_skipped || s->n_terms == 0)
        return NULL;
    /* sum * valid + (valid - 1): -1 where it is left out */
    VTRN_RETURN_IF_ERROR(int_tensor(l, &sum, &sum, VTRN_ALU_MULTIPLY, &valid));
    VTRN_RETURN_IF_ERROR(int_scalar(l, &valid, &valid, VTRN_ALU_SUBTRACT, 1, VTRN_ALU_NONE, 0));
    return int_tensor(l, &sum, &sum, VTRN_ALU_ADD, &valid);
}

vtrn_status address_compute(lower *l, const address_spec *s, const address_tiles *t, int64_t first,
                            int64_t n) {
    uint32_t full = (uint32_t)(n / lower_partitions(l)), rest = (uint32_t)(n % lower_partitions(l));
    if (full)
        VTRN_RETURN_IF_ERROR(compute_part(l, s, t, first, lower_partitions(l), 0, full));
    if (rest)
        VTRN_RETURN_IF_ERROR(
            compute_part(l, s, t, first + (int64_t)full * lower_partitions(l), rest, full, 1));
    return NULL;
}

/* --- transfers ----------------------------------------------------------------------------------
 */

/* What one indirect DMA moves of a window, and what is left for the loop around it. */
typedef struct cut {
    address_factor outer[GRAPH_MAX_RANK + 2], inner[GRAPH_MAX_RANK + 2];
    int n_outer, n_inner;
    int64_t n_rows, cols; /* products */
} cut;

/* Largest divisor of n that is at most `most`. */
static int64_t divisor(int64_t n, int64_t most) {
    for (int64_t d = n < most ? n : most; d > 1; d--)
        if (n % d == 0)
            return d;
    return 1;
}

static void drop_ones(address_spec *s) {
    int n = 0;
    for (int i = 0; i < s->n_window; i++) {
        address_factor *to = &s->window[n], *from = &s->window[i];
        if (from->size == 1)
            continue;
        address_factor *last = n ? &s->window[n - 1] : NULL;
        if (last && last->table == from->size * from->table &&
            last->array == from->size * from->array)
            *last = (address_factor){last->size * from->size, from->table, from->array};
        else
            *to = *from, n++;
    }
    s->n_window = n;
    if (n == 0)
        s->window[s->n_window++] = (address_factor){1, 1, 1};
}

/* A single window spreads its rows over the partitions; many windows take one each. */
static void cut_window(const lower *l, const address_spec *s, int64_t max_row_bytes, cut *c) {
    int64_t element_bytes = (int64_t)dtype_size((vtrn_dtype)s->table.dtype);
    memset(c, 0, sizeof *c);
    address_factor f[GRAPH_MAX_RANK + 2];
    int n = s->n_window;
    int64_t outer = 1;
    memcpy(f, s->window, (size_t)n * sizeof *f);
    for (int i = 0; i < n - 1; i++)
        outer *= f[i].size;
    address_factor *run = &f[n - 1];
    if (s->n == 1 && outer < lower_partitions(l) && run->size * element_bytes > SHORT_ROW_BYTES) {
        int64_t pieces = divisor(run->size, lower_partitions(l) / outer);
        int64_t size = run->size / pieces;
        if (pieces > 1) {
            f[n] = (address_factor){size, run->table, run->array};
            *run = (address_factor){pieces, size * run->table, size * run->array};
            n++;
        }
    }
    int64_t most = s->n == 1 && SHORT_ROW_BYTES < max_row_bytes ? SHORT_ROW_BYTES : max_row_bytes;
    int begin = n - 1;
    int64_t cols = f[begin].size;
    while (begin > 0 && n - begin < VTRN_MAX_FREE_DIMS &&
           cols * f[begin - 1].size * element_bytes <= most)
        cols *= f[--begin].size;
    c->n_rows = 1;
    c->cols = cols;
    for (int i = 0; i < n; i++) {
        if (i < begin) {
            c->outer[c->n_outer++] = f[i];
            c->n_rows *= f[i].size;
        } else {
            c->inner[c->n_inner++] = f[i];
        }
    }
}

/* Table offset of combination number w of n factors. */
static int64_t offset_of(const address_factor *f, int n, int64_t w) {
    int64_t offset = 0;
    for (int i = n - 1; i >= 0; i--) {
        offset += w % f[i].size * f[i].table;
        w /= f[i].size;
    }
    return offset;
}

static int64_t outer_offset(const cut *c, int64_t w) {
    return offset_of(c->outer, c->n_outer, w);
}

/* Few windows in many pieces: each indirect DMA would use few partitions. Every piece of every
 * window becomes a window of its own. */
static bool should_fold(const lower *l, const address_spec *s, const cut *c) {
    return s->n > 1 && s->n <= lower_partitions(l) / 2 && c->n_rows > 1 && !s->has_base &&
           s->n * c->n_rows <= MAX_FOLDED && c->n_outer + s->n_batch <= GRAPH_MAX_RANK;
}

int64_t address_base(const lower *l, const address_spec *s, int64_t i) {
    int32_t offset = 0;
    if (s->has_base)
        memcpy(&offset, l->build.data + l->build.slots[s->base.slot].slot.offset + 4 * (uint64_t)i,
               4);
    return offset;
}

/* The constant list of where each piece of each window begins. */
static vtrn_status fold_bases(lower *l, address_spec *s, int n_outer, int64_t pieces,
                              int64_t unit) {
    int64_t n = s->n * pieces;
    int32_t *offsets = ARENA_NEW(&l->tmp, int32_t, (size_t)n);
    if (!offsets)
        return VTRN_OUT_OF_MEMORY((size_t)n * 4);
    s->base_limit = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t offset = offset_of(s->window, n_outer, i % pieces) + address_base(l, s, i / pieces);
        offsets[i] = (int32_t)(offset / unit);
        s->base_limit = offsets[i] > s->base_limit ? offsets[i] : s->base_limit;
    }
    s->has_base = true;
    s->base_unit = 1;
    s->base = (view){.dtype = VTRN_DTYPE_INT32, .n = 1, .f = {{n, 1}}};
    return lower_constant_add(l, VTRN_DTYPE_INT32, offsets, (uint64_t)n * 4, &s->base.slot);
}

vtrn_status address_fold(lower *l, address_spec *s, int n_outer, int64_t unit) {
    int64_t pieces = 1;
    for (int i = 0; i < n_outer; i++)
        pieces *= s->window[i].size;
    if (pieces > 1 || s->has_base)
        VTRN_RETURN_IF_ERROR(fold_bases(l, s, n_outer, pieces, unit));
    for (int i = 0; i < s->n_terms; i++) {
        view *index = &s->term[i].index, again = *index;
        graph_type list = {.dtype = index->dtype, .rank = 1, .dims = {s->n * pieces}};
        s->term[i].stride /= unit;
        if (pieces == 1)
            continue;
        again.n = 2;
        again.f[0] = index->f[0];
        again.f[1] = (view_factor){pieces, 0};
        VTRN_RETURN_IF_ERROR(movement_densify(l, &again, &list));
        *index = again;
    }
    for (int i = 0; i < n_outer; i++)
        s->batch[s->n_batch++] = (view_factor){s->window[i].size, s->window[i].array};
    s->n_window -= n_outer;
    memmove(s->window, s->window + n_outer, (size_t)s->n_window * sizeof *s->window);
    s->n *= pieces;
    return NULL;
}

/* Whether all places where a window, or a piece of one that window factors before `inner` count,
 * can begin are multiples of `unit`. */
static bool begins_at(const address_spec *s, int inner, int64_t unit) {
    bool is_multiple = s->base_unit % unit == 0;
    for (int i = 0; i < s->n_terms; i++)
        is_multiple = is_multiple && (s->term[i].limit == 0 || s->term[i].stride % unit == 0);
    for (int i = 0; i < inner; i++)
        is_multiple = is_multiple && s->window[i].table % unit == 0;
    return is_multiple;
}

int64_t address_row_width(address_spec *s, int *n_outer) {
    drop_ones(s);
    int64_t width = 1;
    *n_outer = s->n_window;
    while (*n_outer > 0) {
        const address_factor *f = &s->window[*n_outer - 1];
        if ((f->size > 1 && f->table != width) || !begins_at(s, *n_outer - 1, width * f->size))
            break;
        width *= f->size;
        (*n_outer)--;
    }
    return width;
}

/* Columns of the tiles of a list of n addresses. */
static int64_t list_cols(const lower *l, int64_t n) {
    bool is_tight = address_tiles_bytes(ADDRESS_COLS) > l->sbuf_limit;
    int64_t cols = (n + lower_partitions(l) - 1) / lower_partitions(l);
    int64_t most = is_tight ? LEAST_ADDRESS_COLS : ADDRESS_COLS;
    return cols < most ? cols : most;
}

vtrn_status address_list(lower *l, const address_spec *s, view *out) {
    graph_type list = {.dtype = VTRN_DTYPE_INT32, .rank = 1, .dims = {s->n}};
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(
        lower_slot_add(l, VTRN_SLOT_SCRATCH, VTRN_DTYPE_INT32, graph_type_bytes(&list), 0, &slot));
    *out = view_dense(slot, &list);
    kernel_addresses spec = {.at = *s, .list = *out};
    VTRN_RETURN_IF_ERROR(lower_kernel(l, KERNEL_ADDRESSES, &spec, sizeof spec,
                                      address_tiles_bytes(list_cols(l, s->n))));
    VTRN_RETURN_IF_ERROR(address_accesses(l, s));
    return plan_writes(&l->plan, out);
}

vtrn_status emit_addresses_kernel(lower *l, const kernel *k) {
    const kernel_addresses *spec = k->spec;
    int64_t n_all = spec->at.n, cols = list_cols(l, n_all);
    address_tiles at;
    address_tiles_alloc(l, cols, &at);
    for (int64_t first = 0; first < n_all; first += lower_partitions(l) * cols) {
        int64_t n =
            n_all - first < lower_partitions(l) * cols ? n_all - first : lower_partitions(l) * cols;
        int64_t full = n / lower_partitions(l), rest = n % lower_partitions(l);
        VTRN_RETURN_IF_ERROR(address_compute(l, &spec->at, &at, first, n));
        for (int part = 0; part < 2; part++) {
            int64_t rows = part ? rest : lower_partitions(l), n_cols = part ? 1 : full;
            if (rows == 0 || n_cols == 0)
                continue;
            view v = spec->list;
            v.offset += first + (part ? full * lower_partitions(l) : 0);
            v.n = 2;
            v.f[0] = (view_factor){rows, 1};
            v.f[1] = (view_factor){n_cols, lower_partitions(l)};
            tile from = at.sum;
            from.addr += part ? (uint32_t)full * 4 : 0;
            VTRN_RETURN_IF_ERROR(lower_store(l, &v, 1, 0, rows, 0, n_cols, &from, false));
        }
    }
    return NULL;
}

/* A transfer under way. */
typedef struct mover {
    lower *l;
    const address_spec *s;
    bool is_scatter;
    vtrn_alu combine;
    cut c;
    view array; /* rows, then columns */
    int n_outer;
    int64_t reach, chunk, max_address_cols;
    address_tiles at;
    tile data[2], old[2];
    int flip;
} mover;

static uint8_t memory_dtype(uint8_t t) {
    return t == VTRN_DTYPE_PRED ? VTRN_DTYPE_UINT8 : t;
}

static vtrn_status emit_indirect(mover *m, bool is_scatter, const tile *data, uint32_t rows,
                                 uint32_t address_col, int64_t offset, int64_t col, uint32_t cols) {
    const address_spec *s = m->s;
    vtrn_instr *dma = lower_append(m->l, is_scatter ? VTRN_OP_DMA_SCATTER : VTRN_OP_DMA_GATHER,
                                   VTRN_ENGINE_GPSIMD);
    if (!dma)
        return VTRN_OUT_OF_MEMORY(sizeof *dma);
    vtrn_ap table = {.space = VTRN_SPACE_HBM,
                     .dtype = memory_dtype(s->table.dtype),
                     .n_partitions = (uint16_t)rows,
                     .slot = s->table.slot,
                     .partition_step = 1};
    offset += s->table.offset;
    if (cols != m->c.cols) { /* part of a run */
        offset += col * m->c.inner[0].table;
        table.n_dims = 1;
        table.dim[0] = (vtrn_dim){(int32_t)m->c.inner[0].table, cols};
    } else {
        for (int i = 0; i < m->c.n_inner; i++)
            table.dim[table.n_dims++] =
                (vtrn_dim){(int32_t)m->c.inner[i].table, (uint32_t)m->c.inner[i].size};
    }
    table.addr = offset * (int64_t)dtype_size((vtrn_dtype)s->table.dtype);
    dma->queue = GATHER_RING;
    dma->flags = s->is_skipped && is_scatter ? VTRN_FLAG_OOB_SKIP : VTRN_FLAG_CLAMP_INDEX;
    dma->arg[1] = (int32_t)(m->reach + 1);
    dma->ap[is_scatter ? 0 : 1] = table;
    dma->ap[is_scatter ? 1 : 0] = tile_ap(data, rows, cols);
    dma->ap[2] = tile_ap_cols(&m->at.sum, rows, address_col, 1);
    return NULL;
}

/* Rows of the array from r0 on, columns [col, col + cols) of the piece at array column col0. */
static vtrn_status move_block(mover *m, int64_t r0, uint32_t rows, uint32_t address_col,
                              int64_t offset, int64_t col0) {
    lower *l = m->l;
    for (int64_t col = 0; col < m->c.cols; col += m->chunk) {
        uint32_t cols = (uint32_t)(m->c.cols - col < m->chunk ? m->c.cols - col : m->chunk);
        tile *data = &m->data[m->flip], *old = &m->old[m->flip];
        m->flip ^= 1;
        if (!m->is_scatter) {
            VTRN_RETURN_IF_ERROR(
                emit_indirect(m, false, data, rows, address_col, offset, col, cols));
            VTRN_RETURN_IF_ERROR(
                lower_store(l, &m->array, m->n_outer, r0, rows, col0 + col, cols, data, false));
            continue;
        }
        VTRN_RETURN_IF_ERROR(
            lower_load(l, &m->array, m->n_outer, r0, rows, col0 + col, cols, data));
        if (m->combine != VTRN_ALU_NONE) {
            VTRN_RETURN_IF_ERROR(
                emit_indirect(m, false, old, rows, address_col, offset, col, cols));
            bool is_int = data->dtype == VTRN_DTYPE_INT32 || data->dtype == VTRN_DTYPE_UINT32;
            bool is_bits = isa_alu_class(m->combine) == 'B';
            vtrn_instr *sum =
                lower_append(l, VTRN_OP_TENSOR_TENSOR,
                             is_int && !is_bits ? VTRN_ENGINE_GPSIMD : VTRN_ENGINE_VECTOR);
            if (!sum)
                return VTRN_OUT_OF_MEMORY(sizeof *sum);
            sum->op0 = (uint8_t)m->combine;
            sum->ap[0] = tile_ap(data, rows, cols);
            sum->ap[1] = tile_ap(old, rows, cols);
            sum->ap[2] = sum->ap[0];
        }
        VTRN_RETURN_IF_ERROR(emit_indirect(m, true, data, rows, address_col, offset, col, cols));
    }
    return NULL;
}

/* One window: its address on every partition, plus where its rows begin. */
static vtrn_status move_rows(mover *m) {
    lower *l = m->l;
    int64_t n = m->c.n_rows;
    int32_t *offsets = ARENA_NEW(&l->tmp, int32_t, (size_t)n);
    if (!offsets)
        return VTRN_OUT_OF_MEMORY((size_t)n * 4);
    for (int64_t w = 0; w < n; w++)
        offsets[w] = (int32_t)outer_offset(&m->c, w);
    address_spec rows = *m->s;
    rows.has_base = true;
    rows.n = n;
    rows.base = (view){.dtype = VTRN_DTYPE_INT32, .n = 1, .f = {{n, 1}}};
    VTRN_RETURN_IF_ERROR(
        lower_constant_add(l, VTRN_DTYPE_INT32, offsets, (uint64_t)n * 4, &rows.base.slot));
    for (int i = 0; i < rows.n_terms; i++)
        rows.term[i].index.f[0] = (view_factor){n, 0};
    int64_t most = lower_partitions(l) * m->max_address_cols;
    for (int64_t first = 0; first < n; first += most) {
        int64_t part = n - first;
        part = part < most ? part : most;
        VTRN_RETURN_IF_ERROR(address_compute(l, &rows, &m->at, first, part));
        for (int64_t r = 0; r < part; r += lower_partitions(l))
            VTRN_RETURN_IF_ERROR(move_block(
                m, first + r,
                (uint32_t)(part - r < lower_partitions(l) ? part - r : lower_partitions(l)),
                (uint32_t)(r / lower_partitions(l)), 0, 0));
    }
    return NULL;
}

static vtrn_status move_windows(mover *m) {
    int64_t n = m->s->n, most = lower_partitions(m->l) * m->max_address_cols;
    for (int64_t first = 0; first < n; first += most) {
        int64_t part = n - first < most ? n - first : most;
        VTRN_RETURN_IF_ERROR(address_compute(m->l, m->s, &m->at, first, part));
        for (int64_t r = 0; r < part; r += lower_partitions(m->l))
            for (int64_t w = 0; w < m->c.n_rows; w++)
                VTRN_RETURN_IF_ERROR(move_block(
                    m, first + r,
                    (uint32_t)(part - r < lower_partitions(m->l) ? part - r
                                                                 : lower_partitions(m->l)),
                    (uint32_t)(r / lower_partitions(m->l)), outer_offset(&m->c, w), w * m->c.cols));
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

static int n_row_tiles(vtrn_alu combine) {
    return combine == VTRN_ALU_NONE ? 2 : 4;
}

/* Rows and addresses at a time: as many as overlap well, or as few as SBUF has room for. */
static void size_parts(kernel_windows *k, uint64_t limit_bytes) {
    uint64_t n_tiles = (uint64_t)n_row_tiles(k->combine);
    k->max_row_bytes = ROW_BYTES;
    k->max_address_cols = ADDRESS_COLS;
    if (address_tiles_bytes(ADDRESS_COLS) + n_tiles * ROW_BYTES <= limit_bytes)
        return;
    k->max_address_cols = LEAST_ADDRESS_COLS;
    uint64_t row_bytes = (limit_bytes - address_tiles_bytes(LEAST_ADDRESS_COLS)) / n_tiles;
    row_bytes = row_bytes / LOWER_SBUF_ALIGN * LOWER_SBUF_ALIGN;
    k->max_row_bytes = row_bytes < ROW_BYTES ? (int64_t)row_bytes : ROW_BYTES;
}

/* Bytes of a partition that the tiles take: addresses, then rows. */
static uint64_t size_tiles(mover *m, const kernel_windows *k, int64_t *address_cols,
                           uint32_t *row_bytes) {
    size_t element_bytes = dtype_size((vtrn_dtype)m->s->table.dtype);
    int64_t size = element_bytes ? (int64_t)element_bytes : 1;
    int64_t n = m->s->n == 1 ? m->c.n_rows : m->s->n;
    m->chunk = m->c.cols * size <= k->max_row_bytes || m->c.n_inner > 1 ? m->c.cols
                                                                        : k->max_row_bytes / size;
    m->max_address_cols = k->max_address_cols;
    *address_cols = (n + lower_partitions(m->l) - 1) / lower_partitions(m->l);
    *address_cols = *address_cols < k->max_address_cols ? *address_cols : k->max_address_cols;
    *row_bytes = lower_sbuf_round((uint64_t)(m->chunk * size));
    return address_tiles_bytes(*address_cols) + (uint64_t)n_row_tiles(k->combine) * *row_bytes;
}

static vtrn_status record(lower *l, address_spec *s, bool is_scatter, vtrn_alu combine) {
    mover m = {.l = l, .s = s, .combine = combine};
    kernel_windows spec = {.is_scatter = is_scatter, .combine = combine};
    int64_t address_cols;
    uint32_t row_bytes;
    size_parts(&spec, l->sbuf_limit);
    drop_ones(s);
    cut_window(l, s, spec.max_row_bytes, &m.c);
    if (should_fold(l, s, &m.c)) {
        VTRN_RETURN_IF_ERROR(address_fold(l, s, m.c.n_outer, 1));
        cut_window(l, s, spec.max_row_bytes, &m.c);
    }
    spec.at = *s;
    uint64_t sbuf_bytes = size_tiles(&m, &spec, &address_cols, &row_bytes);
    VTRN_RETURN_IF_ERROR(lower_kernel(l, KERNEL_WINDOWS, &spec, sizeof spec, sbuf_bytes));
    VTRN_RETURN_IF_ERROR(address_accesses(l, s));
    if (!is_scatter) {
        VTRN_RETURN_IF_ERROR(plan_reads_whole(&l->plan, s->table.slot));
        return plan_writes_whole(&l->plan, s->array.slot);
    }
    VTRN_RETURN_IF_ERROR(plan_reads_whole(&l->plan, s->array.slot));
    if (combine != VTRN_ALU_NONE)
        VTRN_RETURN_IF_ERROR(plan_reads_whole(&l->plan, s->table.slot));
    return plan_writes_whole(&l->plan, s->table.slot);
}

vtrn_status address_accesses(lower *l, const address_spec *s) {
    if (s->has_base)
        VTRN_RETURN_IF_ERROR(plan_reads_whole(&l->plan, s->base.slot));
    for (int i = 0; i < s->n_terms; i++)
        VTRN_RETURN_IF_ERROR(plan_reads(&l->plan, &s->term[i].index));
    return NULL;
}

vtrn_status emit_windows_kernel(lower *l, const kernel *k) {
    const kernel_windows *spec = k->spec;
    const address_spec *s = &spec->at;
    vtrn_alu combine = spec->combine;
    mover m = {.l = l, .s = s, .is_scatter = spec->is_scatter, .combine = combine};
    cut_window(l, s, spec->max_row_bytes, &m.c);
    array_view(&m);
    m.reach = reach_of(s);
    if (s->n == 1)
        m.reach += outer_offset(&m.c, m.c.n_rows - 1);
    int64_t address_cols;
    uint32_t row_bytes;
    size_tiles(&m, spec, &address_cols, &row_bytes);
    address_tiles_alloc(l, address_cols, &m.at);
    for (int i = 0; i < n_row_tiles(combine); i++)
        (i < 2 ? m.data : m.old)[i & 1] = (tile){.space = VTRN_SPACE_SBUF,
                                                 .dtype = memory_dtype(s->table.dtype),
                                                 .addr = lower_sbuf_alloc(l, row_bytes)};
    return s->n == 1 ? move_rows(&m) : move_windows(&m);
}

vtrn_status address_gather(lower *l, address_spec *s) {
    return record(l, s, false, VTRN_ALU_NONE);
}

vtrn_status address_scatter(lower *l, address_spec *s, vtrn_alu combine) {
    return record(l, s, true, combine);
}
