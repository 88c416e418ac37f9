/* Programs from lists of instructions alone, without a graph: streams, semaphores, memory. */
#include "compiler/build/finish.h"

#include "check/check.h"
#include "isa/validate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the headers above.
#include <cmocka.h>

enum { ROWS = 128, COLS = 64, TENSOR_BYTES = ROWS * COLS * 4 };

static vtrn_chip chip;

static void assert_ok(vtrn_status status) {
    if (status)
        fail_msg("%s", vtrn_status_message(status));
}

/* A program of two arguments and two outputs in the making; alias: what is offered to output 0. */
static builder start(int32_t alias) {
    arena home = ARENA_EMPTY;
    vtrn_program *p = ARENA_NEW(&home, vtrn_program, 1);
    assert_non_null(p);
    p->arena = home;
    p->name = "by hand";
    p->gen = (uint8_t)chip.gen;
    p->chip = chip.name;
    p->n_arguments = p->n_outputs = 2;
    p->output_alias = ARENA_NEW(&p->arena, int32_t, 2);
    p->output_alias[0] = alias;
    p->output_alias[1] = -1;
    builder b = {.chip = &chip, .program = p};
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t slot;
        assert_ok(build_slot_add(&b, i < 2 ? VTRN_SLOT_ARGUMENT : VTRN_SLOT_OUTPUT, VTRN_DTYPE_FP32,
                                 TENSOR_BYTES, (int32_t)i % 2, &slot));
        assert_int_equal(slot, i);
    }
    assert_ok(build_source_set(&b, "kernel", "kernel.py:7"));
    return b;
}

enum { ARGUMENT_0, ARGUMENT_1, OUTPUT_0, OUTPUT_1 };

static vtrn_ap tile(int64_t addr) {
    return (vtrn_ap){.space = VTRN_SPACE_SBUF,
                     .dtype = VTRN_DTYPE_FP32,
                     .n_dims = 1,
                     .n_partitions = ROWS,
                     .partition_step = 1,
                     .addr = addr,
                     .dim = {{1, COLS}}};
}

static void add_copy(builder *b, bool is_store, uint32_t slot, int64_t addr) {
    vtrn_instr *dma =
        build_append(b, VTRN_OP_DMA_COPY, is_store ? VTRN_ENGINE_GPSIMD : VTRN_ENGINE_SYNC);
    assert_non_null(dma);
    vtrn_ap hbm = tile(0);
    hbm.space = VTRN_SPACE_HBM;
    hbm.slot = slot;
    hbm.partition_step = COLS;
    dma->queue = is_store ? 4 : 0;
    dma->ap[is_store ? 0 : 1] = hbm;
    dma->ap[is_store ? 1 : 0] = tile(addr);
}

static void add_double(builder *b, int64_t to, int64_t from) {
    vtrn_instr *add = build_append(b, VTRN_OP_TENSOR_TENSOR, VTRN_ENGINE_VECTOR);
    assert_non_null(add);
    add->op0 = VTRN_ALU_ADD;
    add->ap[0] = tile(to);
    add->ap[1] = add->ap[2] = tile(from);
}

static void begin(builder *b) {
    uint32_t block;
    assert_ok(build_block_begin(b, &block));
}

/* The finished program, valid, free of races and of reads of what nothing wrote. */
static vtrn_program *finish(builder *b) {
    vtrn_program *p = b->program;
    uint32_t trace[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    engine_plan plan;
    assert_ok(build_finish(b));
    build_free(b);
    assert_ok(program_validate(p, &chip));
    assert_ok(engine_plan_create(p, &chip, 2, &plan));
    assert_ok(check_hazards(p, &plan));
    assert_ok(check_reads(p, &chip, &plan, trace, p->n_blocks));
    engine_plan_destroy(&plan);
    return p;
}

static uint32_t count(const vtrn_program *p, vtrn_opcode opcode) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_instrs; i++)
        n += p->instrs[i].opcode == opcode;
    return n;
}

