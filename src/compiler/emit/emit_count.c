/* Consecutive integers in memory. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/emit_transfer.h"
#include "compiler/plan/kernel.h"

/* A tile of the numbers first + column + row * n_cols, n_rows rows. */
static vtrn_status emit_numbers(emitter *e, const tile *t, int64_t first, int64_t step,
                                uint32_t n_rows, uint32_t n_cols) {
    EMIT(iota, e, IOTA, GPSIMD);
    iota->ap[0] = tile_ap(t, n_rows, n_cols);
    iota->arg[0] = (int32_t)(uint32_t)(uint64_t)first;
    iota->arg[1] = (int32_t)(uint32_t)(uint64_t)(step * n_cols);
    iota->ap[3] = (vtrn_ap){.n_dims = 1, .dim = {{(int32_t)step, n_cols}}};
    return NULL;
}

/* The words are written over all partitions. */
vtrn_status emit_count_kernel(emitter *e, const kernel *k) {
    const kernel_count *s = k->spec;
    int64_t first = s->first, step = s->step, n = s->n, cols = s->cols;
    tile t[2];
    for (int b = 0; b < 2; b++)
        t[b] = (tile){.space = VTRN_SPACE_SBUF,
                      .dtype = VTRN_DTYPE_INT32,
                      .addr = emit_sbuf_alloc(e, (uint64_t)cols * 4)};
    for (int64_t i = 0, b = 0; i < n; b ^= 1) {
        int64_t rows =
            (n - i) / cols < tile_max_rows(e->chip) ? (n - i) / cols : tile_max_rows(e->chip);
        int64_t n_cols = rows ? cols : n - i;
        rows = rows ? rows : 1;
        VTRN_RETURN_IF_ERROR(
            emit_numbers(e, &t[b], first + i * step, step, (uint32_t)rows, (uint32_t)n_cols));
        view part = {.slot = s->out.slot,
                     .dtype = VTRN_DTYPE_INT32,
                     .offset = s->out.offset + s->at + i,
                     .n = 2,
                     .f = {{rows, n_cols}, {n_cols, 1}}};
        VTRN_RETURN_IF_ERROR(
            emit_store(e, &(view_part){&part, 1, 0, rows, 0, n_cols}, &t[b], false));
        i += rows * n_cols;
    }
    return NULL;
}
