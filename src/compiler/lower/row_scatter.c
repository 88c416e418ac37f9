/* Sums of slices at places that may meet. The hardware's indirect DMA does not add, so matmuls do:
 *
 * A row is a slice at an index of one dim, or a stretch of which windows at any indices consist
 * (address_row_width).
 *
 * - a short table is made 128 rows at a time: a one-hot tile [update, row], stationary, sums up the
 *   updates that belong to each row;
 * - in a long table most rows get nothing. 128 updates at a time, a tile of which indices are equal
 *   [update, update] gives each of them the sum of all that share its row. Those rows are gathered,
 *   added to, and scattered; who shares a row writes the same elements. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/lower/fusion.h"
#include "compiler/lower/indexed.h"
#include "compiler/lower/int_bytes.h"
#include "compiler/lower/movement.h"
#include "compiler/lower/non_finite.h"
#include "compiler/lower/psum.h"

#include <string.h>

enum {
    MAX_ONE_HOT = 8192,    /* rows of a table that is made whole */
    SHORT_TABLE = 2 * 128, /* rows up to which that is quicker, by the timing model */
    MAX_ROWS = 1 << 24,    /* the Vector engine compares in fp32 */
    GATHER_RING = 6,
    N_FLOAT_PARTS = 3, /* of updates that may not be finite (non_finite.h) */
    MAX_PARTS = INT_BYTES,
    MAX_FOLDED = 1 << 20, /* rows of updates whose places are listed one by one */
};

/* Marks the dim of the table that the indices name, and the dims of the updates that count them. */
static void mark_rows(const graph_attrs *at, bool *table_rows, const graph_type *updates,
                      bool *update_rows) {
    table_rows[at->scatter.inserted_window.v[0]] = true;
    for (int d = 0; d < updates->rank; d++)
        update_rows[d] = true;
    for (int64_t i = 0; i < at->scatter.update_window.n; i++)
        update_rows[at->scatter.update_window.v[i]] = false;
}

static bool is_int_table(vtrn_dtype t) {
    return t == VTRN_DTYPE_INT32 || t == VTRN_DTYPE_UINT32;
}

/* Whether a row of the table is one run in memory. */
static bool has_whole_rows(const graph_type *table, int64_t indexed) {
    int64_t n_outer = 1;
    for (int64_t d = 0; d < indexed; d++)
        n_outer *= table->dims[d];
    return n_outer == 1;
}

/* table [..., V, ...] += updates at indices [..., 1] of one dim, all of the others at once */
bool row_scatter_supports(const lower *l, const graph_op *op) {
    const graph *g = l->g;
    const graph_attrs *at = &op->attrs;
    const graph_type *table = &g->types[op->operands[0]], *indices = &g->types[op->operands[1]];
    const graph_type *updates = &g->types[op->operands[2]];
    if (l->chip->n_psum_banks < N_FLOAT_PARTS || table->rank < 2 || at->scatter.input_batching.n ||
        at->scatter.inserted_window.n != 1 || at->scatter.scatter_dims_to_operand.n != 1 ||
        at->scatter.scatter_dims_to_operand.v[0] != at->scatter.inserted_window.v[0] ||
        !indexed_is_index_type(indices) || !indexed_is_table_type(table) ||
        !indexed_is_innermost(indices, at->scatter.index_vector_dim))
        return false;
    int64_t indexed = at->scatter.inserted_window.v[0];
    for (int d = 0, i = 0; d < table->rank; d++)
        if (d != indexed && updates->dims[at->scatter.update_window.v[i++]] != table->dims[d])
            return false;
    return table->dims[indexed] <= (has_whole_rows(table, indexed) ? MAX_ROWS : MAX_ONE_HOT);
}

/* A dense value as a matrix: the marked dims are its rows, in *n_outer factors, the rest its
 * columns. */
