/* Elementwise ops -> engine instructions. */
#include "compiler/lower/elementwise_parts.h"

#include <string.h>

bool elementwise_is_exact_int(uint8_t dtype) {
    return dtype == VTRN_DTYPE_INT32 || dtype == VTRN_DTYPE_UINT32;
}

static bool act_of(graph_kind kind, vtrn_act *out) {
    static const struct {
        uint16_t kind, act;
    } table[] = {
        {GRAPH_EXPONENTIAL, VTRN_ACT_EXP}, {GRAPH_LOG, VTRN_ACT_LOG},
        {GRAPH_TANH, VTRN_ACT_TANH},       {GRAPH_LOGISTIC, VTRN_ACT_SIGMOID},
        {GRAPH_ERF, VTRN_ACT_ERF},         {GRAPH_SQRT, VTRN_ACT_SQRT},
        {GRAPH_RSQRT, VTRN_ACT_RSQRT},     {GRAPH_SIGN, VTRN_ACT_SIGN},
        {GRAPH_ABS, VTRN_ACT_ABS},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (table[i].kind == kind) {
            *out = (vtrn_act)table[i].act;
            return true;
        }
    return false;
}

vtrn_alu elementwise_alu(graph_kind kind, uint8_t dtype) {
    bool is_pred = dtype == VTRN_DTYPE_PRED;
    bool is_arith = dtype_is_float(dtype) || elementwise_is_exact_int(dtype);
    switch (kind) {
    case GRAPH_ADD:
        return is_pred ? VTRN_ALU_LOGICAL_OR : is_arith ? VTRN_ALU_ADD : VTRN_ALU_NONE;
    case GRAPH_SUBTRACT:
        return is_arith ? VTRN_ALU_SUBTRACT : VTRN_ALU_NONE;
    case GRAPH_MULTIPLY:
        return is_pred ? VTRN_ALU_LOGICAL_AND : is_arith ? VTRN_ALU_MULTIPLY : VTRN_ALU_NONE;
    case GRAPH_MAXIMUM:
        return is_pred ? VTRN_ALU_LOGICAL_OR : VTRN_ALU_MAX;
    case GRAPH_MINIMUM:
        return is_pred ? VTRN_ALU_LOGICAL_AND : VTRN_ALU_MIN;
    case GRAPH_AND:
        return is_pred ? VTRN_ALU_LOGICAL_AND : VTRN_ALU_BITWISE_AND;
    case GRAPH_OR:
        return is_pred ? VTRN_ALU_LOGICAL_OR : VTRN_ALU_BITWISE_OR;
    case GRAPH_XOR:
        return is_pred ? VTRN_ALU_LOGICAL_XOR : VTRN_ALU_BITWISE_XOR;
    case GRAPH_SHIFT_LEFT:
        return elementwise_is_exact_int(dtype) ? VTRN_ALU_SHIFT_LEFT : VTRN_ALU_NONE;
    case GRAPH_SHIFT_RIGHT_LOGICAL:
        return elementwise_is_exact_int(dtype) ? VTRN_ALU_SHIFT_RIGHT_LOGICAL : VTRN_ALU_NONE;
    case GRAPH_SHIFT_RIGHT_ARITHMETIC:
        return dtype == VTRN_DTYPE_INT32 ? VTRN_ALU_SHIFT_RIGHT_ARITH : VTRN_ALU_NONE;
    case GRAPH_DIVIDE:
        return dtype_is_float(dtype) ? VTRN_ALU_MULTIPLY : VTRN_ALU_NONE;
    case GRAPH_POWER:
        return dtype_is_float(dtype) ? VTRN_ALU_POWER : VTRN_ALU_NONE;
    default:
        return VTRN_ALU_NONE;
    }
}

static bool convert_is_exact(vtrn_dtype from, vtrn_dtype to) {
    if (from == to || to == VTRN_DTYPE_PRED)
        return true;
    if (dtype_is_float(to))
        return true;
    if (dtype_is_float(from)) /* truncated by emit_truncate() */
        return true;
    bool is_wide = to == VTRN_DTYPE_INT32 || to == VTRN_DTYPE_UINT32;
    return is_wide && (from == VTRN_DTYPE_PRED || elementwise_is_exact_int(from) ||
                       dtype_is_unsigned_int(from) || to == VTRN_DTYPE_INT32);
}

bool elementwise_supports(const lower *l, const graph_op *op) {
    vtrn_dtype unused;
    if (op->n_results != 1 || op->n_operands == 0 || op->n_operands > 3)
        return false;
    const graph_type *result = &l->g->types[op->results[0]];
    uint8_t in = l->g->types[op->operands[0]].dtype;
    if (!fusion_tile_dtype(result->dtype, &unused))
        return false;
    for (uint32_t i = 0; i < op->n_operands; i++)
        if (!fusion_tile_dtype(l->g->types[op->operands[i]].dtype, &unused))
            return false;
    vtrn_act act;
    if (elementwise_int_supports((graph_kind)op->kind, in, result->dtype) ||
        elementwise_float_supports((graph_kind)op->kind, in) ||
        (elementwise_is_trig((graph_kind)op->kind) && dtype_is_float(in)))
        return true;
    switch ((graph_kind)op->kind) {
    case GRAPH_COMPARE:
        return op->attrs.compare.type != GRAPH_CMP_TOTALORDER || dtype_is_float(in);
    case GRAPH_SELECT:
        return true;
    case GRAPH_CLAMP:
        return result->dtype != VTRN_DTYPE_PRED;
    case GRAPH_CONVERT:
        return convert_is_exact(in, result->dtype);
    case GRAPH_NOT:
        return in == VTRN_DTYPE_PRED || elementwise_is_exact_int(in);
    case GRAPH_NEGATE:
        return dtype_is_float(in) || in == VTRN_DTYPE_INT32;
    case GRAPH_IS_FINITE:
        return true;
    case GRAPH_FLOOR:
    case GRAPH_CEIL:
    case GRAPH_ROUND_NEAREST_EVEN:
    case GRAPH_ROUND_NEAREST_AFZ:
        return dtype_is_float(in);
    case GRAPH_EXPONENTIAL_MINUS_ONE:
    case GRAPH_LOG_PLUS_ONE: /* a narrower result would be rounded twice */
        return in == VTRN_DTYPE_FP32;
    default:
        if (op->n_operands == 1)
            return dtype_is_float(in) && act_of((graph_kind)op->kind, &act);
        return op->n_operands == 2 && elementwise_alu((graph_kind)op->kind, in) != VTRN_ALU_NONE;
    }
}

/* --- operands ------------------------------------------------------------------------------------
 */

static bool is_scalar_of_full(const fusion *f, const fusion_node *node, int k) {
    return node->in[k].node < 0 || f->nodes[node->in[k].node].klass == NODE_ROW;
}

static bool is_scalar_in(const emit_env *env, const fusion_node *node, int k) {
    return is_scalar_of_full(env->f, node, k);
}

uint8_t elementwise_in_dtype(const fusion *f, const fusion_node *node, int k) {
    if (node->in[k].node >= 0)
        return f->nodes[node->in[k].node].dtype;
    for (int i = 0; i < node->n_in; i++)
        if (i != k && node->in[i].node >= 0 && !(node->op == GRAPH_SELECT && i == 0))
            return f->nodes[node->in[i].node].dtype;
    return node->dtype;
}

/* Float to integer: the engines round to nearest, StableHLO truncates. */
static bool is_truncation(const fusion *f, const fusion_node *node) {
    return node->op == GRAPH_CONVERT && node->in[0].node >= 0 && !dtype_is_float(node->dtype) &&
           dtype_is_float(elementwise_in_dtype(f, node, 0));
}

/* An op of elementwise_float.c. */
static bool is_float_function(const fusion_node *node) {
    return elementwise_float_n_temps((graph_kind)node->op) > 0 || elementwise_is_total_order(node);
}

int elementwise_n_temps(const fusion *f, const fusion_node *node) {
    if (elementwise_int_owns(f, node))
        return elementwise_int_n_temps(f, node);
    if (elementwise_is_total_order(node))
        return ELEMENTWISE_TOTAL_ORDER_TEMPS;
    if (elementwise_is_trig((graph_kind)node->op))
        return elementwise_trig_n_temps(elementwise_in_dtype(f, node, 0));
    if (is_float_function(node))
        return elementwise_float_n_temps((graph_kind)node->op);
    switch (node->op) {
    case GRAPH_DIVIDE:
    case GRAPH_IS_FINITE:
        return 1;
    case GRAPH_FLOOR:
    case GRAPH_CEIL:
    case GRAPH_ROUND_NEAREST_EVEN:
    case GRAPH_ROUND_NEAREST_AFZ:
    case GRAPH_EXPONENTIAL_MINUS_ONE:
    case GRAPH_LOG_PLUS_ONE:
        return 2;
    case GRAPH_CONVERT:
        return is_truncation(f, node) ? 2 : 0;
    default:
        return 0;
    }
}

/* Instructions on exact integers and bits take constants from memory: an immediate is fp32. */
static bool needs_const(const fusion *f, const fusion_node *node, int k) {
    if (node->in[k].node >= 0)
        return false;
    if (node->op == GRAPH_SELECT)
        return k == 1;
    if (node->n_in == 1 || elementwise_int_owns(f, node) || is_float_function(node))
        return true;
    return elementwise_is_exact_int(elementwise_in_dtype(f, node, k)) ||
           isa_alu_class((vtrn_alu)node->alu) == 'B';
}

void elementwise_for_consts(const fusion *f, const fusion_node *node,
                            void (*fn)(void *ctx, double value, vtrn_dtype dtype), void *ctx) {
    for (int k = 0; k < node->n_in; k++)
        if (needs_const(f, node, k))
            fn(ctx, node->in[k].imm, elementwise_in_dtype(f, node, k));
    if ((node->op == GRAPH_NEGATE || node->op == GRAPH_NOT) &&
        elementwise_is_exact_int(node->dtype))
        fn(ctx, -1, node->dtype);
}

uint32_t elementwise_dst_cols(const emit_env *env, const fusion_node *node) {
    return node->klass == NODE_ROW ? 1 : env->cols;
}

static vtrn_ap elementwise_stretched(const tile *t, uint32_t rows, uint32_t cols) {
    vtrn_ap ap = tile_ap(t, rows, cols);
    if (cols > 1)
        ap.dim[0].step = 0;
    return ap;
}

bool emit_const_is(const emit_const *c, double value, uint8_t dtype) {
    uint64_t ours, theirs; /* bits: -0 is another constant than 0, NaN the same as itself */
    memcpy(&ours, &c->value, sizeof ours);
    memcpy(&theirs, &value, sizeof theirs);
    return c->dtype == dtype && ours == theirs;
}

static vtrn_status elementwise_const_tile(const emit_env *env, double value, uint8_t dtype,
                                          const tile **out) {
    for (int i = 0; i < env->n_consts; i++)
        if (emit_const_is(&env->consts[i], value, dtype)) {
            *out = &env->consts[i].t;
            return NULL;
        }
    return VTRN_ERROR(VTRN_CAPACITY, "a fusion needs more than %d constants in SBUF",
                      FUSION_MAX_CONSTS);
}

/* Operand k as an access pattern of elementwise_dst_cols elements a row. */
vtrn_status elementwise_tensor_in(const emit_env *env, const fusion_node *node, int k,
                                  vtrn_ap *out) {
    uint32_t cols = elementwise_dst_cols(env, node);
    if (node->in[k].node < 0) {
        const tile *t = NULL;
        VTRN_RETURN_IF_ERROR(elementwise_const_tile(env, node->in[k].imm,
                                                    elementwise_in_dtype(env->f, node, k), &t));
        *out = elementwise_stretched(t, env->rows, cols);
        return NULL;
    }
    const fusion_node *in = &env->f->nodes[node->in[k].node];
    if (in->klass == NODE_ROW)
        *out = elementwise_stretched(&in->t, env->rows, cols);
    else if (in->klass == NODE_COL)
        *out = tile_ap_cols(&in->t, env->rows, env->col0, cols);
    else
        *out = tile_ap(&in->t, env->rows, cols);
    return NULL;
}

vtrn_ap elementwise_dst_ap(const emit_env *env, const fusion_node *node) {
    return tile_ap(&node->t, env->rows, elementwise_dst_cols(env, node));
}

/* --- instruction shapes
 * ---------------------------------------------------------------------------- */

bool fusion_row_is_widened(const tile *row) {
    return dtype_is_float(row->dtype) && row->dtype != VTRN_DTYPE_FP32;
}

tile fusion_wide_row(const tile *row) {
    tile wide = *row;
    wide.addr += FUSION_WIDE_ROW_BYTES;
    wide.dtype = VTRN_DTYPE_FP32;
    return wide;
}

/* A row as a per-partition scalar. */
static vtrn_ap scalar_ap(const tile *row, uint32_t rows) {
    tile wide = fusion_row_is_widened(row) ? fusion_wide_row(row) : *row;
    return tile_ap(&wide, rows, 1);
}

vtrn_status emit_scalar_op(emit_env *env, vtrn_engine engine, vtrn_alu op, const vtrn_ap *dst,
                           const vtrn_ap *a, float imm, const tile *row, bool is_reversed) {
    vtrn_instr *instr = lower_append(env->l, VTRN_OP_TENSOR_SCALAR, engine);
    if (!instr)
        return VTRN_OUT_OF_MEMORY(sizeof *instr);
    instr->op0 = (uint8_t)op;
    instr->ap[0] = *dst;
    instr->ap[1] = *a;
    instr->imm[0].f = imm;
    if (row)
        instr->ap[2] = scalar_ap(row, env->rows);
    instr->flags = is_reversed ? VTRN_FLAG_REVERSE0 : 0;
    return NULL;
}

vtrn_status emit_fill(emit_env *env, const vtrn_ap *dst, double value) {
    LOWER_EMIT(instr, env->l, MEMSET, VECTOR);
    instr->ap[0] = *dst;
    if (elementwise_is_exact_int(dst->dtype))
        instr->imm[0].bits = (uint32_t)(int64_t)value;
    else
        instr->imm[0].f = (float)value;
    return NULL;
}

vtrn_status emit_activate(emit_env *env, vtrn_act func, const vtrn_ap *dst, const vtrn_ap *src,
                          float scale) {
    int set = isa_act_table_set(func);
    if (set != 0 && env->l->act_table != set) {
        LOWER_EMIT(load, env->l, ACT_TABLE_LOAD, SCALAR);
        load->arg[0] = set;
        env->l->act_table = (uint8_t)set;
    }
    LOWER_EMIT(instr, env->l, ACTIVATE, SCALAR);
    instr->func = (uint8_t)func;
    instr->ap[0] = *dst;
    instr->ap[1] = *src;
    instr->imm[0].f = scale;
    instr->imm[1].f = -0.0f; /* the one bias that keeps the sign of a zero */
    return NULL;
}

/* dst = a op b, whatever the operands are. */
static vtrn_status emit_binary(emit_env *env, const fusion_node *node, vtrn_alu op,
                               vtrn_engine engine) {
    vtrn_ap dst = elementwise_dst_ap(env, node), a, b;
    const fusion *f = env->f;
    bool is_row = node->klass == NODE_ROW;
    bool a_is_scalar = is_scalar_in(env, node, 0) && !(is_row && node->in[0].node >= 0);
    bool b_is_scalar = is_scalar_in(env, node, 1) && !(is_row && node->in[1].node >= 0);
    bool is_exact =
        elementwise_is_exact_int(elementwise_in_dtype(f, node, 0)) || isa_alu_class(op) == 'B';
    if (is_exact || (!a_is_scalar && !b_is_scalar)) {
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &a));
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 1, &b));
        return lower_emit_tensor_tensor(env->l, engine, op, &dst, &a, &b);
    }
    int scalar = b_is_scalar ? 1 : 0, tensor = 1 - scalar;
    const fusion_in *s = &node->in[scalar];
    const tile *row = s->node >= 0 ? &f->nodes[s->node].t : NULL;
    if (node->in[tensor].node < 0) { /* both immediates, or an immediate with a row */
        VTRN_RETURN_IF_ERROR(emit_fill(env, &dst, node->in[tensor].imm));
        a = dst;
    } else {
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, tensor, &a));
    }
    if (op == VTRN_ALU_MULTIPLY && dtype_is_float(a.dtype) && dtype_is_float(dst.dtype)) {
        vtrn_ap factor = row ? scalar_ap(row, env->rows) : a;
        return lower_emit_scaled(env->l, &dst, &a, (float)s->imm, row ? &factor : NULL);
    }
    return emit_scalar_op(env, engine, op, &dst, &a, (float)s->imm, row, scalar == 0);
}

