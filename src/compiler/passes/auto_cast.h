/* fp32 operations in a narrower type, as the vendor's compiler has --auto-cast. */
#ifndef VTRN_COMPILER_PASSES_AUTO_CAST_H
#define VTRN_COMPILER_PASSES_AUTO_CAST_H

#include "compiler/graph/graph.h"
#include "compiler/options.h"

/* matmult: the fp32 operands of products and convolutions are rounded to the type, sums stay fp32.
 * all: every fp32 value but arguments and outputs is of the type. UNSUPPORTED: all with tf32 or
 * fp8, or of a program with control flow. Source: neuronx-cc command line reference. */
vtrn_status auto_cast_apply(graph *g, const compile_options *options);

#endif
