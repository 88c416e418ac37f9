/* Elementwise ops that take the engines an instruction or two, and what emitting any of them
 * shares: operands as access patterns, constants, single instructions. */
#include "compiler/emit/elementwise_parts.h"
#include "compiler/plan/fusion_fold.h"

#include <math.h>
#include <string.h>

uint32_t elementwise_dst_cols(const emit_env *env, const fusion_node *node) {
    return node->shape != NODE_ROW ? env->cols : env->n_side ? env->n_side : 1;
}

static vtrn_ap stretched(const tile *t, uint32_t rows, uint32_t cols) {
    vtrn_ap ap = tile_ap(t, rows, cols);
    if (cols > 1)
        ap.dim[0].step = 0;
    return ap;
}

/* What has fewer dims than a tile with batches side by side: a value for each batch, or for each of
 * a batch's columns. */
static vtrn_ap spread_over_batches(const emit_env *env, const tile *t, bool is_row) {
    uint32_t n_cols = env->cols / env->n_side;
    vtrn_ap ap = tile_ap(t, env->rows, n_cols);
    ap.n_dims = 2;
    ap.dim[0] = (vtrn_dim){is_row, env->n_side};
    ap.dim[1] = (vtrn_dim){!is_row, n_cols};
    return ap;
}

static bool is_spread(const emit_env *env, const fusion_node *node, const fusion_node *in) {
    return env->n_side && node->shape != NODE_ROW &&
           (in->shape == NODE_COL || (in->shape == NODE_ROW && !in->is_hoisted));
}

vtrn_status elementwise_const_tile(const emit_env *env, double value, uint8_t dtype,
                                   const tile **out) {
    for (int i = 0; i < env->n_consts; i++)
        if (fusion_const_is(&env->consts[i], value, dtype)) {
            *out = &env->consts[i].t;
            return NULL;
        }
    return VTRN_ERROR(VTRN_CAPACITY, "a fusion needs more than %d constants in SBUF",
                      FUSION_MAX_CONSTS);
}

vtrn_status elementwise_tensor_in(const emit_env *env, const fusion_node *node, int k,
                                  vtrn_ap *out) {
    uint32_t cols = elementwise_dst_cols(env, node);
    if (node->in[k].node < 0) {
        const tile *t = NULL;
        VTRN_RETURN_IF_ERROR(elementwise_const_tile(env, node->in[k].imm,
                                                    elementwise_in_dtype(env->f, node, k), &t));
        *out = stretched(t, env->rows, cols);
        return NULL;
    }
    const fusion_node *in = &env->f->nodes[node->in[k].node];
    bool is_sums = in->shape == NODE_FULL && in->op == FUSION_CONTRACT && in->is_folded;
    bool is_row_of_each = in->shape == NODE_ROW && env->n_side && !in->is_hoisted;
    if (is_spread(env, node, in))
        *out = spread_over_batches(env, &in->t, in->shape == NODE_ROW);
    else if (is_row_of_each || is_sums) /* of the columns at hand: rows of batches, sums in PSUM */
        *out = tile_ap(&in->t, env->rows, cols);
    else if (in->shape == NODE_ROW)
        *out = stretched(&in->t, env->rows, cols);
    else if (in->shape == NODE_COL)
        *out = tile_ap_cols(&in->t, env->rows, env->col0 + env->first, cols);
    else
        *out = tile_ap_cols(&in->t, env->rows, env->first, cols);
    return NULL;
}

vtrn_ap elementwise_dst_ap(const emit_env *env, const fusion_node *node) {
    uint32_t first = node->shape == NODE_ROW ? 0 : env->first;
    return tile_ap_cols(&node->t, env->rows, first, elementwise_dst_cols(env, node));
}

vtrn_ap elementwise_temp_ap(const emit_env *env, const fusion_node *node, int k, vtrn_dtype dtype) {
    tile t = env->temps[k];
    t.dtype = (uint8_t)dtype;
    return tile_ap(&t, env->rows, elementwise_dst_cols(env, node));
}

