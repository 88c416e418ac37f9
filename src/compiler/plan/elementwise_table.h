/* Elementwise ops as the engines do them: which there are, and what each takes. */
#ifndef VTRN_COMPILER_PLAN_ELEMENTWISE_TABLE_H
#define VTRN_COMPILER_PLAN_ELEMENTWISE_TABLE_H

#include "compiler/plan/fusion_nodes.h"

/* Which function emits an op: emit/elementwise_parts.h. */
typedef enum elementwise_emitter_id {
#define EMITTER(id, name) ELEMENTWISE_BY_##id,
#include "compiler/plan/elementwise_emitters.def"
#undef EMITTER
    ELEMENTWISE_EMITTER_COUNT
} elementwise_emitter_id;

/* Which constant operands instructions take from memory. */
typedef enum elementwise_constants {
    ELEMENTWISE_IMMEDIATE, /* none */
    /* the first of two constants; else immediates are the bits of integers. Rows are no scalars */
    ELEMENTWISE_BITS,
    ELEMENTWISE_TILE,     /* all */
    ELEMENTWISE_SELECTED, /* the value of a select that is copied over the other one */
} elementwise_constants;

/* A row of elementwise_ops.def, which says what the fields are. */
typedef struct elementwise_op {
    uint16_t operands, results; /* sets of types */
    uint8_t emitter;            /* elementwise_emitter_id */
    uint16_t instruction;       /* elementwise_engine_of() and elementwise_code_of() it */
    uint8_t n_temps;
    uint8_t constants; /* elementwise_constants */
} elementwise_op;

static inline vtrn_engine elementwise_engine_of(const elementwise_op *op) {
    return (vtrn_engine)(op->instruction >> 8);
}

/* vtrn_alu or vtrn_act */
static inline uint8_t elementwise_code_of(const elementwise_op *op) {
    return (uint8_t)op->instruction;
}

/* The row of a node. */
const elementwise_op *elementwise_op_of(const fusion *f, const fusion_node *node);

/* Operands of a node. */
bool elementwise_is_exact_int(uint8_t dtype); /* 32-bit integers: exact on GpSimd */
/* An operand that varies along no column of a FULL node: an immediate, or one value a row where a
 * tile has one batch. */
bool elementwise_is_scalar(const fusion *f, const fusion_node *node, int k);
uint8_t elementwise_in_dtype(const fusion *f, const fusion_node *node, int k);

/* Whether the engines do this op exactly enough on these types. */
bool elementwise_supports(const graph *g, const graph_op *op);
/* Whether an op of one operand is its comparison with 0, and which: a conversion to truth values,
 * and `not` of one. */
bool elementwise_tests_zero(const graph *g, const graph_op *op, graph_direction *direction);
/* Whether the Scalar engine does the node, as a function of one operand, and which. */
bool elementwise_activation_of(const fusion *f, const fusion_node *node, vtrn_act *func);
/* FULL temporaries that emitting the node takes, at most ELEMENTWISE_MAX_TEMPS. */
int elementwise_n_temps(const fusion *f, const fusion_node *node);
enum { ELEMENTWISE_MAX_TEMPS = 11, FUSION_MAX_CONSTS = 64 };

/* Which immediates of a node must be in memory: the callback is told each (value, dtype). */
void elementwise_for_consts(const fusion *f, const fusion_node *node,
                            void (*fn)(void *ctx, double value, vtrn_dtype dtype), void *ctx);

#endif
