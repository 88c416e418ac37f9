/* The validator: legal programs pass, each rule refuses its offender with a message that says why.
 */
#include "isa/validate.h"

#include "legal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void expect_ok(vtrn_status status) {
    if (status)
        print_error("%s\n", vtrn_status_message(status));
    assert_null(status);
}

static void expect_error(vtrn_status status, vtrn_category category, const char *text) {
    assert_non_null(status);
    if (vtrn_status_category(status) != category || !strstr(vtrn_status_message(status), text))
        print_error("wanted \"%s\", got \"%s\"\n", text, vtrn_status_message(status));
    assert_int_equal(vtrn_status_category(status), category);
    assert_non_null(strstr(vtrn_status_message(status), text));
    vtrn_status_free(status);
}

static void random_legal_programs_pass_on_every_generation(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    for (int i = 0; i < 200; i++) {
        int gen = 2 + i % 3;
        vtrn_program *p = legal_program(&r, gen);
        vtrn_chip chip = legal_chip(gen);
        expect_ok(program_validate(p, &chip));
        for (uint32_t k = 0; k < p->n_instrs; k++)
            expect_ok(program_validate_instr(p, &chip, k));
        program_destroy(p);
    }
}

/* One way to break an instruction of that opcode. */
typedef struct offence {
    int gen;
    vtrn_opcode opcode;
    void (*commit)(vtrn_instr *i);
    vtrn_category category;
    const char *text;
} offence;

#define COMMIT(name, body)                                                                         \
    static void name(vtrn_instr *i) {                                                              \
        body;                                                                                      \
    }

COMMIT(run_on_sync, i->engine = VTRN_ENGINE_SYNC)
COMMIT(read_hbm, i->ap[1].space = VTRN_SPACE_HBM; i->ap[1].slot = 0)
COMMIT(read_psum, i->ap[1].space = VTRN_SPACE_PSUM)
COMMIT(write_sbuf, i->ap[0].space = VTRN_SPACE_SBUF)
COMMIT(write_psum, i->ap[0].space = VTRN_SPACE_PSUM)
COMMIT(drop_source, i->ap[1].space = VTRN_SPACE_NONE)
COMMIT(add_operand, i->ap[2] = i->ap[1])
COMMIT(bad_space, i->ap[1].space = 9)
COMMIT(bad_dtype, i->ap[0].dtype = 99)
COMMIT(use_fp64, i->ap[1].dtype = VTRN_DTYPE_FP64)
COMMIT(five_dims, i->ap[1].n_dims = 5)
COMMIT(zero_elements, i->ap[1].n_dims = 1; i->ap[1].dim[0].num = 0)
COMMIT(wide_step, i->ap[1].n_dims = 1; i->ap[1].dim[0].num = 2; i->ap[1].dim[0].step = 40000)
COMMIT(long_dim, i->ap[1].n_dims = 1; i->ap[1].dim[0] = ((vtrn_dim){0, 70000}))
COMMIT(many_elements, i->ap[1].space = VTRN_SPACE_SBUF; i->ap[1].n_dims = 2;
       i->ap[1].dim[0] = i->ap[1].dim[1] = ((vtrn_dim){0, 300}))
COMMIT(write_twice, i->ap[0].n_dims = 1; i->ap[0].dim[0] = ((vtrn_dim){0, 2}))
COMMIT(start_at_16, i->ap[1].partition = 16; i->ap[1].n_partitions = 8)
COMMIT(start_at_32, i->ap[1].partition = 32; i->ap[1].n_partitions = 40)
COMMIT(start_at_64, i->ap[1].partition = 64; i->ap[1].n_partitions = 65)
COMMIT(too_many_rows, i->ap[0].partition = 0; i->ap[0].n_partitions = 129)
COMMIT(no_rows, i->ap[0].n_partitions = 0)
COMMIT(step_two, i->ap[1].partition_step = 2)
COMMIT(beyond_sbuf, i->ap[1].space = VTRN_SPACE_SBUF; i->ap[1].addr = 192 << 10)
COMMIT(before_sbuf, i->ap[1].addr = -4; i->ap[1].space = VTRN_SPACE_SBUF)
COMMIT(odd_address, i->ap[0].dtype = VTRN_DTYPE_FP32; i->ap[0].n_dims = 0; i->ap[0].addr = 2)
COMMIT(far_slot,
       for (int a = 0; a < 2; a++) if (i->ap[a].space == VTRN_SPACE_HBM) i->ap[a].slot = 77)
