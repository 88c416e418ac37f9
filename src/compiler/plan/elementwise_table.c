/* The table of elementwise ops (elementwise_ops.def), and the questions that it answers. */
#include "compiler/plan/elementwise_table.h"

/* Types as far as elementwise ops tell them apart, and sets of them. */
enum type_set {
    TRUTH = 1 << 0,
    NARROW_SIGNED = 1 << 1, /* 8 and 16 bits */
    NARROW_UNSIGNED = 1 << 2,
    INT32 = 1 << 3,
    UINT32 = 1 << 4,
    FP32 = 1 << 5,
    BF16 = 1 << 6, /* and others with the range of fp32 */
    FP16 = 1 << 7, /* and others with less range */
    ALL = (1 << 8) - 1,
    NARROW_INTS = NARROW_SIGNED | NARROW_UNSIGNED,
    WORDS = INT32 | UINT32,
    INTS = NARROW_INTS | WORDS,
    FLOATS = FP32 | BF16 | FP16,
    TOTAL_ORDER = 1 << 8, /* floats that are compared in the total order */
    SAME_TYPE = 1 << 9,   /* of a result: it has the operand's type */
};

static unsigned type_set_of(uint8_t dtype) {
    switch ((vtrn_dtype)dtype) {
    case VTRN_DTYPE_PRED:
        return TRUTH;
    case VTRN_DTYPE_INT32:
        return INT32;
    case VTRN_DTYPE_UINT32:
        return UINT32;
    case VTRN_DTYPE_FP32:
        return FP32;
    case VTRN_DTYPE_BF16:
    case VTRN_DTYPE_TF32:
        return BF16;
    default:
        return dtype_is_float((vtrn_dtype)dtype)        ? FP16
               : dtype_is_signed_int((vtrn_dtype)dtype) ? NARROW_SIGNED
                                                        : NARROW_UNSIGNED;
    }
}

#define ON(engine, op)     (VTRN_ENGINE_##engine << 8 | VTRN_ALU_##op)
#define FUNCTION(function) (VTRN_ENGINE_SCALAR << 8 | VTRN_ACT_##function)
#define OWN                0
#define ROW(operands, emitter, instruction, n_temps, constants)                                    \
    ROW_TO(operands, ALL, emitter, instruction, n_temps, constants)
