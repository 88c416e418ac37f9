/* Several ranks of one program: values, time apart from waiting, constants, what is refused. */
#include "isa/asm.h"
#include "runtime/execute.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 1024, BYTES = N * 4, N_RANKS = 4, N_COPIES = 40 };

/* A rank whose partition number is in [1, N_RANKS) copies its operand about many times first; then
 * all add up, and add a constant from the data. */
static const char text[] =
    "program \"sum\" chip \"trn1\" gen 2\n"
    "arguments 1\n"
    "outputs _\n"
    "scratch 4096\n"
    "ranks 1 by 4\n"
    "slot 0 argument fp32 4096 bytes number 0\n"
    "slot 1 output fp32 4096 bytes number 0\n"
    "slot 2 scratch fp32 4096 bytes at 0\n"
    "slot 3 constant fp32 4096 bytes at 0\n"
    "slot 4 rank uint32 4 bytes number 0\n"
    "source 0 \"stablehlo.all_reduce\" \"model.py:42\"\n"
    "custom 0 \"all_reduce\" in 2 out 1 flops 0 blob\n"
    "collective 0 all_reduce add groups 1 by 4: 0 1 2 3\n"
    "exchange fp32 1 by 1 of 1024 from 0 0 0 to 0 0 0\n"
    "data 4096\n"
    "at 0 fp32 7\n"
    "block 0\n"
    "branch hbm[4, 0] zero 2 nonzero 1\n"
    "block 1\n%s"
    "jump 2\n"
    "block 2\n"
    "    Sync dma_copy hbm[2, 0, 1*0]:fp32(1:1024), hbm[0, 0, 1*0]:fp32(1:1024)"
    ", ring 0, inc s0+16\n"
    "    Sync dma_copy hbm[2, 0, 1*0]:fp32(1:1024), hbm[3, 0, 1*0]:fp32(1:1024)"
    ", ring 0, accumulate, wait s0>=16, inc s0+16\n"
    "    CC collective, arg0 0, @0, wait s0>=32\n"
    "stop\n";
static const char copy[] =
    "    Sync dma_copy hbm[2, 0, 1*0]:fp32(1:1024), hbm[0, 0, 1*0]:fp32(1:1024)"
    ", ring 0, inc s0+16\n";

static void ok(vtrn_status status) {
    if (status)
        fail_msg("%s", vtrn_status_message(status));
}

static vtrn_program *make_program(void) {
    char *copies = calloc(N_COPIES + 1, sizeof copy),
         *whole = malloc(sizeof text + N_COPIES * sizeof copy);
    for (int i = 0; i < N_COPIES; i++)
        strcat(copies, copy);
    size_t size = (size_t)sprintf(whole, text, copies);
    vtrn_program *p;
    ok(program_assemble(whole, size, "sum", &p));
    free(copies);
    free(whole);
    return p;
}

typedef struct rig {
    runtime_device *device;
    runtime_program *loaded;
    runtime_memory *arguments[N_RANKS], *outputs[N_RANKS];
    runtime_call calls[N_RANKS];
} rig;

static void open_rig(rig *r, int n_threads, const int cores[N_RANKS]) {
    *r = (rig){.device = NULL};
    ok(runtime_device_open(NULL, "trn1.32xlarge", n_threads, &r->device));
    ok(runtime_load(r->device, make_program(), NULL, NULL, &r->loaded));
    for (int i = 0; i < N_RANKS; i++) {
        ok(runtime_memory_create(r->device, cores[i], BYTES, &r->arguments[i]));
        for (int k = 0; k < N; k++)
            ((float *)r->arguments[i]->host)[k] = (float)(k * (i + 1));
        r->calls[i] = (runtime_call){.core_i = cores[i],
                                     .rank = (uint32_t)i,
                                     .arguments = &r->arguments[i],
                                     .outputs = &r->outputs[i]};
    }
}

static void close_rig(rig *r) {
    for (int i = 0; i < N_RANKS; i++)
        runtime_memory_release(r->arguments[i]);
    runtime_unload(r->loaded);
    runtime_device_release(r->device);
}

static void check_and_release_outputs(rig *r) {
    for (int i = 0; i < N_RANKS; i++) {
        const float *y = (const float *)r->outputs[i]->host;
        for (int k = 0; k < N; k++)
            assert_true(y[k] == (float)(10 * k) + (k == 0 ? 28 : 0));
        runtime_memory_release(r->outputs[i]);
    }
}

