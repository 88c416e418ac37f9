/* Patches of an image of few channels: rows are loaded in the order of memory, and each column of
 * patches is transposed on the PE array. */
#include "compiler/emit/emit_conv.h"
#include "compiler/emit/emit_transfer.h"
#include "compiler/plan/contract.h"

/* Bytes from one element to the next that SBUF and PSUM still move at full speed. */
static int64_t columns_together(const conv_work *w) {
    int64_t size = (int64_t)dtype_size(w->c->spec->compute);
    size = size > 0 ? size : 1;
    int64_t n = (int64_t)w->e->chip->cost.stride_limit_bytes / size;
    int64_t most = (int64_t)w->e->chip->psum_bank_bytes / size / contract_pe_size(w->e->chip);
    n = n < most ? n : most;
    return n > 0 ? n : 1;
}

typedef struct patch_band {
    conv_work *w;
    const conv_patches *p;
    conv_box out;   /* its outputs */
    int64_t n_rows; /* of outputs: partitions */
    tile lines;
} patch_band;

/* One line of all rows of an image's outputs, where it is inside the image. */
static vtrn_status load_line(const patch_band *b, int64_t image, int64_t channel, int64_t tap) {
    const conv_patches *p = b->p;
    const conv_axis *rows = &p->of.axis[1], *cols = &p->of.axis[2];
    const view *from = &b->w->c->spec->image;
    int64_t per_col = p->has_inner_channels ? p->of.n_in : 1;
    int64_t n_cols = (p->line_cols - p->zeros) / per_col;
    conv_range r = conv_axis_range(rows, tap, b->out.begin[1], b->out.end[1]);
    n_cols = n_cols < cols->n_in ? n_cols : cols->n_in;
    if (r.n == 0 || n_cols <= 0)
        return NULL;
    view v = {.slot = from->slot, .dtype = from->dtype, .n = 2};
    v.offset = from->offset + channel * from->f[0].stride + image * from->f[1].stride +
               r.in * from->f[2].stride;
    v.f[0] = (view_factor){r.n, r.in_step * from->f[2].stride};
    v.f[1] = (view_factor){n_cols * per_col, 1};
    tile to = b->lines;
    int64_t line = channel * rows->n_taps + tap;
    to.partition = (uint16_t)((image - b->out.begin[0]) * (b->out.end[1] - b->out.begin[1]) +
                              r.out - b->out.begin[1]);
    to.addr +=
        (uint32_t)((line * p->line_cols + p->zeros) * (int64_t)dtype_size(b->w->c->spec->compute));
    return emit_load(b->w->e, &(view_part){&v, 1, 0, r.n, 0, n_cols * per_col}, &to);
}

/* What is outside the image is zero. Whole images leave the same elements alone: these are cleared
 * once. */
static vtrn_status clear_lines(const patch_band *b) {
    emitter *e = b->w->e;
    bool is_clear = b->w->c->band.axis == 0 && b->w->n_lines_loaded >= CONV_LINE_BUFFERS;
    if (is_clear)
        return NULL;
    EMIT(zeros, e, MEMSET, VECTOR);
    zeros->ap[0] = tile_ap(&b->lines, (uint32_t)tile_max_rows(e->chip),
                           (uint32_t)(b->p->n_lines * b->p->line_cols));
    return NULL;
}

static vtrn_status load_lines(const patch_band *b) {
    int64_t n_channels = b->p->has_inner_channels ? 1 : b->p->of.n_in;
    VTRN_RETURN_IF_ERROR(clear_lines(b));
    for (int64_t image = b->out.begin[0]; image < b->out.end[0]; image++)
        for (int64_t channel = 0; channel < n_channels; channel++)
            for (int64_t tap = 0; tap < b->p->of.axis[1].n_taps; tap++)
                VTRN_RETURN_IF_ERROR(load_line(b, image, channel, tap));
    return NULL;
}

/* The band of outputs from `begin` on; its lines are loaded where they are not yet. */
static vtrn_status start_band(conv_work *w, int64_t begin, patch_band *b) {
    const conv_plan *c = w->c;
    const conv_geometry *g = &c->spec->geometry;
    *b = (patch_band){.w = w, .p = &c->spec->patches};
    b->out = conv_box_of(g, &c->band, begin, conv_band_end(c, begin));
    b->n_rows = (b->out.end[0] - b->out.begin[0]) * (b->out.end[1] - b->out.begin[1]);
    for (int i = 0; i < CONV_LINE_BUFFERS; i++) {
        b->lines = w->lines[i];
        if (w->lines_at[i] == begin)
            return NULL;
    }
    int buffer = w->n_lines_loaded % CONV_LINE_BUFFERS;
    b->lines = w->lines[buffer];
    w->lines_at[buffer] = begin;
    VTRN_RETURN_IF_ERROR(load_lines(b));
    w->n_lines_loaded++;
    return NULL;
}