static void as_matrix(view *v, const graph_type *t, const bool *is_row, int *n_outer) {
    view dense = view_dense(v->slot, t), part[2] = {{0}};
    for (int d = 0; d < t->rank; d++) {
        view *p = &part[is_row[d] ? 0 : 1];
        p->f[p->n++] = dense.f[d];
    }
    v->n = 0;
    for (int i = 0; i < 2; i++) {
        view_coalesce(&part[i]);
        if (part[i].n == 0)
            part[i].f[part[i].n++] = (view_factor){1, 0};
        memcpy(v->f + v->n, part[i].f, (size_t)part[i].n * sizeof part[i].f[0]);
        v->n += part[i].n;
    }
    *n_outer = part[0].n;
}

typedef struct adder {
    lower *l;
    view indices, updates, out, old;
    int n_update_rows; /* factors; the tables have one */
    bool has_old, is_finite, is_int;
    int n_parts; /* that are summed up by themselves: bytes of an integer, parts of a float */
    int64_t n, rows, width;
    tile index[2], hot[2], update[2], result[2];
    tile part[2][MAX_PARTS]; /* of the updates, as matmuls take them */
    tile numbers;            /* of rows from first_number; short tables */
    tile others[2];          /* all indices on each partition; long tables */
    tile spare[2], zero;
    int64_t first_number;
    psum_banks banks;
    int flip;
} adder;

static vtrn_status next_sums(adder *s, tile *psum) {
    return psum_next(s->l, &s->banks, s->n_parts, psum);
}

/* The parts of the updates in buffer b. */
static vtrn_status split(adder *s, int b, uint32_t rows, uint32_t n_cols, vtrn_ap *part) {
    lower *l = s->l;
    for (int i = 0; i < s->n_parts; i++)
        part[i] = tile_ap(&s->part[b][i], rows, n_cols);
    if (s->is_int) {
        vtrn_ap update = tile_ap(&s->update[b], rows, n_cols);
        vtrn_ap byte = tile_ap(&s->spare[0], rows, n_cols);
        for (int i = 0; i < INT_BYTES; i++) {
            VTRN_RETURN_IF_ERROR(int_bytes_take(l, &byte, &update, i));
            VTRN_RETURN_IF_ERROR(lower_emit_copy(l, &part[i], &byte));
        }
        return NULL;
    }
    vtrn_ap zero = tile_ap(&s->zero, rows, 1);
    return s->is_finite ? NULL : non_finite_split(l, &part[0], &part[1], &part[2], &zero);
}

/* psum[part][m, col] (+)= sum over k of hot[k, m] * update[k, col], of `rows` updates */
static vtrn_status sum_up(adder *s, int b, uint32_t rows, uint32_t n_sums, uint32_t n_cols,
                          const tile *psum, uint8_t flags) {
    lower *l = s->l;
    LOWER_EMIT(weights, l, LDWEIGHTS, TENSOR);
    weights->ap[1] = tile_ap(&s->hot[b], rows, n_sums);
    vtrn_ap moving[MAX_PARTS];
    VTRN_RETURN_IF_ERROR(split(s, b, rows, n_cols, moving));
    for (int i = 0; i < s->n_parts; i++) {
        LOWER_EMIT(sum, l, MATMUL, TENSOR);
        sum->ap[0] = tile_ap(&psum[i], n_sums, n_cols);
        sum->ap[1] = moving[i];
        sum->flags = flags;
    }
    return NULL;
}

/* to = the sums, and what `to` holds already when has_old. */
static vtrn_status join(adder *s, uint32_t n_sums, uint32_t n_cols, const tile *psum, bool has_old,
                        const tile *to_tile) {
    lower *l = s->l;
    vtrn_ap to = tile_ap(to_tile, n_sums, n_cols), sum[MAX_PARTS], spare[2];
    for (int i = 0; i < s->n_parts; i++)
        sum[i] = tile_ap(&psum[i], n_sums, n_cols);
    for (int i = 0; i < 2; i++)
        spare[i] = tile_ap(&s->spare[i], n_sums, n_cols);
    if (s->is_int) {
        VTRN_RETURN_IF_ERROR(int_bytes_join(l, &spare[0], &spare[1], sum));
        return has_old ? lower_emit_tensor_tensor(l, VTRN_ENGINE_GPSIMD, VTRN_ALU_ADD, &to,
                                                  &spare[0], &to)
                       : lower_emit_copy(l, &to, &spare[0]);
    }
    if (!s->is_finite) {
        VTRN_RETURN_IF_ERROR(non_finite_join(l, &spare[0], &spare[1], &sum[1], &sum[2]));
        if (has_old)
            VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(l, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD,
                                                          &spare[0], &spare[0], &to));
        return lower_emit_tensor_tensor(l, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, &to, &sum[0],
                                        &spare[0]);
    }
    return has_old
               ? lower_emit_tensor_tensor(l, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, &to, &sum[0], &to)
               : lower_emit_copy(l, &to, &sum[0]);
}