vtrn_ap elementwise_scalar_ap(const tile *row, uint32_t rows) {
    tile wide = fusion_row_is_widened(row) ? fusion_wide_row(row) : *row;
    return tile_ap(&wide, rows, 1);
}

/* An immediate, or one value a row. */
typedef struct scalar_operand {
    float imm;
    const tile *row; /* NULL: imm */
    bool is_left;    /* of the operation */
} scalar_operand;

static vtrn_status row_op(emit_env *env, vtrn_engine engine, vtrn_alu op, const vtrn_ap *dst,
                          const vtrn_ap *a, const scalar_operand *s) {
    vtrn_instr *instr = emit_append(env->e, VTRN_OP_TENSOR_SCALAR, engine);
    if (!instr)
        return VTRN_OUT_OF_MEMORY(sizeof *instr);
    instr->op0 = (uint8_t)op;
    instr->ap[0] = *dst;
    instr->ap[1] = *a;
    instr->imm[0].f = s->imm;
    if (s->row)
        instr->ap[2] = elementwise_scalar_ap(s->row, env->rows);
    instr->flags = s->is_left ? VTRN_FLAG_REVERSE0 : 0;
    return NULL;
}

vtrn_status emit_fill(emit_env *env, const vtrn_ap *dst, double value) {
    EMIT(instr, env->e, MEMSET, VECTOR);
    instr->ap[0] = *dst;
    if (elementwise_is_exact_int(dst->dtype))
        instr->imm[0].bits = (uint32_t)(int64_t)value;
    else
        instr->imm[0].f = (float)value;
    return NULL;
}

/* The function's table is there before the next activation. */
static vtrn_status load_table(emit_env *env, vtrn_act func) {
    int set = isa_act_table_set(func);
    if (set == 0 || env->e->act_table == set)
        return NULL;
    EMIT(load, env->e, ACT_TABLE_LOAD, SCALAR);
    load->arg[0] = set;
    env->e->act_table = (uint8_t)set;
    return NULL;
}

vtrn_status emit_activate(emit_env *env, vtrn_act func, const vtrn_ap *dst, const vtrn_ap *src,
                          float scale) {
    VTRN_RETURN_IF_ERROR(load_table(env, func));
    EMIT(instr, env->e, ACTIVATE, SCALAR);
    instr->func = (uint8_t)func;
    instr->ap[0] = *dst;
    instr->ap[1] = *src;
    instr->imm[0].f = scale;
    instr->imm[1].f = -0.0f; /* the one bias that keeps the sign of a zero */
    return NULL;
}

vtrn_status emit_scalar_tensor(emit_env *env, const vtrn_ap *dst, const vtrn_ap *a, step_op first,
                               vtrn_alu op, const vtrn_ap *b) {
    EMIT(instr, env->e, SCALAR_TENSOR_TENSOR, VECTOR);
    instr->op0 = (uint8_t)first.alu;
    instr->op1 = (uint8_t)op;
    instr->ap[0] = *dst;
    instr->ap[1] = *a;
    instr->imm[0].bits = first.operand.bits;
    instr->ap[3] = *b;
    return NULL;
}

vtrn_status emit_copy_where(emit_env *env, const vtrn_ap *dst, const vtrn_ap *a,
                            const vtrn_ap *mask, bool is_inverse) {
    EMIT(instr, env->e, COPY_PREDICATED, VECTOR);
    instr->ap[0] = *dst;
    instr->ap[1] = *a;
    instr->ap[2] = *mask;
    instr->flags = is_inverse ? VTRN_FLAG_REVERSE0 : 0;
    return NULL;
}

/* Whether a product is the square of a tile of floats. */
static bool is_square(const emit_env *env, const fusion_node *node, vtrn_alu alu) {
    int k = node->in[0].node;
    return alu == VTRN_ALU_MULTIPLY && k >= 0 && k == node->in[1].node &&
           node->shape == NODE_FULL && dtype_is_float((vtrn_dtype)node->dtype) &&
           dtype_is_float((vtrn_dtype)env->f->nodes[k].dtype);
}

