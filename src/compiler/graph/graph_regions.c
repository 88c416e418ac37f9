/* Recognises what a reduction, scatter or select region computes. */
#include "compiler/graph/graph_build.h"

static int reducer_of_kind(int kind) {
    switch (kind) {
    case GRAPH_ADD:
        return GRAPH_REDUCER_ADD;
    case GRAPH_MULTIPLY:
        return GRAPH_REDUCER_MULTIPLY;
    case GRAPH_MAXIMUM:
        return GRAPH_REDUCER_MAXIMUM;
    case GRAPH_MINIMUM:
        return GRAPH_REDUCER_MINIMUM;
    case GRAPH_AND:
        return GRAPH_REDUCER_AND;
    case GRAPH_OR:
        return GRAPH_REDUCER_OR;
    case GRAPH_XOR:
        return GRAPH_REDUCER_XOR;
    default:
        return GRAPH_REDUCER_GENERIC;
    }
}

/* One commutative operation on the two arguments, in either order, or the second argument alone. */
static int recognise_reducer(const graph_region *r) {
    if (r->n_args != 2 || r->n_results != 1)
        return GRAPH_REDUCER_GENERIC;
    if (r->n_ops == 0)
        return r->results[0] == r->args[1] ? GRAPH_REDUCER_REPLACE : GRAPH_REDUCER_GENERIC;
    const graph_op *op = &r->ops[0];
    if (r->n_ops != 1 || op->n_operands != 2 || op->n_results != 1 ||
        op->results[0] != r->results[0])
        return GRAPH_REDUCER_GENERIC;
    bool is_forward = op->operands[0] == r->args[0] && op->operands[1] == r->args[1];
    bool is_swapped = op->operands[0] == r->args[1] && op->operands[1] == r->args[0];
    return is_forward || is_swapped ? reducer_of_kind(op->kind) : GRAPH_REDUCER_GENERIC;
}

/* GRAPH_EQ stands for "not recognised": no selection is by equality. */
static int recognise_select(const graph_region *r) {
    static const uint8_t FLIPPED[] = {GRAPH_EQ, GRAPH_NE, GRAPH_LE, GRAPH_LT, GRAPH_GE, GRAPH_GT};
    if (r->n_args != 2 || r->n_results != 1 || r->n_ops != 1)
        return GRAPH_EQ;
    const graph_op *op = &r->ops[0];
    if (op->kind != GRAPH_COMPARE || op->results[0] != r->results[0])
        return GRAPH_EQ;
    if (op->operands[0] == r->args[0] && op->operands[1] == r->args[1])
        return op->attrs.compare.direction;
    if (op->operands[0] == r->args[1] && op->operands[1] == r->args[0])
        return FLIPPED[op->attrs.compare.direction];
    return GRAPH_EQ;
}

void graph_recognise_regions(graph_op *op) {
    switch (op->kind) {
    case GRAPH_REDUCE:
    case GRAPH_REDUCE_WINDOW:
    case GRAPH_SCATTER:
    case GRAPH_ALL_REDUCE:
    case GRAPH_REDUCE_SCATTER:
        op->reducer = (uint8_t)recognise_reducer(op->regions[0]);
        break;
    case GRAPH_SELECT_AND_SCATTER:
        op->select = (uint8_t)recognise_select(op->regions[0]);
        op->reducer = (uint8_t)recognise_reducer(op->regions[1]);
        break;
    default:
        break;
    }
}