/* --- a short table ------------------------------------------------------------------------------
 */

/* Rows [v0, v0 + n_v) of the table from all updates, 128 at a time. */
static vtrn_status make_rows(adder *s, int64_t v0, uint32_t n_v, int64_t c, uint32_t n_cols) {
    lower *l = s->l;
    tile psum[MAX_PARTS];
    VTRN_RETURN_IF_ERROR(next_sums(s, psum));
    for (int64_t i = 0; i < s->n; i += lower_partitions(s->l)) {
        int b = s->flip ^= 1;
        uint32_t rows =
            (uint32_t)(s->n - i < lower_partitions(s->l) ? s->n - i : lower_partitions(s->l));
        VTRN_RETURN_IF_ERROR(lower_load(l, &s->indices, 1, i, rows, 0, 1, &s->index[b]));
        VTRN_RETURN_IF_ERROR(
            lower_load(l, &s->updates, s->n_update_rows, i, rows, c, n_cols, &s->update[b]));
        LOWER_EMIT(hot, l, TENSOR_TENSOR, GPSIMD);
        hot->op0 = VTRN_ALU_IS_EQUAL;
        hot->ap[0] = tile_ap(&s->hot[b], rows, n_v);
        hot->ap[1] = tile_ap_cols(&s->numbers, rows, (uint32_t)(v0 - s->first_number), n_v);
        hot->ap[2] = tile_ap(&s->index[b], rows, n_v);
        hot->ap[2].dim[0].step = 0;
        VTRN_RETURN_IF_ERROR(sum_up(s, b, rows, n_v, n_cols, psum,
                                    (i ? VTRN_FLAG_ACCUMULATE : 0) |
                                        (i + lower_partitions(s->l) >= s->n ? VTRN_FLAG_LAST : 0)));
    }
    const tile *result = &s->result[s->flip];
    if (s->has_old)
        VTRN_RETURN_IF_ERROR(lower_load(l, &s->old, 1, v0, n_v, c, n_cols, result));
    VTRN_RETURN_IF_ERROR(join(s, n_v, n_cols, psum, s->has_old, result));
    return lower_store(l, &s->out, 1, v0, n_v, c, n_cols, result, false);
}

static vtrn_status make_table(adder *s, int64_t cols, int64_t n_numbers) {
    lower *l = s->l;
    view numbers = {
        .dtype = VTRN_DTYPE_INT32, .n = 2, .f = {{lower_partitions(s->l), 0}, {s->rows, 1}}};
    VTRN_RETURN_IF_ERROR(indexed_counting(l, s->rows, &numbers.slot));
    for (int64_t v = 0; v < s->rows; v += lower_partitions(s->l)) {
        if (v % n_numbers == 0) {
            s->first_number = v;
            VTRN_RETURN_IF_ERROR(lower_load(l, &numbers, 1, 0, lower_partitions(s->l), v,
                                            s->rows - v < n_numbers ? s->rows - v : n_numbers,
                                            &s->numbers));
        }
        for (int64_t c = 0; c < s->width; c += cols)
            VTRN_RETURN_IF_ERROR(
                make_rows(s, v,
                          (uint32_t)(s->rows - v < lower_partitions(s->l) ? s->rows - v
                                                                          : lower_partitions(s->l)),
                          c, (uint32_t)(s->width - c < cols ? s->width - c : cols)));
    }
    return NULL;
}

