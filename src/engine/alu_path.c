/* Bit operations see raw bits; on GpSimd, 32-bit integers stay integers; all else is fp32. Source:
 * docs/hardware.md. */
#include "engine/alu_path.h"

static bool is_int32(const vtrn_ap *ap) {
    return ap->dtype == VTRN_DTYPE_INT32 || ap->dtype == VTRN_DTYPE_UINT32;
}

static bool is_bit_op(uint8_t op) {
    return isa_alu_class(op) == 'B';
}

vtrn_status alu_path_of(const vtrn_instr *instr, unsigned mask, alu_path *out) {
    bool has_bit = is_bit_op(instr->op0) || is_bit_op(instr->op1);
    bool has_other = (instr->op0 != VTRN_ALU_NONE && !is_bit_op(instr->op0)) ||
                     (instr->op1 != VTRN_ALU_NONE && !is_bit_op(instr->op1));
    if (instr->op0 >= VTRN_ALU_COUNT || instr->op1 >= VTRN_ALU_COUNT || (has_bit && has_other))
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "%s: operations %s and %s; both are bit operations or neither is",
                          isa_op_info(instr->opcode)->mnemonic, isa_alu_name(instr->op0),
                          isa_alu_name(instr->op1));
    bool all_int = instr->engine == VTRN_ENGINE_GPSIMD, all_unsigned = true;
    for (int i = 1; i < VTRN_MAX_AP; i++) {
        if (!(mask >> i & 1) || instr->ap[i].space == VTRN_SPACE_NONE)
            continue;
        all_int = all_int && is_int32(&instr->ap[i]);
        all_unsigned = all_unsigned && instr->ap[i].dtype == VTRN_DTYPE_UINT32;
    }
    *out = (alu_path){has_bit ? PATH_BITS : all_int ? PATH_INT : PATH_FP32, all_unsigned};
    return NULL;
}
