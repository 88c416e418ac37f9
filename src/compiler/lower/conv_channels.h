/* Convolutions of tensors with their channels outermost. */
#ifndef VTRN_COMPILER_LOWER_CONV_CHANNELS_H
#define VTRN_COMPILER_LOWER_CONV_CHANNELS_H

#include "compiler/lower/lower.h"

/* Leaves op to a fusion, tile by tile, where both tensors are [channels, batch, spatial...] and the
 * least form fits. compute: what the operands are cast to. */
vtrn_status conv_by_channels(lower *l, const graph_op *op, vtrn_dtype compute, bool *is_done);
/* The same for a reduce_window with windows along the last dim, whose first dims are channels. */
vtrn_status pool_by_channels(lower *l, const graph_op *op, bool *is_done);

#endif