/* --- a long table -------------------------------------------------------------------------------
 */

/* Rows of `out` named by 128 indices, or fewer, to or from a tile. */
static vtrn_status move_named(adder *s, bool is_scatter, int b, uint32_t rows, int64_t c,
                              uint32_t n_cols) {
    vtrn_instr *dma = lower_append(s->l, is_scatter ? VTRN_OP_DMA_SCATTER : VTRN_OP_DMA_GATHER,
                                   VTRN_ENGINE_GPSIMD);
    if (!dma)
        return VTRN_OUT_OF_MEMORY(sizeof *dma);
    dma->queue = GATHER_RING;
    dma->flags = is_scatter ? VTRN_FLAG_OOB_SKIP : VTRN_FLAG_CLAMP_INDEX;
    dma->arg[1] = (int32_t)s->rows;
    dma->ap[is_scatter ? 0 : 1] =
        (vtrn_ap){.space = VTRN_SPACE_HBM,
                  .dtype = s->out.dtype,
                  .n_dims = 1,
                  .n_partitions = (uint16_t)rows,
                  .slot = s->out.slot,
                  .addr = (s->out.offset + c) * (int64_t)dtype_size((vtrn_dtype)s->out.dtype),
                  .partition_step = s->width,
                  .dim = {{1, n_cols}}};
    dma->ap[is_scatter ? 1 : 0] = tile_ap(&s->result[b], rows, n_cols);
    dma->ap[2] = tile_ap(&s->index[b], rows, 1);
    return NULL;
}

/* Updates [i, i + rows) into the rows that they name. */
static vtrn_status add_to_rows(adder *s, int64_t i, uint32_t rows, int64_t cols) {
    lower *l = s->l;
    int b = s->flip ^= 1;
    view others = s->indices;
    others.n = 2;
    others.offset += i;
    others.f[0] = (view_factor){rows, 0};
    others.f[1] = (view_factor){rows, 1};
    VTRN_RETURN_IF_ERROR(lower_load(l, &s->indices, 1, i, rows, 0, 1, &s->index[b]));
    VTRN_RETURN_IF_ERROR(lower_load(l, &others, 1, 0, rows, 0, rows, &s->others[b]));
    LOWER_EMIT(hot, l, TENSOR_SCALAR, VECTOR);
    hot->op0 = VTRN_ALU_IS_EQUAL;
    hot->ap[0] = tile_ap(&s->hot[b], rows, rows);
    hot->ap[1] = tile_ap(&s->others[b], rows, rows);
    hot->ap[2] = tile_ap(&s->index[b], rows, 1);
    for (int64_t c = 0; c < s->width; c += cols) {
        uint32_t n_cols = (uint32_t)(s->width - c < cols ? s->width - c : cols);
        tile psum[MAX_PARTS];
        VTRN_RETURN_IF_ERROR(next_sums(s, psum));
        VTRN_RETURN_IF_ERROR(
            lower_load(l, &s->updates, s->n_update_rows, i, rows, c, n_cols, &s->update[b]));
        VTRN_RETURN_IF_ERROR(sum_up(s, b, rows, rows, n_cols, psum, VTRN_FLAG_LAST));
        VTRN_RETURN_IF_ERROR(move_named(s, false, b, rows, c, n_cols));
        VTRN_RETURN_IF_ERROR(join(s, rows, n_cols, psum, true, &s->result[b]));
        VTRN_RETURN_IF_ERROR(move_named(s, true, b, rows, c, n_cols));
    }
    return NULL;
}

static vtrn_status add_to_table(adder *s, int64_t cols) {
    for (int64_t i = 0; i < s->n; i += lower_partitions(s->l))
        VTRN_RETURN_IF_ERROR(add_to_rows(
            s, i, (uint32_t)(s->n - i < lower_partitions(s->l) ? s->n - i : lower_partitions(s->l)),
            cols));
    return NULL;
}