COMMIT(
    hostile_step, for (int a = 0; a < 2; a++) if (i->ap[a].space == VTRN_SPACE_HBM) {
        i->ap[a].partition_step = INT64_MAX;
        i->ap[a].n_partitions = 65535;
    })
COMMIT(write_constant, i->ap[1] = i->ap[0].space == VTRN_SPACE_HBM ? i->ap[1] : i->ap[0];
       i->ap[0] = ((vtrn_ap){
           .space = VTRN_SPACE_HBM, .dtype = VTRN_DTYPE_FP32, .slot = 2, .n_partitions = 1}))
COMMIT(write_argument,
       i->ap[0] = ((vtrn_ap){
           .space = VTRN_SPACE_HBM, .dtype = VTRN_DTYPE_FP32, .slot = 0, .n_partitions = 1}))
COMMIT(rows_cut, i->ap[0] = ((vtrn_ap){.space = VTRN_SPACE_SBUF,
                                       .dtype = VTRN_DTYPE_FP32,
                                       .n_dims = 1,
                                       .n_partitions = 6,
                                       .partition_step = 1,
                                       .dim = {{1, 4}}});
       i->ap[1] = ((vtrn_ap){.space = VTRN_SPACE_HBM,
                             .dtype = VTRN_DTYPE_FP32,
                             .n_dims = 2,
                             .n_partitions = 1,
                             .dim = {{1, 4}, {1, 6}}}))
COMMIT(rows_short, rows_cut(i); i->ap[1].dim[0].num = 6; i->ap[1].dim[1].num = 3)
COMMIT(wait_far, i->n_waits = 1; i->wait[0].semaphore = 256)
COMMIT(raise_far, i->update_semaphore = 300)
COMMIT(three_waits, i->n_waits = 3)
COMMIT(ring_16, i->queue = 16)
COMMIT(bad_alu, i->op0 = 200)
COMMIT(bad_func, i->func = 200)
COMMIT(bad_flag, i->flags = 1u << 30)
COMMIT(bad_source, i->source = 99)
COMMIT(moving_640, i->ap[1].n_dims = 1; i->ap[1].dim[0] = ((vtrn_dim){1, 640}); i->ap[1].addr = 0)
COMMIT(stationary_130, i->ap[1].n_dims = 1; i->ap[1].dim[0] = ((vtrn_dim){1, 130});
       i->ap[1].addr = 0)
COMMIT(across_banks, i->ap[1].n_dims = i->ap[0].n_dims = 1;
       i->ap[0].dim[0] = i->ap[1].dim[0] = ((vtrn_dim){1, 512}); i->ap[1].addr = 0;
       i->ap[0].addr = 1024)
COMMIT(psum_bf16, i->ap[0].dtype = VTRN_DTYPE_BF16)
COMMIT(moving_int, i->ap[1].dtype = VTRN_DTYPE_INT8)
COMMIT(moving_e4m3fn, i->ap[1].dtype = VTRN_DTYPE_FP8E4M3FN)
COMMIT(
    both_psum, i->op0 = VTRN_ALU_ADD; i->engine = VTRN_ENGINE_VECTOR; for (int a = 1; a < 3; a++) {
        i->ap[a].space = VTRN_SPACE_PSUM;
        i->ap[a].addr = 4096;
    })