/* dst = a alu b of integers, at most one of which is a constant that is no tile. */
static vtrn_status emit_binary_bits(emit_env *env, const fusion_node *node, vtrn_engine engine,
                                    vtrn_alu alu) {
    vtrn_ap dst = elementwise_dst_ap(env, node), a, b;
    int second = node->in[1].node < 0 ? 1 : node->in[0].node < 0 ? 0 : 1, first = 1 - second;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, first, &a));
    if (node->in[second].node >= 0) {
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, second, &b));
        return emit_tensor_tensor(env->e, engine, alu, &dst, &a, &b);
    }
    vtrn_instr *instr = emit_append(env->e, VTRN_OP_TENSOR_SCALAR, engine);
    if (!instr)
        return VTRN_OUT_OF_MEMORY(sizeof *instr);
    instr->op0 = (uint8_t)alu;
    instr->ap[0] = dst;
    instr->ap[1] = a;
    instr->imm[0].bits = (uint32_t)(int64_t)node->in[second].imm;
    instr->flags = second == 0 ? VTRN_FLAG_REVERSE0 : 0;
    return NULL;
}

/* dst = a alu b, whatever the operands are. */
static vtrn_status emit_binary(emit_env *env, const fusion_node *node, const elementwise_op *op,
                               vtrn_alu alu) {
    vtrn_ap dst = elementwise_dst_ap(env, node), a, b;
    const fusion *f = env->f;
    vtrn_engine engine = elementwise_engine_of(op);
    bool is_row = node->shape == NODE_ROW;
    if (op->constants == ELEMENTWISE_BITS)
        return emit_binary_bits(env, node, engine, alu);
    bool a_is_scalar = elementwise_is_scalar(f, node, 0) && !(is_row && node->in[0].node >= 0);
    bool b_is_scalar = elementwise_is_scalar(f, node, 1) && !(is_row && node->in[1].node >= 0);
    if (op->constants == ELEMENTWISE_TILE || (!a_is_scalar && !b_is_scalar)) {
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &a));
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 1, &b));
        if (is_square(env, node, alu) && emit_lighter_engine(env->e) == VTRN_ENGINE_SCALAR)
            return emit_activate(env, VTRN_ACT_SQUARE, &dst, &a, 1);
        return emit_tensor_tensor(env->e, engine, alu, &dst, &a, &b);
    }
    int scalar = b_is_scalar ? 1 : 0, tensor = 1 - scalar;
    if (node->in[tensor].node < 0 && node->in[scalar].node >= 0) {
        scalar = tensor; /* of a number and a row, dst's type may not hold the number */
        tensor = 1 - scalar;
    }
    const fusion_in *s = &node->in[scalar];
    const tile *row = s->node >= 0 ? &f->nodes[s->node].t : NULL;
    if (node->in[tensor].node < 0) { /* both immediates */
        VTRN_RETURN_IF_ERROR(emit_fill(env, &dst, node->in[tensor].imm));
        a = dst;
    } else {
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, tensor, &a));
    }
    if (alu == VTRN_ALU_MULTIPLY && dtype_is_float(a.dtype) && dtype_is_float(dst.dtype)) {
        vtrn_ap factor = row ? elementwise_scalar_ap(row, env->rows) : a;
        return emit_scaled(env->e, &dst, &a, (float)s->imm, row ? &factor : NULL);
    }
    return row_op(env, engine, alu, &dst, &a, &(scalar_operand){(float)s->imm, row, scalar == 0});
}

vtrn_status elementwise_binary(emit_env *env, const fusion_node *node, const elementwise_op *op) {
    return emit_binary(env, node, op, (vtrn_alu)elementwise_code_of(op));
}

vtrn_alu elementwise_compare_alu(const fusion_node *node) {
    static const uint8_t alu[] = {[GRAPH_EQ] = VTRN_ALU_IS_EQUAL, [GRAPH_NE] = VTRN_ALU_NOT_EQUAL,
                                  [GRAPH_GE] = VTRN_ALU_IS_GE,    [GRAPH_GT] = VTRN_ALU_IS_GT,
                                  [GRAPH_LE] = VTRN_ALU_IS_LE,    [GRAPH_LT] = VTRN_ALU_IS_LT};
    return (vtrn_alu)alu[node->direction];
}

