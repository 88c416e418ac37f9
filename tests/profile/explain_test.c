/* Causes, the critical path and the gaps of made-up steps whose answers are plain to see. */
#include "profile/profile_explain.h"
#include "profile/profile_idle.h"
#include "profile/profile_path.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_INSTRS = 16, MAX_INTERVALS = 32 };

typedef struct step {
    vtrn_instr instrs[MAX_INSTRS];
    vtrn_block blocks[2];
    vtrn_source sources[4];
    timing_interval intervals[MAX_INTERVALS];
    vtrn_program program;
    timing_result timing;
} step;

static void start(step *s) {
    memset(s, 0, sizeof *s);
    static const vtrn_source sources[] = {{"stablehlo.dot_general", "model.py:10"},
                                          {"stablehlo.tanh", "model.py:20"},
                                          {"stablehlo.add", ""},
                                          {"stablehlo.add", "model.py:20"}};
    memcpy(s->sources, sources, sizeof sources);
    s->program = (vtrn_program){.name = "made up",
                                .instrs = s->instrs,
                                .blocks = s->blocks,
                                .sources = s->sources,
                                .n_sources = 4};
    s->timing.summary.flops = 1000000;
    s->timing.intervals = s->intervals;
    s->timing.summary.hbm_read_bytes = 4000;
}

/* The instruction that the next ran() is of. */
static vtrn_instr *add(step *s, vtrn_opcode opcode, vtrn_engine engine, uint32_t source) {
    vtrn_instr *i = &s->instrs[s->program.n_instrs++];
    *i = (vtrn_instr){.opcode = opcode,
                      .engine = engine,
                      .source = source,
                      .update_semaphore = VTRN_NO_SEMAPHORE};
    return i;
}

static void raises(vtrn_instr *i, uint16_t semaphore, uint16_t by) {
    i->update_semaphore = semaphore;
    i->update_value = by;
}

static void waits(vtrn_instr *i, uint16_t semaphore, uint32_t value) {
    i->wait[i->n_waits++] = (vtrn_wait){.semaphore = semaphore, .value = value};
}

static void ran_instr(step *s, uint32_t instr, int lane, double start_ns, double end_ns) {
    s->intervals[s->timing.n_intervals++] = (timing_interval){
        .start_ns = start_ns, .end_ns = end_ns, .instr = instr, .lane = (uint16_t)lane};
    timing_summary *t = &s->timing.summary;
    if (lane >= TIMING_LANE_DMA)
        t->dma_active_ns += end_ns - start_ns;
    else if (!isa_is_dma((vtrn_opcode)s->instrs[instr].opcode))
        t->active_ns[lane] += end_ns - start_ns;
    if (end_ns > t->total_ns)
        t->total_ns = end_ns;
}

static void ran(step *s, int lane, double start_ns, double end_ns) {
    ran_instr(s, s->program.n_instrs - 1, lane, start_ns, end_ns);
}

/* One block of all instructions: each engine's are together, as the tests add them. */
static void one_block(step *s) {
    s->program.n_blocks = 1;
    for (uint32_t i = s->program.n_instrs; i-- > 0;) {
        int e = s->instrs[i].engine;
        s->blocks[0].first[e] = i;
        s->blocks[0].count[e]++;
    }
}

/* A load (0), its transfer (1), two adds that wait for it and for each other (2, 3), a tanh that
 * waits for the second add (4), and a second load that nothing waits for (5, 6). */
static void build_chain(step *s) {
    start(s);
    raises(add(s, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC, 0), 0, 16);
    ran(s, VTRN_ENGINE_SYNC, 0, 50);
    ran(s, TIMING_LANE_DMA, 1050, 2000);
    waits(add(s, VTRN_OP_TENSOR_TENSOR, VTRN_ENGINE_VECTOR, 2), 0, 16);
    ran(s, VTRN_ENGINE_VECTOR, 2100, 2600);
    raises(add(s, VTRN_OP_TENSOR_TENSOR, VTRN_ENGINE_VECTOR, 3), 1, 1);
    ran(s, VTRN_ENGINE_VECTOR, 2500, 3000);
    waits(add(s, VTRN_OP_ACTIVATE, VTRN_ENGINE_SCALAR, 1), 1, 1);
    ran(s, VTRN_ENGINE_SCALAR, 3080, 3400);
    one_block(s);
}

