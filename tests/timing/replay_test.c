/* Timelines of tiny programs against times worked out by hand, and laws that every timeline keeps.
 */
#include "round_chip.h"
#include "tiny.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static tiny t;
static timing_result result;

static void replay(const vtrn_chip *chip) {
    const uint32_t trace[] = {0};
    vtrn_status status = timing_replay(chip, tiny_finish(&t), trace, 1, true, &result);
    if (status)
        fail_msg("%s", vtrn_status_message(status));
}

/* Interval number nth of a lane, in order of start; times from the launch's preamble on. */
static timing_interval interval(int lane, int nth) {
    for (size_t i = 0; i < result.n_intervals; i++)
        if (result.intervals[i].lane == lane && nth-- == 0) {
            timing_interval found = result.intervals[i];
            found.start_ns -= 1000;
            found.end_ns -= 1000;
            return found;
        }
    fail_msg("no such interval on lane %d", lane);
    return (timing_interval){0};
}

static void assert_interval(int lane, int nth, double start_ns, double end_ns) {
    timing_interval i = interval(lane, nth);
    assert_ns(i.start_ns, start_ns);
    assert_ns(i.end_ns, end_ns);
}

static void an_empty_program_takes_the_launch_alone(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    tiny_init(&t);
    replay(&chip);
    assert_ns(result.summary.total_ns, 1500);
    timing_result_free(&result);
}

static void independent_instructions_of_a_queue_start_an_initiation_interval_apart(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    tiny_init(&t);
    for (int i = 0; i < 3; i++)
        tiny_add2(&t, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_SCALAR,
                  tiny_sbuf(VTRN_DTYPE_FP32, 128, 512, 4096 + i * 4096),
                  tiny_sbuf(VTRN_DTYPE_FP32, 128, 512, 0));
    replay(&chip);
    assert_interval(VTRN_ENGINE_SCALAR, 0, 0, 512 + 170);
    assert_interval(VTRN_ENGINE_SCALAR, 1, 562, 562 + 682);
    assert_interval(VTRN_ENGINE_SCALAR, 2, 1124, 1124 + 682);
    assert_ns(result.summary.active_ns[VTRN_ENGINE_SCALAR], 1806);
    assert_ns(result.summary.total_ns, 1000 + 1806 + 500);
    timing_result_free(&result);
}

static void an_instruction_waits_for_the_result_it_reads_in_its_own_queue(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    tiny_init(&t);
    vtrn_ap a = tiny_sbuf(VTRN_DTYPE_FP32, 128, 512, 0),
            b = tiny_sbuf(VTRN_DTYPE_FP32, 128, 512, 4096);
    tiny_add2(&t, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_SCALAR, b, a);
    tiny_add2(&t, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_SCALAR, a, b);
    replay(&chip);
    /* 10 to post its semaphore, 20 to wake. */
    assert_interval(VTRN_ENGINE_SCALAR, 1, 712, 712 + 682);
    timing_result_free(&result);
}

static void a_waiting_queue_starts_when_the_semaphore_arrives_and_it_has_woken(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    tiny_init(&t);
    vtrn_ap a = tiny_sbuf(VTRN_DTYPE_FP32, 128, 512, 0),
            b = tiny_sbuf(VTRN_DTYPE_FP32, 128, 512, 4096);
    tiny_signal(tiny_add2(&t, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_SCALAR, b, a), 7, 1);
    tiny_wait(tiny_add2(&t, VTRN_OP_TENSOR_REDUCE, VTRN_ENGINE_VECTOR,
                        tiny_sbuf(VTRN_DTYPE_FP32, 128, 1, 8192), b),
              7, 1);
    replay(&chip);
    double start_ns = 682 + 10 + 20;
    assert_interval(VTRN_ENGINE_VECTOR, 0, start_ns, start_ns + 512 + 160);
    assert_ns(interval(VTRN_ENGINE_VECTOR, 0).wait_ns, start_ns);
    timing_result_free(&result);
}

static void a_wait_for_a_sum_takes_the_update_that_completes_it(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    tiny_init(&t);
    vtrn_ap a = tiny_sbuf(VTRN_DTYPE_FP32, 128, 512, 0);
    for (int i = 0; i < 2; i++)
        tiny_signal(tiny_add2(&t, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_SCALAR,
                              tiny_sbuf(VTRN_DTYPE_FP32, 128, 512, 4096 + 4096 * i), a),
                    7, 3);
    tiny_signal(tiny_add2(&t, VTRN_OP_TENSOR_REDUCE, VTRN_ENGINE_VECTOR,
                          tiny_sbuf(VTRN_DTYPE_FP32, 128, 1, 20000), a),
                7, 1);
    tiny_wait(tiny_add(&t, VTRN_OP_EVENT_SEMAPHORE, VTRN_ENGINE_SYNC), 7, 5);
    replay(&chip);
    /* 1 at 682 (Vector), 4 at 692 (Scalar), 7 at 562 + 682 + 10. */
    assert_ns(interval(VTRN_ENGINE_SYNC, 0).start_ns, 562 + 682 + 10 + 20);
    timing_result_free(&result);
}

