/* Results of blocks, kept because they are the same each time. Private to this folder. */
#ifndef VTRN_TIMING_KEPT_BLOCKS_H
#define VTRN_TIMING_KEPT_BLOCKS_H

#include "timing/timing.h"

/* What a block took. summary.total_ns is from its start to the start of the next one. */
typedef struct kept_block {
    timing_summary summary;
    double dma_busy_ns; /* summed over DMA engines */
    bool is_there;
} kept_block;

/* NULL: not kept. */
const kept_block *kept_blocks_find(const kept_blocks *kept, uint32_t block_i);
/* block_i: of n_blocks of the program. */
vtrn_status kept_blocks_add(kept_blocks *kept, uint32_t n_blocks, uint32_t block_i,
                            const kept_block *block);

#endif
