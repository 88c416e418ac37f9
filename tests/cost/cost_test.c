/* What single instructions and transfers cost, against figures worked out by hand. */
#include "cost/cost.h"

#include "timing/round_chip.h"
#include "timing/tiny.h"

static tiny t;

static void add_matmul(vtrn_dtype dtype, uint32_t n) {
    tiny_add2(&t, VTRN_OP_LDWEIGHTS, VTRN_ENGINE_TENSOR, (vtrn_ap){0},
              tiny_sbuf(dtype, 128, 128, 0));
    tiny_add2(&t, VTRN_OP_MATMUL, VTRN_ENGINE_TENSOR, tiny_psum(VTRN_DTYPE_FP32, 128, n, 0),
              tiny_sbuf(dtype, 128, n, 4096));
}

static vtrn_instr *add_load(int partitions, uint32_t n) {
    return tiny_add2(&t, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC,
                     tiny_sbuf(VTRN_DTYPE_FP32, partitions, n, 0),
                     tiny_hbm(VTRN_DTYPE_FP32, partitions, n));
}

static void a_result_crosses_the_columns_that_it_has(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    tiny_init(&t);
    add_matmul(VTRN_DTYPE_BF16, 512);
    t.added[1].ap[0].n_partitions = 96;
    instr_cost cost = cost_instr(&chip, &t.added[1]);
    assert_ns(cost.ii_ns, 512);
    assert_ns(cost.latency_ns, 512 + 96 + 22);
}

static void fp32_matmuls_take_four_passes_and_short_ones_the_minimum(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    tiny_init(&t);
    add_matmul(VTRN_DTYPE_FP32, 512);
    instr_cost cost = cost_instr(&chip, &t.added[1]);
    assert_ns(cost.ii_ns, 4 * 512);
    assert_ns(cost.latency_ns, 4 * 512 + 150);
    add_matmul(VTRN_DTYPE_BF16, 1);
    cost = cost_instr(&chip, &t.added[3]);
    assert_ns(cost.ii_ns, 64);
}

static double vector_cycles(const vtrn_chip *chip, const vtrn_instr *instr) {
    instr_cost cost = cost_instr(chip, instr);
    return cost.latency_ns * chip->vector_hz / 1e9 -
           chip->cost.vector_latency_ns * chip->vector_hz / 1e9;
}

static void vector_formulas_of_v2_are_the_documented_ones(void **state) {
    (void)state;
    vtrn_chip chip;
    assert_null(chip_load("trn1", &chip));
    tiny_init(&t);
    vtrn_ap f32 = tiny_sbuf(VTRN_DTYPE_FP32, 128, 1000, 0),
            b16 = tiny_sbuf(VTRN_DTYPE_BF16, 128, 1000, 0);
    vtrn_ap p32 = tiny_psum(VTRN_DTYPE_FP32, 128, 1000, 0);
    vtrn_instr *add = tiny_add2(&t, VTRN_OP_TENSOR_TENSOR, VTRN_ENGINE_VECTOR, f32, f32);
    add->op0 = VTRN_ALU_ADD;
    add->ap[2] = f32;
    assert_ns(vector_cycles(&chip, add), 2000);
    add->ap[2] = p32;
    assert_ns(vector_cycles(&chip, add), 1000);
    add->ap[0] = add->ap[1] = add->ap[2] = b16;
    assert_ns(vector_cycles(&chip, add), 1000);
    add->op0 = VTRN_ALU_MAX;
    assert_ns(vector_cycles(&chip, add), 2000);
    vtrn_instr *reciprocal = tiny_add2(&t, VTRN_OP_RECIPROCAL, VTRN_ENGINE_VECTOR, f32, f32);
    assert_ns(vector_cycles(&chip, reciprocal), 8000);
    vtrn_instr *scan = tiny_add2(&t, VTRN_OP_TENSOR_TENSOR_SCAN, VTRN_ENGINE_VECTOR, f32, f32);
    assert_ns(vector_cycles(&chip, scan), 2000);
    vtrn_instr *zero = tiny_add2(&t, VTRN_OP_MEMSET, VTRN_ENGINE_VECTOR, b16, (vtrn_ap){0});
    assert_ns(vector_cycles(&chip, zero), 500);
    zero->imm[0].f = 1;
    assert_ns(vector_cycles(&chip, zero), 1000);
    vtrn_instr *reduce = tiny_add2(&t, VTRN_OP_TENSOR_REDUCE, VTRN_ENGINE_VECTOR,
                                   tiny_sbuf(VTRN_DTYPE_BF16, 128, 1, 0), b16);
    reduce->op0 = VTRN_ALU_ADD;
    assert_ns(vector_cycles(&chip, reduce), 500);
    reduce->op0 = VTRN_ALU_MULTIPLY;
    assert_ns(vector_cycles(&chip, reduce), 1000);
}