/* Columns [col, col + n) of the outputs of all rows, elements of the lines of one k tile. They are
 * side by side in PSUM, so that each row is copied in stretches. */
static vtrn_status turn_columns(const patch_band *b, int64_t col, int64_t n, int64_t k_tile,
                                const tile *to) {
    const conv_patches *p = b->p;
    const conv_plan *c = b->w->c;
    emitter *e = b->w->e;
    int64_t first_line = k_tile * c->k_rows / p->run, n_lines = c->k_rows / p->run;
    int64_t n_cols = p->of.axis[2].n_out, together = columns_together(b->w);
    n_lines = n_lines < p->n_lines - first_line ? n_lines : p->n_lines - first_line;
    uint32_t n_k = (uint32_t)(n_lines * p->run), n_rows = (uint32_t)b->n_rows;
    tile psum;
    VTRN_RETURN_IF_ERROR(psum_next(e, &b->w->turns, 1, &psum));
    psum.dtype = b->lines.dtype;
    for (int64_t i = 0; i < n; i++) {
        vtrn_dim from[] = {{(int32_t)p->line_cols, (uint32_t)n_lines}, {1, (uint32_t)p->run}};
        vtrn_dim out[] = {{(int32_t)together, n_rows}};
        EMIT(turn, e, PE_TRANSPOSE, TENSOR);
        turn->ap[0] = conv_pattern(&psum, n_k, i, out, 1);
        turn->ap[1] = conv_pattern(&b->lines, n_rows,
                                   first_line * p->line_cols + (col + i) * p->step, from, 2);
    }
    vtrn_dim from[] = {{(int32_t)together, n_rows}, {1, (uint32_t)n}};
    vtrn_dim into[] = {{(int32_t)n_cols, n_rows}, {1, (uint32_t)n}};
    vtrn_ap src = conv_pattern(&psum, n_k, 0, from, 2);
    vtrn_ap dst = conv_pattern(to, n_k, k_tile * b->n_rows * n_cols + col, into, 2);
    return emit_scaled(e, &dst, &src, 1, NULL);
}

static int64_t count_groups(const conv_work *w) {
    int64_t n_cols = w->c->spec->geometry.axis[2].n_out, together = columns_together(w);
    return (n_cols + together - 1) / together * w->c->k_tiles;
}

/* Up to n more groups of columns of the band that begins there. */
static vtrn_status turn_groups(conv_work *w, int64_t begin, int64_t n, const tile *to) {
    int64_t n_cols = w->c->spec->geometry.axis[2].n_out, together = columns_together(w);
    int64_t end = w->n_turned + n;
    patch_band b;
    end = end < count_groups(w) ? end : count_groups(w);
    VTRN_RETURN_IF_ERROR(start_band(w, begin, &b));
    for (; w->n_turned < end; w->n_turned++) {
        int64_t col = w->n_turned / w->c->k_tiles * together;
        VTRN_RETURN_IF_ERROR(turn_columns(&b, col,
                                          n_cols - col < together ? n_cols - col : together,
                                          w->n_turned % w->c->k_tiles, to));
    }
    return NULL;
}

vtrn_status conv_work_patches(conv_work *w, int64_t begin, const tile *to) {
    const conv_plan *c = w->c;
    patch_band next;
    if (w->patches_at != begin)
        w->n_turned = 0;
    VTRN_RETURN_IF_ERROR(turn_groups(w, begin, count_groups(w), to));
    w->patches_at = -1;
    int64_t end = conv_band_end(c, begin);
    return end < c->spec->geometry.n_out_pixels ? start_band(w, end, &next) : NULL;
}

vtrn_status conv_work_next_patches(conv_work *w) {
    const conv_plan *c = w->c;
    const conv_geometry *g = &c->spec->geometry;
    int64_t pe_size = contract_pe_size(w->e->chip);
    int buffer = w->flip_band % c->n_bands;
    if (c->n_bands < 2 || w->next_band >= g->n_out_pixels)
        return NULL;
    if (w->patches_at != w->next_band) {
        w->patches_at = w->next_band;
        w->n_turned = 0;
        w->band_at[buffer] = -1;
    }
    int64_t tiles_of_rows = c->band.chunk * c->band.inner / (c->tile.chunk * c->tile.inner);
    int64_t n_tiles = tiles_of_rows * ((g->n_out + pe_size - 1) / pe_size);
    int64_t share = n_tiles > 0 ? (count_groups(w) + n_tiles - 1) / n_tiles : count_groups(w);
    return turn_groups(w, w->next_band, share, &w->bands[buffer]);
}
