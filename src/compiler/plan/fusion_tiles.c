#include "compiler/plan/fusion_tiles.h"

#include "compiler/plan/tile.h"

enum {
    BUFFER_BYTES = 8 << 10, /* of a partition, for the tiles of one iteration: assumed, so that two
                               iterations stay in the host's L2 */
    MANY_TILES = 32, /* a kernel of more has wider ones, as a transfer has a cost of its own */
    LONG_BUFFER_BYTES = 2 * BUFFER_BYTES,
    LONG_BUFFERS = 4,         /* that many more are on their way meanwhile */
    ABREAST_BYTES = 16 << 10, /* for tiles abreast: assumed, tuned on the chars step */
    MIN_TILE_COLS = 64,
    FIXED_BYTES = 64 << 10, /* for all iterations where the tiles' columns are given: assumed */
    WIDEST_BYTES = 4,       /* of an element of any type */
    LEAST_TILE_COLS = SBUF_ALIGN / WIDEST_BYTES,
};

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static uint32_t element_bytes(const fusion_demand *d) {
    return d->element_bytes ? d->element_bytes : WIDEST_BYTES;
}

/* Columns of the tiles of a row of `cols`: `want` or not many more, all alike. */
static int64_t even_cols(int64_t cols, int64_t want) {
    int64_t n_tiles = (cols + want / 2) / want;
    if (n_tiles <= 1)
        return cols;
    cols = (cols + n_tiles - 1) / n_tiles;
    return (cols + LEAST_TILE_COLS - 1) / LEAST_TILE_COLS * LEAST_TILE_COLS;
}

/* Whether the tiles of the usual size would be many. */
static bool is_long(const fusion_demand *d) {
    int64_t row_bytes = (int64_t)element_bytes(d) * d->n_full;
    return d->form != FUSION_COLUMN_BLOCKS && row_bytes &&
           BUFFER_BYTES / row_bytes * d->n_partitions * MANY_TILES < d->n;
}

static int64_t buffer_bytes(const fusion_demand *d) {
    return is_long(d) ? LONG_BUFFER_BYTES : BUFFER_BYTES;
}

/* Columns that fill an iteration's share of SBUF. */
static int64_t wanted_cols(const fusion_demand *d) {
    int64_t row_bytes = (int64_t)element_bytes(d) * d->n_full;
    int64_t cols = row_bytes ? buffer_bytes(d) / row_bytes : FUSION_MAX_TILE_COLS;
    cols = cols / MIN_TILE_COLS * MIN_TILE_COLS;
    return cols < MIN_TILE_COLS ? MIN_TILE_COLS : least(cols, FUSION_MAX_TILE_COLS);
}

/* Flat: spread over all partitions before rows become long. */
static int64_t spread_cols(const fusion_demand *d) {
    int64_t cols = ((d->n + d->n_partitions - 1) / d->n_partitions + 15) / 16 * 16;
    return cols < MIN_TILE_COLS ? MIN_TILE_COLS : cols;
}

static uint32_t bytes_of_cols(int64_t cols, uint32_t size) {
    return sbuf_round((uint64_t)cols * size);
}

static void set_tile_cols(const fusion_demand *d, int64_t cols, fusion_tiling *t) {
    uint32_t row_tile_bytes = d->row_tile_bytes ? d->row_tile_bytes : FUSION_ROW_TILE_BYTES;
    uint32_t row_bytes = (uint32_t)d->n_rows * row_tile_bytes;
    bool is_in_passes = d->form == FUSION_PASSES;
    t->tile_cols = cols;
    t->slot_bytes = bytes_of_cols(cols, element_bytes(d));
    t->row_base = t->slot_bytes * (uint32_t)d->n_full;
    t->iter_bytes = t->row_base + (is_in_passes ? 0 : row_bytes);
    t->row_bytes = is_in_passes ? row_bytes : 0;
    t->col_bytes = d->form == FUSION_COLUMN_BLOCKS ? t->slot_bytes * (uint32_t)d->n_cols : 0;
}

