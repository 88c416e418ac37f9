/* What each instruction touches, against a table written by hand; extents against plain loops. */
#include "isa/access.h"

#include "test_seed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the headers above.
#include <cmocka.h>

enum {
    ACC = VTRN_FLAG_ACCUMULATE,
    SR = VTRN_FLAG_STOCHASTIC,
    SKIP = VTRN_FLAG_OOB_SKIP,
    CLAMP = VTRN_FLAG_CLAMP_INDEX,
    PE = ACCESS_PE_WEIGHTS,
    REGS = ACCESS_REDUCE_REGS,
    VREGS = ACCESS_VECTOR_REGS,
    TABLE = ACCESS_ACT_TABLE,
    GEN = ACCESS_GENERATOR,
};

/* An operand's letters: r read, w written, k kept, t table, i index, x crosses partitions. Operands
 * are separated by spaces; "-": it is given but the instruction does not take it as memory, or it
 * is not given. */
typedef struct expected {
    vtrn_opcode opcode;
    uint32_t flags;
    const char *operands;
    uint8_t states_read, states_written;
    vtrn_act func;
    bool keeps_partition; /* of the shuffle's mask one is 255 */
} expected;

#define TOUCHES(op, flag_bits, letters, state_bits_read, state_bits_written)                       \
    .opcode = VTRN_OP_##op, .flags = (flag_bits), .operands = (letters),                           \
    .states_read = (state_bits_read), .states_written = (state_bits_written)

