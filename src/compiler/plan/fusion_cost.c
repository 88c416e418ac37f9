/* What a fusion cut into rows takes: its transfers, and its operations on tiles. */
#include "compiler/plan/fusion_cost.h"

#include "cost/cost.h"

#include <math.h>
#include <string.h>

/* A fusion cut into rows: n_tiles of at most n_partitions rows and tile_cols columns. */
typedef struct cut {
    int64_t cols, tile_cols;
    double n_row_blocks, tile_rows, n_tiles;
} cut;

static cut cut_of(const vtrn_chip *chip, const fusion *f, int64_t cols) {
    cut c = {.cols = cols, .tile_cols = cols < FUSION_MAX_TILE_COLS ? cols : FUSION_MAX_TILE_COLS};
    int64_t n_whole = f->n / cols;
    double n_rows = (double)n_whole;
    c.tile_rows = fmin(n_rows, chip->n_partitions);
    c.n_row_blocks = ceil(n_rows / chip->n_partitions);
    c.n_tiles = c.n_row_blocks * ceil((double)cols / (double)c.tile_cols);
    return c;
}

const view *fusion_memory_view(const fusion_node *node) {
    if (!node->is_live)
        return NULL;
    return node->is_stored           ? &node->store_view
           : node->op == FUSION_LOAD ? &node->source_view
                                     : NULL;
}

/* Transfers of a tile of a view: the boxes that its rows and columns make, and those of their
 * factors that an access pattern has no dimension for, index by index. */
static double n_transfers(const view *rows, const view *row, const cut *c) {
    view outer = *rows, inner = *row;
    view_coalesce(&outer);
    view_coalesce(&inner);
    double n = view_mean_boxes(outer.f, outer.n, (int64_t)c->tile_rows) *
               view_mean_boxes(inner.f, inner.n, c->tile_cols);
    int row_i = 0, col_i = 0; /* first factors that are left */
    for (;;) {
        int n_cols = inner.n - col_i, n_rows = outer.n - row_i;
        int n_row_dims = n_rows > 1 ? n_rows - 1 : 0; /* one is the pattern's partitions */
        if (n_row_dims + n_cols <= VTRN_MAX_FREE_DIMS)
            return n;
        bool is_row = n_cols == 0 || (n_row_dims && outer.f[row_i].size <= inner.f[col_i].size);
        n *= (double)(is_row ? outer.f[row_i++].size : inner.f[col_i++].size);
    }
}

/* ns of moving all of v tile by tile; negative: it cannot be cut there. */
static double move_ns(const vtrn_chip *chip, const view *v, const cut *c, bool is_store) {
    view rows = *v, row = *v;
    int n_outer;
    if (!view_split_at(&rows, c->cols, &n_outer))
        return -1;
    row.n = rows.n - n_outer;
    memmove(row.f, rows.f + n_outer, (size_t)row.n * sizeof *row.f);
    rows.n = n_outer;
    double size = (double)dtype_size((vtrn_dtype)v->dtype), n_times = c->n_tiles;
    double row_bytes = (double)c->tile_cols * size,
           run_bytes = (double)view_run(row.f, row.n) * size;
    if (view_is_repeated(rows.f, rows.n)) { /* the same columns for all rows: loaded once */
        n_times = 1;
    } else if (view_is_repeated(row.f, row.n)) { /* one element a row */
        n_times = c->n_row_blocks;
        row_bytes = run_bytes = size;
    }
    transfer_cost cost = cost_tile_transfer(chip, is_store, c->tile_rows, row_bytes, run_bytes);
    return n_times * cost_transfer_interval_ns(chip, &cost, n_transfers(&rows, &row, c));
}

/* ns of a dense copy of v, which is loaded again. */
static double densify_ns(const vtrn_chip *chip, const view *v, const cut *c) {
    double size = (double)dtype_size((vtrn_dtype)v->dtype);
    double share_bytes = (double)view_count(v) * size / chip->n_dma_engines;
    double copy_ns = cost_runs_ns(chip, share_bytes, (double)view_run(v->f, v->n) * size);
    transfer_cost load = cost_tile_transfer(chip, false, c->tile_rows, (double)c->tile_cols * size,
                                            (double)c->tile_cols * size);
    return chip->dma.start_ns + chip->dma.complete_ns + copy_ns +
           c->n_tiles * cost_transfer_interval_ns(chip, &load, 1);
}

/* ns that an operation of two operands keeps its engine busy with a tile. */
static double operation_ns(const vtrn_chip *chip, const cut *c) {
    tile t = {.space = VTRN_SPACE_SBUF, .dtype = VTRN_DTYPE_FP32};
    vtrn_instr op = {.opcode = VTRN_OP_TENSOR_TENSOR, .engine = VTRN_ENGINE_VECTOR};
    op.ap[0] = op.ap[1] = op.ap[2] = tile_ap(&t, (uint32_t)c->tile_rows, (uint32_t)c->tile_cols);
    return cost_instr(chip, &op).ii_ns;
}

double fusion_cols_ns(const vtrn_chip *chip, const fusion *f, int64_t cols) {
    cut c = cut_of(chip, f, cols);
    double total_ns = 0, n_operations = 0;
    for (int i = 0; i < f->n_nodes; i++) {
        const fusion_node *node = &f->nodes[i];
        const view *v = fusion_memory_view(node);
        n_operations += node->is_live && node->op < FUSION_LOAD;
        double ns = v ? move_ns(chip, v, &c, node->is_stored) : 0;
        if (ns < 0) /* a load is made dense first, a store has no such way out */
            ns = node->is_stored ? INFINITY : densify_ns(chip, v, &c);
        total_ns += ns;
    }
    return total_ns + n_operations * c.n_tiles * operation_ns(chip, &c);
}
