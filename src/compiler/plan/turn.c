/* Transposing copies: rows are loaded as they lie in the source, turned on the PE array, and stored
 * as they lie in the destination. A DMA from layout to layout would name each element by itself. */
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

/* What a copy between two layouts looks like from SBUF: tiles of at most 128 rows and columns,
 * whose elements lie in the source in runs along the rows and in the destination along the columns.
 */
typedef struct turning {
    uint8_t dtype;
    double n_tiles;
    uint32_t rows, cols;      /* of a tile */
    int64_t from_run, to_run; /* elements, before a tile's edge cuts them */
    double n_parts;           /* transfers of a tile each way, on average */
} turning;

/* ns of a copy that names each element by itself. */
static double one_by_one_ns(const vtrn_chip *chip, double n_elements, double size) {
    return chip->dma.start_ns + chip->dma.complete_ns +
           cost_runs_ns(chip, n_elements * size / chip->n_dma_engines, size);
}

/* ns that each tile adds to the transfers one way. */
static double transfers_ns(const vtrn_chip *chip, const turning *t, bool is_store) {
    double n_rows = is_store ? t->cols : t->rows, n_cols = is_store ? t->rows : t->cols;
    double run = (double)(is_store ? t->to_run : t->from_run);
    double size = (double)dtype_size((vtrn_dtype)t->dtype);
    transfer_cost cost = cost_tile_transfer(chip, is_store, n_rows, n_cols * size, run * size);
    return cost_transfer_interval_ns(chip, &cost, t->n_parts);
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
    copy.ap[0] = tile_ap(&sbuf, t->cols, t->rows);
    copy.ap[1] = turn.ap[0];
    instr_cost turn_cost = cost_instr(chip, &turn), copy_cost = cost_instr(chip, &copy);
    double tile_ns = fmax(turn_cost.ii_ns, copy_cost.ii_ns);
    double dma_ns = transfers_ns(chip, t, false) + transfers_ns(chip, t, true);
    return 2 * (chip->dma.start_ns + chip->dma.complete_ns) + turn_cost.latency_ns +
           copy_cost.latency_ns + t->n_tiles * fmax(dma_ns, tile_ns);
}

/* Types that the PE array passes on as they are. */
static bool is_turnable(vtrn_dtype t) {
    return t == VTRN_DTYPE_FP32 || t == VTRN_DTYPE_BF16 || t == VTRN_DTYPE_FP16;
}

static bool turning_pays(const plan *p, const view *src, const view *dst, const joint_factor *f,
                         int n) {
    int from_unit = unit_factor(f, n, true), to_unit = unit_factor(f, n, false);
    if (from_unit < 0 || to_unit < 0 || from_unit == to_unit || n > VIEW_MAX_FACTORS ||
        src->dtype != dst->dtype || !is_turnable((vtrn_dtype)src->dtype))
        return false;
    view_factor cols[VIEW_MAX_FACTORS]; /* of turn_copy's tiles */
    int n_col_factors = 0;
    for (int i = 0; i < n; i++)
        if (i != from_unit && i != to_unit)
            cols[n_col_factors++].size = f[i].size;
    cols[n_col_factors++].size = f[from_unit].size;
    int64_t n_elements = view_count(src), n_rows = f[to_unit].size, n_cols = n_elements / n_rows;
    turning t = {
        .dtype = src->dtype,
        .n_tiles = ceil((double)n_rows / tile_max_rows(p->chip)) *
                   ceil((double)n_cols / tile_max_rows(p->chip)),
        .rows = (uint32_t)(n_rows < tile_max_rows(p->chip) ? n_rows : tile_max_rows(p->chip)),
        .cols = (uint32_t)(n_cols < tile_max_rows(p->chip) ? n_cols : tile_max_rows(p->chip)),
        .from_run = f[from_unit].size,
        .to_run = n_rows};
    t.n_parts = view_mean_boxes(cols, n_col_factors, t.cols);
    return turned_ns(p->chip, &t) * min_gain <
           one_by_one_ns(p->chip, (double)n_elements, (double)dtype_size((vtrn_dtype)src->dtype));
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
    view by_row = {.slot = src->slot, .dtype = src->dtype, .offset = src->offset, .n = 1};
    view by_col = {.slot = dst->slot, .dtype = dst->dtype, .offset = dst->offset};
    by_row.f[0] = (view_factor){f[to_unit].size, f[to_unit].from};
    int64_t n_cols = 1;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < n; i++) {
            if (i == to_unit || (i == from_unit) != (pass == 1))
                continue;
            by_row.f[by_row.n++] = (view_factor){f[i].size, f[i].from};
            by_col.f[by_col.n++] = (view_factor){f[i].size, f[i].to};
            n_cols *= f[i].size;
        }
    by_col.f[by_col.n++] = (view_factor){f[to_unit].size, 1};
    kernel_turn spec = {by_row, by_col, f[to_unit].size, n_cols};
    kernel_demand demand = {.sbuf_bytes = 2ull * TURN_BUFFERS *
                                          sbuf_round(tile_max_rows(p->chip) * sizeof(float)),
                            .psum_banks = 1};
    VTRN_RETURN_IF_ERROR(plan_kernel(p, KERNEL_TURN, &spec, sizeof spec, demand));
    VTRN_RETURN_IF_ERROR(plan_reads(p, src));
    return plan_writes(p, dst);
}
