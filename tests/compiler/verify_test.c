/* Checks find what is wrong, and say where: programs altered after they were compiled, and memory
 * altered while they run. */
#include "compiler/compile.h"
#include "runtime/execute.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* y = tanh(x w + b), z = transpose(y): fp32 or bf16 x[M,K], w[K,N], b[N]. */
enum { M = 40, K = 96, N = 130, N_ARGUMENTS = 3, N_OUTPUTS = 2 };
enum { X, W, B, DOT, WIDE_B, SUM, Y, Z, N_VALUES };

static const graph_ints no_ints = {0, NULL};

static graph_ints ints(arena *a, int64_t n, const int64_t *v) {
    int64_t *copy = ARENA_NEW(a, int64_t, (size_t)n);
    assert_non_null(copy);
    memcpy(copy, v, (size_t)n * sizeof *v);
    return (graph_ints){n, copy};
}

static graph_op *add_op(graph *g, graph_kind kind, const char *name, const char *place,
                        graph_value result) {
    graph_op *op = &g->body.ops[g->body.n_ops++];
    op->kind = (uint16_t)kind;
    op->name = name;
    op->place = place;
    op->n_results = 1;
    op->results = ARENA_NEW(&g->arena, graph_value, 1);
    op->results[0] = result;
    op->operands = ARENA_NEW(&g->arena, graph_value, 2);
    return op;
}

static void set_operands(graph_op *op, uint32_t n, graph_value a, graph_value b) {
    op->n_operands = n;
    op->operands[0] = a;
    op->operands[1] = b;
}

static graph *make_graph(vtrn_dtype t) {
    graph *g = calloc(1, sizeof *g);
    assert_non_null(g);
    static const int64_t dims[N_VALUES][2] = {{M, K}, {K, N}, {N, 0}, {M, N},
                                              {M, N}, {M, N}, {M, N}, {N, M}};
    g->name = "net";
    g->n_values = N_VALUES;
    g->types = ARENA_NEW(&g->arena, graph_type, N_VALUES);
    for (int v = 0; v < N_VALUES; v++)
        g->types[v] = (graph_type){
            .dtype = (uint8_t)t, .rank = v == B ? 1 : 2, .dims = {dims[v][0], dims[v][1]}};
    g->body.n_args = N_ARGUMENTS;
    g->body.args = ARENA_NEW(&g->arena, graph_value, N_ARGUMENTS);
    memcpy(g->body.args, (graph_value[]){X, W, B}, N_ARGUMENTS * sizeof(graph_value));
    g->body.n_results = N_OUTPUTS;
    g->body.results = ARENA_NEW(&g->arena, graph_value, N_OUTPUTS);
    memcpy(g->body.results, (graph_value[]){Y, Z}, N_OUTPUTS * sizeof(graph_value));
    g->body.ops = ARENA_NEW(&g->arena, graph_op, N_VALUES);
    graph_op *dot = add_op(g, GRAPH_DOT_GENERAL, "stablehlo.dot_general", "net.py:1", DOT);
    set_operands(dot, 2, X, W);
    dot->attrs.dot.lhs_batch = dot->attrs.dot.rhs_batch = no_ints;
    dot->attrs.dot.lhs_contract = ints(&g->arena, 1, (int64_t[]){1});
    dot->attrs.dot.rhs_contract = ints(&g->arena, 1, (int64_t[]){0});
    graph_op *wide =
        add_op(g, GRAPH_BROADCAST_IN_DIM, "stablehlo.broadcast_in_dim", "net.py:2", WIDE_B);
    set_operands(wide, 1, B, B);
    wide->attrs.dims.dims = ints(&g->arena, 1, (int64_t[]){1});
    set_operands(add_op(g, GRAPH_ADD, "stablehlo.add", "net.py:3", SUM), 2, DOT, WIDE_B);
    set_operands(add_op(g, GRAPH_TANH, "stablehlo.tanh", "net.py:4", Y), 1, SUM, SUM);
    graph_op *turn = add_op(g, GRAPH_TRANSPOSE, "stablehlo.transpose", "net.py:5", Z);
    set_operands(turn, 1, Y, Y);
    turn->attrs.dims.dims = ints(&g->arena, 2, (int64_t[]){1, 0});
    return g;
}

static void ok(vtrn_status status) {
    if (status)
        fail_msg("%s", vtrn_status_text(status));
}

static vtrn_program *compile(const runtime_device *d, vtrn_dtype t, bool is_verified) {
    graph *g = make_graph(t);
    vtrn_program *p;
    const compile_options options = {.is_verified = is_verified};
    ok(compile_graph(g, &d->chip, &options, &p));
    graph_destroy(g);
    return p;
}

static runtime_device *open_device(void) {
    runtime_device *d;
    ok(runtime_device_open(NULL, "trn1.2xlarge", 2, &d));
    return d;
}

