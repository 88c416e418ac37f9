#include "compiler/passes/composites.h"

#include "compiler/passes/pattern.h"

#include <stdlib.h>

static const struct {
    const char *title, *from, *to;
} TEXTS[] = {
#define RULE(title, from, to)     {title, from, to},
#define KNOWN_ERFC(from, operand) {"erfc", from, operand},
#include "compiler/passes/composites.def"
#undef RULE
#undef KNOWN_ERFC
};

enum { N_RULES = sizeof TEXTS / sizeof *TEXTS };

typedef struct recogniser {
    pattern rules[N_RULES];
    graph_value *erfc_of; /* by value of the graph before: see pattern_match */
    uint32_t n_values;
} recogniser;

static bool is_known_only(const pattern *rule) {
    return rule->nodes[rule->to].kind == PATTERN_ERFC;
}

/* Writes down what the operation is known to compute; the operation stays. */
static void note(recogniser *c, const pattern_match *m, const graph_op *op) {
    const pattern_node *operand = &m->rule->nodes[m->rule->nodes[m->rule->to].args[0]];
    if (op->results[0] < c->n_values)
        c->erfc_of[op->results[0]] = pattern_unwidened(m->r, m->bound[operand->name]);
}

static vtrn_status recognise(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    recogniser *c = ctx;
    for (int i = 0; i < N_RULES; i++) {
        const pattern *rule = &c->rules[i];
        if (rule->nodes[rule->from].kind != op->kind)
            continue;
        pattern_match m = {.r = r, .rule = rule, .erfc_of = c->erfc_of, .n_known = c->n_values};
        if (!pattern_matches(&m, op))
            continue;
        if (is_known_only(rule)) {
            note(c, &m, op);
            return NULL;
        }
        *is_dropped = true;
        return pattern_build(&m, op);
    }
    return NULL;
}

static vtrn_status parse_rules(recogniser *c) {
    for (int i = 0; i < N_RULES; i++)
        VTRN_RETURN_IF_ERROR(
            pattern_parse(TEXTS[i].title, TEXTS[i].from, TEXTS[i].to, &c->rules[i]));
    return NULL;
}

vtrn_status composites_recognise(graph *g) {
    recogniser *c = calloc(1, sizeof *c);
    graph_value *erfc_of = malloc((g->n_values + 1) * sizeof *erfc_of);
    vtrn_status status = c && erfc_of ? NULL : VTRN_OUT_OF_MEMORY(sizeof *c);
    if (c && erfc_of) {
        c->erfc_of = erfc_of;
        c->n_values = g->n_values;
        for (uint32_t i = 0; i < g->n_values; i++)
            erfc_of[i] = GRAPH_NO_VALUE;
        status = parse_rules(c);
        if (!status)
            status = rewrite_graph(g, recognise, c);
    }
    free(erfc_of);
    free(c);
    return status;
}