static void a_semaphore_that_nobody_raises_is_a_deadlock_with_its_name(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    const uint32_t trace[] = {0};
    tiny_init(&t);
    tiny_wait(tiny_add(&t, VTRN_OP_EVENT_SEMAPHORE, VTRN_ENGINE_SYNC), 9, 2);
    vtrn_status status = timing_replay(&chip, tiny_finish(&t), trace, 1, false, &result);
    assert_int_equal(vtrn_status_category(status), VTRN_DEADLOCK);
    assert_non_null(strstr(vtrn_status_message(status), "Sync at instruction 0, waits for "
                                                        "semaphore 9 >= 2"));
    vtrn_status_free(status);
}

static void blocks_meet_and_pay_for_the_branch_between_them(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    const uint32_t trace[] = {0, 0, 0};
    tiny_init(&t);
    tiny_add(&t, VTRN_OP_EVENT_SEMAPHORE, VTRN_ENGINE_SYNC);
    t.block.end = VTRN_END_JUMP;
    assert_null(timing_replay(&chip, tiny_finish(&t), trace, 3, false, &result));
    assert_ns(result.summary.total_ns, 1000 + 3 * (10 + 300 + 200) + 500);
    assert_null(result.intervals);
    timing_result_free(&result);
}

static void add_matmul(vtrn_dtype dtype, uint32_t n) {
    tiny_add2(&t, VTRN_OP_LDWEIGHTS, VTRN_ENGINE_TENSOR, (vtrn_ap){0},
              tiny_sbuf(dtype, 128, 128, 0));
    tiny_add2(&t, VTRN_OP_MATMUL, VTRN_ENGINE_TENSOR, tiny_psum(VTRN_DTYPE_FP32, 128, n, 0),
              tiny_sbuf(dtype, 128, n, 4096));
}

static void weights_load_behind_the_running_matmul(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    tiny_init(&t);
    for (int i = 0; i < 3; i++)
        add_matmul(VTRN_DTYPE_BF16, 512);
    replay(&chip);
    assert_interval(VTRN_ENGINE_TENSOR, 0, 0, 32 + 40);
    assert_interval(VTRN_ENGINE_TENSOR, 1, 32, 32 + 512 + 150);
    assert_interval(VTRN_ENGINE_TENSOR, 2, 32, 64 + 40);
    assert_interval(VTRN_ENGINE_TENSOR, 3, 544, 544 + 662);
    assert_interval(VTRN_ENGINE_TENSOR, 5, 1056, 1056 + 662);
    timing_result_free(&result);
}

static void slow_weight_loads_bound_the_matmuls(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.cost.ldweights_cols_per_cycle = 0.5; /* 256 cycles */
    tiny_init(&t);
    for (int i = 0; i < 3; i++)
        add_matmul(VTRN_DTYPE_BF16, 128);
    replay(&chip);
    assert_ns(interval(VTRN_ENGINE_TENSOR, 5).start_ns - interval(VTRN_ENGINE_TENSOR, 3).start_ns,
              256);
    timing_result_free(&result);
}

static void the_pe_array_is_cold_until_a_window_was_half_busy(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.launch.preamble_ns = 0;
    chip.cost.tensor_warm_ns = 4096;
    chip.cost.tensor_cold_factor = 2;
    chip.cost.tensor_cold_latency_ns = 60;
    tiny_init(&t);
    for (int i = 0; i < 12; i++)
        tiny_add2(&t, VTRN_OP_MATMUL, VTRN_ENGINE_TENSOR, tiny_psum(VTRN_DTYPE_FP32, 128, 512, 0),
                  tiny_sbuf(VTRN_DTYPE_BF16, 128, 512, 4096));
    replay(&chip);
    /* Cold: 1024 ns each, so four fill the first window; then 512. */
    assert_ns(result.intervals[0].end_ns, 1024 + 150 + 60);
    assert_ns(result.intervals[3].start_ns, 3072);
    assert_ns(result.intervals[4].start_ns, 4096);
    assert_ns(result.intervals[5].start_ns, 4608);
    assert_ns(result.intervals[5].end_ns, 4608 + 662);
    timing_result_free(&result);
}

static void a_window_of_the_pe_array_counts_work_and_begins_where_it_is_told(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.launch.preamble_ns = 0;
    chip.cost.tensor_warm_ns = 4096;
    chip.cost.tensor_warm_share = 0.5;
    chip.cost.tensor_cold_factor = 2;
    chip.cost.tensor_cold_latency_ns = 0;
    const uint32_t trace[] = {0};
    /* A cold window is never more than half work. One that ends at 1024 has seen too little. */
    const double begins_ns[] = {0, 1024, 5 * 4096 + 1024}, first_warm_ns[] = {4096, 5120, 5120};
    for (int i = 0; i < 3; i++) {
        tiny_init(&t);
        for (int k = 0; k < 16; k++)
            tiny_add2(&t, VTRN_OP_MATMUL, VTRN_ENGINE_TENSOR,
                      tiny_psum(VTRN_DTYPE_FP32, 128, 512, 0),
                      tiny_sbuf(VTRN_DTYPE_BF16, 128, 512, 4096));
        timing_model *model;
        timing_options options = {.want_intervals = true, .pe_window_ns = begins_ns[i]};
        assert_null(timing_prepare(&chip, tiny_finish(&t), &model));
        assert_null(timing_run(model, trace, 1, &options, &result));
        timing_model_destroy(model);
        size_t warm = 0;
        while (result.intervals[warm + 1].start_ns - result.intervals[warm].start_ns > 600)
            warm++;
        assert_ns(result.intervals[warm].start_ns, first_warm_ns[i]);
        timing_result_free(&result);
    }
}

