/* Turning copies: rows are loaded, transposed on the PE array, and stored as columns. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/emit_transfer.h"
#include "compiler/emit/psum.h"
#include "compiler/plan/kernel.h"
#include "compiler/plan/turn.h"

/* rows x cols of the source -> cols x rows of the destination. */
static vtrn_status turn_tile(emitter *e, psum_banks *banks, const tile *in, const tile *out,
                             uint32_t rows, uint32_t cols) {
    tile psum;
    VTRN_RETURN_IF_ERROR(psum_next(e, banks, 1, &psum));
    psum.dtype = in->dtype;
    vtrn_ap turned = tile_ap(&psum, cols, rows);
    EMIT(turn, e, PE_TRANSPOSE, TENSOR);
    turn->ap[0] = turned;
    turn->ap[1] = tile_ap(in, rows, cols);
    EMIT(copy, e, TENSOR_COPY, VECTOR);
    copy->ap[0] = tile_ap(out, cols, rows);
    copy->ap[1] = turned;
    return NULL;
}

/* Linear index of both: the destination's unit factor, then all others with the source's last. */
vtrn_status emit_turn_kernel(emitter *e, const kernel *k) {
    const kernel_turn *spec = k->spec;
    const view *by_row = &spec->from, *by_col = &spec->to;
    int64_t n_rows = spec->n_rows, n_cols = spec->n_cols;
    tile in[TURN_BUFFERS], out[TURN_BUFFERS];
    uint32_t tile_bytes = sbuf_round(tile_max_rows(e->chip) * sizeof(float));
    for (int i = 0; i < TURN_BUFFERS; i++) {
        in[i] = out[i] = (tile){.space = VTRN_SPACE_SBUF, .dtype = by_row->dtype};
        in[i].addr = emit_sbuf_alloc(e, tile_bytes);
        out[i].addr = emit_sbuf_alloc(e, tile_bytes);
    }
    psum_banks banks;
    VTRN_RETURN_IF_ERROR(psum_take(e, e->chip->n_psum_banks, &banks));
    int turn_i = 0;
    for (int64_t c = 0; c < n_cols; c += tile_max_rows(e->chip))
        for (int64_t r = 0; r < n_rows; r += tile_max_rows(e->chip), turn_i++) {
            uint32_t rows =
                (uint32_t)(n_rows - r < tile_max_rows(e->chip) ? n_rows - r
                                                               : tile_max_rows(e->chip));
            uint32_t cols =
                (uint32_t)(n_cols - c < tile_max_rows(e->chip) ? n_cols - c
                                                               : tile_max_rows(e->chip));
            const tile *from = &in[turn_i % TURN_BUFFERS], *to = &out[turn_i % TURN_BUFFERS];
            VTRN_RETURN_IF_ERROR(emit_load(e, &(view_part){by_row, 1, r, rows, c, cols}, from));
            VTRN_RETURN_IF_ERROR(turn_tile(e, &banks, from, to, rows, cols));
            VTRN_RETURN_IF_ERROR(
                emit_store(e, &(view_part){by_col, by_col->n - 1, c, cols, r, rows}, to, false));
        }
    return NULL;
}
