/* Values that a kernel leaves in SBUF for later kernels.
 *
 * Kernels work in the low part of SBUF (tile.c). What they store they compute above it, where it
 * stays until the room is needed: a later kernel that wants the same rows on the same partitions
 * takes the tile as it lies and loads nothing. The tensor in HBM is written all the same, so a
 * resident can be forgotten at any time; where nobody came to read it from HBM, the stores are
 * dropped in the end (dead_stores.h). */
#ifndef VTRN_COMPILER_LOWER_RESIDENT_H
#define VTRN_COMPILER_LOWER_RESIDENT_H

#include "compiler/lower/fusion.h"

/* Room above byte `floor` of each partition for the node that a kernel is about to store, in rows
 * of cols elements: row r goes to partition r % row_step. False when the node is not the whole of a
 * dense scratch tensor, when nobody wants it or, says the trial, will take it from there, or when
 * there is no room; who is wanted later may have to go. */
bool resident_open(lower *l, const fusion_node *node, int64_t cols, int64_t row_step,
                   uint64_t floor);
/* Where rows from r, a multiple of row_step, and columns from c of an open one go. The blocks of
 * row_step rows lie side by side, resident_pitch bytes apart. */
tile resident_tile(const lower *l, uint32_t slot, int64_t r, int64_t c);
uint32_t resident_pitch(uint8_t dtype, int64_t cols);
/* The kernel is complete: what it opened can be found. Or it changed its mind. */
void resident_close(lower *l);
void resident_abandon(lower *l);

/* Rows [r0, r0 + n_rows) x columns [c0, c0 + n_cols) of v, whose first n_outer factors make the
 * rows, as they lie in SBUF from partition 0 on; false when they do not. out NULL: only asks. */
bool resident_find(lower *l, const view *v, int n_outer, int64_t r0, int64_t n_rows, int64_t c0,
                   int64_t n_cols, uint8_t dtype, tile *out);
/* Columns of the rows in which a tensor lies in SBUF; 0: it does not. */
int64_t resident_cols(lower *l, uint32_t slot);
void resident_hold(lower *l, uint32_t slot); /* the kernel at hand wants it */

void resident_release(lower *l); /* it wants none any more */
/* Whether a kernel can take that many bytes of each partition and keep what it opened and holds. */
bool resident_allows(const lower *l, uint64_t n_bytes);
/* A kernel takes the bytes below `end` of every partition. */
void resident_yield(lower *l, uint32_t end);
uint32_t resident_bytes(const lower *l); /* of a partition, in all */
/* Another block begins: what SBUF holds then depends on the way there. */
void resident_forget_all(lower *l);

#endif
