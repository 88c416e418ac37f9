/* The container: what is saved loads equal, and no damaged file does harm. */
#include "isa/container.h"

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

static void expect_error(vtrn_status status, const char *text) {
    assert_non_null(status);
    if (!strstr(vtrn_status_message(status), text))
        print_error("wanted \"%s\", got \"%s\"\n", text, vtrn_status_message(status));
    assert_non_null(strstr(vtrn_status_message(status), text));
    vtrn_status_free(status);
}

typedef struct saved {
    uint8_t *bytes;
    size_t size;
} saved;

static saved save(const vtrn_program *p) {
    void *bytes;
    saved s;
    expect_ok(program_save(p, &bytes, &s.size));
    s.bytes = bytes;
    return s;
}

/* The checksum as container.h describes it is not written twice: a changed file is resealed by
 * taking from the loader's message what the bytes give. */
static void reseal(saved *s) {
    for (size_t i = 0; i < 8; i++) {
        s->bytes[8 + i] = (uint8_t)((uint64_t)s->size >> (8 * i));
        s->bytes[16 + i] = 0;
    }
    vtrn_program *p;
    vtrn_status status = program_load(s->bytes, s->size, NULL, &p);
    if (!status) {
        program_destroy(p);
        return;
    }
    const char *at = strstr(vtrn_status_message(status), "the bytes give ");
    uint64_t sum = at ? strtoull(at + strlen("the bytes give "), NULL, 16) : 0;
    for (size_t i = 0; i < 8; i++)
        s->bytes[16 + i] = (uint8_t)(sum >> (8 * i));
    vtrn_status_free(status);
}

static void expect_same_slot(const vtrn_slot *a, const vtrn_slot *b) {
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->dtype, b->dtype);
    assert_int_equal(a->stays, b->stays);
    assert_int_equal(a->index, b->index);
    assert_int_equal(a->size_bytes, b->size_bytes);
    assert_int_equal(a->offset, b->offset);
}

static void a_saved_program_loads_and_saves_to_the_same_bytes(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    for (int i = 0; i < 12; i++) {
        int gen = 2 + i % 3;
        vtrn_chip chip = legal_chip(gen);
        vtrn_program *p = legal_program(&r, gen), *q;
        saved a = save(p);
        expect_ok(program_load(a.bytes, a.size, &chip, &q));
        saved b = save(q);
        assert_int_equal(a.size, b.size);
        assert_memory_equal(a.bytes, b.bytes, a.size);
        assert_int_equal(p->n_instrs, q->n_instrs);
        for (uint32_t k = 0; k < p->n_instrs; k++)
            assert_memory_equal(&p->instrs[k], &q->instrs[k], offsetof(vtrn_instr, ap));
        for (uint32_t k = 0; k < p->n_sources; k++) {
            assert_string_equal(p->sources[k].op, q->sources[k].op);
            assert_string_equal(p->sources[k].place, q->sources[k].place);
        }
        assert_memory_equal(p->data, q->data, p->data_size);
        assert_int_equal(p->n_slots, q->n_slots);
        for (uint32_t k = 0; k < p->n_slots; k++) /* a slot has a byte that means nothing */
            expect_same_slot(&p->slots[k], &q->slots[k]);
        free(a.bytes);
        free(b.bytes);
        program_destroy(p);
        program_destroy(q);
    }
}

static void every_operand_of_every_opcode_survives(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    vtrn_chip chip = legal_chip(3);
    vtrn_program *p = legal_program(&r, 3), *q;
    saved a = save(p);
    expect_ok(program_load(a.bytes, a.size, &chip, &q));
    for (uint32_t k = 0; k < p->n_instrs; k++) {
        assert_memory_equal(p->instrs[k].ap, q->instrs[k].ap, sizeof p->instrs[k].ap);
        assert_memory_equal(p->instrs[k].shuffle, q->instrs[k].shuffle, 32);
    }
    free(a.bytes);
    program_destroy(p);
    program_destroy(q);
}

static void a_truncated_file_is_refused_at_every_length(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    vtrn_program *p = legal_program(&r, 2), *q;
    saved s = save(p);
    for (size_t n = 0; n < s.size; n += n < 4096 ? 1 : 100003) {
        uint8_t *part = malloc(n ? n : 1); /* exact, so that a sanitizer sees every overread */
        memcpy(part, s.bytes, n);
        vtrn_status status = program_load(part, n, NULL, &q);
        assert_non_null(status);
        vtrn_status_free(status);
        free(part);
    }
    free(s.bytes);
    program_destroy(p);
}

