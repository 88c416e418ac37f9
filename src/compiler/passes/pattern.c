#include "compiler/passes/pattern.h"

#include "compiler/passes/make_op.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* --- text ---------------------------------------------------------------------------------------
 */

typedef struct reader {
    const char *at;
    pattern *p;
    const char *error;
} reader;

static int fail(reader *r, const char *error) {
    r->error = r->error ? r->error : error;
    return 0;
}

static void skip_spaces(reader *r) {
    while (isspace((unsigned char)*r->at))
        r->at++;
}

static bool take(reader *r, char c) {
    skip_spaces(r);
    if (*r->at != c)
        return false;
    r->at++;
    return true;
}

static int add_node(reader *r, pattern_node node) {
    if (r->p->n_nodes == PATTERN_MAX_NODES)
        return fail(r, "too many operations");
    r->p->nodes[r->p->n_nodes] = node;
    return r->p->n_nodes++;
}

static int add_name(reader *r, char letter) {
    pattern *p = r->p;
    if (p->n_names == PATTERN_MAX_NAMES)
        return fail(r, "too many names");
    p->names[p->n_names] = letter;
    return p->n_names++;
}

static int find_name(reader *r, char letter) {
    for (int i = 0; i < r->p->n_names; i++)
        if (r->p->names[i] == letter)
            return i;
    return add_name(r, letter);
}

static void set_kind(reader *r, const char *word, size_t n, pattern_node *node) {
    static const struct {
        const char *word;
        uint16_t kind;
        uint8_t direction;
    } OTHERS[] = {{"eq", GRAPH_COMPARE, GRAPH_EQ},
                  {"ne", GRAPH_COMPARE, GRAPH_NE},
                  {"lt", GRAPH_COMPARE, GRAPH_LT},
                  {"le", GRAPH_COMPARE, GRAPH_LE},
                  {"erfc", PATTERN_ERFC, 0}};
    for (size_t i = 0; i < sizeof OTHERS / sizeof *OTHERS; i++)
        if (strlen(OTHERS[i].word) == n && memcmp(word, OTHERS[i].word, n) == 0) {
            node->kind = OTHERS[i].kind;
            node->direction = OTHERS[i].direction;
            return;
        }
    for (int kind = 0; kind < GRAPH_KIND_COUNT; kind++) {
        const char *name = graph_kind_name((graph_kind)kind);
        if (strlen(name) == n && memcmp(word, name, n) == 0) {
            node->kind = (uint16_t)kind;
            return;
        }
    }
    fail(r, "an operation that the graph does not know");
}

static int read_expression(reader *r);

static int add_binary(reader *r, graph_kind kind, int a, int b) {
    pattern_node node = {
        .kind = (uint16_t)kind, .name = -1, .n_args = 2, .args = {(uint16_t)a, (uint16_t)b}};
    return add_node(r, node);
}

/* The rest of horner(z, a, b, c), from a on. */
static int read_horner(reader *r, int z) {
    int sum = read_expression(r);
    while (!r->error && take(r, ',')) {
        int c = read_expression(r);
        sum = add_binary(r, GRAPH_ADD, add_binary(r, GRAPH_MULTIPLY, sum, z), c);
    }
    return take(r, ')') ? sum : fail(r, "a call without its end");
}

/* The rest of clenshaw(y, a, b, c), from a on. Each sum is read by the two behind it, so it has a
 * name: without one matching would take both ways down at every step. The form of the first two has
 * y * 0 and no sum before it. */
static int read_clenshaw(reader *r, int y) {
    pattern_node zero = {.kind = PATTERN_NUMBER, .name = -1};
    int last = add_node(r, zero), before = -1, before_that = -1;
    do {
        int of_y = add_binary(r, GRAPH_MULTIPLY, y, last);
        int rest = before_that < 0 ? of_y : add_binary(r, GRAPH_SUBTRACT, of_y, before);
        int sum = add_binary(r, GRAPH_ADD, rest, read_expression(r));
        r->p->nodes[sum].name = (int8_t)add_name(r, 0);
        before_that = before;
        before = last;
        last = sum;
    } while (!r->error && take(r, ','));
    if (before_that < 0)
        return fail(r, "a series of less than two terms");
    return take(r, ')') ? add_binary(r, GRAPH_SUBTRACT, last, before_that)
                        : fail(r, "a call without its end");
}

