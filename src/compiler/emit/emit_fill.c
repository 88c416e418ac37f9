/* Tensors of equal elements. */
#include "compiler/emit/emit_kernels.h"
#include "compiler/emit/emit_transfer.h"
#include "compiler/plan/kernel.h"

/* Long runs are stored from one tile: a transfer of single elements would be a descriptor each. */
vtrn_status emit_fill_kernel(emitter *e, const kernel *k) {
    const kernel_fill *s = k->spec;
    const view *out = &s->out;
    int64_t n = s->n, cols = s->cols;
    size_t size = dtype_size((vtrn_dtype)out->dtype);
    tile t = {.space = VTRN_SPACE_SBUF, .dtype = out->dtype};
    if (t.dtype == VTRN_DTYPE_PRED)
        t.dtype = VTRN_DTYPE_UINT8;
    t.addr = emit_sbuf_alloc(e, (uint64_t)cols * size);
    EMIT(set, e, MEMSET, VECTOR);
    set->ap[0] = tile_ap(&t, tile_max_rows(e->chip), (uint32_t)cols);
    if (t.dtype == VTRN_DTYPE_INT32 || t.dtype == VTRN_DTYPE_UINT32)
        set->imm[0].bits = (uint32_t)s->bits;
    else
        dtype_load_fp32((vtrn_dtype)t.dtype, &s->bits, &set->imm[0].f, 1);
    for (int64_t at = 0; at < n;) {
        int64_t left = n - at,
                rows = left / cols < tile_max_rows(e->chip) ? left / cols : tile_max_rows(e->chip);
        int64_t n_cols = rows ? cols : left;
        rows = rows ? rows : 1;
        view part = {.slot = out->slot, .dtype = out->dtype, .offset = out->offset + at, .n = 2};
        part.f[0] = (view_factor){rows, n_cols};
        part.f[1] = (view_factor){n_cols, 1};
        VTRN_RETURN_IF_ERROR(emit_store(e, &(view_part){&part, 1, 0, rows, 0, n_cols}, &t, false));
        at += rows * n_cols;
    }
    return NULL;
}
