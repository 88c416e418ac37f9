/* Tiles that a DMA brings for the tensor engine alone: it reads them where they lie in HBM. */
#ifndef VTRN_ENGINE_IN_PLACE_H
#define VTRN_ENGINE_IN_PLACE_H

#include "engine/plan.h"

typedef struct in_place in_place;

/* NULL when host memory is short. All memory is the arena's. kept_rows: see engine/cells.h; it may
 * be filled later, before in_place_find(). */
in_place *in_place_create(arena *a, const vtrn_program *program, const vtrn_chip *chip,
                          const uint16_t *kept_rows);

/* Marks the block's copies that need not run, and makes of the instructions that read what they
 * would have brought others that read HBM, in memory of `kept`. The steps are complete and in
 * order.
 *
 * A copy is left out where it moves whole rows, bit by bit, from a tensor that the block does
 * not write, and where until the rows are overwritten whole, or the program ends, nothing but the
 * tensor engine's moving and stationary tiles reads them. Where they are not overwritten in the
 * block, no block may read them without writing them first. SBUF does not hold them then. */
vtrn_status in_place_find(in_place *p, const vtrn_block *ends, engine_block_plan *block,
                          arena *kept);

#endif
