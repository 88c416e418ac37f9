#include "compiler/build/twins.h"

#include "isa/access.h"
#include "isa/isa.h"

#include <math.h>

/* All engines compute floats in fp32 and round once, so only floats have twins: integers go through
 * fp32 on some engines and not on others. */
static bool is_float_only(const vtrn_instr *instr) {
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (access_is_memory(instr, i) && !dtype_is_float(instr->ap[i].dtype))
            return false;
    return true;
}

static bool is_absent(const vtrn_instr *instr, int ap_i) {
    return instr->ap[ap_i].space == VTRN_SPACE_NONE;
}

static bool reaches_psum(const vtrn_instr *instr) {
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (access_is_memory(instr, i) && instr->ap[i].space == VTRN_SPACE_PSUM)
            return true;
    return false;
}

/* A copy of bits: on Scalar it would be a multiplication, which quiets a signalling NaN. */
static bool moves_bits(const vtrn_instr *instr) {
    return instr->opcode == VTRN_OP_TENSOR_COPY && instr->ap[0].dtype == instr->ap[1].dtype;
}

vtrn_instr twins_scalar_copy(const vtrn_instr *instr) {
    vtrn_instr copy = *instr;
    copy.opcode = VTRN_OP_ACTIVATE;
    copy.engine = VTRN_ENGINE_SCALAR;
    copy.func = VTRN_ACT_COPY;
    copy.op0 = copy.op1 = VTRN_ALU_NONE;
    copy.imm[0].f = 1;
    copy.imm[1].f = -0.0f; /* the one bias that keeps the sign of a zero */
    return copy;
}

static bool is_fp32_or_absent(const vtrn_instr *instr, int ap_i) {
    return is_absent(instr, ap_i) || instr->ap[ap_i].dtype == VTRN_DTYPE_FP32;
}

/* Of Vector, on Scalar: x * s0 + s1. */
static bool on_scalar(const vtrn_chip *chip, const vtrn_instr *instr, vtrn_instr *out) {
    if (instr->flags || moves_bits(instr) || !is_fp32_or_absent(instr, 2) ||
        !is_fp32_or_absent(instr, 3))
        return false;
    *out = twins_scalar_copy(instr);
    if (instr->opcode == VTRN_OP_TENSOR_COPY)
        return true;
    if (instr->opcode != VTRN_OP_TENSOR_SCALAR)
        return false;
    int bias = -1; /* which operand of the instruction it is */
    if (instr->op0 == VTRN_ALU_MULTIPLY && instr->op1 == VTRN_ALU_NONE) {
        out->imm[0] = instr->imm[0];
    } else if (instr->op0 == VTRN_ALU_MULTIPLY && instr->op1 == VTRN_ALU_ADD) {
        out->imm[0] = instr->imm[0];
        bias = 1;
    } else if (instr->op0 == VTRN_ALU_ADD && instr->op1 == VTRN_ALU_NONE) {
        out->ap[2] = (vtrn_ap){0};
        bias = 0;
    } else {
        return false;
    }
    out->ap[3] = (vtrn_ap){0};
    if (bias >= 0) {
        out->ap[3] = instr->ap[2 + bias];
        out->imm[1] = instr->imm[bias];
        /* v2 takes a bias from SBUF only */
        return chip->gen >= 3 || !is_absent(instr, 2 + bias);
    }
    return true;
}

/* Of Scalar, on Vector: a copy, perhaps scaled, and moved by a bias. */
static bool on_vector(const vtrn_instr *instr, vtrn_instr *out) {
    if (instr->opcode != VTRN_OP_ACTIVATE || instr->func != VTRN_ACT_COPY || instr->flags ||
        !is_fp32_or_absent(instr, 3))
        return false;
    *out = *instr;
    out->engine = VTRN_ENGINE_VECTOR;
    out->func = 0;
    bool has_bias = !is_absent(instr, 3) || instr->imm[1].f != 0 || !signbit(instr->imm[1].f);
    if (!has_bias && is_absent(instr, 2) && instr->imm[0].f == 1) {
        out->opcode = VTRN_OP_TENSOR_COPY;
        out->imm[0].bits = out->imm[1].bits = 0;
        return true;
    }
    out->opcode = VTRN_OP_TENSOR_SCALAR;
    out->op0 = VTRN_ALU_MULTIPLY;
    out->op1 = has_bias ? VTRN_ALU_ADD : VTRN_ALU_NONE;
    if (!has_bias)
        out->imm[1].bits = 0;
    return true;
}

/* Of Vector, on GpSimd, which has the same instructions for SBUF. */
static bool on_gpsimd(const vtrn_chip *chip, const vtrn_instr *instr, vtrn_instr *out) {
    bool is_shared = instr->opcode == VTRN_OP_TENSOR_TENSOR ||
                     instr->opcode == VTRN_OP_TENSOR_SCALAR ||
                     instr->opcode == VTRN_OP_TENSOR_COPY || instr->opcode == VTRN_OP_MEMSET;
    if (!is_shared || chip->cost.vector_gpsimd_share_sbuf || reaches_psum(instr) ||
        (instr->flags & VTRN_FLAG_STOCHASTIC))
        return false;
    *out = *instr;
    out->engine = VTRN_ENGINE_GPSIMD;
    return true;
}

/* Rings that each engine's queue feeds: transfers of a ring complete in the order of one queue. */
typedef struct ring_range {
    uint8_t first, n;
} ring_range;

static const ring_range RINGS[VTRN_ENGINE_COUNT] = {
    [VTRN_ENGINE_SYNC] = {0, 4}, [VTRN_ENGINE_GPSIMD] = {4, 3}, [VTRN_ENGINE_SCALAR] = {8, 2}};

/* Any queue may start a copy. Static rings take so little of it that Scalar is left to compute. */
static int copy_twins(const vtrn_chip *chip, const vtrn_instr *instr, vtrn_instr out[TWINS_MAX]) {
    static const vtrn_engine engines[] = {VTRN_ENGINE_SYNC, VTRN_ENGINE_GPSIMD, VTRN_ENGINE_SCALAR};
    int n = 0;
    if (RINGS[instr->engine].n == 0)
        return 0;
    for (size_t i = 0; i < sizeof engines / sizeof *engines; i++) {
        const ring_range *rings = &RINGS[engines[i]];
        if (engines[i] == instr->engine || rings->first + rings->n > chip->n_dma_queues ||
            (engines[i] == VTRN_ENGINE_SCALAR && !chip->dma.uses_dge))
            continue;
        out[n] = *instr;
        out[n].engine = (uint8_t)engines[i];
        out[n++].queue = (uint8_t)(rings->first + instr->queue % rings->n);
    }
    return n;
}

int twins_of(const vtrn_chip *chip, const vtrn_instr *instr, vtrn_instr out[TWINS_MAX]) {
    int n = 0;
    if (instr->keeps_engine)
        return 0;
    if (instr->opcode == VTRN_OP_DMA_COPY)
        return copy_twins(chip, instr, out);
    if (!is_float_only(instr))
        return 0;
    if (instr->engine == VTRN_ENGINE_SCALAR)
        return on_vector(instr, &out[0]) ? 1 : 0;
    if (instr->engine != VTRN_ENGINE_VECTOR)
        return 0;
    n += on_scalar(chip, instr, &out[n]);
    n += on_gpsimd(chip, instr, &out[n]);
    return n;
}