static void an_idle_window_makes_the_pe_array_cold_again(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.launch.preamble_ns = 0;
    chip.cost.tensor_warm_ns = 4096;
    chip.cost.tensor_cold_factor = 2;
    chip.cost.tensor_cold_latency_ns = 0;
    tiny_init(&t);
    vtrn_ap in = tiny_sbuf(VTRN_DTYPE_BF16, 128, 512, 4096),
            out = tiny_psum(VTRN_DTYPE_FP32, 128, 512, 0);
    for (int i = 0; i < 6; i++)
        tiny_add2(&t, VTRN_OP_MATMUL, VTRN_ENGINE_TENSOR, out, in);
    tiny_wait(tiny_add2(&t, VTRN_OP_MATMUL, VTRN_ENGINE_TENSOR, out, in), 1, 1);
    vtrn_ap far = tiny_sbuf(VTRN_DTYPE_FP32, 128, 14000, 0);
    tiny_signal(tiny_add2(&t, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_SCALAR, far, far), 1, 1);
    replay(&chip);
    timing_interval last = {0};
    for (size_t i = 0; i < result.n_intervals; i++)
        if (result.intervals[i].lane == VTRN_ENGINE_TENSOR)
            last = result.intervals[i];
    assert_ns(last.start_ns, 14000 + 170 + 10 + 20);
    assert_ns(last.end_ns - last.start_ns, 1024 + 150);
    timing_result_free(&result);
}

static double overlapped_end(bool is_shared) {
    vtrn_chip chip = round_chip();
    chip.cost.vector_gpsimd_share_sbuf = is_shared;
    chip.cost.vector_overhead_ns = 0;
    chip.cost.vector_two_input_factor = 1;
    tiny_init(&t);
    vtrn_instr *add = tiny_add2(&t, VTRN_OP_TENSOR_TENSOR, VTRN_ENGINE_VECTOR,
                                tiny_sbuf(VTRN_DTYPE_FP32, 128, 2000, 0),
                                tiny_sbuf(VTRN_DTYPE_FP32, 128, 2000, 8000));
    add->ap[2] = add->ap[1];
    tiny_add2(&t, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_GPSIMD,
              tiny_sbuf(VTRN_DTYPE_FP32, 128, 1000, 30000),
              tiny_sbuf(VTRN_DTYPE_FP32, 128, 1000, 40000));
    replay(&chip);
    double end_ns = interval(VTRN_ENGINE_GPSIMD, 0).end_ns;
    timing_result_free(&result);
    return end_ns;
}

static void vector_and_gpsimd_take_turns_where_the_chip_shares_the_sbuf_port(void **state) {
    (void)state;
    assert_ns(overlapped_end(false), 1000);
    assert_ns(overlapped_end(true), 3000);
}

static void a_custom_op_costs_its_arithmetic_or_its_traffic(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.custom.start_ns = 1000;
    chip.custom.flops_per_s = 1e9;
    chip.custom.bytes_per_s = 1e9;
    tiny_init(&t);
    t.custom_slots[1] = 1;
    t.customs[0] =
        (vtrn_custom){.n_inputs = 1, .n_outputs = 1, .slots = t.custom_slots, .flops = 50};
    t.slots[0].size_bytes = 300;
    t.slots[1].size_bytes = 100;
    t.program.n_customs = 1;
    tiny_add(&t, VTRN_OP_CUSTOM_OP, VTRN_ENGINE_GPSIMD);
    replay(&chip);
    assert_ns(result.summary.custom_ns, 1400);
    assert_int_equal(result.summary.hbm_read_bytes, 300);
    assert_int_equal(result.summary.hbm_write_bytes, 100);
    timing_result_free(&result);
}

static vtrn_instr *add_load(int partitions, uint32_t n, int queue) {
    vtrn_instr *dma = tiny_add2(&t, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC,
                                tiny_sbuf(VTRN_DTYPE_FP32, partitions, n, 0),
                                tiny_hbm(VTRN_DTYPE_FP32, partitions, n));
    dma->queue = (uint8_t)queue;
    return dma;
}

