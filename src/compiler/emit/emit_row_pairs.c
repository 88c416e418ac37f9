/* Updates added to rows of a table, each of which is read, added to and written once.
 *
 * Some blocks of 128 updates at a time are compared with all updates: a tile of which indices are
 * equal [update, update of a block], stationary, sums up for each update of a block all that share
 * its row. The same tile counts how many of these are before it: the first one writes the row, the
 * others' index becomes -1. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/emit_transfer.h"
#include "compiler/emit/non_finite.h"
#include "compiler/emit/psum.h"
#include "compiler/plan/kernel.h"
#include "compiler/plan/sum_parts.h"

enum {
    MAX_BLOCKS = ROW_PAIRS_MAX_BLOCKS,
    N_BUFFERS = ROW_PAIRS_BUFFERS,
};

typedef struct pairer {
    emitter *e;
    const kernel_row_pairs *k;
    tile index;                               /* of all updates, a column for each block */
    tile equal[N_BUFFERS], update[N_BUFFERS]; /* of a block of all updates */
    tile part[N_BUFFERS][FLOAT_PARTS];        /* of the updates, as matmuls take them */
    tile others;                              /* indices of the blocks at hand, on each partition */
    tile named[MAX_BLOCKS], result[MAX_BLOCKS]; /* rows of the blocks at hand */
    tile sums[MAX_BLOCKS][FLOAT_PARTS];
    tile earlier;        /* ones where the column is an update after the partition's */
    tile before;         /* equal, and so */
    tile ones, is_later; /* columns */
    tile none;           /* a column of -1 */
    tile spare[2], zero;
    psum_banks banks, counts;
    int64_t first; /* update of the blocks at hand */
    int n_blocks, flip;
} pairer;

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t block_rows(const pairer *s) {
    return tile_max_rows(s->e->chip);
}

/* Updates of block b of those at hand. */
static uint32_t rows_of(const pairer *s, int b) {
    return (uint32_t)least(s->k->n - s->first - b * block_rows(s), block_rows(s));
}

/* --- sums ---------------------------------------------------------------------------------------
 */

static vtrn_ap count_ap(const pairer *s, int b) {
    tile bank = psum_tile(s->e, &s->counts, 0);
    return tile_ap_cols(&bank, rows_of(s, b), (uint32_t)b, 1);
}

/* Counts, for each update of block b, the updates of block j that have its index and are before it.
 */
static vtrn_status count_before(pairer *s, int b, int64_t j, const tile *equal, uint32_t n) {
    int64_t mine = s->first / block_rows(s) + b;
    if (j > mine)
        return NULL;
    emitter *e = s->e;
    if (j == mine) {
        vtrn_ap dst = tile_ap(&s->before, n, n);
        vtrn_ap a = tile_ap_cols(equal, n, (uint32_t)(b * block_rows(s)), n);
        vtrn_ap mask = tile_ap(&s->earlier, n, n);
        VTRN_RETURN_IF_ERROR(
            emit_tensor_tensor(e, VTRN_ENGINE_VECTOR, VTRN_ALU_MULTIPLY, &dst, &a, &mask));
        EMIT(weights, e, LDWEIGHTS, TENSOR);
        weights->ap[1] = dst;
    }
    EMIT(sum, e, MATMUL, TENSOR);
    sum->ap[0] = count_ap(s, b);
    sum->ap[1] = tile_ap(&s->ones, n, 1);
    sum->flags = (j ? VTRN_FLAG_ACCUMULATE : 0) | (j == mine ? VTRN_FLAG_LAST : 0);
    return NULL;
}

/* The parts of n updates in buffer `flip`. */
static vtrn_status split(pairer *s, uint32_t n, uint32_t cols, vtrn_ap *part) {
    for (int i = 0; i < s->k->n_parts; i++)
        part[i] = tile_ap(&s->part[s->flip][i], n, cols);
    vtrn_ap zero = tile_ap(&s->zero, n, 1);
    return s->k->is_finite ? NULL : non_finite_split(s->e, &part[0], &part[1], &part[2], &zero);
}

