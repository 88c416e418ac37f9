/* Passes on graphs of a few operations made by hand. */
#include "compiler/passes/passes.h"
#include "compiler/passes/pattern.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the headers above.
#include <cmocka.h>

enum { MAX_OPS = 32, MAX_VALUES = 64 };

/* A program under construction: every value is a vector of four elements unless said otherwise. */
typedef struct maker {
    graph g;
    graph_type types[MAX_VALUES];
    graph_op ops[MAX_OPS];
    graph_value operands[MAX_OPS][3], results[MAX_OPS], args[4], outputs[4];
    uint64_t data[MAX_OPS];
} maker;

static graph_value add_value(maker *m, vtrn_dtype dtype) {
    m->types[m->g.n_values] = (graph_type){.dtype = (uint8_t)dtype, .rank = 1, .dims = {4}};
    return m->g.n_values++;
}

static void start(maker *m, int n_args, vtrn_dtype dtype) {
    memset(m, 0, sizeof *m);
    m->g = (graph){.name = "test",
                   .types = m->types,
                   .body = {.args = m->args, .ops = m->ops, .results = m->outputs}};
    for (int i = 0; i < n_args; i++)
        m->args[m->g.body.n_args++] = add_value(m, dtype);
}

static graph_op *add_op(maker *m, graph_kind kind, int n, const graph_value *operands,
                        vtrn_dtype dtype) {
    uint32_t i = m->g.body.n_ops++;
    for (int k = 0; k < n; k++)
        m->operands[i][k] = operands[k];
    m->results[i] = add_value(m, dtype);
    m->ops[i] = (graph_op){.kind = (uint16_t)kind,
                           .n_operands = (uint32_t)n,
                           .n_results = 1,
                           .operands = m->operands[i],
                           .results = &m->results[i],
                           .name = "op",
                           .place = ""};
    return &m->ops[i];
}

static graph_value unary(maker *m, graph_kind kind, graph_value a) {
    return add_op(m, kind, 1, &a, VTRN_DTYPE_FP32)->results[0];
}

static graph_value binary(maker *m, graph_kind kind, graph_value a, graph_value b) {
    const graph_value operands[] = {a, b};
    return add_op(m, kind, 2, operands, (vtrn_dtype)m->types[a].dtype)->results[0];
}

static graph_value number(maker *m, double value, vtrn_dtype dtype) {
    graph_op *op = add_op(m, GRAPH_CONSTANT, 0, NULL, dtype);
    uint64_t *data = &m->data[m->g.body.n_ops];
    dtype_convert(VTRN_DTYPE_FP64, &value, dtype, data, 1);
    op->attrs.constant.data = data;
    op->attrs.constant.is_splat = true;
    return op->results[0];
}

static void output(maker *m, graph_value v) {
    m->outputs[m->g.body.n_results++] = v;
}

static graph *run(const maker *m) {
    graph *out = NULL;
    vtrn_status status = passes_run(&m->g, &(compile_options){0}, &out);
    if (status)
        fail_msg("%s", vtrn_status_message(status));
    return out;
}

static int count(const graph *g, graph_kind kind) {
    int n = 0;
    for (uint32_t i = 0; i < g->body.n_ops; i++)
        n += g->body.ops[i].kind == kind;
    return n;
}

static void the_same_is_computed_once(void **state) {
    (void)state;
    maker m;
    start(&m, 2, VTRN_DTYPE_FP32);
    graph_value a = binary(&m, GRAPH_ADD, 0, 1), b = binary(&m, GRAPH_ADD, 0, 1);
    output(&m, binary(&m, GRAPH_MULTIPLY, unary(&m, GRAPH_TANH, a), unary(&m, GRAPH_TANH, b)));
    output(&m, binary(&m, GRAPH_ADD, 1, 0)); /* the other way round is another operation */
    graph *g = run(&m);
    assert_int_equal(count(g, GRAPH_ADD), 2);
    assert_int_equal(count(g, GRAPH_TANH), 1);
    assert_int_equal(g->body.ops[2].operands[0], g->body.ops[2].operands[1]);
    graph_destroy(g);
}

