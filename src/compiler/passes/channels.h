/* Convolutions whose channels are their outermost dim, so that channels are partitions. */
#ifndef VTRN_COMPILER_PASSES_CHANNELS_H
#define VTRN_COMPILER_PASSES_CHANNELS_H

#include "compiler/graph/graph.h"

/* Rewrites the body of g so that convolutions read and make tensors of [channels, batch,
 * spatial...], and what is between two of them computes in that order too. Transposes remain
 * where other operations read such a tensor, and before the first convolution. The graph stays as
 * it is where some convolution cannot be computed that way (graph/conv_geometry.h). g is changed;
 * on an error it is to be destroyed. */
vtrn_status channels_outermost(graph *g);

#endif