static void an_instruction_is_linked_to_what_it_waited_for_last(void **state) {
    (void)state;
    step s;
    build_chain(&s);
    profile_path path;
    assert_null(profile_path_create(&s.program, &s.timing, &path));
    static const profile_link want[] = {{PROFILE_NO_INTERVAL, PROFILE_CAUSE_LAUNCH, 0},
                                        {0, PROFILE_CAUSE_TRIGGER, 0},
                                        {1, PROFILE_CAUSE_SEMAPHORE, 0},
                                        {2, PROFILE_CAUSE_QUEUE, 0},
                                        {3, PROFILE_CAUSE_SEMAPHORE, 1}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        assert_int_equal(path.links[i].interval, want[i].interval);
        assert_int_equal(path.links[i].cause, want[i].cause);
        assert_int_equal(path.links[i].semaphore, want[i].semaphore);
    }
    profile_path_free(&path);
}

static void gaps_and_works_of_the_path_add_up_to_it(void **state) {
    (void)state;
    step s;
    build_chain(&s);
    profile_path path;
    assert_null(profile_path_create(&s.program, &s.timing, &path));
    assert_int_equal(path.n_steps, 5);
    double sum_ns = 0;
    for (size_t i = 0; i < path.n_steps; i++) {
        assert_true(path.steps[i].gap_ns >= 0 && path.steps[i].work_ns >= 0);
        sum_ns += path.steps[i].gap_ns + path.steps[i].work_ns;
    }
    assert_float_equal(sum_ns, path.end_ns - path.start_ns, 1e-9);
    assert_float_equal(path.end_ns, 3400, 1e-9);
    assert_float_equal(path.steps[1].gap_ns, 1000, 1e-9); /* trigger to first byte */
    assert_float_equal(path.steps[2].work_ns, 400, 1e-9); /* until the next one enters */
    profile_path_free(&path);
}

static void a_semaphore_counts_what_several_raised(void **state) {
    (void)state;
    step s;
    start(&s);
    raises(add(&s, VTRN_OP_TENSOR_TENSOR, VTRN_ENGINE_VECTOR, 2), 7, 1);
    ran(&s, VTRN_ENGINE_VECTOR, 0, 100);
    raises(add(&s, VTRN_OP_TENSOR_TENSOR, VTRN_ENGINE_VECTOR, 2), 7, 1);
    ran(&s, VTRN_ENGINE_VECTOR, 100, 200);
    waits(add(&s, VTRN_OP_ACTIVATE, VTRN_ENGINE_SCALAR, 1), 7, 1);
    ran(&s, VTRN_ENGINE_SCALAR, 110, 150);
    waits(add(&s, VTRN_OP_ACTIVATE, VTRN_ENGINE_SCALAR, 1), 7, 2);
    ran(&s, VTRN_ENGINE_SCALAR, 210, 250);
    one_block(&s);
    profile_path path;
    assert_null(profile_path_create(&s.program, &s.timing, &path));
    assert_int_equal(path.links[2].interval, 0);
    assert_int_equal(path.links[3].interval, 1);
    assert_int_equal(path.links[3].cause, PROFILE_CAUSE_SEMAPHORE);
    profile_path_free(&path);
}

