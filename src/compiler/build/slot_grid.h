/* Which granules of an HBM tensor an access touches. A tensor that is written in tiles, rows of a
 * part of its columns, has granules by row block and column, so that tiles side by side share none.
 */
#ifndef VTRN_COMPILER_BUILD_SLOT_GRID_H
#define VTRN_COMPILER_BUILD_SLOT_GRID_H

#include "isa/access.h"

/* Byte b is in granule (b / block_bytes) * n_cols + b % pitch / unit. */
typedef struct slot_grid {
    int64_t pitch, unit; /* bytes of a row, of a column of granules */
    int64_t block_bytes; /* of a block of rows */
    uint32_t n_cols, n_blocks;
} slot_grid;

/* Granules [first, last] of each block. */
typedef struct slot_box {
    uint32_t first_block, last_block, first_col, last_col;
} slot_box;

/* By the first access to a tensor: by tile where it writes one, else stretches of unit_bytes. */
slot_grid slot_grid_for(const isa_access *first, uint64_t slot_bytes, int64_t unit_bytes);
/* Every granule of which the access touches a byte, and perhaps others. False: it touches none. */
bool slot_grid_box(const slot_grid *g, const isa_access *a, uint64_t slot_bytes, slot_box *out);

#endif
