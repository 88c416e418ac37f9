/* One-hot products add updates up, but 0 * inf is NaN: one update that is not finite would make NaN
 * of every row that it does not belong to. So it goes in as 0, and two more products count, for
 * each place, what pulls the sum up (+inf, NaN) and what pulls it down (-inf, NaN). */
#ifndef VTRN_COMPILER_EMIT_NON_FINITE_H
#define VTRN_COMPILER_EMIT_NON_FINITE_H

#include "compiler/emit/emitter.h"

/* above[i] = 1 where x[i] is +inf or NaN, below[i] = 1 where it is -inf or NaN, else 0; x[i] = 0
 * where it is not finite. All in SBUF and of one shape, above and below of x's type; zero is a
 * column of zeros of that type. */
vtrn_status non_finite_split(emitter *e, const vtrn_ap *x, const vtrn_ap *above,
                             const vtrn_ap *below, const vtrn_ap *zero);

/* What the counts add to a sum: dst = inf where above > 0, -inf where below > 0, NaN where both
 * are, else 0. dst and spare are fp32 in SBUF. */
vtrn_status non_finite_join(emitter *e, const vtrn_ap *dst, const vtrn_ap *spare,
                            const vtrn_ap *above, const vtrn_ap *below);

#endif
