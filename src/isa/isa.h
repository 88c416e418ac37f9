/* The instruction set: what an instruction is. How it executes is engine/, what it costs cost/. */
#ifndef VTRN_ISA_ISA_H
#define VTRN_ISA_ISA_H

#include "base/dtype.h"
#include "base/status.h"

#include <math.h>
#include <stdint.h>

typedef enum vtrn_engine {
    VTRN_ENGINE_TENSOR,
    VTRN_ENGINE_VECTOR,
    VTRN_ENGINE_SCALAR,
    VTRN_ENGINE_GPSIMD,
    VTRN_ENGINE_SYNC,
    VTRN_ENGINE_CC, /* the core's stream of collectives */
    VTRN_ENGINE_COUNT
} vtrn_engine;

typedef enum vtrn_space {
    VTRN_SPACE_NONE, /* operand absent */
    VTRN_SPACE_SBUF,
    VTRN_SPACE_PSUM,
    VTRN_SPACE_HBM,
} vtrn_space;

typedef enum vtrn_cost_class {
    COST_LDWEIGHTS,
    COST_MATMUL,
    COST_PE_TRANSPOSE,
    COST_TENSOR_TENSOR,
    COST_ELEMENTWISE,
    COST_SCALAR_TENSOR_TENSOR,
    COST_TENSOR_REDUCE,
    COST_COPY_PREDICATED,
    COST_MEMSET,
    COST_QUANTIZE_MX,
    COST_RECIPROCAL,
    COST_SCAN,
    COST_BN_AGGR,
    COST_STREAM,
    COST_FIXED,
    COST_ACTIVATE,
    COST_ACT_TABLE_LOAD,
    COST_GPSIMD,
    COST_CUSTOM_OP,
    COST_DMA,
    COST_DMA_TRANSPOSE,
    COST_DMA_INDIRECT,
    COST_EVENT_SEMAPHORE,
    COST_COLLECTIVE,
    COST_CLASS_COUNT
} vtrn_cost_class;

typedef enum vtrn_opcode {
#define OP(e, name, engines, roles, gen, cost, setup, doc) VTRN_OP_##e,
#include "isa/isa.def"
#undef OP
    VTRN_OP_COUNT
} vtrn_opcode;

typedef enum vtrn_alu {
#define ALU(e, name, class) VTRN_ALU_##e,
#include "isa/alu.def"
#undef ALU
    VTRN_ALU_COUNT
} vtrn_alu;

typedef enum vtrn_act {
#define ACT(e, name, set, lo, hi) VTRN_ACT_##e,
#include "isa/act.def"
#undef ACT
    VTRN_ACT_COUNT
} vtrn_act;

enum {
    VTRN_MAX_AP = 4,
    VTRN_MAX_FREE_DIMS = 4, /* of a pattern. Source: docs/hardware.md, "Operands" */
    VTRN_MAX_WAITS = 2,
    VTRN_N_SEMAPHORES = 256, /* a core. Source: docs/hardware.md, "Memories" */
    VTRN_N_QUEUES = 16,      /* DMA rings an engine. Source: docs/hardware.md, "DMA" */
    VTRN_NO_SEMAPHORE = 0xffff,
};

/* An access pattern: n_partitions rows of the same free pattern.
 *
 * SBUF, PSUM: row r is partition (partition + r); element (i0..i3) of a row lies at byte
 *   addr + (i0*dim[0].step + i1*dim[1].step + ...) * size(dtype)   of that partition.
 *   partition_step 0 reads one partition for all rows (broadcast; DMA sources only).
 * HBM: row r starts at byte  slot_base[slot] + addr + r*partition_step*size(dtype). In a dma_copy
 * it may be the row of several partitions: isa_ap_row_dims.
 *
 * dim[0] is outermost. Unused dims do not exist: n_dims counts them, 1..4 (0: one element a row).
 * Steps may be negative or 0 (broadcast, sources only). */
