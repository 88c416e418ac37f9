/* gather and scatter in the two forms that models use: whole rows of a table, and one element of
 * each row. Rows come by indirect DMA; everything that adds goes through one-hot tiles, because the
 * hardware's indirect DMA may not meet the same index twice. */
#include "compiler/lower/fusion.h"
#include "compiler/lower/movement.h"
#include "compiler/lower/non_finite.h"

#include <string.h>

enum { PARTITIONS = 128, MAX_ROW_BYTES = 32 << 10, MAX_ONE_HOT = 8192 };

static bool is_index_type(const graph_type *t) {
    return t->dtype == VTRN_DTYPE_INT32 || t->dtype == VTRN_DTYPE_UINT32;
}

static bool is_table_type(const graph_type *t) {
    return t->dtype == VTRN_DTYPE_FP32 || t->dtype == VTRN_DTYPE_BF16 ||
           t->dtype == VTRN_DTYPE_FP16;
}

/* indices [..., 1] -> one index a row */
static int64_t n_indices(const graph_type *t) {
    return graph_type_count(t);
}

/* offsets are the result's last dims, in order */
static bool offsets_are_trailing(graph_ints offset_dims, int rank, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (offset_dims.v[i] != rank - n + i)
            return false;
    return offset_dims.n == n;
}

static bool index_is_innermost(const graph_type *indices, int64_t index_vector_dim) {
    return index_vector_dim == indices->rank ||
           (index_vector_dim == indices->rank - 1 && indices->dims[indices->rank - 1] == 1);
}

/* table [V, ...row], indices [..., 1] -> [..., ...row] */
static bool is_row_gather(const graph *g, const graph_op *op) {
    const graph_attrs *at = &op->attrs;
    const graph_type *table = &g->types[op->operands[0]], *indices = &g->types[op->operands[1]];
    const graph_type *out = &g->types[op->results[0]];
    if (table->rank < 1 || at->gather.operand_batching.n || at->gather.start_index_map.n != 1 ||
        at->gather.start_index_map.v[0] != 0 || at->gather.collapsed.n != 1 ||
        at->gather.collapsed.v[0] != 0 || !is_index_type(indices) ||
        !index_is_innermost(indices, at->gather.index_vector_dim) || dtype_size(table->dtype) > 4)
        return false;
    for (int d = 1; d < table->rank; d++)
        if (at->gather.slice_sizes.v[d] != table->dims[d])
            return false;
    return at->gather.slice_sizes.v[0] == 1 &&
           offsets_are_trailing(at->gather.offset_dims, out->rank, table->rank - 1);
}