static void comparisons_of_other_directions_stay_apart(void **state) {
    (void)state;
    maker m;
    start(&m, 2, VTRN_DTYPE_FP32);
    for (int i = 0; i < 3; i++) {
        const graph_value operands[] = {0, 1};
        graph_op *op = add_op(&m, GRAPH_COMPARE, 2, operands, VTRN_DTYPE_PRED);
        op->attrs.compare.direction = i == 1 ? GRAPH_LT : GRAPH_GT;
        output(&m, op->results[0]);
    }
    graph *g = run(&m);
    assert_int_equal(count(g, GRAPH_COMPARE), 2);
    assert_int_equal(g->body.results[0], g->body.results[2]);
    graph_destroy(g);
}

static void a_call_with_effects_stays(void **state) {
    (void)state;
    maker m;
    start(&m, 1, VTRN_DTYPE_FP32);
    for (int i = 0; i < 3; i++) {
        const graph_value operand = 0;
        graph_op *op = add_op(&m, GRAPH_CUSTOM_CALL, 1, &operand, VTRN_DTYPE_FP32);
        op->attrs.custom_call.has_side_effect = i < 2;
    }
    output(&m, 0);
    graph *g = run(&m);
    assert_int_equal(g->body.n_ops, 2);
    graph_destroy(g);
}

static void what_none_reads_is_left_out(void **state) {
    (void)state;
    maker m;
    start(&m, 1, VTRN_DTYPE_FP32);
    unary(&m, GRAPH_TANH, unary(&m, GRAPH_EXPONENTIAL, 0));
    output(&m, unary(&m, GRAPH_SQRT, 0));
    graph *g = run(&m);
    assert_int_equal(g->body.n_ops, 1);
    assert_int_equal(g->body.ops[0].kind, GRAPH_SQRT);
    graph_destroy(g);
}

/* Whether x op c (c op x with is_first) is x. */
static bool leaves_x(graph_kind kind, double c, bool is_first, vtrn_dtype dtype) {
    maker m;
    start(&m, 1, dtype);
    graph_value constant = number(&m, c, dtype);
    output(&m, is_first ? binary(&m, kind, constant, 0) : binary(&m, kind, 0, constant));
    graph *g = run(&m);
    bool is_x = g->body.results[0] == 0 && g->body.n_ops == 0;
    graph_destroy(g);
    return is_x;
}

static void neutral_operands_leave_the_other_one(void **state) {
    (void)state;
    assert_true(leaves_x(GRAPH_MULTIPLY, 1, false, VTRN_DTYPE_FP32));
    assert_true(leaves_x(GRAPH_MULTIPLY, 1, true, VTRN_DTYPE_BF16));
    assert_true(leaves_x(GRAPH_DIVIDE, 1, false, VTRN_DTYPE_FP32));
    assert_false(leaves_x(GRAPH_DIVIDE, 1, true, VTRN_DTYPE_FP32));
    assert_true(leaves_x(GRAPH_SUBTRACT, 0, false, VTRN_DTYPE_FP32));
    assert_false(leaves_x(GRAPH_SUBTRACT, 0, true, VTRN_DTYPE_FP32));
    assert_true(leaves_x(GRAPH_ADD, 0, true, VTRN_DTYPE_INT32));
    assert_true(leaves_x(GRAPH_MAXIMUM, -INFINITY, true, VTRN_DTYPE_FP32));
    assert_true(leaves_x(GRAPH_AND, 1, true, VTRN_DTYPE_PRED));
}

static void minus_zero_plus_zero_is_zero(void **state) {
    (void)state;
    assert_false(leaves_x(GRAPH_ADD, 0.0, false, VTRN_DTYPE_FP32));
    assert_true(leaves_x(GRAPH_ADD, -0.0, false, VTRN_DTYPE_FP32));
    assert_false(leaves_x(GRAPH_SUBTRACT, -0.0, false, VTRN_DTYPE_FP32));
}

