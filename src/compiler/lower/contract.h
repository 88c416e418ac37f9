/* A contraction: what dot_general and convolution have in common. */
#ifndef VTRN_COMPILER_LOWER_CONTRACT_H
#define VTRN_COMPILER_LOWER_CONTRACT_H

#include "compiler/lower/psum.h"

typedef struct contract_spec contract_spec;

/* An operand: its element for (batch, k, x) lies at offset + the factors' strides. */
typedef struct contract_operand {
    uint32_t slot;
    uint8_t dtype;
    int64_t offset; /* elements */
    int n_batch, n_k, n_x;
    view_factor batch[VIEW_MAX_FACTORS], k[VIEW_MAX_FACTORS], x[VIEW_MAX_FACTORS];
} contract_operand;

typedef struct contract_output {
    uint32_t slot;
    uint8_t dtype;
    int64_t offset;
    int n_batch, n_m, n_n;
    view_factor batch[VIEW_MAX_FACTORS], m[VIEW_MAX_FACTORS], n[VIEW_MAX_FACTORS];
} contract_output;

/* The operation that a contraction computes, for plan/verify_contract.h. */
typedef struct contract_origin {
    const graph_op *op;  /* dot_general or convolution; NULL: not checked */
    view lhs, rhs;       /* of the operands, in the order of their dims */
    graph_type lhs_type; /* of a convolution: with its padding */
    bool is_lhs_moving;  /* the left operand is b */
} contract_origin;

/* Linear order of each index is that of its factors, the same in both operands and the output. */
struct contract_spec {
    vtrn_dtype compute;    /* both operands are cast to it while loading */
    contract_operand a, b; /* a.x = m, stationary; b.x = n, moving */
    contract_output out;
    contract_origin origin;
};

/* Where an operand's elements lie; the factors are to come. */
void contract_operand_start(contract_operand *o, const view *v);
/* Records the contraction, or leaves its tiles to a fusion when the result lies in row-major order
 * of (batch, m, n). */
vtrn_status contract_finish(lower *l, graph_value result, contract_spec *spec, bool is_row_major);
/* Records the whole contraction into spec->out. */
vtrn_status contract_record(lower *l, const contract_spec *spec);
/* Tells the plan what the contraction reads. */
vtrn_status contract_accesses(lower *l, const contract_spec *spec);

enum { CONTRACT_MAX_BUFFERS = 4, CONTRACT_MAX_K_TILES = 16 };

/* An operand's part, k on the partitions: a tile for each 128 of k. */
typedef struct contract_tiles {
    tile k[CONTRACT_MAX_K_TILES];
} contract_tiles;

/* The same a tile at a time, for a fusion that uses the tile at once. */
typedef struct contraction {
    lower *l;
    const contract_spec *spec;
    vtrn_dtype compute;
    int64_t n_m, n_n, n_k, n_batch;
    uint32_t element_bytes;
    int64_t bank_cols;                   /* fp32 columns of a PSUM bank */
    int64_t group_cols;                  /* of n that one sweep covers */
    int64_t chunk_k;                     /* k held in SBUF at a time */
    int64_t natural_cols;                /* of k, loaded at a time for transposing */
    int64_t max_group_cols, max_chunk_k; /* where SBUF asks for less than PSUM and program do */
    bool is_tight;                       /* one buffer for each operand */
    contract_tiles a[CONTRACT_MAX_BUFFERS], b[CONTRACT_MAX_BUFFERS];
    tile natural[CONTRACT_MAX_BUFFERS], out[2];
    const struct resident *a_from, *b_from; /* where an operand is already in SBUF, or NULL */
    int n_a, n_b; /* buffers of a (and of what is transposed for it), and of b */
    uint32_t a_bytes, b_bytes, natural_bytes, out_bytes;
    int flip_a, flip_b, flip_natural, flip_out;
    int n_tiles;                    /* made so far */
    int b_of[CONTRACT_MAX_BUFFERS]; /* by buffer of a: the buffer of b that goes with it */
    psum_banks sums, turns;         /* for sums, and for what is transposed */
    int64_t loaded_batch;           /* whose moving operand is in SBUF, or -1 */
} contraction;

/* True when spec can be made tile by tile: rows of 128 that lie in one batch, n in the PSUM banks
 * of a tile, k in SBUF. *row_step: rows of a tile. */
bool contract_is_tileable(const lower *l, const contract_spec *spec, int64_t *row_step);
/* PSUM banks of a contraction made tile by tile. */
typedef struct contract_banks {
    int sums;  /* for the sums */
    int turns; /* for what is transposed on its way in */
} contract_banks;
/* The fewest banks that make a tile: all sums of it, and one transpose if there are any. */
contract_banks contract_least_banks(const lower *l, const contract_spec *spec);
/* Sizes it; all operands are loaded. */
void contract_start(lower *l, const contract_spec *spec, contraction *c);
/* Whether an operand can be read from the resident as it is. */
bool contract_takes(const contraction *c, const struct resident *r);
/* Reads each operand from its resident (NULL: loads it) where the resident has it; sizes anew. */
void contract_take(contraction *c, const struct resident *a, const struct resident *b);
/* Gives each operand one buffer: a kernel that does the contraction beside other work may fit then.
 */
void contract_tighten(contraction *c);
/* Cuts a contraction that is a kernel of its own smaller, until it fits limit_bytes of a partition
 * or cannot be cut. */
void contract_fit(contraction *c, uint64_t limit_bytes);
/* SBUF of a partition that a kernel of its own takes. */
uint64_t contract_kernel_bytes(const contraction *c);
uint64_t contract_bytes(const contraction *c); /* SBUF of a partition that it takes */
/* Takes SBUF and PSUM of the kernel that is being emitted. */
vtrn_status contract_place(contraction *c, contract_banks banks);
/* How many tiles can be loaded before contract_tile, so that the PE array turns the second one
 * while the first is on its way back. */
int contract_ahead(const contraction *c);
/* Loads what rows [row, row + n_rows) of [batch * m, n] need. */
vtrn_status contract_load(contraction *c, int64_t row, uint32_t n_rows);
/* The rows loaded first of those not yet made, into dst. */
vtrn_status contract_tile(contraction *c, uint32_t n_rows, const tile *dst);

/* Where an operand has no elements, all sums are 0: gives op's result this value. False where both
 * have. */
bool contract_nothing(lower *l, const graph_op *op);

/* Matmul input type for operands of two types; false when the tensor engine has none. */
bool contract_dtype(vtrn_dtype a, vtrn_dtype b, vtrn_dtype *out);

#endif