static void a_list_becomes_streams_that_wait_for_each_other(void **state) {
    (void)state;
    builder b = start(-1);
    begin(&b);
    add_copy(&b, false, ARGUMENT_0, 0);
    add_double(&b, 1024, 0);
    add_copy(&b, true, OUTPUT_0, 1024);
    build_block_end(&b, 0, VTRN_END_STOP, 0, 0, 0);
    vtrn_program *p = finish(&b);
    assert_int_equal(p->n_instrs, 3);
    const vtrn_block *block = &p->blocks[0];
    assert_int_equal(block->count[VTRN_ENGINE_SYNC], 1);
    assert_int_equal(block->count[VTRN_ENGINE_VECTOR], 1);
    assert_int_equal(block->count[VTRN_ENGINE_GPSIMD], 1);
    assert_int_equal(p->instrs[block->first[VTRN_ENGINE_VECTOR]].n_waits, 1);
    assert_int_equal(p->instrs[block->first[VTRN_ENGINE_GPSIMD]].n_waits, 1);
    assert_string_equal(p->sources[p->instrs[0].source].place, "kernel.py:7");
    program_destroy(p);
}

static void a_store_that_nothing_reads_goes_with_what_led_to_it(void **state) {
    (void)state;
    builder b = start(-1);
    uint32_t scratch[2];
    for (int i = 0; i < 2; i++)
        assert_ok(
            build_slot_add(&b, VTRN_SLOT_SCRATCH, VTRN_DTYPE_FP32, TENSOR_BYTES, 0, &scratch[i]));
    begin(&b);
    add_copy(&b, false, ARGUMENT_0, 0);
    add_copy(&b, true, scratch[0], 0);
    vtrn_instr *copy = build_append(&b, VTRN_OP_DMA_COPY, VTRN_ENGINE_GPSIMD);
    copy->queue = 7;
    for (int side = 0; side < 2; side++) { /* scratch[0] to scratch[1], which nothing reads */
        copy->ap[side] = b.list[1].ap[0];
        copy->ap[side].slot = scratch[!side];
    }
    add_copy(&b, true, OUTPUT_0, 0);
    build_block_end(&b, 0, VTRN_END_STOP, 0, 0, 0);
    vtrn_program *p = finish(&b);
    assert_int_equal(count(p, VTRN_OP_DMA_COPY), 2);
    assert_int_equal(p->scratch_size, 0);
    program_destroy(p);
}

static void an_offered_argument_is_taken_where_no_read_comes_too_late(void **state) {
    (void)state;
    for (int is_late = 0; is_late < 2; is_late++) {
        builder b = start(0);
        begin(&b);
        add_copy(&b, false, ARGUMENT_0, 0);
        add_double(&b, 1024, 0);
        add_copy(&b, true, OUTPUT_0, 1024);
        add_copy(&b, false, is_late ? ARGUMENT_0 : ARGUMENT_1, 2048);
        add_copy(&b, true, OUTPUT_1, 2048);
        build_block_end(&b, 0, VTRN_END_STOP, 0, 0, 0);
        vtrn_program *p = finish(&b);
        assert_int_equal(p->output_alias[0], is_late ? -1 : 0);
        program_destroy(p);
    }
}

static void blocks_and_custom_ops_keep_their_numbers(void **state) {
    (void)state;
    builder b = start(-1);
    uint32_t custom_i;
    static const uint32_t slots[] = {ARGUMENT_0, OUTPUT_0};
    const vtrn_custom custom = {
        .name = "a.reference", .n_inputs = 1, .n_outputs = 1, .slots = slots, .blob = ""};
    assert_ok(build_custom_add(&b, &custom, &custom_i));
    assert_ok(build_custom_add(&b, &custom, &custom_i));
    assert_int_equal(custom_i, 1);
    begin(&b);
    vtrn_instr *op = build_append(&b, VTRN_OP_CUSTOM_OP, VTRN_ENGINE_GPSIMD);
    op->arg[0] = (int32_t)custom_i;
    build_block_end(&b, 0, VTRN_END_JUMP, 1, 0, 0);
    begin(&b);
    add_copy(&b, false, OUTPUT_0, 0);
    add_copy(&b, true, OUTPUT_1, 0);
    build_block_end(&b, 1, VTRN_END_STOP, 0, 0, 0);
    vtrn_program *p = finish(&b);
    assert_int_equal(p->n_blocks, 2);
    assert_int_equal(p->blocks[0].next[0], 1);
    assert_int_equal(p->n_customs, 2);
    assert_int_equal(p->instrs[p->blocks[0].first[VTRN_ENGINE_GPSIMD]].opcode, VTRN_OP_CUSTOM_OP);
    program_destroy(p);
}

