/* Data movement in HBM that other lowerings need too. */
#ifndef VTRN_COMPILER_LOWER_MOVEMENT_H
#define VTRN_COMPILER_LOWER_MOVEMENT_H

#include "compiler/lower/lower.h"

/* How a tensor is laid into a larger one: `low` elements in, interior + 1 apart. A negative low
 * cuts, as does the end of the result. */
typedef struct padding {
    const graph_type *type; /* of what is padded */
    const int64_t *low, *interior;
    const graph_type *result;
} padding;

/* Fresh memory of `result` type: `value` (bytes of one element) everywhere but where `from` lands.
 */
vtrn_status movement_pad(lower *l, const view *from, const padding *pad, uint64_t value, view *out);
/* The same into memory that `out` already names. */
vtrn_status movement_pad_into(lower *l, const view *from, const padding *pad, const view *value,
                              const view *out);
/* Only the elements of `from`, into a dense view of `result` type. */
vtrn_status movement_place(lower *l, const view *from, const padding *pad, const view *out);

/* Parts that lie in zeros without overlapping: what the gradient of slicing adds up to. */
typedef struct pad_part {
    view from;
    graph_type type;
    int64_t low[GRAPH_MAX_RANK], interior[GRAPH_MAX_RANK];
} pad_part;
enum { PAD_SUM_MAX = 256 }; /* parts: every two of a sum are compared */
typedef struct pad_sum {
    int n, cap;
    pad_part *part;
} pad_sum;

/* Writes a PADS value to memory; zeros only where the parts leave room. */
vtrn_status movement_place_pads(lower *l, graph_value v);
/* A row-major copy in fresh memory. */
vtrn_status movement_densify(lower *l, view *v, const graph_type *type);
/* Strides of the dims of `type`; where *v has none (view_dim_strides), of a row-major copy that it
 * becomes. */
vtrn_status movement_strides(lower *l, view *v, const graph_type *type, int64_t *strides);
/* Fills a dense view with one element, read from `value` (a view of any one element). */
vtrn_status movement_fill(lower *l, const view *value, const view *out);

#endif
