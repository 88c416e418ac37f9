/* The form stage: from graph values to kernels. */
#ifndef VTRN_COMPILER_LOWER_LOWER_H
#define VTRN_COMPILER_LOWER_LOWER_H

#include "compiler/build/builder.h"
#include "compiler/graph/graph.h"
#include "compiler/options.h"
#include "compiler/plan/copy.h"
#include "compiler/plan/kernel.h"
#include "compiler/plan/kernel_list.h"
#include "compiler/plan/tile.h"
#include "compiler/plan/view.h"

/* Where a graph value is. */
typedef enum value_state {
    VALUE_UNSET,
    VALUE_VIEW,   /* in HBM */
    VALUE_SPLAT,  /* one constant everywhere: becomes an immediate */
    VALUE_NODE,   /* still inside an open fusion */
    VALUE_PADS,   /* tensors placed side by side in zeros, not yet in memory */
    VALUE_AFFINE, /* 64-bit integers that are an affine function of the index */
} value_state;

typedef struct lower_value {
    uint8_t state;
    uint32_t uses;         /* operands and region results that name it, not yet lowered */
    uint64_t splat_bits;   /* SPLAT: the element's bytes, little-endian */
    view view;             /* VIEW */
    struct fusion *fusion; /* NODE */
    struct pad_sum *pads;  /* PADS */
    struct affine *affine; /* AFFINE */
    uint32_t node;
    const graph_op *user; /* the one op that reads it, once; NULL: several, or a region's result */
    bool is_contracted;   /* only contractions read it, perhaps through view changes */
    bool is_result;       /* of the program or of a region */
    bool is_reserved;     /* its memory is `view` before it is lowered: parts are written there
                             (parts.h) */
    uint32_t op_i;        /* number of the operation that makes it */
    uint32_t first_use, n_uses; /* in lower.use_op_i: the operations that name it, ascending */
    int32_t output;             /* program output that this value is (the first one), or -1 */
} lower_value;

typedef struct lower {
    const graph *g;
    const vtrn_chip *chip;
    const compile_options *options;
    vtrn_program *program;
    builder *build;      /* the tensors and blocks that kernels name */
    plan *plan;          /* kernels recorded so far */
    arena tmp;           /* dies with the compilation: kernels point to descriptions in it */
    lower_value *values; /* by graph_value */

    bool has_control_flow;      /* while, if, case or a callback somewhere: several blocks */
    const graph_region *region; /* being lowered */
    uint32_t op_i;              /* number of the operation being lowered: its place in `ops` */
    uint32_t *use_op_i;         /* numbers of the operations that name a value: first_use */
    const graph_op **ops;       /* by number, in the order of the graph */
    struct fusion *fusions;     /* open ones, oldest first */
    const uint32_t *arg_slot, *output_slot; /* by parameter, by output */
    struct verify *verify;                  /* verify.c; NULL: no checks */
    struct native_body *natives;            /* native.c: programs of kernels written by hand */
} lower;

/* --- values.c --- */

/* Makes v a VIEW (closes its fusion, gives splats memory). */
vtrn_status lower_materialise(lower *l, graph_value v, view *out);
/* The same, dense. */
vtrn_status lower_dense(lower *l, graph_value v, view *out);
/* The same with one stride for each dim (view_dim_strides): dense only where it has none. */
vtrn_status lower_strided(lower *l, graph_value v, view *out, int64_t *strides);
/* Fresh HBM for a result; a program output goes to its own slot. Sets the value's state to VIEW. */
vtrn_status lower_result(lower *l, graph_value v, view *out);
void lower_set_view(lower *l, graph_value v, const view *at);
/* One use of v was lowered. */
void lower_used(lower *l, graph_value v);
/* Number of the next operation, `from` or later, that names v; LOWER_NEVER: none. */
enum { LOWER_NEVER = UINT32_MAX };
uint32_t lower_next_use(const lower *l, graph_value v, uint32_t from);
bool lower_splat_float(const lower *l, graph_value v, double *out);
/* Whether the reducer is arithmetic (add, multiply, maximum, minimum); as a graph op and as an ALU
 * operation, GRAPH_UNKNOWN and VTRN_ALU_NONE otherwise. */