static void equal_constants_share_their_bytes(void **state) {
    (void)state;
    builder b = start(-1);
    const float one[] = {1, 1}, other[] = {1, 2};
    uint32_t slots[3];
    assert_ok(build_constant_add(&b, VTRN_DTYPE_FP32, one, sizeof one, &slots[0]));
    assert_ok(build_constant_add(&b, VTRN_DTYPE_FP32, other, sizeof other, &slots[1]));
    assert_ok(build_constant_add(&b, VTRN_DTYPE_FP32, one, sizeof one, &slots[2]));
    assert_int_equal(slots[0], slots[2]);
    assert_int_not_equal(slots[0], slots[1]);
    begin(&b);
    build_block_end(&b, 0, VTRN_END_STOP, 0, 0, 0);
    vtrn_program *p = finish(&b);
    assert_memory_equal(p->data + p->slots[slots[1]].offset, other, sizeof other);
    program_destroy(p);
}

static void a_tensor_that_no_core_reaches_is_refused(void **state) {
    (void)state;
    builder b = start(-1);
    uint32_t slot;
    vtrn_status status = build_slot_add(&b, VTRN_SLOT_SCRATCH, VTRN_DTYPE_BF16,
                                        chip.hbm_bytes / (uint64_t)chip.n_hbm_stacks, 0, &slot);
    assert_int_equal(vtrn_status_category(status), VTRN_CAPACITY);
    assert_non_null(strstr(vtrn_status_message(status), "bf16 tensor"));
    vtrn_status_free(status);
    program_destroy(b.program);
    build_free(&b);
}

static void sequences_of_any_length_take_turns(void **state) {
    (void)state;
    builder b = start(-1);
    enum { N = 3 };
    const int lengths[N] = {3, 1, 2};
    uint32_t first[N];
    for (int i = 0; i < N; i++) {
        first[i] = b.n_list;
        for (int k = 0; k < lengths[i]; k++) {
            vtrn_instr *instr = build_append(&b, VTRN_OP_MEMSET, VTRN_ENGINE_VECTOR);
            assert_non_null(instr);
            instr->imm[0].bits = (uint32_t)(10 * i + k);
        }
    }
    assert_ok(build_alternate(&b, first + 1, 1)); /* one sequence stays as it is */
    assert_ok(build_alternate(&b, first, N));
    const uint32_t expected[] = {0, 10, 20, 1, 21, 2};
    assert_int_equal(b.n_list, sizeof expected / sizeof *expected);
    for (uint32_t i = 0; i < b.n_list; i++)
        assert_int_equal(b.list[i].imm[0].bits, expected[i]);
    program_destroy(b.program);
    build_free(&b);
}

int main(void) {
    assert_ok(chip_load("trn1", &chip));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_becomes_streams_that_wait_for_each_other),
        cmocka_unit_test(a_store_that_nothing_reads_goes_with_what_led_to_it),
        cmocka_unit_test(an_offered_argument_is_taken_where_no_read_comes_too_late),
        cmocka_unit_test(blocks_and_custom_ops_keep_their_numbers),
        cmocka_unit_test(equal_constants_share_their_bytes),
        cmocka_unit_test(a_tensor_that_no_core_reaches_is_refused),
        cmocka_unit_test(sequences_of_any_length_take_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