/* No engine divides: multiply by the reciprocal. */
static vtrn_status emit_divide(emit_env *env, const fusion_node *node) {
    vtrn_ap dst = elementwise_dst_ap(env, node), a;
    const fusion_in *num = &node->in[0], *den = &node->in[1];
    if (den->node < 0) {
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &a));
        return emit_scalar_op(env, VTRN_ENGINE_VECTOR, VTRN_ALU_MULTIPLY, &dst, &a,
                              (float)(1.0 / den->imm), NULL, false);
    }
    const fusion_node *divisor = &env->f->nodes[den->node];
    tile inverse = env->temps[0];
    inverse.dtype = VTRN_DTYPE_FP32;
    uint32_t inverse_cols = divisor->klass == NODE_ROW ? 1 : elementwise_dst_cols(env, node);
    vtrn_ap to = tile_ap(&inverse, env->rows, inverse_cols), from;
    from = divisor->klass == NODE_COL
               ? tile_ap_cols(&divisor->t, env->rows, env->col0, inverse_cols)
               : tile_ap(&divisor->t, env->rows, inverse_cols);
    bool is_inverse =
        num->node < 0 && num->imm == 1 && inverse_cols == elementwise_dst_cols(env, node);
    LOWER_EMIT(reciprocal, env->l, RECIPROCAL, VECTOR);
    reciprocal->ap[0] = is_inverse ? dst : to;
    reciprocal->ap[1] = from;
    if (is_inverse)
        return NULL;
    vtrn_ap factor = elementwise_stretched(&inverse, env->rows, elementwise_dst_cols(env, node));
    if (inverse_cols > 1)
        factor = to;
    if (num->node < 0)
        return emit_scalar_op(env, VTRN_ENGINE_VECTOR, VTRN_ALU_MULTIPLY, &dst, &factor,
                              (float)num->imm, NULL, false);
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &a));
    if (inverse_cols == 1)
        return emit_scalar_op(env, VTRN_ENGINE_VECTOR, VTRN_ALU_MULTIPLY, &dst, &a, 0, &inverse,
                              false);
    return lower_emit_tensor_tensor(env->l, VTRN_ENGINE_VECTOR, VTRN_ALU_MULTIPLY, &dst, &a,
                                    &factor);
}

