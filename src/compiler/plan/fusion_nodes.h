/* Fusions: ops over one iteration space whose intermediate values never leave SBUF.
 *
 * The space is a linear index of n elements, cut into rows of `cols` when a reduction needs it.
 * A node's shape says how it varies over the space:
 *
 *     FULL   a tile [rows, cols]
 *     ROW    one value a row: a tile [rows, 1]; reductions over cols make it, FULL ops take it as a
 *            per-partition scalar. With n_side batches side by side in the columns: [rows, n_side],
 *            and no scalar
 *     COL    one value a column: loaded once, whole or block by block, replicated on all partitions
 *
 * The dims of tensors do not matter, only linear order: a reshape costs nothing. */
#ifndef VTRN_COMPILER_PLAN_FUSION_NODES_H
#define VTRN_COMPILER_PLAN_FUSION_NODES_H

#include "compiler/build/builder.h"
#include "compiler/graph/graph.h"
#include "compiler/plan/fusion_tiles.h"
#include "compiler/plan/psum_banks.h"
#include "compiler/plan/tile.h"
#include "compiler/plan/view.h"

struct contract_spec; /* contract.h */
struct conv_spec;     /* conv_plan.h */

typedef enum node_shape { NODE_FULL, NODE_ROW, NODE_COL } node_shape;

enum {
    FUSION_MAX_NODES = 256,
    FUSION_NO_NODE = -1,
    FUSION_LOAD = GRAPH_KIND_COUNT,
    FUSION_CONTRACT,
    FUSION_CONV,
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
    uint8_t dtype;                  /* of its tile: PRED is stored as UINT8 */
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
    bool is_exit;           /* a convolution's tiles become this node's on their way out of PSUM */
    int folds;              /* operand that is folded into this node, or FUSION_NO_NODE */
    bool is_rounded;        /* to its type by a conversion of the program */
    bool has_negative;      /* ROW: its negative is beside the value, for a bias */
    bool is_only_negative;  /* of a reduction: only the negative is read */
    bool is_square;         /* x * x, as an activation */
    bool is_exact;          /* a quotient that is corrected, at the price of some products */
    bool is_moments;        /* a sum along the rows: its tile has mean and variance instead */
    int moments;            /* a mean or variance: where is_moments has it, or FUSION_NO_NODE */
    bool is_summed;         /* a reduction whose terms the activation adds up */
    uint8_t reuses;         /* select: the value in whose tile the result is made; 0: neither's */
    int sum;                /* of an activation: that reduction, or FUSION_NO_NODE */
    uint32_t source;        /* for instructions */
    bool is_used;           /* by another live node */
    int stage;              /* FUSION_PASSES: the pass, or the row stage before it, that makes it */
    bool is_in_pass;        /* made in the pass at hand; other forms have one pass */
    int last_use;           /* node index, in the pass at hand */
    tile t;                 /* its place in this iteration */
    int slot;               /* FULL: which tile buffer */
    uint32_t buffer_offset; /* of t in the buffers of an iteration or of a block of columns */
    uint32_t turn_addr[FUSION_MAX_ABREAST]; /* of t, for each of the tiles abreast */
    bool is_of_batch;                 /* COL: [rows, cols] of a batch, the same as all others */
    int n_row_blocks;                 /* ROW, hoisted: tiles, one for each row block; else 0 */
    uint32_t row_addr;                /* of the first of them */
    bool stays_in_sbuf;               /* a result that has no buffer of its own */
    struct resident *candidate;       /* as which a result could stay in SBUF, or NULL */
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
    int64_t n;             /* elements of FULL */
    int64_t cols;          /* 0: not fixed yet */
    int64_t row_step;      /* rows of a tile when a contraction sets them, else 0 */
    int64_t batch_rows;    /* a tile ends with each so many rows; 0: anywhere */
    int64_t n_side;        /* batches side by side in a tile (sides.h); 0: a tile has one */
    int64_t first_op_cols; /* innermost size of the first op's result; 0: it has one dim */
    int n_contracts;
    const struct conv_spec *conv; /* of its one FUSION_CONV node, or NULL */
    int n_nodes, n_values, cap_values;
    fusion_value *values;
    fusion_node nodes[FUSION_MAX_NODES]; /* last: those beyond n_nodes are never touched */
} fusion;

/* How the tiles of a convolution leave PSUM: what scales, shifts, adds to and clips them happens on
 * the way. node = relu(sum * scale + other + bias), each where there is one. */
typedef struct conv_exit {
    int16_t sum;   /* the convolution */
    int16_t node;  /* that gets the tile; the convolution itself where nothing is done on the way */
    int16_t scale; /* ROW, or FUSION_NO_NODE: scale_imm */
    float scale_imm;
    int16_t bias;  /* ROW, or FUSION_NO_NODE */
    int16_t other; /* FULL, or FUSION_NO_NODE */
    bool is_relu;
} conv_exit;

/* A node from its op, operands and dtype; flags and ALU op are the caller's in `like`. */
vtrn_status fusion_add(const builder *b, fusion *f, const fusion_node *like, fusion_in *out);

/* Type of tile for a value's dtype; false when the engines have no exact way to hold it. */
bool fusion_tile_dtype(vtrn_dtype t, vtrn_dtype *out);

/* The engines take per-partition scalars of float data in fp32 only: beside the tile of a row of a
 * narrower float has the layout of fp32. */
enum { FUSION_WIDE_ROW_BYTES = 32 /* from one to the other */ };
bool fusion_row_is_widened(const tile *row);
tile fusion_wide_row(const tile *row);
/* Where is_moments has the variance; the mean is in the tile itself. */
tile fusion_variance_row(const tile *row);
/* Where has_negative has the negative, in fp32. */
tile fusion_negative_row(const tile *row);

/* A constant on every partition: a [128, 1] tile, filled once a fusion. */
typedef struct fusion_const {
    double value;
    uint8_t dtype;
    tile t;
} fusion_const;
bool fusion_const_is(const fusion_const *c, double value, uint8_t dtype);

#endif