static void vector_modes_of_v3_double_and_quadruple_the_rate(void **state) {
    (void)state;
    vtrn_chip chip;
    assert_null(chip_load("trn2", &chip));
    tiny_init(&t);
    vtrn_ap f32 = tiny_sbuf(VTRN_DTYPE_FP32, 128, 1000, 0),
            b16 = tiny_sbuf(VTRN_DTYPE_BF16, 128, 1000, 0);
    vtrn_instr *copy = tiny_add2(&t, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_VECTOR, b16, b16);
    assert_ns(vector_cycles(&chip, copy), 250);
    copy->ap[0] = f32;
    assert_ns(vector_cycles(&chip, copy), 500);
    copy->ap[1] = tiny_psum(VTRN_DTYPE_FP32, 128, 1000, 0);
    assert_ns(vector_cycles(&chip, copy), 1000);
    vtrn_instr *add = tiny_add2(&t, VTRN_OP_TENSOR_TENSOR, VTRN_ENGINE_VECTOR, f32, f32);
    add->ap[2] = f32;
    assert_ns(vector_cycles(&chip, add), 1000);
    add->ap[0] = add->ap[1] = add->ap[2] = b16;
    assert_ns(vector_cycles(&chip, add), 500);
}

static void few_rows_use_few_engines(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    tiny_init(&t);
    transfer_cost transfer = cost_transfer(&chip, add_load(12, 256));
    assert_int_equal(transfer.n_engines, 2);
    assert_ns(transfer.engine_ns, 8 * 112.4);
    assert_ns(transfer.last_ns, 4 * 112.4);
}

static void scattered_elements_pay_for_each_descriptor(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    tiny_init(&t);
    vtrn_instr *dma = add_load(128, 256);
    transfer_cost dense = cost_transfer(&chip, dma);
    dma->ap[1].dim[0].step = 2;
    transfer_cost sparse = cost_transfer(&chip, dma);
    assert_ns(dense.engine_ns, 8 * (10 + 102.4));
    assert_ns(sparse.engine_ns, 8 * (256 * 10 + 102.4));
    chip.dma.min_element_ns = 12; /* an element of 4 bytes takes 10.4 by itself */
    sparse = cost_transfer(&chip, dma);
    assert_ns(sparse.engine_ns, 8 * 256 * 12);
    dma->ap[1].dim[0].step = 1;
    sparse = cost_transfer(&chip, dma);
    assert_ns(sparse.engine_ns, dense.engine_ns);
}

static void a_row_in_hbm_that_serves_several_partitions_costs_what_its_runs_cost(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    tiny_init(&t);
    vtrn_instr *dma = add_load(96, 48);
    transfer_cost rows = cost_transfer(&chip, dma);
    dma->ap[1].n_partitions = 6;
    dma->ap[1].partition_step = 48 * 16 * 2;
    dma->ap[1].n_dims = 3;
    dma->ap[1].dim[0] = (vtrn_dim){48 * 4, 4};
    dma->ap[1].dim[1] = (vtrn_dim){48, 4};
    dma->ap[1].dim[2] = (vtrn_dim){1, 48};
    transfer_cost folded = cost_transfer(&chip, dma);
    assert_int_equal(folded.first_engine, rows.first_engine);
    assert_int_equal(folded.n_engines, rows.n_engines);
    assert_ns(folded.engine_ns, rows.engine_ns);
    assert_ns(folded.last_ns, rows.last_ns);
    assert_int_equal(folded.hbm_read_bytes, rows.hbm_read_bytes);
    assert_int_equal(folded.hbm_write_bytes, rows.hbm_write_bytes);
}

