/* What an instruction touches: which operands it reads and writes, where, and what state of its
 * engine besides. The one place that knows: all that orders, checks, places or drops instructions
 * walks them with it.
 *
 *     isa_access a;
 *     for (access_walk w = access_begin(instr, customs, n_customs); access_next(&w, &a);)
 *         ...
 *
 * Numbers of the instruction are believed: an opcode or a count of dimensions beyond its table must
 * be refused before. */
#ifndef VTRN_ISA_ACCESS_H
#define VTRN_ISA_ACCESS_H

#include "isa/program.h"

/* One operand in memory, or one tensor of a custom op or collective. */
typedef struct isa_access {
    const vtrn_ap *ap; /* NULL: the whole of a tensor that a custom op names */
    uint32_t slot;     /* in HBM: which tensor */
    int8_t ap_i;       /* number of the operand; -1: of a custom op */
    uint8_t space;     /* vtrn_space */
    /* Both where the result keeps some of the bytes, or adds to them. What is written and not read
     * is overwritten whole. */
    bool is_read, is_written;
    bool is_kept;  /* read only in so far as a mask or a skipped index leaves bytes as they are */
    bool is_table; /* data choose which of n_rows rows are touched */
    bool is_index; /* holds the numbers of the table's rows */
    int64_t n_rows;
} isa_access;

/* The operand whose rows the indices of a gather or scatter choose. */
static inline bool access_is_table(const vtrn_instr *instr, int ap_i) {
    return (instr->opcode == VTRN_OP_DMA_GATHER && ap_i == 1) ||
           (instr->opcode == VTRN_OP_DMA_SCATTER && ap_i == 0);
}

/* The operand that holds them, a number a partition. */
static inline bool access_is_index(const vtrn_instr *instr, int ap_i) {
    return (instr->opcode == VTRN_OP_DMA_GATHER || instr->opcode == VTRN_OP_DMA_SCATTER) &&
           ap_i == 2;
}

/* Rows of the operand that may be touched: its own, or all rows of a table. */
static inline int64_t access_rows(const vtrn_instr *instr, int ap_i) {
    return access_is_table(instr, ap_i) ? instr->arg[1] : instr->ap[ap_i].n_partitions;
}

/* Whether the operand is given, and memory. */
static inline bool access_is_memory(const vtrn_instr *instr, int ap_i) {
    char role = isa_ops[instr->opcode].roles[ap_i];
    return role != '-' && role != 'p' && instr->ap[ap_i].space != VTRN_SPACE_NONE;
}

static inline bool access_is_written(const vtrn_instr *instr, int ap_i) {
    char role = isa_ops[instr->opcode].roles[ap_i];
    return (role == 'W' || role == 'U') && instr->ap[ap_i].space != VTRN_SPACE_NONE;
}

/* Whether it leaves a result in the registers of the Vector engine. */
static inline bool access_reduces_to_vector_regs(const vtrn_instr *instr) {
    return instr->opcode >= VTRN_OP_TENSOR_SCALAR_REDUCE && instr->opcode <= VTRN_OP_EXPONENTIAL;
}

/* Whether the result of role W is added to what ap[0] held. An activate accumulates into registers
 * of the Scalar engine. */
static inline bool access_accumulates(const vtrn_instr *instr) {
    return (instr->flags & VTRN_FLAG_ACCUMULATE) && instr->opcode != VTRN_OP_ACTIVATE &&
           !access_reduces_to_vector_regs(instr);
}

/* Whether the result may name an element more than once: where a row's sum counts the row itself
 * may be dropped so, as nki-library does. One thread writes a row, in order: its last element
 * stays. */
static inline bool access_may_repeat(const vtrn_instr *instr) {
    return instr->opcode == VTRN_OP_ACTIVATE && (instr->flags & VTRN_FLAG_ACCUMULATE);
}

/* Whether the result of role W leaves parts of ap[0] as they were. */
bool access_keeps(const vtrn_instr *instr);

static inline bool access_is_kept(const vtrn_instr *instr, int ap_i) {
    bool may_keep = instr->opcode == VTRN_OP_DMA_GATHER ||
                    instr->opcode == VTRN_OP_STREAM_SHUFFLE ||
                    instr->opcode == VTRN_OP_NONZERO_WITH_COUNT;
    if (instr->opcode == VTRN_OP_QUANTIZE_MX) /* scales lie in 4 partitions of 32 */
        return ap_i == 2 && instr->ap[2].n_partitions > 4;
    return may_keep && ap_i == 0 && access_keeps(instr);
}