typedef struct vtrn_dim {
    int32_t step; /* elements */
    uint32_t num;
} vtrn_dim;

typedef struct vtrn_ap {
    uint8_t space; /* vtrn_space */
    uint8_t dtype; /* vtrn_dtype */
    uint8_t n_dims;
    uint8_t reserved;
    uint16_t partition; /* SBUF, PSUM: first partition */
    uint16_t n_partitions;
    uint32_t slot; /* HBM: index of the program's tensor */
    int32_t reserved2;
    int64_t addr;           /* bytes */
    int64_t partition_step; /* HBM: elements between rows; SBUF, PSUM: 1 (0: broadcast) */
    vtrn_dim dim[VTRN_MAX_FREE_DIMS];
} vtrn_ap;

typedef enum vtrn_instr_flag {
    VTRN_FLAG_ACCUMULATE = 1 << 0, /* matmul: add to PSUM; activate: add to reduce_regs; DMA: add */
    VTRN_FLAG_REVERSE0 = 1 << 1,
    VTRN_FLAG_REVERSE1 = 1 << 2,
    VTRN_FLAG_NEGATE = 1 << 3,
    VTRN_FLAG_STOCHASTIC = 1 << 4, /* stochastic rounding of the result */
    VTRN_FLAG_OOB_SKIP = 1 << 5,
    VTRN_FLAG_CLAMP_INDEX = 1 << 6,
    VTRN_FLAG_LAST = 1 << 7, /* matmul: last of its accumulation group */
    /* ldweights, matmul: one of two whose fp8 rows share the array, so that both take the time of
       one */
    VTRN_FLAG_DOUBLE_ROW = 1 << 8,
    /* dma_copy: saves to HBM, or reloads, what has no room in SBUF */
    VTRN_FLAG_SPILL = 1 << 9,
    VTRN_FLAG_RESET = 1 << 10, /* activate: reduce_regs become 0 before */
} vtrn_instr_flag;

typedef struct vtrn_wait {
    uint16_t semaphore; /* waits until semaphore >= value */
    uint16_t reserved;
    uint32_t value;
} vtrn_wait;

typedef struct vtrn_instr {
    uint16_t opcode;  /* vtrn_opcode */
    uint8_t engine;   /* vtrn_engine: the queue that holds it */
    uint8_t queue;    /* DMA: ring 0..15 */
    uint8_t op0, op1; /* vtrn_alu */
    uint8_t func;     /* vtrn_act */
    uint8_t n_waits;
    uint32_t flags;
    uint16_t update_semaphore; /* raised when the instruction completes, or VTRN_NO_SEMAPHORE */
    uint16_t update_value;     /* by how much */
    vtrn_wait wait[VTRN_MAX_WAITS];
    union {
        float f;
        uint32_t bits;
    } imm[2];
    int32_t arg[2];
    uint32_t source; /* index into the program's sources: the user's op that caused it */
    /* While a program is built: not 0 where no other engine may run it (nki_issue.c); 0 in a
     * program. */
    uint32_t keeps_engine;
    vtrn_ap ap[VTRN_MAX_AP];
    uint8_t shuffle[32]; /* stream_shuffle only */
} vtrn_instr;

/* A row of the table, for code that is generated from it. */
typedef struct vtrn_op_info {
    const char *mnemonic;
    const char *engines; /* letters of TVSGYC */
    const char *roles;   /* VTRN_MAX_AP letters */
    uint8_t min_gen;
    uint8_t cost; /* vtrn_cost_class */
    bool is_setup, is_dma;
    const char *doc;
} vtrn_op_info;

extern const vtrn_op_info isa_ops[VTRN_OP_COUNT];
static inline const vtrn_op_info *isa_op_info(vtrn_opcode opcode) { /* NULL when out of range */
    return (unsigned)opcode < VTRN_OP_COUNT ? &isa_ops[opcode] : NULL;
}
const char *isa_engine_name(vtrn_engine engine); /* "Tensor", ... */
const char *isa_alu_name(vtrn_alu op);
char isa_alu_class(vtrn_alu op); /* 'A', 'C', 'B' */
const char *isa_act_name(vtrn_act func);
int isa_act_table_set(vtrn_act func);
static inline bool isa_is_dma(vtrn_opcode opcode) {
    return (unsigned)opcode < VTRN_OP_COUNT && isa_ops[opcode].is_dma;
}