static void a_transfer_behind_another_is_linked_to_it(void **state) {
    (void)state;
    step s;
    start(&s);
    for (int i = 0; i < 2; i++) {
        add(&s, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC, 0);
        ran(&s, VTRN_ENGINE_SYNC, 50 * i, 50 * i + 50);
        ran(&s, TIMING_LANE_DMA + i, i ? 5000 : 1050, i ? 6000 : 5500);
    }
    one_block(&s);
    profile_path path;
    assert_null(profile_path_create(&s.program, &s.timing, &path));
    assert_int_equal(path.links[3].cause, PROFILE_CAUSE_TRANSFER);
    assert_int_equal(path.links[3].interval, 1);
    assert_int_equal(path.n_steps, 3); /* the first trigger, both transfers */
    assert_float_equal(path.steps[1].work_ns, 5000 - 1050, 1e-9);
    profile_path_free(&path);
}

/* The loop's body is one block: its semaphores start at 0 again in each run. */
static void a_block_that_runs_again_waits_for_its_own_run(void **state) {
    (void)state;
    step s;
    start(&s);
    raises(add(&s, VTRN_OP_TENSOR_TENSOR, VTRN_ENGINE_VECTOR, 2), 3, 1);
    waits(add(&s, VTRN_OP_ACTIVATE, VTRN_ENGINE_SCALAR, 1), 3, 1);
    one_block(&s);
    for (int k = 0; k < 3; k++) {
        ran_instr(&s, 0, VTRN_ENGINE_VECTOR, 1000 * k, 1000 * k + 100);
        ran_instr(&s, 1, VTRN_ENGINE_SCALAR, 1000 * k + 150, 1000 * k + 300);
    }
    profile_path path;
    assert_null(profile_path_create(&s.program, &s.timing, &path));
    for (uint32_t k = 0; k < 3; k++) {
        assert_int_equal(path.links[2 * k + 1].interval, 2 * k);
        assert_int_equal(path.links[2 * k + 1].cause, PROFILE_CAUSE_SEMAPHORE);
        if (k > 0) {
            assert_int_equal(path.links[2 * k].interval, 2 * k - 1);
            assert_int_equal(path.links[2 * k].cause, PROFILE_CAUSE_MEETING);
        }
    }
    assert_int_equal(path.n_steps, 6);
    profile_path_free(&path);
}

static void gaps_of_an_engine_name_the_raiser_and_its_semaphore(void **state) {
    (void)state;
    step s;
    build_chain(&s);
    profile_path path;
    profile_lines lines;
    profile_idle idle;
    assert_null(profile_path_create(&s.program, &s.timing, &path));
    assert_null(profile_lines_create(&s.program, &lines));
    assert_int_equal(lines.of_source[1], lines.of_source[3]); /* one line, two operations */
    assert_null(
        profile_idle_create(&s.program, &s.timing, &path, &lines, VTRN_ENGINE_SCALAR, &idle));
    assert_float_equal(idle.idle_ns, 3080, 1e-9);
    assert_int_equal(idle.n_waits, 1);
    assert_int_equal(idle.waits[0].semaphore, 1);
    assert_int_equal(idle.waits[0].worker, VTRN_ENGINE_VECTOR);
    assert_string_equal(lines.names[idle.waits[0].cause_line], "model.py:20");
    profile_idle_free(&idle);
    assert_null(
        profile_idle_create(&s.program, &s.timing, &path, &lines, VTRN_ENGINE_VECTOR, &idle));
    assert_float_equal(idle.idle_ns, 2100 + 400, 1e-9); /* before and after, not between */
    assert_int_equal(idle.n_gaps, 1);
    assert_int_equal(idle.waits[0].worker, PROFILE_WORKER_DMA);
    assert_string_equal(lines.names[idle.waits[0].line], "stablehlo.add");
    profile_idle_free(&idle);
    profile_lines_free(&lines);
    profile_path_free(&path);
}

static void overlap_adds_up_to_the_step(void **state) {
    (void)state;
    step s;
    build_chain(&s);
    profile_overlap overlap;
    assert_null(profile_overlap_measure(&s.program, &s.timing, &overlap));
    assert_float_equal(overlap.ns[0], 1050 + 100 + 80, 1e-9);
    assert_float_equal(overlap.ns[1], 950 + 900 + 320, 1e-9);
    assert_float_equal(overlap.ns[2], 0, 1e-9);
}

