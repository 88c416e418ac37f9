/* DMA transfers between tiles and HBM. */
#ifndef VTRN_COMPILER_EMIT_EMIT_TRANSFER_H
#define VTRN_COMPILER_EMIT_EMIT_TRANSFER_H

#include "compiler/emit/emitter.h"
#include "compiler/plan/view.h"

/* Truth values are bytes in memory: uint8 to the engines. */
uint8_t emit_memory_dtype(vtrn_dtype t);

/* The part into the tile: row r0 at its first partition, column c0 at byte addr. Casts when dtypes
 * differ. Rows with stride 0 and one column set are fetched once and broadcast. */
vtrn_status emit_load(emitter *e, const view_part *part, const tile *dst);
/* The part's transpose into the tile: column c0 at its first partition, row r0 at byte addr. 2- or
 * 4-byte elements, which are not cast. */
vtrn_status emit_load_turned(emitter *e, const view_part *part, const tile *dst);
/* The tile into the part. */
vtrn_status emit_store(emitter *e, const view_part *part, const tile *src, bool is_accumulate);

/* Columns [col, col + n_cols) of n_named rows of a table in HBM of [n_rows, width]. */
typedef struct named_rows {
    const view *table;
    int64_t n_rows, width, col;
    uint32_t n_named, n_cols;
} named_rows;

enum { EMIT_GATHER_RING = 6 /* of all transfers that an index column directs */ };

/* The rows that index[n_named, 1] names to a tile, or (is_scatter) from it. A load clamps numbers
 * to the table; a store leaves out rows whose number is beyond it. */
vtrn_status emit_named_rows(emitter *e, const named_rows *rows, const tile *data, const tile *index,
                            bool is_scatter);

#endif