COMMIT(no_alu, i->op0 = VTRN_ALU_NONE)
COMMIT(power_on_vector, i->engine = VTRN_ENGINE_VECTOR; i->op0 = VTRN_ALU_POWER)
COMMIT(xor_floats, i->op0 = VTRN_ALU_BITWISE_XOR; i->ap[1].dtype = VTRN_DTYPE_BF16)
COMMIT(xor_widths, i->op0 = VTRN_ALU_BITWISE_XOR; i->ap[0].dtype = VTRN_DTYPE_INT16;
       i->ap[1].dtype = VTRN_DTYPE_INT16; i->ap[2].dtype = VTRN_DTYPE_INT8)
COMMIT(mixed_ops, i->op0 = VTRN_ALU_MULTIPLY; i->op1 = VTRN_ALU_BITWISE_OR)
COMMIT(on_scalar, i->engine = VTRN_ENGINE_SCALAR)
COMMIT(scalar_max, i->engine = VTRN_ENGINE_SCALAR; i->op0 = VTRN_ALU_MAX; i->op1 = VTRN_ALU_NONE)
COMMIT(reduce_power, i->op0 = VTRN_ALU_POWER)
COMMIT(reduce_three, i->arg[0] = 3)
COMMIT(one_more, i->ap[0].n_dims = 1; i->ap[0].dim[0] = ((vtrn_dim){1, 7777}); i->ap[0].addr = 0;
       i->ap[0].space = VTRN_SPACE_SBUF)
COMMIT(predicate_float, i->ap[2].dtype = VTRN_DTYPE_BF16)
COMMIT(cast_too, i->ap[0].dtype = VTRN_DTYPE_UINT16; i->ap[1].dtype = VTRN_DTYPE_BF16)
COMMIT(mask_40, i->shuffle[5] = 40)
COMMIT(scale_bf16, i->ap[2] = i->ap[3]; i->ap[2].dtype = VTRN_DTYPE_BF16)
COMMIT(bias_immediate, i->ap[3].space = VTRN_SPACE_NONE; i->imm[1].f = 1)
COMMIT(table_99, i->arg[0] = 99)
COMMIT(pattern_short, i->ap[3].dim[0].num++)
COMMIT(select_add, i->op0 = VTRN_ALU_ADD)
COMMIT(reduce_min, i->op0 = VTRN_ALU_MIN)
COMMIT(custom_7, i->arg[0] = 7)
COMMIT(no_table_rows, i->arg[1] = 0)
COMMIT(far_table, i->arg[1] = 1 << 30)
COMMIT(index_fp32, i->ap[2].dtype = VTRN_DTYPE_FP32)
COMMIT(transpose_bytes, i->ap[0].dtype = i->ap[1].dtype = VTRN_DTYPE_INT8)
COMMIT(seed_bf16, i->ap[1].dtype = VTRN_DTYPE_BF16)
COMMIT(rng_float, i->ap[0].dtype = VTRN_DTYPE_BF16)
COMMIT(rng_gpsimd, i->engine = VTRN_ENGINE_GPSIMD; i->ap[0].space = VTRN_SPACE_SBUF)

