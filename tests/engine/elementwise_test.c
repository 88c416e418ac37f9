/* Elementwise instructions: the same bits for any number of threads and at every level, and nothing
 * written outside of the destination. Values are checked against NumPy in tests/python. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cpu.h"
#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

enum { ROW_BYTES = 4096, N_BYTES = ENGINE_MAX_PARTITIONS * ROW_BYTES, N_ELEMENTS = 200 };

typedef struct bench_core {
    engine_core core;
    engine_registers regs;
    uint8_t sbuf[N_BYTES];
} bench_core;

static uint32_t next(uint32_t *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Finite values: bf16 and fp32 of moderate size alike. */
static bench_core *new_core(int n_threads, uint32_t seed) {
    bench_core *c = calloc(1, sizeof *c);
    assert_non_null(c);
    for (int i = 0; i < N_BYTES / 2; i++) {
        uint16_t half = (uint16_t)((next(&seed) & 0x80ff) | 0x3f00);
        memcpy(c->sbuf + 2 * i, &half, 2);
    }
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        for (int p = 0; p < ENGINE_MAX_PARTITIONS; p++)
            c->regs.kept.generator[e][p].state = (uint64_t)(e + 1) << 32 | (uint64_t)(p + 1);
    c->regs.scratch = malloc((size_t)n_threads * ENGINE_SCRATCH_BYTES);
    assert_non_null(c->regs.scratch);
    c->core.sbuf = (engine_memory){c->sbuf, ROW_BYTES, ROW_BYTES, ENGINE_MAX_PARTITIONS, NULL, 0};
    c->core.regs = &c->regs;
    c->core.n_threads = n_threads;
    c->core.owner_shift = ENGINE_OWNER_SHIFT;
    return c;
}

static void free_core(bench_core *c) {
    free(c->regs.scratch);
    free(c);
}

static vtrn_ap operand(vtrn_dtype t, int64_t addr, uint32_t n) {
    return (vtrn_ap){.space = VTRN_SPACE_SBUF,
                     .dtype = (uint8_t)t,
                     .n_dims = 1,
                     .partition = 3,
                     .n_partitions = 100,
                     .addr = addr,
                     .partition_step = 1,
                     .dim = {{1, n}}};
}

static void run(bench_core *c, const vtrn_instr *instr) {
    for (int t = 0; t < c->core.n_threads; t++)
        assert_null(engine_table[instr->opcode](&c->core, instr, NULL, t));
}

static const vtrn_opcode opcodes[] = {
    VTRN_OP_TENSOR_TENSOR, VTRN_OP_TENSOR_SCALAR, VTRN_OP_SCALAR_TENSOR_TENSOR,
    VTRN_OP_TENSOR_COPY,   VTRN_OP_MEMSET,        VTRN_OP_RECIPROCAL,
    VTRN_OP_TENSOR_REDUCE, VTRN_OP_ACTIVATE,      VTRN_OP_TENSOR_TENSOR_SCAN,
    VTRN_OP_DROPOUT,       VTRN_OP_RNG,
};

/* ap0 is the only operand that is written, at byte 3072 of each partition. */
static vtrn_instr instruction(vtrn_opcode opcode, vtrn_dtype t) {
    uint32_t n_out = opcode == VTRN_OP_TENSOR_REDUCE ? 1 : N_ELEMENTS;
    vtrn_instr i = {.opcode = (uint16_t)opcode,
                    .engine = VTRN_ENGINE_VECTOR,
                    .op0 = VTRN_ALU_MULTIPLY,
                    .op1 = VTRN_ALU_ADD,
                    .func = VTRN_ACT_GELU,
                    .imm = {{.f = 0.5f}, {.f = 0.25f}},
                    .arg = {1, 0}};
    i.ap[0] = operand(t, 3072, n_out);
    i.ap[1] = operand(t, 0, N_ELEMENTS);
    if (opcode == VTRN_OP_TENSOR_TENSOR || opcode == VTRN_OP_TENSOR_TENSOR_SCAN)
        i.ap[2] = operand(t, 1024, N_ELEMENTS);
    if (opcode == VTRN_OP_SCALAR_TENSOR_TENSOR)
        i.ap[3] = operand(t, 1024, N_ELEMENTS);
    return i;
}

#define FOR_EACH_INSTRUCTION(instr)                                                                \
    for (size_t k = 0; k < 2 * sizeof opcodes / sizeof *opcodes; k++)                              \
        for (vtrn_instr                                                                            \
                 instr = instruction(opcodes[k / 2], k & 1 ? VTRN_DTYPE_BF16 : VTRN_DTYPE_FP32),   \
                 *once = &instr;                                                                   \
             once; once = NULL)

