/* Sums of slices at places that may meet. The hardware's indirect DMA does not add, so matmuls do:
 *
 * A row is a slice at an index of one dim, or a stretch of which windows at any indices consist
 * (address_row_width).
 *
 * - a short table is made 128 rows at a time: a one-hot tile [update, row], stationary, sums up the
 *   updates that belong to each row;
 * - in a long table most rows get nothing. 128 updates at a time, a tile of which indices are equal
 *   [update, update] gives each of them the sum of all that share its row. Those rows are gathered,
 *   added to, and scattered; updates that share a row write the same elements;
 * - a long table of 16-bit floats would round the sums after every 128 updates. Either its rows are
 *   fp32 meanwhile, or each block of updates is compared with all of them (row_pairs.c). */
#include "compiler/lower/indexed.h"
#include "compiler/lower/movement.h"
#include "compiler/plan/kernel.h"
#include "compiler/plan/psum_banks.h"
#include "compiler/plan/row_pairs.h"
#include "compiler/plan/sum_parts.h"
#include "compiler/plan/tile.h"

#include <string.h>

enum {
    MAX_ONE_HOT = 8192,    /* rows of a table that is made whole */
    SHORT_TABLE = 2 * 128, /* rows up to which that is quicker, by the timing model */
    MAX_ROWS = 1 << 24,    /* the Vector engine compares in fp32 */
    MAX_FOLDED = 1 << 20,  /* rows of updates whose places are listed one by one */
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
    if (l->chip->n_psum_banks < FLOAT_PARTS || table->rank < 2 || at->scatter.input_batching.n ||
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

/* Into which parts the updates are cut. Bytes are exact in bf16, and a matmul of those is quicker
 * than of fp32. */
static void choose_parts(kernel_row_scatter *s) {
    s->is_int = is_int_table((vtrn_dtype)s->out.dtype);
    s->moving_dtype = s->is_int ? VTRN_DTYPE_BF16 : s->updates.dtype;
    s->n_parts = s->is_int ? INT_BYTES : s->is_finite ? 1 : FLOAT_PARTS;
}

/* What the tiles take of a partition, at most. */
static uint64_t sbuf_bytes(const lower *l, const kernel_row_scatter *s) {
    uint64_t row = sbuf_round((uint64_t)s->cols * 4), one = sbuf_round(4);
    uint64_t part = sbuf_round((uint64_t)s->cols * dtype_size((vtrn_dtype)s->moving_dtype));
    uint64_t block = sbuf_round(tile_max_rows(l->chip) * 4ull);
    uint64_t numbers = s->is_long ? 2 * block : sbuf_round((uint64_t)s->n_numbers * 4);
    uint64_t n_parts = (uint64_t)s->n_parts - !s->is_int;
    return numbers + 2 * (one + block + 2 * row + n_parts * part) + (n_parts ? 2 * row + one : 0);
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
        build_slot_add(l->build, VTRN_SLOT_SCRATCH, wide.dtype, graph_type_bytes(&wide), 0, &slot));
    *out = view_dense(slot, &wide);
    return plan_copy(l->plan, result, out);
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
    choose_parts(s);
    s->n_numbers = s->rows;
    s->cols = cols_of(most, table, n_outer);
    if (sbuf_bytes(l, s) <= l->plan->sbuf_limit)
        return;
    s->n_numbers = s->rows < tile_max_rows(l->chip) ? s->rows : tile_max_rows(l->chip);
    for (; sbuf_bytes(l, s) > l->plan->sbuf_limit && most > 1;
         s->cols = cols_of(most, table, n_outer))
        most /= 2;
}

static vtrn_status record(lower *l, const kernel_row_scatter *s) {
    VTRN_RETURN_IF_ERROR(
        plan_kernel(l->plan, KERNEL_ROW_SCATTER, s, sizeof *s,
                    (kernel_demand){.sbuf_bytes = sbuf_bytes(l, s), .psum_banks = s->n_parts}));
    VTRN_RETURN_IF_ERROR(plan_reads(l->plan, &s->indices));
    VTRN_RETURN_IF_ERROR(plan_reads(l->plan, &s->updates));
    if (s->is_long)
        VTRN_RETURN_IF_ERROR(plan_reads_whole(l->plan, s->out.slot));
    else if (s->has_old)
        VTRN_RETURN_IF_ERROR(plan_reads(l->plan, &s->old));
    return plan_writes_whole(l->plan, s->out.slot);
}

/* Adds the updates of *s to the rows of a long table of 16-bit floats. */
static vtrn_status record_pairs(lower *l, const graph_op *op, const kernel_row_scatter *s,
                                bool *is_done) {
    view result;
    kernel_row_pairs pairs = {.indices = s->indices,
                              .updates = s->updates,
                              .n_update_rows = s->n_update_rows,
                              .is_finite = s->is_finite,
                              .n = s->n,
                              .rows = s->rows,
                              .width = s->width};
    pairs.out.dtype = l->g->types[op->results[0]].dtype;
    uint64_t sbuf_bytes;
    *is_done = row_pairs_pay(l->plan, &pairs, &sbuf_bytes);
    if (!*is_done)
        return NULL;
    VTRN_RETURN_IF_ERROR(lower_begin_update(l, op, &result));
    pairs.out = result;
    kernel_demand demand = {.sbuf_bytes = sbuf_bytes,
                            .psum_banks = pairs.n_blocks * pairs.n_parts + 1};
    VTRN_RETURN_IF_ERROR(plan_kernel(l->plan, KERNEL_ROW_PAIRS, &pairs, sizeof pairs, demand));
    VTRN_RETURN_IF_ERROR(plan_reads(l->plan, &pairs.indices));
    VTRN_RETURN_IF_ERROR(plan_reads(l->plan, &pairs.updates));
    VTRN_RETURN_IF_ERROR(plan_reads_whole(l->plan, pairs.out.slot));
    return plan_writes_whole(l->plan, pairs.out.slot);
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
    s->is_finite = !indexed_may_be_non_finite(l, op->operands[2]);
    if (s->is_long && dtype_size((vtrn_dtype)l->g->types[op->results[0]].dtype) == 2) {
        bool is_done;
        VTRN_RETURN_IF_ERROR(record_pairs(l, op, s, &is_done));
        if (is_done)
            return NULL;
    }
    if (s->is_long) {
        VTRN_RETURN_IF_ERROR(begin_table(l, op, &s->out, &result));
        size_tiles(l, matrix, n_row_factors, s);
        VTRN_RETURN_IF_ERROR(record(l, s));
        return s->out.slot == result.slot ? NULL : plan_copy(l->plan, &s->out, &result);
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
        n > MAX_FOLDED || l->chip->n_psum_banks < MAX_SUM_PARTS)
        return -1;
    int64_t n_tables = is_long_table(rows, n, is_int)
                           ? 1
                           : (rows + tile_max_rows(l->chip) - 1) / tile_max_rows(l->chip);
    return n_tables * ((n + tile_max_rows(l->chip) - 1) / tile_max_rows(l->chip)) *
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