static const offence offences[] = {
    {2, VTRN_OP_MATMUL, run_on_sync, VTRN_UNDEFINED, "Sync does not have this instruction"},
    {2, VTRN_OP_RECIPROCAL, read_hbm, VTRN_UNDEFINED, "Vector does not read HBM"},
    {2, VTRN_OP_MATMUL, read_psum, VTRN_UNDEFINED, "Tensor does not read PSUM"},
    {2, VTRN_OP_MATMUL, write_sbuf, VTRN_UNDEFINED, "Tensor does not write SBUF"},
    {2, VTRN_OP_IOTA, write_psum, VTRN_UNDEFINED, "GpSimd does not write PSUM"},
    {2, VTRN_OP_DMA_TRANSPOSE, write_psum, VTRN_UNDEFINED, "DMA does not write PSUM"},
    {2, VTRN_OP_TENSOR_COPY, drop_source, VTRN_BAD_ARGUMENT, "ap1 is missing"},
    {2, VTRN_OP_TENSOR_COPY, add_operand, VTRN_BAD_ARGUMENT, "takes no memory there"},
    {2, VTRN_OP_TENSOR_COPY, bad_space, VTRN_BAD_ARGUMENT, "memory number 9"},
    {2, VTRN_OP_TENSOR_COPY, bad_dtype, VTRN_BAD_ARGUMENT, "dtype number 99"},
    {2, VTRN_OP_TENSOR_COPY, use_fp64, VTRN_UNSUPPORTED, "no engine computes in fp64"},
    {2, VTRN_OP_TENSOR_COPY, five_dims, VTRN_BAD_ARGUMENT, "5 free dimensions > 4"},
    {2, VTRN_OP_TENSOR_COPY, zero_elements, VTRN_BAD_ARGUMENT, "0 elements"},
    {2, VTRN_OP_TENSOR_COPY, wide_step, VTRN_UNDEFINED, "step 40000"},
    {2, VTRN_OP_TENSOR_COPY, long_dim, VTRN_UNDEFINED, "70000 elements > 65535"},
    {2, VTRN_OP_TENSOR_COPY, many_elements, VTRN_UNDEFINED, "90000 elements a partition > 65536"},
    {2, VTRN_OP_TENSOR_COPY, write_twice, VTRN_UNDEFINED, "more than once"},
    {2, VTRN_OP_TENSOR_COPY, start_at_16, VTRN_UNDEFINED,
     "8 partitions may not start at partition 16"},
    {2, VTRN_OP_TENSOR_COPY, start_at_32, VTRN_UNDEFINED, "33 to 64 start at 0 or 64"},
    {2, VTRN_OP_TENSOR_COPY, start_at_64, VTRN_CAPACITY, "partitions 64..128"},
    {2, VTRN_OP_TENSOR_COPY, too_many_rows, VTRN_CAPACITY, "partitions 0..128"},
    {2, VTRN_OP_TENSOR_COPY, no_rows, VTRN_BAD_ARGUMENT, "0 rows"},
    {2, VTRN_OP_TENSOR_COPY, step_two, VTRN_UNDEFINED, "partition step 2"},
    {2, VTRN_OP_TENSOR_COPY, beyond_sbuf, VTRN_CAPACITY, "a partition of SBUF has 196608 (trn1)"},
    {2, VTRN_OP_TENSOR_COPY, before_sbuf, VTRN_CAPACITY, "begins at byte -"},
    {2, VTRN_OP_TENSOR_COPY, odd_address, VTRN_UNDEFINED, "address 2 is no multiple of 4"},
    {2, VTRN_OP_DMA_TRANSPOSE, far_slot, VTRN_BAD_ARGUMENT, "slot 77; the program has 5"},
    {2, VTRN_OP_DMA_TRANSPOSE, hostile_step, VTRN_UNDEFINED, "ends at byte"},
    {2, VTRN_OP_DMA_COPY, write_constant, VTRN_UNDEFINED, "slot 2 is read only"},
    {2, VTRN_OP_DMA_COPY, rows_cut, VTRN_UNDEFINED, "1 rows in HBM cannot serve 6 partitions"},
    {2, VTRN_OP_DMA_COPY, rows_short, VTRN_UNDEFINED,
     "has 18 elements, its 6 partitions have 4 each"},
    {2, VTRN_OP_DMA_COPY, write_argument, VTRN_UNDEFINED, "slot 0 is read only"},
    {2, VTRN_OP_EVENT_SEMAPHORE, wait_far, VTRN_CAPACITY, "waits for semaphore 256"},
    {2, VTRN_OP_EVENT_SEMAPHORE, raise_far, VTRN_CAPACITY, "raises semaphore 300"},
    {2, VTRN_OP_EVENT_SEMAPHORE, three_waits, VTRN_BAD_ARGUMENT, "3 waits > 2"},
    {2, VTRN_OP_DMA_COPY, ring_16, VTRN_CAPACITY, "DMA ring 16"},
    {2, VTRN_OP_TENSOR_TENSOR, bad_alu, VTRN_BAD_ARGUMENT, "ALU operation number 200"},
    {2, VTRN_OP_ACTIVATE, bad_func, VTRN_BAD_ARGUMENT, "activation function number 200"},
    {2, VTRN_OP_ACTIVATE, bad_flag, VTRN_UNDEFINED, "flags 0x40000000"},
    {2, VTRN_OP_ACTIVATE, bad_source, VTRN_BAD_ARGUMENT, "source 99"},
    {2, VTRN_OP_MATMUL, moving_640, VTRN_UNDEFINED,
     "moving free size 640 > 512 (one PSUM bank, NeuronCore-v2)"},
    {2, VTRN_OP_LDWEIGHTS, stationary_130, VTRN_UNDEFINED, "stationary free size 130 > 128"},
    {3, VTRN_OP_MATMUL, across_banks, VTRN_UNDEFINED, "cross a bank of 2048 (NeuronCore-v3)"},
    {3, VTRN_OP_MATMUL, psum_bf16, VTRN_UNDEFINED, "PSUM accumulates in fp32"},
    {2, VTRN_OP_MATMUL, moving_int, VTRN_UNSUPPORTED, "ap1 is int8"},
    {3, VTRN_OP_MATMUL, moving_e4m3fn, VTRN_UNSUPPORTED, "ap1 is fp8e4m3fn"},
    {2, VTRN_OP_TENSOR_TENSOR, both_psum, VTRN_UNDEFINED, "ap1 and ap2 both in PSUM"},
    {2, VTRN_OP_TENSOR_TENSOR, no_alu, VTRN_BAD_ARGUMENT, "no operation given"},
    {2, VTRN_OP_TENSOR_TENSOR, power_on_vector, VTRN_UNDEFINED, "only GpSimd has power"},
    {2, VTRN_OP_TENSOR_TENSOR, xor_floats, VTRN_UNDEFINED, "works on raw bits"},
    {2, VTRN_OP_TENSOR_TENSOR, xor_widths, VTRN_UNDEFINED, "ap2 is int8 but ap0 int16"},
    {2, VTRN_OP_TENSOR_SCALAR, mixed_ops, VTRN_UNDEFINED, "both work on raw bits or neither"},
    {2, VTRN_OP_TENSOR_SCALAR, on_scalar, VTRN_UNSUPPORTED, "Scalar has it from NeuronCore-v3"},
    {3, VTRN_OP_TENSOR_SCALAR, scalar_max, VTRN_UNSUPPORTED, "not (max, none)"},
    {2, VTRN_OP_TENSOR_REDUCE, reduce_power, VTRN_UNDEFINED, "power does not reduce"},
    {2, VTRN_OP_TENSOR_REDUCE, reduce_three, VTRN_UNDEFINED, "reduces 3 dimensions of 2"},
    {2, VTRN_OP_TENSOR_COPY, one_more, VTRN_UNDEFINED, "ap0 has 7777 elements"},
    {2, VTRN_OP_COPY_PREDICATED, predicate_float, VTRN_UNDEFINED, "the predicate ap2 is bf16"},
    {2, VTRN_OP_COPY_PREDICATED, cast_too, VTRN_UNDEFINED, "moves bits and does not cast"},
    {2, VTRN_OP_STREAM_SHUFFLE, mask_40, VTRN_UNDEFINED, "mask[5] is 40"},
    {2, VTRN_OP_ACTIVATE, scale_bf16, VTRN_UNDEFINED, "the scale ap2 is bf16"},
    {2, VTRN_OP_ACTIVATE, bias_immediate, VTRN_UNSUPPORTED, "an immediate bias of 1"},
    {2, VTRN_OP_ACT_TABLE_LOAD, table_99, VTRN_BAD_ARGUMENT, "table set 99"},
    {2, VTRN_OP_IOTA, pattern_short, VTRN_UNDEFINED, "the pattern ap3"},
    {2, VTRN_OP_AFFINE_SELECT, select_add, VTRN_UNDEFINED, "operation add is not legal"},
    {2, VTRN_OP_PARTITION_REDUCE, reduce_min, VTRN_UNDEFINED, "it has add, max"},
    {2, VTRN_OP_CUSTOM_OP, custom_7, VTRN_BAD_ARGUMENT, "number 7; the program has 2"},
    {2, VTRN_OP_DMA_GATHER, no_table_rows, VTRN_BAD_ARGUMENT, "has 0 rows"},
    {2, VTRN_OP_DMA_GATHER, far_table, VTRN_UNDEFINED, "of slot 4, which has 1048576"},
    {2, VTRN_OP_DMA_SCATTER, index_fp32, VTRN_UNDEFINED, "the indices ap2 are fp32"},
    {2, VTRN_OP_DMA_TRANSPOSE, transpose_bytes, VTRN_UNDEFINED, "2- and 4-byte elements"},
    {2, VTRN_OP_SET_RNG_SEED, seed_bf16, VTRN_UNDEFINED, "one 32-bit element"},
    {2, VTRN_OP_RNG, rng_float, VTRN_UNDEFINED, "not an integer"},
    {2, VTRN_OP_RNG, rng_gpsimd, VTRN_UNSUPPORTED, "GpSimd has it from NeuronCore-v3"},
};

