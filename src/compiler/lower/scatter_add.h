/* Sums of updates at places that may meet, by matmuls of one-hot tiles. */
#ifndef VTRN_COMPILER_LOWER_SCATTER_ADD_H
#define VTRN_COMPILER_LOWER_SCATTER_ADD_H

#include "compiler/lower/address.h"

/* How many times 128 updates are multiplied; -1 when the table's type, its n_elements or the number
 * of updates do not allow it. */
int64_t scatter_add_steps(const lower *l, const address_spec *s, int64_t n_elements);
/* Adds row i of the array to window i of the dense table; is_zero: the table's elements are all 0,
 * and need not be in memory; is_finite: the array has neither infinities nor NaN. Changes s. */
vtrn_status scatter_add(lower *l, address_spec *s, int64_t n_elements, bool is_zero,
                        bool is_finite);

#endif
