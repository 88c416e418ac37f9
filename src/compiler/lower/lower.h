/* Lowering context: from graph values to tiles and instructions in program order. */
#ifndef VTRN_COMPILER_LOWER_LOWER_H
#define VTRN_COMPILER_LOWER_LOWER_H

#include "compiler/build/builder.h"
#include "compiler/lower/tile.h"
#include "compiler/options.h"
#include "compiler/plan/kernel.h"
#include "compiler/plan/kernel_list.h"
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
    uint32_t op_i;        /* number of the operation that makes it */
    uint32_t first_use, n_uses; /* in lower.use_op_i: the operations that name it, ascending */
    int32_t output;             /* program output that this value is (the first one), or -1 */
} lower_value;

typedef struct lower {
    const graph *g;
    const vtrn_chip *chip;
    compile_options options;
    arena tmp; /* dies with the compilation */
    vtrn_program *program;
    lower_value *values; /* by graph_value */
    plan plan;           /* kernels recorded so far */

    builder build; /* what instructions are appended to, and the tensors that they name */

    bool has_control_flow;      /* while, if or case somewhere */
    const graph_region *region; /* being lowered */
    uint32_t op_i;              /* number of the operation being lowered: its place in `ops` */
    uint32_t *use_op_i;     /* numbers of the operations that name a value; lower_value.first_use */
    const graph_op **ops;   /* by number, in the order of the graph */
    struct fusion *fusions; /* open ones, oldest first */
    int64_t *row_cols; /* by slot: columns of the rows in which a map kernel computes it, or 0 */
    uint32_t n_row_cols;

    /* SBUF and PSUM cursors, bytes of a partition */
    uint32_t sbuf_limit, sbuf_cursor, sbuf_peak;
    int n_psum_taken; /* banks that the kernel at hand has (psum.h) */
    uint32_t psum_peak_banks;
    uint32_t block_i; /* of the kernels that are being recorded */
    uint32_t load_ring, store_ring;
    double vector_ns, scalar_ns; /* work of the two engines in the first n_weighed of the list */
    uint32_t n_weighed;
    uint8_t act_table;                      /* loaded activation table set; 0xff: unknown */
    const uint32_t *arg_slot, *output_slot; /* by parameter, by output */
    struct verify *verify;                  /* verify.c; NULL: no checks */
} lower;

/* --- build/: instructions, slots, sources ---------------------------------------------------- */

static inline vtrn_instr *lower_append(lower *l, vtrn_opcode opcode, vtrn_engine engine) {
    return build_append(&l->build, opcode, engine);
}

