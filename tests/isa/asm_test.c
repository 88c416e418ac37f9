/* Assembly text: reads back to the same bytes, and says what is wrong where. */
#include "isa/asm.h"
#include "isa/container.h"
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

static void expect_round_trip(const vtrn_program *p) {
    char *text, *again;
    void *before, *after;
    size_t n_text, n_again, n_before, n_after;
    vtrn_program *q;
    expect_ok(program_save(p, &before, &n_before));
    expect_ok(program_disassemble(p, &text, &n_text));
    expect_ok(program_assemble(text, n_text, "text", &q));
    expect_ok(program_save(q, &after, &n_after));
    expect_ok(program_disassemble(q, &again, &n_again));
    assert_int_equal(n_before, n_after);
    assert_memory_equal(before, after, n_before);
    assert_string_equal(text, again);
    free(text);
    free(again);
    free(before);
    free(after);
    program_destroy(q);
}

static void random_legal_programs_survive_text_byte_for_byte(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    for (int i = 0; i < 30; i++) {
        vtrn_program *p = legal_program(&r, 2 + i % 3);
        expect_round_trip(p);
        program_destroy(p);
    }
}

/* Numbers that no legal program has must survive too: the disassembler shows broken programs. */
static void extreme_numbers_survive_text(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    for (int round = 0; round < 20; round++) {
        vtrn_program *p = legal_program(&r, 2);
        for (int k = 0; k < 40; k++) {
            vtrn_instr *i = &p->instrs[legal_random(&r, p->n_instrs)];
            i->flags = legal_random(&r, UINT32_MAX);
            i->imm[k % 2].bits = legal_random(&r, UINT32_MAX);
            i->arg[k % 2] = k % 3 ? INT32_MIN : INT32_MAX;
            i->op0 = (uint8_t)legal_random(&r, VTRN_ALU_COUNT);
            i->op1 = (uint8_t)legal_random(&r, VTRN_ALU_COUNT);
            i->func = (uint8_t)legal_random(&r, VTRN_ACT_COUNT);
            i->queue = (uint8_t)legal_random(&r, 256);
            vtrn_ap *ap = &i->ap[legal_random(&r, 4)];
            if (ap->space == VTRN_SPACE_NONE)
                continue;
            ap->addr = k % 2 ? INT64_MIN : INT64_MAX;
            ap->partition_step = k % 3 ? INT64_MIN : INT64_MAX;
            ap->partition = ap->n_partitions = UINT16_MAX;
            ap->n_dims = (uint8_t)legal_random(&r, 5);
            for (int d = 0; d < ap->n_dims; d++)
                ap->dim[d] = (vtrn_dim){INT32_MIN + (int32_t)legal_random(&r, 3), UINT32_MAX};
            if (ap->space == VTRN_SPACE_HBM)
                ap->partition = 0;
        }
        expect_round_trip(p);
        program_destroy(p);
    }
}

static void every_mnemonic_survives_alone(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    vtrn_program *p = legal_program(&r, 4);
    bool is_seen[VTRN_OP_COUNT] = {false};
    for (uint32_t i = 0; i < p->n_instrs; i++) {
        char line[1024];
        size_t n = program_disassemble_instr(&p->instrs[i], line, sizeof line);
        assert_true(n < sizeof line);
        assert_non_null(strstr(line, isa_op_info(p->instrs[i].opcode)->mnemonic));
        is_seen[p->instrs[i].opcode] = true;
    }
    for (int op = 0; op < VTRN_OP_COUNT; op++)
        assert_true(is_seen[op]);
    char cut[8];
    assert_true(program_disassemble_instr(&p->instrs[0], cut, sizeof cut) > 7);
    assert_int_equal(strlen(cut), 7);
    program_destroy(p);
}

#define HEAD "program \"t\" chip \"trn1\" gen 2\n"