static void ranks_add_up_with_any_number_of_threads(void **state) {
    (void)state;
    static const int cores[][N_RANKS] = {{0, 1, 2, 3}, {31, 7, 2, 16}};
    for (int n_threads = 1; n_threads <= 5; n_threads += 2) {
        rig r;
        open_rig(&r, n_threads, cores[n_threads == 3]);
        for (int again = 0; again < 3; again++) {
            ok(runtime_execute_ranks(r.loaded, r.calls, N_RANKS));
            check_and_release_outputs(&r);
        }
        close_rig(&r);
    }
}

/* Rank 0 has nothing to copy, so it waits for the others; these do not wait. */
static void waiting_is_told_apart_from_the_collective(void **state) {
    (void)state;
    rig r;
    open_rig(&r, 2, (const int[]){0, 1, 2, 3});
    ok(runtime_execute_ranks(r.loaded, r.calls, N_RANKS));
    check_and_release_outputs(&r);
    assert_int_equal(r.loaded->n_timings, 1);
    const runtime_timing *t = &r.loaded->timings[r.loaded->last_timing];
    assert_int_equal(t->n_ranks, N_RANKS);
    assert_non_null(t->others); /* traces differ */
    assert_true(t->ranks[0].skew_ns > 10000);
    for (int i = 1; i < N_RANKS; i++)
        assert_true(t->ranks[i].skew_ns == 0);
    for (int i = 0; i < N_RANKS; i++) {
        assert_true(t->ranks[i].collective_ns == t->ranks[0].collective_ns);
        assert_true(t->ranks[i].total_ns == t->ranks[0].total_ns); /* all leave together */
    }
    /* Replayed alone with what it was told, the rank that is shown takes as long. */
    timing_result alone;
    const timing_options options = {.meetings = t->meetings, .n_meetings = t->n_meetings};
    ok(timing_run(r.loaded->model, t->trace, t->n, &options, &alone));
    assert_true(alone.summary.total_ns == t->summary.total_ns);
    timing_result_free(&alone);
    /* The same traces are not timed again. */
    ok(runtime_execute_ranks(r.loaded, r.calls, N_RANKS));
    check_and_release_outputs(&r);
    assert_int_equal(r.loaded->n_timings, 1);
    close_rig(&r);
}

/* Cores of one chip, of a chip below and of one above in the host's address space. */
static void constants_are_kept_once(void **state) {
    (void)state;
    rig r;
    open_rig(&r, 1, (const int[]){8, 9, 0, 30});
    ok(runtime_execute_ranks(r.loaded, r.calls, N_RANKS));
    check_and_release_outputs(&r);
    assert_true(r.loaded->bindings[8].slot_base[3] == r.loaded->bindings[9].slot_base[3]);
    close_rig(&r);
}

static void refused(vtrn_status status, const char *message) {
    assert_int_equal(vtrn_status_category(status), VTRN_BAD_ARGUMENT);
    if (!strstr(vtrn_status_message(status), message))
        fail_msg("%s", vtrn_status_message(status));
    vtrn_status_free(status);
}

static void other_numbers_of_cores_are_refused(void **state) {
    (void)state;
    rig r;
    open_rig(&r, 1, (const int[]){0, 1, 2, 3});
    refused(runtime_execute_ranks(r.loaded, r.calls, 3), "for 4 NeuronCores that exchange data");
    refused(runtime_execute(r.loaded, r.calls), "was given 1");
    r.calls[2].core_i = 32;
    refused(runtime_execute_ranks(r.loaded, r.calls, N_RANKS),
            "core 32: trn1.32xlarge has cores 0..31");
    r.calls[2].core_i = 1;
    refused(runtime_execute_ranks(r.loaded, r.calls, N_RANKS), "ranks 1 and 2 are both on core 1");
    r.calls[2].core_i = 4; /* of another chip than its argument */
    refused(runtime_execute_ranks(r.loaded, r.calls, N_RANKS), "argument 0 lies on core 2");
    for (int i = 0; i < N_RANKS; i++)
        assert_null(r.outputs[i]);
    close_rig(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_add_up_with_any_number_of_threads),
        cmocka_unit_test(waiting_is_told_apart_from_the_collective),
        cmocka_unit_test(constants_are_kept_once),
        cmocka_unit_test(other_numbers_of_cores_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
