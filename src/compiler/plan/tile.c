/* Access patterns of tiles. */
#include "compiler/plan/tile.h"

uint32_t sbuf_round(uint64_t n_bytes) {
    return (uint32_t)((n_bytes + SBUF_ALIGN - 1) & ~(uint64_t)(SBUF_ALIGN - 1));
}

vtrn_ap tile_ap_cols(const tile *t, uint32_t n_rows, uint32_t col, uint32_t n_cols) {
    return (vtrn_ap){.space = t->space,
                     .dtype = t->dtype,
                     .n_dims = 1,
                     .partition = t->partition,
                     .n_partitions = (uint16_t)n_rows,
                     .addr = t->addr + (int64_t)col * (int64_t)dtype_size(t->dtype),
                     .partition_step = 1,
                     .dim = {{1, n_cols}}};
}

vtrn_ap tile_ap(const tile *t, uint32_t n_rows, uint32_t n_cols) {
    return tile_ap_cols(t, n_rows, 0, n_cols);
}