static const expected table[] = {
    {TOUCHES(LDWEIGHTS, 0, "- rx - -", 0, PE)},
    {TOUCHES(MATMUL, 0, "w rx - -", PE, 0)},
    {TOUCHES(MATMUL, ACC, "rw rx - -", PE, 0)},
    {TOUCHES(MATMUL, ACC | SR, "rw rx - -", PE | GEN, GEN)},
    {TOUCHES(PE_TRANSPOSE, 0, "w rx - -", 0, PE)},
    {TOUCHES(TENSOR_TENSOR, 0, "w r r -", 0, 0)},
    {TOUCHES(TENSOR_TENSOR, SR, "w r r -", GEN, GEN)},
    {TOUCHES(TENSOR_SCALAR, 0, "w r r r", 0, 0)},
    {TOUCHES(SCALAR_TENSOR_TENSOR, 0, "w r r r", 0, 0)},
    {TOUCHES(TENSOR_REDUCE, 0, "w r - -", 0, 0)},
    {TOUCHES(TENSOR_COPY, 0, "w r - -", 0, 0)},
    {TOUCHES(COPY_PREDICATED, 0, "rw r r -", 0, 0)},
    {TOUCHES(MEMSET, 0, "w - - -", 0, 0)},
    {TOUCHES(RECIPROCAL, 0, "w r - -", 0, 0)},
    {TOUCHES(TENSOR_TENSOR_SCAN, 0, "w r r r", 0, 0)},
    {TOUCHES(TRANSPOSE32, 0, "w rx - -", 0, 0)},
    {TOUCHES(STREAM_SHUFFLE, 0, "w rx - -", 0, 0)},
    {TOUCHES(STREAM_SHUFFLE, 0, "rwk rx - -", 0, 0), .keeps_partition = true},
    {TOUCHES(BN_STATS, 0, "w r - -", 0, 0)},
    {TOUCHES(BN_AGGR, 0, "w r - -", 0, 0)},
    {TOUCHES(MAX8, 0, "w r - -", 0, 0)},
    {TOUCHES(FIND_INDEX8, 0, "w r r -", 0, 0)},
    {TOUCHES(MATCH_REPLACE8, 0, "w r r -", 0, 0)},
    {TOUCHES(SET_RNG_SEED, 0, "- rx - -", 0, GEN)},
    {TOUCHES(RNG, 0, "w - - -", GEN, GEN)},
    {TOUCHES(RAND_SET_STATE, 0, "- r - -", GEN, GEN)},
    {TOUCHES(RAND_GET_STATE, 0, "w - - -", GEN, 0)},
    {TOUCHES(DROPOUT, 0, "w r r -", GEN, GEN)},
    {TOUCHES(ACTIVATE, 0, "w r r r", 0, 0), .func = VTRN_ACT_COPY},
    {TOUCHES(ACTIVATE, 0, "w r r r", TABLE, 0), .func = VTRN_ACT_EXP},
    {TOUCHES(ACTIVATE, ACC, "w r r r", TABLE | REGS, REGS), .func = VTRN_ACT_EXP},
    {TOUCHES(ACTIVATE, VTRN_FLAG_RESET, "w r r r", TABLE | REGS, REGS), .func = VTRN_ACT_EXP},
    {TOUCHES(ACT_READ_ACCUMULATOR, 0, "w - - -", REGS, 0)},
    {TOUCHES(TENSOR_SCALAR_REDUCE, 0, "w r r -", VREGS, VREGS)},
    {TOUCHES(TENSOR_SCALAR_REDUCE, ACC, "w r r -", VREGS, VREGS)},
    {TOUCHES(TENSOR_SCALAR_CUMULATIVE, ACC, "w r r -", VREGS, VREGS)},
    {TOUCHES(RANGE_SELECT, ACC, "w r r r", VREGS, VREGS)},
    {TOUCHES(SELECT_REDUCE, 0, "w r r r", VREGS, VREGS)},
    {TOUCHES(EXPONENTIAL, ACC, "w r r -", VREGS, VREGS)},
    {TOUCHES(VECTOR_READ_ACCUMULATOR, 0, "w - - -", VREGS, 0)},
    {TOUCHES(VECTOR_LOAD_ACCUMULATOR, 0, "- r - -", VREGS, VREGS)},
    {TOUCHES(N_GATHER, 0, "w r r -", 0, 0)},
    {TOUCHES(LOCAL_GATHER, 0, "w r rx -", 0, 0)},
    {TOUCHES(NONZERO_WITH_COUNT, 0, "rwk r - -", 0, 0)},
    {TOUCHES(ACT_TABLE_LOAD, 0, "- - - -", 0, TABLE)},
    {TOUCHES(IOTA, 0, "w - - -", 0, 0)},
    {TOUCHES(AFFINE_SELECT, 0, "w r - -", 0, 0)},
    {TOUCHES(PARTITION_REDUCE, 0, "w rx - -", 0, 0)},
    {TOUCHES(CUSTOM_OP, 0, "- - - -", 0, 0)}, /* its tensors: below */
    {TOUCHES(DMA_COPY, 0, "w r - -", 0, 0)},
    {TOUCHES(DMA_COPY, ACC, "rw r - -", 0, 0)},
    {TOUCHES(DMA_TRANSPOSE, 0, "w rx - -", 0, 0)},
    {TOUCHES(DMA_GATHER, CLAMP, "w rt ri -", 0, 0)},
    {TOUCHES(DMA_GATHER, SKIP, "rwk rt ri -", 0, 0)},
    {TOUCHES(DMA_SCATTER, CLAMP, "rwt rx rix -", 0, 0)},
    {TOUCHES(DMA_SCATTER, ACC | SKIP, "rwt rx rix -", 0, 0)},
    {TOUCHES(EVENT_SEMAPHORE, 0, "- - - -", 0, 0)},
    {TOUCHES(COLLECTIVE, 0, "- - - -", 0, 0)}, /* its tensors, as those of a custom op */
    {TOUCHES(LDWEIGHTS_MX, 0, "- rx rx -", 0, PE)},
    {TOUCHES(MATMUL_MX, 0, "w rx rx -", PE, 0)},
    {TOUCHES(MATMUL_MX, ACC, "rw rx rx -", PE, 0)},
    {TOUCHES(QUANTIZE_MX, 0, "w rx rwk -", 0, 0)},
};
enum { N_EXPECTED = sizeof table / sizeof *table, N_TABLE_ROWS = 77 };

/* Every operand is given, [8, 4] from partition 0 on; tables are in HBM. */
static vtrn_instr instr_of(const expected *e) {
    vtrn_instr instr = {.opcode = (uint16_t)e->opcode, .flags = e->flags, .func = (uint8_t)e->func};
    instr.arg[1] = N_TABLE_ROWS;
    for (int i = 0; i < VTRN_MAX_AP; i++)
        instr.ap[i] = (vtrn_ap){.space = VTRN_SPACE_SBUF,
                                .dtype = VTRN_DTYPE_FP32,
                                .n_dims = 1,
                                .n_partitions = 8,
                                .partition_step = 1,
                                .dim = {{1, 4}}};
    int table_i = e->opcode == VTRN_OP_DMA_GATHER ? 1 : e->opcode == VTRN_OP_DMA_SCATTER ? 0 : -1;
    if (table_i >= 0) {
        instr.ap[table_i].space = VTRN_SPACE_HBM;
        instr.ap[table_i].partition_step = 100;
        instr.ap[table_i].slot = 5;
    }
    for (int i = 0; i < 32; i++)
        instr.shuffle[i] = (uint8_t)(e->keeps_partition && i == 9 ? 255 : 31 - i);
    return instr;
}

