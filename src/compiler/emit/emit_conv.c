#include "compiler/emit/emit_conv.h"

#include "compiler/emit/emit_transfer.h"
#include "compiler/plan/contract.h"
#include "compiler/plan/resident.h"

#include <string.h>

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t pe_size(const conv_work *w) {
    return contract_pe_size(w->e->chip);
}

static uint32_t element_bytes(const conv_work *w) {
    size_t size = dtype_size(w->c->spec->compute);
    return size > 0 ? (uint32_t)size : 1;
}

static tile place_one(conv_work *w, uint32_t n_bytes) {
    return (tile){.space = VTRN_SPACE_SBUF,
                  .dtype = (uint8_t)w->c->spec->compute,
                  .addr = emit_sbuf_alloc(w->e, n_bytes)};
}

vtrn_status conv_work_begin(emitter *e, const conv_plan *c, conv_work *w) {
    const conv_geometry *g = &c->spec->geometry;
    *w = (conv_work){.e = e, .c = c, .patches_at = -1};
    for (int i = 0; i < c->n_weight_buffers; i++)
        w->weights[i] = place_one(w, c->weight_bytes);
    for (int i = 0; i < c->n_bands; i++) {
        w->bands[i] = place_one(w, c->image_from ? 0 : c->band_bytes);
        w->band_at[i] = -1;
    }
    w->zeros = place_one(w, c->zero_bytes);
    if (c->spec->is_pooling)
        return NULL;
    build_count_flops(e->build, 2ull * (uint64_t)(g->n_out * g->n_in) *
                                    (uint64_t)(g->n_taps * g->n_out_pixels));
    for (int i = 0; c->spec->is_patched && i < CONV_LINE_BUFFERS; i++) {
        w->lines[i] = place_one(w, c->line_bytes);
        w->lines_at[i] = -1;
    }
    int n_turns = c->spec->is_patched ? e->chip->n_psum_banks / 2 : 0;
    VTRN_RETURN_IF_ERROR(psum_take(e, n_turns, &w->turns));
    return psum_take(e, e->chip->n_psum_banks - n_turns, &w->sums);
}

/* --- operands -----------------------------------------------------------------------------------
 */

/* Weights of n_out channels from `first` on, all taps and inputs. */
static vtrn_status load_weights(conv_work *w, int64_t first, int64_t n_out, const tile *to) {
    const conv_geometry *g = &w->c->spec->geometry;
    view v = w->c->spec->weights;
    view_factor *channels = &v.f[v.n - 1];
    v.offset += first * channels->stride;
    channels->size = n_out;
    for (int64_t k = 0; k < g->n_in; k += w->c->k_rows) {
        view_part part = {&v, 1, k, least(w->c->k_rows, g->n_in - k), 0, g->n_taps * n_out};
        tile t = *to;
        t.addr += (uint32_t)(k / w->c->k_rows * g->n_taps * n_out) * element_bytes(w);
        VTRN_RETURN_IF_ERROR(emit_load(w->e, &part, &t));
    }
    return NULL;
}

/* The inputs of a band of outputs, channel tile after channel tile. */
static vtrn_status load_band(conv_work *w, int64_t begin, const tile *to) {
    const conv_geometry *g = &w->c->spec->geometry;
    conv_box out = conv_box_of(g, &w->c->band, begin, conv_band_end(w->c, begin));
    conv_box in = conv_inputs_of(g, &out);
    int64_t n = conv_box_pixels(&in, g->n_axes);
    view v = w->c->spec->image;
    if (n == 0)
        return NULL;
    for (int i = 0; i < g->n_axes; i++) {
        v.offset += in.begin[i] * v.f[1 + i].stride;
        v.f[1 + i].size = in.end[i] - in.begin[i];
    }
    for (int64_t k = 0; k < g->n_in; k += pe_size(w)) {
        view_part part = {&v, 1, k, least(pe_size(w), g->n_in - k), 0, n};
        tile t = *to;
        t.addr += (uint32_t)(k / pe_size(w) * n) * element_bytes(w);
        VTRN_RETURN_IF_ERROR(emit_load(w->e, &part, &t));
    }
    return NULL;
}

/* The buffer that holds the band from `begin` on; -1: none. */
static int buffer_of(const conv_work *w, int64_t begin) {
    for (int i = 0; i < w->c->n_bands; i++)
        if (w->band_at[i] == begin)
            return i;
    return -1;
}

