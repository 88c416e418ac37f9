/* A fusion on its way to instructions: what planning decides and the loop over tiles uses. */
#ifndef VTRN_COMPILER_LOWER_FUSION_EMIT_H
#define VTRN_COMPILER_LOWER_FUSION_EMIT_H

#include "compiler/lower/contract.h"
#include "compiler/lower/fusion.h"

typedef struct emitter {
    lower *l;
    fusion *f;
    emit_env env;
    /* Flat: no row means anything, a tile takes what comes. Else a tile is a part of row_step rows
     * of `cols` elements. */
    bool is_flat;
    int64_t cols; /* of a row; of flat fusions too, where they are cut into them */
    fusion_form form;
    fusion_tiling size;
    int n_slots; /* FULL tiles of an iteration, before the temporaries */
    uint32_t iter_base[FUSION_MAX_BUFFERS];
    uint32_t col_base[2]; /* FUSION_COLUMN_BLOCKS: of the column operands' buffers */
    contraction contracts[FUSION_MAX_CONTRACTS];
    int n_contracts;
} emitter;

/* A tile of the iteration space and the buffers it is computed in. */
typedef struct tile_turn {
    int64_t r, c; /* first row and column */
    uint32_t rows, cols;
    uint32_t n_blocks; /* flat: blocks of `rows` rows that lie side by side in the columns */
    uint32_t row_cols; /* elements from one row to the next */
    uint32_t base;
    bool is_last; /* with the fusion's last rows */
} tile_turn;

/* Chooses rows and columns, and how each node varies over them. Copies that change the layout of an
 * operand are recorded: they come before the kernel. */
vtrn_status map_layout(emitter *e);
/* Sizes tiles and buffers, given what is read from SBUF and what stays there; bytes of a partition
 * that the kernel takes. */
uint64_t map_size(emitter *e);
/* Columns of the node's tiles that hold whole rows. */
int64_t map_node_cols(const emitter *e, const fusion_node *node);
/* Whether a node's tiles may stay in SBUF where they are computed. */
bool map_can_keep(const emitter *e, const fusion_node *node);
/* Whether the load can be read from the resident as it is; map_takes: whether any operand can. */
bool map_load_takes(const emitter *e, const fusion_node *node, const struct resident *r);
bool map_takes(const emitter *e, const struct resident *r);
/* Addresses of tiles and banks in what placement gave to the kernel. */
vtrn_status map_place_tiles(emitter *e);
/* fusion_cols.c: cols, as the loads of a kernel in FUSION_WHOLE suggest, or of one that takes rows
 * of any length in blocks. */
void fusion_choose_cols(emitter *e);
void fusion_choose_cut(emitter *e);
/* Columns of a row as the turns have it: a flat kernel without rows has tiles instead. */
int64_t fusion_turn_cols(const emitter *e);
/* The next turn; false behind the last one. Flat fusions take blocks of 128 rows side by side while
 * there are any, then the rows that are left, then what does not fill a row. */
bool fusion_next_turn(const emitter *e, tile_turn *turn);
/* Rows of a tile, when it has all of them. */
int64_t fusion_row_step(const emitter *e);
/* Integers of 32 bits have no reduction that is exact: halves are combined on GpSimd. */
bool fusion_is_tree_reduce(const fusion *f, const fusion_node *node);

#endif