static vtrn_status lower_row_gather(lower *l, const graph_op *op) {
    const graph_type *table_t = &l->g->types[op->operands[0]];
    int64_t n = n_indices(&l->g->types[op->operands[1]]), rows = table_t->dims[0];
    int64_t width = graph_type_count(table_t) / rows;
    view table, indices, out;
    VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[0], &table));
    VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[1], &indices));
    VTRN_RETURN_IF_ERROR(lower_result(l, op->results[0], &out));
    int64_t element = (int64_t)dtype_size(table.dtype);
    int64_t cols = width * element <= MAX_ROW_BYTES ? width : MAX_ROW_BYTES / element;
    uint32_t row_bytes = lower_sbuf_round((uint64_t)(cols * element));
    VTRN_RETURN_IF_ERROR(lower_sbuf_begin(l, 2ull * (row_bytes + 64)));
    tile index[2], row[2];
    for (int b = 0; b < 2; b++) {
        index[b] = (tile){
            .space = VTRN_SPACE_SBUF, .dtype = indices.dtype, .addr = lower_sbuf_alloc(l, 4)};
        row[b] = (tile){
            .space = VTRN_SPACE_SBUF, .dtype = table.dtype, .addr = lower_sbuf_alloc(l, row_bytes)};
    }
    view index_rows = {.slot = indices.slot,
                       .dtype = indices.dtype,
                       .offset = indices.offset,
                       .n = 1,
                       .f = {{n, 1}}};
    view out_rows = {.slot = out.slot, .dtype = out.dtype, .n = 2, .f = {{n, width}, {width, 1}}};
    int flip = 0;
    for (int64_t i = 0; i < n; i += PARTITIONS, flip ^= 1) {
        uint32_t n_rows = (uint32_t)(n - i < PARTITIONS ? n - i : PARTITIONS);
        VTRN_RETURN_IF_ERROR(lower_load(l, &index_rows, 1, i, n_rows, 0, 1, &index[flip]));
        for (int64_t c = 0; c < width; c += cols) {
            uint32_t n_cols = (uint32_t)(width - c < cols ? width - c : cols);
            LOWER_EMIT(gather, l, DMA_GATHER, GPSIMD);
            gather->queue = 6;
            gather->flags = VTRN_FLAG_CLAMP_INDEX;
            gather->arg[1] = (int32_t)rows;
            gather->ap[0] = tile_ap(&row[flip], n_rows, n_cols);
            gather->ap[1] = (vtrn_ap){.space = VTRN_SPACE_HBM,
                                      .dtype = table.dtype,
                                      .n_dims = 1,
                                      .n_partitions = (uint16_t)n_rows,
                                      .slot = table.slot,
                                      .addr = (table.offset + c) * element,
                                      .partition_step = width,
                                      .dim = {{1, n_cols}}};
            gather->ap[2] = tile_ap(&index[flip], n_rows, 1);
            VTRN_RETURN_IF_ERROR(
                lower_store(l, &out_rows, 1, i, n_rows, c, n_cols, &row[flip], false));
        }
    }
    return NULL;
}

/* 0, 1, 2, ... as an int32 constant of n elements */
static vtrn_status counting(lower *l, int64_t n, uint32_t *out_slot) {
    int32_t *v = ARENA_NEW(&l->tmp, int32_t, (size_t)n);
    if (!v)
        return VTRN_OUT_OF_MEMORY((size_t)n * 4);
    for (int64_t i = 0; i < n; i++)
        v[i] = (int32_t)i;
    return lower_constant_add(l, VTRN_DTYPE_INT32, v, (uint64_t)n * 4, out_slot);
}

/* operand [B..., V], indices [B..., 1]: element idx[b] of row b. Both batch dims lead in order. */
static bool is_element_of_row(graph_ints batching, graph_ints indices_batching,
                              graph_ints index_map, graph_ints gone, const graph_type *operand,
                              const graph_type *indices, int64_t index_vector_dim) {
    int64_t n = operand->rank - 1;
    bool is_ok = n >= 1 && batching.n == n && indices_batching.n == n && index_map.n == 1 &&
                 index_map.v[0] == n && gone.n == 1 && gone.v[0] == n && is_index_type(indices) &&
                 is_table_type(operand) && index_is_innermost(indices, index_vector_dim) &&
                 operand->dims[n] <= MAX_ONE_HOT;
    for (int64_t i = 0; is_ok && i < n; i++)
        is_ok = batching.v[i] == i && indices_batching.v[i] == i;
    return is_ok && graph_type_count(indices) == graph_type_count(operand) / operand->dims[n];
}