static vtrn_status load_next_band(conv_work *w) {
    int buffer = w->flip_band++ % w->c->n_bands;
    const tile *to = &w->bands[buffer];
    VTRN_RETURN_IF_ERROR(w->c->spec->is_patched ? conv_work_patches(w, w->next_band, to)
                                                : load_band(w, w->next_band, to));
    w->band_at[buffer] = w->next_band;
    w->next_band = conv_band_end(w->c, w->next_band);
    return NULL;
}

/* The band of a tile; and the next one, where a third buffer is free of the two at work. */
static vtrn_status need_band(conv_work *w, int64_t begin, int *buffer) {
    while (buffer_of(w, begin) < 0)
        VTRN_RETURN_IF_ERROR(load_next_band(w));
    *buffer = buffer_of(w, begin);
    bool is_next_wanted = w->next_band == conv_band_end(w->c, begin) &&
                          w->next_band < w->c->spec->geometry.n_out_pixels;
    return is_next_wanted && w->c->n_bands == CONV_MAX_BANDS ? load_next_band(w) : NULL;
}

vtrn_status conv_work_image(conv_work *w, int64_t pixel, conv_image *out) {
    const conv_plan *c = w->c;
    const conv_geometry *g = &c->spec->geometry;
    *out = (conv_image){0};
    if (c->image_from) {
        out->at = resident_tile(c->image_from, 0, 0);
        out->k_pitch = c->image_from->pitch / element_bytes(w);
        for (int i = 0; i < g->n_axes; i++)
            out->in.end[i] = g->axis[i].n_in;
        return NULL;
    }
    int64_t begin = conv_band_begin(c, pixel);
    int buffer;
    VTRN_RETURN_IF_ERROR(need_band(w, begin, &buffer));
    conv_box outputs = conv_box_of(g, &c->band, begin, conv_band_end(c, begin));
    out->at = w->bands[buffer];
    out->in = conv_inputs_of(g, &outputs);
    out->k_pitch = conv_box_pixels(&out->in, g->n_axes);
    return NULL;
}

vtrn_status conv_work_load(conv_work *w) {
    const conv_plan *c = w->c;
    if (c->has_zeros) {
        EMIT(set, w->e, MEMSET, VECTOR);
        set->ap[0] = tile_ap(&w->zeros, 1, c->zero_bytes / element_bytes(w));
    }
    bool has_weights = c->are_weights_whole && !c->spec->is_pooling;
    return has_weights ? load_weights(w, 0, c->spec->geometry.n_out, &w->weights[0]) : NULL;
}

/* --- matmuls ------------------------------------------------------------------------------------
 */

/* What the matmuls of a tile have in common. */
typedef struct conv_tile {
    conv_work *w;
    const conv_part *part;
    int64_t first_weight; /* first channel of the weights in SBUF */
    int64_t n_weights;    /* channels of them */
    conv_box out;
    conv_image image;
    tile weights, psum;
} conv_tile;

vtrn_ap conv_pattern(const tile *t, uint32_t n_rows, int64_t first, const vtrn_dim *dims, int n) {
    vtrn_ap ap = tile_ap_cols(t, n_rows, 0, 1);
    ap.addr += first * (int64_t)dtype_size((vtrn_dtype)t->dtype);
    ap.n_dims = 0;
    for (int i = 0; i < n; i++)
        if (dims[i].num > 1)
            ap.dim[ap.n_dims++] = dims[i];
    if (ap.n_dims == 0)
        ap.dim[ap.n_dims++] = (vtrn_dim){1, 1};
    return ap;
}

