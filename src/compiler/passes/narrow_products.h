/* Products in fp32 of values that were bf16 or fp16 are made of these values. */
#ifndef VTRN_COMPILER_PASSES_NARROW_PRODUCTS_H
#define VTRN_COMPILER_PASSES_NARROW_PRODUCTS_H

#include "compiler/graph/graph.h"

/* A product of two bf16 or two fp16 numbers is exact in fp32, in which the PE array adds up, so a
 * product of operands that are both conversions from one of them has the same bits without the
 * conversions, at four times the rate and from half the bytes. */
vtrn_status narrow_products(graph *g);

#endif
