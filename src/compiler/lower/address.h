/* Windows of a tensor in HBM at places that data decide: addresses computed on GpSimd, transfers by
 * indirect DMA. */
#ifndef VTRN_COMPILER_LOWER_ADDRESS_H
#define VTRN_COMPILER_LOWER_ADDRESS_H

#include "compiler/lower/lower.h"
#include "compiler/plan/windows.h"

/* The table of a value: its dims may lie anywhere, with one stride each. */
vtrn_status address_table(lower *l, graph_value v, view *table, int64_t *strides);

/* Where a component of the index vectors is: elements of a value, from an offset on, a stride
 * apart.
 */
typedef struct address_index {
    graph_value indices;
    int64_t offset, stride;
} address_index;

/* Adds a component, of starts 0..limit that are `stride` elements of the table apart; a start that
 * is known becomes part of the table's offset. False through *is_ok when the index type has no
 * exact way to a 32-bit integer. */
vtrn_status address_add_term(lower *l, address_spec *s, const address_index *index, int64_t limit,
                             int64_t stride, bool *is_ok);

/* Whether every address fits a 32-bit index. */
bool address_fits(const address_spec *s);

/* Window i of the table -> row i of the array. */
vtrn_status address_gather(lower *l, address_spec *s);
/* Row i of the array -> window i of the table: replacing (VTRN_ALU_NONE), or combined with what the
 * table holds, which asks for windows that do not overlap. */
vtrn_status address_scatter(lower *l, address_spec *s, vtrn_alu combine);

/* Elements of the longest stretch of which every window consists and each of which begins at a
 * multiple of it in the table; *n_outer: how many factors of the windows count the stretches. */
int64_t address_row_width(address_spec *s, int *n_outer);
/* Offset of window i in batching dimensions. */
int64_t address_base(const lower *l, const address_spec *s, int64_t i);
/* Makes windows of what the first n_outer factors of each window count, in their order. Addresses
 * are counted in units, which divide all strides of what is left of them. */
vtrn_status address_fold(lower *l, address_spec *s, int n_outer, int64_t unit);

/* Records the addresses of all windows as a list of int32 in scratch memory; -1 where one is
 * skipped. */
vtrn_status address_list(lower *l, const address_spec *s, view *out);

#endif