static void hbm_to_hbm_copies_use_all_engines(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    tiny_init(&t);
    vtrn_instr *dma =
        tiny_add2(&t, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC, tiny_hbm(VTRN_DTYPE_FP32, 1, 65536),
                  tiny_hbm(VTRN_DTYPE_FP32, 1, 65536));
    transfer_cost transfer = cost_transfer(&chip, dma);
    assert_int_equal(transfer.n_engines, 16);
    assert_ns(transfer.engine_ns, 4 * 10 + 16384 / 10.0);
    assert_int_equal(transfer.hbm_read_bytes + transfer.hbm_write_bytes, 2 * 65536 * 4);
}

static void a_dma_holds_its_queue_for_the_trigger_alone(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.dma.indirect_start_ns = 900;
    tiny_init(&t);
    instr_cost cost = cost_instr(&chip, add_load(128, 4096));
    assert_int_equal(cost.kind, COST_KIND_DMA);
    assert_ns(cost.ii_ns, 100);
    assert_ns(cost.latency_ns, 100);
    vtrn_instr *gather =
        tiny_add2(&t, VTRN_OP_DMA_GATHER, VTRN_ENGINE_GPSIMD,
                  tiny_sbuf(VTRN_DTYPE_FP32, 128, 64, 0), tiny_hbm(VTRN_DTYPE_FP32, 1, 64));
    assert_ns(cost_instr(&chip, gather).ii_ns, 1000);
}

static void the_dge_holds_the_queue_that_commands_it(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.dma.uses_dge = true;
    chip.dma.dge_trigger_ns = 500;
    chip.dma.dge_gpsimd_ns = 600;
    chip.dma.dge_gpsimd_latency_ns = 900;
    chip.dma.dge_interval_ns = 800;
    chip.dma.dge_gpsimd_run_ns = 0.5;
    tiny_init(&t);
    vtrn_instr *load = add_load(128, 64);
    instr_cost cost = cost_instr(&chip, load);
    assert_ns(cost.ii_ns, 500);
    assert_ns(cost.latency_ns, 500);
    assert_ns(cost_transfer(&chip, load).issue_ns, 800);
    load->engine = VTRN_ENGINE_GPSIMD;
    cost = cost_instr(&chip, load);
    assert_ns(cost.ii_ns, 664); /* 128 runs */
    assert_ns(cost.latency_ns, 964);
    assert_ns(cost_transfer(&chip, load).issue_ns, 600);
    chip.dma.dge_gpsimd_fetch_ns = 70;
    assert_ns(cost_transfer(&chip, load).engine_ns, 70 + 8 * (10 + 25.6));
    load->engine = VTRN_ENGINE_SYNC;
    assert_ns(cost_transfer(&chip, load).engine_ns, 8 * (10 + 25.6));
    load->engine = VTRN_ENGINE_GPSIMD;
    chip.dma.uses_dge = false;
    assert_ns(cost_instr(&chip, load).ii_ns, 100);
    assert_ns(cost_transfer(&chip, load).issue_ns, 100);
}

static void loads_and_stores_have_a_start_and_a_rate_of_their_own(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.dma.load_bytes_per_s = 8e9;
    chip.dma.load_element_ns = 12;
    chip.dma.store_start_ns = 600;
    tiny_init(&t);
    vtrn_instr *load = add_load(128, 256);
    vtrn_instr *store = tiny_add2(&t, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC, load->ap[1], load->ap[0]);
    transfer_cost in = cost_transfer(&chip, load), out = cost_transfer(&chip, store);
    assert_ns(in.start_ns, 700);
    assert_ns(in.engine_ns, 8 * (12 + 128));
    assert_ns(out.start_ns, 600);
    assert_ns(out.engine_ns, 8 * (10 + 102.4));
    assert_ns(cost_tile_transfer(&chip, false, 128, 1024, 1024).engine_ns, in.engine_ns);
    assert_ns(cost_tile_transfer(&chip, true, 128, 1024, 1024).engine_ns, out.engine_ns);
}