static void a_dma_deals_its_rows_over_the_engines_and_signals_after_the_last_byte(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    tiny_init(&t);
    tiny_signal(add_load(128, 256, 3), 5, 16);
    tiny_wait(tiny_add(&t, VTRN_OP_EVENT_SEMAPHORE, VTRN_ENGINE_VECTOR), 5, 16);
    replay(&chip);
    /* 8 rows of 1024 B an engine: 8 * (10 + 102.4). */
    double data_ns = 8 * 112.4;
    assert_interval(VTRN_ENGINE_SYNC, 0, 0, 100);
    assert_interval(TIMING_LANE_DMA + 3, 0, 800, 800 + data_ns);
    assert_ns(interval(VTRN_ENGINE_VECTOR, 0).start_ns, 800 + data_ns + 300 + 20);
    assert_int_equal(result.summary.hbm_read_bytes, 128 * 1024);
    assert_int_equal(result.summary.hbm_write_bytes, 0);
    assert_int_equal(result.summary.n_dmas, 1);
    assert_ns(result.summary.dma_active_ns, data_ns);
    timing_result_free(&result);
}

static void dma_engines_start_one_after_the_other(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.dma.engine_skew_ns = 10;
    tiny_init(&t);
    add_load(128, 256, 3);
    replay(&chip);
    assert_interval(TIMING_LANE_DMA + 3, 0, 800, 800 + 15 * 10 + 8 * 112.4);
    timing_result_free(&result);
}

static void a_transfer_fits_before_one_of_another_ring_that_is_ready_later(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.dma.uses_dge = true;
    chip.dma.dge_trigger_ns = 500;
    chip.dma.dge_gpsimd_ns = 600;
    chip.dma.dge_gpsimd_latency_ns = 2000;
    chip.dma.dge_interval_ns = 0;
    for (int is_same_ring = 0; is_same_ring < 2; is_same_ring++) {
        tiny_init(&t);
        add_load(128, 1, 0)->engine = VTRN_ENGINE_GPSIMD; /* ready at 2700 */
        vtrn_instr *later =
            add_load(128, 1, is_same_ring ? 0 : 1); /* ready at 1220 and 83.2 long */
        tiny_signal(tiny_add(&t, VTRN_OP_EVENT_SEMAPHORE, VTRN_ENGINE_VECTOR), 0, 1);
        tiny_wait(later, 0, 1); /* at 10 + 10 + 20: behind GpSimd's */
        replay(&chip);
        double start_ns = 40 + 500 + 700;
        assert_ns(interval(VTRN_ENGINE_SYNC, 0).start_ns, 40);
        double end_ns = start_ns + 8 * 10.4; /* nor does it wait for the other's share of HBM */
        if (is_same_ring)
            assert_ns(interval(TIMING_LANE_DMA, 1).start_ns, 2700 + 8 * 10.4);
        else
            assert_interval(TIMING_LANE_DMA + 1, 0, start_ns, end_ns);
        timing_result_free(&result);
    }
}

static void a_transfer_that_ends_first_is_seen_first(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.hbm_bytes_per_s = 1e15;
    tiny_init(&t);
    tiny_signal(add_load(64, 4096, 0), 1, 16); /* engines 0 to 7 */
    vtrn_instr *small = add_load(1, 1, 1);
    small->ap[0].partition = 120; /* engine 15 */
    tiny_signal(small, 2, 16);
    tiny_wait(tiny_add(&t, VTRN_OP_EVENT_SEMAPHORE, VTRN_ENGINE_VECTOR), 2, 16);
    replay(&chip);
    assert_ns(interval(VTRN_ENGINE_VECTOR, 0).start_ns, 200 + 700 + 10.4 + 300 + 20);
    timing_result_free(&result);
}

static void small_transfers_beside_a_long_one_wait_for_each_others_updates(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.hbm_bytes_per_s = 1e15;
    chip.dma.trigger_ns = 0;
    tiny_init(&t);
    tiny_signal(add_load(64, 4096, 0), 1, 16); /* engines 0 to 7 */
    for (int i = 0; i < 4; i++) {
        vtrn_instr *small = add_load(1, 1, 1 + i);
        small->ap[0].partition = (uint16_t)(64 + 8 * i); /* engines 8 to 11 */
        tiny_signal(small, 2, 16);
    }
    tiny_wait(tiny_add(&t, VTRN_OP_EVENT_SEMAPHORE, VTRN_ENGINE_VECTOR), 2, 4 * 16);
    replay(&chip);
    double updates_ns = 3 * 16 * 10; /* of the other three */
    assert_ns(interval(VTRN_ENGINE_VECTOR, 0).start_ns, 700 + 10.4 + 300 + updates_ns + 20);
    timing_result_free(&result);
}

static void a_dge_makes_descriptors_of_one_dma_after_the_other(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.dma.uses_dge = true;
    chip.dma.dge_trigger_ns = 500;
    chip.dma.dge_interval_ns = 800;
    tiny_init(&t);
    for (int i = 0; i < 3; i++)
        add_load(128, 1, i);
    add_load(128, 1, 3)->engine = VTRN_ENGINE_SCALAR;
    replay(&chip);
    /* Scalar has a DGE of its own; its load and Sync's first are ready at once and share engines.
     */
    assert_ns(interval(TIMING_LANE_DMA + 3, 0).start_ns, 500 + 700);
    assert_ns(interval(TIMING_LANE_DMA + 0, 0).start_ns, 500 + 700 + 8 * 10.4);
    assert_ns(interval(TIMING_LANE_DMA + 1, 0).start_ns, 500 + 800 + 700);
    assert_ns(interval(TIMING_LANE_DMA + 2, 0).start_ns, 500 + 2 * 800 + 700);
    timing_result_free(&result);
}

