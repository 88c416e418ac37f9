/* A contraction: what dot_general and convolution have in common. */
#ifndef VTRN_COMPILER_PLAN_CONTRACT_H
#define VTRN_COMPILER_PLAN_CONTRACT_H

#include "compiler/plan/contract_memo.h"
#include "compiler/plan/kernel_list.h"

typedef struct contract_spec contract_spec;

/* An operand: its element for (batch, k, x) is at offset + the factors' strides. */
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
    /* Where the result is, if it has a tensor of its own: it may be written as a part of another.
     */
    contract_output result;
} contract_origin;

/* Linear order of each index is that of its factors, the same in both operands and the output. */
struct contract_spec {
    vtrn_dtype compute;    /* both operands are cast to it while loading */
    contract_operand a, b; /* a.x = m, stationary; b.x = n, moving */
    contract_output out;
    contract_origin origin;
};

/* Gives the output, whose row-major order is that of (batch, m, n), the places of the view. False:
 * no factors of the view make each of the three. */
bool contract_write_at(contract_output *o, const view *at);
/* Records the whole contraction into spec->out. */
vtrn_status contract_record(plan *p, const contract_spec *spec);
/* Tells the plan what the contraction reads. */
vtrn_status contract_accesses(plan *p, const contract_spec *spec);

/* PSUM banks of a contraction. */
typedef struct contract_banks {
    int sums;  /* for the sums */
    int turns; /* for what is transposed on its way in */
} contract_banks;

/* A contraction cut into parts that fit SBUF and PSUM. */
typedef struct contraction {
    const vtrn_chip *chip;
    contract_memo *cuts;
    const contract_spec *spec;
    vtrn_dtype compute;
    int64_t n_m, n_n, n_k, n_batch;
    int64_t tile_rows; /* of m, that a matmul makes */
    uint32_t element_bytes;
    int64_t bank_cols;                      /* fp32 columns of a PSUM bank */
    const struct resident *a_from, *b_from; /* where an operand is already in SBUF, or NULL */
    bool is_kernel;                         /* of its own, which stores the result */
    contract_banks banks;
    int64_t group_rows, turn_cols; /* of the fusion that takes the tiles; 0: any */
    uint64_t limit_bytes;          /* of a partition, that it may take */
    bool is_limited;               /* it is cut for less: contract_limit */
    contract_cut cut;
} contraction;

/* True when spec can be made tile by tile, with all k in SBUF. *row_step: rows of a tile;
 * *batch_rows: of a batch, where its last tile has fewer, else 0. */
bool contract_is_tileable(const plan *p, const contract_spec *spec, int64_t *row_step,
                          int64_t *batch_rows);
/* The fewest banks that make a tile: one for its sums, and one for transposes if there are any. */
contract_banks contract_least_banks(const vtrn_chip *chip, const contract_spec *spec);
/* Describes it; all operands are loaded, and it has no cut yet. */
void contract_start(const plan *p, const contract_spec *spec, contraction *c);
/* Cuts a kernel of its own for SBUF of limit_bytes a partition. */
void contract_cut_kernel(contraction *c, uint64_t limit_bytes);
/* Cuts a contraction whose tiles a fusion takes: turn_cols columns of group_rows rows before the
 * next columns. */
void contract_cut_tiles(contraction *c, contract_banks banks, int64_t group_rows, int64_t turn_cols,
                        uint64_t limit_bytes);
/* Whether an operand can be read from the resident as it is. */
bool contract_takes(const contraction *c, const struct resident *r);
/* Reads each operand from its resident (NULL: loads it) where the resident has it; cuts anew. */
void contract_take(contraction *c, const struct resident *a, const struct resident *b);
/* Cuts it anew for so many bytes of a partition, at most those that it was cut for at first; false
 * where it does not fit, or that costs much. contract_take cuts it for as many as at first. */
bool contract_limit(contraction *c, uint64_t limit_bytes);
uint64_t contract_bytes(const contraction *c); /* SBUF of a partition that it takes */
/* The same, and the PSUM banks that it needs at least, of a kernel of its own. */
kernel_demand contract_kernel_demand(const contraction *c);

/* --- for emission --- */
/* Whether the operand is loaded in the order of memory and transposed on the PE array: it is
 * scattered with k on the partitions, and less so in the order of memory. */
bool contract_turns(const vtrn_chip *chip, const contract_operand *o);
/* Whether the DMA engines transpose it on its way from HBM instead. */
bool contract_turns_by_dma(const contraction *c, const contract_operand *o);
/* A batch of an operand: rows of x (is_natural: in the order of memory) or of k. */
view contract_operand_view(const contract_operand *o, int64_t batch, bool is_natural);
/* A batch of the result: rows of m. */
view contract_output_view(const contract_output *o, int64_t batch);

#endif