static int read_call(reader *r, const char *word, size_t n, int name) {
    pattern_node node = {.name = (int8_t)name};
    if (n == 6 && memcmp(word, "horner", n) == 0) {
        int z = read_expression(r);
        return take(r, ',') ? read_horner(r, z) : fail(r, "a polynomial without coefficients");
    }
    if (n == 8 && memcmp(word, "clenshaw", n) == 0) {
        int y = read_expression(r);
        return take(r, ',') ? read_clenshaw(r, y) : fail(r, "a series without coefficients");
    }
    set_kind(r, word, n, &node);
    do {
        if (node.n_args == PATTERN_MAX_ARGS)
            return fail(r, "too many operands");
        node.args[node.n_args++] = (uint16_t)read_expression(r);
    } while (!r->error && take(r, ','));
    return take(r, ')') ? add_node(r, node) : fail(r, "a call without its end");
}

static int read_number(reader *r) {
    char *end;
    pattern_node node = {.kind = PATTERN_NUMBER, .name = -1, .number = strtod(r->at, &end)};
    if (end == r->at)
        return fail(r, "neither a call, a name nor a number");
    r->at = end;
    return add_node(r, node);
}

static int read_expression(reader *r) {
    int name = -1;
    skip_spaces(r);
    if (r->error)
        return 0;
    if (isalpha((unsigned char)r->at[0]) && r->at[1] == '=') {
        name = find_name(r, r->at[0]);
        r->at += 2;
    }
    const char *word = r->at;
    size_t n = strspn(word, "abcdefghijklmnopqrstuvwxyz_");
    if (n > 0 && word[n] == '(') {
        r->at += n + 1;
        return read_call(r, word, n, name);
    }
    if (!isalpha((unsigned char)word[0]) || isalpha((unsigned char)word[1]))
        return read_number(r);
    r->at++;
    pattern_node node = {.kind = PATTERN_NAME, .name = (int8_t)find_name(r, *word)};
    return add_node(r, node);
}

vtrn_status pattern_parse(const char *title, const char *from, const char *to, pattern *out) {
    memset(out, 0, sizeof *out);
    out->title = title;
    reader r = {.at = from, .p = out};
    out->from = read_expression(&r);
    skip_spaces(&r);
    bool is_whole = !*r.at;
    r.at = to;
    out->to = read_expression(&r);
    skip_spaces(&r);
    if (r.error || !is_whole || *r.at)
        return VTRN_ERROR(VTRN_INTERNAL, "the rule of %s: %s", title,
                          r.error ? r.error : "more text than an expression");
    return NULL;
}

/* --- matching -----------------------------------------------------------------------------------
 */

static vtrn_dtype dtype_of(const rewriter *r, graph_value v) {
    return (vtrn_dtype)r->g->types[v].dtype;
}

static bool is_engine_float(vtrn_dtype t) {
    return t == VTRN_DTYPE_FP32 || t == VTRN_DTYPE_BF16 || t == VTRN_DTYPE_FP16;
}

/* The operation that makes v, behind conversions between floats. */
static const graph_op *maker_of(const rewriter *r, graph_value v, graph_value *made) {
    const graph_op *op = r->maker[v];
    while (op && op->kind == GRAPH_CONVERT && is_engine_float(dtype_of(r, op->operands[0])) &&
           is_engine_float(dtype_of(r, op->results[0])))
        op = r->maker[v = op->operands[0]];
    *made = v;
    return op;
}

graph_value pattern_unwidened(const rewriter *r, graph_value v) {
    const graph_op *op = r->maker[v];
    while (op && op->kind == GRAPH_CONVERT && is_engine_float(dtype_of(r, op->operands[0])) &&
           dtype_of(r, op->results[0]) == VTRN_DTYPE_FP32) {
        v = op->operands[0];
        op = r->maker[v];
    }
    return v;
}