static vtrn_status emit_select(emit_env *env, const fusion_node *node) {
    vtrn_ap dst = elementwise_dst_ap(env, node), pred, on_true, on_false;
    if (node->in[0].node < 0) { /* a constant predicate */
        int k = node->in[0].imm != 0 ? 1 : 2;
        if (node->in[k].node < 0)
            return emit_fill(env, &dst, node->in[k].imm);
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, k, &on_true));
        return lower_emit_copy(env->l, &dst, &on_true);
    }
    if (node->in[2].node < 0) {
        VTRN_RETURN_IF_ERROR(emit_fill(env, &dst, node->in[2].imm));
    } else {
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 2, &on_false));
        VTRN_RETURN_IF_ERROR(lower_emit_copy(env->l, &dst, &on_false));
    }
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &pred));
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 1, &on_true));
    LOWER_EMIT(instr, env->l, COPY_PREDICATED, VECTOR);
    instr->ap[0] = dst;
    instr->ap[1] = on_true;
    instr->ap[2] = pred;
    return NULL;
}

/* clamp(low, x, high): two steps, the second in place. */
static vtrn_status emit_clamp(emit_env *env, const fusion_node *node, vtrn_engine engine) {
    fusion_node step = *node;
    step.n_in = 2;
    step.in[0] = node->in[1];
    step.in[1] = node->in[0];
    VTRN_RETURN_IF_ERROR(emit_binary(env, &step, VTRN_ALU_MAX, engine));
    vtrn_ap dst = elementwise_dst_ap(env, node), high;
    const fusion_in *h = &node->in[2];
    if (h->node < 0 && !elementwise_is_exact_int(node->dtype))
        return emit_scalar_op(env, engine, VTRN_ALU_MIN, &dst, &dst, (float)h->imm, NULL, false);
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 2, &high));
    return lower_emit_tensor_tensor(env->l, engine, VTRN_ALU_MIN, &dst, &dst, &high);
}

