/* Arithmetic on tiles of one shape, one call an instruction. */
#include "compiler/emit/steps.h"

step_tile step_tile_of(const vtrn_ap *ap) {
    step_tile all = {*ap, *ap, *ap};
    all.f.dtype = VTRN_DTYPE_FP32;
    all.u.dtype = VTRN_DTYPE_UINT32;
    all.i.dtype = VTRN_DTYPE_INT32;
    return all;
}

/* The next instruction with its result and first operand; NULL after a failure. */
static vtrn_instr *append(steps *s, vtrn_opcode opcode, vtrn_engine engine, const vtrn_ap *dst,
                          const vtrn_ap *a) {
    vtrn_instr *instr = s->status ? NULL : emit_append(s->e, opcode, engine);
    if (!instr) {
        if (!s->status)
            s->status = VTRN_OUT_OF_MEMORY(sizeof *instr);
        return NULL;
    }
    instr->ap[0] = *dst;
    instr->ap[1] = *a;
    return instr;
}

void step_scalar(steps *s, const vtrn_ap *dst, const vtrn_ap *a, step_op first, step_op second) {
    vtrn_instr *instr = append(s, VTRN_OP_TENSOR_SCALAR, VTRN_ENGINE_VECTOR, dst, a);
    if (!instr)
        return;
    instr->op0 = (uint8_t)first.alu;
    instr->op1 = (uint8_t)second.alu;
    instr->imm[0].bits = first.operand.bits;
    instr->imm[1].bits = second.operand.bits;
}

void step_scalar_tensor(steps *s, const vtrn_ap *dst, const vtrn_ap *a, step_op first, vtrn_alu op,
                        const vtrn_ap *b) {
    vtrn_instr *instr = append(s, VTRN_OP_SCALAR_TENSOR_TENSOR, VTRN_ENGINE_VECTOR, dst, a);
    if (!instr)
        return;
    instr->op0 = (uint8_t)first.alu;
    instr->op1 = (uint8_t)op;
    instr->imm[0].bits = first.operand.bits;
    instr->ap[3] = *b;
}

static void tensor_tensor(steps *s, vtrn_engine engine, const vtrn_ap ap[2], vtrn_alu op,
                          const vtrn_ap *b) {
    vtrn_instr *instr = append(s, VTRN_OP_TENSOR_TENSOR, engine, &ap[0], &ap[1]);
    if (!instr)
        return;
    instr->op0 = (uint8_t)op;
    instr->ap[2] = *b;
}

void step_tensor(steps *s, const vtrn_ap *dst, const vtrn_ap *a, vtrn_alu op, const vtrn_ap *b) {
    tensor_tensor(s, VTRN_ENGINE_VECTOR, (vtrn_ap[]){*dst, *a}, op, b);
}

void step_exact(steps *s, const vtrn_ap *dst, const vtrn_ap *a, vtrn_alu op, const vtrn_ap *b) {
    tensor_tensor(s, VTRN_ENGINE_GPSIMD, (vtrn_ap[]){*dst, *a}, op, b);
}

void step_exact_scalar(steps *s, const vtrn_ap *dst, const vtrn_ap *a, step_op op) {
    vtrn_instr *instr = append(s, VTRN_OP_TENSOR_SCALAR, VTRN_ENGINE_GPSIMD, dst, a);
    if (!instr)
        return;
    instr->op0 = (uint8_t)op.alu;
    instr->imm[0].bits = op.operand.bits;
}

void step_copy(steps *s, const vtrn_ap *dst, const vtrn_ap *a) {
    append(s, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_VECTOR, dst, a);
}

void step_zero(steps *s, const vtrn_ap *dst) {
    static const vtrn_ap none = {0};
    append(s, VTRN_OP_MEMSET, VTRN_ENGINE_VECTOR, dst, &none);
}

void step_reciprocal(steps *s, const vtrn_ap *dst, const vtrn_ap *a) {
    append(s, VTRN_OP_RECIPROCAL, VTRN_ENGINE_VECTOR, dst, a);
}

void step_copy_where(steps *s, const vtrn_ap *dst, const vtrn_ap *a, const vtrn_ap *mask) {
    vtrn_instr *instr = append(s, VTRN_OP_COPY_PREDICATED, VTRN_ENGINE_VECTOR, dst, a);
    if (instr)
        instr->ap[2] = *mask;
}