static bool is_associative(int kind) {
    return kind == GRAPH_ADD || kind == GRAPH_MULTIPLY;
}

static bool is_commutative(const pattern_node *node) {
    return is_associative(node->kind) || node->kind == GRAPH_MAXIMUM ||
           node->kind == GRAPH_MINIMUM ||
           (node->kind == GRAPH_COMPARE &&
            (node->direction == GRAPH_EQ || node->direction == GRAPH_NE));
}

/* The constant is the number as far as its type can tell. */
static bool is_number(const pattern_match *m, double number, graph_value v) {
    double value;
    if (!rewrite_splat(m->r, v, &value))
        return false;
    if (value == number)
        return true;
    double ulp = dtype_of(m->r, v) == VTRN_DTYPE_FP32   ? 0x1p-23
                 : dtype_of(m->r, v) == VTRN_DTYPE_FP16 ? 0x1p-10
                                                        : 0x1p-7;
    return fabs(value - number) <= ulp * fabs(number);
}

static bool bind(pattern_match *m, int name, graph_value v) {
    if (name < 0)
        return true;
    if (m->bound[name] == GRAPH_NO_VALUE) {
        m->bound[name] = v;
        return true;
    }
    return pattern_unwidened(m->r, m->bound[name]) == pattern_unwidened(m->r, v);
}

static bool match_value(pattern_match *m, int node_i, graph_value v);

/* The arguments from arg_i on, each with one of the values that is not taken. */
static bool match_any_order(pattern_match *m, const pattern_node *node, int arg_i,
                            const graph_value *values, uint32_t taken) {
    if (arg_i == node->n_args)
        return true;
    for (int i = 0; i < node->n_args; i++) {
        graph_value bound[PATTERN_MAX_NAMES];
        if (taken >> i & 1)
            continue;
        memcpy(bound, m->bound, sizeof bound);
        if (match_value(m, node->args[arg_i], values[i]) &&
            match_any_order(m, node, arg_i + 1, values, taken | 1u << i))
            return true;
        memcpy(m->bound, bound, sizeof bound);
    }
    return false;
}

/* The n values are the terms of a sum or product; one after the other is expanded into its own
 * until there are as many as the pattern has. */
static bool match_terms(pattern_match *m, const pattern_node *node, const graph_value *values,
                        int n, int first) {
    if (n == node->n_args)
        return match_any_order(m, node, 0, values, 0);
    for (int i = first; i < n; i++) {
        graph_value made, terms[PATTERN_MAX_ARGS];
        const graph_op *op = maker_of(m->r, values[i], &made);
        if (!op || op->kind != node->kind)
            continue;
        memcpy(terms, values, (size_t)n * sizeof *terms);
        terms[i] = op->operands[0];
        terms[n] = op->operands[1];
        if (match_terms(m, node, terms, n + 1, i))
            return true;
    }
    return false;
}

static bool match_operands(pattern_match *m, const pattern_node *node, const graph_op *op) {
    if (op->kind != node->kind ||
        (op->kind == GRAPH_COMPARE && op->attrs.compare.direction != node->direction))
        return false;
    if (is_associative(op->kind))
        return match_terms(m, node, op->operands, 2, 0);
    if (op->n_operands != node->n_args)
        return false;
    if (is_commutative(node))
        return match_any_order(m, node, 0, op->operands, 0);
    for (int i = 0; i < node->n_args; i++)
        if (!match_value(m, node->args[i], op->operands[i]))
            return false;
    return true;
}

static bool match_value(pattern_match *m, int node_i, graph_value v) {
    const pattern_node *node = &m->rule->nodes[node_i];
    if (node->kind == PATTERN_NUMBER)
        return is_number(m, node->number, v);
    if (node->kind == PATTERN_NAME)
        return bind(m, node->name, v);
    if (node->name >= 0 && m->bound[node->name] != GRAPH_NO_VALUE)
        return bind(m, node->name, v);
    graph_value made;
    const graph_op *op = maker_of(m->r, v, &made);
    if (node->kind == PATTERN_ERFC)
        return made < m->n_known && m->erfc_of[made] != GRAPH_NO_VALUE &&
               match_value(m, node->args[0], m->erfc_of[made]);
    return op && match_operands(m, node, op) && bind(m, node->name, v);
}

