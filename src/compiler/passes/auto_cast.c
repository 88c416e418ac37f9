#include "compiler/passes/auto_cast.h"

#include "compiler/passes/make_op.h"
#include "compiler/passes/rewrite.h"

#include <string.h>

typedef struct casting {
    vtrn_dtype to;
    const uint8_t *was; /* by value of the graph as it came: its dtype */
    uint32_t n_was;
} casting;

static vtrn_status convert(rewriter *r, const graph_op *like, graph_value *v, vtrn_dtype to) {
    graph_type type = r->g->types[*v];
    type.dtype = (uint8_t)to;
    graph_value operand = *v;
    const graph_op op = make_plain(GRAPH_CONVERT, &operand, 1);
    return make_op(r, like, &op, &type, v);
}

static bool is_product(const graph_op *op) {
    return op->kind == GRAPH_DOT_GENERAL || op->kind == GRAPH_CONVOLUTION;
}

static vtrn_status cast_operands(rewriter *r, graph_op *op, vtrn_dtype to) {
    for (uint32_t i = 0; i < op->n_operands; i++)
        if (r->g->types[op->operands[i]].dtype == VTRN_DTYPE_FP32)
            VTRN_RETURN_IF_ERROR(convert(r, op, &op->operands[i], to));
    return NULL;
}

static vtrn_status cast_product(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    *is_dropped = false;
    const casting *c = ctx;
    return is_product(op) ? cast_operands(r, op, c->to) : NULL;
}

/* --- all ----------------------------------------------------------------------------------------
 */

/* Operations that mean the bits, or that others define: they stay fp32. */
static bool is_kept(const graph_op *op) {
    switch ((graph_kind)op->kind) {
    case GRAPH_BITCAST_CONVERT:
    case GRAPH_CUSTOM_CALL:
    case GRAPH_RNG_BIT_GENERATOR:
    case GRAPH_FFT:
    case GRAPH_CHOLESKY:
    case GRAPH_TRIANGULAR_SOLVE:
    case GRAPH_REDUCE_PRECISION:
    case GRAPH_UNKNOWN:
        return true;
    default:
        return graph_kind_is_collective(op->kind);
    }
}

static vtrn_status refuse(const graph_op *op, const char *why) {
    return VTRN_ERROR(VTRN_UNSUPPORTED,
                      "--auto-cast all: %s%s%s %s; --auto-cast matmult casts its products",
                      op->name, *op->place ? " at " : "", op->place, why);
}

/* The region says how elements are reduced: its values become of the type, too. */
static vtrn_status retype_region(rewriter *r, const graph_op *of, const graph_region *region,
                                 vtrn_dtype to) {
    graph_type *types = r->g->types;
    for (uint32_t i = 0; i < region->n_args; i++)
        if (types[region->args[i]].dtype == VTRN_DTYPE_FP32)
            types[region->args[i]].dtype = (uint8_t)to;
    for (uint32_t i = 0; i < region->n_ops; i++) {
        const graph_op *op = &region->ops[i];
        bool is_strange = op->n_regions || op->kind == GRAPH_CONSTANT || is_kept(op);
        for (uint32_t o = 0; o < op->n_operands; o++)
            is_strange |= types[op->operands[o]].dtype == VTRN_DTYPE_FP32;
        if (is_strange)
            return refuse(of, "has a region of more than arithmetic on its arguments");
        for (uint32_t k = 0; k < op->n_results; k++)
            if (types[op->results[k]].dtype == VTRN_DTYPE_FP32)
                types[op->results[k]].dtype = (uint8_t)to;
    }
    for (uint32_t i = 0; i < region->n_results; i++)
        if (types[region->results[i]].dtype == VTRN_DTYPE_FP32)
            return refuse(of, "has a region that returns another operation's value");
    return NULL;
}

static vtrn_status retype_constant(rewriter *r, graph_op *op, vtrn_dtype to) {
    graph_type *type = &r->g->types[op->results[0]];
    size_t n = op->attrs.constant.is_splat ? 1 : (size_t)graph_type_count(type);
    void *data = arena_alloc(&r->g->arena, n ? n * dtype_size(to) : 1, 8);
    if (!data)
        return VTRN_OUT_OF_MEMORY(n * dtype_size(to));
    dtype_convert(VTRN_DTYPE_FP32, op->attrs.constant.data, to, data, n);
    op->attrs.constant.data = data;
    type->dtype = (uint8_t)to;
    return NULL;
}

