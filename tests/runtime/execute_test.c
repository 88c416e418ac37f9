/* Loading and running a hand-made program: binding, aliases, memory, errors, time. */
#include "runtime/execute.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 64, BYTES = N * 4 };

/* output = input + constant, by way of scratch: a DMA, then a custom op that waits for it. */
static vtrn_program *make_program(bool is_aliased, int gen) {
    arena home = ARENA_EMPTY;
    vtrn_program *p = ARENA_NEW(&home, vtrn_program, 1);
    p->arena = home; /* a program lives in its own arena */
    p->name = "add";
    p->gen = (uint8_t)gen;
    p->chip = "trn1";
    p->n_arguments = p->n_outputs = 1;
    p->n_slots = 4;
    p->slots = ARENA_NEW(&p->arena, vtrn_slot, 4);
    for (int i = 0; i < 4; i++)
        p->slots[i].size_bytes = BYTES;
    for (int i = 0; i < 4; i++)
        p->slots[i].dtype = VTRN_DTYPE_FP32;
    p->slots[0].kind = VTRN_SLOT_ARGUMENT;
    p->slots[1].kind = VTRN_SLOT_CONSTANT;
    p->slots[2].kind = VTRN_SLOT_SCRATCH;
    p->slots[3].kind = VTRN_SLOT_OUTPUT;
    float *data = ARENA_NEW(&p->arena, float, N);
    for (int i = 0; i < N; i++)
        data[i] = (float)(100 * i);
    p->data = (const uint8_t *)data;
    p->data_size = p->scratch_size = BYTES;
    p->output_alias = ARENA_NEW(&p->arena, int32_t, 1);
    p->output_alias[0] = is_aliased ? 0 : -1;
    p->n_sources = 1;
    p->sources = ARENA_NEW(&p->arena, vtrn_source, 1);
    p->sources[0] = (vtrn_source){"stablehlo.add", "model.py:42"};
    p->n_customs = 1;
    p->customs = ARENA_NEW(&p->arena, vtrn_custom, 1);
    uint32_t *slots = ARENA_NEW(&p->arena, uint32_t, 3);
    memcpy(slots, (uint32_t[]){2, 1, 3}, 3 * sizeof *slots);
    p->customs[0] = (vtrn_custom){.name = "add", .n_inputs = 2, .n_outputs = 1, .slots = slots};
    p->n_blocks = 1;
    p->blocks = ARENA_NEW(&p->arena, vtrn_block, 1);
    p->blocks[0].count[VTRN_ENGINE_GPSIMD] = 2;
    p->n_instrs = 2;
    p->instrs = ARENA_NEW(&p->arena, vtrn_instr, 2);
    vtrn_ap ap = {.space = VTRN_SPACE_HBM,
                  .dtype = VTRN_DTYPE_FP32,
                  .n_dims = 1,
                  .n_partitions = 1,
                  .dim = {{1, N}}};
    p->instrs[0] = (vtrn_instr){.opcode = VTRN_OP_DMA_COPY,
                                .engine = VTRN_ENGINE_GPSIMD,
                                .update_semaphore = 0,
                                .update_value = 1,
                                .ap = {ap, ap}};
    p->instrs[0].ap[0].slot = 2;
    p->instrs[1] = (vtrn_instr){.opcode = VTRN_OP_CUSTOM_OP,
                                .engine = VTRN_ENGINE_GPSIMD,
                                .n_waits = 1,
                                .wait = {{.semaphore = 0, .value = 1}},
                                .update_semaphore = VTRN_NO_SEMAPHORE};
    return p;
}

static int n_custom_calls;
static bool custom_shall_fail;

static vtrn_status add(void *ctx, const vtrn_program *program, uint32_t custom_i,
                       void *const *inputs, void *const *outputs) {
    (void)ctx;
    assert_string_equal(program->customs[custom_i].name, "add");
    n_custom_calls++;
    const float *a = inputs[0], *b = inputs[1];
    float *y = outputs[0];
    for (int i = 0; i < N; i++)
        y[i] = a[i] + b[i];
    return custom_shall_fail ? VTRN_ERROR(VTRN_UNIMPLEMENTED, "add on a Sunday") : NULL;
}

static void ok(vtrn_status status) {
    if (status)
        fail_msg("%s", vtrn_status_text(status));
}

static runtime_device *open_device(void) {
    runtime_device *d;
    ok(runtime_device_open(NULL, "trn1.2xlarge", 2, &d));
    return d;
}

static runtime_memory *make_input(runtime_device *d, int core_i) {
    runtime_memory *m;
    ok(runtime_memory_create(d, core_i, BYTES, &m));
    for (int i = 0; i < N; i++)
        ((float *)m->host)[i] = (float)i;
    return m;
}

static void check_result(const runtime_memory *m) {
    for (int i = 0; i < N; i++)
        assert_true(((float *)m->host)[i] == (float)(101 * i));
}

static void a_program_runs_on_either_core(void **state) {
    (void)state;
    runtime_device *d = open_device();
    assert_int_equal(d->n_cores, 2);
    runtime_program *l;
    ok(runtime_load(d, make_program(false, d->chip.gen), add, NULL, &l));
    for (int core_i = 0; core_i < 2; core_i++) {
        runtime_memory *in = make_input(d, core_i), *out;
        runtime_call call = {.core_i = core_i, .arguments = &in, .outputs = &out};
        ok(runtime_execute(l, &call));
        check_result(out);
        assert_ptr_not_equal(in, out);
        runtime_memory_release(in);
        runtime_memory_release(out);
    }
    assert_int_equal(l->n_executions, 2);
    assert_int_equal(l->n_timings, 1);
    assert_true(l->timings[0].summary.total_ns > 0);
    assert_true(l->total_simulated_ns == 2 * l->timings[0].summary.total_ns);
    runtime_unload(l);
    hbm_stats stats;
    runtime_memory_stats(d, 0, &stats);
    assert_true(stats.in_use_bytes <= BYTES); /* the core's scratch stays */
    runtime_device_release(d);
}

