/* Conversions of tensors that lie in HBM: done by whoever loads them, or in the order of memory. */
#include "compiler/lower/fusion.h"

/* The factors of a permuted dense view in memory order; false when it is no permutation (a
 * broadcast, a reversal, gaps). order[i] is the factor that comes i-th. */
static bool memory_order(const view *v, int *order) {
    for (int i = 0; i < v->n; i++) {
        int at = i;
        while (at > 0 && v->f[order[at - 1]].stride < v->f[i].stride) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
    for (int i = 0; i < v->n; i++)
        if (v->f[i].stride <= 0)
            return false;
    return true;
}

/* Converts in memory order; the result is the same permutation of a dense tensor. Reading across
 * the permutation would fetch single elements. */
static vtrn_status cast_in_order(lower *l, const graph_op *op, view from, bool *is_done) {
    int order[VIEW_MAX_FACTORS] = {0};
    const graph_type *t = &l->g->types[op->results[0]];
    vtrn_dtype dtype;
    view_coalesce(&from);
    if (view_is_dense(&from) || from.n == 0 || !memory_order(&from, order) ||
        l->values[op->results[0]].output >= 0 || !fusion_tile_dtype((vtrn_dtype)t->dtype, &dtype))
        return NULL;
    uint32_t slot;
    VTRN_RETURN_IF_ERROR(build_slot_add(l->build, VTRN_SLOT_SCRATCH, (vtrn_dtype)t->dtype,
                                        graph_type_bytes(t), 0, &slot));
    view source = from, result = {.slot = slot, .dtype = t->dtype, .n = from.n};
    int64_t step = 1;
    for (int i = from.n - 1; i >= 0; i--) {
        source.f[i] = from.f[order[i]];
        result.f[order[i]] = (view_factor){from.f[order[i]].size, step};
        step *= from.f[order[i]].size;
    }
    fusion *f = NULL;
    fusion_in loaded, made;
    VTRN_RETURN_IF_ERROR(fusion_open(l, view_count(&from), &f));
    VTRN_RETURN_IF_ERROR(fusion_add_load(l, f, &source, false, &loaded));
    graph_type flat = {.dtype = t->dtype, .rank = 1, .dims = {view_count(&from)}};
    fusion_node node = {.op = GRAPH_CONVERT,
                        .dtype = (uint8_t)dtype,
                        .n_in = 1,
                        .in = {loaded},
                        .is_stored = true,
                        .store_view = view_dense(slot, &flat)};
    VTRN_RETURN_IF_ERROR(fusion_add(l->build, f, &node, &made));
    VTRN_RETURN_IF_ERROR(fusion_close(l, f));
    lower_set_view(l, op->results[0], &result);
    *is_done = true;
    return NULL;
}

/* Whether a DMA converts, or a contraction when it unpacks: floats, and integers of a byte and
 * less, which every float of two bytes and more holds exactly. */
static bool is_cast_by_dma(vtrn_dtype from, vtrn_dtype to) {
    bool is_byte = dtype_is_int(from) && dtype_size(from) == 1;
    return dtype_is_float(to) && dtype_size(to) <= 4 &&
           (is_byte ? dtype_size(to) >= 2 : dtype_is_float(from) && dtype_size(from) <= 4);
}

vtrn_status lower_cast(lower *l, const graph_op *op, bool *is_done) {
    const lower_value *from = &l->values[op->operands[0]];
    vtrn_dtype to = (vtrn_dtype)l->g->types[op->results[0]].dtype;
    if (from->state != VALUE_VIEW || !is_cast_by_dma((vtrn_dtype)from->view.dtype, to))
        return NULL;
    bool is_there = from->view.dtype == to; /* narrow.h */
    if (!is_there && !l->values[op->results[0]].is_contracted)
        return dtype_is_float((vtrn_dtype)from->view.dtype)
                   ? cast_in_order(l, op, from->view, is_done)
                   : NULL;
    /* or only contractions read it: DMA casts while they load */
    lower_set_view(l, op->results[0], &from->view);
    *is_done = true;
    return NULL;
}
