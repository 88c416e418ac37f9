/* Views against the index arithmetic of the graph: at corner elements and at others drawn by a
 * fixed rule, a view names the element that StableHLO's definition of the op names. */
#include "compiler/plan/verify_plan.h"

#include "compiler/plan/verify_sample.h"

/* The operand's element that element `at` of the result is. */
static void operand_index(const graph_op *op, const graph_type *in, const graph_type *out,
                          const int64_t *at, int64_t *from) {
    switch ((graph_kind)op->kind) {
    case GRAPH_TRANSPOSE:
        for (int d = 0; d < out->rank; d++)
            from[op->attrs.dims.dims.v[d]] = at[d];
        break;
    case GRAPH_BROADCAST_IN_DIM:
        for (int d = 0; d < in->rank; d++)
            from[d] = in->dims[d] == 1 ? 0 : at[op->attrs.dims.dims.v[d]];
        break;
    case GRAPH_SLICE:
        for (int d = 0; d < in->rank; d++)
            from[d] = op->attrs.slice.start.v[d] + at[d] * op->attrs.slice.stride.v[d];
        break;
    case GRAPH_REVERSE:
        for (int d = 0; d < in->rank; d++)
            from[d] = at[d];
        for (int64_t i = 0; i < op->attrs.dims.dims.n; i++) {
            int64_t d = op->attrs.dims.dims.v[i];
            from[d] = in->dims[d] - 1 - at[d];
        }
        break;
    default: /* a reshape keeps the linear index */
        sample_unravel(in, sample_ravel(out, at), from);
    }
}

/* Elements of the narrower type in one of the wider, of a bitcast_convert that changes the type's
 * size: of the operand (is_in) or of the result; else 1. */
static int64_t share_of(const graph_op *op, const graph_type *in, const graph_type *out,
                        bool is_in) {
    const int64_t a = (int64_t)dtype_size((vtrn_dtype)in->dtype),
                  b = (int64_t)dtype_size((vtrn_dtype)out->dtype);
    if (op->kind != GRAPH_BITCAST_CONVERT || a == 0 || b == 0)
        return 1;
    const int64_t share = is_in ? a / b : b / a;
    return share > 1 ? share : 1;
}

/* The graph, and where its values are. */
typedef struct views {
    const graph *g;
    verify_view_fn *of;
    const void *ctx;
} views;

static bool is_checked(const views *x, const graph_op *op) {
    if (op->n_operands != 1 || op->n_results != 1 || !view_is_view_kind((graph_kind)op->kind))
        return false;
    const view *from = x->of(x->ctx, op->operands[0]), *to = x->of(x->ctx, op->results[0]);
    return from && to && from->slot == to->slot &&
           graph_type_count(&x->g->types[op->results[0]]) > 0;
}

static vtrn_status check_op(const views *x, const graph_op *op) {
    const graph_type *in = &x->g->types[op->operands[0]], *out = &x->g->types[op->results[0]];
    const view *from_view = x->of(x->ctx, op->operands[0]);
    const view *to_view = x->of(x->ctx, op->results[0]);
    if (view_count(from_view) != graph_type_count(in) ||
        view_count(to_view) != graph_type_count(out))
        return VTRN_ERROR(
            VTRN_INTERNAL,
            "plan: %s %s: a view has %lld elements, the tensor %lld; this is a bug of "
            "the compiler, please report the program",
            op->name, op->place, (long long)view_count(to_view), (long long)graph_type_count(out));
    const int64_t of_in = share_of(op, in, out, true), of_out = share_of(op, in, out, false);
    for (int i = 0; i < SAMPLE_COUNT; i++) {
        int64_t at[GRAPH_MAX_RANK] = {0}, from[GRAPH_MAX_RANK] = {0};
        int64_t linear = sample_index(graph_type_count(out), i);
        sample_unravel(out, linear, at);
        operand_index(op, in, out, at, from);
        int64_t is = sample_element(to_view, linear) * of_out;
        int64_t wanted =
            of_in * of_out == 1
                ? sample_element(from_view, sample_ravel(in, from))
                : sample_element(from_view, linear * of_out / of_in) * of_in + linear % of_in;
        if (is != wanted)
            return VTRN_ERROR(VTRN_INTERNAL,
                              "plan: %s %s: element %lld of the result is element %lld of tensor "
                              "%u, and should be %lld; this is a bug of the compiler, please "
                              "report the program",
                              op->name, op->place, (long long)linear, (long long)is, to_view->slot,
                              (long long)wanted);
    }
    return NULL;
}

static vtrn_status check_region(const views *x, const graph_region *region) {
    for (uint32_t i = 0; i < region->n_ops; i++) {
        const graph_op *op = &region->ops[i];
        if (is_checked(x, op))
            VTRN_RETURN_IF_ERROR(check_op(x, op));
        for (uint32_t r = 0; r < op->n_regions; r++)
            VTRN_RETURN_IF_ERROR(check_region(x, op->regions[r]));
    }
    return NULL;
}

vtrn_status verify_maps(const graph *g, verify_view_fn *view_of, const void *ctx) {
    views x = {g, view_of, ctx};
    return check_region(&x, &g->body);
}