static void an_aliased_output_takes_the_memory_only_when_allowed(void **state) {
    (void)state;
    runtime_device *d = open_device();
    runtime_program *l;
    ok(runtime_load(d, make_program(true, d->chip.gen), add, NULL, &l));
    runtime_memory *in = make_input(d, 0), *out;
    runtime_call call = {.arguments = &in, .outputs = &out};
    ok(runtime_execute(l, &call));
    check_result(out);
    assert_ptr_not_equal(in, out);
    for (int i = 0; i < N; i++)
        assert_true(((float *)in->host)[i] == (float)i);
    runtime_memory_release(out);
    call.may_reuse = &(bool){true};
    ok(runtime_execute(l, &call));
    check_result(out);
    assert_ptr_equal(in, out);
    runtime_memory_release(in);
    runtime_memory_release(out);
    runtime_unload(l);
    runtime_device_release(d);
}

static void a_failure_gives_no_output_and_leaves_the_device_usable(void **state) {
    (void)state;
    runtime_device *d = open_device();
    runtime_program *l;
    ok(runtime_load(d, make_program(false, d->chip.gen), add, NULL, &l));
    runtime_memory *in = make_input(d, 0), *out;
    runtime_call call = {.arguments = &in, .outputs = &out};
    custom_shall_fail = true;
    vtrn_status status = runtime_execute(l, &call);
    custom_shall_fail = false;
    assert_int_equal(vtrn_status_category(status), VTRN_UNIMPLEMENTED);
    assert_non_null(strstr(vtrn_status_message(status), "add on a Sunday"));
    vtrn_status_free(status);
    assert_null(out);
    ok(runtime_execute(l, &call));
    check_result(out);
    runtime_memory_release(in);
    runtime_memory_release(out);
    runtime_unload(l);
    runtime_device_release(d);
}

static void expect_refusal(vtrn_status status, const char *text) {
    assert_int_equal(vtrn_status_category(status), VTRN_BAD_ARGUMENT);
    if (!strstr(vtrn_status_message(status), text))
        fail_msg("'%s' is not in '%s'", text, vtrn_status_message(status));
    vtrn_status_free(status);
}

static void contradictory_programs_and_arguments_are_refused(void **state) {
    (void)state;
    runtime_device *d = open_device();
    runtime_program *l;
    expect_refusal(runtime_load(d, make_program(false, d->chip.gen + 1), add, NULL, &l),
                   "compile it again");
    vtrn_program *p = make_program(false, d->chip.gen);
    p->slots[2].offset = 64;
    expect_refusal(runtime_load(d, p, add, NULL, &l), "slot 2");
    p = make_program(true, d->chip.gen);
    p->output_alias[0] = 7;
    expect_refusal(runtime_load(d, p, add, NULL, &l), "argument 7");
    ok(runtime_load(d, make_program(false, d->chip.gen), add, NULL, &l));
    runtime_memory *small, *out;
    ok(runtime_memory_create(d, 0, BYTES - 64, &small));
    runtime_call call = {.arguments = &small, .outputs = &out};
    expect_refusal(runtime_execute(l, &call), "argument 0 has 192 bytes");
    call.core_i = 2;
    expect_refusal(runtime_execute(l, &call), "core 2");
    runtime_memory_release(small);
    runtime_unload(l);
    runtime_device_release(d);
}

static void a_request_beyond_the_stack_is_out_of_capacity(void **state) {
    (void)state;
    runtime_device *d = open_device();
    runtime_memory *m;
    vtrn_status status = runtime_memory_create(d, 0, d->chip.hbm_bytes, &m);
    assert_int_equal(vtrn_status_category(status), VTRN_CAPACITY);
    assert_non_null(strstr(vtrn_status_message(status), "largest free block"));
    vtrn_status_free(status);
    ok(runtime_memory_create(d, 0, 4096, &m));
    /* the firmware's part of the stack is not given out */
    assert_true(m->addr >= d->chip.hbm_reserved_stack_bytes);
    runtime_memory_release(m);
    runtime_device_release(d);
}

static void a_chip_and_an_instance_that_contradict_are_refused(void **state) {
    (void)state;
    runtime_device *d;
    expect_refusal(runtime_device_open("trn2", "trn1.2xlarge", 1, &d), "trn1.2xlarge");
    ok(runtime_device_open("trn2", NULL, 1, &d));
    assert_string_equal(d->chip.name, "trn2");
    assert_string_equal(d->instance.chip, "trn2");
    assert_int_equal(d->n_cores, 8); /* its smallest instance has one chip */
    runtime_device_release(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_program_runs_on_either_core),
        cmocka_unit_test(an_aliased_output_takes_the_memory_only_when_allowed),
        cmocka_unit_test(a_failure_gives_no_output_and_leaves_the_device_usable),
        cmocka_unit_test(contradictory_programs_and_arguments_are_refused),
        cmocka_unit_test(a_request_beyond_the_stack_is_out_of_capacity),
        cmocka_unit_test(a_chip_and_an_instance_that_contradict_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
