/* SBUF as a grid of cells, by which the planner knows what instructions touch. */
#ifndef VTRN_ENGINE_CELLS_H
#define VTRN_ENGINE_CELLS_H

#include "engine/engine.h"
#include "engine/plan.h"
#include "isa/access.h"

enum {
    CELL_BYTES = 64,
    CELL_ROWS = ENGINE_OWNER_ROWS,
    CELL_GROUPS = ENGINE_MAX_PARTITIONS / CELL_ROWS,
    CELL_MAX_RUNS = 16, /* of an operand that does not lie in one run */
};
_Static_assert(CELL_BYTES == 64, "a bit a byte, in 64");
_Static_assert(CELL_ROWS == 16, "a bit a row, in 16");

/* Bytes [lo, hi) of partitions [row, end_row). */
typedef struct cell_bytes {
    int64_t lo, hi;
    int row, end_row;
} cell_bytes;

/* Cells [first_column, end_column) x [first_group, end_group) that an operand touches. */
typedef struct cell_area {
    cell_bytes bytes;
    uint32_t first_column, end_column, first_group, end_group;
} cell_area;

/* The number of columns of SBUF. */
static inline uint32_t cell_columns(const vtrn_chip *chip) {
    return (chip->sbuf_partition_bytes + CELL_BYTES - 1) / CELL_BYTES;
}

static inline size_t cell_index(uint32_t column, uint32_t group) {
    return (size_t)column * CELL_GROUPS + group;
}

/* The rows of a group that the area touches, as bits. */
static inline uint16_t cell_rows_of(const cell_area *at, uint32_t group) {
    int first = at->bytes.row - (int)group * CELL_ROWS;
    int end = at->bytes.end_row - (int)group * CELL_ROWS;
    first = first < 0 ? 0 : first;
    end = end > CELL_ROWS ? CELL_ROWS : end;
    return (uint16_t)((1u << end) - (1u << first));
}

/* The bytes of a column's cells that the area touches, as bits. */
static inline uint64_t cell_bytes_of(const cell_area *at, uint32_t column) {
    int64_t lo = at->bytes.lo - (int64_t)column * CELL_BYTES;
    int64_t hi = at->bytes.hi - (int64_t)column * CELL_BYTES;
    uint64_t up_to_hi = hi >= CELL_BYTES ? UINT64_MAX : ((uint64_t)1 << hi) - 1;
    return lo > 0 ? up_to_hi & ~(((uint64_t)1 << lo) - 1) : up_to_hi;
}

/* The least area around an operand in SBUF. */
cell_area cell_area_of(const isa_access *a);

/* What an operand in SBUF touches, as areas all of whose bytes it does where *is_exact; else one
 * around them. Returns how many. A column of numbers that are a tile apart is as many areas. */
int cell_areas_of(const isa_access *a, cell_area out[CELL_MAX_RUNS], bool *is_exact);

/* Rows that some block reads before it has overwritten them, by cell: what it finds there is of a
 * block before it. Of a program of one block nothing is. The steps of the blocks are complete and
 * in order. kept_rows [n_columns][CELL_GROUPS], all 0; scratch memory is the arena's. */
vtrn_status cell_find_kept(arena *a, const vtrn_program *program, uint32_t n_columns,
                           const engine_block_plan *blocks, uint16_t *kept_rows);

#endif
