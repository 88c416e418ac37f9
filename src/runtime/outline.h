/* Where a program goes, found without computing more than its loop counters. */
#ifndef VTRN_RUNTIME_OUTLINE_H
#define VTRN_RUNTIME_OUTLINE_H

#include "chip/chip.h"
#include "isa/program.h"

/* The blocks that run with arguments of zeros, in order; *out is made by malloc. Loops that count
 * are followed; a branch on other values goes where zeros lead. UNDEFINED where that never ends. */
vtrn_status runtime_outline(const vtrn_program *program, const vtrn_chip *chip, uint32_t **out,
                            uint32_t *n_out);

/* Whether values decide which blocks run. */
bool runtime_has_branches(const vtrn_program *program);

#endif