bool lower_reducer(graph_reducer r, graph_kind *kind, vtrn_alu *alu);

/* families.c: lowers an op by the first family of its kind that can; *is_reference: none can, so it
 * runs as a reference operation. */
vtrn_status lower_op(lower *l, const graph_op *op, bool *is_reference);

/* One function an op family, for the kinds that families.c lists. It sets *is_done when it lowered
 * the op; else the kind's next family is asked. */
typedef vtrn_status lower_fn(lower *l, const graph_op *op, bool *is_done);
lower_fn lower_fused;       /* fusion.c: elementwise, compare, select, reduce, iota */
lower_fn lower_dot;         /* dot.c: dot_general */
lower_fn lower_convolution; /* conv.c */
lower_fn lower_cast;        /* cast.c: conversions of tensors in HBM */
lower_fn lower_pad_sum;     /* pad_sum.c: pads of zeros and their sums */
lower_fn lower_movement;    /* movement.c: pad, concatenate */
lower_fn lower_window;      /* window.c: reduce_window, select_and_scatter */
lower_fn lower_indexed;     /* indexed.c, row_scatter.c: gather, scatter */
lower_fn lower_dynamic;     /* dynamic.c: what indexed.c leaves, dynamic slices and updates */
lower_fn lower_affine;      /* affine.c: 64-bit counters */
lower_fn lower_arg_reduce;  /* arg_reduce.c: argmax, argmin */
lower_fn lower_cumulative;  /* cumulative.c: cumsum and its like */
lower_fn lower_sort;        /* sort.c */
lower_fn lower_control;     /* control.c: while, if, case */
/* v with one dim behind the others, perhaps backwards (cumulative.c). */
vtrn_status lower_dim_last(lower *l, graph_value v, int dim, bool is_reverse, view *out);
/* Memory of op's result that holds the elements of its first operand: that one's own, when nobody
 * else wants it (dynamic.c). */
vtrn_status lower_begin_update(lower *l, const graph_op *op, view *out);
/* An AFFINE value as a constant in memory. */
vtrn_status lower_affine_constant(lower *l, graph_value v, view *out);
lower_fn lower_collective; /* collective.c: what ranks exchange */
lower_fn lower_rank_word;  /* collective.c: partition_id, replica_id */
lower_fn lower_callback;   /* custom.c: a call of the host, in a block of its own */
lower_fn lower_native;     /* native.c: a kernel that was written by hand */
bool lower_is_native(const graph_op *op);
void lower_drop_natives(lower *l); /* the plan and the list of instructions name them until then */
vtrn_status lower_custom(lower *l, const graph_op *op); /* custom.c: reference operation */
/* custom.c: a custom op as it is; its memory is the program's. */
vtrn_status lower_custom_append(lower *l, const vtrn_custom *custom);

/* Records the kernels of the whole graph, and the tensors and blocks that these name. */
vtrn_status lower_graph(lower *l);
vtrn_status lower_region(lower *l, const graph_region *region);

/* Closes every open fusion. */
vtrn_status lower_close_all(lower *l);
/* Closes fusions all of whose values only wait for being joined with other parts, when those that
 * read the same elements of arguments are closed: the kernels are placed here, and not where the
 * last part does. */
vtrn_status lower_close_finished(lower *l);
/* Closes those that read the tensor, which is about to be overwritten. */
vtrn_status lower_close_readers(lower *l, uint32_t slot);
void lower_drop_open(lower *l); /* frees open fusions; nothing is emitted */
vtrn_status lower_close_value(lower *l, graph_value v);

#endif