static void back_to_back_dmas_approach_the_bandwidth_of_the_engines(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.dma.load_element_ns = 0;
    tiny_init(&t);
    for (int i = 0; i < 64; i++)
        add_load(128, 4096, i % 4);
    replay(&chip);
    double bytes = 64.0 * 128 * 4096 * 4, ideal_ns = bytes / (16 * 10.0);
    double body_ns = result.summary.total_ns - 1500;
    assert_true(body_ns > ideal_ns);
    assert_true(body_ns < 1.01 * ideal_ns);
    assert_true(result.summary.dma_busy_share > 0.99 && result.summary.dma_busy_share <= 1);
    timing_result_free(&result);
}

static void the_hbm_share_bounds_what_the_engines_could_move(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.hbm_bytes_per_s = 80e9; /* the engines could move 160 */
    const uint32_t trace[] = {0};
    double body_ns[2];
    for (int cores = 1; cores <= 2; cores++) {
        tiny_init(&t);
        for (int i = 0; i < 16; i++)
            add_load(128, 4096, 0);
        timing_model *model;
        timing_options options = {.active_cores_per_stack = cores};
        assert_null(timing_prepare(&chip, tiny_finish(&t), &model));
        assert_null(timing_run(model, trace, 1, &options, &result));
        body_ns[cores - 1] = result.summary.total_ns - 1500;
        timing_model_destroy(model);
        timing_result_free(&result);
    }
    double bytes = 16.0 * 128 * 4096 * 4;
    assert_ns(body_ns[0], 800 + bytes / 80 + 300);
    assert_ns(body_ns[1], 800 + bytes / 40 + 300);
}

static uint32_t random_u32(uint64_t *seed) {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return (uint32_t)(*seed >> 32);
}

static void more_elements_are_never_faster(void **state) {
    (void)state;
    static const char *const names[] = {"trn1", "inf2", "trn2", "trn3"};
    static const vtrn_opcode opcodes[] = {
        VTRN_OP_TENSOR_COPY, VTRN_OP_TENSOR_TENSOR, VTRN_OP_TENSOR_REDUCE, VTRN_OP_RECIPROCAL,
        VTRN_OP_MATMUL,      VTRN_OP_DMA_COPY,      VTRN_OP_ACTIVATE};
    static const vtrn_engine engines[] = {
        VTRN_ENGINE_VECTOR, VTRN_ENGINE_VECTOR, VTRN_ENGINE_VECTOR, VTRN_ENGINE_VECTOR,
        VTRN_ENGINE_TENSOR, VTRN_ENGINE_SYNC,   VTRN_ENGINE_SCALAR};
    uint64_t seed = 0x9e3779b97f4a7c15u;
    for (int round = 0; round < 400; round++) {
        vtrn_chip chip;
        int kind = (int)(random_u32(&seed) % 7);
        assert_null(chip_load(names[random_u32(&seed) % 4], &chip));
        vtrn_dtype dtype = random_u32(&seed) % 2 ? VTRN_DTYPE_FP32 : VTRN_DTYPE_BF16;
        int rows = 1 + (int)(random_u32(&seed) % 128);
        uint32_t n = 1 + random_u32(&seed) % 4000, more = n + random_u32(&seed) % 4000;
        double total_ns[2];
        for (int i = 0; i < 2; i++) {
            uint32_t size = i ? more : n;
            tiny_init(&t);
            vtrn_ap in = opcodes[kind] == VTRN_OP_DMA_COPY ? tiny_hbm(dtype, rows, size)
                                                           : tiny_sbuf(dtype, rows, size, 0);
            vtrn_instr *instr = tiny_add2(&t, opcodes[kind], engines[kind],
                                          tiny_sbuf(dtype, rows, size, 65536), in);
            if (opcodes[kind] == VTRN_OP_TENSOR_TENSOR)
                instr->ap[2] = in;
            replay(&chip);
            total_ns[i] = result.summary.total_ns;
            timing_result_free(&result);
        }
        if (total_ns[1] < total_ns[0])
            fail_msg("round %d: %s of %u elements %.1f ns, of %u %.1f ns", round,
                     isa_op_info(opcodes[kind])->mnemonic, n, total_ns[0], more, total_ns[1]);
    }
}