static uint64_t bytes_of(const fusion_demand *d, const fusion_tiling *t) {
    int n_whole_rows = d->form == FUSION_WHOLE    ? d->n_cols + d->n_sums
                       : d->form == FUSION_PASSES ? d->n_cols
                                                  : 0;
    return d->fixed_bytes + (uint64_t)t->iter_bytes * (uint32_t)t->n_buffers +
           (uint64_t)t->col_bytes * (uint32_t)t->n_col_buffers +
           (uint64_t)t->row_bytes * (uint32_t)t->n_row_buffers +
           (uint64_t)t->slot_bytes * (uint32_t)d->n_wide_sums +
           (uint64_t)n_whole_rows * bytes_of_cols(d->cols, WIDEST_BYTES);
}

static fusion_tiling whole_tiles(const fusion_demand *d, uint64_t limit_bytes) {
    fusion_tiling t = {.n_blocks = 1, .n_abreast = d->max_abreast};
    int64_t want = wanted_cols(d), cols = d->cols;
    if (d->is_flat && cols) {
        t.n_blocks = want > cols ? want / cols : 1;
        cols *= t.n_blocks;
    } else if (d->is_flat) {
        cols = least(spread_cols(d), want);
    } else if (!d->has_whole_rows) {
        cols = even_cols(cols, want);
    }
    set_tile_cols(d, cols, &t);
    while (t.n_abreast > 1 && t.iter_bytes * (uint32_t)t.n_abreast > ABREAST_BYTES)
        t.n_abreast /= 2;
    t.n_buffers = 2 * t.n_abreast;
    if (d->is_one_tile && t.tile_cols >= d->cols) /* no other overlaps with it */
        t.n_buffers = t.n_abreast = 1;
    t.n_bytes = bytes_of(d, &t);
    fusion_tiling more = t;
    more.n_buffers = LONG_BUFFERS;
    more.n_bytes = bytes_of(d, &more);
    if (is_long(d) && t.n_buffers < LONG_BUFFERS && more.n_bytes <= limit_bytes)
        return more;
    if (t.n_bytes <= limit_bytes)
        return t;
    t.n_buffers = t.n_abreast = 1; /* a long reduction: no overlap rather than no result */
    t.n_bytes = bytes_of(d, &t);
    return t;
}

/* Widest tile of at most `most` columns with which the buffers fit, in steps of the least one. */
static void widen(const fusion_demand *d, int64_t most, uint64_t limit_bytes, fusion_tiling *t) {
    set_tile_cols(d, least(most, LEAST_TILE_COLS), t);
    t->n_bytes = bytes_of(d, t);
    uint64_t step = (uint64_t)t->row_base * (uint32_t)t->n_buffers +
                    (uint64_t)t->col_bytes * (uint32_t)t->n_col_buffers +
                    (uint64_t)t->slot_bytes * (uint32_t)d->n_wide_sums;
    if (t->n_bytes >= limit_bytes || most <= LEAST_TILE_COLS)
        return;
    int64_t n_steps = step ? (int64_t)((limit_bytes - t->n_bytes) / step) : most;
    set_tile_cols(d, least(most, (1 + n_steps) * LEAST_TILE_COLS), t);
    t->n_bytes = bytes_of(d, t);
}

/* Blocks of the columns that contractions make. Wide ones need no others abreast: an operation on
 * one lasts longer than its latency. */
