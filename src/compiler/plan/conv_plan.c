#include "compiler/plan/conv_plan.h"

#include "compiler/plan/contract.h"
#include "compiler/plan/psum_banks.h"
#include "compiler/plan/resident.h"

#include <string.h>

enum {
    BAND_BYTES = 24 << 10, /* of a partition, for a band: assumed, long enough to hide the next */
    PATCHED_BAND_BYTES = 56 << 10, /* where a transpose a column takes as long for fewer rows */
    WHOLE_WEIGHT_BYTES =
        80 << 10, /* of a partition, beyond which weights are loaded tile by tile */
    LEAST_COLS = 16,
    MAX_PHASES = 64,
    PATCH_ROW_AXIS = 1,        /* of batch, rows, columns */
    MAX_PATCHED_CHANNELS = 16, /* more fill the PE array well enough by themselves: assumed */
};

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t parts_of(int64_t n, int64_t part) {
    return part > 0 ? (n + part - 1) / part : 1;
}

/* --- cuts ---------------------------------------------------------------------------------------
 */

/* The cut into parts of at most `most` pixels, of about one size. */
static conv_cut cut_pixels(const conv_geometry *g, int64_t most) {
    conv_cut cut = {.axis = g->n_axes - 1, .inner = 1};
    while (cut.axis > 0 && cut.inner * g->axis[cut.axis].n_out <= most)
        cut.inner *= g->axis[cut.axis--].n_out;
    int64_t n = g->axis[cut.axis].n_out;
    int64_t chunk = least(n, most / cut.inner > 0 ? most / cut.inner : 1);
    cut.chunk = parts_of(n, parts_of(n, chunk));
    return cut;
}

/* Inputs of a part of the cut, at most. */
static int64_t reach_of(const conv_geometry *g, const conv_cut *cut) {
    int64_t n = 1;
    for (int i = 0; i < g->n_axes; i++) {
        int64_t n_out = i < cut->axis ? 1 : i == cut->axis ? cut->chunk : g->axis[i].n_out;
        n *= conv_axis_reach(&g->axis[i], n_out);
    }
    return n;
}

/* Parts of the band's axis that tiles fill. */
static int64_t band_step(const conv_plan *c) {
    return c->band.axis == c->tile.axis ? c->tile.chunk : 1;
}

/* The tile's cut as the band's, or one line of patches. */
static bool is_least_band(const conv_plan *c) {
    int last = c->spec->is_patched && c->tile.axis > PATCH_ROW_AXIS ? PATCH_ROW_AXIS : c->tile.axis;
    return c->band.axis == last && c->band.chunk <= band_step(c);
}

/* A band of half as many tiles. */
static void halve_band(conv_plan *c) {
    const conv_geometry *g = &c->spec->geometry;
    int64_t step = band_step(c);
    if (c->band.chunk > step) {
        c->band.chunk = parts_of(parts_of(c->band.chunk, step), 2) * step;
        return;
    }
    c->band.axis++;
    c->band.inner /= g->axis[c->band.axis].n_out;
    step = band_step(c);
    c->band.chunk = parts_of(g->axis[c->band.axis].n_out, step) * step;
}

static bool has_zeros(const conv_plan *c);

static void size_up(conv_plan *c) {
    const conv_geometry *g = &c->spec->geometry;
    uint64_t size = dtype_size(c->spec->compute);
    c->band_pixels = reach_of(g, &c->band);
    c->band_bytes = sbuf_round((uint64_t)(c->band_pixels * c->k_tiles) * size);
    int64_t n_out = c->are_weights_whole ? g->n_out : least(contract_pe_size(c->chip), g->n_out);
    c->weight_bytes = sbuf_round((uint64_t)(n_out * g->n_taps * c->k_tiles) * size);
    if (c->spec->is_pooling)
        c->weight_bytes = 0;
    int64_t zeros =
        c->max_cols > contract_pe_size(c->chip) ? c->max_cols : contract_pe_size(c->chip);
    c->has_zeros = !c->spec->is_pooling && has_zeros(c);
    c->line_bytes = 0;
    if (c->spec->is_patched)
        c->line_bytes =
            sbuf_round((uint64_t)(c->spec->patches.n_lines * c->spec->patches.line_cols) * size);
    c->zero_bytes = c->has_zeros ? sbuf_round((uint64_t)zeros * size) : 0;
}