/* --- rounding -----------------------------------------------------------------------------------
 * The engines round to the nearest even integer when they store one, and saturate. What is left is
 * to correct by one, from a comparison with the operand. */

vtrn_ap elementwise_temp_ap(const emit_env *env, const fusion_node *node, int k, vtrn_dtype dtype) {
    tile t = env->temps[k];
    t.dtype = (uint8_t)dtype;
    return tile_ap(&t, env->rows, elementwise_dst_cols(env, node));
}

/* dst = (a op0 s) op1 b */
vtrn_status emit_scalar_tensor(emit_env *env, const vtrn_ap *dst, const vtrn_ap *a, vtrn_alu op0,
                               float s, vtrn_alu op1, const vtrn_ap *b) {
    LOWER_EMIT(instr, env->l, SCALAR_TENSOR_TENSOR, VECTOR);
    instr->op0 = (uint8_t)op0;
    instr->op1 = (uint8_t)op1;
    instr->ap[0] = *dst;
    instr->ap[1] = *a;
    instr->imm[0].f = s;
    instr->ap[3] = *b;
    return NULL;
}

/* dst = a where mask is not 0 (is 0 with is_inverse) */
vtrn_status emit_copy_where(emit_env *env, const vtrn_ap *dst, const vtrn_ap *a,
                            const vtrn_ap *mask, bool is_inverse) {
    LOWER_EMIT(instr, env->l, COPY_PREDICATED, VECTOR);
    instr->ap[0] = *dst;
    instr->ap[1] = *a;
    instr->ap[2] = *mask;
    instr->flags = is_inverse ? VTRN_FLAG_REVERSE0 : 0;
    return NULL;
}