static void constants_are_computed(void **state) {
    (void)state;
    maker m;
    start(&m, 0, VTRN_DTYPE_FP32);
    static const int32_t NUMBERS[] = {1, 2, 3, 4};
    graph_op *dense = add_op(&m, GRAPH_CONSTANT, 0, NULL, VTRN_DTYPE_INT32);
    dense->attrs.constant.data = NUMBERS;
    output(&m, binary(&m, GRAPH_MULTIPLY, dense->results[0], number(&m, 10, VTRN_DTYPE_INT32)));
    output(&m, binary(&m, GRAPH_SUBTRACT, number(&m, 5, VTRN_DTYPE_FP32),
                      number(&m, 2, VTRN_DTYPE_FP32)));
    graph *g = run(&m);
    assert_int_equal(count(g, GRAPH_CONSTANT), 2);
    assert_int_equal(g->body.n_ops, 2);
    static const int32_t TENFOLD[] = {10, 20, 30, 40};
    assert_memory_equal(g->body.ops[0].attrs.constant.data, TENFOLD, sizeof TENFOLD);
    const float three = 3;
    assert_true(g->body.ops[1].attrs.constant.is_splat);
    assert_memory_equal(g->body.ops[1].attrs.constant.data, &three, sizeof three);
    graph_destroy(g);
}

static void functions_of_constants_are_left_to_the_engines(void **state) {
    (void)state;
    maker m;
    start(&m, 0, VTRN_DTYPE_FP32);
    static const float NUMBERS[] = {1, 2, 3, 4};
    graph_op *dense = add_op(&m, GRAPH_CONSTANT, 0, NULL, VTRN_DTYPE_FP32);
    dense->attrs.constant.data = NUMBERS;
    output(&m, unary(&m, GRAPH_EXPONENTIAL, dense->results[0]));
    graph *g = run(&m);
    assert_int_equal(count(g, GRAPH_EXPONENTIAL), 1);
    graph_destroy(g);
}

static void a_way_to_a_wider_float_and_back_is_none(void **state) {
    (void)state;
    maker m;
    start(&m, 1, VTRN_DTYPE_BF16);
    const graph_value x = 0;
    graph_value wide = add_op(&m, GRAPH_CONVERT, 1, &x, VTRN_DTYPE_FP32)->results[0];
    output(&m, add_op(&m, GRAPH_CONVERT, 1, &wide, VTRN_DTYPE_BF16)->results[0]);
    output(&m, add_op(&m, GRAPH_CONVERT, 1, &wide, VTRN_DTYPE_FP16)->results[0]);
    graph *g = run(&m);
    assert_int_equal(g->body.results[0], 0);
    assert_int_equal(count(g, GRAPH_CONVERT), 2);
    graph_destroy(g);
}

/* Captures of a loop's body follow what takes the place of an operation outside. */
static void bodies_read_what_is_left(void **state) {
    (void)state;
    maker m;
    start(&m, 1, VTRN_DTYPE_FP32);
    graph_value a = unary(&m, GRAPH_TANH, 0), b = unary(&m, GRAPH_TANH, 0);
    graph_value inner_result = add_value(&m, VTRN_DTYPE_FP32);
    graph_value inner_operands[] = {a, b};
    graph_op inner = {.kind = GRAPH_ADD,
                      .n_operands = 2,
                      .n_results = 1,
                      .operands = inner_operands,
                      .results = &inner_result,
                      .name = "op",
                      .place = ""};
    graph_region body = {.n_ops = 1, .ops = &inner, .n_results = 1, .results = &inner_result};
    graph_region *regions[] = {&body, &body};
    const graph_value pred = 0;
    graph_op *op = add_op(&m, GRAPH_IF, 1, &pred, VTRN_DTYPE_FP32);
    op->n_regions = 2;
    op->regions = regions;
    output(&m, op->results[0]);
    graph *g = run(&m);
    assert_int_equal(count(g, GRAPH_TANH), 1);
    const graph_op *made = &g->body.ops[1].regions[0]->ops[0];
    assert_int_equal(made->operands[0], a);
    assert_int_equal(made->operands[1], a);
    assert_int_equal(inner_operands[1], b); /* the graph before is as it was */
    graph_destroy(g);
}

