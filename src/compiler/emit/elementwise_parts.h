/* Emitting elementwise ops: operands and instruction shapes that they share. */
#ifndef VTRN_COMPILER_EMIT_ELEMENTWISE_PARTS_H
#define VTRN_COMPILER_EMIT_ELEMENTWISE_PARTS_H

#include "compiler/emit/emitter.h"
#include "compiler/plan/elementwise_table.h"

/* Where a node is emitted: the tile at hand. */
typedef struct emit_env {
    emitter *e;
    fusion *f;
    uint32_t rows, cols;
    uint32_t col0;   /* first column, for COL operands */
    uint32_t n_side; /* batches side by side in the tile (sides.h); 0: a tile has one */
    uint32_t first;  /* column of the tiles with which the columns at hand begin */
    tile temps[ELEMENTWISE_MAX_TEMPS];
    const fusion_const *consts;
    int n_consts;
} emit_env;

/* The tile of a constant that the fusion was planned with. */
vtrn_status elementwise_const_tile(const emit_env *env, double value, uint8_t dtype,
                                   const tile **out);

/* Emits one op node for the tile at hand. */
vtrn_status elementwise_emit(emit_env *env, const fusion_node *node);

/* Emits a node for the tile at hand. */
typedef vtrn_status elementwise_emitter(emit_env *env, const fusion_node *node,
                                        const elementwise_op *op);

/* elementwise.c: operands of the node at hand */
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
vtrn_status emit_fill(emit_env *env, const vtrn_ap *dst, double value);
vtrn_status emit_activate(emit_env *env, vtrn_act func, const vtrn_ap *dst, const vtrn_ap *src,
                          float scale);
/* dst = (a first) op b */
vtrn_status emit_scalar_tensor(emit_env *env, const vtrn_ap *dst, const vtrn_ap *a, step_op first,
                               vtrn_alu op, const vtrn_ap *b);
/* dst = a where mask is not 0 (is 0 with is_inverse) */
vtrn_status emit_copy_where(emit_env *env, const vtrn_ap *dst, const vtrn_ap *a,
                            const vtrn_ap *mask, bool is_inverse);

/* elementwise_quotient.c: ap[0] = ap[1] / ap[2] within 0.63 ulp; ap[0] is neither of the others.
 * Takes five temporaries from number first_temp on. Of numerators below 2^-119 the quotient is
 * within 1.3 ulp, by divisors outside of 2^-126 to 2^126 it has fewer bits. *lost, one of the
 * temporaries, is what the quotient has beyond ap[0]. */
vtrn_status elementwise_quotient(emit_env *env, const fusion_node *node, const vtrn_ap ap[3],
                                 int first_temp, vtrn_ap *lost);
/* The same of all numbers, with the first seven temporaries. */
vtrn_status elementwise_quotient_of_any(emit_env *env, const fusion_node *node,
                                        const vtrn_ap ap[3]);

/* A node with another one folded into it */
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
