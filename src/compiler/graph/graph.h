/* The graph: a StableHLO program in SSA form, calls inlined, attributes decoded. */
#ifndef VTRN_COMPILER_GRAPH_GRAPH_H
#define VTRN_COMPILER_GRAPH_GRAPH_H

#include "base/arena.h"
#include "base/dtype.h"
#include "base/status.h"

#include <stdint.h>

typedef enum graph_kind {
#define G(e, name, attrs) GRAPH_##e,
#include "compiler/graph/graph_ops.def"
#undef G
    GRAPH_KIND_COUNT
} graph_kind;

enum { GRAPH_MAX_RANK = 12 };

/* A token orders effects and has no bytes: it is a tensor of no elements (GRAPH_TOKEN_TYPE). */
typedef struct graph_type {
    uint8_t dtype; /* vtrn_dtype */
    uint8_t rank;
    bool is_token;
    int64_t dims[GRAPH_MAX_RANK];
} graph_type;

/* Programs get and give tokens as boolean vectors of length 0, as JAX has them. */
#define GRAPH_TOKEN_TYPE ((graph_type){.dtype = VTRN_DTYPE_PRED, .rank = 1, .is_token = true})

typedef uint32_t graph_value; /* index into graph.values */
enum { GRAPH_NO_VALUE = 0xffffffffu };

/* A part of a mesh axis, major to minor: the device at place i of the mesh has the coordinate
 * i / stride % size along it. */
typedef struct graph_axis {
    int64_t stride, size;
} graph_axis;

/* The devices that run a program as an array, row by row. */
typedef struct graph_mesh {
    int64_t n_devices;           /* 1: of an empty mesh, which shards nothing */
    const int64_t *partition_of; /* [n_devices] by place; NULL: the place itself */
} graph_mesh;

/* How a tensor is cut over a mesh: dimension d into equal parts, one for each combination of the
 * coordinates along axes[first[d]] .. axes[first[d + 1] - 1], major to minor. Along axes that are
 * not named, it is the same everywhere. */
typedef struct graph_sharding {
    const graph_mesh *mesh;
    int rank;
    uint32_t first[13]; /* [rank + 1]; GRAPH_MAX_RANK and one more */
    const graph_axis *axes;
    /* Of @main's parameters and results, in a program that a partitioner divided: devices that
     * differ along these have parts of a sum. */
    uint32_t n_unreduced;
    const graph_axis *unreduced;
} graph_sharding;

/* int64 list in the graph's arena */
typedef struct graph_ints {
    int64_t n;
    const int64_t *v;
} graph_ints;

typedef enum { GRAPH_EQ, GRAPH_NE, GRAPH_GE, GRAPH_GT, GRAPH_LE, GRAPH_LT } graph_direction;
typedef enum {
    GRAPH_CMP_NOTYPE,
    GRAPH_CMP_FLOAT,
    GRAPH_CMP_TOTALORDER,
    GRAPH_CMP_SIGNED,
    GRAPH_CMP_UNSIGNED
} graph_compare_type;

/* What a reduction region computes, when it is one binary op on (accumulator, element). */
typedef enum {
    GRAPH_REDUCER_GENERIC,
    GRAPH_REDUCER_ADD,
    GRAPH_REDUCER_MULTIPLY,
    GRAPH_REDUCER_MAXIMUM,
    GRAPH_REDUCER_MINIMUM,
    GRAPH_REDUCER_AND,
    GRAPH_REDUCER_OR,
    GRAPH_REDUCER_XOR,
    GRAPH_REDUCER_REPLACE, /* scatter: returns the update */
} graph_reducer;

typedef union graph_attrs {
    struct {
        graph_ints dims; /* the op's one int list (or one int): see StableHLO */
    } dims;
    struct {
        graph_direction direction;
        graph_compare_type type;
    } compare;
    struct {
        int exponent_bits, mantissa_bits;
    } reduce_precision;
    struct {
        const void *data; /* dense row-major of the result type; one element when is_splat */
        bool is_splat;
    } constant;
    struct {
        graph_ints start, limit, stride;
    } slice;
    struct {
        graph_ints low, high, interior;
    } pad;
    struct {
        graph_ints lhs_batch, rhs_batch, lhs_contract, rhs_contract;
        int precision; /* 0 DEFAULT, 1 HIGH, 2 HIGHEST: the higher of the two operands' */
    } dot;
    struct {
        int64_t lhs_batch_dim, lhs_feature_dim, rhs_in_dim, rhs_out_dim, out_batch_dim,
            out_feature_dim;
        graph_ints lhs_spatial, rhs_spatial, out_spatial;
        graph_ints stride, pad_low, pad_high, lhs_dilation, rhs_dilation;
        graph_ints reversal; /* 0 or 1 a spatial dim */
        int64_t feature_groups, batch_groups;
        int precision;
    } conv;
    struct {
        graph_ints window, stride, base_dilation, window_dilation, pad_low, pad_high; /* all rank */
    } window;
    struct {
        graph_ints offset_dims, collapsed, operand_batching, indices_batching, start_index_map,
            slice_sizes;
        int64_t index_vector_dim;
        bool is_sorted;
    } gather;
    struct {
        graph_ints update_window, inserted_window, input_batching, indices_batching,
            scatter_dims_to_operand;
        int64_t index_vector_dim;
        bool is_sorted, is_unique;
    } scatter;
    struct {
        int64_t dimension;
        bool is_stable;
    } sort;
    struct {
        int algorithm; /* 0 DEFAULT, 1 THREE_FRY, 2 PHILOX */
    } rng;
    struct {
        int type; /* 0 FFT, 1 IFFT, 2 RFFT, 3 IRFFT */
        graph_ints length;
    } fft;
    struct {
        bool value;
    } flag;
    struct {
        bool left_side, lower, unit_diagonal;
        int transpose_a; /* 1 NO, 2 TRANSPOSE, 3 ADJOINT */
    } triangular;
    struct {
        float epsilon;
        int64_t feature_index;
    } batch_norm;
    struct {
        const char *backend_config;
        bool has_side_effect;
    } custom_call;
    struct { /* manual_computation, sharding_constraint */
        const graph_sharding *const *in,
            *const *out;        /* by operand, by result; the latter's is out[0] */
        const graph_axis *axes; /* manual ones: the region's values are parts along them */
        uint32_t n_axes;
    } shardings;
    struct {
        int64_t channel_id, dim, dim2, split_count, n_groups, group_size;
        const int64_t *groups; /* [n_groups][group_size], -1 pads; permute: pairs */
        bool use_global_ids;
    } collective;
} graph_attrs;

