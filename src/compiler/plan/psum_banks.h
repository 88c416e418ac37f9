/* PSUM in banks: how many a kernel needs, and which it has. */
#ifndef VTRN_COMPILER_PLAN_PSUM_BANKS_H
#define VTRN_COMPILER_PLAN_PSUM_BANKS_H

#include "chip/chip.h"

#include <stdint.h>

/* Neighbouring banks that one owner has (emit/psum.h). */
typedef struct psum_banks {
    int first, n;
    int next; /* of those that psum_next hands out in turn */
} psum_banks;

/* fp32 columns of a bank that one matmul fills. */
int64_t psum_cols(const vtrn_chip *chip);
/* Banks that hold so many fp32 columns. */
int psum_banks_for(const vtrn_chip *chip, int64_t cols);

#endif