/* dst |= the sign bit of x: a result of rounding has the sign of its operand, 0 included. */
static vtrn_status emit_sign_of(emit_env *env, const fusion_node *node, const vtrn_ap *dst,
                                const vtrn_ap *x) {
    static const uint8_t bits_of[] = {
        [1] = VTRN_DTYPE_UINT8, [2] = VTRN_DTYPE_UINT16, [4] = VTRN_DTYPE_UINT32};
    size_t size = dtype_size(x->dtype);
    VTRN_CHECK(size >= 1 && size <= 4, "floats have 1, 2 or 4 bytes");
    vtrn_ap bits = *dst, x_bits = *x, sign = elementwise_temp_ap(env, node, 1, bits_of[size]);
    bits.dtype = x_bits.dtype = bits_of[size];
    LOWER_EMIT(instr, env->l, TENSOR_SCALAR, VECTOR);
    instr->op0 = VTRN_ALU_BITWISE_AND;
    instr->ap[0] = sign;
    instr->ap[1] = x_bits;
    instr->imm[0].bits = 1u << (8 * size - 1);
    return lower_emit_tensor_tensor(env->l, VTRN_ENGINE_VECTOR, VTRN_ALU_BITWISE_OR, &bits, &bits,
                                    &sign);
}

/* floor, ceil and the two kinds of round. From 2^23 up every fp32 is an integer (NaN and infinity
 * stay too); below, the nearest integer in int32 is exact. */
static vtrn_status emit_round(emit_env *env, const fusion_node *node, const vtrn_ap *dst,
                              const vtrn_ap *x) {
    vtrn_ap nearest = elementwise_temp_ap(env, node, 0, VTRN_DTYPE_INT32);
    vtrn_ap t = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_FP32);
    vtrn_ap is_small = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_UINT8);
    if (node->op == GRAPH_ROUND_NEAREST_AFZ) { /* |x| - nearest is 1/2 where a tie went down */
        VTRN_RETURN_IF_ERROR(
            emit_scalar_op(env, VTRN_ENGINE_VECTOR, VTRN_ALU_ABS_MAX, &nearest, x, 0, NULL, false));
        VTRN_RETURN_IF_ERROR(
            emit_scalar_tensor(env, &t, x, VTRN_ALU_ABS_MAX, 0, VTRN_ALU_SUBTRACT, &nearest));
        VTRN_RETURN_IF_ERROR(
            emit_scalar_tensor(env, dst, &t, VTRN_ALU_IS_EQUAL, 0.5f, VTRN_ALU_ADD, &nearest));
    } else {
        VTRN_RETURN_IF_ERROR(lower_emit_copy(env->l, &nearest, x));
        if (node->op == GRAPH_ROUND_NEAREST_EVEN) {
            VTRN_RETURN_IF_ERROR(lower_emit_copy(env->l, dst, &nearest));
        } else {
            bool is_floor = node->op == GRAPH_FLOOR;
            VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(
                env->l, VTRN_ENGINE_VECTOR, is_floor ? VTRN_ALU_IS_GT : VTRN_ALU_IS_LT, &t,
                &nearest, x));
            VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(
                env->l, VTRN_ENGINE_VECTOR, is_floor ? VTRN_ALU_SUBTRACT : VTRN_ALU_ADD, dst,
                &nearest, &t));
        }
    }
    VTRN_RETURN_IF_ERROR(emit_sign_of(env, node, dst, x));
    VTRN_RETURN_IF_ERROR(
        lower_emit_two_scalars(env->l, &is_small, x, VTRN_ALU_ABS_MAX, 0, VTRN_ALU_IS_LT, 0x1p23f));
    return emit_copy_where(env, dst, x, &is_small, true);
}