/* Whether a sentence of the explanation has all three texts. */
static bool says(const profile_explanation *e, const char *a, const char *b, const char *c) {
    for (int i = 0; i < e->n; i++)
        for (int k = 0; k < e->sections[i].n; k++) {
            const char *text = profile_sentence(&e->sections[i], k);
            if (strstr(text, a) && strstr(text, b) && strstr(text, c))
                return true;
        }
    return false;
}

static void sentences_name_lines_engines_and_figures(void **state) {
    (void)state;
    step s;
    build_chain(&s);
    const vtrn_chip chip = {.peak_tensor_flops = 1e12, .hbm_bytes_per_s = 4e9};
    const profile_input in = {.program = &s.program, .chip = &chip, .timing = &s.timing};
    profile_explanation e;
    assert_null(profile_explain(&in, &e));
    assert_int_equal(e.n, 4);
    assert_true(says(&e, "5 members", "3.40 us", "launch"));
    assert_true(says(&e, "DMA 27.9 %", "Vector 26.5 %", "Scalar 9.4 %"));
    assert_true(says(&e, "model.py:10 (DMA 27.9 %, Sync 1.5 %, waiting 29.4 %)", "", ""));
    assert_false(says(&e, "(,", "", ""));
    assert_true(says(&e, "Vector, the busiest engine", "2.50 us", "73.5 %"));
    assert_true(
        says(&e, "tensor_tensor", "until DMA has done dma_copy of model.py:10", "semaphore 0"));
    /* 1 us of products, 1 us of bytes, in a step of 3.4 us */
    assert_true(says(&e, "1.00 MFLOP", "1.00 us", "3.91 KiB"));
    assert_true(says(&e, "250.0 FLOP a byte", "bends at 250.0", "29.4 %"));
    profile_explanation_free(&e);
}

static void a_step_without_intervals_has_its_roofline(void **state) {
    (void)state;
    step s;
    start(&s);
    s.timing.intervals = NULL;
    s.timing.summary.total_ns = 2000;
    const vtrn_chip chip = {.peak_tensor_flops = 1e12, .hbm_bytes_per_s = 4e9};
    const profile_input in = {.program = &s.program, .chip = &chip, .timing = &s.timing};
    profile_explanation e;
    assert_null(profile_explain(&in, &e));
    assert_int_equal(e.n, 1);
    assert_true(says(&e, "50.0 %", "roof", ""));
    profile_explanation_free(&e);
}

static void intervals_of_no_instruction_are_passed_over(void **state) {
    (void)state;
    step s;
    build_chain(&s);
    ran_instr(&s, MAX_INSTRS - 1, VTRN_ENGINE_VECTOR, 3500, 3600);
    s.intervals[s.timing.n_intervals - 1].instr = 4000000;
    s.intervals[0].instr = 4000000;
    const vtrn_chip chip = {.peak_tensor_flops = 1e12, .hbm_bytes_per_s = 4e9};
    const profile_input in = {.program = &s.program, .chip = &chip, .timing = &s.timing};
    profile_explanation e;
    assert_null(profile_explain(&in, &e));
    assert_int_equal(e.n, 4);
    profile_explanation_free(&e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_instruction_is_linked_to_what_it_waited_for_last),
        cmocka_unit_test(gaps_and_works_of_the_path_add_up_to_it),
        cmocka_unit_test(a_semaphore_counts_what_several_raised),
        cmocka_unit_test(a_transfer_behind_another_is_linked_to_it),
        cmocka_unit_test(a_block_that_runs_again_waits_for_its_own_run),
        cmocka_unit_test(gaps_of_an_engine_name_the_raiser_and_its_semaphore),
        cmocka_unit_test(overlap_adds_up_to_the_step),
        cmocka_unit_test(sentences_name_lines_engines_and_figures),
        cmocka_unit_test(a_step_without_intervals_has_its_roofline),
        cmocka_unit_test(intervals_of_no_instruction_are_passed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