static void any_number_of_threads_gives_the_same_bits(void **state) {
    (void)state;
    FOR_EACH_INSTRUCTION(instr) {
        bench_core *one = new_core(1, 7), *many = new_core(5, 7);
        run(one, &instr);
        run(many, &instr);
        assert_memory_equal(one->sbuf, many->sbuf, N_BYTES);
        assert_memory_equal(one->regs.kept.generator, many->regs.kept.generator,
                            sizeof one->regs.kept.generator);
        free_core(one);
        free_core(many);
    }
}

static void every_level_gives_the_same_bits(void **state) {
    (void)state;
    cpu_level highest = cpu_level_get();
    FOR_EACH_INSTRUCTION(instr) {
        bench_core *base = new_core(1, 11);
        cpu_level_set(CPU_LEVEL_BASE);
        run(base, &instr);
        for (int level = CPU_LEVEL_AVX2; level <= (int)highest; level++) {
            bench_core *other = new_core(1, 11);
            cpu_level_set((cpu_level)level);
            run(other, &instr);
            assert_memory_equal(base->sbuf, other->sbuf, N_BYTES);
            free_core(other);
        }
        free_core(base);
    }
    cpu_level_set(highest);
}

static void only_the_destination_is_written(void **state) {
    (void)state;
    FOR_EACH_INSTRUCTION(instr) {
        bench_core *c = new_core(2, 13), *fresh = new_core(2, 13);
        run(c, &instr);
        int64_t low, high;
        isa_ap_extent(&instr.ap[0], &low, &high);
        int n_changed = 0;
        for (int p = 0; p < ENGINE_MAX_PARTITIONS; p++)
            for (int b = 0; b < ROW_BYTES; b++) {
                bool is_dst = p >= 3 && p < 103 && b >= low && b < high;
                int i = p * ROW_BYTES + b;
                n_changed += c->sbuf[i] != fresh->sbuf[i];
                assert_true(is_dst || c->sbuf[i] == fresh->sbuf[i]);
            }
        assert_true(n_changed > 0);
        free_core(c);
        free_core(fresh);
    }
}

/* Element i of row r alone; an operand of one element a row, or that repeats one, has no other. */
static vtrn_instr one_element(const vtrn_instr *instr, int r, uint32_t i) {
    vtrn_instr one = *instr;
    for (int k = 0; k < VTRN_MAX_AP; k++) {
        vtrn_ap *ap = &one.ap[k];
        if (ap->space == VTRN_SPACE_NONE)
            continue;
        ap->partition = (uint16_t)(ap->partition + r);
        ap->n_partitions = 1;
        if (ap->dim[0].num > 1)
            ap->addr += (int64_t)i * ap->dim[0].step * (int64_t)dtype_size((vtrn_dtype)ap->dtype);
        ap->dim[0] = (vtrn_dim){1, 1};
    }
    return one;
}

/* Streams have n elements a row or repeat one; scalar operands have one. */
static vtrn_instr random_rows(uint32_t *seed, uint32_t n) {
    static const vtrn_opcode some[] = {VTRN_OP_TENSOR_TENSOR, VTRN_OP_TENSOR_SCALAR,
                                       VTRN_OP_SCALAR_TENSOR_TENSOR, VTRN_OP_ACTIVATE,
                                       VTRN_OP_COPY_PREDICATED};
    static const vtrn_dtype types[] = {VTRN_DTYPE_FP32, VTRN_DTYPE_INT32, VTRN_DTYPE_BF16,
                                       VTRN_DTYPE_UINT8};
    static const uint8_t alu[] = {VTRN_ALU_ADD,   VTRN_ALU_SUBTRACT,    VTRN_ALU_MULTIPLY,
                                  VTRN_ALU_MAX,   VTRN_ALU_IS_EQUAL,    VTRN_ALU_IS_GT,
                                  VTRN_ALU_IS_LE, VTRN_ALU_BITWISE_AND, VTRN_ALU_SHIFT_LEFT};
    vtrn_instr in = {.opcode = some[next(seed) % 5],
                     .engine = next(seed) % 2 ? VTRN_ENGINE_GPSIMD : VTRN_ENGINE_VECTOR,
                     .op0 = alu[next(seed) % 9],
                     .op1 = next(seed) % 2 ? alu[next(seed) % 9] : VTRN_ALU_NONE,
                     .func = VTRN_ACT_RELU,
                     .flags = (next(seed) % 2 ? VTRN_FLAG_REVERSE0 : 0) |
                              (next(seed) % 2 ? VTRN_FLAG_REVERSE1 : 0),
                     .imm = {{.f = 0.5f}, {.f = -2}}};
    const vtrn_dtype all = types[next(seed) % 4];
    const bool is_mixed = next(seed) % 2;
    const int n_ap = in.opcode == VTRN_OP_TENSOR_TENSOR || in.opcode == VTRN_OP_COPY_PREDICATED
                         ? 3
                         : VTRN_MAX_AP;
    for (int k = 0; k < n_ap; k++) {
        bool is_scalar = in.opcode == VTRN_OP_SCALAR_TENSOR_TENSOR ? k == 2 : k > 1 && n_ap > 3;
        vtrn_dtype t = is_mixed && k ? types[next(seed) % 4] : all;
        if (is_scalar && next(seed) % 2)
            continue;
        in.ap[k] = operand(t, k == 0 ? 3072 : 1024 * (k - 1), is_scalar ? 1 : n);
        if (k && !is_scalar && next(seed) % 4 == 0)
            in.ap[k].dim[0].step = 0;
        else if (k && !is_scalar && t == all && next(seed) % 4 == 0)
            in.ap[k].addr = in.ap[0].addr; /* in place */
    }
    return in;
}

