/* argmax and argmin: the extreme of each row, then the least index of what equals it. */
#include "compiler/lower/fusion.h"
#include "compiler/lower/scalar_region.h"

#include <math.h>

/* Indices are worked on as fp32; this one is beyond all of them. */
enum { NO_INDEX = 1 << 24 };

static bool same(double a, double b) {
    return a == b || (isnan(a) && isnan(b));
}

/* What JAX reduces with: a NaN wins, then the extreme, then the least index. */
static bool takes_left(double a, double b, bool is_max) {
    return isnan(a) || (is_max ? a > b : a < b);
}

static bool is_arg_reducer(const lower *l, const graph_region *region, vtrn_dtype t, bool is_max) {
    static const double values[] = {0, 1, 3, -1, -2.5, -INFINITY, INFINITY, NAN};
    int n = t == VTRN_DTYPE_PRED ? 2 : dtype_is_float(t) ? 8 : dtype_is_signed_int(t) ? 4 : 3;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            for (int k = 0; k < 2; k++) {
                double args[] = {values[i], k, values[j], 1 - k}, got[2];
                if (!scalar_region_eval(l, region, args, got))
                    return false;
                bool is_left = takes_left(values[i], values[j], is_max);
                bool is_left_index = is_left || (values[i] == values[j] && k == 0);
                if (!same(got[0], is_left ? values[i] : values[j]) ||
                    got[1] != (is_left_index ? k : 1 - k))
                    return false;
            }
    return true;
}

/* 0, 1, 2, ... along the columns of a constant, the same for each row. */
static bool is_counting(const lower *l, const view *v, int64_t cols) {
    view cut = *v;
    int n_outer;
    const vtrn_slot *slot = &l->build->slots[v->slot].slot;
    if (slot->kind != VTRN_SLOT_CONSTANT || v->dtype != VTRN_DTYPE_INT32 || v->offset ||
        cols > NO_INDEX || !view_split_at(&cut, cols, &n_outer))
        return false;
    for (int i = 0; i < n_outer; i++)
        if (cut.f[i].size > 1 && cut.f[i].stride)
            return false;
    view inner = {.n = cut.n - n_outer};
    for (int i = n_outer; i < cut.n; i++)
        inner.f[i - n_outer] = cut.f[i];
    if (!view_is_dense(&inner) || (uint64_t)cols * 4 > slot->size_bytes)
        return false;
    const int32_t *data = (const int32_t *)(l->build->data + slot->offset);
    for (int64_t i = 0; i < cols; i++)
        if (data[i] != i)
            return false;
    return true;
}

/* fp32 numbers 0..cols-1 for each of the rows. */
static vtrn_status counting(lower *l, int64_t rows, int64_t cols, view *out) {
    float *v = ARENA_NEW(&l->tmp, float, (size_t)cols);
    if (!v)
        return VTRN_OUT_OF_MEMORY((size_t)cols * 4);
    for (int64_t i = 0; i < cols; i++)
        v[i] = (float)i;
    *out = (view){.dtype = VTRN_DTYPE_FP32, .n = 2, .f = {{rows, 0}, {cols, 1}}};
    return build_constant_add(l->build, VTRN_DTYPE_FP32, v, (uint64_t)cols * 4, &out->slot);
}

/* Elements, and the index of each, of which every row's greatest or least is looked for. */
typedef struct candidates {
    view x, index;
    bool is_max;
} candidates;

/* A fusion that has found each row's extreme and its index. */
typedef struct extremes {
    fusion *f;
    fusion_in best, at;
} extremes;

/* Rows of cols candidates; the index comes out in index_dtype. */
static vtrn_status find_extremes(lower *l, const candidates *c, int64_t cols,
                                 vtrn_dtype index_dtype, extremes *out) {
    const view *x = &c->x;
    fusion *f;
    vtrn_dtype dtype;
    fusion_in value, number, hit, picked;
    fusion_tile_dtype((vtrn_dtype)x->dtype, &dtype);
    VTRN_RETURN_IF_ERROR(fusion_open(l, view_count(x), &f));
    f->cols = cols;
    VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, x, false, &value));
    VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &c->index, false, &number));
    fusion_node extreme = {.op = GRAPH_REDUCE,
                           .shape = NODE_ROW,
                           .dtype = (uint8_t)dtype,
                           .reducer = c->is_max ? GRAPH_REDUCER_MAXIMUM : GRAPH_REDUCER_MINIMUM,
                           .is_reduced = true,
                           .n_in = 1,
                           .in = {value}};
    VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &extreme, &out->best));
    fusion_node equal = {.op = GRAPH_COMPARE,
                         .direction = GRAPH_EQ,
                         .dtype = VTRN_DTYPE_UINT8,
                         .n_in = 2,
                         .in = {value, out->best}};
    VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &equal, &hit));
    if (dtype_is_float(dtype)) { /* the extreme of a row with a NaN is NaN, and equals nothing */
        fusion_in is_nan;
        fusion_node unequal = equal;
        unequal.direction = GRAPH_NE;
        unequal.in[1] = value;
        VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &unequal, &is_nan));
        fusion_node either = {.op = GRAPH_OR,
                              .is_truth = true,
                              .dtype = VTRN_DTYPE_UINT8,
                              .n_in = 2,
                              .in = {hit, is_nan}};
        VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &either, &hit));
    }
    fusion_node select = {.op = GRAPH_SELECT,
                          .dtype = VTRN_DTYPE_FP32,
                          .n_in = 3,
                          .in = {hit, number, {FUSION_NO_NODE, NO_INDEX}}};
    VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &select, &picked));
    fusion_node least = {.op = GRAPH_REDUCE,
                         .shape = NODE_ROW,
                         .dtype = (uint8_t)index_dtype,
                         .reducer = GRAPH_REDUCER_MINIMUM,
                         .is_reduced = true,
                         .n_in = 1,
                         .in = {picked}};
    out->f = f;
    return fusion_add(l->build, f, &least, &out->at);
}