/* --- both ---------------------------------------------------------------------------------------
 */

static tile tile_of(adder *s, uint8_t dtype, int64_t n_elements) {
    uint64_t n_bytes = (uint64_t)n_elements * dtype_size((vtrn_dtype)dtype);
    return (tile){
        .space = VTRN_SPACE_SBUF, .dtype = dtype, .addr = lower_sbuf_alloc(s->l, n_bytes)};
}

/* What matmuls take: a byte is exact in bf16, and a matmul of those quicker than of fp32. */
static uint8_t moving_dtype(const kernel_row_scatter *s) {
    return is_int_table((vtrn_dtype)s->out.dtype) ? VTRN_DTYPE_BF16 : s->updates.dtype;
}

static int n_parts_of(const kernel_row_scatter *s) {
    return is_int_table((vtrn_dtype)s->out.dtype) ? INT_BYTES : s->is_finite ? 1 : N_FLOAT_PARTS;
}

/* What place_tiles takes of a partition, at most. */
static uint64_t sbuf_bytes(const lower *l, const kernel_row_scatter *s) {
    uint64_t row = lower_sbuf_round((uint64_t)s->cols * 4), one = lower_sbuf_round(4);
    uint64_t part = lower_sbuf_round((uint64_t)s->cols * dtype_size((vtrn_dtype)moving_dtype(s)));
    uint64_t block = lower_sbuf_round(lower_partitions(l) * 4ull);
    uint64_t numbers = s->is_long ? 2 * block : lower_sbuf_round((uint64_t)s->n_numbers * 4);
    uint64_t n_parts = (uint64_t)n_parts_of(s) - !is_int_table((vtrn_dtype)s->out.dtype);
    return numbers + 2 * (one + block + 2 * row + n_parts * part) + (n_parts ? 2 * row + one : 0);
}

static vtrn_status place_tiles(adder *s, const kernel_row_scatter *spec) {
    VTRN_RETURN_IF_ERROR(psum_take(s->l, s->l->chip->n_psum_banks, &s->banks));
    uint8_t in = moving_dtype(spec), out = s->out.dtype;
    int64_t cols = spec->cols;
    if (!spec->is_long)
        s->numbers = tile_of(s, VTRN_DTYPE_INT32, spec->n_numbers);
    for (int b = 0; b < 2; b++) {
        if (spec->is_long)
            s->others[b] = tile_of(s, VTRN_DTYPE_INT32, lower_partitions(s->l));
        s->index[b] = tile_of(s, VTRN_DTYPE_INT32, 1);
        s->hot[b] = tile_of(s, in, lower_partitions(s->l));
        s->update[b] = tile_of(s, s->updates.dtype, cols);
        s->result[b] = tile_of(s, out, cols);
        for (int i = 0; i < s->n_parts; i++)
            s->part[b][i] = i || s->is_int ? tile_of(s, in, cols) : s->update[b];
    }
    if (s->n_parts == 1)
        return NULL;
    for (int i = 0; i < 2; i++)
        s->spare[i] = tile_of(s, s->is_int ? out : VTRN_DTYPE_FP32, cols);
    s->zero = tile_of(s, in, 1);
    LOWER_EMIT(clear, s->l, MEMSET, VECTOR);
    clear->ap[0] = tile_ap(&s->zero, lower_partitions(s->l), 1);
    return NULL;
}

/* Where a long table is added to, with what it held before: partial sums are fp32 in memory, too.
 */
static vtrn_status begin_table(lower *l, const graph_op *op, view *out, view *result) {
    VTRN_RETURN_IF_ERROR(lower_begin_update(l, op, result));
    *out = *result;
    if (result->dtype == VTRN_DTYPE_FP32 || is_int_table((vtrn_dtype)result->dtype))
        return NULL;
    graph_type wide = {.dtype = VTRN_DTYPE_FP32, .rank = 1, .dims = {view_count(result)}};
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(
        lower_slot_add(l, VTRN_SLOT_SCRATCH, wide.dtype, graph_type_bytes(&wide), 0, &slot));
    *out = view_dense(slot, &wide);
    return lower_copy(l, result, out);
}

