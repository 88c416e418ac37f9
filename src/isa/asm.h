/* Assembly text: a program that a person reads and writes. The language is in docs/assembly.md. */
#ifndef VTRN_ISA_ASM_H
#define VTRN_ISA_ASM_H

#include "isa/program.h"

#include <stddef.h>

/* Text -> program whose structure is valid (program_validate_structure); whether it suits its chip
 * is program_validate's to say. The text needs no NUL. BAD_ARGUMENT shows the line and a caret:
 *
 *   step.vasm:12: no instruction is called "matmull"
 *       Tensor matmull psum[0:128, 0]:fp32(1:512), sbuf[0:128, 0]:bf16(1:512)
 *              ^
 */
vtrn_status program_assemble(const char *text, size_t size, const char *file_name,
                             vtrn_program **out);

/* Program -> text, NUL-terminated, which the caller frees with free(). Assembling it gives a
 * program with the same container, byte for byte. */
vtrn_status program_disassemble(const vtrn_program *program, char **out_text, size_t *out_size);

/* One instruction as the text's line, for messages and profiles: as snprintf, cut to capacity.
 * Returns the length that it would have. */
size_t program_disassemble_instr(const vtrn_instr *instr, char *text, size_t capacity);

#endif