static void add_letters(char *text, const vtrn_instr *instr, const isa_access *a) {
    const char letters[] = {'r', 'w', 'k', 't', 'i', 'x'};
    const bool is_set[] = {a->is_read,  a->is_written, a->is_kept,
                           a->is_table, a->is_index,   access_crosses(instr, a->ap_i)};
    size_t n = strlen(text);
    for (int i = 0; i < 6; i++)
        if (is_set[i])
            text[n++] = letters[i];
    text[n] = 0;
}

/* As the table writes it. */
static void describe(const vtrn_instr *instr, char text[64]) {
    isa_access a;
    access_walk w = access_begin(instr, NULL, 0);
    bool is_any = access_next(&w, &a);
    text[0] = 0;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        strcat(text, i ? " " : "");
        if (!is_any || a.ap_i != i) {
            strcat(text, "-");
            continue;
        }
        assert_ptr_equal(a.ap, &instr->ap[i]);
        assert_int_equal(a.space, instr->ap[i].space);
        assert_int_equal(a.slot, instr->ap[i].slot);
        assert_int_equal(a.n_rows, a.is_table ? N_TABLE_ROWS : 8);
        add_letters(text, instr, &a);
        is_any = access_next(&w, &a);
    }
    assert_false(is_any);
}

static void each_instruction_touches_what_the_table_says(void **state) {
    (void)state;
    bool is_there[VTRN_OP_COUNT] = {false};
    for (int i = 0; i < N_EXPECTED; i++) {
        const expected *e = &table[i];
        vtrn_instr instr = instr_of(e);
        char text[64];
        describe(&instr, text);
        access_states states = access_states_of(&instr);
        if (strcmp(text, e->operands) != 0 || states.read != e->states_read ||
            states.written != e->states_written)
            fail_msg("%s, flags 0x%x: touches \"%s\", states %u and %u; expected \"%s\", %u and %u",
                     isa_op_info(e->opcode)->mnemonic, e->flags, text, states.read, states.written,
                     e->operands, e->states_read, e->states_written);
        is_there[e->opcode] = true;
    }
    for (int op = 0; op < VTRN_OP_COUNT; op++)
        if (!is_there[op])
            fail_msg("%s is not in the table", isa_op_info((vtrn_opcode)op)->mnemonic);
}

static void an_operand_that_is_not_given_is_not_touched(void **state) {
    (void)state;
    const expected e = {.opcode = VTRN_OP_TENSOR_SCALAR};
    vtrn_instr instr = instr_of(&e);
    instr.ap[2].space = VTRN_SPACE_NONE;
    char text[64];
    describe(&instr, text);
    assert_string_equal(text, "w r - r");
    assert_false(access_is_read(&instr, 2));
}

static void an_operand_on_other_partitions_crosses(void **state) {
    (void)state;
    const expected e = {.opcode = VTRN_OP_DMA_COPY};
    vtrn_instr instr = instr_of(&e);
    instr.ap[1].partition = 32;
    assert_true(access_crosses(&instr, 1));
    instr.ap[0].partition = 32;
    assert_false(access_crosses(&instr, 1));
    instr.ap[1].partition_step = 0; /* one partition for all rows */
    assert_true(access_crosses(&instr, 1));
    instr.ap[0].space = VTRN_SPACE_HBM; /* a result without partitions */
    assert_false(access_crosses(&instr, 1));
    instr.ap[0].space = VTRN_SPACE_SBUF;
    instr.ap[1].space = VTRN_SPACE_HBM;
    assert_false(access_crosses(&instr, 1));
}