/* A fusion over [B, V] with the truth of (column == index of the row). */
static vtrn_status open_one_hot(lower *l, graph_value indices, int64_t rows, int64_t cols,
                                bool is_clamped, fusion **out, fusion_in *is_hit) {
    view index;
    VTRN_RETURN_IF_ERROR(lower_dense(l, indices, &index));
    index.n = 1;
    index.f[0] = (view_factor){rows, 1};
    index.dtype = VTRN_DTYPE_INT32; /* a uint32 index above 2^31 is out of range either way */
    view column = {.dtype = VTRN_DTYPE_INT32, .n = 2, .f = {{rows, 0}, {cols, 1}}};
    VTRN_RETURN_IF_ERROR(counting(l, cols, &column.slot));
    fusion *f;
    VTRN_RETURN_IF_ERROR(fusion_open(l, rows * cols, &f));
    f->cols = cols;
    fusion_in row_index, number;
    VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &index, true, &row_index));
    if (is_clamped) {
        fusion_node clamp = {
            .op = GRAPH_CLAMP,
            .dtype = VTRN_DTYPE_INT32,
            .is_reduced = true,
            .n_in = 3,
            .in = {{FUSION_NO_NODE, 0}, row_index, {FUSION_NO_NODE, (double)(cols - 1)}}};
        VTRN_RETURN_IF_ERROR(fusion_add(l, f, &clamp, &row_index));
    }
    VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &column, false, &number));
    fusion_node equal = {.op = GRAPH_COMPARE,
                         .direction = GRAPH_EQ,
                         .alu = VTRN_ALU_IS_EQUAL,
                         .dtype = VTRN_DTYPE_UINT8,
                         .n_in = 2,
                         .in = {number, row_index}};
    *out = f;
    return fusion_add(l, f, &equal, is_hit);
}

static vtrn_status lower_element_gather(lower *l, const graph_op *op) {
    const graph_type *t = &l->g->types[op->operands[0]];
    int64_t cols = t->dims[t->rank - 1], rows = graph_type_count(t) / cols;
    view operand;
    VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[0], &operand));
    fusion *f;
    fusion_in is_hit, value, picked, total;
    VTRN_RETURN_IF_ERROR(open_one_hot(l, op->operands[1], rows, cols, true, &f, &is_hit));
    VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &operand, false, &value));
    fusion_node select = {.op = GRAPH_SELECT,
                          .dtype = t->dtype,
                          .n_in = 3,
                          .in = {is_hit, value, {FUSION_NO_NODE, 0}}};
    VTRN_RETURN_IF_ERROR(fusion_add(l, f, &select, &picked));
    fusion_node sum = {.op = GRAPH_REDUCE,
                       .klass = NODE_ROW,
                       .dtype = t->dtype,
                       .reducer = GRAPH_REDUCER_ADD,
                       .is_reduced = true,
                       .n_in = 1,
                       .in = {picked}};
    VTRN_RETURN_IF_ERROR(fusion_add(l, f, &sum, &total));
    return fusion_name(l, f, op->results[0], total.node, NULL);
}

static vtrn_status lower_element_scatter(lower *l, const graph_op *op) {
    const graph_type *t = &l->g->types[op->operands[0]];
    int64_t cols = t->dims[t->rank - 1], rows = graph_type_count(t) / cols;
    double base;
    bool is_zero = lower_splat_float(l, op->operands[0], &base) && base == 0;
    view operand, update;
    if (!is_zero)
        VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[0], &operand));
    VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[2], &update));
    update.n = 1;
    update.f[0] = (view_factor){rows, 1};
    fusion *f;
    fusion_in is_hit, row, given;
    VTRN_RETURN_IF_ERROR(open_one_hot(l, op->operands[1], rows, cols, false, &f, &is_hit));
    VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &update, true, &row));
    fusion_node select = {
        .op = GRAPH_SELECT, .dtype = t->dtype, .n_in = 3, .in = {is_hit, row, {FUSION_NO_NODE, 0}}};
    VTRN_RETURN_IF_ERROR(fusion_add(l, f, &select, &given));
    if (!is_zero) {
        fusion_in old;
        VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &operand, false, &old));
        fusion_node add = {
            .op = GRAPH_ADD, .alu = VTRN_ALU_ADD, .dtype = t->dtype, .n_in = 2, .in = {old, given}};
        VTRN_RETURN_IF_ERROR(fusion_add(l, f, &add, &given));
    }
    return fusion_name(l, f, op->results[0], given.node, NULL);
}

