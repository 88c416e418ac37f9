/* A map kernel as it is planned: a fusion with rows and columns, tiles and their buffers, and what
 * it reads from SBUF or leaves there. */
#ifndef VTRN_COMPILER_PLAN_MAP_PLAN_H
#define VTRN_COMPILER_PLAN_MAP_PLAN_H

#include "compiler/plan/contract.h"
#include "compiler/plan/conv_plan.h"
#include "compiler/plan/elementwise_table.h"
#include "compiler/plan/fusion_nodes.h"
#include "compiler/plan/sides.h"

typedef struct map_plan {
    plan *p;
    fusion *f;
    /* Flat: no row means anything, a tile takes what comes. Else a tile is a part of row_step rows
     * of `cols` elements. */
    bool is_flat;
    int64_t cols; /* of a row; of flat fusions too, where they are cut into them */
    fusion_form form;
    bool streams_cols; /* column operands are loaded with each tile, as any other */
    int n_passes;      /* FUSION_PASSES */
    fusion_tiling size;
    int n_slots; /* FULL tiles of an iteration, before the temporaries */
    fusion_const consts[FUSION_MAX_CONSTS];
    int n_consts;
    contraction contracts[FUSION_MAX_CONTRACTS];
    int n_contracts;
    /* FUSION_COLUMN_BLOCKS of contractions: rows that share a block of columns before the next one,
     * and columns of the blocks. 0: all, and as is cheapest. */
    int64_t group_rows, turn_cols;
    map_sides sides; /* of the one contraction, where batches are side by side */
    conv_plan conv;  /* where the fusion has one */
    conv_exit exit;
} map_plan;

/* A tile of the iteration space and the buffers it is computed in. */
typedef struct tile_turn {
    int64_t r, c; /* first row and column */
    uint32_t rows, cols;
    uint32_t n_blocks;       /* of `rows` rows side by side in the columns: flat, or batches */
    uint32_t row_cols;       /* elements from one row to the next */
    uint32_t base, row_base; /* where its tiles begin, and those of one value a row */
    int pass;                /* FUSION_PASSES */
    bool is_row_stage;       /* the values of one a row before the pass */
    bool is_last;            /* with the fusion's last rows */
    bool is_row_end;         /* with their last columns */
} tile_turn;

/* Chooses rows and columns, and how each node varies over them. Copies that change the layout of an
 * operand are recorded: they come before the kernel. False through *fits where no tile is small
 * enough for what the fusion holds at once. */
vtrn_status map_layout(map_plan *m, bool *fits);
/* Sizes tiles and buffers, given what is read from SBUF and what stays there; bytes of a partition
 * that the kernel takes. */
uint64_t map_size(map_plan *m);
/* The same without contractions, when SBUF has limit_bytes a partition. */
uint64_t map_own_bytes(map_plan *m, uint64_t limit_bytes);
/* map_contracts.c: describes the contractions of live nodes, without their cuts. */
void map_start_contracts(map_plan *m);
/* map_contracts.c: chooses the order of tiles that is cheapest for the contractions; false where
 * one is better a kernel of its own, or does not fit. */
bool map_layout_contracts(map_plan *m);
/* map_sides.c: whether the kernel's tiles have several batches, and how many: sets f->n_side. Nodes
 * have their shapes, and are to get them anew. */
bool map_choose_sides(map_plan *m);
/* SBUF of a partition for the operands of the contraction. */
uint64_t map_sides_bytes(const map_plan *m);
/* The view of a load or of a result, cut into batches, rows and columns. `v` is where its factors
 * are. False: no factors make each of the three. */
bool map_sides_cut(const map_plan *m, const view *at, int64_t n_cols, view *v, sides_view *out);
/* Whether all batches of the view, which has the columns of the kernel, are the same elements. */
bool map_sides_repeat(const map_plan *m, const view *at);
/* An operand, with x on the rows (is_natural) or with k. */
sides_view map_sides_operand(const contract_operand *o, bool is_natural);
/* SBUF of a partition for a tile of one value a row. */
uint32_t map_row_tile_bytes(const map_plan *m);
/* The same for a value of one a row that is loaded once. */
uint64_t map_held_bytes(const fusion_node *node);
/* Columns of the node's tiles that hold whole rows. */
int64_t map_node_cols(const map_plan *m, const fusion_node *node);
/* Whether a node's tiles may stay in SBUF where they are computed. */
bool map_can_keep(const map_plan *m, const fusion_node *node);
/* Whether the load can be read from the resident as it is; map_takes: whether any operand can. */
bool map_load_takes(const map_plan *m, const fusion_node *node, const struct resident *r);
bool map_takes(const map_plan *m, const struct resident *r);
/* PSUM banks that the kernel needs at least. */
int map_least_banks(const map_plan *m);
/* map_contracts.c: cuts the contractions anew, so that the kernel takes no more than room_bytes of
 * a partition; false where that is not possible, or costs much. */
bool map_limit(map_plan *m, uint64_t room_bytes);
/* map_contracts.c: banks of each contraction. Those beyond the least let the PE array work on a
 * tile while the one before it is copied out of PSUM. */
void map_share_banks(const map_plan *m, contract_banks share[FUSION_MAX_CONTRACTS]);
/* Where each tile that is new in every iteration, or in every block of columns, is in its buffer.
 */
void map_place_in_buffers(map_plan *m);
/* Which nodes a pass makes, and in which buffers. */
void map_start_pass(map_plan *m, int pass);
/* fusion_cols.c: cols, as the loads of a kernel in FUSION_WHOLE suggest, or of one that takes rows
 * of any length in blocks. */
void fusion_choose_cols(map_plan *m);
void fusion_choose_cut(map_plan *m);
/* Columns of a row as the turns have it: a flat kernel without rows has tiles instead. */
int64_t fusion_turn_cols(const map_plan *m);
/* fusion_turns.c: rows that share a block of columns (FUSION_COLUMN_BLOCKS). */
int64_t fusion_group_rows(const map_plan *m);
/* fusion_turns.c: the next turn, from one of no rows on; false behind the last one. */
bool fusion_next_turn(const map_plan *m, tile_turn *turn);
/* fusion_passes.c: the stage of each live node, given its shape; the number of passes. */
int fusion_find_stages(fusion *f);
/* is_in_pass of each node. */
void fusion_enter_pass(fusion *f, int pass);
/* Nodes that all passes make, again and again. */
int fusion_work_of_passes(fusion *f, int n_passes);
/* A sum over all rows of what has one value a row. */
bool fusion_sums_rows(const fusion *f, const fusion_node *node);
/* fusion_split.c: what two kernels do in place of one that does not fit. */
typedef struct fusion_parts {
    bool has_contraction; /* the first is spec, into a tensor that the second loads */
    contract_spec spec;
    uint32_t source;   /* of the contraction */
    fusion *fusion[2]; /* [0] NULL: has_contraction */
} fusion_parts;
/* Cuts a fusion that map_layout has seen; the parts are in the plan's arena. */
vtrn_status fusion_split(plan *p, fusion *f, fusion_parts *out);
/* A live reduction along the rows. */
bool fusion_has_row_reduction(const fusion *f);
/* Rows of a tile, when it has all of them. */
int64_t fusion_row_step(const map_plan *m);
/* Rows of the tile that begins at row r, not flat: up to the end of its batch. */
int64_t fusion_tile_rows(const map_plan *m, int64_t r);
/* Integers of 32 bits have no reduction that is exact: halves are combined on GpSimd. */
bool fusion_is_tree_reduce(const fusion *f, const fusion_node *node);

#endif
