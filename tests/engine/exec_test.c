/* Plans and executions: deadlock reports, barriers that suffice, errors that stop every thread,
 * control flow. */
#include "rig.h"

#include "test_seed.h"

enum { SLOT_BYTES = 1 << 18, ROW_BYTES = 4096 };

static uint64_t seed;

static vtrn_ap sbuf_ap(int partition, int n_rows, uint32_t n, int64_t addr) {
    return (vtrn_ap){.space = VTRN_SPACE_SBUF,
                     .dtype = VTRN_DTYPE_INT32,
                     .n_dims = 1,
                     .partition = (uint16_t)partition,
                     .n_partitions = (uint16_t)n_rows,
                     .partition_step = 1,
                     .addr = addr,
                     .dim = {{1, n}}};
}

static vtrn_ap hbm_ap(uint32_t slot, int n_rows, uint32_t n, int64_t addr, int64_t pitch) {
    vtrn_ap ap = sbuf_ap(0, n_rows, n, addr);
    ap.space = VTRN_SPACE_HBM;
    ap.slot = slot;
    ap.partition_step = pitch;
    return ap;
}

static void wait_for(vtrn_instr *in, int semaphore, uint32_t value) {
    in->wait[in->n_waits++] = (vtrn_wait){.semaphore = (uint16_t)semaphore, .value = value};
}

static void raise(vtrn_instr *in, int semaphore, int value) {
    in->update_semaphore = (uint16_t)semaphore;
    in->update_value = (uint16_t)value;
}

static void expect_message(vtrn_status status, vtrn_category category, const char *part) {
    assert_int_equal(vtrn_status_category(status), category);
    if (!strstr(vtrn_status_message(status), part))
        fail_msg("no '%s' in: %s", part, vtrn_status_message(status));
}

static void a_deadlock_report_names_each_engine_and_who_was_to_raise(void **state) {
    (void)state;
    rig *r = rig_create(2);
    wait_for(rig_add(r, VTRN_OP_EVENT_SEMAPHORE, VTRN_ENGINE_TENSOR), 7, 2);
    raise(&r->instrs[0], 9, 1);
    wait_for(rig_add(r, VTRN_OP_EVENT_SEMAPHORE, VTRN_ENGINE_VECTOR), 9, 1);
    raise(&r->instrs[1], 7, 2);
    wait_for(rig_add(r, VTRN_OP_EVENT_SEMAPHORE, VTRN_ENGINE_SYNC), 200, 5);
    raise(rig_add(r, VTRN_OP_EVENT_SEMAPHORE, VTRN_ENGINE_GPSIMD), 200, 4);
    vtrn_status status = rig_run(r);
    expect_message(status, VTRN_DEADLOCK, "block 0: 3 engines wait for ever");
    expect_message(status, VTRN_DEADLOCK,
                   "Tensor: instruction 0 (event_semaphore) stablehlo.test model.py:42 waits for "
                   "semaphore 7 >= 2, which is 0");
    expect_message(status, VTRN_DEADLOCK,
                   "semaphore 7 would be raised by Vector: instruction 1 (event_semaphore), which "
                   "waits itself");
    expect_message(status, VTRN_DEADLOCK, "waits for semaphore 200 >= 5, which is 4");
    expect_message(status, VTRN_DEADLOCK, "nothing left in this block raises semaphore 200");
    vtrn_status_free(status);
    rig_destroy(r);
}

static void operands_outside_of_their_memory_are_refused(void **state) {
    (void)state;
    rig *r = rig_create(1);
    rig_add_slot(r, 4096);
    vtrn_instr *in = rig_add(r, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC);
    static const char *const expected[] = {
        "dma_copy: operand 1 touches bytes 0 to 4100 of HBM tensor 0, which has 4096 bytes",
        "dma_copy: operand 1 touches bytes -4 to 12 of HBM tensor 0",
        "dma_copy: operand 0 touches bytes 196604 to 196612 of a partition of SBUF",
        "dma_copy: operand 0: partitions 127 to 128; SBUF has 128",
        "dma_copy: operand 1 names HBM tensor 1 of 1",
        "dma_copy: operand 0 is in PSUM, which this instruction cannot reach",
        "dma_copy: operand 0 writes 2 elements to one address",
        "dma_copy: operand 1: address and steps leave every memory",
        "dma_copy: operand 1 is missing",
    };
    for (int i = 0; i < (int)(sizeof expected / sizeof expected[0]); i++) {
        in->ap[0] = sbuf_ap(0, 2, 2, 0);
        in->ap[1] = hbm_ap(0, 2, 2, 0, 2);
        if (i == 0)
            in->ap[1].partition_step = 1023;
        if (i == 1)
            in->ap[1].addr = -4;
        if (i == 2)
            in->ap[0].addr = RIG_SBUF_BYTES - 4;
        if (i == 3)
            in->ap[0].partition = 127;
        if (i == 4)
            in->ap[1].slot = 1;
        if (i == 5)
            in->ap[0].space = VTRN_SPACE_PSUM;
        if (i == 6)
            in->ap[0].dim[0].step = 0;
        if (i == 7)
            in->ap[1].partition_step = INT64_MAX;
        if (i == 8)
            in->ap[1].space = VTRN_SPACE_NONE;
        vtrn_status status = rig_run(r);
        expect_message(status, VTRN_UNDEFINED, expected[i]);
        expect_message(status, VTRN_UNDEFINED, "instruction 0 (dma_copy) of stablehlo.test");
        vtrn_status_free(status);
    }
    in->ap[1] = hbm_ap(0, 2, 2, 0, 2);
    in->ap[0] = sbuf_ap(0, 2, 2, 0);
    rig_ok(rig_run(r));
    rig_destroy(r);
}