static void any_flipped_bit_is_seen(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    vtrn_program *p = legal_program(&r, 2), *q;
    saved s = save(p);
    for (int i = 0; i < 300; i++) {
        uint32_t at = i < 100 ? (uint32_t)i : legal_random(&r, (uint32_t)s.size);
        s.bytes[at] ^= (uint8_t)(1u << i % 8);
        vtrn_status status = program_load(s.bytes, s.size, NULL, &q);
        assert_non_null(status);
        vtrn_status_free(status);
        s.bytes[at] ^= (uint8_t)(1u << i % 8);
    }
    expect_error(program_load("VTRX", 4, NULL, &q), "does not begin with");
    s.bytes[s.size / 2] ^= 1;
    expect_error(program_load(s.bytes, s.size, NULL, &q), "checksum");
    free(s.bytes);
    program_destroy(p);
}

static void mutated_files_with_a_right_checksum_are_refused_or_load(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    vtrn_chip chip = legal_chip(2);
    vtrn_program *p = legal_program(&r, 2), *q;
    p->data_size = 128; /* small, so that mutations meet structure */
    p->slots[2].size_bytes = 0;
    saved s = save(p);
    int n_refused = 0;
    for (int i = 0; i < 2000; i++) {
        saved m = {malloc(s.size), s.size};
        memcpy(m.bytes, s.bytes, s.size);
        for (uint32_t k = 0; k <= legal_random(&r, 3); k++)
            m.bytes[24 + legal_random(&r, (uint32_t)m.size - 24)] = (uint8_t)legal_random(&r, 256);
        reseal(&m);
        vtrn_status status = program_load(m.bytes, m.size, &chip, &q);
        n_refused += status != NULL;
        vtrn_status_free(status);
        if (!status)
            program_destroy(q);
        free(m.bytes);
    }
    assert_true(n_refused > 0);
    free(s.bytes);
    program_destroy(p);
}

static void an_error_names_the_byte_the_section_and_the_rule(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    vtrn_program *p = legal_program(&r, 2), *q;
    saved s = save(p);
    uint64_t slots_at = 0;
    for (int i = 0; i < 8; i++)
        slots_at |= (uint64_t)s.bytes[24 + 24 + 8 + i] << (8 * i);
    s.bytes[slots_at] = 9;
    reseal(&s);
    char want[80];
    snprintf(want, sizeof want, "byte %llu: section slots: no such kind of slot",
             (unsigned long long)slots_at);
    expect_error(program_load(s.bytes, s.size, NULL, &q), want);
    free(s.bytes);
    program_destroy(p);
}

static void a_program_of_the_shortest_instructions_loads(void **state) {
    (void)state;
    vtrn_instr instrs[3] = {0};
    for (int i = 0; i < 3; i++) {
        instrs[i].opcode = VTRN_OP_EVENT_SEMAPHORE;
        instrs[i].update_semaphore = VTRN_NO_SEMAPHORE;
    }
    vtrn_block block = {.count = {3}};
    vtrn_program p = {.gen = 2, .n_blocks = 1, .blocks = &block, .n_instrs = 3, .instrs = instrs};
    vtrn_program *q;
    saved s = save(&p);
    expect_ok(program_load(s.bytes, s.size, NULL, &q));
    assert_int_equal(q->n_instrs, 3);
    free(s.bytes);
    program_destroy(q);
}

static void an_illegal_program_does_not_load(void **state) {
    (void)state;
    legal_rng r = legal_rng_start();
    vtrn_chip chip = legal_chip(2);
    vtrn_program *p = legal_program(&r, 2), *q;
    p->instrs[legal_find(p, VTRN_OP_DMA_COPY)].queue = 99;
    saved s = save(p);
    expect_error(program_load(s.bytes, s.size, &chip, &q), "DMA ring 99");
    free(s.bytes);
    program_destroy(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_saved_program_loads_and_saves_to_the_same_bytes),
        cmocka_unit_test(every_operand_of_every_opcode_survives),
        cmocka_unit_test(a_truncated_file_is_refused_at_every_length),
        cmocka_unit_test(any_flipped_bit_is_seen),
        cmocka_unit_test(mutated_files_with_a_right_checksum_are_refused_or_load),
        cmocka_unit_test(an_error_names_the_byte_the_section_and_the_rule),
        cmocka_unit_test(a_program_of_the_shortest_instructions_loads),
        cmocka_unit_test(an_illegal_program_does_not_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
