/* Turning copies: rows are loaded, transposed on the PE array, and stored as columns. Some tiles a
 * side go together, so that transfers are wide both ways. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/emit_transfer.h"
#include "compiler/emit/psum.h"
#include "compiler/plan/kernel.h"
#include "compiler/plan/turn.h"

enum { MAX_SIDE = 16 };

typedef struct turner {
    emitter *e;
    const kernel_turn *k;
    tile in[TURN_SETS][MAX_SIDE], out[TURN_BUFFERS];
    psum_banks banks;
    int set, buffer;
    int64_t r, c;            /* first row and column of the tiles at hand */
    uint32_t n_rows, n_cols; /* of them all */
} turner;

static uint32_t least(int64_t a, int64_t b) {
    return (uint32_t)(a < b ? a : b);
}

/* Columns [at, at + n_cols) of the rows at hand, as rows of the destination. */
static vtrn_status turn_columns(turner *s, uint32_t at, uint32_t n_cols) {
    emitter *e = s->e;
    uint32_t step = (uint32_t)tile_max_rows(e->chip);
    const tile *to = &s->out[s->buffer++ % TURN_BUFFERS];
    tile psum;
    VTRN_RETURN_IF_ERROR(psum_next(e, &s->banks, 1, &psum));
    psum.dtype = to->dtype;
    for (uint32_t r = 0; r < s->n_rows; r += step) {
        uint32_t rows = least(s->n_rows - r, step);
        EMIT(turn, e, PE_TRANSPOSE, TENSOR);
        turn->ap[0] = tile_ap_cols(&psum, n_cols, r, rows);
        turn->ap[1] = tile_ap_cols(&s->in[s->set][r / step], rows, at, n_cols);
    }
    vtrn_ap dst = tile_ap(to, n_cols, s->n_rows), src = tile_ap(&psum, n_cols, s->n_rows);
    VTRN_RETURN_IF_ERROR(emit_copy(e, &dst, &src));
    const view *by_col = &s->k->to;
    view_part part = {by_col, by_col->n - 1, s->c + at, n_cols, s->r, s->n_rows};
    return emit_store(e, &part, to, false);
}

static vtrn_status turn_tiles(turner *s) {
    uint32_t step = (uint32_t)tile_max_rows(s->e->chip);
    s->set = (s->set + 1) % TURN_SETS;
    for (uint32_t r = 0; r < s->n_rows; r += step) {
        view_part part = {&s->k->from, 1, s->r + r, least(s->n_rows - r, step), s->c, s->n_cols};
        VTRN_RETURN_IF_ERROR(emit_load(s->e, &part, &s->in[s->set][r / step]));
    }
    for (uint32_t at = 0; at < s->n_cols; at += step)
        VTRN_RETURN_IF_ERROR(turn_columns(s, at, least(s->n_cols - at, step)));
    return NULL;
}

static tile tile_of(turner *s, int side) {
    uint64_t n_bytes = (uint64_t)side * (uint64_t)tile_max_rows(s->e->chip) *
                       dtype_size((vtrn_dtype)s->k->from.dtype);
    return (tile){.space = VTRN_SPACE_SBUF,
                  .dtype = s->k->from.dtype,
                  .addr = emit_sbuf_alloc(s->e, n_bytes)};
}

/* Linear index of both: the destination's unit factor, then all others with the source's last. */
vtrn_status emit_turn_kernel(emitter *e, const kernel *k) {
    turner s = {.e = e, .k = k->spec};
    VTRN_CHECK(s.k->row_side <= MAX_SIDE, "tiles that go together have a buffer each");
    for (int set = 0; set < TURN_SETS; set++)
        for (int i = 0; i < s.k->row_side; i++)
            s.in[set][i] = tile_of(&s, s.k->col_side);
    for (int i = 0; i < TURN_BUFFERS; i++)
        s.out[i] = tile_of(&s, s.k->row_side);
    VTRN_RETURN_IF_ERROR(psum_take(e, e->chip->n_psum_banks, &s.banks));
    int64_t rows = (int64_t)s.k->row_side * tile_max_rows(e->chip);
    int64_t cols = (int64_t)s.k->col_side * tile_max_rows(e->chip);
    for (s.c = 0; s.c < s.k->n_cols; s.c += cols)
        for (s.r = 0; s.r < s.k->n_rows; s.r += rows) {
            s.n_rows = least(s.k->n_rows - s.r, rows);
            s.n_cols = least(s.k->n_cols - s.c, cols);
            VTRN_RETURN_IF_ERROR(turn_tiles(&s));
        }
    return NULL;
}
