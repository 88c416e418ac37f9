#include "compiler/build/slot_grid.h"

#include "base/array.h"

enum {
    BLOCK_ROWS = 128,
    MAX_COLS = 512,
    MAX_TILE_GRANULES = 4096,
    LEAST_UNIT = 64,
};

static int64_t row_step_bytes(const isa_access *a) {
    return a->ap->partition_step * (int64_t)dtype_size((vtrn_dtype)a->ap->dtype);
}

static slot_grid stretches(uint64_t slot_bytes, int64_t unit_bytes) {
    int64_t n_bytes = (int64_t)slot_bytes + 1;
    return (slot_grid){.pitch = n_bytes,
                       .unit = unit_bytes,
                       .block_bytes = n_bytes,
                       .n_cols = (uint32_t)((n_bytes + unit_bytes - 1) / unit_bytes),
                       .n_blocks = 1};
}

slot_grid slot_grid_for(const isa_access *first, uint64_t slot_bytes, int64_t unit_bytes) {
    if (!first->ap || !first->is_written || first->n_rows < 2 || first->is_table)
        return stretches(slot_bytes, unit_bytes);
    int64_t lo, hi, pitch = row_step_bytes(first);
    isa_ap_rows_extent(first->ap, 1, &lo, &hi);
    if (pitch <= 0 || lo < 0 || 2 * (hi - lo) > pitch || (int64_t)slot_bytes % pitch)
        return stretches(slot_bytes, unit_bytes);
    slot_grid g = {.pitch = pitch, .block_bytes = pitch * BLOCK_ROWS};
    g.unit = common_divisor(common_divisor(hi - lo, lo % pitch), pitch);
    g.unit = g.unit < LEAST_UNIT ? LEAST_UNIT : g.unit;
    while ((pitch + g.unit - 1) / g.unit > MAX_COLS)
        g.unit *= 2;
    g.n_cols = (uint32_t)((pitch + g.unit - 1) / g.unit);
    int64_t n_blocks = ((int64_t)slot_bytes + g.block_bytes - 1) / g.block_bytes;
    if (n_blocks > MAX_TILE_GRANULES / (int64_t)g.n_cols)
        return stretches(slot_bytes, unit_bytes);
    g.n_blocks = (uint32_t)n_blocks;
    return g;
}

bool slot_grid_box(const slot_grid *g, const isa_access *a, uint64_t slot_bytes, slot_box *out) {
    int64_t lo, hi, row_lo = 0, row_hi = 0;
    access_extent(a, slot_bytes, &lo, &hi);
    if (lo >= hi)
        return false;
    *out = (slot_box){.first_block = (uint32_t)(lo / g->block_bytes),
                      .last_block = (uint32_t)((hi - 1) / g->block_bytes),
                      .last_col = g->n_cols - 1};
    bool is_one_row = lo / g->pitch == (hi - 1) / g->pitch;
    if (is_one_row) {
        row_lo = lo;
        row_hi = hi;
    } else if (a->ap && row_step_bytes(a) % g->pitch == 0) { /* each row touches the same columns */
        isa_ap_rows_extent(a->ap, 1, &row_lo, &row_hi);
    }
    if (row_lo < row_hi && row_lo / g->pitch == (row_hi - 1) / g->pitch) {
        out->first_col = (uint32_t)(row_lo % g->pitch / g->unit);
        out->last_col = (uint32_t)((row_hi - 1) % g->pitch / g->unit);
    }
    if (out->last_block >= g->n_blocks)
        out->last_block = g->n_blocks - 1;
    return true;
}
