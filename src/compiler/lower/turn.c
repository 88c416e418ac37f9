/* Transposing copies: rows are loaded as they lie in the source, turned on the PE array, and stored
 * as they lie in the destination. A DMA from layout to layout would name each element by itself. */
#include "compiler/lower/turn.h"

#include "compiler/emit/emit_kernels.h"
#include "compiler/lower/psum.h"
#include "cost/cost.h"

enum {
    N_BUFFERS = 4, /* tiles on their way, each way */
};

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
    double n_tiles;
    uint32_t rows, cols;      /* of a tile */
    int64_t from_run, to_run; /* elements, before a tile's edge cuts them */
    double n_parts;           /* transfers of a tile each way, on average */
} turning;

/* ns of a copy that names each element by itself. */
static double one_by_one_ns(const vtrn_chip *chip, double n_bytes) {
    return chip->dma.start_ns + chip->dma.complete_ns +
           cost_runs_ns(chip, n_bytes / chip->n_dma_engines, sizeof(float));
}

/* ns that each tile adds to the transfers one way. */
static double transfers_ns(const vtrn_chip *chip, const turning *t, bool is_store) {
    double n_rows = is_store ? t->cols : t->rows, n_cols = is_store ? t->rows : t->cols;
    double run = (double)(is_store ? t->to_run : t->from_run);
    transfer_cost cost =
        cost_tile_transfer(chip, is_store, n_rows, n_cols * sizeof(float), run * sizeof(float));
    return cost_transfer_interval_ns(chip, &cost, t->n_parts);
}

/* ns of the same by way of SBUF: the way of one tile, and for all of them what takes longest of the
 * transfers, the PE array and the Vector engine. */
static double turned_ns(const vtrn_chip *chip, const turning *t) {
    tile sbuf = {.space = VTRN_SPACE_SBUF, .dtype = VTRN_DTYPE_FP32};
    tile psum = {.space = VTRN_SPACE_PSUM, .dtype = VTRN_DTYPE_FP32};
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

static bool turning_pays(const lower *l, const view *src, const view *dst, const joint_factor *f,
                         int n) {
    int from_unit = unit_factor(f, n, true), to_unit = unit_factor(f, n, false);
    if (from_unit < 0 || to_unit < 0 || from_unit == to_unit || n > VIEW_MAX_FACTORS ||
        src->dtype != VTRN_DTYPE_FP32 || dst->dtype != VTRN_DTYPE_FP32)
        return false;                   /* the PE array passes types other than fp32 on in fp32 */
    view_factor cols[VIEW_MAX_FACTORS]; /* of turn_copy's tiles */
    int n_col_factors = 0;
    for (int i = 0; i < n; i++)
        if (i != from_unit && i != to_unit)
            cols[n_col_factors++].size = f[i].size;
    cols[n_col_factors++].size = f[from_unit].size;
    int64_t n_elements = view_count(src), n_rows = f[to_unit].size, n_cols = n_elements / n_rows;
    turning t = {.n_tiles = ceil((double)n_rows / lower_partitions(l)) *
                            ceil((double)n_cols / lower_partitions(l)),
                 .rows = (uint32_t)(n_rows < lower_partitions(l) ? n_rows : lower_partitions(l)),
                 .cols = (uint32_t)(n_cols < lower_partitions(l) ? n_cols : lower_partitions(l)),
                 .from_run = f[from_unit].size,
                 .to_run = n_rows};
    t.n_parts = view_mean_boxes(cols, n_col_factors, t.cols);
    return turned_ns(l->chip, &t) * min_gain <
           one_by_one_ns(l->chip, (double)n_elements * sizeof(float));
}

bool turn_helps(const lower *l, const view *v) {
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
    return turning_pays(l, v, v, f, from.n);
}

/* rows x cols of the source -> cols x rows of the destination. */
static vtrn_status turn_tile(lower *l, psum_banks *banks, const tile *in, const tile *out,
                             uint32_t rows, uint32_t cols) {
    tile psum;
    VTRN_RETURN_IF_ERROR(psum_next(l, banks, 1, &psum));
    vtrn_ap turned = tile_ap(&psum, cols, rows);
    LOWER_EMIT(turn, l, PE_TRANSPOSE, TENSOR);
    turn->ap[0] = turned;
    turn->ap[1] = tile_ap(in, rows, cols);
    LOWER_EMIT(copy, l, TENSOR_COPY, VECTOR);
    copy->ap[0] = tile_ap(out, cols, rows);
    copy->ap[1] = turned;
    return NULL;
}

/* Linear index of both: the destination's unit factor, then all others with the source's last. */
vtrn_status emit_turn_kernel(lower *l, const kernel *k) {
    const kernel_turn *spec = k->spec;
    const view *by_row = &spec->from, *by_col = &spec->to;
    int64_t n_rows = spec->n_rows, n_cols = spec->n_cols;
    tile in[N_BUFFERS], out[N_BUFFERS];
    uint32_t tile_bytes = lower_sbuf_round(lower_partitions(l) * sizeof(float));
    for (int i = 0; i < N_BUFFERS; i++) {
        in[i] = out[i] = (tile){.space = VTRN_SPACE_SBUF, .dtype = VTRN_DTYPE_FP32};
        in[i].addr = lower_sbuf_alloc(l, tile_bytes);
        out[i].addr = lower_sbuf_alloc(l, tile_bytes);
    }
    psum_banks banks;
    VTRN_RETURN_IF_ERROR(psum_take(l, l->chip->n_psum_banks, &banks));
    int turn_i = 0;
    for (int64_t c = 0; c < n_cols; c += lower_partitions(l))
        for (int64_t r = 0; r < n_rows; r += lower_partitions(l), turn_i++) {
            uint32_t rows =
                (uint32_t)(n_rows - r < lower_partitions(l) ? n_rows - r : lower_partitions(l));
            uint32_t cols =
                (uint32_t)(n_cols - c < lower_partitions(l) ? n_cols - c : lower_partitions(l));
            const tile *from = &in[turn_i % N_BUFFERS], *to = &out[turn_i % N_BUFFERS];
            VTRN_RETURN_IF_ERROR(lower_load(l, by_row, 1, r, rows, c, cols, from));
            VTRN_RETURN_IF_ERROR(turn_tile(l, &banks, from, to, rows, cols));
            VTRN_RETURN_IF_ERROR(
                lower_store(l, by_col, by_col->n - 1, c, cols, r, rows, to, false));
        }
    return NULL;
}

vtrn_status turn_copy(lower *l, const view *src, const view *dst, const joint_factor *f, int n,
                      bool *is_done) {
    *is_done = turning_pays(l, src, dst, f, n);
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
    uint64_t sbuf_bytes = 2ull * N_BUFFERS * lower_sbuf_round(lower_partitions(l) * sizeof(float));
    VTRN_RETURN_IF_ERROR(lower_kernel(l, KERNEL_TURN, &spec, sizeof spec, sbuf_bytes));
    VTRN_RETURN_IF_ERROR(plan_reads(&l->plan, src));
    return plan_writes(&l->plan, dst);
}