static void the_text_of_an_instruction_means_its_fields(void **state) {
    (void)state;
    const char *text =
        HEAD "slot 0 argument fp32 4096 bytes number 0\n"
             "arguments 1\n"
             "block 0   # a comment\n"
             "Scalar activate.exp sbuf[32:64, 0x40]:bf16(2:3 -1:4), sbuf[0:32, 0]:fp32(1:12), _, "
             "psum[0:32, 8]:fp32, imm0 -0.5, accumulate, wait s7>=16, inc s3, @0\n"
             "Sync dma_copy sbuf[5:9, 0]:fp32(1:4), hbm[0, 16, 4*0]:fp32(1:4), ring 3, inc s9+16\n"
             "stop\n";
    vtrn_program *p;
    expect_ok(program_assemble(text, strlen(text), "t", &p));
    assert_int_equal(p->n_instrs, 2);
    const vtrn_instr *a = &p->instrs[p->blocks[0].first[VTRN_ENGINE_SCALAR]];
    assert_int_equal(a->opcode, VTRN_OP_ACTIVATE);
    assert_int_equal(a->func, VTRN_ACT_EXP);
    assert_int_equal(a->ap[0].partition, 32);
    assert_int_equal(a->ap[0].n_partitions, 32);
    assert_int_equal(a->ap[0].addr, 64);
    assert_int_equal(a->ap[0].dtype, VTRN_DTYPE_BF16);
    assert_int_equal(a->ap[0].n_dims, 2);
    assert_int_equal(a->ap[0].dim[1].step, -1);
    assert_int_equal(a->ap[0].dim[1].num, 4);
    assert_int_equal(a->ap[2].space, VTRN_SPACE_NONE);
    assert_int_equal(a->ap[3].space, VTRN_SPACE_PSUM);
    assert_int_equal(a->ap[3].n_dims, 0);
    assert_true(a->imm[0].f == -0.5f);
    assert_int_equal(a->flags, VTRN_FLAG_ACCUMULATE);
    assert_int_equal(a->wait[0].semaphore, 7);
    assert_int_equal(a->wait[0].value, 16);
    assert_int_equal(a->update_semaphore, 3);
    assert_int_equal(a->update_value, 1);
    const vtrn_instr *d = &p->instrs[p->blocks[0].first[VTRN_ENGINE_SYNC]];
    assert_int_equal(d->ap[1].space, VTRN_SPACE_HBM);
    assert_int_equal(d->ap[1].addr, 16);
    assert_int_equal(d->ap[1].n_partitions, 4);
    assert_int_equal(d->ap[1].partition_step, 0);
    assert_int_equal(d->queue, 3);
    assert_int_equal(d->update_value, 16);
    program_destroy(p);
}

static void constants_are_hex_or_floats(void **state) {
    (void)state;
    const char *text = HEAD "data 16\nat 0x4 00ff\nat 8 fp32 1.5 -inf\nblock 0\nstop\n";
    vtrn_program *p;
    expect_ok(program_assemble(text, strlen(text), "t", &p));
    const float floats[2] = {1.5f, -INFINITY};
    assert_int_equal(p->data[4], 0);
    assert_int_equal(p->data[5], 255);
    assert_memory_equal(p->data + 8, floats, 8);
    program_destroy(p);
}

typedef struct mistake {
    const char *text, *message;
} mistake;

static const mistake mistakes[] = {
    {HEAD "block 0\n  Tensor matmull psum[0:1, 0]:fp32\nstop\n",
     "t:3: no instruction is called \"matmull\"\n      Tensor matmull psum[0:1, 0]:fp32\n"
     "             ^"},
    {HEAD "block 0\nVector memset sbuf[0:1, 0]:fp33\nstop\n", "no dtype is called \"fp33\""},
    {HEAD "block 0\nVector memset sbuf[4:1, 0]:fp32\nstop\n", "partitions 4:1 are no range"},
    {HEAD "block 0\nVector memset.foo sbuf[0:1, 0]:fp32\nstop\n", "no ALU operation is called"},
    {HEAD "block 0\nVector memset pattern(1:2)\nstop\n", "expected memory"},
    {HEAD "block 0\nGpSimd iota sbuf[0:1, 0]:int32(1:2), sbuf[0:1, 0]:int32\nstop\n",
     "expected pattern"},
    {HEAD "block 0\nVector memset sbuf[0:1, 0]:fp32(1:2 1:2 1:2 1:2 1:2)\nstop\n",
     "more than 4 free dimensions"},
    {HEAD "block 0\nVector memset sbuf[0:1, 0]:fp32, sbuf[0:1, 0]:fp32\nstop\n",
     "expected an attribute"},
    {HEAD "block 0\nSync event_semaphore, wait s1>=1, wait s2>=1, wait s3>=1\nstop\n",
     "more than 2 waits"},
    {HEAD "block 0\nSync event_semaphore, inc s65535\nstop\n", "is more than 65534"},
    {HEAD "block 0\nVector memset sbuf[0:1, 0]:fp32, imm0 1.5x\nstop\n", "expected a float"},
    {HEAD "block 0\nVector memset sbuf[0:1, 0]:fp32, arg0 3000000000\nstop\n", "is outside"},
    {HEAD "block 0\nVector memset sbuf[0:1, 0]:fp32 stop\n", "expected the end of the line"},
    {HEAD "block 0\n", "the last block ends with"},
    {HEAD "block 1\nstop\n", "should be 0: they are numbered in order"},
    {HEAD "stop\n", "no block is open"},
    {HEAD "Vector memset sbuf[0:1, 0]:fp32\n", "an instruction outside a block"},
    {HEAD "block 0\njump 3\n", "block 0: goes to block 3"},
    {"block 0\nstop\n", "no line says program"},
    {"program \"a\\q\" chip \"b\" gen 2\n", "no such escape"},
    {"program \"a\n", "the string does not end"},
    {HEAD "data 4\nat 2 001122\n", "more than the 2 bytes that fit"},
    {HEAD "data 4\nat 5 00\n", "beyond the 4 bytes"},
    {HEAD "at 0 00\n", "more than the 0 bytes"},
    {HEAD "data 4\nat 0 0\n", "hex digits come in pairs"},
    {HEAD "data 99999999999999999999\n", "the size is more than"},
    {HEAD "slot 0 nowhere fp32 4 bytes at 0\n", "no kind of slot is called"},
    {HEAD "custom 0 \"x\" in 9 out flops 0 blob\nblock 0\nstop\n", "slot 9; the program has 0"},
    {"\n", "no line says program"},
};