/* Adds block j of all updates, columns from c on, to the sums of the blocks at hand. */
static vtrn_status add_block(pairer *s, int64_t j, int64_t c, uint32_t cols, bool is_counting) {
    emitter *e = s->e;
    int64_t at = j * block_rows(s);
    uint32_t n = (uint32_t)least(s->k->n - at, block_rows(s));
    uint32_t n_others = (uint32_t)least(s->k->n - s->first, s->n_blocks * block_rows(s));
    int b = s->flip = (s->flip + 1) % N_BUFFERS;
    vtrn_ap moving[FLOAT_PARTS];
    VTRN_RETURN_IF_ERROR(emit_load(
        e, &(view_part){&s->k->updates, s->k->n_update_rows, at, n, c, cols}, &s->update[b]));
    EMIT(equal, e, TENSOR_SCALAR, VECTOR);
    equal->op0 = VTRN_ALU_IS_EQUAL;
    equal->ap[0] = tile_ap(&s->equal[b], n, n_others);
    equal->ap[1] = tile_ap(&s->others, n, n_others);
    equal->ap[2] = tile_ap_cols(&s->index, n, (uint32_t)j, 1);
    VTRN_RETURN_IF_ERROR(split(s, n, cols, moving));
    for (int i = 0; i < s->n_blocks; i++) {
        EMIT(weights, e, LDWEIGHTS, TENSOR);
        weights->ap[1] =
            tile_ap_cols(&s->equal[b], n, (uint32_t)(i * block_rows(s)), rows_of(s, i));
        for (int p = 0; p < s->k->n_parts; p++) {
            EMIT(sum, e, MATMUL, TENSOR);
            sum->ap[0] = tile_ap(&s->sums[i][p], rows_of(s, i), cols);
            sum->ap[1] = moving[p];
            sum->flags = (j ? VTRN_FLAG_ACCUMULATE : 0) | (at + n >= s->k->n ? VTRN_FLAG_LAST : 0);
        }
        if (is_counting)
            VTRN_RETURN_IF_ERROR(count_before(s, i, j, &s->equal[b], n));
    }
    return NULL;
}

/* The updates whose row an earlier one writes name none. */
static vtrn_status name_once(pairer *s) {
    for (int b = 0; b < s->n_blocks; b++) {
        vtrn_ap is_later = tile_ap(&s->is_later, rows_of(s, b), 1), count = count_ap(s, b);
        is_later.addr += b * SBUF_ALIGN;
        VTRN_RETURN_IF_ERROR(
            emit_scalars(s->e, VTRN_ENGINE_VECTOR, &is_later, &count, STEP(IS_GT, 0), STEP_NONE));
        EMIT(clear, s->e, COPY_PREDICATED, VECTOR);
        clear->ap[0] = tile_ap(&s->named[b], rows_of(s, b), 1);
        clear->ap[1] = tile_ap(&s->none, rows_of(s, b), 1);
        clear->ap[2] = is_later;
    }
    return NULL;
}

/* --- rows of the table --------------------------------------------------------------------------
 */

static vtrn_status move_rows(pairer *s, bool is_scatter, int64_t c, uint32_t cols) {
    const view *out = &s->k->out;
    for (int b = 0; b < s->n_blocks; b++) {
        named_rows rows = {out, s->k->rows, s->k->width, c, rows_of(s, b), cols};
        VTRN_RETURN_IF_ERROR(emit_named_rows(s->e, &rows, &s->result[b], &s->named[b], is_scatter));
    }
    return NULL;
}

/* Adds the sums of block b to columns [at, at + cols) of its rows. */
static vtrn_status join(pairer *s, int b, uint32_t at, uint32_t cols) {
    emitter *e = s->e;
    vtrn_ap to = tile_ap_cols(&s->result[b], rows_of(s, b), at, cols), sum[FLOAT_PARTS], spare[2];
    for (int p = 0; p < s->k->n_parts; p++)
        sum[p] = tile_ap(&s->sums[b][p], rows_of(s, b), cols);
    if (s->k->is_finite)
        return emit_tensor_tensor(e, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, &to, &sum[0], &to);
    for (int i = 0; i < 2; i++)
        spare[i] = tile_ap(&s->spare[i], rows_of(s, b), cols);
    VTRN_RETURN_IF_ERROR(non_finite_join(e, &spare[0], &spare[1], &sum[1], &sum[2]));
    VTRN_RETURN_IF_ERROR(
        emit_tensor_tensor(e, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, &spare[0], &spare[0], &to));
    return emit_tensor_tensor(e, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, &to, &sum[0], &spare[0]);
}