typedef struct graph_op {
    uint16_t kind;   /* graph_kind */
    uint8_t reducer; /* graph_reducer of regions[0] (scatter region of select_and_scatter) */
    uint8_t
        select; /* select_and_scatter: graph_direction of its region; GRAPH_EQ: not recognised */
    uint32_t n_operands, n_results, n_regions;
    graph_value *operands, *results;
    struct graph_region **regions;
    graph_attrs attrs;
    const char *name;  /* "stablehlo.add"; custom_call: its target; unknown: what it was */
    const char *place; /* "model.py:42", "" when the artifact does not say */
} graph_op;

/* A single block. Regions may use values of enclosing regions (captures). */
typedef struct graph_region {
    uint32_t n_args, n_ops, n_results;
    graph_value *args;
    graph_op *ops; /* each value is defined before it is used */
    graph_value *results;
} graph_region;

typedef struct graph {
    arena arena; /* owns everything */
    const char *name;
    uint32_t n_values, max_values;
    graph_type *types;   /* by value; room for max_values */
    graph_region body;   /* @main: args are the parameters, results the outputs */
    bool is_body_shared; /* body.ops belongs to the graph of which this one is a copy */
    graph_op *spare_ops; /* the body before the last pass, or NULL: memory for the next one */
    uint32_t n_spare_ops;
    uint8_t *arg_is_donated;   /* jax.buffer_donor, by parameter */
    int32_t *arg_alias_output; /* tf.aliasing_output: output number or -1, by parameter */
    uint8_t *arg_is_on_host, *result_is_on_host; /* mhlo.memory_kind of @main: "pinned_host" */
    /* By parameter and by output: [rank] dims from the slowest to the fastest in memory, of the
     * type that the artifact has; the graph's is in that order, once graph_apply_layouts() has run.
     * NULL: row-major. mhlo.layout_mode */
    const uint8_t **arg_order, **result_order;
    uint8_t *is_result_order_free; /* by output: the program leaves its order to the compiler */
    /* Of @main, by parameter and result; NULL in it: the program does not say. With one partition,
     * NULL. */
    const graph_sharding **arg_sharding, **result_sharding;
    int64_t n_partitions, n_replicas;
    /* The artifact has what jaxlib cannot write as HLO: sharding constraints and the like, which
     * are dropped, and asynchronous operations. */
    bool has_no_hlo;
} graph;

/* VHLO artifact -> graph. Every error names the op, its place and the rule; nothing is kept on
 * error. Source for the format: StableHLO portable artifacts, VHLO 0.9 to 1.20. */
vtrn_status graph_from_artifact(const void *bytes, size_t size, graph **out);
/* The devices that an artifact is for, also where it holds what no graph can; 1 when it cannot be
 * read at all. */
int64_t graph_n_partitions_of(const void *bytes, size_t size);
void graph_destroy(graph *g); /* NULL is fine */

/* Gives parameters and outputs the order in memory that the program asks for. Of a program of one
 * partition graph_from_artifact() does it; of others what cuts the shapes: orders are of parts. */
vtrn_status graph_apply_layouts(graph *g);

/* Room for the types of n values, and for more where there was too little. */
vtrn_status graph_reserve_values(graph *g, uint32_t n);

/* Checks that dimension numbers lie within ranks, that shapes and types agree, so that no later
 * pass has to; the numbers of operands, results and regions are known to suit the kind.
 * BAD_ARGUMENT names the rule. */
vtrn_status graph_verify_op(const graph *g, const graph_op *op);
/* Sets op->reducer and op->select from the regions. */
void graph_recognise_regions(graph_op *op);

/* StableHLO-like text, for tests and dumps. The caller frees *out_text with free(). */
vtrn_status graph_print(const graph *g, char **out_text);

const char *graph_kind_name(graph_kind kind); /* "add" */
/* Unary operations that are none of StableHLO's: they stand for what it writes as several. */
static inline bool graph_kind_is_composite(int kind) {
    return kind == GRAPH_ERF || (kind >= GRAPH_GELU && kind <= GRAPH_SOFTPLUS);
}
/* Operations in which devices exchange data. */
static inline bool graph_kind_is_collective(int kind) {
    return kind >= GRAPH_ALL_REDUCE && kind <= GRAPH_COLLECTIVE_BROADCAST;
}
int64_t graph_type_count(const graph_type *t);  /* elements */
uint64_t graph_type_bytes(const graph_type *t); /* dense bytes */
/* Whether the operation, or one in its regions, has to run although nothing reads its results. */
bool graph_op_has_effect(const graph_op *op);
bool graph_type_equal(const graph_type *a, const graph_type *b);

#endif