/* Columns of a tile: `most`, in whole factors of the rows, so that a transfer is one access
 * pattern. */
static int64_t cols_of(int64_t most, const view *table, int n_outer) {
    int64_t cols = 1;
    for (int i = table->n - 1; i >= n_outer; i--) {
        int64_t size = table->f[i].size;
        if (cols * size <= most) {
            cols *= size;
            continue;
        }
        int64_t share = most / cols;
        while (i > n_outer && size % share)
            share--;
        return cols * share;
    }
    return cols;
}

/* Columns and numbers: as many as a PSUM bank has room for, and all; or as few as SBUF has. */
static void size_tiles(const lower *l, const view *table, int n_outer, kernel_row_scatter *s) {
    int64_t most = psum_cols(l->chip);
    s->n_numbers = s->rows;
    s->cols = cols_of(most, table, n_outer);
    if (sbuf_bytes(l, s) <= l->sbuf_limit)
        return;
    s->n_numbers = s->rows < lower_partitions(l) ? s->rows : lower_partitions(l);
    for (; sbuf_bytes(l, s) > l->sbuf_limit && most > 1; s->cols = cols_of(most, table, n_outer))
        most /= 2;
}

static vtrn_status record(lower *l, const kernel_row_scatter *s) {
    VTRN_RETURN_IF_ERROR(lower_kernel(l, KERNEL_ROW_SCATTER, s, sizeof *s, sbuf_bytes(l, s)));
    VTRN_RETURN_IF_ERROR(plan_reads(&l->plan, &s->indices));
    VTRN_RETURN_IF_ERROR(plan_reads(&l->plan, &s->updates));
    if (s->is_long)
        VTRN_RETURN_IF_ERROR(plan_reads_whole(&l->plan, s->out.slot));
    else if (s->has_old)
        VTRN_RETURN_IF_ERROR(plan_reads(&l->plan, &s->old));
    return plan_writes_whole(&l->plan, s->out.slot);
}

static void set_factors(view *v, const view *like) {
    v->n = like->n;
    memcpy(v->f, like->f, (size_t)like->n * sizeof *like->f);
}

/* Records the sums of the updates of *s, which has these, the indices and all sizes but the tile's;
 * the table is a matrix of which n_row_factors factors make the rows. */
static vtrn_status add_up(lower *l, const graph_op *op, kernel_row_scatter *s, const view *matrix,
                          int n_row_factors) {
    view result;
    s->is_finite = !non_finite_is_possible(l, op->operands[2]);
    if (s->is_long) {
        VTRN_RETURN_IF_ERROR(begin_table(l, op, &s->out, &result));
        size_tiles(l, matrix, n_row_factors, s);
        VTRN_RETURN_IF_ERROR(record(l, s));
        return s->out.slot == result.slot ? NULL : lower_copy(l, &s->out, &result);
    }
    double base;
    s->has_old = !(lower_splat_float(l, op->operands[0], &base) && base == 0);
    if (s->has_old)
        VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[0], &s->old));
    VTRN_RETURN_IF_ERROR(lower_result(l, op->results[0], &s->out));
    set_factors(&s->out, matrix);
    set_factors(&s->old, matrix);
    size_tiles(l, matrix, n_row_factors, s);
    return record(l, s);
}

vtrn_status row_scatter(lower *l, const graph_op *op) {
    const graph_type *t = &l->g->types[op->operands[0]];
    const graph_type *updates = &l->g->types[op->operands[2]];
    int64_t indexed = op->attrs.scatter.inserted_window.v[0];
    bool table_rows[GRAPH_MAX_RANK] = {false}, update_rows[GRAPH_MAX_RANK] = {false};
    mark_rows(&op->attrs, table_rows, updates, update_rows);
    kernel_row_scatter s = {.n = graph_type_count(&l->g->types[op->operands[1]]),
                            .rows = t->dims[indexed],
                            .width = graph_type_count(t) / t->dims[indexed]};
    s.is_long = s.rows > SHORT_TABLE && has_whole_rows(t, indexed);
    VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[1], &s.indices));
    VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[2], &s.updates));
    as_matrix(&s.updates, updates, update_rows, &s.n_update_rows);
    s.indices.n = 1;
    s.indices.f[0] = (view_factor){s.n, 1};
    s.indices.dtype = VTRN_DTYPE_INT32; /* above 2^31 an index is out of range either way */
    view matrix = {0};
    int n_row_factors;
    as_matrix(&matrix, t, table_rows, &n_row_factors);
    return add_up(l, op, &s, &matrix, n_row_factors);
}