/* One tap and 128 input channels, for the pixels that the tap serves. */
static vtrn_status multiply(const conv_tile *t, int64_t tap, int64_t k_tile, uint32_t flags) {
    const conv_geometry *g = &t->w->c->spec->geometry;
    emitter *e = t->w->e;
    vtrn_dim to[CONV_MAX_AXES], from[CONV_MAX_AXES];
    int64_t at[CONV_MAX_AXES], weight_at[CONV_MAX_AXES], weight = 0;
    int64_t to_pitch = 1, from_pitch = 1, to_first = 0, from_first = k_tile * t->image.k_pitch;
    conv_tap_at(g, tap, at);
    conv_weight_at(g, at, weight_at);
    for (int i = 0; i < g->n_axes; i++)
        weight = weight * g->axis[i].n_taps + weight_at[i];
    for (int i = g->n_axes - 1; i >= 0; i--) {
        conv_range r = conv_axis_range(&g->axis[i], at[i], t->out.begin[i], t->out.end[i]);
        if (r.n == 0)
            return NULL;
        to[i] = (vtrn_dim){(int32_t)(r.out_step * to_pitch), (uint32_t)r.n};
        from[i] = (vtrn_dim){(int32_t)(r.in_step * from_pitch), (uint32_t)r.n};
        to_first += (r.out - t->out.begin[i]) * to_pitch;
        from_first += (r.in - t->image.in.begin[i]) * from_pitch;
        to_pitch *= t->out.end[i] - t->out.begin[i];
        from_pitch *= t->image.in.end[i] - t->image.in.begin[i];
    }
    uint32_t n_rows = t->part->n_rows;
    int64_t k_rows = t->w->c->k_rows;
    uint32_t n_k = (uint32_t)least(k_rows, g->n_in - k_tile * k_rows);
    int64_t column = (k_tile * g->n_taps + weight) * t->n_weights + t->part->row - t->first_weight;
    EMIT(weights, e, LDWEIGHTS, TENSOR);
    weights->ap[1] = tile_ap_cols(&t->weights, n_k, (uint32_t)column, n_rows);
    EMIT(matmul, e, MATMUL, TENSOR);
    matmul->ap[0] = conv_pattern(&t->psum, n_rows, to_first, to, g->n_axes);
    matmul->ap[1] = conv_pattern(&t->image.at, n_k, from_first, from, g->n_axes);
    matmul->flags = flags;
    return NULL;
}

static vtrn_status set_to_zero(const conv_tile *t) {
    EMIT(weights, t->w->e, LDWEIGHTS, TENSOR);
    weights->ap[1] = tile_ap(&t->w->zeros, 1, t->part->n_rows);
    EMIT(matmul, t->w->e, MATMUL, TENSOR);
    matmul->ap[0] = tile_ap(&t->psum, t->part->n_rows, t->part->n_cols);
    matmul->ap[1] = tile_ap(&t->w->zeros, 1, t->part->n_cols);
    return NULL;
}

static vtrn_status multiply_all(const conv_tile *t) {
    const conv_geometry *g = &t->w->c->spec->geometry;
    const builder *build = t->w->e->build;
    bool is_first[CONV_MAX_TAPS];
    if (!conv_first_taps(g, &t->out, is_first)) {
        memset(is_first, 0, sizeof is_first);
        VTRN_RETURN_IF_ERROR(set_to_zero(t));
    }
    for (int pass = 0; pass < 2; pass++)
        for (int64_t tap = 0; tap < g->n_taps; tap++)
            for (int64_t k = 0; k < t->w->c->k_tiles && is_first[tap] == (pass == 0); k++)
                VTRN_RETURN_IF_ERROR(
                    multiply(t, tap, k, is_first[tap] && k == 0 ? 0 : VTRN_FLAG_ACCUMULATE));
    build->list[build->n_list - 1].flags |= VTRN_FLAG_LAST;
    return NULL;
}

/* --- out of PSUM --------------------------------------------------------------------------------
 */

static bool is_there(const vtrn_ap *ap) {
    return ap->space != VTRN_SPACE_NONE;
}

/* dst = func(src * scale + bias) */
static vtrn_status activate(emitter *e, const conv_leave *x, const vtrn_ap *dst,
                            const vtrn_ap *src) {
    EMIT(instr, e, ACTIVATE, SCALAR);
    instr->func = x->is_relu ? VTRN_ACT_RELU : VTRN_ACT_COPY;
    instr->ap[0] = *dst;
    instr->ap[1] = *src;
    instr->ap[2] = x->scale;
    instr->ap[3] = x->bias;
    instr->imm[0].f = x->scale_imm;
    instr->imm[1].f = -0.0f; /* the one bias that keeps the sign of a zero */
    return NULL;
}