/* A band of patches has a partition for each row of outputs. */
static void limit_to_partitions(conv_plan *c) {
    const conv_geometry *g = &c->spec->geometry;
    int64_t most = contract_pe_size(c->chip), n_rows = g->axis[PATCH_ROW_AXIS].n_out;
    int64_t n = c->band.chunk, chunk = least(n, most / n_rows);
    if (chunk == 0) {
        c->band.axis = PATCH_ROW_AXIS;
        c->band.inner /= n_rows;
        n = n_rows;
        chunk = parts_of(n, parts_of(n, most));
    }
    int64_t step = band_step(c);
    c->band.chunk = chunk < step ? step : chunk / step * step;
}

/* The largest band within its share of SBUF. */
static void choose_band(conv_plan *c) {
    const conv_geometry *g = &c->spec->geometry;
    c->band = (conv_cut){.axis = 0, .chunk = g->axis[0].n_out, .inner = 1};
    for (int i = 1; i < g->n_axes; i++)
        c->band.inner *= g->axis[i].n_out;
    if (c->spec->is_patched)
        limit_to_partitions(c);
    else if (c->tile.axis == 0)
        c->band.chunk = parts_of(c->band.chunk, c->tile.chunk) * c->tile.chunk;
    size_up(c);
    uint32_t most = c->spec->is_patched ? PATCHED_BAND_BYTES : BAND_BYTES;
    while (c->band_bytes > most && !is_least_band(c)) {
        halve_band(c);
        size_up(c);
    }
}

void conv_cut_tiles(conv_plan *c, int64_t max_cols) {
    const conv_geometry *g = &c->spec->geometry;
    c->max_cols = least(max_cols, psum_cols(c->chip));
    if (c->spec->is_patched)
        c->max_cols = least(c->max_cols, contract_pe_size(c->chip) * g->axis[g->n_axes - 1].n_out);
    c->tile = cut_pixels(&c->spec->geometry, c->max_cols);
    choose_band(c);
}

void conv_start(const vtrn_chip *chip, const conv_spec *spec, conv_plan *c) {
    *c = (conv_plan){.chip = chip,
                     .spec = spec,
                     .k_rows = contract_pe_size(chip),
                     .are_weights_whole = true,
                     .n_bands = CONV_MAX_BANDS,
                     .n_weight_buffers = 1};
    if (spec->is_patched) { /* whole lines */
        c->k_rows -= c->k_rows % spec->patches.run;
        c->n_bands = 2;
    }
    c->k_tiles = parts_of(spec->geometry.n_in, c->k_rows);
    conv_cut_tiles(c, INT64_MAX);
    if (c->weight_bytes > WHOLE_WEIGHT_BYTES) {
        c->are_weights_whole = false;
        c->n_weight_buffers = CONV_MAX_WEIGHT_BUFFERS;
        size_up(c);
    }
}

bool conv_shrink(conv_plan *c) {
    bool is_large_band = (uint64_t)c->band_bytes * (uint32_t)c->n_bands >
                         (uint64_t)c->weight_bytes * (uint32_t)c->n_weight_buffers;
    bool can_halve = !is_least_band(c) && !c->image_from;
    bool can_part = c->are_weights_whole && c->spec->geometry.n_out > contract_pe_size(c->chip);
    if (can_halve && (is_large_band || !can_part)) {
        halve_band(c);
    } else if (can_part) {
        c->are_weights_whole = false;
        c->n_weight_buffers = CONV_MAX_WEIGHT_BUFFERS;
    } else if (c->n_bands > 1) {
        c->n_bands--;
    } else if (c->n_weight_buffers > 1) {
        c->n_weight_buffers--;
    } else if (c->tile.chunk * c->tile.inner > LEAST_COLS) {
        conv_cut_tiles(c, c->tile.chunk * c->tile.inner / 2);
        while (!is_least_band(c))
            halve_band(c);
    } else {
        return false;
    }
    size_up(c);
    return true;
}

uint64_t conv_bytes(const conv_plan *c) {
    uint64_t bands = c->image_from ? 0 : (uint64_t)c->band_bytes * (uint32_t)c->n_bands;
    return bands + (uint64_t)c->weight_bytes * (uint32_t)c->n_weight_buffers + c->zero_bytes +
           (uint64_t)c->line_bytes * CONV_LINE_BUFFERS;
}

