/* What lowerings record: kernels, blocks, and how kernels compute tensors. */
#include "compiler/lower/lower.h"

#include <stdlib.h>
#include <string.h>

vtrn_status lower_kernel(lower *l, kernel_kind kind, const void *spec, size_t spec_bytes,
                         uint64_t sbuf_bytes) {
    kernel *k = plan_add(&l->plan, kind, spec, spec_bytes);
    if (!k)
        return VTRN_OUT_OF_MEMORY(spec_bytes);
    k->source = l->build.source;
    k->block_i = l->block_i;
    k->sbuf_bytes = sbuf_bytes;
    return NULL;
}

vtrn_status lower_block_begin(lower *l, uint32_t *out_block) {
    VTRN_RETURN_IF_ERROR(build_block_begin(&l->build, out_block));
    l->block_i = *out_block;
    return NULL;
}

int64_t lower_row_cols(const lower *l, uint32_t slot) {
    return slot < l->n_row_cols ? l->row_cols[slot] : 0;
}

vtrn_status lower_row_cols_set(lower *l, uint32_t slot, int64_t cols) {
    if (slot >= l->n_row_cols) {
        uint32_t n = 2 * slot + 64;
        int64_t *grown = realloc(l->row_cols, n * sizeof *grown);
        if (!grown)
            return VTRN_OUT_OF_MEMORY(n * sizeof *grown);
        memset(grown + l->n_row_cols, 0, (n - l->n_row_cols) * sizeof *grown);
        l->row_cols = grown;
        l->n_row_cols = n;
    }
    l->row_cols[slot] = cols;
    return NULL;
}