/* Columns [c, c + cols) of the rows that the blocks at hand name, the sums a bank's width at a
 * time. */
static vtrn_status add_panel(pairer *s, int64_t c, int64_t cols) {
    int64_t n_all = (s->k->n + block_rows(s) - 1) / block_rows(s);
    for (int64_t at = 0; at < cols; at += s->k->cols) {
        uint32_t n_cols = (uint32_t)least(cols - at, s->k->cols);
        for (int b = 0; b < s->n_blocks; b++)
            VTRN_RETURN_IF_ERROR(psum_next(s->e, &s->banks, s->k->n_parts, s->sums[b]));
        for (int64_t j = 0; j < n_all; j++)
            VTRN_RETURN_IF_ERROR(add_block(s, j, c + at, n_cols, c + at == 0));
        if (c + at == 0)
            VTRN_RETURN_IF_ERROR(name_once(s));
        if (at == 0)
            VTRN_RETURN_IF_ERROR(move_rows(s, false, c, (uint32_t)cols));
        for (int b = 0; b < s->n_blocks; b++)
            VTRN_RETURN_IF_ERROR(join(s, b, (uint32_t)at, n_cols));
    }
    return move_rows(s, true, c, (uint32_t)cols);
}

static vtrn_status add_blocks(pairer *s) {
    int64_t n = least(s->k->n - s->first, s->k->n_blocks * block_rows(s));
    s->n_blocks = (int)((n + block_rows(s) - 1) / block_rows(s));
    view others = s->k->indices;
    others.n = 2;
    others.offset += s->first;
    others.f[0] = (view_factor){block_rows(s), 0};
    others.f[1] = (view_factor){n, 1};
    VTRN_RETURN_IF_ERROR(
        emit_load(s->e, &(view_part){&others, 1, 0, block_rows(s), 0, n}, &s->others));
    for (int b = 0; b < s->n_blocks; b++) {
        uint32_t block = (uint32_t)(s->first / block_rows(s) + b);
        vtrn_ap to = tile_ap(&s->named[b], rows_of(s, b), 1);
        vtrn_ap from = tile_ap_cols(&s->index, rows_of(s, b), block, 1);
        VTRN_RETURN_IF_ERROR(emit_copy(s->e, &to, &from));
    }
    for (int64_t c = 0; c < s->k->width; c += s->k->panel_cols)
        VTRN_RETURN_IF_ERROR(add_panel(s, c, least(s->k->width - c, s->k->panel_cols)));
    return NULL;
}

/* --- tiles --------------------------------------------------------------------------------------
 */

static tile tile_of(pairer *s, uint8_t dtype, int64_t n_elements) {
    uint64_t n_bytes = (uint64_t)n_elements * dtype_size((vtrn_dtype)dtype);
    return (tile){.space = VTRN_SPACE_SBUF, .dtype = dtype, .addr = emit_sbuf_alloc(s->e, n_bytes)};
}

static vtrn_status set(pairer *s, const tile *t, uint32_t cols, uint32_t bits, float value) {
    EMIT(memset, s->e, MEMSET, VECTOR);
    memset->ap[0] = tile_ap(t, (uint32_t)block_rows(s), cols);
    if (bits)
        memset->imm[0].bits = bits;
    else
        memset->imm[0].f = value;
    return NULL;
}

