/* Transposing copies: rows are loaded in the order of the source, turned on the PE array, and
 * stored in the order of the destination. A DMA from layout to layout would name each element by
 * itself. */
#include "compiler/plan/turn.h"

#include "compiler/plan/kernel.h"
#include "compiler/plan/tile.h"
#include "cost/cost.h"

/* How many times quicker turning has to look, as tiles wait for each other more than the estimate
 * knows. Assumed, tuned on copies of 20 to 1600 elements a side. */
static const double min_gain = 1.5;

/* The factor along which a side is contiguous; -1: none. */
static int unit_factor(const joint_factor *f, int n, bool is_source) {
    for (int i = n - 1; i >= 0; i--)
        if (f[i].size > 1 && (is_source ? f[i].from : f[i].to) == 1)
            return i;
    return -1;
}

/* What a copy between two layouts looks like from SBUF. */
typedef struct turning {
    uint8_t dtype;
    int row_group, col_group;
    double n_tiles, size;     /* of an element, bytes */
    uint32_t rows, cols;      /* partitions on the way in, and on the way out */
    int64_t from_run, to_run; /* elements side by side in the source and in the destination */
} turning;

/* ns of a copy that names each element by itself. */
static double one_by_one_ns(const vtrn_chip *chip, double n_bytes, double size) {
    return chip->dma.start_ns + chip->dma.complete_ns +
           cost_runs_ns(chip, n_bytes / chip->n_dma_engines, size);
}

/* ns that each tile adds to the transfers one way. */
static double transfers_ns(const vtrn_chip *chip, const turning *t, bool is_store) {
    double n_rows = is_store ? t->cols : t->rows;
    double n_bytes = (double)(is_store ? t->rows : t->cols) * t->row_group * t->col_group * t->size;
    double run = (double)(is_store ? t->to_run : t->from_run) * t->size;
    transfer_cost cost = cost_tile_transfer(chip, is_store, n_rows, n_bytes, run);
    return cost_transfer_interval_ns(chip, &cost, 1);
}

/* ns of the same by way of SBUF: the way of one tile, and for all of them what takes longest of the
 * transfers, the PE array and the Vector engine. */
static double turned_ns(const vtrn_chip *chip, const turning *t) {
    tile sbuf = {.space = VTRN_SPACE_SBUF, .dtype = t->dtype};
    tile psum = {.space = VTRN_SPACE_PSUM, .dtype = t->dtype};
    vtrn_instr turn = {.opcode = VTRN_OP_PE_TRANSPOSE, .engine = VTRN_ENGINE_TENSOR};
    turn.ap[0] = tile_ap(&psum, t->cols, t->rows);
    turn.ap[1] = tile_ap(&sbuf, t->rows, t->cols);
    vtrn_instr copy = {.opcode = VTRN_OP_TENSOR_COPY, .engine = VTRN_ENGINE_VECTOR};
    int group = t->row_group * t->col_group;
    copy.ap[0] = tile_ap(&sbuf, t->cols, t->rows * (uint32_t)group);
    copy.ap[1] = tile_ap(&psum, t->cols, t->rows * (uint32_t)group);
    instr_cost turn_cost = cost_instr(chip, &turn), copy_cost = cost_instr(chip, &copy);
    double tile_ns = fmax(group * turn_cost.ii_ns, copy_cost.ii_ns);
    double dma_ns = transfers_ns(chip, t, false) + transfers_ns(chip, t, true);
    return 2 * (chip->dma.start_ns + chip->dma.complete_ns) + turn_cost.latency_ns +
           copy_cost.latency_ns + t->n_tiles * fmax(dma_ns, tile_ns);
}

/* The PE array passes 32-bit types other than fp32 on in fp32. */
static bool is_turned_exactly(vtrn_dtype t) {
    return t == VTRN_DTYPE_FP32 || t == VTRN_DTYPE_BF16 || t == VTRN_DTYPE_FP16;
}

/* SBUF of a partition that tiles of a group take, on their ways in and out. */
static uint64_t tile_bytes(const vtrn_chip *chip, int group, vtrn_dtype dtype) {
    return 2ull * TURN_BUFFERS *
           sbuf_round((uint64_t)tile_max_rows(chip) * (uint32_t)group * dtype_size(dtype));
}

/* Neighbouring ones of n that make a group, which leaves 128 groups: as many as a stride between
 * the elements of each lets the PE array work at full speed, and one PSUM bank has room for. */
static int group_of(const plan *p, vtrn_dtype dtype, int64_t n) {
    int64_t size = (int64_t)dtype_size(dtype), most = tile_max_rows(p->chip);
    int64_t group = (int64_t)p->chip->cost.stride_limit_bytes / size;
    int64_t bank = (int64_t)p->chip->psum_bank_bytes / size / most;
    group = group < bank ? group : bank;
    while (group > 1 &&
           (n / group < most || tile_bytes(p->chip, (int)group, dtype) > p->sbuf_limit))
        group /= 2;
    return group > 1 ? (int)group : 1;
}

static void choose_groups(const plan *p, vtrn_dtype dtype, int64_t n_rows, int64_t n_cols,
                          int *row_group, int *col_group) {
    *row_group = group_of(p, dtype, n_rows);
    *col_group = *row_group > 1 ? 1 : group_of(p, dtype, n_cols);
}

/* The factors whose elements make one stretch of the source, from the innermost on, until there are
 * columns for a tile: of matrices with few columns each, tiles would be narrow. */