static vtrn_status store_in_scratch(lower *l, fusion *f, fusion_in node, int64_t n, view *out) {
    graph_type t = {.dtype = f->nodes[node.node].dtype, .rank = 1, .dims = {n}};
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(build_slot_add(l->build, VTRN_SLOT_SCRATCH, (vtrn_dtype)t.dtype,
                                        graph_type_bytes(&t), 0, &slot));
    *out = view_dense(slot, &t);
    f->nodes[node.node].is_stored = true;
    f->nodes[node.node].store_view = *out;
    return NULL;
}

vtrn_status lower_arg_reduce(lower *l, const graph_op *op, bool *is_done) {
    if (op->n_operands != 4 || op->n_results != 2)
        return NULL;
    const graph_type *t = &l->g->types[op->operands[0]];
    vtrn_dtype dtype;
    double init, init_index;
    bool is_max = is_arg_reducer(l, op->regions[0], (vtrn_dtype)t->dtype, true);
    if ((!is_max && !is_arg_reducer(l, op->regions[0], (vtrn_dtype)t->dtype, false)) ||
        !fusion_tile_dtype((vtrn_dtype)t->dtype, &dtype) ||
        l->g->types[op->operands[1]].dtype != VTRN_DTYPE_INT32 ||
        !lower_splat_float(l, op->operands[2], &init) ||
        !lower_splat_float(l, op->operands[3], &init_index) || init_index != 0 ||
        !fusion_is_identity(is_max ? GRAPH_REDUCER_MAXIMUM : GRAPH_REDUCER_MINIMUM,
                            (vtrn_dtype)t->dtype, init))
        return NULL;
    int64_t cols = 1, n = graph_type_count(t);
    for (int64_t i = 0; i < op->attrs.dims.dims.n; i++)
        cols *= t->dims[op->attrs.dims.dims.v[i]];
    candidates c = {.is_max = is_max};
    view permuted;
    VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[1], &c.index));
    if (n == 0 || !fusion_reduced_last(l, op, &c.index, &permuted) ||
        !is_counting(l, &permuted, cols))
        return NULL;
    *is_done = true;
    VTRN_RETURN_IF_ERROR(lower_materialise(l, op->operands[0], &c.x));
    if (!fusion_reduced_last(l, op, &c.x, &permuted)) {
        VTRN_RETURN_IF_ERROR(lower_dense(l, op->operands[0], &c.x));
        VTRN_CHECK(fusion_reduced_last(l, op, &c.x, &permuted), "a dense view can be permuted");
    }
    c.x = permuted;
    int64_t rows = n / cols;
    VTRN_RETURN_IF_ERROR(counting(l, rows, cols, &c.index));
    extremes found;
    for (int64_t share; (share = fusion_first_share(l, rows, cols)) > 1; cols = share) {
        VTRN_RETURN_IF_ERROR(find_extremes(l, &c, cols / share, VTRN_DTYPE_FP32, &found));
        VTRN_RETURN_IF_ERROR(store_in_scratch(l, found.f, found.best, rows * share, &c.x));
        VTRN_RETURN_IF_ERROR(store_in_scratch(l, found.f, found.at, rows * share, &c.index));
        VTRN_RETURN_IF_ERROR(fusion_close(l, found.f));
    }
    VTRN_RETURN_IF_ERROR(find_extremes(l, &c, cols, VTRN_DTYPE_INT32, &found));
    VTRN_RETURN_IF_ERROR(fusion_name(l, found.f, op->results[0], found.best.node, NULL));
    return fusion_name(l, found.f, op->results[1], found.at.node, NULL);
}