/* Float to integer towards 0; saturates, and NaN gives 0, as the store does. All of it is exact in
 * fp32: an integer beyond 2^24 came from an fp32 as it is, or is saturated and saturates again. */
static vtrn_status emit_truncate(emit_env *env, const fusion_node *node, const vtrn_ap *dst,
                                 const vtrn_ap *x) {
    vtrn_ap nearest = elementwise_temp_ap(env, node, 0, (vtrn_dtype)dst->dtype);
    vtrn_ap t = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_FP32);
    VTRN_RETURN_IF_ERROR(lower_emit_copy(env->l, &nearest, x));
    VTRN_RETURN_IF_ERROR(emit_scalar_tensor(env, &t, x, VTRN_ALU_MAX, 0, VTRN_ALU_IS_LT, &nearest));
    VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(env->l, VTRN_ENGINE_VECTOR, VTRN_ALU_SUBTRACT,
                                                  &nearest, &nearest, &t));
    VTRN_RETURN_IF_ERROR(emit_scalar_tensor(env, &t, x, VTRN_ALU_MIN, 0, VTRN_ALU_IS_GT, &nearest));
    return lower_emit_tensor_tensor(env->l, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, dst, &nearest, &t);
}

/* e^x - 1 = 2t / (1 - t) with t = tanh(x / 2) where the difference would cancel. Both functions are
 * of one table set. */
static vtrn_status emit_expm1(emit_env *env, const fusion_node *node, const vtrn_ap *dst,
                              const vtrn_ap *x) {
    vtrn_ap t = elementwise_temp_ap(env, node, 0, VTRN_DTYPE_FP32),
            u = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_FP32);
    vtrn_ap is_small = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_UINT32);
    VTRN_RETURN_IF_ERROR(emit_activate(env, VTRN_ACT_TANH, &t, x, 0.5f));
    VTRN_RETURN_IF_ERROR(
        lower_emit_two_scalars(env->l, &u, &t, VTRN_ALU_MULTIPLY, -1, VTRN_ALU_ADD, 1));
    LOWER_EMIT(reciprocal, env->l, RECIPROCAL, VECTOR);
    reciprocal->ap[0] = u;
    reciprocal->ap[1] = u;
    VTRN_RETURN_IF_ERROR(
        emit_scalar_tensor(env, &t, &t, VTRN_ALU_MULTIPLY, 2, VTRN_ALU_MULTIPLY, &u));
    VTRN_RETURN_IF_ERROR(emit_activate(env, VTRN_ACT_EXP, dst, x, 1));
    VTRN_RETURN_IF_ERROR(
        emit_scalar_op(env, VTRN_ENGINE_VECTOR, VTRN_ALU_SUBTRACT, dst, dst, 1, NULL, false));
    VTRN_RETURN_IF_ERROR(
        lower_emit_two_scalars(env->l, &is_small, x, VTRN_ALU_ABS_MAX, 0, VTRN_ALU_IS_LT, 0.6f));
    return emit_copy_where(env, dst, &t, &is_small, false);
}

/* log(1 + x): with u = 1 + x rounded, log(u) * x / (u - 1) undoes the rounding (u - 1 is exact
 * where it matters); x itself where u is 1. */
static vtrn_status emit_log1p(emit_env *env, const fusion_node *node, const vtrn_ap *dst,
                              const vtrn_ap *x) {
    vtrn_ap t = elementwise_temp_ap(env, node, 0, VTRN_DTYPE_FP32),
            u = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_FP32);
    vtrn_ap mask = elementwise_temp_ap(env, node, 1, VTRN_DTYPE_UINT32);
    VTRN_RETURN_IF_ERROR(
        emit_scalar_op(env, VTRN_ENGINE_VECTOR, VTRN_ALU_ADD, &u, x, 1, NULL, false));
    VTRN_RETURN_IF_ERROR(emit_activate(env, VTRN_ACT_LOG, dst, &u, 1));
    VTRN_RETURN_IF_ERROR(
        emit_scalar_op(env, VTRN_ENGINE_VECTOR, VTRN_ALU_SUBTRACT, &u, &u, 1, NULL, false));
    LOWER_EMIT(reciprocal, env->l, RECIPROCAL, VECTOR);
    reciprocal->ap[0] = t;
    reciprocal->ap[1] = u;
    VTRN_RETURN_IF_ERROR(
        lower_emit_tensor_tensor(env->l, VTRN_ENGINE_VECTOR, VTRN_ALU_MULTIPLY, &t, &t, x));
    VTRN_RETURN_IF_ERROR(
        lower_emit_tensor_tensor(env->l, VTRN_ENGINE_VECTOR, VTRN_ALU_MULTIPLY, &t, &t, dst));
    VTRN_RETURN_IF_ERROR(
        emit_scalar_op(env, VTRN_ENGINE_VECTOR, VTRN_ALU_IS_EQUAL, &mask, &u, 0, NULL, false));
    VTRN_RETURN_IF_ERROR(emit_copy_where(env, &t, x, &mask, false));
    VTRN_RETURN_IF_ERROR(
        emit_scalar_op(env, VTRN_ENGINE_VECTOR, VTRN_ALU_IS_LT, &mask, x, 1, NULL, false));
    return emit_copy_where(env, dst, &t, &mask, false);
}