/* --- windows ------------------------------------------------------------------------------------
 */

/* Whether only the rows that n updates name are touched. */
static bool is_long_table(int64_t rows, int64_t n, bool is_int) {
    return rows > SHORT_TABLE || (is_int && n > INT_BYTES_MAX_SUMMANDS);
}

int64_t row_scatter_steps(const lower *l, address_spec *windows, int64_t n_elements) {
    graph_type table = {.dtype = windows->table.dtype};
    bool is_int = is_int_table((vtrn_dtype)table.dtype);
    int64_t bank_cols = psum_cols(l->chip), n = windows->n;
    int n_outer;
    int64_t width = address_row_width(windows, &n_outer), rows = n_elements / width;
    for (int i = 0; i < n_outer; i++)
        n *= windows->window[i].size;
    if ((!indexed_is_table_type(&table) && !is_int) || n_elements % width || rows > MAX_ROWS ||
        n > MAX_FOLDED || l->chip->n_psum_banks < MAX_PARTS)
        return -1;
    int64_t n_tables =
        is_long_table(rows, n, is_int) ? 1 : (rows + lower_partitions(l) - 1) / lower_partitions(l);
    return n_tables * ((n + lower_partitions(l) - 1) / lower_partitions(l)) *
           ((width + bank_cols - 1) / bank_cols);
}

vtrn_status row_scatter_windows(lower *l, const graph_op *op, address_spec *windows) {
    int n_outer;
    int64_t width = address_row_width(windows, &n_outer);
    int64_t rows = graph_type_count(&l->g->types[op->operands[0]]) / width;
    VTRN_RETURN_IF_ERROR(address_fold(l, windows, n_outer, width));
    kernel_row_scatter s = {.updates = windows->array,
                            .n = windows->n,
                            .rows = rows,
                            .width = width,
                            .n_update_rows = windows->n_batch};
    s.is_long = is_long_table(rows, s.n, is_int_table((vtrn_dtype)windows->table.dtype));
    VTRN_RETURN_IF_ERROR(address_list(l, windows, &s.indices));
    s.updates.n = 0;
    for (int i = 0; i < windows->n_batch; i++)
        s.updates.f[s.updates.n++] = windows->batch[i];
    for (int i = 0; i < windows->n_window; i++)
        s.updates.f[s.updates.n++] =
            (view_factor){windows->window[i].size, windows->window[i].array};
    view matrix = {.n = 2, .f = {{rows, width}, {width, 1}}};
    return add_up(l, op, &s, &matrix, 1);
}

/* --- emission -----------------------------------------------------------------------------------
 */

vtrn_status emit_row_scatter_kernel(lower *l, const kernel *k) {
    const kernel_row_scatter *spec = k->spec;
    adder s = {.l = l,
               .indices = spec->indices,
               .updates = spec->updates,
               .out = spec->out,
               .old = spec->old,
               .n_update_rows = spec->n_update_rows,
               .has_old = spec->has_old,
               .is_finite = spec->is_finite,
               .is_int = is_int_table((vtrn_dtype)spec->out.dtype),
               .n_parts = n_parts_of(spec),
               .n = spec->n,
               .rows = spec->rows,
               .width = spec->width};
    VTRN_RETURN_IF_ERROR(place_tiles(&s, spec));
    return spec->is_long ? add_to_table(&s, spec->cols)
                         : make_table(&s, spec->cols, spec->n_numbers);
}