static void each_illegal_instruction_is_refused_with_its_rule_and_values(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    for (int round = 0; round < 20; round++)
        for (size_t k = 0; k < sizeof offences / sizeof *offences; k++) {
            const offence *o = &offences[k];
            vtrn_program *p = legal_program(&r, o->gen);
            vtrn_chip chip = legal_chip(o->gen);
            uint32_t i = legal_find(p, o->opcode);
            o->commit(&p->instrs[i]);
            vtrn_status whole = program_validate(p, &chip);
            assert_non_null(whole);
            vtrn_status_free(whole);
            expect_error(o->commit == write_argument ? program_validate(p, &chip)
                                                     : program_validate_instr(p, &chip, i),
                         o->category, o->text);
            program_destroy(p);
        }
}

static void a_message_names_the_instruction_its_source_and_the_remedy(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    vtrn_program *p = legal_program(&r, 2);
    vtrn_chip chip = legal_chip(2);
    uint32_t i = legal_find(p, VTRN_OP_MATMUL);
    moving_640(&p->instrs[i]);
    p->instrs[i].source = 0;
    char want[160];
    snprintf(want, sizeof want,
             "at instruction %u (Tensor), stablehlo.dot_general model.py:42; split the free axis",
             i);
    expect_error(program_validate(p, &chip), VTRN_UNDEFINED, want);
    program_destroy(p);
}