static vtrn_status emit_convert(emit_env *env, const fusion_node *node) {
    vtrn_ap dst = elementwise_dst_ap(env, node), src;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &src));
    if (elementwise_is_exact_int(dst.dtype) && elementwise_is_exact_int(src.dtype))
        src.dtype = dst.dtype; /* the same bits, whatever the sign */
    if (is_truncation(env->f, node))
        return emit_truncate(env, node, &dst, &src);
    if (dtype_is_float(src.dtype) && dtype_is_float(dst.dtype))
        return lower_emit_scaled(env->l, &dst, &src, 1, NULL);
    return lower_emit_copy(env->l, &dst, &src);
}

vtrn_alu elementwise_compare_alu(const fusion_node *node) {
    static const uint8_t alu[] = {[GRAPH_EQ] = VTRN_ALU_IS_EQUAL, [GRAPH_NE] = VTRN_ALU_NOT_EQUAL,
                                  [GRAPH_GE] = VTRN_ALU_IS_GE,    [GRAPH_GT] = VTRN_ALU_IS_GT,
                                  [GRAPH_LE] = VTRN_ALU_IS_LE,    [GRAPH_LT] = VTRN_ALU_IS_LT};
    return (vtrn_alu)alu[node->direction];
}

static vtrn_status emit_unary(emit_env *env, const fusion_node *node) {
    vtrn_ap dst = elementwise_dst_ap(env, node), src;
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, 0, &src));
    vtrn_act act;
    if (act_of((graph_kind)node->op, &act))
        return emit_activate(env, act, &dst, &src, 1);
    switch (node->op) {
    case GRAPH_FLOOR:
    case GRAPH_CEIL:
    case GRAPH_ROUND_NEAREST_EVEN:
    case GRAPH_ROUND_NEAREST_AFZ:
        return emit_round(env, node, &dst, &src);
    case GRAPH_EXPONENTIAL_MINUS_ONE:
        return emit_expm1(env, node, &dst, &src);
    case GRAPH_LOG_PLUS_ONE:
        return emit_log1p(env, node, &dst, &src);
    default:
        break;
    }
    if (node->op == GRAPH_IS_FINITE) { /* x - x is 0 for finite x only */
        tile t = env->temps[0];
        t.dtype = VTRN_DTYPE_FP32;
        vtrn_ap zero = tile_ap(&t, env->rows, elementwise_dst_cols(env, node));
        VTRN_RETURN_IF_ERROR(lower_emit_tensor_tensor(env->l, VTRN_ENGINE_VECTOR, VTRN_ALU_SUBTRACT,
                                                      &zero, &src, &src));
        return emit_scalar_op(env, VTRN_ENGINE_VECTOR, VTRN_ALU_IS_EQUAL, &dst, &zero, 0, NULL,
                              false);
    }
    if (elementwise_is_exact_int(node->dtype)) { /* -x = x * -1, ~x = x ^ -1 */
        const tile *minus_one = NULL;
        VTRN_RETURN_IF_ERROR(elementwise_const_tile(env, -1, node->dtype, &minus_one));
        vtrn_ap m = elementwise_stretched(minus_one, env->rows, elementwise_dst_cols(env, node));
        bool is_negate = node->op == GRAPH_NEGATE;
        return lower_emit_tensor_tensor(env->l, is_negate ? VTRN_ENGINE_GPSIMD : VTRN_ENGINE_VECTOR,
                                        is_negate ? VTRN_ALU_MULTIPLY : VTRN_ALU_BITWISE_XOR, &dst,
                                        &src, &m);
    }
    bool is_negate = node->op == GRAPH_NEGATE;
    return emit_scalar_op(env, VTRN_ENGINE_VECTOR,
                          is_negate ? VTRN_ALU_MULTIPLY : VTRN_ALU_IS_EQUAL, &dst, &src,
                          is_negate ? -1.0f : 0.0f, NULL, false);
}

/* --- folding
 * ----------------------------------------------------------------------------------------- */

/* A binary fp32 op of the Vector engine on tiles. */
static bool is_vector_arith(const fusion *f, const fusion_node *node) {
    bool is_binary = node->n_in == 2 && node->alu != VTRN_ALU_NONE && node->alu != VTRN_ALU_POWER &&
                     isa_alu_class((vtrn_alu)node->alu) == 'A' && node->op != GRAPH_DIVIDE;
    return is_binary && node->op < FUSION_LOAD && node->klass == NODE_FULL &&
           dtype_is_float(node->dtype) && dtype_is_float(elementwise_in_dtype(f, node, 0));
}

