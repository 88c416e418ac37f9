/* Fusions: ops over one iteration space whose intermediate values never leave SBUF.
 *
 * The space is a linear index of n elements, cut into rows of `cols` when a reduction asks for it.
 * A node's shape says how it varies over the space:
 *
 *     FULL   a tile [rows, cols]
 *     ROW    one value a row: a tile [rows, 1]; reductions over cols make it, FULL ops take it as a
 *            per-partition scalar
 *     COL    one value a column: loaded once, whole or block by block, replicated on all partitions
 *
 * Shapes do not matter, only linear order: a reshape costs nothing. */
#ifndef VTRN_COMPILER_LOWER_FUSION_H
#define VTRN_COMPILER_LOWER_FUSION_H

#include "compiler/lower/fusion_tiles.h"
#include "compiler/lower/psum.h"

struct contract_spec; /* contract.h */

typedef enum node_shape { NODE_FULL, NODE_ROW, NODE_COL } node_shape;

enum {
    FUSION_MAX_NODES = 256,
    FUSION_NO_NODE = -1,
    FUSION_LOAD = GRAPH_KIND_COUNT,
    FUSION_CONTRACT,
    FUSION_MAX_CONTRACTS = 2,
};

/* An operand: a node or an immediate. */
typedef struct fusion_in {
    int16_t node; /* or FUSION_NO_NODE: imm */
    double imm;
} fusion_in;

typedef struct fusion_node {
    uint16_t
        op; /* graph_kind, FUSION_LOAD, GRAPH_REDUCE (over cols, or over rows when is_column) */
    uint8_t shape;                  /* node_shape; of loads: decided when the fusion closes */
    uint8_t dtype;                  /* of its tile: PRED lies as UINT8 */
    uint8_t direction;              /* compare; reduce_precision: bits of the exponent */
    uint8_t reducer;                /* reduce; reduce_precision: bits of the mantissa */
    bool is_total_order;            /* compare */
    bool is_truth;                  /* operands are truth values: bytes, but no numbers */
    bool is_column;                 /* reduce over rows: leaves the fusion, cannot be used inside */
    bool is_total;                  /* the same, of one value a row: makes one element */
    bool is_reduced;                /* FULL or ROW by origin: n or n/cols elements */
    bool is_stored, is_accumulated; /* accumulated: the store adds */
    uint8_t n_in;
    fusion_in in[3];
    view source_view; /* FUSION_LOAD */
    view store_view;  /* is_stored */
    view at;          /* the one of the two that matters, cut into rows and columns */
    int n_outer;      /* factors of `at` that make the rows */
    bool is_live, is_hoisted;
    bool is_folded;         /* done by the one node that uses it */
    int folds;              /* operand that is folded into this node, or FUSION_NO_NODE */
    uint32_t source;        /* for instructions */
    bool is_used;           /* by another live node */
    int stage;              /* FUSION_PASSES: the pass, or the row stage before it, that makes it */
    bool is_in_pass;        /* made in the pass at hand; other forms have one pass */
    int last_use;           /* node index, in the pass at hand */
    tile t;                 /* where it lies in this iteration */
    int slot;               /* FULL: which tile buffer */
    uint32_t buffer_offset; /* of t in the buffers of an iteration or of a block of columns */
    uint32_t turn_addr[FUSION_MAX_ABREAST]; /* of t, for each of the tiles abreast */
    bool stays_in_sbuf;                     /* a result that has no buffer of its own */
    struct resident *candidate;             /* as which a result could stay in SBUF, or NULL */
    const struct resident *kept;      /* where a result stays in SBUF (plan/resident.h), or NULL */
    const struct resident *taken;     /* where an operand is already in SBUF, or NULL */
    psum_banks banks;                 /* column reductions: of the sums */
    const struct contract_spec *spec; /* FUSION_CONTRACT */
    int contract;                     /* which of the fusion's */
} fusion_node;

/* A graph value that names a node, or a view change of one that does. */
typedef struct fusion_value {
    graph_value value;
    const graph_op *alias_of; /* view change that made it, or NULL: the node itself */
    bool is_needed;
} fusion_value;

typedef struct fusion {
    struct fusion *next;
    int64_t n;        /* elements of FULL */
    int64_t cols;     /* 0: not fixed yet */
    int64_t row_step; /* rows of a tile when a contraction sets them, else 0 */
    int64_t
        first_op_cols; /* innermost size of the first op's result: the rows it is likely read in */
    int n_contracts;
    int n_nodes, n_values, cap_values;
    fusion_value *values;
    fusion_node nodes[FUSION_MAX_NODES]; /* last: those beyond n_nodes are never touched */
} fusion;

/* Type of tile for a value's dtype; false when the engines have no exact way to hold it. */
bool fusion_tile_dtype(vtrn_dtype t, vtrn_dtype *out);

