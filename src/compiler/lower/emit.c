/* Instructions that many lowerings append, and what a reducer is on the engines. */
#include "compiler/lower/lower.h"

#include "cost/cost.h"

vtrn_status lower_emit_tensor_tensor(lower *l, vtrn_engine engine, vtrn_alu op, const vtrn_ap *dst,
                                     const vtrn_ap *a, const vtrn_ap *b) {
    vtrn_instr *instr = lower_append(l, VTRN_OP_TENSOR_TENSOR, engine);
    if (!instr)
        return VTRN_OUT_OF_MEMORY(sizeof *instr);
    instr->op0 = (uint8_t)op;
    instr->ap[0] = *dst;
    instr->ap[1] = *a;
    instr->ap[2] = *b;
    return NULL;
}

vtrn_status lower_emit_copy(lower *l, const vtrn_ap *dst, const vtrn_ap *src) {
    LOWER_EMIT(instr, l, TENSOR_COPY, VECTOR);
    instr->ap[0] = *dst;
    instr->ap[1] = *src;
    return NULL;
}

vtrn_engine lower_lighter_engine(lower *l) {
    for (; l->n_weighed < l->build.n_list; l->n_weighed++) {
        const vtrn_instr *instr = &l->build.list[l->n_weighed];
        if (instr->engine == VTRN_ENGINE_VECTOR)
            l->vector_ns += cost_instr(l->chip, instr).ii_ns;
        else if (instr->engine == VTRN_ENGINE_SCALAR)
            l->scalar_ns += cost_instr(l->chip, instr).ii_ns;
    }
    return l->scalar_ns < l->vector_ns ? VTRN_ENGINE_SCALAR : VTRN_ENGINE_VECTOR;
}

vtrn_status lower_alternate(lower *l, const uint32_t *begin, int n) {
    lower_lighter_engine(l); /* it weighs what was appended in the order of the list until here */
    return build_alternate(&l->build, begin, n);
}

vtrn_status lower_emit_scaled(lower *l, const vtrn_ap *dst, const vtrn_ap *src, float factor,
                              const vtrn_ap *row) {
    if (lower_lighter_engine(l) == VTRN_ENGINE_SCALAR) {
        LOWER_EMIT(instr, l, ACTIVATE, SCALAR);
        instr->func = VTRN_ACT_COPY;
        instr->ap[0] = *dst;
        instr->ap[1] = *src;
        if (row)
            instr->ap[2] = *row;
        instr->imm[0].f = factor;
        instr->imm[1].f = -0.0f; /* the one bias that keeps the sign of a zero */
        return NULL;
    }
    if (!row && factor == 1)
        return lower_emit_copy(l, dst, src);
    LOWER_EMIT(instr, l, TENSOR_SCALAR, VECTOR);
    instr->op0 = VTRN_ALU_MULTIPLY;
    instr->ap[0] = *dst;
    instr->ap[1] = *src;
    if (row)
        instr->ap[2] = *row;
    instr->imm[0].f = factor;
    return NULL;
}

vtrn_status lower_emit_scalar_bits(lower *l, vtrn_engine engine, const vtrn_ap *dst,
                                   const vtrn_ap *a, vtrn_alu op0, uint32_t s0, vtrn_alu op1,
                                   uint32_t s1) {
    vtrn_instr *instr = lower_append(l, VTRN_OP_TENSOR_SCALAR, engine);
    if (!instr)
        return VTRN_OUT_OF_MEMORY(sizeof *instr);
    instr->op0 = (uint8_t)op0;
    instr->op1 = (uint8_t)op1;
    instr->ap[0] = *dst;
    instr->ap[1] = *a;
    instr->imm[0].bits = s0;
    instr->imm[1].bits = s1;
    return NULL;
}

vtrn_status lower_emit_two_scalars(lower *l, const vtrn_ap *dst, const vtrn_ap *a, vtrn_alu op0,
                                   float s0, vtrn_alu op1, float s1) {
    LOWER_EMIT(instr, l, TENSOR_SCALAR, VECTOR);
    instr->op0 = (uint8_t)op0;
    instr->op1 = (uint8_t)op1;
    instr->ap[0] = *dst;
    instr->ap[1] = *a;
    instr->imm[0].f = s0;
    instr->imm[1].f = s1;
    return NULL;
}

bool lower_reducer(graph_reducer r, graph_kind *kind, vtrn_alu *alu) {
    switch (r) {
    case GRAPH_REDUCER_ADD:
        *kind = GRAPH_ADD;
        *alu = VTRN_ALU_ADD;
        return true;
    case GRAPH_REDUCER_MULTIPLY:
        *kind = GRAPH_MULTIPLY;
        *alu = VTRN_ALU_MULTIPLY;
        return true;
    case GRAPH_REDUCER_MAXIMUM:
        *kind = GRAPH_MAXIMUM;
        *alu = VTRN_ALU_MAX;
        return true;
    case GRAPH_REDUCER_MINIMUM:
        *kind = GRAPH_MINIMUM;
        *alu = VTRN_ALU_MIN;
        return true;
    default:
        *kind = GRAPH_UNKNOWN;
        *alu = VTRN_ALU_NONE;
        return false;
    }
}
