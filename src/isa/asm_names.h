/* Words of the assembly language that both directions share. */
#ifndef VTRN_ISA_ASM_NAMES_H
#define VTRN_ISA_ASM_NAMES_H

#include "isa/program.h"

enum { ASM_N_FLAGS = 11, ASM_N_SLOT_KINDS = 5 };

/* Bit i of an instruction's flags. */
static const char *const asm_flag_names[ASM_N_FLAGS] = {
    "accumulate",  "reverse0", "reverse1",   "negate", "stochastic", "oob_skip",
    "clamp_index", "last",     "double_row", "spill",  "reset"};

/* In the order of vtrn_slot_kind. */
static const char *const asm_slot_kinds[ASM_N_SLOT_KINDS] = {"argument", "output", "constant",
                                                             "scratch", "rank"};

#endif
