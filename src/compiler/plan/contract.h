/* A contraction: what dot_general and convolution have in common. */
#ifndef VTRN_COMPILER_PLAN_CONTRACT_H
#define VTRN_COMPILER_PLAN_CONTRACT_H

#include "compiler/plan/kernel_list.h"

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

/* Records the whole contraction into spec->out. */
vtrn_status contract_record(plan *p, const contract_spec *spec);
/* Tells the plan what the contraction reads. */
vtrn_status contract_accesses(plan *p, const contract_spec *spec);

enum {
    CONTRACT_MAX_BUFFERS = 4,
    CONTRACT_MAX_K_TILES = 16,
    CONTRACT_MAX_GROUP_BANKS = 2, /* PSUM banks that one sweep over k accumulates into, at most */
};

/* A contraction cut into parts that fit SBUF and PSUM. */
typedef struct contraction {
    const vtrn_chip *chip;
    const contract_spec *spec;
    vtrn_dtype compute;
    int64_t n_m, n_n, n_k, n_batch;
    uint32_t element_bytes;
    int64_t bank_cols;                      /* fp32 columns of a PSUM bank */
    int64_t group_cols;                     /* of n that one sweep covers */
    int64_t chunk_k;                        /* k held in SBUF at a time */
    int64_t natural_cols;                   /* of k, loaded at a time for transposing */
    int64_t max_group_cols, max_chunk_k;    /* where SBUF asks for less than PSUM and program do */
    bool is_tight;                          /* one buffer for each operand */
    const struct resident *a_from, *b_from; /* where an operand is already in SBUF, or NULL */
    int n_a, n_b; /* buffers of a (and of what is transposed for it), and of b */
    uint32_t a_bytes, b_bytes, natural_bytes, out_bytes;
} contraction;

/* True when spec can be made tile by tile: rows of 128 that lie in one batch, n in the PSUM banks
 * of a tile, k in SBUF. *row_step: rows of a tile. */
bool contract_is_tileable(const vtrn_chip *chip, const contract_spec *spec, int64_t *row_step);
/* PSUM banks of a contraction. */
typedef struct contract_banks {
    int sums;  /* for the sums */
    int turns; /* for what is transposed on its way in */
} contract_banks;
/* The fewest banks that make a tile: all sums of it, and one transpose if there are any. */
contract_banks contract_least_banks(const vtrn_chip *chip, const contract_spec *spec);
/* The banks of a contraction that is a kernel of its own: all of the chip. */
contract_banks contract_kernel_banks(const vtrn_chip *chip);
/* Sizes it; all operands are loaded. */
void contract_start(const vtrn_chip *chip, const contract_spec *spec, contraction *c);
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
/* SBUF of a partition that a kernel of its own takes, and the PSUM banks that it needs at least. */
kernel_demand contract_kernel_demand(const contraction *c);
uint64_t contract_bytes(const contraction *c); /* SBUF of a partition that it takes */
/* How many tiles can be loaded before the first of them is made, so that the PE array turns the
 * second one while the first is on its way back. */
int contract_ahead(const contraction *c);

/* --- what emission asks --- */
/* Rows and columns of a full tile of weights. */
int64_t contract_pe_size(const vtrn_chip *chip);
/* Whether the operand is loaded as it lies and transposed on the PE array: it is scattered with k
 * on the partitions, and less so as it lies. */
bool contract_turns(const vtrn_chip *chip, const contract_operand *o);
/* A batch of an operand: rows of x (is_natural: as it lies) or of k. */
view contract_operand_view(const contract_operand *o, int64_t batch, bool is_natural);
/* A batch of the result: rows of m. */
view contract_output_view(const contract_output *o, int64_t batch);

#endif
