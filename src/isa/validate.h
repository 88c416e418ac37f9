/* The validator: whether a program obeys its chip. Engines and timing take only programs that do.
 */
#ifndef VTRN_ISA_VALIDATE_H
#define VTRN_ISA_VALIDATE_H

#include "chip/chip.h"
#include "isa/program.h"

/* OK, or what the first offender is, the rule with its values, and where:
 *
 *   undefined behaviour: matmul: moving free size 640 > 512 (one PSUM bank, NeuronCore-v2)
 *     at instruction 12 (Tensor), stablehlo.dot_general model.py:42; split the free axis into ...
 *
 * Categories: BAD_ARGUMENT for a malformed program (an index out of range), CAPACITY for a range
 * beyond a memory, UNSUPPORTED for what this chip generation lacks, UNDEFINED for the rest.
 * Sources of the rules: docs/hardware.md. Linear in the program, allocates a byte a slot.
 */
vtrn_status program_validate(const vtrn_program *program, const vtrn_chip *chip);

/* The part that no chip is needed for: indices, streams, targets, enumerations, operands only where
 * the instruction takes them. Enough for a program to be saved, disassembled or walked safely. */
vtrn_status program_validate_structure(const vtrn_program *program);

/* The same as program_validate for one instruction; instr_i is for the message. Slots and customs
 * are looked up in program. No rule here needs a second instruction: what a matmul needs of the
 * ldweights before it is checked by program_validate. */
vtrn_status program_validate_instr(const vtrn_program *program, const vtrn_chip *chip,
                                   uint32_t instr_i);

/* The stationary tile in the PE array, as far as the instructions of a stream tell; k 0: unknown.
 */
typedef struct program_stationary {
    uint32_t k, m; /* partitions and columns */
    vtrn_dtype dtype;
} program_stationary;

/* The same for an instruction that is not in the program yet: the message says the remedy, and its
 * place is the caller's to add. stationary: what the instructions before it on its core left there,
 * which a matmul must match, and then what it leaves itself; NULL: not asked for. */
vtrn_status program_validate_lone(const vtrn_program *program, const vtrn_chip *chip,
                                  const vtrn_instr *instr, program_stationary *stationary);

#endif
