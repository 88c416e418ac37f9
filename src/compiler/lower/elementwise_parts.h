/* Emitting elementwise ops: operands and instruction shapes that all kinds of them share. */
#ifndef VTRN_COMPILER_LOWER_ELEMENTWISE_PARTS_H
#define VTRN_COMPILER_LOWER_ELEMENTWISE_PARTS_H

#include "compiler/lower/fusion.h"

/* --- elementwise.c: operands of the node at hand --- */
bool elementwise_is_exact_int(uint8_t dtype); /* 32-bit integers: exact on GpSimd */
uint8_t elementwise_in_dtype(const fusion *f, const fusion_node *node, int k);
uint32_t elementwise_dst_cols(const emit_env *env, const fusion_node *node);
vtrn_ap elementwise_dst_ap(const emit_env *env, const fusion_node *node);
/* temporary k as a tile of the node's shape */
vtrn_ap elementwise_temp_ap(const emit_env *env, const fusion_node *node, int k, vtrn_dtype dtype);
/* Operand k as an access pattern of elementwise_dst_cols elements a row. */
vtrn_status elementwise_tensor_in(const emit_env *env, const fusion_node *node, int k,
                                  vtrn_ap *out);

/* --- elementwise.c: one instruction each --- */
/* node->direction with a and b */
vtrn_alu elementwise_compare_alu(const fusion_node *node);
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

/* --- elementwise_int.c: integers: division, bit counts, and all arithmetic of narrow types --- */
bool elementwise_int_supports(graph_kind kind, uint8_t in, uint8_t out);
bool elementwise_int_owns(const fusion *f, const fusion_node *node);
int elementwise_int_n_temps(const fusion *f, const fusion_node *node);
vtrn_status elementwise_int_emit(emit_env *env, const fusion_node *node);

/* --- elementwise_float.c: functions beyond the activation tables --- */
bool elementwise_float_supports(graph_kind kind, uint8_t dtype);
int elementwise_float_n_temps(graph_kind kind); /* 0: not one of them */
/* A comparison in the total order of floats: -NaN, -inf, ..., -0, 0, ..., inf, NaN. */
enum { ELEMENTWISE_TOTAL_ORDER_TEMPS = 3 };
bool elementwise_is_total_order(const fusion_node *node);
vtrn_status elementwise_float_emit(emit_env *env, const fusion_node *node);

/* --- elementwise_trig.c: sine, cosine, tangent of an operand of dtype --- */
bool elementwise_is_trig(graph_kind kind);
int elementwise_trig_n_temps(uint8_t dtype);
vtrn_status elementwise_trig_emit(emit_env *env, const fusion_node *node);

#endif