/* --- fusion.c: for lowerings that make their own --- */
vtrn_status fusion_open(lower *l, int64_t n, fusion **out);
/* A load of n (or n/cols: is_reduced) elements. */
vtrn_status fusion_add_load(lower *l, fusion *f, const view *v, bool is_reduced, fusion_in *out);
/* A node from its op, operands and dtype; flags and ALU op are the caller's in `like`. */
vtrn_status fusion_add(lower *l, fusion *f, const fusion_node *like, fusion_in *out);
/* A fusion that begins with a contraction's tiles of dtype, as `result`. The spec outlives the
 * fusion. */
vtrn_status fusion_contract(lower *l, const struct contract_spec *spec, graph_value result,
                            vtrn_dtype dtype, int64_t cols, int64_t row_step);
vtrn_status fusion_name(lower *l, fusion *f, graph_value v, int node, const graph_op *alias_of);
/* Emits it now; nodes with is_stored are written to their store_view. */
vtrn_status fusion_close(lower *l, fusion *f);
bool fusion_is_identity(graph_reducer r, vtrn_dtype t, double init);
/* The view of a reduction's operand with the reduced dims behind the kept ones; false: make it
 * dense first. */
bool fusion_reduced_last(const lower *l, const graph_op *op, const view *operand, view *out);
/* Into how many shares to cut the columns of a reduction for a first step; 1: no need. */
int64_t fusion_first_share(const lower *l, int64_t rows, int64_t cols);

/* --- fusion_sums.c: sums over the rows --- */
/* Those of up to so many columns keep a row tile whole in SBUF, and their banks through the whole
 * kernel. Wider ones leave after each block of columns. */
enum { FUSION_MAX_WHOLE_SUM_COLS = 2048 };
bool fusion_is_wide_sum(const fusion *f, const fusion_node *node);
bool fusion_has_wide_sums(const fusion *f);
/* PSUM banks that hold a column reduction's sums. */
int fusion_sum_banks(const lower *l, const fusion *f, const fusion_node *sum);
/* Whether a fusion (NULL: a new one) can sum up n_rows rows of `cols` too. */
bool fusion_can_sum(const lower *l, const fusion *f, int64_t n_rows, int64_t cols);
/* Whether one fusion has the banks for what two do. */
bool fusion_can_merge(const lower *l, const fusion *a, const fusion *b);
/* Columns of a fusion that sums up n rows of `cols`: those of several rows where they are few. */
int64_t fusion_sum_cols(const lower *l, int64_t n, int64_t cols);

/* --- elementwise_*.c --- */
/* The engines take per-partition scalars of float data in fp32 only: beside the tile of a row of a
 * narrower float lies the same as fp32. */
enum { FUSION_WIDE_ROW_BYTES = 32 /* from one to the other */ };
bool fusion_row_is_widened(const tile *row);
tile fusion_wide_row(const tile *row);
/* Whether the engines do this op exactly enough on these types. */
bool elementwise_supports(const lower *l, const graph_op *op);
/* Whether an op of one operand is its comparison with 0, and which: a conversion to truth values,
 * and `not` of one. */
bool elementwise_tests_zero(const lower *l, const graph_op *op, graph_direction *direction);
/* Marks nodes whose one user can do their work in its own instruction: (x op s) op t. Needs
 * shapes. */
void elementwise_fold(fusion *f);
/* FULL temporaries that emitting the node takes, at most ELEMENTWISE_MAX_TEMPS. */
int elementwise_n_temps(const fusion *f, const fusion_node *node);
enum { ELEMENTWISE_MAX_TEMPS = 11, FUSION_MAX_CONSTS = 64 };

/* A constant on every partition: a [128, 1] tile, filled once a fusion. */
typedef struct emit_const {
    double value;
    uint8_t dtype;
    tile t;
} emit_const;
bool emit_const_is(const emit_const *c, double value, uint8_t dtype);

/* Where a node is emitted: the tile at hand. */
typedef struct emit_env {
    lower *l;
    fusion *f;
    uint32_t rows, cols;
    uint32_t col0; /* first column, for COL operands */
    tile temps[ELEMENTWISE_MAX_TEMPS];
    emit_const consts[FUSION_MAX_CONSTS];
    int n_consts;
} emit_env;

/* The tile of a constant that the fusion was planned with. */
vtrn_status elementwise_const_tile(const emit_env *env, double value, uint8_t dtype,
                                   const tile **out);

/* Emits one op node for the tile at hand. */
vtrn_status elementwise_emit(emit_env *env, const fusion_node *node);

/* Which immediates of a node must lie in memory: the callback is told each (value, dtype). */
void elementwise_for_consts(const fusion *f, const fusion_node *node,
                            void (*fn)(void *ctx, double value, vtrn_dtype dtype), void *ctx);

#endif