/* Small numbers without order, none of them 0. */
static runtime_memory *make_argument(runtime_device *d, vtrn_dtype t, int n, uint32_t seed) {
    runtime_memory *m;
    ok(runtime_memory_create(d, 0, (uint64_t)n * dtype_size(t), &m));
    for (int i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        const float x = ((float)(seed >> 8) + 0.5f) * 0x1p-24f - 0.5f;
        dtype_store_fp32(t, &x, (char *)m->host + (size_t)i * dtype_size(t), 1);
    }
    return m;
}

/* Runs a program of the device on fresh arguments; frees both. */
static vtrn_status run(runtime_device *d, vtrn_program *p, vtrn_dtype t, engine_custom_fn custom,
                       void *ctx) {
    runtime_program *l;
    ok(runtime_load(d, p, custom, ctx, &l));
    runtime_memory *arguments[N_ARGUMENTS] = {
        make_argument(d, t, M * K, 1), make_argument(d, t, K * N, 2), make_argument(d, t, N, 3)};
    runtime_memory *outputs[N_OUTPUTS] = {NULL};
    runtime_call call = {.arguments = arguments, .outputs = outputs};
    vtrn_status status = runtime_execute(l, &call);
    for (int i = 0; i < N_ARGUMENTS; i++)
        runtime_memory_release(arguments[i]);
    for (int i = 0; i < N_OUTPUTS && !status; i++)
        runtime_memory_release(outputs[i]);
    runtime_unload(l);
    runtime_device_release(d);
    return status;
}

static void refused(vtrn_status status, const char *text) {
    assert_non_null(status);
    if (vtrn_status_category(status) != VTRN_INTERNAL || !strstr(vtrn_status_message(status), text))
        fail_msg("'%s' expected, not: %s", text, vtrn_status_text(status));
    vtrn_status_free(status);
}

/* --- a program that is right --------------------------------------------------------------------
 */

static void a_right_program_passes(void **state) {
    (void)state;
    static const vtrn_dtype types[] = {VTRN_DTYPE_FP32, VTRN_DTYPE_BF16, VTRN_DTYPE_FP16};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        runtime_device *d = open_device();
        vtrn_program *p = compile(d, types[i], true);
        assert_true(p->n_customs >= 2);
        assert_int_equal(program_n_reference_ops(p), 0);
        ok(compile_check_customs(p));
        ok(run(d, p, types[i], compile_run_custom, NULL));
    }
}

static void without_the_option_there_are_no_checks(void **state) {
    (void)state;
    runtime_device *d = open_device();
    vtrn_program *p = compile(d, VTRN_DTYPE_FP32, false);
    assert_int_equal(p->n_customs, 0);
    program_destroy(p);
    runtime_device_release(d);
}

/* --- altered programs ---------------------------------------------------------------------------
 */

static vtrn_instr *find_instr(const vtrn_program *p, vtrn_opcode opcode, const char *op) {
    for (uint32_t i = 0; i < p->n_instrs; i++)
        if (p->instrs[i].opcode == opcode && !strcmp(p->sources[p->instrs[i].source].op, op))
            return &p->instrs[i];
    fail_msg("no such instruction of %s", op);
    return NULL;
}

static void another_alu_operation_is_found(void **state) {
    (void)state;
    runtime_device *d = open_device();
    vtrn_program *p = compile(d, VTRN_DTYPE_FP32, true);
    vtrn_instr *add = find_instr(p, VTRN_OP_TENSOR_TENSOR, "stablehlo.add");
    assert_int_equal(add->op0, VTRN_ALU_ADD);
    add->op0 = VTRN_ALU_SUBTRACT;
    refused(run(d, p, VTRN_DTYPE_FP32, compile_run_custom, NULL),
            "verify: tanh (net.py:4) element [0,0] is ");
}

static void another_function_is_found(void **state) {
    (void)state;
    runtime_device *d = open_device();
    vtrn_program *p = compile(d, VTRN_DTYPE_BF16, true);
    find_instr(p, VTRN_OP_ACTIVATE, "stablehlo.tanh")->func = VTRN_ACT_ERF;
    refused(run(d, p, VTRN_DTYPE_BF16, compile_run_custom, NULL), "verify: tanh (net.py:4)");
}

/* The last column of y is never written; the memory of a fresh output is zero. */
static void a_store_that_ends_early_is_found(void **state) {
    (void)state;
    runtime_device *d = open_device();
    vtrn_program *p = compile(d, VTRN_DTYPE_FP32, true);
    vtrn_instr *store = find_instr(p, VTRN_OP_DMA_COPY, "stablehlo.tanh");
    assert_int_equal(store->ap[0].space, VTRN_SPACE_HBM);
    for (int i = 0; i < 2; i++)
        store->ap[i].dim[store->ap[i].n_dims - 1].num--;
    char text[128];
    snprintf(text, sizeof text, "(net.py:4) element [0,%d] is 0, the reference gives ", N - 1);
    refused(run(d, p, VTRN_DTYPE_FP32, compile_run_custom, NULL), text);
}

/* --- altered memory -----------------------------------------------------------------------------
 */

/* Elements of the tensor that check number `check_i` looks at last become `bits` before it runs. */
typedef struct damage {
    uint32_t check_i, n_done;
    size_t size;
    int n, at[2];
    uint32_t bits[2];
} damage;