bool pattern_matches(pattern_match *m, const graph_op *op) {
    if (op->n_results != 1 || !is_engine_float(dtype_of(m->r, op->results[0])))
        return false;
    for (int i = 0; i < PATTERN_MAX_NAMES; i++)
        m->bound[i] = GRAPH_NO_VALUE;
    return match_operands(m, &m->rule->nodes[m->rule->from], op);
}

/* --- building -----------------------------------------------------------------------------------
 */

/* An operation of the elements of `like`, which makes *v; a value that is GRAPH_NO_VALUE is new. */
static vtrn_status append(pattern_match *m, const graph_op *like, const graph_op *what,
                          graph_value *v) {
    graph_type type = m->r->g->types[like->results[0]];
    if (what->kind == GRAPH_COMPARE || what->kind == GRAPH_IS_FINITE)
        type.dtype = VTRN_DTYPE_PRED;
    if (*v != GRAPH_NO_VALUE)
        return make_op_as(m->r, like, what, *v);
    return make_op(m->r, like, what, &type, v);
}

static vtrn_status append_number(pattern_match *m, double number, const graph_op *like,
                                 graph_value *v) {
    void *data = ARENA_NEW(&m->r->g->arena, uint64_t, 1);
    if (!data)
        return VTRN_OUT_OF_MEMORY(sizeof(uint64_t));
    dtype_convert(VTRN_DTYPE_FP64, &number, dtype_of(m->r, like->results[0]), data, 1);
    graph_op constant = {.kind = GRAPH_CONSTANT,
                         .attrs = {.constant = {.data = data, .is_splat = true}}};
    return append(m, like, &constant, v);
}

/* A value in the type of the result; a truth value stays one. */
static vtrn_status converted(pattern_match *m, graph_value from, const graph_op *like,
                             graph_value *v) {
    const vtrn_dtype to = dtype_of(m->r, like->results[0]);
    *v = from;
    if (dtype_of(m->r, from) == to || dtype_of(m->r, from) == VTRN_DTYPE_PRED)
        return NULL;
    *v = pattern_unwidened(m->r, from);
    if (dtype_of(m->r, *v) == to)
        return NULL;
    from = *v;
    *v = GRAPH_NO_VALUE;
    graph_op convert = {.kind = GRAPH_CONVERT, .n_operands = 1, .operands = &from};
    return append(m, like, &convert, v);
}

static vtrn_status build(pattern_match *m, int node_i, const graph_op *like, graph_value *v) {
    const pattern_node *node = &m->rule->nodes[node_i];
    graph_value operands[PATTERN_MAX_ARGS];
    if (node->kind == PATTERN_NUMBER)
        return append_number(m, node->number, like, v);
    if (node->kind == PATTERN_NAME)
        return converted(m, m->bound[node->name], like, v);
    for (int i = 0; i < node->n_args; i++) {
        operands[i] = GRAPH_NO_VALUE;
        VTRN_RETURN_IF_ERROR(build(m, node->args[i], like, &operands[i]));
    }
    graph_op op = {
        .kind = (uint16_t)node->kind, .n_operands = (uint32_t)node->n_args, .operands = operands};
    if (op.kind == GRAPH_COMPARE) {
        op.attrs.compare.direction = (graph_direction)node->direction;
        op.attrs.compare.type = GRAPH_CMP_FLOAT;
    }
    VTRN_RETURN_IF_ERROR(append(m, like, &op, v));
    if (node->name >= 0)
        m->bound[node->name] = *v;
    return NULL;
}

vtrn_status pattern_build(pattern_match *m, const graph_op *op) {
    graph_value v = op->results[0];
    return build(m, m->rule->to, op, &v);
}
