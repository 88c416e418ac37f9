/* One operand of an elementwise instruction, read or written in chunks of a row, and the frame that
 * such instructions share. */
#ifndef VTRN_ENGINE_LANES_H
#define VTRN_ENGINE_LANES_H

#include "engine/alu_kernels.h"
#include "engine/engine.h"
#include "engine/int_kernels.h"

enum {
    OPERAND_CHUNK = 1024,  /* elements at a time: a few buffers of them stay in the L1 cache */
    OPERAND_LONG_RUN = 64, /* runs at least this long are worked on in place */
    /* rows shorter than this are gathered: many of them make one chunk */
    OPERAND_SHORT_ROW = 64,
    OPERAND_SHORT_DENSE_ROW = 32, /* the same where rows could be worked on as they lie */
    OPERAND_MAX_DIMS = VTRN_MAX_FREE_DIMS + 1, /* one for rows that were joined */
};

typedef struct operand {
    uint8_t *row_0; /* host address of row 0 */
    int64_t row_stride;
    uint64_t n; /* elements a row */
    uint8_t dtype;
    uint8_t n_dims;
    uint16_t size;                  /* bytes an element */
    vtrn_dim dim[OPERAND_MAX_DIMS]; /* merged */
    uint64_t *rng;                  /* stochastic rounding: state of the row; NULL: nearest */
    /* the cursor */
    uint8_t *at;
    uint32_t index[OPERAND_MAX_DIMS];
} operand;

void operand_bind(operand *o, const engine_core *core, const vtrn_ap *ap,
                  const uint64_t *slot_base);
void operand_bind_row(operand *o, const vtrn_ap *ap, uint8_t *row); /* one row at a known place */

static inline void operand_at_row(operand *o, int row) {
    o->at = o->row_0 + row * o->row_stride;
    for (int i = 0; i < OPERAND_MAX_DIMS; i++)
        o->index[i] = 0;
}

static inline int32_t operand_step(const operand *o) {
    return o->dim[o->n_dims - 1].step;
}

/* Elements left of the innermost run. */
static inline size_t operand_run(const operand *o) {
    return o->dim[o->n_dims - 1].num - o->index[o->n_dims - 1];
}

/* The next n elements are one and the same. */
static inline bool operand_is_constant(const operand *o, size_t n) {
    return operand_step(o) == 0 && operand_run(o) >= n;
}

/* How many elements, at most `left`, to work on next so that long runs need no copy. */
size_t operand_chunk(const operand *ops, unsigned mask, uint64_t left);

/* The next n <= OPERAND_CHUNK elements, in the operand's dtype: in place or gathered in buf. Moves
 * on. */
const void *operand_take(operand *o, size_t n, void *buf);
/* As fp32: in place, or converted in buf. */
const float *operand_take_fp32(operand *o, size_t n, float *buf);
/* The next n elements, all the same (operand_is_constant). */
float operand_take_constant_fp32(operand *o, size_t n);
/* As raw bits, zero- or sign-extended to 32. */
const uint32_t *operand_take_bits(operand *o, size_t n, bool sign_extend, uint32_t *buf);

uint32_t operand_take_constant_bits(operand *o, size_t n, bool sign_extend);

/* Where to compute n fp32 results: straight in memory if that is what the operand is, else buf. */
float *operand_room_fp32(const operand *o, size_t n, float *buf);
uint32_t *operand_room_bits(const operand *o, size_t n, uint32_t *buf); /* of 32-bit integers */
/* Writes n results; x may be what operand_room_fp32() gave. Moves on. */
void operand_put_fp32(operand *o, size_t n, const float *x);
void operand_put(operand *o, size_t n, const void *x); /* in the operand's dtype */
/* The low bits of each word. */
void operand_put_bits(operand *o, size_t n, const uint32_t *x);
/* 32-bit integers by value: wrapping into 32-bit integers, else through fp32. */
void operand_put_int(operand *o, size_t n, const uint32_t *x, bool is_unsigned);

/* The frame: chunk after chunk, row after row of a thread's share. */
typedef struct lanes {
    engine_core *core;
    const vtrn_instr *instr;
    const alu_kernels *alu;
    const int_kernels *ints;
    operand op[VTRN_MAX_AP];    /* by operand number */
    float s[VTRN_MAX_AP];       /* [P,1] operands and immediates of this row, fp32 */
    uint32_t bits[VTRN_MAX_AP]; /* the same, raw */
    int partition;              /* of the dst row */
    int row;
    uint64_t from; /* first element of this chunk in its row */
    void *extra;   /* the instruction's own */
    _Alignas(64) float buf[VTRN_MAX_AP][OPERAND_CHUNK];
} lanes;

typedef void (*lanes_fn)(lanes *l, size_t n);

/* Some rows of dense streams, in place or converted. */
typedef struct lanes_rows {
    float *p[VTRN_MAX_AP];       /* by operand: its first row, or a number for each row */
    size_t step[VTRN_MAX_AP];    /* floats from row to row; 0: the same for all rows */
    bool is_number[VTRN_MAX_AP]; /* of a scalar operand, or a stream that repeats one element */
    int first, n_rows;
    size_t n; /* elements a row */
} lanes_rows;

/* Which operands go along with ap[0], and which give one value a row. Bit i is operand i; scalar
 * operand i, when absent, is imm[i - first_imm]. */
typedef struct lanes_spec {
    lanes_fn chunk; /* the next n elements of a row, or of joined rows */
    unsigned streams, scalars;
    int first_imm;
    bool whole_chunks; /* every chunk but the last of a row has OPERAND_CHUNK elements */
    bool sign_extend;  /* of raw scalars */
    void (*row_begin)(lanes *l), (*row_end)(lanes *l); /* may be NULL */
    /* may be NULL: a whole row, or a part of one, when all streams are dense; p[i] are its elements
     * of operand i as fp32, in place or converted */
    void (*dense_row)(lanes *l, float *const p[VTRN_MAX_AP], size_t n);
    /* may be NULL: instead of dense_row where some stream is not fp32: the row as it lies */
    void (*raw_row)(lanes *l, uint8_t *const p[VTRN_MAX_AP], size_t n);
    /* a row is worked on alike whatever its number: short rows may be joined into longer ones */
    bool can_join_rows;
    /* may be NULL: instead of chunk for joined rows of one element, where scalar operands are
     * streams too */
    lanes_fn column;
    /* may be NULL: blocks of rows, where lanes_rows_fit(). numbers: which streams may repeat one
     * element */
    void (*rows)(lanes *l, const lanes_rows *r);
    unsigned numbers;
    bool takes_bits;    /* operands of 4 bytes, as they lie; the function stores the result */
    bool gives_numbers; /* then of any type, otherwise of 4 bytes */
    unsigned of_bytes;  /* streams of a byte an element, which the function takes */
} lanes_spec;

/* Checks that all streams have the shape of ap[0], that scalars are [P,1], then runs. */
vtrn_status lanes_run(engine_core *core, const vtrn_instr *instr, const uint64_t *slot_base,
                      int thread_i, const lanes_spec *spec, void *extra);

/* A shape rule is broken: operand ap_i against what. */
vtrn_status operand_shape_error(const vtrn_instr *instr, int ap_i, const char *rule);

#endif