#define LOWER_EMIT(var, l, opcode, engine)                                                         \
    vtrn_instr *var = lower_append((l), VTRN_OP_##opcode, VTRN_ENGINE_##engine);                   \
    if (!var)                                                                                      \
    return VTRN_OUT_OF_MEMORY(sizeof(vtrn_instr))

/* emit.c: dst = a op b */
vtrn_status lower_emit_tensor_tensor(lower *l, vtrn_engine engine, vtrn_alu op, const vtrn_ap *dst,
                                     const vtrn_ap *a, const vtrn_ap *b);
/* emit.c: dst = src, converted, on the Vector engine */
vtrn_status lower_emit_copy(lower *l, const vtrn_ap *dst, const vtrn_ap *src);
/* emit.c: of Vector and Scalar the one that has had less to do: for what both can do */
vtrn_engine lower_lighter_engine(lower *l);
/* emit.c: build_alternate() */
vtrn_status lower_alternate(lower *l, const uint32_t *begin, int n);
/* emit.c: dst = src * factor, or * row (a column of fp32), converted, on the lighter engine: floats
 */
vtrn_status lower_emit_scaled(lower *l, const vtrn_ap *dst, const vtrn_ap *src, float factor,
                              const vtrn_ap *row);
/* emit.c: dst = (a op0 s0) op1 s1 on the Vector engine */
vtrn_status lower_emit_two_scalars(lower *l, const vtrn_ap *dst, const vtrn_ap *a, vtrn_alu op0,
                                   float s0, vtrn_alu op1, float s1);
/* emit.c: the same on any engine, scalars as raw bits */
vtrn_status lower_emit_scalar_bits(lower *l, vtrn_engine engine, const vtrn_ap *dst,
                                   const vtrn_ap *a, vtrn_alu op0, uint32_t s0, vtrn_alu op1,
                                   uint32_t s1);
/* emit.c: whether the reducer is arithmetic (add, multiply, maximum, minimum); as a graph op and as
 * an ALU operation, GRAPH_UNKNOWN and VTRN_ALU_NONE otherwise. */
bool lower_reducer(graph_reducer r, graph_kind *kind, vtrn_alu *alu);

/* Records a kernel: a copy of its description, the bytes of each partition of SBUF that it takes,
 * and the source at hand. Its accesses follow (plan_reads, plan_writes). */
vtrn_status lower_kernel(lower *l, kernel_kind kind, const void *spec, size_t spec_bytes,
                         uint64_t sbuf_bytes);

/* Columns of the rows in which a map kernel computes the tensor; 0: none does. */
int64_t lower_row_cols(const lower *l, uint32_t slot);
vtrn_status lower_row_cols_set(lower *l, uint32_t slot, int64_t cols);

/* Kernels of the next block are recorded. */
vtrn_status lower_block_begin(lower *l, uint32_t *out_block);

static inline vtrn_status lower_slot_add(lower *l, vtrn_slot_kind kind, vtrn_dtype dtype,
                                         uint64_t size_bytes, int32_t index, uint32_t *out) {
    return build_slot_add(&l->build, kind, dtype, size_bytes, index, out);
}
static inline vtrn_status lower_constant_add(lower *l, vtrn_dtype dtype, const void *bytes,
                                             uint64_t size, uint32_t *out_slot) {
    return build_constant_add(&l->build, dtype, bytes, size, out_slot);
}
static inline vtrn_status lower_source_set(lower *l, const char *op, const char *place) {
    return build_source_set(&l->build, op, place);
}
static inline void lower_block_end(lower *l, uint32_t block_i, vtrn_block_end kind, uint32_t next0,
                                   uint32_t next1, uint32_t cond_slot) {
    build_block_end(&l->build, block_i, kind, next0, next1, cond_slot);
}

/* --- tile.c: on-chip tiles and their transfers ------------------------------------------------ */

enum {
    /* Kernels follow each other through a window of SBUF: far enough apart to overlap, near enough
     * to stay in the host's cache. Above it lie residents, which make room for a kernel that needs
     * more. Bytes of a partition; assumed, tuned on the chars step. */
    LOWER_SBUF_WINDOW = 24 << 10,
};

/* Partitions of SBUF and PSUM: the rows of a full tile. */
static inline int lower_partitions(const lower *l) {
    int n = l->build.chip->n_partitions;
    return n > 0 ? n : 1; /* a chip file with fewer is refused */
}

/* The next part of what placement gave to the kernel that is being emitted; psum_take hands out its
 * banks. */
uint32_t lower_sbuf_alloc(lower *l, uint64_t n_bytes); /* rounded to 64 bytes */

vtrn_ap tile_ap(const tile *t, uint32_t n_rows, uint32_t n_cols);
/* columns [col, col+n) of it */
vtrn_ap tile_ap_cols(const tile *t, uint32_t n_rows, uint32_t col, uint32_t n_cols);

/* rows [r0, r0+n_rows) x cols [c0, c0+n_cols) of v, whose first n_outer factors make the rows, into
 * the tile (row r0 at its first partition, column c0 at byte addr). Casts when dtypes differ. Rows
 * with stride 0 and one column set are fetched once and broadcast. */
vtrn_status lower_load(lower *l, const view *v, int n_outer, int64_t r0, int64_t n_rows, int64_t c0,
                       int64_t n_cols, const tile *dst);
vtrn_status lower_store(lower *l, const view *v, int n_outer, int64_t r0, int64_t n_rows,
                        int64_t c0, int64_t n_cols, const tile *src, bool is_accumulate);
/* HBM to HBM, equal element counts; casts when dtypes differ. */
vtrn_status lower_copy(lower *l, const view *src, const view *dst);

/* --- values.c ----------------------------------------------------------------------------------
 */

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
vtrn_status lower_custom(lower *l, const graph_op *op); /* custom.c: reference operation */
/* custom.c: a custom op as it is; its memory is the program's. */
vtrn_status lower_custom_append(lower *l, const vtrn_custom *custom);

vtrn_status lower_region(lower *l, const graph_region *region);

/* Closes every open fusion. */
vtrn_status lower_close_all(lower *l);
void lower_drop_open(lower *l); /* frees open fusions; nothing is emitted */
vtrn_status lower_close_value(lower *l, graph_value v);

#endif