/* Random programs that cannot deadlock: each instruction may wait for updates made before it. */
static void random_program(uint64_t *seed) {
    tiny_init(&t);
    uint32_t sums[8] = {0};
    for (int i = 0; i < 200; i++) {
        int kind = (int)(random_u32(seed) % 5);
        uint32_t n = 1 + random_u32(seed) % 512;
        vtrn_ap a = tiny_sbuf(VTRN_DTYPE_FP32, 128, n, (int64_t)(random_u32(seed) % 16) * 2048);
        vtrn_ap b = tiny_sbuf(VTRN_DTYPE_FP32, 128, n, (int64_t)(random_u32(seed) % 16) * 2048);
        vtrn_instr *instr =
            kind == 0   ? tiny_add2(&t, VTRN_OP_MATMUL, VTRN_ENGINE_TENSOR,
                                    tiny_psum(VTRN_DTYPE_FP32, 128, n, 0), a)
            : kind == 1 ? tiny_add2(&t, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_VECTOR, a, b)
            : kind == 2 ? tiny_add2(&t, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_SCALAR, a, b)
            : kind == 3 ? tiny_add2(&t, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_GPSIMD, a, b)
                        : add_load(128, n, (int)(random_u32(seed) % 4));
        int wait_for = (int)(random_u32(seed) % 8), raise = (int)(random_u32(seed) % 8);
        if (sums[wait_for])
            tiny_wait(instr, wait_for, 1 + random_u32(seed) % sums[wait_for]);
        int by = 1 + (int)(random_u32(seed) % 3);
        tiny_signal(instr, raise, by);
        sums[raise] += (uint32_t)by;
    }
}

/* A pipeline whose loads and stores one queue issues, so that their order does not depend on time.
 */
static void random_pipeline(uint64_t *seed) {
    tiny_init(&t);
    for (int i = 0; i < 60; i++) {
        uint32_t n = 1 + random_u32(seed) % 2048;
        int rows = 1 + (int)(random_u32(seed) % 128);
        vtrn_ap tile = tiny_sbuf(VTRN_DTYPE_FP32, rows, n, i % 8 * 8192);
        vtrn_ap far = tiny_hbm(VTRN_DTYPE_FP32, rows, n);
        vtrn_instr *load = tiny_add2(&t, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC, tile, far);
        tiny_signal(load, 0, 16);
        vtrn_engine engine = random_u32(seed) % 2 ? VTRN_ENGINE_VECTOR : VTRN_ENGINE_SCALAR;
        vtrn_instr *copy = tiny_add2(&t, VTRN_OP_TENSOR_COPY, engine, tile, tile);
        tiny_wait(copy, 0, 16 * (uint32_t)(i + 1));
        tiny_signal(copy, 1, 1);
        if (random_u32(seed) % 2) {
            vtrn_instr *store = tiny_add2(&t, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC, far, tile);
            tiny_wait(store, 1, (uint32_t)i + 1);
        }
    }
}

static void more_bandwidth_never_makes_a_program_slower(void **state) {
    (void)state;
    static const char *const names[] = {"trn1", "inf2", "trn2", "trn3"};
    uint64_t seed = 0x9e3779b97f4a7c15u;
    for (int round = 0; round < 200; round++) {
        vtrn_chip chip;
        assert_null(chip_load(names[round % 4], &chip));
        random_pipeline(&seed);
        double *rates[] = {&chip.hbm_bytes_per_s, &chip.dma.engine_bytes_per_s,
                           &chip.dma.load_bytes_per_s};
        double factor = 1 + random_u32(&seed) % 100 / 50.0, total_ns[2];
        for (int i = 0; i < 2; i++) {
            replay(&chip);
            total_ns[i] = result.summary.total_ns;
            timing_result_free(&result);
            *rates[random_u32(&seed) % 3] *= factor;
        }
        if (total_ns[1] > total_ns[0] + 1e-6)
            fail_msg("round %d: %.3f ns, with %.2f times a bandwidth %.3f", round, total_ns[0],
                     factor, total_ns[1]);
    }
}

static void busy_time_never_exceeds_the_total(void **state) {
    (void)state;
    uint64_t seed = 0x2545f4914f6cdd1du;
    for (int round = 0; round < 100; round++) {
        vtrn_chip chip;
        assert_null(chip_load(round % 2 ? "trn1" : "trn2", &chip));
        if (round % 3)
            random_program(&seed);
        else
            random_pipeline(&seed);
        replay(&chip);
        const timing_summary *s = &result.summary;
        double body_ns = s->total_ns - chip.launch.preamble_ns - chip.launch.postamble_ns;
        for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
            assert_true(s->active_ns[e] >= 0 && s->active_ns[e] <= body_ns + 1e-6);
        assert_true(s->dma_active_ns >= 0 && s->dma_active_ns <= body_ns + 1e-6);
        assert_true(s->dma_busy_share >= 0 && s->dma_busy_share <= 1 + 1e-9);
        timing_result_free(&result);
    }
}

static void every_queue_keeps_its_order_and_every_wait_is_kept(void **state) {
    (void)state;
    uint64_t seed = 0x2545f4914f6cdd1du;
    for (int round = 0; round < 50; round++) {
        vtrn_chip chip;
        assert_null(chip_load(round % 2 ? "trn1" : "trn2", &chip));
        random_program(&seed);
        replay(&chip);
        static double start_ns[TINY_MAX], end_ns[TINY_MAX];
        for (size_t i = 0; i < result.n_intervals; i++) {
            const timing_interval *v = &result.intervals[i];
            assert_true(v->end_ns >= v->start_ns && v->start_ns >= chip.launch.preamble_ns);
            assert_true(v->end_ns <= result.summary.total_ns);
            if (v->lane < TIMING_LANE_DMA)
                start_ns[v->instr] = v->start_ns;
            end_ns[v->instr] = v->end_ns; /* of a DMA: the data's, which is kept last */
        }
        for (uint32_t i = 0; i < t.program.n_instrs; i++) {
            const vtrn_instr *instr = &t.instrs[i];
            if (i && instr->engine == t.instrs[i - 1].engine)
                assert_true(start_ns[i] >= start_ns[i - 1]);
            for (int w = 0; w < instr->n_waits; w++) {
                uint32_t sum = 0; /* of all updates whose instruction had ended by then */
                for (uint32_t j = 0; j < t.program.n_instrs; j++)
                    if (t.instrs[j].update_semaphore == instr->wait[w].semaphore &&
                        end_ns[j] < start_ns[i])
                        sum += t.instrs[j].update_value;
                assert_true(sum >= instr->wait[w].value);
            }
        }
        timing_result_free(&result);
    }
}