static void a_matmul_that_does_not_fit_its_weights_is_refused(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    vtrn_chip chip = legal_chip(2);
    vtrn_program *p = legal_program(&r, 2);
    uint32_t i = legal_find(p, VTRN_OP_MATMUL);
    vtrn_instr *weights = &p->instrs[i - 1];
    assert_int_equal(weights->opcode, VTRN_OP_LDWEIGHTS);
    vtrn_instr kept = *weights;
    weights->ap[1].partition = 0;
    weights->ap[1].n_partitions = weights->ap[1].n_partitions % 128 + 1;
    expect_error(program_validate(p, &chip), VTRN_UNDEFINED, "the stationary tile has");
    *weights = kept;
    weights->ap[1].dtype = VTRN_DTYPE_FP32;
    weights->ap[1].addr = 4096;
    expect_error(program_validate(p, &chip), VTRN_UNDEFINED,
                 "fp32 and tf32 go only with each other");
    program_destroy(p);
}

typedef struct structure_offence {
    void (*commit)(vtrn_program *p);
    const char *text;
} structure_offence;

#define BREAK(name, body)                                                                          \
    static void name(vtrn_program *p) {                                                            \
        body;                                                                                      \
    }

BREAK(jump_far, p->blocks[0].next[0] = 9)
BREAK(branch_far, p->blocks[1].next[1] = 9)
BREAK(switch_nowhere, p->blocks[2].n_targets = 0)
BREAK(end_9, p->blocks[0].end = 9)
BREAK(condition_far, p->blocks[1].cond_slot = 9)
BREAK(condition_beyond, p->blocks[1].cond_addr = 1 << 20)
BREAK(stream_beyond, p->blocks[0].first[1] = 5000)
BREAK(stream_shared, p->blocks[3].first[0] = 0; p->blocks[3].count[0] = p->blocks[0].count[0])
BREAK(stream_foreign, p->instrs[p->blocks[0].first[1]].engine = VTRN_ENGINE_SCALAR)
BREAK(no_blocks, p->n_blocks = 0)
BREAK(slot_kind, p->slots[1].kind = 7)
BREAK(slot_argument, p->slots[0].index = 2)
BREAK(slot_constant, p->slots[2].offset = 1 << 20)
BREAK(slot_odd, p->slots[3].offset = 8)
BREAK(slot_scratch, p->slots[3].size_bytes = UINT64_MAX)
BREAK(alias_far, p->output_alias[0] = 2)
static const uint32_t far_custom_slots[] = {0, 99};
BREAK(custom_slot, p->customs[0].slots = far_custom_slots)