bool conv_fits(const plan *p, const conv_spec *spec) {
    conv_plan c;
    conv_start(p->chip, spec, &c);
    while (conv_bytes(&c) > p->sbuf_limit / 2)
        if (!conv_shrink(&c))
            return false;
    return true;
}

/* --- boxes --------------------------------------------------------------------------------------
 */

conv_box conv_box_of(const conv_geometry *g, const conv_cut *cut, int64_t pixel, int64_t end) {
    conv_box box = {{0}, {0}};
    int64_t outer = pixel / cut->inner, last = (end - 1) / cut->inner;
    for (int i = g->n_axes - 1; i >= 0; i--) {
        int64_t n = g->axis[i].n_out;
        if (i > cut->axis) {
            box.end[i] = n;
            continue;
        }
        box.begin[i] = outer % n;
        box.end[i] = i == cut->axis ? last % n + 1 : box.begin[i] + 1;
        outer /= n;
    }
    return box;
}

conv_box conv_inputs_of(const conv_geometry *g, const conv_box *out) {
    conv_box in = {{0}, {0}};
    for (int i = 0; i < g->n_axes; i++) {
        conv_span s = conv_axis_span(&g->axis[i], out->begin[i], out->end[i]);
        in.begin[i] = s.begin;
        in.end[i] = s.end;
    }
    return in;
}

int64_t conv_box_pixels(const conv_box *box, int n_axes) {
    int64_t n = 1;
    for (int i = 0; i < n_axes; i++)
        n *= box->end[i] - box->begin[i];
    return n;
}

/* Pixels from one that begins a part to the end of that part: of a chunk, or of the axis. */
static int64_t part_pixels(const conv_geometry *g, const conv_cut *cut, int64_t pixel) {
    int64_t n = g->axis[cut->axis].n_out, at = pixel / cut->inner % n;
    return least(cut->chunk - at % cut->chunk, n - at) * cut->inner - pixel % cut->inner;
}

int64_t conv_tile_cols(const conv_plan *c, int64_t pixel) {
    return part_pixels(&c->spec->geometry, &c->tile, pixel);
}

int64_t conv_band_begin(const conv_plan *c, int64_t pixel) {
    int64_t n = c->spec->geometry.axis[c->band.axis].n_out, at = pixel / c->band.inner % n;
    return pixel - pixel % c->band.inner - at % c->band.chunk * c->band.inner;
}

int64_t conv_band_end(const conv_plan *c, int64_t begin) {
    return begin + part_pixels(&c->spec->geometry, &c->band, begin);
}

/* Number of the outputs that a tap can serve: those with one remainder along each dilated axis. */
static int64_t phase_of(const conv_geometry *g, const conv_range *r) {
    int64_t phase = 0;
    for (int i = 0; i < g->n_axes; i++)
        phase = phase * g->axis[i].in_dilation + r[i].out % g->axis[i].in_dilation;
    return phase;
}

/* Outputs of one phase along an axis of the box. */
static int64_t phase_size(const conv_axis *a, const conv_range *r, int64_t begin, int64_t end) {
    int64_t first = begin + (r->out - begin) % a->in_dilation;
    return (end - first + a->in_dilation - 1) / a->in_dilation;
}

bool conv_first_taps(const conv_geometry *g, const conv_box *out, bool *is_first) {
    bool is_set[MAX_PHASES] = {false};
    int64_t n_phases = 1, n_set = 0;
    for (int i = 0; i < g->n_axes; i++)
        n_phases *= g->axis[i].in_dilation;
    for (int64_t tap = 0; tap < g->n_taps; tap++) {
        int64_t at[CONV_MAX_AXES], n = 1;
        conv_range r[CONV_MAX_AXES];
        bool is_whole = n_phases <= MAX_PHASES;
        conv_tap_at(g, tap, at);
        for (int i = 0; i < g->n_axes; i++) {
            r[i] = conv_axis_range(&g->axis[i], at[i], out->begin[i], out->end[i]);
            is_whole = is_whole && r[i].n > 0 &&
                       r[i].n == phase_size(&g->axis[i], &r[i], out->begin[i], out->end[i]);
            n *= r[i].n;
        }
        is_first[tap] = is_whole && !is_set[phase_of(g, r)];
        if (!is_first[tap])
            continue;
        is_set[phase_of(g, r)] = true;
        n_set += n;
    }
    return n_set == conv_box_pixels(out, g->n_axes);
}