static void a_replay_gives_the_same_times_each_time(void **state) {
    (void)state;
    vtrn_chip chip;
    assert_null(chip_load("trn2", &chip));
    uint64_t seed = 88172645463325252u;
    random_program(&seed);
    replay(&chip);
    timing_result first = result;
    replay(&chip);
    assert_int_equal(first.n_intervals, result.n_intervals);
    for (size_t i = 0; i < first.n_intervals; i++) {
        const timing_interval *a = &first.intervals[i], *b = &result.intervals[i];
        assert_true(a->start_ns == b->start_ns && a->end_ns == b->end_ns && a->instr == b->instr &&
                    a->lane == b->lane && a->wait_ns == b->wait_ns);
    }
    assert_memory_equal(&first.summary, &result.summary, sizeof first.summary);
    timing_result_free(&first);
    timing_result_free(&result);
}

/* Removes the waits of all instructions, and cuts the program's streams into three blocks. */
static void cut_in_three(vtrn_block blocks[3]) {
    for (uint32_t i = 0; i < t.n_added; i++)
        t.added[i].n_waits = 0;
    tiny_finish(&t);
    memset(blocks, 0, 3 * sizeof *blocks);
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        for (uint32_t b = 0, n = t.block.count[e]; b < 3; b++) {
            blocks[b].first[e] = t.block.first[e] + b * n / 3;
            blocks[b].count[e] = (b + 1) * n / 3 - b * n / 3;
        }
    t.program.blocks = blocks;
    t.program.n_blocks = 3;
}

static void blocks_that_are_kept_take_what_they_took_to_the_last_bit(void **state) {
    (void)state;
    static const char *const names[] = {"trn1", "inf2", "trn2", "trn3"};
    uint64_t seed = 0x9e3779b97f4a7c15u;
    int n_kept = 0;
    for (int round = 0; round < 40; round++) {
        vtrn_chip chip;
        assert_null(chip_load(names[round % 4], &chip));
        random_program(&seed);
        vtrn_block blocks[3];
        cut_in_three(blocks);
        if (round % 8 >= 4) /* windows of the PE array make no difference to other blocks */
            blocks[1].count[VTRN_ENGINE_TENSOR] = 0;
        uint32_t trace[12];
        for (int i = 0; i < 12; i++)
            trace[i] = random_u32(&seed) % 3;
        timing_model *model;
        assert_null(timing_prepare(&chip, &t.program, &model));
        kept_blocks kept = {NULL};
        const timing_options options[] = {
            {.want_intervals = true}, {.kept = &kept}, {.kept = &kept}, {.kept = NULL}};
        timing_summary first;
        for (int i = 0; i < 4; i++) {
            assert_null(timing_run(model, trace, 12, &options[i], &result));
            if (i == 0)
                first = result.summary;
            assert_memory_equal(&first, &result.summary, sizeof first);
            timing_result_free(&result);
        }
        n_kept += kept.blocks != NULL;
        kept_blocks_free(&kept);
        timing_model_destroy(model);
    }
    assert_true(n_kept > 20);
}

static void malformed_programs_and_traces_are_refused(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    uint32_t trace[] = {1};
    tiny_init(&t);
    tiny_add(&t, VTRN_OP_EVENT_SEMAPHORE, VTRN_ENGINE_SYNC);
    vtrn_status status = timing_replay(&chip, tiny_finish(&t), trace, 1, false, &result);
    assert_int_equal(vtrn_status_category(status), VTRN_BAD_ARGUMENT);
    vtrn_status_free(status);
    trace[0] = 0;
    for (int fault = 0; fault < 5; fault++) {
        tiny_finish(&t);
        vtrn_instr *instr = &t.instrs[0];
        if (fault == 0)
            instr->opcode = VTRN_OP_COUNT;
        else if (fault == 1)
            instr->engine = VTRN_ENGINE_COUNT;
        else if (fault == 2)
            instr->n_waits = 3;
        else if (fault == 3)
            instr->update_semaphore = 256;
        else
            t.block.count[VTRN_ENGINE_SYNC] = 2;
        status = timing_replay(&chip, &t.program, trace, 1, false, &result);
        assert_int_equal(vtrn_status_category(status), VTRN_BAD_ARGUMENT);
        vtrn_status_free(status);
    }
}

