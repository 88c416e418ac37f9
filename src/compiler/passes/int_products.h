/* Products and convolutions of 8-bit integers with 32-bit sums, as those that the PE array takes.
 */
#ifndef VTRN_COMPILER_PASSES_INT_PRODUCTS_H
#define VTRN_COMPILER_PASSES_INT_PRODUCTS_H

#include "compiler/graph/graph.h"

/* The operands become bf16, which holds them exactly, or stay int8 where the array takes that. Sums
 * are fp32, exact below 2^24: k, of convolutions the features, is cut so that none is larger, and
 * the parts are added as int32. A window of more taps than that stays with the reference. */
vtrn_status int_products_widen(graph *g, bool takes_int8);

#endif