static const structure_offence structure_offences[] = {
    {jump_far, "block 0: goes to block 9"},
    {branch_far, "block 1: goes to block 9"},
    {switch_nowhere, "a switch without targets"},
    {end_9, "end number 9"},
    {condition_far, "condition in slot 9"},
    {condition_beyond, "condition at byte 1048576"},
    {stream_beyond, "the Vector stream ends"},
    {stream_shared, "streams share instructions"},
    {stream_foreign, "an instruction of Scalar in the stream of Vector"},
    {no_blocks, "no block"},
    {slot_kind, "slot 1: kind 7"},
    {slot_argument, "slot 0: argument 2; the program has 2"},
    {slot_constant, "do not fit"},
    {slot_odd, "no multiple of 64"},
    {slot_scratch, "do not fit"},
    {alias_far, "aliases argument 2"},
    {custom_slot, "slot 99"},
};

static void each_malformed_structure_is_refused(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    vtrn_chip chip = legal_chip(3);
    for (size_t k = 0; k < sizeof structure_offences / sizeof *structure_offences; k++) {
        vtrn_program *p = legal_program(&r, 3);
        structure_offences[k].commit(p);
        expect_error(program_validate(p, &chip), VTRN_BAD_ARGUMENT, structure_offences[k].text);
        program_destroy(p);
    }
}

static void a_program_for_another_generation_is_refused(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    vtrn_program *p = legal_program(&r, 2);
    vtrn_chip chip = legal_chip(4);
    expect_error(program_validate(p, &chip), VTRN_UNSUPPORTED,
                 "made for NeuronCore-v2, trn3 has v4");
    program_destroy(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_legal_programs_pass_on_every_generation),
        cmocka_unit_test(each_illegal_instruction_is_refused_with_its_rule_and_values),
        cmocka_unit_test(a_message_names_the_instruction_its_source_and_the_remedy),
        cmocka_unit_test(a_matmul_that_does_not_fit_its_weights_is_refused),
        cmocka_unit_test(each_malformed_structure_is_refused),
        cmocka_unit_test(a_program_for_another_generation_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