static void rows_give_the_bits_of_their_elements_alone(void **state) {
    (void)state;
    static const uint32_t sizes[] = {2, 3, 5, 16, 31, 64, 130, 200};
    uint32_t seed = 23;
    cpu_level highest = cpu_level_get();
    int n_legal = 0;
    for (int turn = 0; turn < 240; turn++) {
        const uint32_t n = sizes[turn % 8];
        const vtrn_instr instr = random_rows(&seed, n);
        bench_core *whole = new_core(1, 29), *apart = new_core(1, 29);
        cpu_level_set((cpu_level)(next(&seed) % ((uint32_t)highest + 1)));
        vtrn_status status = engine_table[instr.opcode](&whole->core, &instr, NULL, 0);
        n_legal += status == NULL;
        for (uint32_t i = 0; i < n && !status; i++)
            for (int r = 0; r < instr.ap[0].n_partitions; r += 9) {
                vtrn_instr one = one_element(&instr, r, i);
                run(apart, &one);
                const size_t size = dtype_size((vtrn_dtype)instr.ap[0].dtype);
                const size_t at = (size_t)one.ap[0].partition * ROW_BYTES + (size_t)one.ap[0].addr;
                if (memcmp(whole->sbuf + at, apart->sbuf + at, size))
                    fail_msg("turn %d: %s.%s.%s %s <- %s %s of %u: element %u of row %d", turn,
                             isa_op_info((vtrn_opcode)instr.opcode)->mnemonic,
                             isa_alu_name(instr.op0), isa_alu_name(instr.op1),
                             dtype_name((vtrn_dtype)instr.ap[0].dtype),
                             dtype_name((vtrn_dtype)instr.ap[1].dtype),
                             dtype_name((vtrn_dtype)instr.ap[2].dtype), n, i, r);
            }
        vtrn_status_free(status);
        free_core(whole);
        free_core(apart);
    }
    assert_true(n_legal > 120);
    cpu_level_set(highest);
}

static void wrong_shapes_are_refused_before_anything_is_written(void **state) {
    (void)state;
    bench_core *c = new_core(1, 17), *fresh = new_core(1, 17);
    vtrn_instr instr = instruction(VTRN_OP_TENSOR_TENSOR, VTRN_DTYPE_FP32);
    instr.ap[2].dim[0].num = N_ELEMENTS - 1;
    vtrn_status status = engine_table[instr.opcode](&c->core, &instr, NULL, 0);
    assert_int_equal(vtrn_status_category(status), VTRN_UNDEFINED);
    assert_non_null(strstr(vtrn_status_message(status), "same number of elements"));
    vtrn_status_free(status);
    assert_memory_equal(c->sbuf, fresh->sbuf, N_BYTES);
    free_core(c);
    free_core(fresh);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_threads_gives_the_same_bits),
        cmocka_unit_test(every_level_gives_the_same_bits),
        cmocka_unit_test(only_the_destination_is_written),
        cmocka_unit_test(rows_give_the_bits_of_their_elements_alone),
        cmocka_unit_test(wrong_shapes_are_refused_before_anything_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