/* Marks the dim of the table that the indices name, and the dims of the updates that count them. */
static void scatter_rows(const graph_attrs *at, bool *table_rows, const graph_type *updates,
                         bool *update_rows) {
    table_rows[at->scatter.inserted_window.v[0]] = true;
    for (int d = 0; d < updates->rank; d++)
        update_rows[d] = true;
    for (int64_t i = 0; i < at->scatter.update_window.n; i++)
        update_rows[at->scatter.update_window.v[i]] = false;
}

/* table [..., V, ...] += updates at indices [..., 1] of one dim, all of the others at once */
static bool is_row_scatter(const graph *g, const graph_op *op) {
    const graph_attrs *at = &op->attrs;
    const graph_type *table = &g->types[op->operands[0]], *indices = &g->types[op->operands[1]];
    const graph_type *updates = &g->types[op->operands[2]];
    if (table->rank < 2 || at->scatter.input_batching.n || at->scatter.inserted_window.n != 1 ||
        at->scatter.scatter_dims_to_operand.n != 1 ||
        at->scatter.scatter_dims_to_operand.v[0] != at->scatter.inserted_window.v[0] ||
        !is_index_type(indices) || !is_table_type(table) ||
        !index_is_innermost(indices, at->scatter.index_vector_dim))
        return false;
    int64_t indexed = at->scatter.inserted_window.v[0];
    for (int d = 0, i = 0; d < table->rank; d++)
        if (d != indexed && updates->dims[at->scatter.update_window.v[i++]] != table->dims[d])
            return false;
    return table->dims[indexed] <= MAX_ONE_HOT;
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

typedef struct row_scatter {
    lower *l;
    view indices, updates, out, old;
    int n_update_rows; /* factors; the tables have one */
    bool has_old, is_finite;
    int64_t n, rows, width;
    tile index[2], hot[2], update[2], numbers, result[2];
    tile above[2], below[2], infinity, spare, zero; /* unless is_finite */
    int flip;
} row_scatter;

/* One-hot columns [v0, v0 + n_v) of 128 updates at a time, transposed by the matmul that adds them
 * up.
 */
static vtrn_status scatter_block(row_scatter *s, int64_t v0, uint32_t n_v, int64_t c,
                                 uint32_t n_cols) {
    lower *l = s->l;
    tile psum[3];
    int n_parts = s->is_finite ? 1 : 3;
    for (int i = 0; i < n_parts; i++)
        psum[i] = lower_psum_tile(l);
    for (int64_t i = 0; i < s->n; i += PARTITIONS) {
        int b = s->flip ^= 1;
        uint32_t rows = (uint32_t)(s->n - i < PARTITIONS ? s->n - i : PARTITIONS);
        VTRN_RETURN_IF_ERROR(lower_load(l, &s->indices, 1, i, rows, 0, 1, &s->index[b]));
        VTRN_RETURN_IF_ERROR(
            lower_load(l, &s->updates, s->n_update_rows, i, rows, c, n_cols, &s->update[b]));
        LOWER_EMIT(hot, l, TENSOR_TENSOR, GPSIMD);
        hot->op0 = VTRN_ALU_IS_EQUAL;
        hot->ap[0] = tile_ap(&s->hot[b], rows, n_v);
        hot->ap[1] = tile_ap_cols(&s->numbers, rows, (uint32_t)v0, n_v);
        hot->ap[2] = tile_ap(&s->index[b], rows, n_v);
        hot->ap[2].dim[0].step = 0;
        LOWER_EMIT(weights, l, LDWEIGHTS, TENSOR);
        weights->ap[1] = tile_ap(&s->hot[b], rows, n_v);
        const vtrn_ap moving[] = {tile_ap(&s->update[b], rows, n_cols),
                                  tile_ap(&s->above[b], rows, n_cols),
                                  tile_ap(&s->below[b], rows, n_cols)};
        if (!s->is_finite) {
            vtrn_ap zero = tile_ap(&s->zero, rows, 1);
            VTRN_RETURN_IF_ERROR(non_finite_split(l, &moving[0], &moving[1], &moving[2], &zero));
        }
        for (int part = 0; part < n_parts; part++) {
            LOWER_EMIT(sum, l, MATMUL, TENSOR);
            sum->ap[0] = tile_ap(&psum[part], n_v, n_cols);
            sum->ap[1] = moving[part];
            sum->flags =
                (i ? VTRN_FLAG_ACCUMULATE : 0) | (i + PARTITIONS >= s->n ? VTRN_FLAG_LAST : 0);
        }
    }
    const tile *result = &s->result[s->flip];
    if (s->has_old)
        VTRN_RETURN_IF_ERROR(lower_load(l, &s->old, 1, v0, n_v, c, n_cols, result));
    vtrn_ap sum = tile_ap(&psum[0], n_v, n_cols), to = tile_ap(result, n_v, n_cols);
    if (!s->is_finite) {
        vtrn_ap infinity = tile_ap(&s->infinity, n_v, n_cols);
        vtrn_ap spare = tile_ap(&s->spare, n_v, n_cols);
        vtrn_ap above = tile_ap(&psum[1], n_v, n_cols), below = tile_ap(&psum[2], n_v, n_cols);
        VTRN_RETURN_IF_ERROR(non_finite_join(l, &infinity, &spare, &above, &below));
        if (s->has_old)
            VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(l, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD,
                                                          &infinity, &infinity, &to));
        VTRN_RETURN_IF_ERROR(
            lower_emit_tensor_tensor(l, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, &to, &sum, &infinity));
    } else if (s->has_old) {
        VTRN_RETURN_IF_ERROR(
            lower_emit_tensor_tensor(l, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, &to, &sum, &to));
    } else {
        VTRN_RETURN_IF_ERROR(lower_emit_copy(l, &to, &sum));
    }
    return lower_store(l, &s->out, 1, v0, n_v, c, n_cols, result, false);
}

