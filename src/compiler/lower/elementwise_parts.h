/* Emitting elementwise ops: the table's rows, operands and instruction shapes that they share. */
#ifndef VTRN_COMPILER_LOWER_ELEMENTWISE_PARTS_H
#define VTRN_COMPILER_LOWER_ELEMENTWISE_PARTS_H

#include "compiler/lower/fusion.h"

typedef struct elementwise_op elementwise_op;

/* Emits a node for the tile at hand. */
typedef vtrn_status elementwise_emitter(emit_env *env, const fusion_node *node,
                                        const elementwise_op *op);

/* Which constant operands instructions take from memory. */
typedef enum elementwise_constants {
    ELEMENTWISE_IMMEDIATE, /* none */
    ELEMENTWISE_TILE,      /* all */
    ELEMENTWISE_SELECTED,  /* the first value of a select */
} elementwise_constants;

/* A row of elementwise_ops.def, which says what the fields are. */
struct elementwise_op {
    uint16_t operands, results; /* sets of types */
    elementwise_emitter *emit;
    uint16_t instruction; /* elementwise_engine_of() and elementwise_code_of() it */
    uint8_t n_temps;
    uint8_t constants; /* elementwise_constants */
};

static inline vtrn_engine elementwise_engine_of(const elementwise_op *op) {
    return (vtrn_engine)(op->instruction >> 8);
}

/* vtrn_alu or vtrn_act */
static inline uint8_t elementwise_code_of(const elementwise_op *op) {
    return (uint8_t)op->instruction;
}

/* elementwise_table.c: the row of a node; without one, a row whose emitter fails */
const elementwise_op *elementwise_op_of(const fusion *f, const fusion_node *node);

/* elementwise.c: operands of the node at hand */
bool elementwise_is_exact_int(uint8_t dtype); /* 32-bit integers: exact on GpSimd */
/* An operand that varies along no column of a FULL node: an immediate or one value a row. */
bool elementwise_is_scalar(const fusion *f, const fusion_node *node, int k);
uint8_t elementwise_in_dtype(const fusion *f, const fusion_node *node, int k);
uint32_t elementwise_dst_cols(const emit_env *env, const fusion_node *node);
vtrn_ap elementwise_dst_ap(const emit_env *env, const fusion_node *node);
/* temporary k as a tile of the node's shape */
vtrn_ap elementwise_temp_ap(const emit_env *env, const fusion_node *node, int k, vtrn_dtype dtype);
/* Operand k as an access pattern of elementwise_dst_cols elements a row. */
vtrn_status elementwise_tensor_in(const emit_env *env, const fusion_node *node, int k,
                                  vtrn_ap *out);
/* A row as a per-partition scalar. */
vtrn_ap elementwise_scalar_ap(const tile *row, uint32_t rows);
/* node->direction with a and b */
vtrn_alu elementwise_compare_alu(const fusion_node *node);

/* elementwise.c: one instruction each */
/* dst = a op (imm or row); is_reversed swaps them */
vtrn_status emit_scalar_op(emit_env *env, vtrn_engine engine, vtrn_alu op, const vtrn_ap *dst,
                           const vtrn_ap *a, float imm, const tile *row, bool is_reversed);
vtrn_status emit_fill(emit_env *env, const vtrn_ap *dst, double value);
vtrn_status emit_activate(emit_env *env, vtrn_act func, const vtrn_ap *dst, const vtrn_ap *src,
                          float scale);
/* dst = (a op0 s) op1 b */
vtrn_status emit_scalar_tensor(emit_env *env, const vtrn_ap *dst, const vtrn_ap *a, vtrn_alu op0,
                               float s, vtrn_alu op1, const vtrn_ap *b);
/* dst = a where mask is not 0 (is 0 with is_inverse) */
vtrn_status emit_copy_where(emit_env *env, const vtrn_ap *dst, const vtrn_ap *a,
                            const vtrn_ap *mask, bool is_inverse);

/* elementwise_fold.c: a node with another one folded into it */
vtrn_status elementwise_folded(emit_env *env, const fusion_node *node);

/* The emitters that rows name. elementwise.c: an instruction or two */
elementwise_emitter elementwise_binary, elementwise_compare, elementwise_clamp, elementwise_select,
    elementwise_divide, elementwise_activation, elementwise_negate, elementwise_convert,
    elementwise_is_finite;
/* elementwise_round.c: to integers and to fewer bits */
elementwise_emitter elementwise_round, elementwise_truncate, elementwise_reduce_precision;
/* elementwise_float.c: functions beyond the activation tables */
elementwise_emitter elementwise_expm1, elementwise_log1p, elementwise_cbrt, elementwise_atan2,
    elementwise_total_order;
/* elementwise_trig.c: sine, cosine, tangent */
elementwise_emitter elementwise_wave;
/* elementwise_int.c: integers: division, bit counts, and all arithmetic of narrow types */
elementwise_emitter elementwise_int_wrapping, elementwise_int_with_minus_one,
    elementwise_int_with_zero, elementwise_int_sign, elementwise_int_divide,
    elementwise_int_count_bits, elementwise_int_convert;

#endif