static fusion_tiling turn_tiles(const fusion_demand *d, uint64_t limit_bytes) {
    enum { WIDE_COLS = 1024, SMALL_BYTES = 4 << 10 };
    fusion_tiling t = {
        .n_blocks = 1, .n_abreast = d->max_abreast, .n_col_buffers = 2, .n_row_buffers = 2};
    set_tile_cols(d, d->turn_cols, &t);
    while (t.n_abreast > 1 && (t.n_abreast * d->turn_cols > WIDE_COLS ||
                               t.iter_bytes * (uint32_t)t.n_abreast > ABREAST_BYTES))
        t.n_abreast /= 2;
    t.n_buffers = (t.iter_bytes <= SMALL_BYTES && t.n_abreast == 1 ? 4 : 2) * t.n_abreast;
    t.n_bytes = bytes_of(d, &t);
    if (t.n_bytes <= limit_bytes)
        return t;
    t.n_abreast = t.n_buffers = t.n_col_buffers = t.n_row_buffers = 1;
    t.n_bytes = bytes_of(d, &t);
    return t;
}

/* Tiles cut as small as it takes, with buffers that overlap loads and work unless that made tiles
 * narrow. */
static fusion_tiling cut_tiles(const fusion_demand *demand, uint64_t limit_bytes) {
    fusion_demand with_sums = *demand;
    const fusion_demand *d = &with_sums;
    if (d->n_sums && !d->n_full)
        with_sums.n_full = 1; /* by way of which they leave, when the loop is over */
    fusion_tiling t = {
        .n_blocks = 1, .n_abreast = 1, .n_buffers = 2, .n_col_buffers = 2, .n_row_buffers = 2};
    int64_t most = wanted_cols(d);
    most = least(most, d->is_flat ? spread_cols(d) : d->cols);
    if (d->max_cols)
        most = least(most, d->max_cols);
    widen(d, most, limit_bytes, &t);
    if (t.n_bytes > limit_bytes || t.tile_cols < least(most, MIN_TILE_COLS)) {
        t.n_buffers = t.n_col_buffers = t.n_row_buffers = 1;
        widen(d, most, limit_bytes, &t);
        return t;
    }
    for (fusion_tiling more = t; t.n_abreast < d->max_abreast; t = more) {
        more.n_abreast *= 2;
        more.n_buffers *= 2;
        more.n_bytes = bytes_of(d, &more);
        if (more.iter_bytes * (uint32_t)more.n_abreast > ABREAST_BYTES ||
            more.n_bytes > limit_bytes)
            break;
    }
    fusion_tiling more = t;
    more.n_buffers = LONG_BUFFERS;
    more.n_bytes = bytes_of(d, &more);
    return is_long(d) && t.n_buffers < LONG_BUFFERS && more.n_bytes <= limit_bytes ? more : t;
}

/* Tiles of given columns, as many abreast as fit. */
static fusion_tiling fixed_tiles(const fusion_demand *d, uint64_t limit_bytes) {
    fusion_tiling t = {
        .n_blocks = 1, .n_abreast = 1, .n_buffers = 2, .n_col_buffers = 2, .n_row_buffers = 2};
    set_tile_cols(d, d->max_cols, &t);
    t.n_bytes = bytes_of(d, &t);
    if (t.n_bytes > limit_bytes) {
        t.n_buffers = t.n_col_buffers = 1;
        t.n_bytes = bytes_of(d, &t);
        return t;
    }
    for (fusion_tiling more = t; t.n_abreast < d->max_abreast; t = more) {
        more.n_abreast *= 2;
        more.n_buffers *= 2;
        more.n_bytes = bytes_of(d, &more);
        if (more.iter_bytes * (uint32_t)more.n_buffers > FIXED_BYTES || more.n_bytes > limit_bytes)
            break;
    }
    return t;
}

fusion_tiling fusion_tiles(const fusion_demand *d, uint64_t limit_bytes) {
    if (d->has_fixed_cols)
        return fixed_tiles(d, limit_bytes);
    if (d->form == FUSION_COLUMN_BLOCKS && d->turn_cols)
        return turn_tiles(d, limit_bytes);
    return d->form == FUSION_WHOLE ? whole_tiles(d, limit_bytes) : cut_tiles(d, limit_bytes);
}