static void rows_of_hbm_that_share_banks_load_slowly(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.dma.strided_load_bytes_per_s = 4e9;
    chip.dma.strided_pitch_bytes = 4096;
    tiny_init(&t);
    vtrn_instr *load = add_load(128, 256);
    const struct {
        int64_t step;
        double row_ns;
    } cases[] = {{256, 10 + 102.4},  {257, 10 + 102.4}, {1024, 10 + 256},
                 {1000, 10 + 102.4}, {3072, 10 + 256},  {-1024, 10 + 256}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        load->ap[1].partition_step = cases[i].step;
        assert_ns(cost_transfer(&chip, load).engine_ns, 8 * cases[i].row_ns);
    }
    load->ap[1].partition_step = 1024;
    chip.dma.strided_row_bytes = 1024; /* a row has enough banks for itself */
    assert_ns(cost_transfer(&chip, load).engine_ns, 8 * (10 + 102.4));
    load->ap[0].n_partitions = load->ap[1].n_partitions = 1; /* nothing to share with */
    assert_ns(cost_transfer(&chip, load).last_ns, 10 + 102.4);
}

static void transfers_one_behind_the_other_pay_for_what_is_scarcest(void **state) {
    (void)state;
    vtrn_chip chip = round_chip(); /* 16 updates of 10 ns each */
    tiny_init(&t);
    transfer_cost small = cost_transfer(&chip, add_load(8, 4));
    assert_ns(cost_transfer_interval_ns(&chip, &small, 1), 160);
    assert_ns(cost_transfer_interval_ns(&chip, &small, 2.5), 400);
    transfer_cost large = cost_transfer(&chip, add_load(128, 1024));
    assert_ns(cost_transfer_interval_ns(&chip, &large, 1), 8 * (10 + 409.6));
    chip.hbm_bytes_per_s = 10e9;
    assert_ns(cost_transfer_interval_ns(&chip, &large, 1), 128 * 4096 / 10.0);
    transfer_cost few_rows = cost_transfer(&chip, add_load(3, 1024));
    chip.hbm_bytes_per_s = 1e12;
    assert_ns(cost_transfer_interval_ns(&chip, &few_rows, 1), 3 * (10 + 409.6));
    small.issue_ns = 500;
    assert_ns(cost_transfer_interval_ns(&chip, &small, 2), 1000);
}

static void a_block_that_ends_with_a_condition_pays_for_reading_it(void **state) {
    (void)state;
    vtrn_chip chip = round_chip();
    chip.control.condition_load_ns = 600;
    chip.control.compare_branch_ns = 250;
    assert_ns(cost_block_end_ns(&chip, VTRN_END_STOP), 0);
    assert_ns(cost_block_end_ns(&chip, VTRN_END_JUMP), 300 + 200);
    assert_ns(cost_block_end_ns(&chip, VTRN_END_BRANCH), 300 + 600 + 250);
    assert_ns(cost_block_end_ns(&chip, VTRN_END_SWITCH), 300 + 600 + 250);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_result_crosses_the_columns_that_it_has),
        cmocka_unit_test(fp32_matmuls_take_four_passes_and_short_ones_the_minimum),
        cmocka_unit_test(vector_formulas_of_v2_are_the_documented_ones),
        cmocka_unit_test(vector_modes_of_v3_double_and_quadruple_the_rate),
        cmocka_unit_test(few_rows_use_few_engines),
        cmocka_unit_test(scattered_elements_pay_for_each_descriptor),
        cmocka_unit_test(a_row_in_hbm_that_serves_several_partitions_costs_what_its_runs_cost),
        cmocka_unit_test(hbm_to_hbm_copies_use_all_engines),
        cmocka_unit_test(a_dma_holds_its_queue_for_the_trigger_alone),
        cmocka_unit_test(the_dge_holds_the_queue_that_commands_it),
        cmocka_unit_test(loads_and_stores_have_a_start_and_a_rate_of_their_own),
        cmocka_unit_test(rows_of_hbm_that_share_banks_load_slowly),
        cmocka_unit_test(transfers_one_behind_the_other_pay_for_what_is_scarcest),
        cmocka_unit_test(a_block_that_ends_with_a_condition_pays_for_reading_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