static bool was_fp32(const casting *c, graph_value v) {
    return v < c->n_was && c->was[v] == VTRN_DTYPE_FP32;
}

static vtrn_status cast_all(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    *is_dropped = false;
    const casting *c = ctx;
    graph_type *types = r->g->types;
    if (op->kind == GRAPH_CONSTANT)
        return types[op->results[0]].dtype == VTRN_DTYPE_FP32 ? retype_constant(r, op, c->to)
                                                              : NULL;
    if (op->kind == GRAPH_WHILE || op->kind == GRAPH_IF || op->kind == GRAPH_CASE)
        return refuse(op, "is control flow");
    if (is_kept(op)) {
        for (uint32_t i = 0; i < op->n_operands; i++)
            if (was_fp32(c, op->operands[i]) &&
                r->g->types[op->operands[i]].dtype != VTRN_DTYPE_FP32)
                VTRN_RETURN_IF_ERROR(convert(r, op, &op->operands[i], VTRN_DTYPE_FP32));
        return NULL;
    }
    VTRN_RETURN_IF_ERROR(cast_operands(r, op, c->to));
    for (uint32_t i = 0; i < op->n_regions; i++)
        VTRN_RETURN_IF_ERROR(retype_region(r, op, op->regions[i], c->to));
    for (uint32_t i = 0; i < op->n_results; i++)
        if (r->g->types[op->results[i]].dtype == VTRN_DTYPE_FP32)
            r->g->types[op->results[i]].dtype = (uint8_t)c->to;
    return NULL;
}

/* Outputs are what the program says: converted back. */
static vtrn_status restore_outputs(graph *g, const casting *c) {
    graph_region *body = &g->body;
    static const char *const name = "stablehlo.convert";
    graph_op *ops = ARENA_NEW(&g->arena, graph_op, body->n_ops + body->n_results);
    graph_value *results = ARENA_NEW(&g->arena, graph_value, body->n_results);
    graph_value *both = ARENA_NEW(&g->arena, graph_value, 2 * (size_t)body->n_results);
    if (!ops || !results || !both)
        return VTRN_OUT_OF_MEMORY((body->n_ops + body->n_results) * sizeof *ops);
    if (body->n_ops)
        memcpy(ops, body->ops, body->n_ops * sizeof *ops);
    VTRN_RETURN_IF_ERROR(graph_reserve_values(g, g->n_values + body->n_results));
    uint32_t n_ops = body->n_ops;
    for (uint32_t i = 0; i < body->n_results; i++) {
        results[i] = body->results[i];
        if (!was_fp32(c, results[i]) || g->types[results[i]].dtype == VTRN_DTYPE_FP32)
            continue;
        both[2 * i] = results[i];
        both[2 * i + 1] = results[i] = g->n_values++;
        g->types[results[i]] = g->types[both[2 * i]];
        g->types[results[i]].dtype = VTRN_DTYPE_FP32;
        ops[n_ops++] = (graph_op){.kind = GRAPH_CONVERT,
                                  .n_operands = 1,
                                  .n_results = 1,
                                  .operands = &both[2 * i],
                                  .results = &both[2 * i + 1],
                                  .name = name,
                                  .place = ""};
    }
    body->ops = ops;
    body->n_ops = n_ops;
    body->results = results;
    g->is_body_shared = false;
    g->spare_ops = NULL;
    return NULL;
}

vtrn_status auto_cast_apply(graph *g, const compile_options *options) {
    casting c = {.to = options->auto_cast_type ? options->auto_cast_type : VTRN_DTYPE_BF16,
                 .n_was = g->n_values};
    if (options->auto_cast == AUTO_CAST_NONE)
        return NULL;
    if (options->auto_cast == AUTO_CAST_MATMULT)
        return rewrite_graph(g, cast_product, &c);
    if (c.to != VTRN_DTYPE_BF16 && c.to != VTRN_DTYPE_FP16)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "--auto-cast all with %s: only the PE array takes it; choose bf16 or "
                          "fp16, or --auto-cast matmult",
                          dtype_name(c.to));
    uint8_t *was = ARENA_NEW(&g->arena, uint8_t, g->n_values);
    if (!was)
        return VTRN_OUT_OF_MEMORY(g->n_values);
    for (uint32_t i = 0; i < g->n_values; i++)
        was[i] = g->types[i].dtype;
    c.was = was;
    VTRN_RETURN_IF_ERROR(rewrite_graph(g, cast_all, &c));
    return restore_outputs(g, &c);
}
