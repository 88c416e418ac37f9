/* How large the tiles of a fusion are: columns, buffers and bytes, from what the kernel holds.
 * Sizes only: nothing is emitted or allocated here. */
#ifndef VTRN_COMPILER_PLAN_FUSION_TILES_H
#define VTRN_COMPILER_PLAN_FUSION_TILES_H

#include <stdbool.h>
#include <stdint.h>

enum {
    FUSION_MAX_ABREAST = 4, /* tiles whose operations alternate: one's latency is another's work */
    FUSION_MAX_BUFFERS = 2 * FUSION_MAX_ABREAST, /* some tiles compute while the next ones load */
    FUSION_ROW_TILE_BYTES = 64,  /* a tile of one value a row, where it has one column */
    FUSION_MAX_TILE_COLS = 2048, /* where no reduction covers more */
};

/* How the loop over tiles runs, and what the kernel therefore holds. */
typedef enum fusion_form {
    /* Column operands are whole in SBUF; so are rows that a reduction or a contraction covers. */
    FUSION_WHOLE,
    /* All row blocks of a block of columns, then the next block of columns: a column operand is
     * loaded block by block, each once. */
    FUSION_COLUMN_BLOCKS,
    /* Row block by row block, each in passes over its columns, block by block: a reduction along
     * the rows is complete when its pass is. See fusion_passes.c. */
    FUSION_PASSES,
} fusion_form;

/* What a kernel holds in a form. */
typedef struct fusion_demand {
    fusion_form form;
    bool is_flat;            /* rows mean nothing: a tile takes the next elements */
    bool has_whole_rows;     /* FUSION_WHOLE: tiles hold rows as they are */
    int n_partitions;        /* of the chip */
    int64_t n;               /* elements of the iteration space */
    int64_t cols;            /* of a row; 0: flat, and not cut into rows */
    bool is_one_tile;        /* all rows are in one tile, if it has all columns */
    uint32_t element_bytes;  /* of the full tiles' widest type; 0: of the widest there is */
    int n_full;              /* full tiles that an iteration holds at once, temporaries included */
    int n_rows;              /* tiles of one value a row of an iteration */
    int n_cols;              /* column operands */
    int n_sums;              /* sums over all rows, a row of results each */
    int n_wide_sums;         /* of them those that leave after each block of columns */
    int64_t max_cols;        /* of a block, for these; 0: any */
    bool has_fixed_cols;     /* all blocks have max_cols columns: those of a convolution's tile */
    int64_t turn_cols;       /* of a block, as contractions make them; 0: any */
    uint64_t fixed_bytes;    /* of a partition, for what no tile size changes */
    uint32_t row_tile_bytes; /* of a tile of one value a row; 0: FUSION_ROW_TILE_BYTES */
    int max_abreast;
} fusion_demand;

typedef struct fusion_tiling {
    int64_t tile_cols; /* of a tile; flat: those of n_blocks rows on each partition */
    int64_t n_blocks;
    int n_abreast, n_buffers; /* of an iteration's tiles */
    int n_col_buffers;        /* of a block of the column operands */
    int n_row_buffers;        /* of a row block's values, of one a row */
    uint32_t slot_bytes;      /* of a full tile */
    uint32_t row_base;        /* where tiles of one value a row begin in an iteration's buffer */
    uint32_t iter_bytes;      /* of an iteration's buffer */
    uint32_t col_bytes;       /* of a buffer of the column operands' blocks */
    uint32_t row_bytes;       /* of a buffer of the values of one a row, through all passes */
    uint64_t n_bytes;         /* of a partition, in all */
} fusion_tiling;

/* The tiles of a kernel in SBUF of limit_bytes a partition. n_bytes is above the limit where no
 * tile is small enough. */
fusion_tiling fusion_tiles(const fusion_demand *d, uint64_t limit_bytes);

#endif
