/* Which datapath an elementwise instruction of the Vector or GpSimd engine takes. */
#ifndef VTRN_ENGINE_ALU_PATH_H
#define VTRN_ENGINE_ALU_PATH_H

#include "base/status.h"
#include "isa/isa.h"

typedef enum alu_path_kind { PATH_FP32, PATH_INT, PATH_BITS } alu_path_kind;

typedef struct alu_path {
    alu_path_kind kind;
    bool is_unsigned; /* PATH_INT */
} alu_path;

/* Of the instruction's op0 and op1 on the operands in mask, bit i for operand i. UNDEFINED where
 * one operation is on bits and the other is not. */
vtrn_status alu_path_of(const vtrn_instr *instr, unsigned mask, alu_path *out);

#endif
