/* Whole rows of a table by indirect DMA. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/emit_transfer.h"
#include "compiler/plan/kernel.h"

vtrn_status emit_row_gather_kernel(emitter *e, const kernel *k) {
    const kernel_row_gather *s = k->spec;
    const view *table = &s->table, *indices = &s->indices, *out = &s->out;
    int64_t n = s->n, width = s->width, cols = s->cols;
    int64_t element = (int64_t)dtype_size((vtrn_dtype)table->dtype);
    uint32_t row_bytes = sbuf_round((uint64_t)(cols * element));
    tile index[2], row[2];
    for (int b = 0; b < 2; b++) {
        index[b] = (tile){
            .space = VTRN_SPACE_SBUF, .dtype = indices->dtype, .addr = emit_sbuf_alloc(e, 4)};
        row[b] = (tile){
            .space = VTRN_SPACE_SBUF, .dtype = table->dtype, .addr = emit_sbuf_alloc(e, row_bytes)};
    }
    view index_rows = {.slot = indices->slot,
                       .dtype = indices->dtype,
                       .offset = indices->offset,
                       .n = 1,
                       .f = {{n, 1}}};
    view out_rows = {.slot = out->slot, .dtype = out->dtype, .n = 2, .f = {{n, width}, {width, 1}}};
    int flip = 0;
    for (int64_t i = 0; i < n; i += tile_max_rows(e->chip), flip ^= 1) {
        uint32_t n_rows =
            (uint32_t)(n - i < tile_max_rows(e->chip) ? n - i : tile_max_rows(e->chip));
        VTRN_RETURN_IF_ERROR(
            emit_load(e, &(view_part){&index_rows, 1, i, n_rows, 0, 1}, &index[flip]));
        for (int64_t c = 0; c < width; c += cols) {
            uint32_t n_cols = (uint32_t)(width - c < cols ? width - c : cols);
            named_rows rows = {table, s->n_table_rows, width, c, n_rows, n_cols};
            VTRN_RETURN_IF_ERROR(emit_named_rows(e, &rows, &row[flip], &index[flip], false));
            VTRN_RETURN_IF_ERROR(
                emit_store(e, &(view_part){&out_rows, 1, i, n_rows, c, n_cols}, &row[flip], false));
        }
    }
    return NULL;
}
