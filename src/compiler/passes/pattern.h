/* Rules from one form of operations to another, written as text:
 *
 *     add(multiply(s=logistic(x), c), multiply(s, subtract(1, s), x, c))
 *
 * A call is an operation of the graph by its name; eq, ne, lt and le are comparisons, horner(z, a,
 * b, c) is (a * z + b) * z + c, clenshaw(y, a, b, ...) the two last sums b(n) - b(n - 2) of a
 * Chebyshev series, where b(k) = y * b(k - 1) - b(k - 2) + its coefficient. A name, which is a
 * letter, stands for any value and, where it is written again, for the same one; name=call gives
 * one to what a call matches. A number stands for a constant of that value in every element. Sums
 * and products of any number of operands match in any order and association, and operations of two
 * operands in either order where that changes nothing. Conversions between floats are passed over.
 */
#ifndef VTRN_COMPILER_PASSES_PATTERN_H
#define VTRN_COMPILER_PASSES_PATTERN_H

#include "compiler/passes/rewrite.h"

enum {
    PATTERN_MAX_NODES = 400,
    PATTERN_MAX_NAMES = 64,
    PATTERN_MAX_ARGS = 6,
    PATTERN_NUMBER = GRAPH_KIND_COUNT,
    PATTERN_NAME,
    PATTERN_ERFC, /* known of a value, but no operation */
};

typedef struct pattern_node {
    uint16_t kind;
    uint8_t direction; /* of a comparison */
    int8_t name;       /* that a call binds, or that a PATTERN_NAME is; -1: none */
    uint8_t n_args;
    uint16_t args[PATTERN_MAX_ARGS];
    double number;
} pattern_node;

typedef struct pattern {
    const char *title;
    int from, to; /* nodes */
    int n_nodes, n_names;
    pattern_node nodes[PATTERN_MAX_NODES];
    char names[PATTERN_MAX_NAMES]; /* one letter each; 0: has none in the text */
} pattern;

/* What a rule is matched in. */
typedef struct pattern_match {
    rewriter *r;
    const pattern *rule;
    const graph_value *erfc_of; /* by value: what it is known to be erfc of, or GRAPH_NO_VALUE */
    uint32_t n_known;           /* values that erfc_of covers */
    graph_value bound[PATTERN_MAX_NAMES]; /* GRAPH_NO_VALUE: not yet */
} pattern_match;

/* INTERNAL where the text is malformed. */
vtrn_status pattern_parse(const char *title, const char *from, const char *to, pattern *out);
/* Whether op, which may not be in the graph yet, is what the rule is from; binds the names. */
bool pattern_matches(pattern_match *m, const graph_op *op);
/* Appends what the rule is to; its last operation makes op's result. */
vtrn_status pattern_build(pattern_match *m, const graph_op *op);
/* The value behind conversions from narrower floats. */
graph_value pattern_unwidened(const rewriter *r, graph_value v);

#endif
