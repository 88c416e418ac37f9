/* Transposing copies: rows are loaded as they lie in the source, turned on the PE array, and stored
 * as they lie in the destination. A DMA from layout to layout would name each element by itself. */
#include "compiler/lower/turn.h"

#include "compiler/emit/emit_kernels.h"
#include "compiler/lower/psum.h"

enum {
    PARTITIONS = 128,
    N_BUFFERS = 4, /* tiles on their way, each way */
    MIN_RUN = 16,  /* elements that have to lie side by side for a row to be worth a descriptor */
    MIN_GAIN = 4,  /* how many times a transfer's fixed time must be saved: assumed */
};

/* The factor along which a side is contiguous; -1: none. */
static int unit_factor(const joint_factor *f, int n, bool is_source) {
    for (int i = n - 1; i >= 0; i--)
        if (f[i].size > 1 && (is_source ? f[i].from : f[i].to) == 1)
            return i;
    return -1;
}

static bool turning_pays(const lower *l, const view *src, const view *dst, const joint_factor *f,
                         int from_unit, int to_unit) {
    const vtrn_chip *chip = l->chip;
    if (from_unit < 0 || to_unit < 0 || from_unit == to_unit || src->dtype != VTRN_DTYPE_FP32 ||
        dst->dtype != VTRN_DTYPE_FP32) /* the PE array passes other types on in fp32 */
        return false;
    double one_by_one_ns = (double)view_count(src) * chip->dma.element_ns / chip->n_dma_engines;
    return f[from_unit].size >= MIN_RUN && f[to_unit].size >= MIN_RUN &&
           one_by_one_ns > MIN_GAIN * (chip->dma.start_ns + chip->dma.complete_ns);
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
    return turning_pays(l, v, v, f, unit_factor(f, from.n, true), unit_factor(f, from.n, false));
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
    uint32_t tile_bytes = lower_sbuf_round(PARTITIONS * sizeof(float));
    for (int i = 0; i < N_BUFFERS; i++) {
        in[i] = out[i] = (tile){.space = VTRN_SPACE_SBUF, .dtype = VTRN_DTYPE_FP32};
        in[i].addr = lower_sbuf_alloc(l, tile_bytes);
        out[i].addr = lower_sbuf_alloc(l, tile_bytes);
    }
    psum_banks banks;
    VTRN_RETURN_IF_ERROR(psum_take(l, l->chip->n_psum_banks, &banks));
    int turn_i = 0;
    for (int64_t c = 0; c < n_cols; c += PARTITIONS)
        for (int64_t r = 0; r < n_rows; r += PARTITIONS, turn_i++) {
            uint32_t rows = (uint32_t)(n_rows - r < PARTITIONS ? n_rows - r : PARTITIONS);
            uint32_t cols = (uint32_t)(n_cols - c < PARTITIONS ? n_cols - c : PARTITIONS);
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
    int from_unit = unit_factor(f, n, true), to_unit = unit_factor(f, n, false);
    *is_done = n <= VIEW_MAX_FACTORS && turning_pays(l, src, dst, f, from_unit, to_unit);
    if (!*is_done)
        return NULL;
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
    uint64_t sbuf_bytes = 2ull * N_BUFFERS * lower_sbuf_round(PARTITIONS * sizeof(float));
    VTRN_RETURN_IF_ERROR(lower_kernel(l, KERNEL_TURN, &spec, sizeof spec, sbuf_bytes));
    VTRN_RETURN_IF_ERROR(plan_reads(&l->plan, src));
    return plan_writes(&l->plan, dst);
}