#define ROW_TO(operands, results, emitter, instruction, n_temps, constants)                        \
    { operands, results, ELEMENTWISE_BY_##emitter, instruction, n_temps, ELEMENTWISE_##constants }
#define KIND(kind, ...) [GRAPH_##kind] = {__VA_ARGS__},

enum { MAX_ROWS = 5 };

/* A row without operand types ends a kind's rows. */
static const elementwise_op table[GRAPH_KIND_COUNT][MAX_ROWS] = {
#include "compiler/plan/elementwise_ops.def"
};

static const elementwise_op *find(uint16_t kind, unsigned operand, unsigned result) {
    for (int i = 0; i < MAX_ROWS; i++) {
        const elementwise_op *op = &table[kind][i];
        if ((op->operands & operand) && (op->results & result))
            return op;
    }
    return NULL;
}

bool elementwise_tests_zero(const graph *g, const graph_op *op, graph_direction *direction) {
    bool is_truth = g->types[op->operands[0]].dtype == VTRN_DTYPE_PRED;
    *direction = op->kind == GRAPH_NOT ? GRAPH_EQ : GRAPH_NE;
    return op->kind == GRAPH_NOT ? is_truth
                                 : op->kind == GRAPH_CONVERT && !is_truth &&
                                       g->types[op->results[0]].dtype == VTRN_DTYPE_PRED;
}

bool elementwise_supports(const graph *g, const graph_op *op) {
    enum { MAX_OPERANDS = 3 };
    vtrn_dtype unused;
    graph_direction direction;
    if (op->n_results != 1 || op->n_operands == 0 || op->n_operands > MAX_OPERANDS)
        return false;
    uint8_t in = g->types[op->operands[0]].dtype, out = g->types[op->results[0]].dtype;
    bool has_tiles = fusion_tile_dtype(out, &unused);
    for (uint32_t i = 0; i < op->n_operands; i++)
        has_tiles = has_tiles && fusion_tile_dtype(g->types[op->operands[i]].dtype, &unused);
    if (!has_tiles)
        return false;
    unsigned operand = type_set_of(in), result = type_set_of(out) | (in == out ? SAME_TYPE : 0);
    uint16_t kind = elementwise_tests_zero(g, op, &direction) ? GRAPH_COMPARE : op->kind;
    if (op->kind == GRAPH_COMPARE && op->attrs.compare.type == GRAPH_CMP_TOTALORDER)
        operand = dtype_is_float(in) ? TOTAL_ORDER : 0;
    return find(kind, operand, result) != NULL;
}

const elementwise_op *elementwise_op_of(const fusion *f, const fusion_node *node) {
    uint8_t in = elementwise_in_dtype(f, node, node->op == GRAPH_SELECT);
    unsigned operand = node->is_total_order ? TOTAL_ORDER
                       : node->is_truth     ? TRUTH
                                            : type_set_of(in);
    unsigned result = type_set_of(node->dtype) | (in == node->dtype ? SAME_TYPE : 0);
    static const elementwise_op none = {0};
    const elementwise_op *op = find(node->op, operand, result);
    return op ? op : &none;
}

bool elementwise_activation_of(const fusion *f, const fusion_node *node, vtrn_act *func) {
    if (node->op >= FUSION_LOAD || node->op == GRAPH_REDUCE)
        return false;
    const elementwise_op *op = elementwise_op_of(f, node);
    *func = node->is_square ? VTRN_ACT_SQUARE : (vtrn_act)elementwise_code_of(op);
    return node->is_square || op->emitter == ELEMENTWISE_BY_ACTIVATION;
}

int elementwise_n_temps(const fusion *f, const fusion_node *node) {
    enum { QUOTIENT_TEMPS = 7 };
    return node->op == GRAPH_DIVIDE && node->is_exact ? QUOTIENT_TEMPS
                                                      : elementwise_op_of(f, node)->n_temps;
}

/* Operand k is a constant that the instructions take from memory. */
static bool is_tile(const elementwise_op *op, const fusion_node *node, int k) {
    if (node->in[k].node >= 0 || op->constants == ELEMENTWISE_IMMEDIATE)
        return false;
    if (op->constants == ELEMENTWISE_BITS)
        return k == 0 && node->in[1].node < 0;
    return op->constants != ELEMENTWISE_SELECTED || k == (node->reuses == 1 ? 2 : 1);
}

void elementwise_for_consts(const fusion *f, const fusion_node *node,
                            void (*fn)(void *ctx, double value, vtrn_dtype dtype), void *ctx) {
    const elementwise_op *op = elementwise_op_of(f, node);
    for (int k = 0; k < node->n_in; k++)
        if (is_tile(op, node, k))
            fn(ctx, node->in[k].imm, elementwise_in_dtype(f, node, k));
}

bool elementwise_is_exact_int(uint8_t dtype) {
    return dtype == VTRN_DTYPE_INT32 || dtype == VTRN_DTYPE_UINT32;
}

bool elementwise_is_scalar(const fusion *f, const fusion_node *node, int k) {
    return node->in[k].node < 0 || (f->nodes[node->in[k].node].shape == NODE_ROW && !f->n_side);
}

uint8_t elementwise_in_dtype(const fusion *f, const fusion_node *node, int k) {
    if (node->in[k].node >= 0)
        return f->nodes[node->in[k].node].dtype;
    for (int i = 0; i < node->n_in; i++)
        if (i != k && node->in[i].node >= 0 && !(node->op == GRAPH_SELECT && i == 0))
            return f->nodes[node->in[i].node].dtype;
    return node->dtype;
}
