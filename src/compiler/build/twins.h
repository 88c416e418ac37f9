/* The same work on another engine: instructions that give the same bits there. */
#ifndef VTRN_COMPILER_BUILD_TWINS_H
#define VTRN_COMPILER_BUILD_TWINS_H

#include "chip/chip.h"
#include "isa/program.h"

enum { TWINS_MAX = 2 /* engines besides the instruction's own */ };

/* Fills out[TWINS_MAX] with the instruction's twins, each for another engine; returns how many.
 * Only where it pays: what GpSimd does while it keeps Vector from SBUF has none. */
int twins_of(const vtrn_chip *chip, const vtrn_instr *instr, vtrn_instr out[TWINS_MAX]);

/* The tensor_copy as the Scalar engine makes it. It quiets a signalling NaN, which a copy of bits
 * keeps: where the source may have one it is another instruction. */
vtrn_instr twins_scalar_copy(const vtrn_instr *instr);

#endif