/* x / c and -x as multiplications, so that they fold like them. */
static void normalise(fusion_node *node) {
    if (node->op == GRAPH_DIVIDE && node->in[1].node < 0 && node->in[0].node >= 0 &&
        dtype_is_float(node->dtype)) {
        node->op = GRAPH_MULTIPLY;
        node->in[1].imm = (float)(1.0 / node->in[1].imm);
    } else if (node->op == GRAPH_NEGATE && node->in[0].node >= 0 && dtype_is_float(node->dtype)) {
        node->op = GRAPH_MULTIPLY;
        node->alu = VTRN_ALU_MULTIPLY;
        node->in[1] = (fusion_in){.node = FUSION_NO_NODE, .imm = -1};
        node->n_in = 2;
    }
}

void elementwise_fold(fusion *f) {
    int n_uses[FUSION_MAX_NODES] = {0};
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        node->folds = FUSION_NO_NODE;
        node->is_folded = false;
        if (!node->is_live)
            continue;
        normalise(node);
        for (int k = 0; k < node->n_in; k++)
            if (node->in[k].node >= 0)
                n_uses[node->in[k].node]++;
    }
    for (int i = 0; i < f->n_nodes; i++) {
        fusion_node *node = &f->nodes[i];
        if (!node->is_live || !is_vector_arith(f, node))
            continue;
        for (int k = 0; k < 2 && node->folds < 0; k++) {
            if (node->in[k].node < 0)
                continue;
            fusion_node *in = &f->nodes[node->in[k].node];
            /* a narrower intermediate would have been rounded */
            bool is_foldable = in->is_live && !in->is_stored && n_uses[node->in[k].node] == 1 &&
                               in->folds < 0 && in->op != FUSION_LOAD && is_vector_arith(f, in) &&
                               in->dtype == VTRN_DTYPE_FP32 &&
                               is_scalar_of_full(f, in, 0) != is_scalar_of_full(f, in, 1);
            if (!is_foldable)
                continue;
            in->is_folded = true;
            node->folds = k;
        }
    }
}

/* (x op0 s0) op1 s1 or (x op0 s0) op1 tile in one instruction. */
static vtrn_status emit_folded(emit_env *env, const fusion_node *node) {
    const fusion *f = env->f;
    const fusion_node *in = &f->nodes[node->in[node->folds].node];
    int scalar0 = is_scalar_of_full(f, in, 0) ? 0 : 1, other = 1 - node->folds;
    const fusion_in *s0 = &in->in[scalar0], *s1 = &node->in[other];
    bool is_scalar = is_scalar_of_full(f, node, other);
    vtrn_ap dst = elementwise_dst_ap(env, node), x, y = {0};
    VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, in, 1 - scalar0, &x));
    if (!is_scalar)
        VTRN_RETURN_IF_ERROR(elementwise_tensor_in(env, node, other, &y));
    vtrn_instr *instr =
        lower_append(env->l, is_scalar ? VTRN_OP_TENSOR_SCALAR : VTRN_OP_SCALAR_TENSOR_TENSOR,
                     VTRN_ENGINE_VECTOR);
    if (!instr)
        return VTRN_OUT_OF_MEMORY(sizeof *instr);
    instr->op0 = in->alu;
    instr->op1 = node->alu;
    instr->flags = (scalar0 == 0 ? VTRN_FLAG_REVERSE0 : 0) | (other == 0 ? VTRN_FLAG_REVERSE1 : 0);
    instr->ap[0] = dst;
    instr->ap[1] = x;
    instr->imm[0].f = (float)s0->imm;
    if (s0->node >= 0)
        instr->ap[2] = scalar_ap(&f->nodes[s0->node].t, env->rows);
    if (!is_scalar) {
        instr->ap[3] = y;
        return NULL;
    }
    instr->imm[1].f = (float)s1->imm;
    if (s1->node >= 0)
        instr->ap[3] = scalar_ap(&f->nodes[s1->node].t, env->rows);
    return NULL;
}

vtrn_status elementwise_emit(emit_env *env, const fusion_node *node) {
    /* exact integer arithmetic and power are GpSimd's */
    bool is_exact = elementwise_is_exact_int(
        elementwise_in_dtype(env->f, node, node->op == GRAPH_SELECT ? 1 : 0));
    vtrn_engine engine = is_exact ? VTRN_ENGINE_GPSIMD : VTRN_ENGINE_VECTOR;
    if (node->folds >= 0)
        return emit_folded(env, node);
    if (elementwise_int_owns(env->f, node))
        return elementwise_int_emit(env, node);
    if (is_float_function(node))
        return elementwise_float_emit(env, node);
    if (elementwise_is_trig((graph_kind)node->op))
        return elementwise_trig_emit(env, node);
    switch (node->op) {
    case GRAPH_SELECT:
        return emit_select(env, node);
    case GRAPH_CLAMP:
        return emit_clamp(env, node, engine);
    case GRAPH_CONVERT:
        return emit_convert(env, node);
    case GRAPH_COMPARE:
        return emit_binary(env, node, elementwise_compare_alu(node), engine);
    case GRAPH_DIVIDE:
        return emit_divide(env, node);
    default:
        break;
    }
    if (node->n_in == 1)
        return emit_unary(env, node);
    vtrn_alu op = (vtrn_alu)node->alu;
    if (isa_alu_class(op) == 'B')
        engine = VTRN_ENGINE_VECTOR;
    if (op == VTRN_ALU_POWER)
        engine = VTRN_ENGINE_GPSIMD;
    return emit_binary(env, node, op, engine);
}
