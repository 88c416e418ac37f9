/* Which elements of a tensor are where in SBUF. */
#include "compiler/plan/resident.h"

#include "compiler/plan/fusion_nodes.h"

uint32_t resident_pitch(uint8_t dtype, int64_t cols) {
    return sbuf_round((uint64_t)cols * dtype_size((vtrn_dtype)dtype));
}

int64_t resident_tiles(int64_t rows, int64_t row_step, int64_t batch_rows) {
    int64_t batch = batch_rows ? batch_rows : rows;
    int64_t n_batches = batch ? rows / batch : 0;
    return n_batches * ((batch + row_step - 1) / row_step);
}

/* The row among those of its batch. */
static int64_t row_of_batch(const resident *r, int64_t row) {
    return r->batch_rows ? row % r->batch_rows : row;
}

tile resident_tile(const resident *r, int64_t row, int64_t col) {
    int64_t before = r->batch_rows ? row / r->batch_rows * r->batch_rows : 0;
    int64_t tile_i =
        resident_tiles(before, r->row_step, r->batch_rows) + (row - before) / r->row_step;
    return (tile){.space = VTRN_SPACE_SBUF,
                  .dtype = r->dtype,
                  .addr = r->addr + (uint32_t)tile_i * r->pitch +
                          (uint32_t)((uint64_t)col * dtype_size((vtrn_dtype)r->dtype))};
}

/* A stretch of a view as one run: elements that are `stride` apart, from `offset` on. */
typedef struct run {
    int64_t offset, stride;
    int n_boxes; /* 1 if it is one */
} run;

static vtrn_status on_box(void *ctx, const view_box *box) {
    run *r = ctx;
    r->n_boxes += box->n > 1 ? 2 : 1;
    r->offset = box->offset;
    r->stride = box->n ? box->f[0].stride : 0;
    return NULL;
}

static bool is_run(const view_factor *f, int n, int64_t begin, int64_t count, run *out) {
    *out = (run){0};
    vtrn_status none = view_for_boxes(f, n, begin, begin + count, on_box, out);
    return !none && out->n_boxes == 1;
}

/* *out: from which partition on, too. */
static bool holds(const resident *r, const view_part *part, uint8_t dtype, tile *out) {
    const view *v = part->v;
    run row, col;
    vtrn_dtype in_memory;
    fusion_tile_dtype((vtrn_dtype)v->dtype, &in_memory);
    if (v->slot != r->slot || in_memory != dtype ||
        dtype_size(in_memory) != dtype_size((vtrn_dtype)r->dtype) ||
        !is_run(v->f, part->n_outer, part->r0, part->n_rows, &row) ||
        !is_run(v->f + part->n_outer, v->n - part->n_outer, part->c0, part->n_cols, &col))
        return false;
    int64_t at = v->offset + row.offset + col.offset;
    int64_t first_row = at / r->cols, first_col = at % r->cols;
    int64_t in_batch = row_of_batch(r, first_row), partition = in_batch % r->row_step;
    bool is_there = at >= 0 && (part->n_rows == 1 || row.stride == r->cols) &&
                    (part->n_cols == 1 || col.stride == 1) &&
                    partition + part->n_rows <= r->row_step &&
                    (!r->batch_rows || in_batch + part->n_rows <= r->batch_rows) &&
                    first_row + part->n_rows <= r->rows && first_col + part->n_cols <= r->cols;
    if (!is_there)
        return false;
    *out = resident_tile(r, first_row, first_col);
    out->partition = (uint16_t)partition;
    out->dtype = dtype; /* a view may see the same bits as another type */
    return true;
}

bool resident_holds(const resident *r, const view_part *part, uint8_t dtype, tile *out) {
    tile unused;
    out = out ? out : &unused;
    return holds(r, part, dtype, out) && out->partition == 0;
}

/* Where an operand may start. Source: docs/hardware.md. */
bool resident_holds_rows(const resident *r, const view_part *part, uint8_t dtype, tile *out) {
    enum { GROUP = 32, HALF = 64 };
    if (!holds(r, part, dtype, out))
        return false;
    int64_t n = part->n_rows, from = out->partition;
    return from == 0 || (n <= GROUP && from % GROUP == 0) || (n <= HALF && from == HALF);
}
