#include "compiler/passes/make_op.h"

#include <string.h>

const char *make_name(rewriter *r, graph_kind kind) {
    return arena_printf(&r->g->arena, "stablehlo.%s", graph_kind_name(kind));
}

vtrn_status make_op_as(rewriter *r, const graph_op *like, const graph_op *op, graph_value result) {
    arena *home = &r->g->arena;
    graph_op made = *op;
    made.n_results = 1;
    made.operands = ARENA_NEW(home, graph_value, op->n_operands);
    made.results = ARENA_NEW(home, graph_value, 1);
    made.name = make_name(r, (graph_kind)op->kind);
    made.place = like->place;
    if (!made.operands || !made.results || !made.name)
        return VTRN_OUT_OF_MEMORY((op->n_operands + 1) * sizeof(graph_value));
    for (uint32_t i = 0; i < op->n_operands; i++)
        made.operands[i] = op->operands[i];
    made.results[0] = result;
    return rewrite_append(r, &made);
}

vtrn_status make_op(rewriter *r, const graph_op *like, const graph_op *op, const graph_type *type,
                    graph_value *out) {
    graph_value result;
    VTRN_RETURN_IF_ERROR(rewrite_new_value(r, type, &result));
    VTRN_RETURN_IF_ERROR(make_op_as(r, like, op, result));
    *out = result;
    return NULL;
}

vtrn_status make_splat(rewriter *r, const graph_op *like, double value, const graph_type *type,
                       graph_value *out) {
    void *data = ARENA_NEW(&r->g->arena, uint64_t, 1);
    if (!data)
        return VTRN_OUT_OF_MEMORY(sizeof(uint64_t));
    dtype_convert(VTRN_DTYPE_FP64, &value, (vtrn_dtype)type->dtype, data, 1);
    graph_op op = {.kind = GRAPH_CONSTANT, .attrs = {.constant = {.data = data, .is_splat = true}}};
    return make_op(r, like, &op, type, out);
}

vtrn_status make_reshape(rewriter *r, const graph_op *like, graph_value v, const graph_type *dims,
                         graph_value *out) {
    graph_type type = *dims;
    type.dtype = r->g->types[v].dtype;
    *out = v;
    if (graph_type_equal(&type, &r->g->types[v]))
        return NULL;
    graph_op op = make_plain(GRAPH_RESHAPE, &v, 1);
    return make_op(r, like, &op, &type, out);
}

vtrn_status make_replacing(rewriter *r, const graph_type *type, graph_op *scatter) {
    arena *home = &r->g->arena;
    graph_type scalar = {.dtype = type->dtype};
    graph_region *region = ARENA_NEW(home, graph_region, 1);
    graph_region **regions = ARENA_NEW(home, graph_region *, 1);
    graph_value *args = ARENA_NEW(home, graph_value, 2);
    if (!region || !regions || !args)
        return VTRN_OUT_OF_MEMORY(sizeof *region);
    for (int i = 0; i < 2; i++)
        VTRN_RETURN_IF_ERROR(rewrite_new_value(r, &scalar, &args[i]));
    *region = (graph_region){.n_args = 2, .args = args, .n_results = 1, .results = &args[1]};
    regions[0] = region;
    scatter->regions = regions;
    scatter->n_regions = 1;
    scatter->reducer = GRAPH_REDUCER_REPLACE;
    return NULL;
}