static void logistic_is_recognised_in_any_order(void **state) {
    (void)state;
    for (int order = 0; order < 2; order++) {
        maker m;
        start(&m, 1, VTRN_DTYPE_FP32);
        graph_value one = number(&m, 1, VTRN_DTYPE_FP32);
        graph_value e = unary(&m, GRAPH_EXPONENTIAL, unary(&m, GRAPH_NEGATE, 0));
        graph_value sum = order ? binary(&m, GRAPH_ADD, e, one) : binary(&m, GRAPH_ADD, one, e);
        output(&m, binary(&m, GRAPH_DIVIDE, one, sum));
        graph *g = run(&m);
        assert_int_equal(g->body.n_ops, 1);
        assert_int_equal(g->body.ops[0].kind, GRAPH_LOGISTIC);
        graph_destroy(g);
    }
}

static void another_number_is_another_form(void **state) {
    (void)state;
    maker m;
    start(&m, 1, VTRN_DTYPE_FP32);
    graph_value one = number(&m, 1, VTRN_DTYPE_FP32), two = number(&m, 2, VTRN_DTYPE_FP32);
    graph_value e = unary(&m, GRAPH_EXPONENTIAL, unary(&m, GRAPH_NEGATE, 0));
    output(&m, binary(&m, GRAPH_DIVIDE, one, binary(&m, GRAPH_ADD, two, e)));
    graph *g = run(&m);
    assert_int_equal(count(g, GRAPH_LOGISTIC), 0);
    graph_destroy(g);
}

static void a_value_that_others_read_stays(void **state) {
    (void)state;
    maker m;
    start(&m, 1, VTRN_DTYPE_FP32);
    graph_value one = number(&m, 1, VTRN_DTYPE_FP32);
    graph_value e = unary(&m, GRAPH_EXPONENTIAL, unary(&m, GRAPH_NEGATE, 0));
    output(&m, binary(&m, GRAPH_DIVIDE, one, binary(&m, GRAPH_ADD, one, e)));
    output(&m, e);
    graph *g = run(&m);
    assert_int_equal(count(g, GRAPH_LOGISTIC), 1);
    assert_int_equal(count(g, GRAPH_EXPONENTIAL), 1);
    assert_int_equal(count(g, GRAPH_ADD), 0);
    graph_destroy(g);
}

static void malformed_rules_are_named(void **state) {
    (void)state;
    static const char *const BAD[] = {"tanh(x",  "tanh(x) y",   "wave(x)",
                                      "add(x,)", "horner(x)",   "add(a,b,c,d,e,f,g)",
                                      "",        "clenshaw(x)", "clenshaw(x, 1)"};
    pattern p;
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        vtrn_status status = pattern_parse("one", BAD[i], "tanh(x)", &p);
        if (!status)
            fail_msg("'%s' is no rule", BAD[i]);
        assert_int_equal(vtrn_status_category(status), VTRN_INTERNAL);
        assert_non_null(strstr(vtrn_status_message(status), "the rule of one"));
        vtrn_status_free(status);
    }
    assert_null(pattern_parse("two", "add(multiply(x, -2.5), y=tanh(x))", "multiply(y, x)", &p));
    assert_int_equal(p.n_names, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_is_computed_once),
        cmocka_unit_test(comparisons_of_other_directions_stay_apart),
        cmocka_unit_test(a_call_with_effects_stays),
        cmocka_unit_test(what_none_reads_is_left_out),
        cmocka_unit_test(neutral_operands_leave_the_other_one),
        cmocka_unit_test(minus_zero_plus_zero_is_zero),
        cmocka_unit_test(constants_are_computed),
        cmocka_unit_test(functions_of_constants_are_left_to_the_engines),
        cmocka_unit_test(a_way_to_a_wider_float_and_back_is_none),
        cmocka_unit_test(bodies_read_what_is_left),
        cmocka_unit_test(logistic_is_recognised_in_any_order),
        cmocka_unit_test(another_number_is_another_form),
        cmocka_unit_test(a_value_that_others_read_stays),
        cmocka_unit_test(malformed_rules_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
