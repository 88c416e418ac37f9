/* PSUM banks and their owners: a kernel takes the banks that it needs when it starts, and nothing
 * else hands banks out. What two parts of one kernel hold at the same time never overlaps. */
#ifndef VTRN_COMPILER_LOWER_PSUM_H
#define VTRN_COMPILER_LOWER_PSUM_H

#include "compiler/lower/lower.h"

/* Neighbouring banks that one owner has. */
typedef struct psum_banks {
    int first, n;
    int next; /* of those that psum_next hands out in turn */
} psum_banks;

/* fp32 columns of a bank that one matmul fills. */
int64_t psum_cols(const vtrn_chip *chip);
/* Banks that hold so many fp32 columns. */
int psum_banks_for(const vtrn_chip *chip, int64_t cols);

/* Starts a kernel: every bank is free. */
void psum_begin(lower *l);
/* Takes the next n_banks until the next kernel starts. An internal error if fewer are free: the
 * kernel was planned with more banks than the chip has. */
vtrn_status psum_take(lower *l, int n_banks, psum_banks *out);
/* Bank i of those taken, as fp32. */
tile psum_tile(lower *l, const psum_banks *banks, int i);
/* The next n_tiles of the banks, in turn: tiles that are in use together, so an internal error if
 * there are fewer banks. The scheduler orders their later uses. */
vtrn_status psum_next(lower *l, psum_banks *banks, int n_tiles, tile *out);

#endif
