/* Instructions that many kernels append. */
#include "compiler/emit/emitter.h"

#include "cost/cost.h"

uint32_t emit_sbuf_alloc(emitter *e, uint64_t n_bytes) {
    uint32_t addr = e->sbuf_cursor;
    e->sbuf_cursor += sbuf_round(n_bytes);
    return addr;
}

vtrn_status emit_tensor_tensor(emitter *e, vtrn_engine engine, vtrn_alu op, const vtrn_ap *dst,
                               const vtrn_ap *a, const vtrn_ap *b) {
    vtrn_instr *instr = emit_append(e, VTRN_OP_TENSOR_TENSOR, engine);
    if (!instr)
        return VTRN_OUT_OF_MEMORY(sizeof *instr);
    instr->op0 = (uint8_t)op;
    instr->ap[0] = *dst;
    instr->ap[1] = *a;
    instr->ap[2] = *b;
    return NULL;
}

vtrn_status emit_copy(emitter *e, const vtrn_ap *dst, const vtrn_ap *src) {
    EMIT(instr, e, TENSOR_COPY, VECTOR);
    instr->ap[0] = *dst;
    instr->ap[1] = *src;
    return NULL;
}

vtrn_engine emit_lighter_engine(emitter *e) {
    for (; e->n_weighed < e->build->n_list; e->n_weighed++) {
        const vtrn_instr *instr = &e->build->list[e->n_weighed];
        if (instr->engine == VTRN_ENGINE_VECTOR)
            e->vector_ns += cost_instr(e->chip, instr).ii_ns;
        else if (instr->engine == VTRN_ENGINE_SCALAR)
            e->scalar_ns += cost_instr(e->chip, instr).ii_ns;
    }
    return e->scalar_ns < e->vector_ns ? VTRN_ENGINE_SCALAR : VTRN_ENGINE_VECTOR;
}

bool emit_scalar_is_lighter(emitter *e) {
    emit_lighter_engine(e); /* it weighs */
    return e->scalar_ns - e->kernel_scalar_ns < e->vector_ns - e->kernel_vector_ns;
}

vtrn_status emit_alternate(emitter *e, const uint32_t *begin, int n) {
    emit_lighter_engine(e); /* it weighs what was appended in the order of the list until here */
    return build_alternate(e->build, begin, n);
}

vtrn_status emit_scaled(emitter *e, const vtrn_ap *dst, const vtrn_ap *src, float factor,
                        const vtrn_ap *row) {
    if (emit_lighter_engine(e) == VTRN_ENGINE_SCALAR) {
        EMIT(instr, e, ACTIVATE, SCALAR);
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
        return emit_copy(e, dst, src);
    EMIT(instr, e, TENSOR_SCALAR, VECTOR);
    instr->op0 = VTRN_ALU_MULTIPLY;
    instr->ap[0] = *dst;
    instr->ap[1] = *src;
    if (row)
        instr->ap[2] = *row;
    instr->imm[0].f = factor;
    return NULL;
}

vtrn_status emit_scalars(emitter *e, vtrn_engine engine, const vtrn_ap *dst, const vtrn_ap *a,
                         step_op first, step_op second) {
    vtrn_instr *instr = emit_append(e, VTRN_OP_TENSOR_SCALAR, engine);
    if (!instr)
        return VTRN_OUT_OF_MEMORY(sizeof *instr);
    instr->op0 = (uint8_t)first.alu;
    instr->op1 = (uint8_t)second.alu;
    instr->ap[0] = *dst;
    instr->ap[1] = *a;
    instr->imm[0].bits = first.operand.bits;
    instr->imm[1].bits = second.operand.bits;
    return NULL;
}