/* Whether some tile needs zeros. The tiles at the ends of each axis are those that may. */
static bool has_zeros(const conv_plan *c) {
    const conv_geometry *g = &c->spec->geometry;
    bool is_first[CONV_MAX_TAPS];
    for (int64_t pixel = 0; pixel < g->n_out_pixels;) {
        int64_t end = pixel + conv_tile_cols(c, pixel);
        conv_box box = conv_box_of(g, &c->tile, pixel, end);
        if (!conv_first_taps(g, &box, is_first))
            return true;
        pixel = end;
        /* images are alike */
        if (c->tile.axis > 0 && pixel % (g->n_out_pixels / g->axis[0].n_out) == 0)
            return false;
    }
    return false;
}

/* --- operands -----------------------------------------------------------------------------------
 */

bool conv_takes(const conv_plan *c, const resident *r) {
    const view *v = &c->spec->image;
    const conv_geometry *g = &c->spec->geometry;
    bool is_one_tile = g->n_in <= contract_pe_size(c->chip) && g->n_in <= r->row_step;
    return !c->spec->is_patched && !r->batch_rows && v->slot == r->slot && v->offset == 0 &&
           view_is_dense(v) && r->rows == g->n_in && r->cols == g->n_in_pixels &&
           r->dtype == (uint8_t)c->spec->compute && v->dtype == (uint8_t)c->spec->compute &&
           (is_one_tile || r->row_step == contract_pe_size(c->chip));
}

void conv_take(conv_plan *c, const resident *r) {
    c->image_from = r && conv_takes(c, r) ? r : NULL;
}

vtrn_status conv_accesses(plan *p, const conv_spec *spec) {
    VTRN_RETURN_IF_ERROR(plan_reads(p, &spec->image));
    if (spec->is_pooling)
        return NULL;
    return plan_reads(p, &spec->weights);
}

/* --- patches ------------------------------------------------------------------------------------
 */

bool conv_find_patches(const vtrn_chip *chip, const conv_geometry *g, const view *image,
                       conv_patches *out) {
    if (g->n_axes != 3 || g->n_in > MAX_PATCHED_CHANNELS || g->n_taps < 4)
        return false;
    const conv_axis *rows = &g->axis[PATCH_ROW_AXIS], *cols = &g->axis[PATCH_ROW_AXIS + 1];
    int64_t channel_stride = image->f[0].stride, col_stride = image->f[3].stride;
    bool is_inner = channel_stride == 1 && col_stride == g->n_in;
    if ((!is_inner && col_stride != 1) || rows->in_dilation != 1 || cols->in_dilation != 1 ||
        cols->tap_dilation != 1 || cols->pad < 0 || rows->is_reversed || cols->is_reversed)
        return false;
    int64_t per_col = is_inner ? g->n_in : 1;
    conv_patches p = {.of = *g,
                      .has_inner_channels = is_inner,
                      .n_lines = rows->n_taps * (is_inner ? 1 : g->n_in),
                      .run = cols->n_taps * per_col,
                      .step = cols->stride * per_col,
                      .zeros = cols->pad * per_col};
    p.line_cols = ((cols->n_out - 1) * cols->stride + cols->n_taps) * per_col;
    *out = p;
    if (p.run > contract_pe_size(chip))
        return false;
    /* a tile of patches takes a transpose and a copy beside its matmul */
    int64_t k_tiles = parts_of(p.n_lines, contract_pe_size(chip) / p.run);
    return g->n_taps > 3 * k_tiles;
}

conv_geometry conv_geometry_of_patches(const conv_patches *p) {
    conv_geometry g = p->of;
    g.n_in *= g.n_taps;
    g.n_taps = 1;
    g.n_in_pixels = g.n_out_pixels;
    for (int i = 1; i < g.n_axes; i++)
        g.axis[i] = (conv_axis){.n_in = g.axis[i].n_out,
                                .n_out = g.axis[i].n_out,
                                .n_taps = 1,
                                .stride = 1,
                                .in_dilation = 1,
                                .tap_dilation = 1};
    return g;
}
