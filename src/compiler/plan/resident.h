/* Tensors that stay in SBUF between kernels. */
#ifndef VTRN_COMPILER_PLAN_RESIDENT_H
#define VTRN_COMPILER_PLAN_RESIDENT_H

#include "compiler/plan/tile.h"
#include "compiler/plan/view.h"

/* A row-major [rows, cols] tensor: row r is on partition r % row_step, at addr + r / row_step *
 * pitch, its columns side by side. Where batch_rows is not 0, that holds of the rows of each batch,
 * which begins at the next multiple of pitch. HBM holds the same elements. */
typedef struct resident {
    uint32_t slot; /* the tensor in HBM */
    uint8_t dtype;
    int64_t rows, cols, row_step, batch_rows;
    uint32_t addr, pitch, n_bytes; /* of a partition */
    uint32_t maker_i;              /* kernel that computes it */
    uint32_t n_takers;             /* kernels that can read it here, in order */
    const uint32_t *takers;
    uint32_t n_served; /* of them, those that do */
    bool is_excluded;  /* no kernel read it here in an earlier round of placement */
} resident;

/* Bytes from one row to the row row_step below it. */
uint32_t resident_pitch(uint8_t dtype, int64_t cols);

/* Tiles of row_step rows or fewer. */
int64_t resident_tiles(int64_t rows, int64_t row_step, int64_t batch_rows);

/* Whether the part is in the resident as tiles of dtype have it, from partition 0 on; *out (may be
 * NULL): where. */
bool resident_holds(const resident *r, const view_part *part, uint8_t dtype, tile *out);
/* The same, from any partition on at which an operand of so many rows may start. */
bool resident_holds_rows(const resident *r, const view_part *part, uint8_t dtype, tile *out);

/* Where the resident keeps rows from r, the first of a tile, and columns from c. */
tile resident_tile(const resident *r, int64_t row, int64_t col);

#endif