static vtrn_status place_non_finite(row_scatter *s, uint8_t dtype, int64_t cols) {
    tile *tiles[] = {&s->above[0], &s->above[1], &s->below[0], &s->below[1],
                     &s->infinity, &s->spare,    &s->zero};
    enum { N_TILES = sizeof tiles / sizeof *tiles, FIRST_OUTPUT = 4, ZERO = N_TILES - 1 };
    for (int i = 0; i < N_TILES; i++)
        *tiles[i] = (tile){.space = VTRN_SPACE_SBUF,
                           .dtype = i < FIRST_OUTPUT || i == ZERO ? dtype : VTRN_DTYPE_FP32,
                           .addr = lower_sbuf_alloc(s->l, i == ZERO ? 4 : (uint64_t)cols * 4)};
    LOWER_EMIT(clear, s->l, MEMSET, VECTOR);
    clear->ap[0] = tile_ap(&s->zero, PARTITIONS, 1);
    return NULL;
}

static vtrn_status lower_row_scatter(lower *l, const graph_op *op) {
    const graph_type *t = &l->g->types[op->operands[0]];
    const graph_type *updates = &l->g->types[op->operands[2]];
    bool table_rows[GRAPH_MAX_RANK] = {false}, update_rows[GRAPH_MAX_RANK] = {false};
    scatter_rows(&op->attrs, table_rows, updates, update_rows);
    row_scatter s = {.l = l,
                     .n = n_indices(&l->g->types[op->operands[1]]),
                     .rows = t->dims[op->attrs.scatter.inserted_window.v[0]]};
    s.width = graph_type_count(t) / s.rows;
    double base;
    s.has_old = !(lower_splat_float(l, op->operands[0], &base) && base == 0);
    s.is_finite = !non_finite_is_possible(l, op->operands[2]);
    if (s.has_old)
        VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[0], &s.old));
    VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[1], &s.indices));
    VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[2], &s.updates));
    VTRN_RETURN_IF_ERROR(lower_result(l, op->results[0], &s.out));
    int n_table_rows;
    as_matrix(&s.updates, updates, update_rows, &s.n_update_rows);
    as_matrix(&s.out, t, table_rows, &n_table_rows);
    as_matrix(&s.old, t, table_rows, &n_table_rows);
    s.indices.n = 1;
    s.indices.f[0] = (view_factor){s.n, 1};
    s.indices.dtype = VTRN_DTYPE_INT32;
    int64_t bank_cols = l->chip->psum_bank_bytes / 4;
    int64_t cols = s.width < bank_cols ? s.width : bank_cols;
    uint32_t number_bytes = lower_sbuf_round((uint64_t)s.rows * 4);
    VTRN_RETURN_IF_ERROR(lower_sbuf_begin(
        l, number_bytes + 64 + 2ull * (64 + 512 + 5 * lower_sbuf_round((uint64_t)cols * 4))));
    s.numbers = (tile){.space = VTRN_SPACE_SBUF,
                       .dtype = VTRN_DTYPE_INT32,
                       .addr = lower_sbuf_alloc(l, number_bytes)};
    for (int b = 0; b < 2; b++) {
        tile base_tile = {.space = VTRN_SPACE_SBUF, .dtype = t->dtype};
        s.index[b] = s.hot[b] = s.update[b] = s.result[b] = base_tile;
        s.index[b].dtype = VTRN_DTYPE_INT32;
        s.index[b].addr = lower_sbuf_alloc(l, 4);
        s.hot[b].addr = lower_sbuf_alloc(l, UINT64_C(4) * PARTITIONS);
        s.update[b].addr = lower_sbuf_alloc(l, (uint64_t)cols * 4);
        s.result[b].addr = lower_sbuf_alloc(l, (uint64_t)cols * 4);
    }
    if (!s.is_finite)
        VTRN_RETURN_IF_ERROR(place_non_finite(&s, t->dtype, cols));
    view numbers = {.dtype = VTRN_DTYPE_INT32, .n = 2, .f = {{PARTITIONS, 0}, {s.rows, 1}}};
    VTRN_RETURN_IF_ERROR(counting(l, s.rows, &numbers.slot));
    VTRN_RETURN_IF_ERROR(lower_load(l, &numbers, 1, 0, PARTITIONS, 0, s.rows, &s.numbers));
    for (int64_t v = 0; v < s.rows; v += PARTITIONS)
        for (int64_t c = 0; c < s.width; c += cols)
            VTRN_RETURN_IF_ERROR(
                scatter_block(&s, v, (uint32_t)(s.rows - v < PARTITIONS ? s.rows - v : PARTITIONS),
                              c, (uint32_t)(s.width - c < cols ? s.width - c : cols)));
    return NULL;
}

