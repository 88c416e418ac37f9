/* gather and scatter in the two forms that models use: whole rows of a table (scatters of rows:
 * row_scatter.c), and one element of each row. Rows come by indirect DMA, elements through a
 * one-hot mask. */
#include "compiler/lower/indexed.h"

#include "compiler/lower/fusion.h"

enum { MAX_ROW_BYTES = 32 << 10, MAX_ONE_HOT = 8192 };

bool indexed_is_index_type(const graph_type *t) {
    return t->dtype == VTRN_DTYPE_INT32 || t->dtype == VTRN_DTYPE_UINT32;
}

bool indexed_is_table_type(const graph_type *t) {
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

bool indexed_is_innermost(const graph_type *indices, int64_t index_vector_dim) {
    return index_vector_dim == indices->rank ||
           (index_vector_dim == indices->rank - 1 && indices->dims[indices->rank - 1] == 1);
}

bool indexed_may_be_non_finite(lower *l, graph_value updates) {
    double value;
    return !lower_splat_float(l, updates, &value) || !isfinite(value);
}

/* table [V, ...row], indices [..., 1] -> [..., ...row] */
static bool is_row_gather(const graph *g, const graph_op *op) {
    const graph_attrs *at = &op->attrs;
    const graph_type *table = &g->types[op->operands[0]], *indices = &g->types[op->operands[1]];
    const graph_type *out = &g->types[op->results[0]];
    if (table->rank < 1 || at->gather.operand_batching.n || at->gather.start_index_map.n != 1 ||
        at->gather.start_index_map.v[0] != 0 || at->gather.collapsed.n != 1 ||
        at->gather.collapsed.v[0] != 0 || !indexed_is_index_type(indices) ||
        !indexed_is_innermost(indices, at->gather.index_vector_dim) || dtype_size(table->dtype) > 4)
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
    int64_t most = l->plan->sbuf_limit / 2 / SBUF_ALIGN * SBUF_ALIGN - sbuf_round(4);
    most = most < MAX_ROW_BYTES ? most : MAX_ROW_BYTES;
    int64_t cols = width * element <= most ? width : most / element;
    kernel_row_gather spec = {.table = table,
                              .indices = indices,
                              .out = out,
                              .n = n,
                              .n_table_rows = rows,
                              .width = width,
                              .cols = cols};
    VTRN_RETURN_IF_ERROR(plan_kernel(
        l->plan, KERNEL_ROW_GATHER, &spec, sizeof spec,
        (kernel_demand){.sbuf_bytes =
                            2ull * (sbuf_round((uint64_t)(cols * element)) + sbuf_round(4))}));
    VTRN_RETURN_IF_ERROR(plan_reads_whole(l->plan, table.slot));
    VTRN_RETURN_IF_ERROR(plan_reads(l->plan, &indices));
    return plan_writes(l->plan, &out);
}

/* The dimensions by which a gather or scatter finds elements of its operand. */
typedef struct element_dims {
    graph_ints batching, indices_batching, index_map;
    graph_ints gone; /* dimensions of the operand that a window does not have */
    int64_t index_vector_dim;
} element_dims;

/* operand [B..., V], indices [B..., 1]: element idx[b] of row b. Both batch dims lead in order. */
static bool is_element_of_row(const graph_type *operand, const graph_type *indices,
                              const element_dims *d) {
    int64_t n = operand->rank - 1;
    bool is_ok =
        n >= 1 && d->batching.n == n && d->indices_batching.n == n && d->index_map.n == 1 &&
        d->index_map.v[0] == n && d->gone.n == 1 && d->gone.v[0] == n &&
        indexed_is_index_type(indices) && indexed_is_table_type(operand) &&
        indexed_is_innermost(indices, d->index_vector_dim) && operand->dims[n] <= MAX_ONE_HOT;
    for (int64_t i = 0; is_ok && i < n; i++)
        is_ok = d->batching.v[i] == i && d->indices_batching.v[i] == i;
    return is_ok && graph_type_count(indices) == graph_type_count(operand) / operand->dims[n];
}

/* Whether elements of rows are fetched from memory in less time than all columns are compared. */
static bool is_quick_to_fetch(const lower *l, graph_value v) {
    enum { MIN_COLS = 1024 /* assumed, as in passes/row_elements.c */ };
    const graph_type *t = &l->g->types[v];
    return l->values[v].state == VALUE_VIEW && t->rank > 0 && t->dims[t->rank - 1] >= MIN_COLS;
}

/* A fusion over the operand [B, V] with the truth of (column == index of the row). A gather clamps
 * its indices; in a scatter those out of range hit no column. */
static vtrn_status open_one_hot(lower *l, const graph_op *op, fusion **out, fusion_in *is_hit) {
    const graph_type *t = &l->g->types[op->operands[0]];
    int64_t cols = t->dims[t->rank - 1], rows = graph_type_count(t) / cols;
    view index;
    VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[1], &index));
    index.n = 1;
    index.f[0] = (view_factor){rows, 1};
    index.dtype = VTRN_DTYPE_INT32; /* a uint32 index above 2^31 is out of range either way */
    view column = {.dtype = VTRN_DTYPE_INT32, .n = 2, .f = {{rows, 0}, {cols, 1}}};
    VTRN_RETURN_IF_ERROR(build_counting_add(l->build, cols, &column.slot));
    fusion *f;
    VTRN_RETURN_IF_ERROR(fusion_open(l, rows * cols, &f));
    f->cols = cols;
    fusion_in row_index, number;
    VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &index, true, &row_index));
    if (op->kind == GRAPH_GATHER) {
        fusion_node clamp = {
            .op = GRAPH_CLAMP,
            .dtype = VTRN_DTYPE_INT32,
            .is_reduced = true,
            .n_in = 3,
            .in = {{FUSION_NO_NODE, 0}, row_index, {FUSION_NO_NODE, (double)(cols - 1)}}};
        VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &clamp, &row_index));
    }
    VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &column, false, &number));
    fusion_node equal = {.op = GRAPH_COMPARE,
                         .direction = GRAPH_EQ,
                         .dtype = VTRN_DTYPE_UINT8,
                         .n_in = 2,
                         .in = {number, row_index}};
    *out = f;
    return fusion_add(l->build, f, &equal, is_hit);
}