/* The same on the Vector engine, of up to two operations. */
static vtrn_status on_vector(emitter *e, const conv_leave *x, const vtrn_ap *dst,
                             const vtrn_ap *src) {
    static const vtrn_ap none = {0};
    const vtrn_ap *operand[2] = {&none, &none};
    uint8_t op[2] = {VTRN_ALU_NONE, VTRN_ALU_NONE};
    float imm[2] = {0, 0};
    int n = 0;
    if (is_there(&x->scale) || x->scale_imm != 1) {
        op[n] = VTRN_ALU_MULTIPLY;
        imm[n] = x->scale_imm;
        operand[n++] = &x->scale;
    }
    if (is_there(&x->bias)) {
        op[n] = VTRN_ALU_ADD;
        operand[n++] = &x->bias;
    }
    if (x->is_relu)
        op[n++] = VTRN_ALU_MAX;
    if (n == 0)
        return emit_copy(e, dst, src);
    EMIT(instr, e, TENSOR_SCALAR, VECTOR);
    instr->op0 = op[0];
    instr->op1 = op[1];
    instr->ap[0] = *dst;
    instr->ap[1] = *src;
    instr->ap[2] = *operand[0];
    instr->ap[3] = *operand[1];
    instr->imm[0].f = imm[0];
    instr->imm[1].f = imm[1];
    return NULL;
}

/* By one pass, on the lighter engine of those that can. */
static vtrn_status pass_out(emitter *e, const conv_leave *x, const vtrn_ap *dst,
                            const vtrn_ap *src) {
    int n_ops = (is_there(&x->scale) || x->scale_imm != 1) + is_there(&x->bias) + x->is_relu;
    bool is_on_vector = n_ops <= 2 && emit_lighter_engine(e) == VTRN_ENGINE_VECTOR;
    return is_on_vector ? on_vector(e, x, dst, src) : activate(e, x, dst, src);
}

/* dst = src * scale + other */
static vtrn_status add_other(emitter *e, const conv_leave *x, const vtrn_ap *dst,
                             const vtrn_ap *src) {
    if (!is_there(&x->scale) && x->scale_imm == 1)
        return emit_tensor_tensor(e, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, dst, src, &x->other);
    EMIT(instr, e, SCALAR_TENSOR_TENSOR, VECTOR);
    instr->op0 = VTRN_ALU_MULTIPLY;
    instr->op1 = VTRN_ALU_ADD;
    instr->ap[0] = *dst;
    instr->ap[1] = *src;
    instr->ap[2] = x->scale;
    instr->ap[3] = x->other;
    instr->imm[0].f = x->scale_imm;
    return NULL;
}

static vtrn_status leave(emitter *e, const conv_leave *x, const vtrn_ap *dst, const vtrn_ap *psum) {
    conv_leave rest = {.scale_imm = 1, .bias = x->bias, .is_relu = x->is_relu};
    if (!is_there(&x->other))
        return pass_out(e, x, dst, psum);
    if (!is_there(&x->bias) && !x->is_relu)
        return add_other(e, x, dst, psum);
    /* what is not rounded in dst waits there for the second pass */
    const vtrn_ap *sum = dst->dtype == VTRN_DTYPE_FP32 ? dst : psum;
    VTRN_RETURN_IF_ERROR(add_other(e, x, sum, psum));
    return pass_out(e, &rest, dst, sum);
}

vtrn_status conv_work_tile(conv_work *w, const conv_part *part, const conv_leave *how,
                           const tile *dst) {
    const conv_plan *c = w->c;
    const conv_geometry *g = &c->spec->geometry;
    conv_tile t = {.w = w, .part = part, .n_weights = g->n_out, .weights = w->weights[0]};
    t.out = conv_box_of(g, &c->tile, part->pixel, part->pixel + part->n_cols);
    VTRN_RETURN_IF_ERROR(conv_work_image(w, part->pixel, &t.image));
    if (!c->are_weights_whole) {
        t.weights = w->weights[w->flip_weights++ % c->n_weight_buffers];
        t.first_weight = part->row;
        t.n_weights = part->n_rows;
        VTRN_RETURN_IF_ERROR(load_weights(w, part->row, part->n_rows, &t.weights));
    }
    VTRN_RETURN_IF_ERROR(psum_next(w->e, &w->sums, 1, &t.psum));
    uint32_t source = w->e->build->source;
    w->e->build->source = how->source;
    VTRN_RETURN_IF_ERROR(multiply_all(&t));
    w->e->build->source = source;
    vtrn_ap to = tile_ap(dst, part->n_rows, part->n_cols);
    vtrn_ap from = tile_ap(&t.psum, part->n_rows, part->n_cols);
    VTRN_RETURN_IF_ERROR(leave(w->e, how, &to, &from));
    return c->spec->is_patched ? conv_work_next_patches(w) : NULL;
}