vtrn_status elementwise_compare(emit_env *env, const fusion_node *node, const elementwise_op *op) {
    return emit_binary(env, node, op, elementwise_compare_alu(node));
}

/* With batches side by side: what the reciprocal is taken of, a divisor of one value a row once. */
static vtrn_status whole_divisor(const emit_env *env, const fusion_node *node,
                                 const fusion_node *divisor, vtrn_ap *from) {
    if (divisor->shape != NODE_ROW)
        return elementwise_tensor_in(env, node, 1, from);
    *from = tile_ap(&divisor->t, env->rows, divisor->is_hoisted ? 1 : env->n_side);
    if (divisor->is_hoisted)
        from->dim[0] = (vtrn_dim){0, env->n_side};
    return NULL;
}

/* No engine divides: multiply by the reciprocal, mended where the plan says so. */
vtrn_status elementwise_divide(emit_env *env, const fusion_node *node, const elementwise_op *op) {
    (void)op;
    vtrn_ap dst = elementwise_dst_ap(env, node), a;
    const fusion_in *num = &node->in[0], *den = &node->in[1];
    if (den->node < 0) {
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &a));
        return emit_scalars(env->e, VTRN_ENGINE_VECTOR, &dst, &a,
                            STEP(MULTIPLY, (float)(1.0 / den->imm)), STEP_NONE);
    }
    if (node->is_exact) {
        vtrn_ap ap[3] = {dst};
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &ap[1]));
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 1, &ap[2]));
        return elementwise_quotient_of_any(env, node, ap);
    }
    const fusion_node *divisor = &env->f->nodes[den->node];
    tile inverse = env->temps[0];
    inverse.dtype = VTRN_DTYPE_FP32;
    uint32_t inverse_cols = elementwise_dst_cols(env, divisor->shape == NODE_ROW ? divisor : node);
    vtrn_ap to = tile_ap(&inverse, env->rows, inverse_cols), from;
    if (env->n_side)
        VTRN_RETURN_IF_ERROR(whole_divisor(env, node, divisor, &from));
    else
        from = divisor->shape == NODE_COL
                   ? tile_ap_cols(&divisor->t, env->rows, env->col0, inverse_cols)
                   : tile_ap(&divisor->t, env->rows, inverse_cols);
    bool is_inverse =
        num->node < 0 && num->imm == 1 && inverse_cols == elementwise_dst_cols(env, node);
    EMIT(reciprocal, env->e, RECIPROCAL, VECTOR);
    reciprocal->ap[0] = is_inverse ? dst : to;
    reciprocal->ap[1] = from;
    if (is_inverse)
        return NULL;
    vtrn_ap factor = stretched(&inverse, env->rows, elementwise_dst_cols(env, node));
    if (is_spread(env, node, divisor) && divisor->shape == NODE_ROW)
        factor = spread_over_batches(env, &inverse, true);
    else if (inverse_cols > 1)
        factor = to;
    if (num->node < 0)
        return emit_scalars(env->e, VTRN_ENGINE_VECTOR, &dst, &factor,
                            STEP(MULTIPLY, (float)num->imm), STEP_NONE);
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &a));
    if (inverse_cols == 1 && !env->n_side)
        return emit_scaled(env->e, &dst, &a, 0, &to);
    return emit_tensor_tensor(env->e, VTRN_ENGINE_VECTOR, VTRN_ALU_MULTIPLY, &dst, &a, &factor);
}

/* Operand k in the result's tile, which may be its own. */
static vtrn_status lay_under(emit_env *env, const fusion_node *node, int k) {
    vtrn_ap dst = elementwise_dst_ap(env, node), from;
    if (node->in[k].node < 0)
        return emit_fill(env, &dst, node->in[k].imm);
    const tile *t = &env->f->nodes[node->in[k].node].t;
    if (node->reuses == k && t->space == node->t.space && t->addr == node->t.addr)
        return NULL;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, k, &from));
    return emit_copy(env->e, &dst, &from);
}