/* Copies among a few overlapping places, in and between both memories: nearly every pair depends.
 */
static void add_random_copies(rig *r, int n) {
    for (int i = 0; i < n; i++) {
        vtrn_instr *in = rig_add(r, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC);
        int n_rows = 16 << rig_below(&seed, 3);
        uint32_t n_elements = 1 + rig_below(&seed, 64);
        for (int k = 0; k < 2; k++) {
            int partition = 16 * (int)rig_below(&seed, (uint32_t)(128 - n_rows) / 16 + 1);
            int64_t addr = 4 * rig_below(&seed, 256);
            if (rig_below(&seed, 2))
                in->ap[k] = sbuf_ap(partition, n_rows, n_elements, addr);
            else
                in->ap[k] = hbm_ap(rig_below(&seed, 2), n_rows, n_elements, addr,
                                   rig_below(&seed, 2) ? 64 : 100);
        }
        if (rig_below(&seed, 3) == 0)
            in->flags = VTRN_FLAG_ACCUMULATE;
        /* within an instruction the two sides do not meet: the order of rows is nobody's contract
         */
        if (in->ap[0].space == in->ap[1].space) {
            in->ap[1].addr += ROW_BYTES;
            if (in->ap[1].space == VTRN_SPACE_HBM)
                in->ap[1].addr += SLOT_BYTES / 2;
        }
    }
}

static void any_number_of_threads_gives_the_memories_of_one(void **state) {
    (void)state;
    enum { KEPT = 3 * ROW_BYTES };
    static uint8_t hbm[2 * SLOT_BYTES], sbuf[128][KEPT];
    rig *rigs[3] = {rig_create(1), rig_create(2), rig_create(5)};
    for (int i = 0; i < 3; i++) {
        rig_add_slot(rigs[i], SLOT_BYTES);
        rig_add_slot(rigs[i], SLOT_BYTES);
    }
    for (int round = 0; round < 30; round++) {
        uint64_t seed_of_round = rig_random(&seed);
        for (int i = 0; i < 3; i++) {
            rig *r = rigs[i];
            seed = seed_of_round;
            for (size_t k = 0; k < sizeof hbm; k++)
                r->hbm[k] = (uint8_t)rig_random(&seed);
            rig_clear(r);
            r->coarser = round % 3; /* threads own 16, 32 or 64 partitions in a row */
            add_random_copies(r, 60);
            rig_ok(rig_run(r));
            if (i == 0)
                memcpy(hbm, r->hbm, sizeof hbm);
            else
                assert_memory_equal(hbm, r->hbm, sizeof hbm);
            for (int p = 0; p < 128; p++) {
                uint8_t *row = r->core.sbuf.base + (size_t)p * r->core.sbuf.stride;
                if (i == 0)
                    memcpy(sbuf[p], row, KEPT);
                else
                    assert_memory_equal(sbuf[p], row, KEPT);
            }
        }
    }
    for (int i = 0; i < 3; i++)
        rig_destroy(rigs[i]);
}

static uint32_t n_barriers_of(rig *r) {
    engine_plan plan;
    rig_ok(plan_create(&r->program, &r->chip, 2, 0, &plan));
    uint32_t n = plan.n_barriers;
    engine_plan_destroy(&plan);
    return n;
}

