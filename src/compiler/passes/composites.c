#include "compiler/passes/composites.h"

#include "compiler/passes/pattern.h"

#include <stdlib.h>
#include <string.h>

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
    bool is_read[N_RULES]; /* the rule is in rules */
    graph_value *erfc_of;  /* by value of the graph before: see pattern_match */
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

/* Whether the text is a form of operations of that kind. */
static bool begins_with(const char *text, const char *kind) {
    size_t n = strlen(kind);
    return strncmp(text, kind, n) == 0 && text[n] == '(';
}

/* Rules are read when the first operation comes that they could be of: the long ones take longer
 * than all else that a small program needs. */
static vtrn_status read_rule(recogniser *c, int i) {
    if (c->is_read[i])
        return NULL;
    c->is_read[i] = true;
    return pattern_parse(TEXTS[i].title, TEXTS[i].from, TEXTS[i].to, &c->rules[i]);
}

static vtrn_status recognise(rewriter *r, void *ctx, graph_op *op, bool *is_dropped) {
    recogniser *c = ctx;
    const char *kind = graph_kind_name((graph_kind)op->kind);
    for (int i = 0; i < N_RULES; i++) {
        if (!begins_with(TEXTS[i].from, kind))
            continue;
        VTRN_RETURN_IF_ERROR(read_rule(c, i));
        const pattern *rule = &c->rules[i];
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

vtrn_status composites_recognise(graph *g) {
    recogniser *c = calloc(1, sizeof *c);
    graph_value *erfc_of = malloc((g->n_values + 1) * sizeof *erfc_of);
    vtrn_status status = c && erfc_of ? NULL : VTRN_OUT_OF_MEMORY(sizeof *c);
    if (c && erfc_of) {
        c->erfc_of = erfc_of;
        c->n_values = g->n_values;
        for (uint32_t i = 0; i < g->n_values; i++)
            erfc_of[i] = GRAPH_NO_VALUE;
        status = rewrite_graph(g, recognise, c);
    }
    free(erfc_of);
    free(c);
    return status;
}