static vtrn_status lower_element_gather(lower *l, const graph_op *op) {
    const graph_type *t = &l->g->types[op->operands[0]];
    view operand;
    VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[0], &operand));
    fusion *f;
    fusion_in is_hit, value, picked, total;
    VTRN_RETURN_IF_ERROR(open_one_hot(l, op, &f, &is_hit));
    VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &operand, false, &value));
    fusion_node select = {.op = GRAPH_SELECT,
                          .dtype = t->dtype,
                          .n_in = 3,
                          .in = {is_hit, value, {FUSION_NO_NODE, 0}}};
    VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &select, &picked));
    fusion_node sum = {.op = GRAPH_REDUCE,
                       .shape = NODE_ROW,
                       .dtype = t->dtype,
                       .reducer = GRAPH_REDUCER_ADD,
                       .is_reduced = true,
                       .n_in = 1,
                       .in = {picked}};
    VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &sum, &total));
    return fusion_name(l, f, op->results[0], total.node, NULL);
}

static vtrn_status lower_element_scatter(lower *l, const graph_op *op) {
    const graph_type *t = &l->g->types[op->operands[0]];
    int64_t rows = graph_type_count(t) / t->dims[t->rank - 1];
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
    VTRN_RETURN_IF_ERROR(open_one_hot(l, op, &f, &is_hit));
    VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &update, true, &row));
    fusion_node select = {
        .op = GRAPH_SELECT, .dtype = t->dtype, .n_in = 3, .in = {is_hit, row, {FUSION_NO_NODE, 0}}};
    VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &select, &given));
    if (!is_zero) {
        fusion_in old;
        VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &operand, false, &old));
        fusion_node add = {.op = GRAPH_ADD, .dtype = t->dtype, .n_in = 2, .in = {old, given}};
        VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &add, &given));
    }
    return fusion_name(l, f, op->results[0], given.node, NULL);
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
        if (at->gather.offset_dims.n == 0 && !is_quick_to_fetch(l, op->operands[0]) &&
            is_element_of_row(&g->types[op->operands[0]], &g->types[op->operands[1]],
                              &(element_dims){.batching = at->gather.operand_batching,
                                              .indices_batching = at->gather.indices_batching,
                                              .index_map = at->gather.start_index_map,
                                              .gone = at->gather.collapsed,
                                              .index_vector_dim = at->gather.index_vector_dim})) {
            *is_done = true;
            return lower_element_gather(l, op);
        }
    }
    if (op->kind == GRAPH_SCATTER && is_one && op->n_operands == 3 &&
        op->reducer == GRAPH_REDUCER_ADD) {
        if (row_scatter_supports(l, op)) {
            *is_done = true;
            return row_scatter(l, op);
        }
        if (at->scatter.update_window.n == 0 &&
            is_element_of_row(&g->types[op->operands[0]], &g->types[op->operands[1]],
                              &(element_dims){.batching = at->scatter.input_batching,
                                              .indices_batching = at->scatter.indices_batching,
                                              .index_map = at->scatter.scatter_dims_to_operand,
                                              .gone = at->scatter.inserted_window,
                                              .index_vector_dim = at->scatter.index_vector_dim})) {
            *is_done = true;
            return lower_element_scatter(l, op);
        }
    }
    return NULL;
}
