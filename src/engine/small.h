/* Instructions of few elements, decoded once: which kernel, where the operands
 * lie, which conversions. They take nanoseconds then, where checking and binding operands would
 * take most of the time. Values are those of the general path, bit for bit. */
#ifndef VTRN_ENGINE_SMALL_H
#define VTRN_ENGINE_SMALL_H

#include "engine/core.h"
#include "engine/pack.h"

enum {
    SMALL_MAX_ELEMENTS = 512, /* of a row that is worked on where it is */
    SMALL_MAX_ALL = 8192,     /* of all rows */
    SMALL_MAX_OUTLINE_ROWS = 16,
    /* Rows of less are gathered into one where there are several of them. */
    SMALL_LEAST_ELEMENTS = 16,
    SMALL_ROWS_AHEAD = 4,    /* rows that are asked for before their turn */
    SMALL_MOST_ASKED = 1024, /* bytes of an operand's row */
};

/* Where memories lie in this execution, by vtrn_space. */
typedef struct small_context {
    uint8_t *base[VTRN_SPACE_HBM + 1];
    const uint64_t *slot_base;
    uint8_t *scratch; /* of the thread */
} small_context;

typedef struct small_op small_op;
typedef void (*small_fn)(const small_op *op, const small_context *c, int row);

typedef void (*small_load)(const void *src, float *dst, size_t n);
typedef void (*small_store)(const float *src, void *dst, size_t n);

/* One of the two operations of an instruction: a kernel of the table that the path belongs to. */
typedef union small_kernel {
    void (*tt)(const float *x, const float *y, float *dst, size_t n);
    void (*ts)(const float *x, float s, float *dst, size_t n);
    void (*itt)(const uint32_t *x, const uint32_t *y, uint32_t *dst, size_t n);
    void (*its)(const uint32_t *x, uint32_t s, uint32_t *dst, size_t n);
    void (*act)(const float *x, float scale, float bias, float slope, float *dst, size_t n);
    void (*unary)(const float *x, float *dst, size_t n);
    void (*select)(const uint32_t *mask, int inverse, const uint32_t *x, uint32_t *dst, size_t n);
    void (*select_by8)(const uint8_t *mask, int inverse, const uint32_t *x, uint32_t *dst,
                       size_t n);
} small_kernel;

struct small_op {
    small_fn run;
    small_kernel kernel[2];       /* of an operand that is packed or a tensor: tt or itt */
    small_load load[VTRN_MAX_AP]; /* by operand; NULL: is fp32, or taken as it is */
    small_store store;            /* NULL likewise */
    int64_t at[VTRN_MAX_AP];      /* from the base of its space, or from its slot */
    int64_t pitch[VTRN_MAX_AP];   /* from row to row */
    uint8_t space[VTRN_MAX_AP];   /* VTRN_SPACE_NONE: the immediate */
    uint8_t n_rows;
    uint8_t flags;
    uint8_t packed;   /* bit i: operand i is gathered, or scattered, by pack[i] */
    uint32_t slot[2]; /* of dst and src in HBM */
    uint32_t n;       /* elements a row; where some operand is packed, of the whole one row */
    uint32_t n_bytes; /* of what is moved as it is */
    union {
        float f[2];
        uint32_t bits[2];
    } imm;
    float slope;
    packing pack[VTRN_MAX_AP]; /* the last: read only where something is packed */
};

/* Asks the caches for the operands' lines of a row. */
static inline void small_ask_for(const small_op *op, const small_context *c, int row) {
    const int64_t n_bytes = op->n < SMALL_MOST_ASKED / 4 ? (int64_t)op->n * 4 : SMALL_MOST_ASKED;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (op->space[i] == VTRN_SPACE_NONE || op->space[i] == VTRN_SPACE_HBM)
            continue;
        const uint8_t *at = c->base[op->space[i]] + op->at[i] + row * op->pitch[i];
        for (int64_t k = 0; k < n_bytes; k += 64)
            __builtin_prefetch(at + k, 1);
    }
}

/* What is to be kept of an op. */
static inline size_t small_bytes(const small_op *op) {
    return op->packed ? sizeof *op : offsetof(small_op, pack);
}

/* All rows. Rows are a partition apart, too far for the host to see the next one coming. */
static inline void small_run(const small_op *op, const small_context *c) {
    for (int row = 0; row < op->n_rows; row++) {
        if (row + SMALL_ROWS_AHEAD < op->n_rows)
            small_ask_for(op, c, row + SMALL_ROWS_AHEAD);
        op->run(op, c, row);
    }
}

/* Work so small that counters and conditions of loops may be what it computes. */
static inline bool small_is_for_outline(const small_op *op) {
    return !op->packed && op->n_rows <= SMALL_MAX_OUTLINE_ROWS;
}

/* may_cross: it may write in HBM what it reads there as others. False: the instruction needs the
 * general path, which also says what is wrong with it. */
bool small_decode(const vtrn_chip *chip, const vtrn_instr *instr, bool may_cross, small_op *out);

small_context small_context_of(const engine_core *core, const uint64_t *slot_base);

#endif
