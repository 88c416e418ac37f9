/* One elementwise instruction of a chain: which kernel it is, on which registers. See chain.h. */
#ifndef VTRN_ENGINE_CHAIN_OP_H
#define VTRN_ENGINE_CHAIN_OP_H

#include "engine/small.h"

enum {
    CHAIN_MAX_REGISTERS = 24,
    CHAIN_MAX_ELEMENTS = 1024, /* of a register */
    /* Rows of so many elements and more have their own call where an operand is a number a row. */
    CHAIN_LEAST_ROW = 128,
    CHAIN_VECTOR = 16,
    CHAIN_NONE = 0xff,
};

/* A block of rows while the chain works on it: n_rows rows of row_n elements, n together. Of
 * registers that are not memory, n is a multiple of CHAIN_VECTOR, so that kernels work on whole
 * vectors: no instruction uses the elements beyond the rows. */
typedef struct chain_frame {
    void *reg[CHAIN_MAX_REGISTERS];
    float *buffer[VTRN_MAX_AP]; /* for conversions, of CHAIN_MAX_ELEMENTS */
    float *between;             /* what the first operation of an instruction gives the second */
    const small_load *load;     /* by dtype */
    const small_store *store;
    size_t n, n_rows, row_n;
} chain_frame;

typedef struct chain_op chain_op;
struct chain_op {
    void (*run)(const chain_op *op, const chain_frame *f);
    small_kernel kernel[2];
    /* The register of each operand; CHAIN_NONE: it is immediate, or there is none. An operand that
     * is a number a row has a register of n_rows elements where has_numbers, else the number of
     * each row over and over. */
    uint8_t reg[VTRN_MAX_AP];
    uint8_t dtype[VTRN_MAX_AP];
    uint8_t flags; /* VTRN_FLAG_REVERSE0 and 1 */
    bool has_numbers;
    small_load
        numbers; /* of integers, for a dst of another type; NULL: it takes them as they are */
    union {
        float f[2];
        uint32_t bits[2];
    } imm;
    float slope;
};

/* Operands of an instruction that a chain may have: bit i of streams for a tensor of the shape of
 * ap[0], of scalars for a number a row that is in memory. */
typedef struct chain_operands {
    unsigned streams, scalars;
} chain_operands;

/* Decodes all but the registers. False: no chain has such an instruction. */
bool chain_decode(const vtrn_instr *instr, chain_op *out, chain_operands *operands);

#endif