static void an_accumulation_group_and_the_loads_of_the_next_tile_need_one_barrier(void **state) {
    (void)state;
    rig *r = rig_create(1);
    rig_add_slot(r, SLOT_BYTES);
    for (int tile = 0; tile < 8; tile++) { /* loads, then products of loaded tiles */
        vtrn_instr *in = rig_add(r, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC);
        in->ap[0] = sbuf_ap(0, 128, 64, 256 * tile);
        in->ap[1] = hbm_ap(0, 128, 64, 256 * tile, 512);
        raise(in, 1, 1);
    }
    for (int tile = 0; tile < 4; tile++) {
        vtrn_instr *load = rig_add(r, VTRN_OP_LDWEIGHTS, VTRN_ENGINE_TENSOR);
        load->ap[1] = sbuf_ap(0, 128, 64, 512 * tile);
        wait_for(load, 1, 8);
        vtrn_instr *product = rig_add(r, VTRN_OP_MATMUL, VTRN_ENGINE_TENSOR);
        product->ap[0] = sbuf_ap(0, 64, 64, 0);
        product->ap[0].space = VTRN_SPACE_PSUM;
        product->ap[1] = sbuf_ap(0, 128, 64, 512 * tile + 256);
        product->flags = tile ? VTRN_FLAG_ACCUMULATE : 0;
    }
    assert_int_equal(n_barriers_of(r), 1);
    /* the same tile stored to columns of one matrix, side by side: no two meet */
    rig_clear(r);
    for (int tile = 0; tile < 8; tile++) {
        vtrn_instr *in = rig_add(r, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC);
        in->ap[0] = hbm_ap(0, 64, 64, 256 * tile, 512);
        in->ap[1] = sbuf_ap(16 * (tile % 2), 64, 64, 0);
    }
    assert_int_equal(n_barriers_of(r), 0);
    rig_destroy(r);
}

static void blocks_follow_branches_and_a_loop_without_end_is_stopped(void **state) {
    (void)state;
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        rig *r = rig_create(n_threads);
        uint32_t counter = rig_add_slot(r, 64), one = rig_add_slot(r, 64);
        int32_t values[2] = {-10, 1};
        memcpy(rig_slot(r, counter), &values[0], 4);
        memcpy(rig_slot(r, one), &values[1], 4);
        vtrn_instr *in = rig_add(r, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC); /* counter += 1 */
        in->ap[0] = hbm_ap(counter, 1, 1, 0, 1);
        in->ap[1] = hbm_ap(one, 1, 1, 0, 1);
        in->flags = VTRN_FLAG_ACCUMULATE;
        vtrn_block blocks[2] = {r->block, {.end = VTRN_END_STOP}};
        blocks[0].end = VTRN_END_BRANCH; /* again while it is not 0 */
        blocks[0].next[0] = 1;
        blocks[0].cond_slot = counter;
        r->program.blocks = blocks;
        r->program.n_blocks = 2;
        engine_plan plan;
        rig_ok(plan_create(&r->program, &r->chip, n_threads, 0, &plan));
        engine_run run = {.program = &r->program, .plan = &plan, .slot_base = r->slot_base};
        rig_ok(engine_execute(&r->core, &run));
        assert_int_equal(run.n_block_trace, 11);
        assert_int_equal(run.block_trace[9], 0);
        assert_int_equal(run.block_trace[10], 1);
        run.max_blocks = 5;
        memcpy(rig_slot(r, counter), &values[0], 4);
        vtrn_status status = engine_execute(&r->core, &run);
        expect_message(status, VTRN_UNDEFINED, "more than 5 blocks executed");
        vtrn_status_free(status);
        free(run.block_trace);
        engine_plan_destroy(&plan);
        rig_destroy(r);
    }
}

static void the_first_error_by_step_wins_and_no_thread_hangs(void **state) {
    (void)state;
    rig *r = rig_create(3);
    rig_add_slot(r, SLOT_BYTES);
    int32_t bad = 99;
    memcpy(rig_slot(r, 0) + 4 * 40, &bad, 4); /* row 40 belongs to thread 2, row 0 to thread 0 */
    memcpy(rig_slot(r, 0) + 4096, &bad, 4);
    for (int i = 0; i < 200; i++) {
        vtrn_instr *in = rig_add(r, VTRN_OP_DMA_GATHER, VTRN_ENGINE_GPSIMD);
        in->ap[0] = sbuf_ap(0, 48, 1, 4 * i);
        in->ap[1] = hbm_ap(0, 48, 1, 8192, 1);
        in->ap[2] = hbm_ap(0, 48, 1, i == 50 ? 0 : i == 51 ? 4096 : 16384, 1);
        in->arg[1] = 10;
    }
    for (int i = 0; i < 20; i++) {
        vtrn_status status = rig_run(r);
        expect_message(status, VTRN_UNDEFINED, "index 99 of row 40");
        expect_message(status, VTRN_UNDEFINED, "instruction 50 (dma_gather)");
        vtrn_status_free(status);
    }
    rig_destroy(r);
}

int main(void) {
    seed = test_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_deadlock_report_names_each_engine_and_who_was_to_raise),
        cmocka_unit_test(operands_outside_of_their_memory_are_refused),
        cmocka_unit_test(any_number_of_threads_gives_the_memories_of_one),
        cmocka_unit_test(an_accumulation_group_and_the_loads_of_the_next_tile_need_one_barrier),
        cmocka_unit_test(blocks_follow_branches_and_a_loop_without_end_is_stopped),
        cmocka_unit_test(the_first_error_by_step_wins_and_no_thread_hangs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
