/* Scans along rows: cumsum and its like. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/emit_transfer.h"
#include "compiler/plan/kernel.h"

/* One pass of the Vector engine: res[i] = (x[i] op res[i-1]) op y[i]. A sum is 1 * res[i-1] + x[i];
 * a product has ones for y; to a maximum or minimum x adds nothing the second time. */
static vtrn_status emit_pass(const kernel_scan *s, emitter *e, const tile *pair, const tile *one,
                             uint32_t rows, uint32_t cols) {
    vtrn_ap x = tile_ap(&pair[0], rows, cols), ones = tile_ap(one, rows, cols);
    ones.dim[0].step = 0;
    EMIT(scan, e, TENSOR_TENSOR_SCAN, VECTOR);
    scan->op0 = (uint8_t)(s->alu == VTRN_ALU_ADD ? VTRN_ALU_MULTIPLY : s->alu);
    scan->op1 = (uint8_t)s->alu;
    scan->imm[0].f = s->init;
    scan->ap[0] = tile_ap(&pair[1], rows, cols);
    scan->ap[1] = s->alu == VTRN_ALU_ADD ? ones : x;
    scan->ap[2] = s->alu == VTRN_ALU_MULTIPLY ? ones : x;
    return NULL;
}

/* Integers of 32 bits: each element is combined with the one 1, 2, 4, ... places before it, on
 * GpSimd, from one tile to the other. *result: the tile that has the end of it. */
static vtrn_status emit_doubling(emitter *e, vtrn_alu op, const tile *t, uint32_t rows,
                                 uint32_t cols, int *result) {
    int at = 0;
    for (uint32_t step = 1; step < cols; step *= 2, at ^= 1) {
        EMIT(copy, e, TENSOR_COPY, VECTOR);
        copy->ap[0] = tile_ap_cols(&t[at ^ 1], rows, 0, step);
        copy->ap[1] = tile_ap_cols(&t[at], rows, 0, step);
        EMIT(add, e, TENSOR_TENSOR, GPSIMD);
        add->op0 = (uint8_t)op;
        add->ap[0] = tile_ap_cols(&t[at ^ 1], rows, step, cols - step);
        add->ap[1] = tile_ap_cols(&t[at], rows, step, cols - step);
        add->ap[2] = tile_ap_cols(&t[at], rows, 0, cols - step);
    }
    *result = at;
    return NULL;
}

/* Where the tiles of a scan are. Pairs take turns. */
typedef struct scan_tiles {
    tile pair[2][2], one;
    int pair_i;
} scan_tiles;

static vtrn_status place_tiles(emitter *e, const kernel_scan *s, scan_tiles *t) {
    t->pair_i = 0;
    for (int i = 0; i < SCAN_TILES; i++)
        t->pair[i / 2][i % 2] = (tile){.space = VTRN_SPACE_SBUF,
                                       .dtype = s->dtype,
                                       .addr = emit_sbuf_alloc(e, (uint64_t)s->tile_cols * 4)};
    t->one =
        (tile){.space = VTRN_SPACE_SBUF, .dtype = VTRN_DTYPE_FP32, .addr = emit_sbuf_alloc(e, 4)};
    if (s->dtype != VTRN_DTYPE_FP32)
        return NULL;
    EMIT(fill, e, MEMSET, VECTOR);
    fill->ap[0] = tile_ap(&t->one, tile_max_rows(e->chip), 1);
    fill->imm[0].f = 1;
    return NULL;
}

/* Rows [r, r + rows). A block begins with the result of the one before it, so that a row is summed
 * up in the order of its elements however it is cut. */
static vtrn_status scan_rows(emitter *e, const kernel_scan *s, scan_tiles *t, int64_t r,
                             uint32_t rows) {
    const tile *made = NULL;
    uint32_t n_made = 0;
    for (uint32_t c = 0; c < s->cols; t->pair_i ^= 1) {
        const tile *pair = t->pair[t->pair_i];
        uint32_t n_left = made ? 1 : 0, room = s->tile_cols - n_left;
        uint32_t n = s->cols - c < room ? s->cols - c : room;
        if (made) {
            vtrn_ap first = tile_ap(&pair[0], rows, 1);
            vtrn_ap last = tile_ap_cols(made, rows, n_made - 1, 1);
            VTRN_RETURN_IF_ERROR(emit_copy(e, &first, &last));
        }
        tile part = pair[0];
        part.addr += n_left * 4;
        VTRN_RETURN_IF_ERROR(
            emit_load(e, &(view_part){&s->from.map, s->from.n_outer, r, rows, c, n}, &part));
        n_made = n_left + n;
        int at = 1;
        VTRN_RETURN_IF_ERROR(s->dtype == VTRN_DTYPE_FP32
                                 ? emit_pass(s, e, pair, &t->one, rows, n_made)
                                 : emit_doubling(e, s->alu, pair, rows, n_made, &at));
        made = &pair[at];
        part = *made;
        part.addr += n_left * 4;
        VTRN_RETURN_IF_ERROR(
            emit_store(e, &(view_part){&s->to.map, s->to.n_outer, r, rows, c, n}, &part, false));
        c += n;
    }
    return NULL;
}

vtrn_status emit_scan_kernel(emitter *e, const kernel *k) {
    const kernel_scan *s = k->spec;
    scan_tiles t;
    VTRN_RETURN_IF_ERROR(place_tiles(e, s, &t));
    for (int64_t r = 0; r < s->n_rows; r += tile_max_rows(e->chip))
        VTRN_RETURN_IF_ERROR(
            scan_rows(e, s, &t, r,
                      (uint32_t)(s->n_rows - r < tile_max_rows(e->chip) ? s->n_rows - r
                                                                        : tile_max_rows(e->chip))));
    return NULL;
}