static vtrn_status damage_then_check(void *ctx, const vtrn_program *program, uint32_t custom_i,
                                     void *const *inputs, void *const *outputs) {
    damage *it = ctx;
    const vtrn_custom *custom = &program->customs[custom_i];
    char *tensor = inputs[custom->n_inputs - 1];
    for (int i = 0; custom_i == it->check_i && i < it->n; i++, it->n_done++)
        memcpy(tensor + (size_t)it->at[i] * it->size, &it->bits[i], it->size);
    return compile_run_custom(NULL, program, custom_i, inputs, outputs);
}

/* The check whose last result is made by the named op. */
static uint32_t check_of(const vtrn_program *p, const char *op) {
    for (uint32_t i = 0; i < p->n_instrs; i++)
        if (p->instrs[i].opcode == VTRN_OP_CUSTOM_OP &&
            !strcmp(p->sources[p->instrs[i].source].op, op))
            return (uint32_t)p->instrs[i].arg[0];
    fail_msg("no check of %s", op);
    return 0;
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static void one_wrong_element_is_named(void **state) {
    (void)state;
    runtime_device *d = open_device();
    vtrn_program *p = compile(d, VTRN_DTYPE_FP32, true);
    damage it = {.check_i = check_of(p, "stablehlo.tanh"),
                 .size = 4,
                 .n = 2,
                 .at = {3 * N + 17, 39 * N + 129},
                 .bits = {bits_of(-1.5f), bits_of(100)}};
    vtrn_status status = run(d, p, VTRN_DTYPE_FP32, damage_then_check, &it);
    assert_int_equal(it.n_done, 2);
    assert_non_null(status);
    assert_non_null(strstr(vtrn_status_message(status), "2 of 5,200 elements differ (first at "
                                                        "[3,17], largest difference "));
    assert_non_null(strstr(vtrn_status_message(status), " at [39,129])"));
    assert_non_null(strstr(vtrn_status_message(status),
                           "in one kernel of 3 operations: dot_general net.py:1, "
                           "add net.py:3, tanh net.py:4\n"));
    refused(status, "verify: tanh (net.py:4) element [3,17] is -1.5, the reference gives ");
}

/* What is moved must be the same to the last bit: the smallest step of a bf16 is found. */
static void the_last_bit_of_what_moves_counts(void **state) {
    (void)state;
    runtime_device *d = open_device();
    vtrn_program *p = compile(d, VTRN_DTYPE_BF16, true);
    damage it = {.check_i = check_of(p, "outputs"), .size = 2, .n = 1, .at = {7 * M + 8}};
    it.bits[0] = 0x3f80;
    vtrn_status status = run(d, p, VTRN_DTYPE_BF16, damage_then_check, &it);
    assert_int_equal(it.n_done, 1);
    refused(status, "verify: outputs element [7,8] is 1, the reference gives ");
}

/* NaN is not near anything. */
static void a_nan_is_found(void **state) {
    (void)state;
    runtime_device *d = open_device();
    vtrn_program *p = compile(d, VTRN_DTYPE_FP32, true);
    damage it = {.check_i = check_of(p, "stablehlo.tanh"),
                 .size = 4,
                 .n = 1,
                 .at = {0},
                 .bits = {0x7fc00000}};
    refused(run(d, p, VTRN_DTYPE_FP32, damage_then_check, &it), "element [0,0] is nan");
}

/* --- checks from files --------------------------------------------------------------------------
 */

static void a_check_from_a_file_is_looked_at(void **state) {
    (void)state;
    runtime_device *d = open_device();
    vtrn_program *p = compile(d, VTRN_DTYPE_FP32, true);
    for (uint32_t i = 0; i < p->n_customs; i++) {
        vtrn_custom *c = &p->customs[i];
        const uint64_t size = c->blob_size;
        for (c->blob_size = 8; c->blob_size < size; c->blob_size++) {
            vtrn_status status = compile_check_customs(p);
            if (!status)
                fail_msg("check %u: %d of %d bytes are good enough", i, (int)c->blob_size,
                         (int)size);
            vtrn_status_free(status);
        }
    }
    ok(compile_check_customs(p));
    /* a tensor that is smaller than what the check reads */
    vtrn_slot *slot = &p->slots[p->customs[0].slots[0]];
    slot->size_bytes -= 4;
    vtrn_status status = compile_check_customs(p);
    assert_non_null(status);
    assert_non_null(strstr(vtrn_status_message(status), "is outside of its tensor"));
    vtrn_status_free(status);
    program_destroy(p);
    runtime_device_release(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_right_program_passes),
        cmocka_unit_test(without_the_option_there_are_no_checks),
        cmocka_unit_test(another_alu_operation_is_found),
        cmocka_unit_test(another_function_is_found),
        cmocka_unit_test(a_store_that_ends_early_is_found),
        cmocka_unit_test(one_wrong_element_is_named),
        cmocka_unit_test(the_last_bit_of_what_moves_counts),
        cmocka_unit_test(a_nan_is_found),
        cmocka_unit_test(a_check_from_a_file_is_looked_at),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
