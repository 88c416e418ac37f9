/* Pooling with channels on the partitions: one instruction combines the windows of all pixels whose
 * windows are cut by the image's edges in the same way. */
#include "compiler/emit/emit_conv.h"
#include "compiler/plan/contract.h"

/* Outputs [begin, end) of an axis that all have the taps [first, last). */
typedef struct stretch {
    int64_t begin, end, first, last;
} stretch;

typedef struct pooling {
    conv_work *w;
    conv_box out; /* of the tile */
    conv_image image;
    int64_t first; /* element of the image where the rows' channels begin */
    uint32_t n_rows;
    const tile *dst;
    stretch at[CONV_MAX_AXES]; /* those at hand */
} pooling;

static stretch stretch_from(const conv_axis *a, int64_t begin, int64_t end) {
    stretch s = {.begin = begin, .end = begin + 1};
    conv_axis_taps(a, begin, &s.first, &s.last);
    for (int64_t first, last; s.end < end; s.end++) {
        conv_axis_taps(a, s.end, &first, &last);
        if (first != s.first || last != s.last)
            break;
    }
    return s;
}

static vtrn_status combine(const pooling *p, const vtrn_ap *to, const vtrn_ap *from, int n_taps) {
    emitter *e = p->w->e;
    if (n_taps == 0)
        return emit_copy(e, to, from);
    EMIT(reduce, e, TENSOR_REDUCE, VECTOR);
    reduce->op0 = (uint8_t)p->w->c->spec->alu;
    reduce->arg[0] = n_taps;
    reduce->ap[0] = *to;
    reduce->ap[1] = *from;
    return NULL;
}

/* The pixels of one stretch an axis: patterns have room for four dims, so the outermost outputs are
 * taken one by one where there are more. */
static vtrn_status pool_stretches(pooling *p) {
    const conv_geometry *g = &p->w->c->spec->geometry;
    vtrn_dim to[CONV_MAX_AXES] = {{0}}, from[2 * CONV_MAX_AXES] = {{0}};
    int n_outputs = 0, n_taps = 0, outermost = -1;
    int64_t to_pitch = 1, from_pitch = 1, to_first = 0, from_first = p->first;
    vtrn_dim taps[CONV_MAX_AXES];
    for (int i = g->n_axes - 1; i >= 0; i--) {
        const conv_axis *a = &g->axis[i];
        const stretch *s = &p->at[i];
        to_first += (s->begin - p->out.begin[i]) * to_pitch;
        from_first +=
            (s->begin * a->stride + s->first * a->tap_dilation - a->pad - p->image.in.begin[i]) *
            from_pitch;
        to[i] = (vtrn_dim){(int32_t)to_pitch, (uint32_t)(s->end - s->begin)};
        from[i] = (vtrn_dim){(int32_t)(a->stride * from_pitch), to[i].num};
        taps[i] =
            (vtrn_dim){(int32_t)(a->tap_dilation * from_pitch), (uint32_t)(s->last - s->first)};
        to_pitch *= p->out.end[i] - p->out.begin[i];
        from_pitch *= p->image.in.end[i] - p->image.in.begin[i];
        n_outputs += to[i].num > 1;
        n_taps += taps[i].num > 1;
        outermost = to[i].num > 1 ? i : outermost;
    }
    if (n_outputs + n_taps > VTRN_MAX_FREE_DIMS) {
        stretch whole = p->at[outermost];
        for (int64_t o = whole.begin; o < whole.end; o++) {
            p->at[outermost].begin = o;
            p->at[outermost].end = o + 1;
            VTRN_RETURN_IF_ERROR(pool_stretches(p));
        }
        p->at[outermost] = whole;
        return NULL;
    }
    int n = g->n_axes;
    for (int i = 0; i < g->n_axes; i++)
        from[n++] = taps[i];
    vtrn_ap dst = conv_pattern(p->dst, p->n_rows, to_first, to, g->n_axes);
    vtrn_ap src = conv_pattern(&p->image.at, p->n_rows, from_first, from, n);
    return combine(p, &dst, &src, n_taps);
}

static vtrn_status pool_axis(pooling *p, int axis) {
    const conv_geometry *g = &p->w->c->spec->geometry;
    if (axis >= g->n_axes || axis >= CONV_MAX_AXES)
        return pool_stretches(p);
    for (int64_t o = p->out.begin[axis]; o < p->out.end[axis]; o = p->at[axis].end) {
        p->at[axis] = stretch_from(&g->axis[axis], o, p->out.end[axis]);
        VTRN_RETURN_IF_ERROR(pool_axis(p, axis + 1));
    }
    return NULL;
}

vtrn_status conv_work_pool(conv_work *w, const conv_part *part, const tile *dst) {
    pooling p = {.w = w, .n_rows = part->n_rows, .dst = dst};
    p.out =
        conv_box_of(&w->c->spec->geometry, &w->c->tile, part->pixel, part->pixel + part->n_cols);
    VTRN_RETURN_IF_ERROR(conv_work_image(w, part->pixel, &p.image));
    p.first = part->row / contract_pe_size(w->e->chip) * p.image.k_pitch;
    return pool_axis(&p, 0);
}