static void each_mistake_is_shown_with_its_line_and_a_caret(void **state) {
    (void)state;
    for (size_t k = 0; k < sizeof mistakes / sizeof *mistakes; k++) {
        vtrn_program *p;
        vtrn_status status = program_assemble(mistakes[k].text, strlen(mistakes[k].text), "t", &p);
        assert_non_null(status);
        if (!strstr(vtrn_status_message(status), mistakes[k].message))
            print_error("wanted %s\ngot %s\n", mistakes[k].message, vtrn_status_message(status));
        assert_non_null(strstr(vtrn_status_message(status), mistakes[k].message));
        assert_null(p);
        vtrn_status_free(status);
    }
}

static void a_text_cut_or_mutated_anywhere_does_no_harm(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    vtrn_program *p = legal_program(&r, 2), *q;
    char *text;
    size_t n;
    p->data_size = 128;
    p->slots[2].size_bytes = 0;
    expect_ok(program_disassemble(p, &text, &n));
    int n_refused = 0;
    for (int i = 0; i < 1500; i++) {
        size_t len = i % 3 ? n : legal_random(&r, (uint32_t)n);
        char *copy = malloc(len + 1); /* no NUL: the assembler may not need one */
        memcpy(copy, text, len);
        for (int k = 0; k < 2 && len; k++)
            copy[legal_random(&r, (uint32_t)len)] = text[legal_random(&r, (uint32_t)n)];
        vtrn_status status = program_assemble(copy, len, "t", &q);
        n_refused += status != NULL;
        vtrn_status_free(status);
        if (!status)
            program_destroy(q);
        free(copy);
    }
    assert_true(n_refused > 0);
    free(text);
    program_destroy(p);
}

/* docs/assembly.md shows programs between ```vasm and ```: each is legal on its chip. */
static void the_programs_in_the_manual_assemble_and_are_legal(void **state) {
    (void)state;
    FILE *f = fopen(VTRN_TEST_ASSEMBLY_MD, "rb");
    assert_non_null(f);
    static char md[1 << 16];
    size_t n = fread(md, 1, sizeof md - 1, f);
    fclose(f);
    md[n] = 0;
    int n_programs = 0;
    for (char *at = md; (at = strstr(at, "```vasm\n")); n_programs++) {
        at += strlen("```vasm\n");
        char *end = strstr(at, "```");
        assert_non_null(end);
        vtrn_program *p;
        vtrn_chip chip = legal_chip(2);
        expect_ok(program_assemble(at, (size_t)(end - at), "docs/assembly.md", &p));
        expect_ok(program_validate(p, &chip));
        expect_round_trip(p);
        program_destroy(p);
        at = end + 3;
    }
    assert_true(n_programs >= 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_legal_programs_survive_text_byte_for_byte),
        cmocka_unit_test(extreme_numbers_survive_text),
        cmocka_unit_test(every_mnemonic_survives_alone),
        cmocka_unit_test(the_text_of_an_instruction_means_its_fields),
        cmocka_unit_test(constants_are_hex_or_floats),
        cmocka_unit_test(each_mistake_is_shown_with_its_line_and_a_caret),
        cmocka_unit_test(a_text_cut_or_mutated_anywhere_does_no_harm),
        cmocka_unit_test(the_programs_in_the_manual_assemble_and_are_legal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