vtrn_status elementwise_select(emit_env *env, const fusion_node *node, const elementwise_op *op) {
    (void)op;
    vtrn_ap dst = elementwise_dst_ap(env, node), pred, value;
    if (node->in[0].node < 0) { /* a constant predicate */
        int k = node->in[0].imm != 0 ? 1 : 2;
        if (node->in[k].node < 0)
            return emit_fill(env, &dst, node->in[k].imm);
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, k, &value));
        return emit_copy(env->e, &dst, &value);
    }
    int under = node->reuses ? node->reuses : 2, over = 3 - under;
    VTRN_RETURN_IF_ERROR(lay_under(env, node, under));
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &pred));
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, over, &value));
    return emit_copy_where(env, &dst, &value, &pred, over == 2);
}

/* clamp(low, x, high): two steps, the second in place. */
vtrn_status elementwise_clamp(emit_env *env, const fusion_node *node, const elementwise_op *op) {
    fusion_node step = *node;
    step.n_in = 2;
    step.in[0] = node->in[1];
    step.in[1] = node->in[0];
    VTRN_RETURN_IF_ERROR(emit_binary(env, &step, op, VTRN_ALU_MAX));
    vtrn_engine engine = elementwise_engine_of(op);
    vtrn_ap dst = elementwise_dst_ap(env, node), high;
    const fusion_in *h = &node->in[2];
    if (h->node < 0 && op->constants == ELEMENTWISE_IMMEDIATE)
        return emit_scalars(env->e, engine, &dst, &dst, STEP(MIN, (float)h->imm), STEP_NONE);
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 2, &high));
    return emit_tensor_tensor(env->e, engine, VTRN_ALU_MIN, &dst, &dst, &high);
}

/* A conversion that an engine does right as it stores the result. */
vtrn_status elementwise_convert(emit_env *env, const fusion_node *node, const elementwise_op *op) {
    (void)op;
    vtrn_ap dst = elementwise_dst_ap(env, node), src;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &src));
    if (elementwise_is_exact_int(dst.dtype) && elementwise_is_exact_int(src.dtype))
        src.dtype = dst.dtype; /* the same bits, whatever the sign */
    if (dtype_is_float(src.dtype) && dtype_is_float(dst.dtype))
        return emit_scaled(env->e, &dst, &src, 1, NULL);
    return emit_copy(env->e, &dst, &src);
}

static bool is_minus_zero(double x) {
    return x == 0 && signbit(x);
}

/* Scale and bias as the instruction takes them: the number, or one value a row. A bias is a number
 * only where it is -0, which changes nothing. */
static vtrn_status set_affine(const emit_env *env, const folded_activation *a, vtrn_instr *instr) {
    const fusion *f = env->f;
    instr->imm[0].f = (float)a->scale.imm;
    instr->imm[1].f = -0.0f;
    if (a->scale.node >= 0)
        instr->ap[2] = elementwise_scalar_ap(&f->nodes[a->scale.node].t, env->rows);
    if (a->bias.node >= 0) {
        const tile *row = &f->nodes[a->bias.node].t;
        tile negative = fusion_negative_row(row);
        instr->ap[3] = a->is_minus_bias ? tile_ap(&negative, env->rows, 1)
                                        : elementwise_scalar_ap(row, env->rows);
    } else if (!is_minus_zero(a->bias.imm)) {
        const tile *number = NULL;
        VTRN_RETURN_IF_ERROR(elementwise_const_tile(env, a->bias.imm, VTRN_DTYPE_FP32, &number));
        instr->ap[3] = tile_ap(number, env->rows, 1);
    }
    return NULL;
}

static vtrn_status emit_activation(emit_env *env, const fusion_node *node, vtrn_act func) {
    folded_activation a = fold_activation_of(env->f, node);
    vtrn_ap dst = elementwise_dst_ap(env, node), src;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, a.reader, a.operand, &src));
    VTRN_RETURN_IF_ERROR(load_table(env, func));
    EMIT(instr, env->e, ACTIVATE, SCALAR);
    instr->func = (uint8_t)func;
    instr->ap[0] = dst;
    instr->ap[1] = src;
    if (node->sum >= 0 && env->f->nodes[node->sum].is_in_pass)
        instr->flags = VTRN_FLAG_ACCUMULATE | VTRN_FLAG_RESET;
    return set_affine(env, &a, instr);
}

