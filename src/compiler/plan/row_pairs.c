#include "compiler/plan/row_pairs.h"

#include "compiler/plan/psum_banks.h"
#include "compiler/plan/sum_parts.h"
#include "compiler/plan/tile.h"
#include "cost/cost.h"

#include <math.h>

enum {
    PANEL_BYTES = 4096, /* of a row, moved at a time: a descriptor */
};

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* What emit_row_pairs.c places. */
static uint64_t bytes_of(const plan *p, const kernel_row_pairs *k) {
    uint64_t in = dtype_size((vtrn_dtype)k->updates.dtype), one = SBUF_ALIGN;
    uint64_t out = dtype_size((vtrn_dtype)k->out.dtype), n_blocks = (uint64_t)k->n_blocks;
    uint64_t rows = (uint64_t)tile_max_rows(p->chip), cols = (uint64_t)k->cols;
    uint64_t of_all =
        sbuf_round(n_blocks * rows * in) + (uint64_t)k->n_parts * sbuf_round(cols * in);
    uint64_t index = sbuf_round(((uint64_t)k->n + rows - 1) / rows * 4);
    uint64_t of_blocks = n_blocks * (2 * one + sbuf_round((uint64_t)k->panel_cols * out));
    uint64_t constants = 2 * sbuf_round(rows * in) + 2 * one;
    uint64_t of_parts = k->is_finite ? 0 : one + 2 * sbuf_round(cols * sizeof(float));
    return index + ROW_PAIRS_BUFFERS * of_all + sbuf_round(n_blocks * rows * 4) + of_blocks +
           constants + of_parts;
}

/* ns of the Vector engine for one block of updates beside those at hand: indices are compared, and
 * what is not finite is taken out of the updates. */
static double compare_ns(const plan *p, const kernel_row_pairs *k) {
    tile sbuf = {.space = VTRN_SPACE_SBUF, .dtype = VTRN_DTYPE_FP32};
    uint32_t rows = (uint32_t)tile_max_rows(p->chip);
    vtrn_instr op = {.opcode = VTRN_OP_TENSOR_SCALAR, .engine = VTRN_ENGINE_VECTOR};
    op.ap[0] = op.ap[1] = tile_ap(&sbuf, rows, (uint32_t)k->n_blocks * rows);
    double ns = cost_instr(p->chip, &op).ii_ns;
    op.ap[0] = op.ap[1] = tile_ap(&sbuf, rows, (uint32_t)k->cols);
    return ns + (k->is_finite ? 0 : 4 * cost_instr(p->chip, &op).ii_ns);
}

/* ns of all blocks of updates beside each other: for each two the PE array has weights and sums. */
static double pairs_ns(const plan *p, const kernel_row_pairs *k) {
    tile sbuf = {.space = VTRN_SPACE_SBUF, .dtype = k->updates.dtype};
    tile psum = {.space = VTRN_SPACE_PSUM, .dtype = VTRN_DTYPE_FP32};
    uint32_t rows = (uint32_t)tile_max_rows(p->chip);
    vtrn_instr weights = {.opcode = VTRN_OP_LDWEIGHTS, .engine = VTRN_ENGINE_TENSOR};
    weights.ap[1] = tile_ap(&sbuf, rows, rows);
    vtrn_instr sum = {.opcode = VTRN_OP_MATMUL, .engine = VTRN_ENGINE_TENSOR};
    sum.ap[0] = tile_ap(&psum, rows, (uint32_t)k->cols);
    sum.ap[1] = tile_ap(&sbuf, rows, (uint32_t)k->cols);
    double n_blocks = ceil((double)k->n / rows);
    double n_chunks = ceil((double)k->width / (double)k->cols);
    double sums_ns =
        cost_instr(p->chip, &weights).ii_ns + k->n_parts * cost_instr(p->chip, &sum).ii_ns;
    double n_groups = ceil(n_blocks / k->n_blocks);
    return n_groups * n_blocks * n_chunks * fmax(k->n_blocks * sums_ns, compare_ns(p, k));
}

/* ns of the two copies of the table. */
static double copies_ns(const plan *p, const kernel_row_pairs *k) {
    double n_bytes = (double)k->rows * (double)k->width * sizeof(float);
    return 2 * cost_runs_ns(p->chip, n_bytes / p->chip->n_dma_engines,
                            p->chip->dma.max_descriptor_bytes);
}

bool row_pairs_pay(const plan *p, kernel_row_pairs *k, uint64_t *sbuf_bytes) {
    int64_t rows = tile_max_rows(p->chip),
            out_bytes = (int64_t)dtype_size((vtrn_dtype)k->out.dtype);
    if (out_bytes == 0 || k->width == 0)
        return false;
    k->n_parts = k->is_finite ? 1 : FLOAT_PARTS;
    k->n_blocks = (int)least(least((p->chip->n_psum_banks - 1) / k->n_parts, ROW_PAIRS_MAX_BLOCKS),
                             (k->n + rows - 1) / rows);
    k->cols = least(k->width, psum_cols(p->chip));
    k->panel_cols = PANEL_BYTES / out_bytes / k->cols * k->cols;
    k->panel_cols = least(k->width, k->panel_cols ? k->panel_cols : k->cols);
    if (k->n_blocks == 0)
        return false;
    for (; (*sbuf_bytes = bytes_of(p, k)) > p->sbuf_limit;
         k->panel_cols = least(k->panel_cols, k->cols)) {
        if (k->n_blocks > 1)
            k->n_blocks /= 2;
        else if (k->cols > 1)
            k->cols /= 2;
        else
            return false;
    }
    return pairs_ns(p, k) < copies_ns(p, k);
}
