/* Results of blocks, by number. See kept_blocks.h. */
#include "timing/kept_blocks.h"

#include <stdlib.h>

const kept_block *kept_blocks_find(const kept_blocks *kept, uint32_t block_i) {
    return kept->blocks && kept->blocks[block_i].is_there ? &kept->blocks[block_i] : NULL;
}

vtrn_status kept_blocks_add(kept_blocks *kept, uint32_t n_blocks, uint32_t block_i,
                            const kept_block *block) {
    if (!kept->blocks)
        kept->blocks = calloc(n_blocks, sizeof *kept->blocks);
    if (!kept->blocks)
        return VTRN_OUT_OF_MEMORY(n_blocks * sizeof *kept->blocks);
    kept->blocks[block_i] = *block;
    kept->blocks[block_i].is_there = true;
    return NULL;
}

void kept_blocks_free(kept_blocks *kept) {
    free(kept->blocks);
    kept->blocks = NULL;
}