static inline uint64_t isa_ap_free_size(const vtrn_ap *ap) { /* elements a row */
    uint64_t n = 1;
    for (int i = 0; i < ap->n_dims; i++)
        n *= ap->dim[i].num;
    return n;
}

/* dma_copy: a row of the HBM side may serve several partitions, which its outer free dims count
 * then, as the descriptors of a transfer may name any addresses. Source: docs/hardware.md, "DMA".
 * How many dims count rows when hbm serves n_rows partitions: 0 row for row, -1 when no dims do. */
int isa_ap_row_dims(const vtrn_ap *hbm, uint32_t n_rows);

/* Bytes [*lo, *hi) that ap touches: of each of its partitions, or of an HBM tensor, where the rows
 * count too. */
static inline void isa_ap_rows_extent(const vtrn_ap *ap, int64_t n_rows, int64_t *lo, int64_t *hi) {
    int64_t size = (int64_t)dtype_size((vtrn_dtype)ap->dtype), low = 0, high = 0;
    for (int i = 0; i < ap->n_dims; i++) {
        int64_t reach = (int64_t)ap->dim[i].step * ((int64_t)ap->dim[i].num - 1);
        low += reach < 0 ? reach : 0;
        high += reach < 0 ? 0 : reach;
    }
    if (ap->space == VTRN_SPACE_HBM) {
        int64_t reach = ap->partition_step * (n_rows - 1);
        low += reach < 0 ? reach : 0;
        high += reach < 0 ? 0 : reach;
    }
    *lo = ap->addr + low * size;
    *hi = ap->addr + (high + 1) * size;
}

/* Whether both name the same bytes of the same partitions in the same order. */
static inline bool isa_ap_is_same(const vtrn_ap *a, const vtrn_ap *b) {
    bool is_same = a->space == b->space && a->addr == b->addr && a->partition == b->partition &&
                   a->n_partitions == b->n_partitions && a->partition_step == b->partition_step &&
                   a->n_dims == b->n_dims &&
                   dtype_size((vtrn_dtype)a->dtype) == dtype_size((vtrn_dtype)b->dtype);
    for (int i = 0; i < a->n_dims && is_same; i++)
        is_same = a->dim[i].num == b->dim[i].num &&
                  (a->dim[i].num == 1 || a->dim[i].step == b->dim[i].step);
    return is_same;
}

static inline void isa_ap_extent(const vtrn_ap *ap, int64_t *lo, int64_t *hi) {
    isa_ap_rows_extent(ap, ap->n_partitions, lo, hi);
}

/* Whether the ranges of bytes, from the first to the last that each operand touches of a partition
 * or of an HBM tensor, overlap. Bytes between that an operand skips count as touched. */
static inline bool isa_ap_meet(const vtrn_ap *a, const vtrn_ap *b) {
    int64_t a_lo, a_hi, b_lo, b_hi;
    isa_ap_extent(a, &a_lo, &a_hi);
    isa_ap_extent(b, &b_lo, &b_hi);
    return a_lo < b_hi && b_lo < a_hi;
}

/* Asks the host for the cache lines of the instruction that a walk over a list soon comes to; it
 * may lie beyond the list. */
static inline void isa_ask_ahead(const vtrn_instr *instr) {
    enum { INSTRS_AHEAD = 4, LINE_BYTES = 64 };
    uintptr_t at = (uintptr_t)instr + INSTRS_AHEAD * sizeof *instr;
    for (size_t line = 0; line < sizeof *instr; line += LINE_BYTES)
        __builtin_prefetch((const void *)(at + line));
}

#endif
