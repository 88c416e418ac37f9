/* Views: how a value lies in HBM. Broadcast, transpose, slice, reverse and reshape only change the
 * view; data moves when somebody loads it. */
#ifndef VTRN_COMPILER_PLAN_VIEW_H
#define VTRN_COMPILER_PLAN_VIEW_H

#include "compiler/graph/graph.h"

enum { VIEW_MAX_FACTORS = 24 };

typedef struct view_factor {
    int64_t size, stride; /* stride in elements; 0 broadcasts, negative reverses */
} view_factor;

/* The row-major linear index of the value, split into factors, outermost first. Factors need not be
 * the value's dims: a reshape keeps the factors. Elements = product of the sizes. */
typedef struct view {
    uint32_t slot; /* of the program */
    uint8_t dtype; /* vtrn_dtype of the memory */
    int n;
    int64_t offset; /* elements from the slot's start */
    view_factor f[VIEW_MAX_FACTORS];
} view;

/* Dense row-major view of a slot. */
view view_dense(uint32_t slot, const graph_type *type);
int64_t view_count(const view *v);
bool view_is_dense(const view *v); /* contiguous, ascending */
bool view_is_same(const view *a, const view *b);
/* A view of packed values (dtype_per_byte) as one of their bytes: along the innermost factor whose
 * elements are side by side, so many of them are one. view_packs: whether that is possible. Of
 * other types the view as it is. */
bool view_packs(const view *v);
view view_of_bytes(const view *v);
/* Every index of the factors names the same element. */
bool view_is_repeated(const view_factor *f, int n);

/* Merges neighbouring factors and drops those of size 1. */
void view_coalesce(view *v);

/* Coalesces, then splits factors so that a boundary lies after each of the n cumulative sizes of
 * `dims` (row-major). On success first[i] is the index of the first factor of dim i, first[n] =
 * v->n; a dim of size 1 has no factor. False when a boundary would cut a factor unevenly: the value
 * has to be made dense first. */
bool view_split_dims(view *v, const int64_t *dims, int n, int *first);

/* Strides of the n dims, for who steps through each of them; 0 for a dim of size 1, and where there
 * are no elements. False when some dim needs more than one factor: the value has to be made dense
 * first. */
bool view_dim_strides(const view *v, const int64_t *dims, int n, int64_t *strides);

/* Splits into outer factors and inner factors whose product is `inner`; *n_outer is their number.
 */
bool view_split_at(view *v, int64_t inner, int *n_outer);

/* The view of op's result given its operand's view and types. False when the op is no view change
 * or cannot be expressed. Knows broadcast_in_dim, reshape, transpose, slice, reverse,
 * bitcast_convert between types of whole bytes, optimization_barrier. */
bool view_apply(const graph *g, const graph_op *op, const view *operand, view *out);

/* True for the kinds that view_apply may express. */
bool view_is_view_kind(graph_kind kind);

/* A factor that both sides of a copy have: its stride in each, in elements. */
typedef struct joint_factor {
    int64_t size, from, to;
} joint_factor;

/* Common refinement of the factors of two views with equal counts, out[2 * VIEW_MAX_FACTORS]: how
 * many factors; -1: it has none. */
int view_refine(const view *src, const view *dst, joint_factor *out);

/* Rows [r0, r0 + n_rows) x columns [c0, c0 + n_cols) of a view whose first n_outer factors make the
 * rows. */
typedef struct view_part {
    const view *v;
    int n_outer;
    int64_t r0, n_rows, c0, n_cols;
} view_part;

/* A box of a linear index range over factors: what one access pattern can name. */
typedef struct view_box {
    int64_t start;  /* linear index of its first element, relative to the range */
    int64_t offset; /* elements, added to the view's offset */
    int n;          /* factors, outermost first */
    view_factor f[VIEW_MAX_FACTORS];
} view_box;

/* Decomposes [begin, end) of the linear index of the given factors into boxes, in order; calls
 * fn(ctx, box) for each until it fails. */
vtrn_status view_for_boxes(const view_factor *f, int n, int64_t begin, int64_t end,
                           vtrn_status (*fn)(void *ctx, const view_box *box), void *ctx);

/* How many boxes it makes of `span` neighbouring indices that begin at a multiple of span: the mean
 * over all of them. */
double view_mean_boxes(const view_factor *f, int n, int64_t span);

/* Elements of the innermost factors that are adjacent in memory. */
int64_t view_run(const view_factor *f, int n);

#endif