vtrn_status lower_indexed(lower *l, const graph_op *op, bool *is_done) {
    const graph *g = l->g;
    const graph_attrs *at = &op->attrs;
    bool is_one = op->n_results == 1;
    if (op->kind == GRAPH_GATHER && is_one) {
        if (is_row_gather(g, op)) {
            *is_done = true;
            return lower_row_gather(l, op);
        }
        if (at->gather.offset_dims.n == 0 &&
            is_element_of_row(at->gather.operand_batching, at->gather.indices_batching,
                              at->gather.start_index_map, at->gather.collapsed,
                              &g->types[op->operands[0]], &g->types[op->operands[1]],
                              at->gather.index_vector_dim)) {
            *is_done = true;
            return lower_element_gather(l, op);
        }
    }
    if (op->kind == GRAPH_SCATTER && is_one && op->n_operands == 3 &&
        op->reducer == GRAPH_REDUCER_ADD) {
        if (is_row_scatter(g, op)) {
            *is_done = true;
            return lower_row_scatter(l, op);
        }
        if (at->scatter.update_window.n == 0 &&
            is_element_of_row(at->scatter.input_batching, at->scatter.indices_batching,
                              at->scatter.scatter_dims_to_operand, at->scatter.inserted_window,
                              &g->types[op->operands[0]], &g->types[op->operands[1]],
                              at->scatter.index_vector_dim)) {
            *is_done = true;
            return lower_element_scatter(l, op);
        }
    }
    return NULL;
}