static void a_custom_op_reads_its_inputs_and_writes_its_outputs(void **state) {
    (void)state;
    const uint32_t slots[] = {7, 3, 3, 9};
    const vtrn_custom customs[] = {{.name = "none"},
                                   {.n_inputs = 2, .n_outputs = 2, .slots = slots}};
    vtrn_instr instr = {.opcode = VTRN_OP_CUSTOM_OP, .arg = {1}};
    isa_access a;
    access_walk w = access_begin(&instr, customs, 2);
    for (uint32_t i = 0; i < 4; i++) {
        int64_t lo, hi;
        assert_true(access_next(&w, &a));
        assert_null(a.ap);
        assert_int_equal(a.space, VTRN_SPACE_HBM);
        assert_int_equal(a.slot, slots[i]);
        assert_int_equal(a.is_read, i < 2);
        assert_int_equal(a.is_written, i >= 2);
        access_extent(&a, 4096, &lo, &hi);
        assert_int_equal(lo, 0);
        assert_int_equal(hi, 4096);
    }
    assert_false(access_next(&w, &a));
    for (int32_t number = -1; number <= 2; number += 3) { /* beyond the program's */
        instr.arg[0] = number;
        w = access_begin(&instr, customs, 2);
        assert_false(access_next(&w, &a));
    }
    instr.arg[0] = 0;
    w = access_begin(&instr, customs, 2);
    assert_false(access_next(&w, &a));
}

static int64_t below(uint64_t *state, int64_t n) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)(*state >> 33) % n;
}

/* The least and the greatest byte of the elements of a row, from its origin. */
static void visit_row(const vtrn_ap *ap, int dim, int64_t at, int64_t *lo, int64_t *hi) {
    int64_t size = (int64_t)dtype_size((vtrn_dtype)ap->dtype);
    if (dim == ap->n_dims) {
        *lo = at < *lo ? at : *lo;
        *hi = at + size > *hi ? at + size : *hi;
        return;
    }
    for (uint32_t i = 0; i < ap->dim[dim].num; i++)
        visit_row(ap, dim + 1, at + (int64_t)i * ap->dim[dim].step * size, lo, hi);
}

static void an_extent_holds_the_first_and_the_last_element(void **state) {
    (void)state;
    static const vtrn_dtype dtypes[] = {VTRN_DTYPE_INT8, VTRN_DTYPE_BF16, VTRN_DTYPE_FP32,
                                        VTRN_DTYPE_INT64};
    uint64_t seed = test_seed();
    for (int round = 0; round < 2000; round++) {
        bool is_table = round % 3 == 0;
        vtrn_instr instr = {.opcode = is_table ? VTRN_OP_DMA_GATHER : VTRN_OP_DMA_COPY};
        instr.arg[1] = 1 + (int32_t)below(&seed, 9);
        vtrn_ap *ap = &instr.ap[1];
        *ap = (vtrn_ap){.space = round % 2 || is_table ? VTRN_SPACE_HBM : VTRN_SPACE_SBUF,
                        .dtype = dtypes[below(&seed, 4)],
                        .n_dims = (uint8_t)below(&seed, VTRN_MAX_FREE_DIMS + 1),
                        .n_partitions = (uint16_t)(1 + below(&seed, 9)),
                        .addr = below(&seed, 1000),
                        .partition_step = below(&seed, 401) - 200};
        for (int d = 0; d < ap->n_dims; d++)
            ap->dim[d] = (vtrn_dim){(int32_t)below(&seed, 61) - 30, 1 + (uint32_t)below(&seed, 5)};
        int64_t lo, hi, first = INT64_MAX, end = INT64_MIN;
        int64_t n_rows = is_table                      ? instr.arg[1]
                         : ap->space == VTRN_SPACE_HBM ? ap->n_partitions
                                                       : 1;
        int64_t pitch = ap->partition_step * (int64_t)dtype_size((vtrn_dtype)ap->dtype);
        for (int64_t r = 0; r < n_rows; r++)
            visit_row(ap, 0, ap->addr + r * pitch, &first, &end);
        isa_access a = {0};
        access_walk w = access_begin(&instr, NULL, 0);
        assert_true(access_next(&w, &a) && a.ap == ap);
        access_extent(&a, 0, &lo, &hi);
        assert_int_equal(lo, first);
        assert_int_equal(hi, end);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_instruction_touches_what_the_table_says),
        cmocka_unit_test(an_operand_that_is_not_given_is_not_touched),
        cmocka_unit_test(an_operand_on_other_partitions_crosses),
        cmocka_unit_test(a_custom_op_reads_its_inputs_and_writes_its_outputs),
        cmocka_unit_test(an_extent_holds_the_first_and_the_last_element),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
