/* Turning copies: rows are loaded, transposed on the PE array, and stored as columns. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/emit_transfer.h"
#include "compiler/emit/psum.h"
#include "compiler/plan/kernel.h"
#include "compiler/plan/turn.h"

typedef struct turn_work {
    emitter *e;
    const kernel_turn *spec;
    tile in[TURN_BUFFERS], out[TURN_BUFFERS];
    psum_banks banks;
    int turn_i;
} turn_work;

/* A part of one matrix: rows [r, r + n_rows) and columns [c, c + n_cols), multiples of the groups.
 * Its matrix begins at from_at and to_at. */
typedef struct turn_part {
    int64_t from_at, to_at;
    int64_t r, n_rows, c, n_cols;
    int row_group, col_group;
} turn_part;

/* Of a group of rows on each partition the PE array writes the columns in turn: so they are in
 * PSUM, and are stored, in the order of the rows. Of a group of columns it reads one after the
 * other and writes them side by side. */
static vtrn_status turn_groups(turn_work *w, const turn_part *p, const tile *in, tile *psum) {
    uint32_t n_in = (uint32_t)(p->n_rows / p->row_group);
    uint32_t n_out = (uint32_t)(p->n_cols / p->col_group);
    VTRN_RETURN_IF_ERROR(psum_next(w->e, &w->banks, 1, psum));
    psum->dtype = in->dtype;
    for (int i = 0; i < p->row_group * p->col_group; i++) {
        uint32_t to = p->col_group > 1 ? (uint32_t)i * n_in : (uint32_t)i;
        uint32_t from = p->col_group > 1 ? (uint32_t)i : (uint32_t)i * n_out;
        EMIT(turn, w->e, PE_TRANSPOSE, TENSOR);
        turn->ap[0] = tile_ap_cols(psum, n_out, to, n_in);
        turn->ap[0].dim[0].step = p->row_group;
        turn->ap[1] = tile_ap_cols(in, n_in, from, n_out);
        turn->ap[1].dim[0].step = p->col_group;
    }
    return NULL;
}

static vtrn_status turn_tile(turn_work *w, const turn_part *p) {
    const view *from = &w->spec->from, *to = &w->spec->to;
    const view_factor *row = &from->f[0], *col = &to->f[to->n - 2];
    const tile *in = &w->in[w->turn_i % TURN_BUFFERS], *out = &w->out[w->turn_i % TURN_BUFFERS];
    int64_t n_in = p->n_rows / p->row_group, n_out = p->n_cols / p->col_group;
    int64_t n_per_in = p->n_cols * p->row_group, n_per_out = p->n_rows * p->col_group;
    view rows = {.slot = from->slot, .dtype = from->dtype, .n = 3};
    rows.offset = p->from_at + p->r * row->stride + p->c;
    rows.f[0] = (view_factor){n_in, row->stride * p->row_group};
    rows.f[1] = (view_factor){p->row_group, row->stride};
    rows.f[2] = (view_factor){p->n_cols, 1};
    view cols = {.slot = to->slot, .dtype = to->dtype, .offset = p->to_at + p->r};
    view_part stored = {&cols, 1, 0, n_out, 0, n_per_out};
    if (p->col_group > 1) { /* of one factor, which makes enough columns by itself */
        cols.offset += p->c * col->stride;
        cols.f[cols.n++] = (view_factor){n_out, col->stride * p->col_group};
        cols.f[cols.n++] = (view_factor){p->col_group, col->stride};
    } else {
        for (int i = to->n - 1 - w->spec->n_col_factors; i < to->n - 1; i++)
            cols.f[cols.n++] = to->f[i];
        stored = (view_part){&cols, cols.n, p->c, n_out, 0, n_per_out};
    }
    cols.f[cols.n++] = (view_factor){p->n_rows, 1};
    tile psum;
    w->turn_i++;
    VTRN_RETURN_IF_ERROR(emit_load(w->e, &(view_part){&rows, 1, 0, n_in, 0, n_per_in}, in));
    VTRN_RETURN_IF_ERROR(turn_groups(w, p, in, &psum));
    vtrn_ap turned = tile_ap(&psum, (uint32_t)n_out, (uint32_t)n_per_out);
    vtrn_ap kept = tile_ap(out, (uint32_t)n_out, (uint32_t)n_per_out);
    VTRN_RETURN_IF_ERROR(emit_copy(w->e, &kept, &turned)); /* which keeps the bits of any NaN */
    return emit_store(w->e, &stored, out, false);
}

/* The next part of n that is whole groups of 128; what makes no group is a part of its own. */
static int64_t next_part(int64_t n, int64_t most, int *group) {
    int64_t part = n < most * *group ? n : most * *group;
    if (part >= *group)
        return part - part % *group;
    *group = 1;
    return part < most ? part : most;
}

static vtrn_status turn_matrix(turn_work *w, int64_t from_at, int64_t to_at) {
    const view *from = &w->spec->from;
    int64_t most = tile_max_rows(w->e->chip);
    int64_t n_rows = w->spec->n_rows, n_cols = 1;
    for (int i = from->n - w->spec->n_col_factors; i < from->n; i++)
        n_cols *= from->f[i].size;
    for (int64_t c = 0, n_c; c < n_cols; c += n_c) {
        int col_group = w->spec->col_group;
        n_c = next_part(n_cols - c, most, &col_group);
        for (int64_t r = 0, n_r; r < n_rows; r += n_r) {
            int row_group = w->spec->row_group;
            n_r = next_part(n_rows - r, most, &row_group);
            turn_part p = {from_at, to_at, r, n_r, c, n_c, row_group, col_group};
            VTRN_RETURN_IF_ERROR(turn_tile(w, &p));
        }
    }
    return NULL;
}

/* Every matrix: one for each index of the factors that make neither rows nor columns. */
static vtrn_status turn_matrices(turn_work *w, int factor, int64_t from_at, int64_t to_at) {
    const view *from = &w->spec->from, *to = &w->spec->to;
    if (factor == from->n - w->spec->n_col_factors)
        return turn_matrix(w, from_at, to_at);
    for (int64_t i = 0; i < from->f[factor].size; i++)
        VTRN_RETURN_IF_ERROR(turn_matrices(w, factor + 1, from_at + i * from->f[factor].stride,
                                           to_at + i * to->f[factor - 1].stride));
    return NULL;
}

vtrn_status emit_turn_kernel(emitter *e, const kernel *k) {
    turn_work w = {.e = e, .spec = k->spec};
    uint8_t dtype = w.spec->from.dtype;
    uint64_t n_bytes = (uint64_t)tile_max_rows(e->chip) *
                       (uint32_t)(w.spec->row_group * w.spec->col_group) *
                       dtype_size((vtrn_dtype)dtype);
    for (int i = 0; i < TURN_BUFFERS; i++) {
        w.in[i] = w.out[i] = (tile){.space = VTRN_SPACE_SBUF, .dtype = dtype};
        w.in[i].addr = emit_sbuf_alloc(e, n_bytes);
        w.out[i].addr = emit_sbuf_alloc(e, n_bytes);
    }
    VTRN_RETURN_IF_ERROR(psum_take(e, e->chip->n_psum_banks, &w.banks));
    return turn_matrices(&w, 1, w.spec->from.offset, w.spec->to.offset);
}