static void random_bytes_are_timed_or_refused_but_never_crash(void **state) {
    (void)state;
    uint64_t seed = 0x853c49e6748fea9bu;
    int n_timed = 0, n_refused = 0;
    vtrn_chip chip = round_chip();
    chip.cost.tensor_warm_ns = 3413;
    for (int round = 0; round < 5000; round++) {
        const uint32_t trace[] = {0};
        tiny_init(&t);
        for (int i = 0; i < 3; i++) {
            vtrn_instr *instr = tiny_add(&t, 0, 0);
            for (size_t b = 0; b < sizeof *instr; b++)
                ((uint8_t *)instr)[b] = (uint8_t)random_u32(&seed);
            instr->opcode %= VTRN_OP_COUNT;
            instr->engine %= VTRN_ENGINE_COUNT;
            instr->n_waits %= 2;
            instr->wait[0] = (vtrn_wait){(uint16_t)(random_u32(&seed) % 4), 0, 1};
            instr->update_semaphore %= 4;
            for (int a = 0; a < VTRN_MAX_AP; a++) {
                instr->ap[a].space %= 4;
                instr->ap[a].dtype %= VTRN_DTYPE_COUNT;
                instr->ap[a].n_dims %= 5;
                instr->ap[a].addr = random_u32(&seed) % 64 ? random_u32(&seed) : -1;
                for (int d = 0; d < VTRN_MAX_FREE_DIMS; d++)
                    instr->ap[a].dim[d].num >>= 16 + random_u32(&seed) % 16;
            }
        }
        vtrn_status status = timing_replay(&chip, tiny_finish(&t), trace, 1, true, &result);
        if (status) {
            n_refused++;
            vtrn_status_free(status);
        } else {
            n_timed++;
            assert_true(isfinite(result.summary.total_ns) && result.summary.total_ns >= 1500);
            timing_result_free(&result);
        }
    }
    assert_true(n_timed > 100 && n_refused > 100);
}

static void a_chip_without_published_numbers_is_refused(void **state) {
    (void)state;
    vtrn_chip chip;
    const uint32_t trace[] = {0};
    assert_null(chip_load("inf2", &chip));
    chip.is_executable = false;
    tiny_init(&t);
    vtrn_status status = timing_replay(&chip, tiny_finish(&t), trace, 1, false, &result);
    assert_int_equal(vtrn_status_category(status), VTRN_UNSUPPORTED);
    vtrn_status_free(status);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_program_takes_the_launch_alone),
        cmocka_unit_test(independent_instructions_of_a_queue_start_an_initiation_interval_apart),
        cmocka_unit_test(an_instruction_waits_for_the_result_it_reads_in_its_own_queue),
        cmocka_unit_test(a_waiting_queue_starts_when_the_semaphore_arrives_and_it_has_woken),
        cmocka_unit_test(a_wait_for_a_sum_takes_the_update_that_completes_it),
        cmocka_unit_test(a_semaphore_that_nobody_raises_is_a_deadlock_with_its_name),
        cmocka_unit_test(blocks_meet_and_pay_for_the_branch_between_them),
        cmocka_unit_test(weights_load_behind_the_running_matmul),
        cmocka_unit_test(slow_weight_loads_bound_the_matmuls),
        cmocka_unit_test(the_pe_array_is_cold_until_a_window_was_half_busy),
        cmocka_unit_test(a_window_of_the_pe_array_counts_work_and_begins_where_it_is_told),
        cmocka_unit_test(an_idle_window_makes_the_pe_array_cold_again),
        cmocka_unit_test(vector_and_gpsimd_take_turns_where_the_chip_shares_the_sbuf_port),
        cmocka_unit_test(a_custom_op_costs_its_arithmetic_or_its_traffic),
        cmocka_unit_test(a_dma_deals_its_rows_over_the_engines_and_signals_after_the_last_byte),
        cmocka_unit_test(dma_engines_start_one_after_the_other),
        cmocka_unit_test(a_transfer_fits_before_one_of_another_ring_that_is_ready_later),
        cmocka_unit_test(a_transfer_that_ends_first_is_seen_first),
        cmocka_unit_test(small_transfers_beside_a_long_one_wait_for_each_others_updates),
        cmocka_unit_test(a_dge_makes_descriptors_of_one_dma_after_the_other),
        cmocka_unit_test(back_to_back_dmas_approach_the_bandwidth_of_the_engines),
        cmocka_unit_test(the_hbm_share_bounds_what_the_engines_could_move),
        cmocka_unit_test(more_elements_are_never_faster),
        cmocka_unit_test(more_bandwidth_never_makes_a_program_slower),
        cmocka_unit_test(busy_time_never_exceeds_the_total),
        cmocka_unit_test(every_queue_keeps_its_order_and_every_wait_is_kept),
        cmocka_unit_test(a_replay_gives_the_same_times_each_time),
        cmocka_unit_test(blocks_that_are_kept_take_what_they_took_to_the_last_bit),
        cmocka_unit_test(malformed_programs_and_traces_are_refused),
        cmocka_unit_test(random_bytes_are_timed_or_refused_but_never_crash),
        cmocka_unit_test(a_chip_without_published_numbers_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