static vtrn_status fill_constants(pairer *s) {
    uint32_t rows = (uint32_t)block_rows(s);
    VTRN_RETURN_IF_ERROR(set(s, &s->ones, 1, 0, 1));
    VTRN_RETURN_IF_ERROR(set(s, &s->none, 1, UINT32_MAX, 0));
    if (!s->k->is_finite)
        VTRN_RETURN_IF_ERROR(set(s, &s->zero, 1, 0, 0));
    VTRN_RETURN_IF_ERROR(set(s, &s->before, rows, 0, 1));
    EMIT(select, s->e, AFFINE_SELECT, GPSIMD);
    select->op0 = VTRN_ALU_IS_GT; /* column - partition > 0 */
    select->ap[0] = tile_ap(&s->earlier, rows, rows);
    select->ap[1] = tile_ap(&s->before, rows, rows);
    select->arg[1] = -1;
    select->ap[3] = (vtrn_ap){.n_dims = 1, .dim = {{1, rows}}};
    return NULL;
}

static vtrn_status place_tiles(pairer *s) {
    const kernel_row_pairs *k = s->k;
    uint8_t in = k->updates.dtype;
    int64_t rows = block_rows(s), n_columns = k->n_blocks;
    VTRN_RETURN_IF_ERROR(psum_take(s->e, k->n_blocks * k->n_parts, &s->banks));
    VTRN_RETURN_IF_ERROR(psum_take(s->e, 1, &s->counts));
    s->index = tile_of(s, VTRN_DTYPE_INT32, (k->n + rows - 1) / rows);
    for (int b = 0; b < N_BUFFERS; b++) {
        s->equal[b] = tile_of(s, in, k->n_blocks * rows);
        s->update[b] = s->part[b][0] = tile_of(s, in, k->cols);
        for (int p = 1; p < k->n_parts; p++)
            s->part[b][p] = tile_of(s, in, k->cols);
    }
    s->others = tile_of(s, VTRN_DTYPE_INT32, k->n_blocks * rows);
    for (int b = 0; b < k->n_blocks; b++) {
        s->named[b] = tile_of(s, VTRN_DTYPE_INT32, 1);
        s->result[b] = tile_of(s, k->out.dtype, k->panel_cols);
    }
    s->earlier = tile_of(s, in, rows);
    s->before = tile_of(s, in, rows);
    s->ones = tile_of(s, in, 1);
    s->none = tile_of(s, VTRN_DTYPE_INT32, 1);
    s->is_later = tile_of(s, VTRN_DTYPE_INT32, n_columns * SBUF_ALIGN / 4);
    if (!k->is_finite) {
        s->zero = tile_of(s, in, 1);
        for (int i = 0; i < 2; i++)
            s->spare[i] = tile_of(s, VTRN_DTYPE_FP32, k->cols);
    }
    return fill_constants(s);
}

/* The indices of whole blocks, and of what is left. */
static vtrn_status load_indices(pairer *s) {
    int64_t rows = block_rows(s), n_whole = s->k->n / rows, n_left = s->k->n % rows;
    view whole = s->k->indices, left = s->k->indices;
    whole.n = left.n = 2;
    whole.f[0] = left.f[0] = (view_factor){rows, 1};
    whole.f[1] = left.f[1] = (view_factor){n_whole, rows};
    left.offset += n_whole * rows;
    left.f[0].size = n_left;
    left.f[1].size = 1;
    tile at = s->index;
    at.addr += (uint32_t)n_whole * 4;
    if (n_whole)
        VTRN_RETURN_IF_ERROR(
            emit_load(s->e, &(view_part){&whole, 1, 0, rows, 0, n_whole}, &s->index));
    return n_left ? emit_load(s->e, &(view_part){&left, 1, 0, n_left, 0, 1}, &at) : NULL;
}

vtrn_status emit_row_pairs_kernel(emitter *e, const kernel *k) {
    pairer s = {.e = e, .k = k->spec};
    VTRN_CHECK(s.k->n_blocks <= MAX_BLOCKS, "blocks of updates have a tile each");
    VTRN_RETURN_IF_ERROR(place_tiles(&s));
    VTRN_RETURN_IF_ERROR(load_indices(&s));
    for (; s.first < s.k->n; s.first += s.k->n_blocks * block_rows(&s))
        VTRN_RETURN_IF_ERROR(add_blocks(&s));
    return NULL;
}