static int column_factors(const vtrn_chip *chip, const joint_factor *f, int n, int to_unit,
                          int order[VIEW_MAX_FACTORS], int64_t *n_cols) {
    int n_found = 1, from_unit = unit_factor(f, n, true);
    order[0] = from_unit;
    *n_cols = f[from_unit].size;
    for (int i = 0; i < n && *n_cols < tile_max_rows(chip); i++)
        if (i != to_unit && i != from_unit && f[i].from == *n_cols) {
            order[n_found++] = i;
            *n_cols *= f[i].size;
            i = -1; /* the next one may stand before it */
        }
    return n_found;
}

static bool turning_pays(const plan *p, const view *src, const view *dst, const joint_factor *f,
                         int n) {
    int from_unit = unit_factor(f, n, true), to_unit = unit_factor(f, n, false);
    if (from_unit < 0 || to_unit < 0 || from_unit == to_unit || n > VIEW_MAX_FACTORS ||
        src->dtype != dst->dtype || !is_turned_exactly((vtrn_dtype)src->dtype))
        return false;
    int order[VIEW_MAX_FACTORS];
    int64_t n_rows = f[to_unit].size, n_cols, most = tile_max_rows(p->chip);
    int n_col_factors = column_factors(p->chip, f, n, to_unit, order, &n_cols);
    turning t = {.dtype = src->dtype, .size = (double)dtype_size((vtrn_dtype)src->dtype)};
    choose_groups(p, (vtrn_dtype)src->dtype, n_rows, f[from_unit].size, &t.row_group, &t.col_group);
    int64_t rows = n_rows / t.row_group, cols = n_cols / t.col_group;
    t.rows = (uint32_t)(rows < most ? rows : most);
    t.cols = (uint32_t)(cols < most ? cols : most);
    bool is_dense_from = f[to_unit].from == n_cols && n_cols == t.cols;
    bool is_dense_to = n_col_factors == 1 && f[from_unit].to == n_rows && n_rows == t.rows;
    t.from_run = (int64_t)t.cols * t.col_group * (is_dense_from ? t.row_group : 1);
    t.to_run = (int64_t)t.rows * t.row_group * (is_dense_to ? t.col_group : 1);
    double n_matrices = (double)view_count(src) / (double)n_rows / (double)n_cols;
    t.n_tiles = n_matrices * ceil((double)rows / t.rows) * ceil((double)cols / t.cols);
    return turned_ns(p->chip, &t) * min_gain <
           one_by_one_ns(p->chip, (double)view_count(src) * t.size, t.size);
}

bool turn_helps(const plan *p, const view *v) {
    view from = *v;
    view_coalesce(&from);
    joint_factor f[VIEW_MAX_FACTORS];
    int64_t stride = 1;
    for (int i = from.n - 1; i >= 0; i--) {
        if (from.f[i].stride == 0) /* a copy would repeat elements */
            return false;
        f[i] = (joint_factor){from.f[i].size, from.f[i].stride, stride};
        stride *= from.f[i].size;
    }
    return turning_pays(p, v, v, f, from.n);
}

vtrn_status turn_copy(plan *p, const view *src, const view *dst, const joint_factor *f, int n,
                      bool *is_done) {
    *is_done = turning_pays(p, src, dst, f, n);
    if (!*is_done)
        return NULL;
    int from_unit = unit_factor(f, n, true), to_unit = unit_factor(f, n, false);
    int order[VIEW_MAX_FACTORS];
    int64_t n_in_stretch;
    int n_col_factors = column_factors(p->chip, f, n, to_unit, order, &n_in_stretch);
    bool is_col[VIEW_MAX_FACTORS] = {false};
    for (int i = 0; i < n_col_factors; i++)
        is_col[order[i]] = true;
    view by_row = {.slot = src->slot, .dtype = src->dtype, .offset = src->offset, .n = 1};
    view by_col = {.slot = dst->slot, .dtype = dst->dtype, .offset = dst->offset};
    by_row.f[0] = (view_factor){f[to_unit].size, f[to_unit].from};
    int64_t n_cols = 1;
    int sequence[VIEW_MAX_FACTORS], n_sequence = 0; /* of all factors but that of the rows */
    for (int i = 0; i < n; i++)
        if (i != to_unit && !is_col[i])
            sequence[n_sequence++] = i;
    for (int i = n_col_factors; i-- > 0;)
        sequence[n_sequence++] = order[i];
    for (int i = 0; i < n_sequence; i++) {
        const joint_factor *of = &f[sequence[i]];
        by_row.f[by_row.n++] = (view_factor){of->size, of->from};
        by_col.f[by_col.n++] = (view_factor){of->size, of->to};
        n_cols *= of->size;
    }
    by_col.f[by_col.n++] = (view_factor){f[to_unit].size, 1};
    vtrn_dtype dtype = (vtrn_dtype)src->dtype;
    kernel_turn spec = {.from = by_row,
                        .to = by_col,
                        .n_rows = f[to_unit].size,
                        .n_cols = n_cols,
                        .n_col_factors = n_col_factors};
    choose_groups(p, dtype, f[to_unit].size, f[from_unit].size, &spec.row_group, &spec.col_group);
    kernel_demand demand = {
        .sbuf_bytes = tile_bytes(p->chip, spec.row_group * spec.col_group, dtype), .psum_banks = 1};
    VTRN_RETURN_IF_ERROR(plan_kernel(p, KERNEL_TURN, &spec, sizeof spec, demand));
    VTRN_RETURN_IF_ERROR(plan_reads(p, src));
    return plan_writes(p, dst);
}