static inline bool access_is_read(const vtrn_instr *instr, int ap_i) {
    if (!access_is_memory(instr, ap_i))
        return false;
    return isa_ops[instr->opcode].roles[ap_i] != 'W' || access_accumulates(instr) ||
           access_is_kept(instr, ap_i);
}

/* The accesses of one instruction: operands in order, or a custom op's inputs, then its outputs. */
typedef struct access_walk {
    const vtrn_instr *instr;
    const vtrn_custom *custom; /* NULL: operands */
    uint32_t i, n;
} access_walk;

/* customs: those of the program, [n_customs]. A custom op whose number is beyond them has no
 * accesses. */
static inline access_walk access_begin(const vtrn_instr *instr, const vtrn_custom *customs,
                                       uint32_t n_customs) {
    access_walk w = {.instr = instr, .n = VTRN_MAX_AP};
    if (instr->opcode != VTRN_OP_CUSTOM_OP && instr->opcode != VTRN_OP_COLLECTIVE)
        return w;
    bool is_known = instr->arg[0] >= 0 && (uint32_t)instr->arg[0] < n_customs;
    w.custom = is_known ? &customs[instr->arg[0]] : NULL;
    w.n = is_known ? w.custom->n_inputs + w.custom->n_outputs : 0;
    return w;
}

/* The next one; false behind the last. */
static inline bool access_next(access_walk *w, isa_access *out) {
    if (w->custom) {
        if (w->i == w->n)
            return false;
        bool is_written = w->i >= w->custom->n_inputs;
        *out = (isa_access){.slot = w->custom->slots[w->i++],
                            .ap_i = -1,
                            .space = VTRN_SPACE_HBM,
                            .is_read = !is_written,
                            .is_written = is_written,
                            .n_rows = 1};
        return true;
    }
    for (; w->i < w->n; w->i++) {
        int i = (int)w->i;
        if (!access_is_memory(w->instr, i))
            continue;
        *out = (isa_access){.ap = &w->instr->ap[i],
                            .slot = w->instr->ap[i].slot,
                            .ap_i = (int8_t)i,
                            .space = w->instr->ap[i].space,
                            .is_read = access_is_read(w->instr, i),
                            .is_written = access_is_written(w->instr, i),
                            .is_kept = access_is_kept(w->instr, i),
                            .is_table = access_is_table(w->instr, i),
                            .is_index = access_is_index(w->instr, i),
                            .n_rows = access_rows(w->instr, i)};
        w->i++;
        return true;
    }
    return false;
}

/* Bytes [*lo, *hi) that are touched: of each partition, or of the HBM tensor, which has
 * slot_bytes. */
static inline void access_extent(const isa_access *a, uint64_t slot_bytes, int64_t *lo,
                                 int64_t *hi) {
    *lo = 0;
    *hi = (int64_t)slot_bytes;
    if (a->ap)
        isa_ap_rows_extent(a->ap, a->n_rows, lo, hi);
}

/* Whether a partition of the result depends on bytes of the operand in other partitions: because
 * the instruction mixes rows, or because the operand starts elsewhere than ap[0]. A result in HBM
 * is in no partition; there only mixed rows count. */
bool access_crosses(const vtrn_instr *instr, int ap_i);

/* State of an engine that no operand names. */
enum {
    ACCESS_PE_WEIGHTS = 1 << 0,  /* Tensor: the stationary tile */
    ACCESS_REDUCE_REGS = 1 << 1, /* Scalar: sums of activate, a partition each */
    ACCESS_ACT_TABLE = 1 << 2,   /* Scalar: the loaded set of functions */
    ACCESS_GENERATOR = 1 << 3,   /* of random numbers, a partition each; every engine has one */
    ACCESS_VECTOR_REGS =
        1 << 4, /* Vector: results of its reducing instructions, a partition each */
};

typedef struct access_states {
    uint8_t read, written; /* ACCESS_ bits */
} access_states;

access_states access_states_of(const vtrn_instr *instr);

/* Its ACCESS_PE_WEIGHTS alone: what a pe_transpose moves passes as weights too. */
static inline bool access_writes_weights(const vtrn_instr *instr) {
    return instr->opcode == VTRN_OP_LDWEIGHTS || instr->opcode == VTRN_OP_PE_TRANSPOSE ||
           instr->opcode == VTRN_OP_LDWEIGHTS_MX;
}
static inline bool access_reads_weights(const vtrn_instr *instr) {
    return instr->opcode == VTRN_OP_MATMUL || instr->opcode == VTRN_OP_MATMUL_MX;
}

#endif