vtrn_status elementwise_activation(emit_env *env, const fusion_node *node,
                                   const elementwise_op *op) {
    return emit_activation(env, node, (vtrn_act)elementwise_code_of(op));
}

vtrn_status elementwise_negate(emit_env *env, const fusion_node *node, const elementwise_op *op) {
    (void)op;
    vtrn_ap dst = elementwise_dst_ap(env, node), src;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &src));
    return emit_scalars(env->e, VTRN_ENGINE_VECTOR, &dst, &src, STEP(MULTIPLY, -1), STEP_NONE);
}

/* x - x is 0 for finite x only. */
vtrn_status elementwise_is_finite(emit_env *env, const fusion_node *node,
                                  const elementwise_op *op) {
    (void)op;
    vtrn_ap dst = elementwise_dst_ap(env, node), src;
    vtrn_ap zero = elementwise_temp_ap(env, node, 0, VTRN_DTYPE_FP32);
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &src));
    VTRN_RETURN_IF_ERROR(
        emit_tensor_tensor(env->e, VTRN_ENGINE_VECTOR, VTRN_ALU_SUBTRACT, &zero, &src, &src));
    return emit_scalars(env->e, VTRN_ENGINE_VECTOR, &dst, &zero, STEP(IS_EQUAL, 0), STEP_NONE);
}

/* (x op0 s0) op1 s1 or (x op0 s0) op1 tile in one instruction. */
vtrn_status elementwise_folded(emit_env *env, const fusion_node *node) {
    const fusion *f = env->f;
    const fusion_node *in = &f->nodes[node->in[node->folds].node];
    int scalar0 = elementwise_is_scalar(f, in, 0) ? 0 : 1, other = 1 - node->folds;
    const fusion_in *s0 = &in->in[scalar0], *s1 = &node->in[other];
    bool is_scalar = elementwise_is_scalar(f, node, other);
    vtrn_ap dst = elementwise_dst_ap(env, node), x, y = {0};
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, in, 1 - scalar0, &x));
    if (!is_scalar)
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, other, &y));
    vtrn_instr *instr =
        emit_append(env->e, is_scalar ? VTRN_OP_TENSOR_SCALAR : VTRN_OP_SCALAR_TENSOR_TENSOR,
                    VTRN_ENGINE_VECTOR);
    if (!instr)
        return VTRN_OUT_OF_MEMORY(sizeof *instr);
    instr->op0 = elementwise_code_of(elementwise_op_of(f, in));
    instr->op1 = elementwise_code_of(elementwise_op_of(f, node));
    instr->flags = (scalar0 == 0 ? VTRN_FLAG_REVERSE0 : 0) | (other == 0 ? VTRN_FLAG_REVERSE1 : 0);
    instr->ap[0] = dst;
    instr->ap[1] = x;
    instr->imm[0].f = (float)s0->imm;
    if (s0->node >= 0)
        instr->ap[2] = elementwise_scalar_ap(&f->nodes[s0->node].t, env->rows);
    if (!is_scalar) {
        instr->ap[3] = y;
        return NULL;
    }
    instr->imm[1].f = (float)s1->imm;
    if (s1->node >= 0)
        instr->ap[3] = elementwise_scalar_ap(&f->nodes[s1->node].t, env->rows);
    return NULL;
}

vtrn_status elementwise_emit(emit_env *env, const fusion_node *node) {
    static elementwise_emitter *const emitters[] = {
#define EMITTER(id, name) [ELEMENTWISE_BY_##id] = elementwise_##name,
#include "compiler/plan/elementwise_emitters.def"
#undef EMITTER
    };
    const elementwise_op *op = elementwise_op_of(env->f, node);
    if (node->is_square)
        return emit_activation(env, node, VTRN_ACT_SQUARE);
    if (node->folds >= 0 && op->emitter != ELEMENTWISE_BY_ACTIVATION)
        return elementwise_folded(env, node);
    VTRN_CHECK(op->operands, "a node's op has a row in elementwise_ops.def");
    return emitters[op->emitter](env, node, op);
}
