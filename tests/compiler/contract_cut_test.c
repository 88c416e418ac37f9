/* How contractions are cut: into what fits, and into the cheaper of what fits. */
#include "compiler/plan/contract_cut.h"
#include "isa/isa.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { TRN1_BYTES = 176 << 10 };

static vtrn_chip trn1(void) {
    vtrn_chip chip;
    assert_null(chip_load("trn1", &chip));
    return chip;
}

static contract_shape product_of(int64_t m, int64_t k, int64_t n, vtrn_dtype dtype) {
    return (contract_shape){
        .n_batch = 1,
        .n_k = k,
        .a = {.n_x = m, .turns = true, .run = k, .pitch = k, .dtype = (uint8_t)dtype},
        .b = {.n_x = n, .run = n, .pitch = n, .dtype = (uint8_t)dtype},
        .dtype = (uint8_t)dtype,
        .out_dtype = (uint8_t)dtype,
        .tile_rows = m < 128 ? m : 128,
        .sum_banks = 6,
        .is_stored = true};
}

/* Whatever the room, a cut fits or is the least; more room never costs time. */
static void more_room_is_never_slower(void **state) {
    (void)state;
    vtrn_chip chip = trn1();
    static const int64_t sizes[] = {1, 31, 127, 129, 513, 1000, 2049, 4096, 50257};
    for (int i = 0; i < 9 * 9 * 9; i += 7) {
        contract_shape s =
            product_of(sizes[i % 9], sizes[i / 9 % 9], sizes[i / 81], VTRN_DTYPE_BF16);
        double before_ns = 0;
        for (uint64_t limit = 4096; limit <= TRN1_BYTES; limit *= 2) {
            contract_cut cut = contract_choose_cut(&chip, &s, 0, 0, limit);
            assert_true(contract_cut_bytes(&cut) <= limit);
            assert_true(limit == 4096 || cut.ns <= before_ns * 1.05);
            before_ns = cut.ns;
        }
    }
}

/* A block of one operand stays in SBUF while the other streams: the tensor engine is what bounds a
 * large product. */
static void large_products_are_bound_by_the_tensor_engine(void **state) {
    (void)state;
    vtrn_chip chip;
    assert_null(chip_load("trn2", &chip));
    contract_shape s = product_of(4096, 4096, 4096, VTRN_DTYPE_BF16);
    contract_cut cut = contract_choose_cut(&chip, &s, 0, 0, TRN1_BYTES);
    double pe_ns = 2.0 * 4096 * 4096 * 4096 / chip.peak_tensor_flops * 1e9;
    assert_true(cut.ns < 1.2 * pe_ns);
    assert_true(cut.n_a * cut.a_span >= 512 || cut.n_b * cut.b_span >= 512);
}

/* Trainium1 loads parts of 2 KiB at the full rate. */
static vtrn_chip trn1_whose_parts_of_rows_are_slow(void) {
    vtrn_chip chip = trn1();
    chip.dma.strided_row_bytes = 1e9;
    return chip;
}

/* Rows of HBM that are a multiple of a page apart load slowly unless they are loaded whole. */
static void rows_are_loaded_whole_where_parts_of_them_are_slow(void **state) {
    (void)state;
    vtrn_chip chip = trn1_whose_parts_of_rows_are_slow();
    contract_shape s = product_of(4096, 4096, 4096, VTRN_DTYPE_BF16);
    contract_cut slow = contract_choose_cut(&chip, &s, 0, 0, TRN1_BYTES);
    assert_int_equal(slow.natural_cols, 4096);
    chip.dma.strided_load_bytes_per_s = chip.dma.load_bytes_per_s;
    contract_cut fast = contract_choose_cut(&chip, &s, 0, 0, TRN1_BYTES);
    assert_true(fast.ns < slow.ns);
}

/* Weights of a product of one tile of rows come in whole rows where PSUM has room for the sums:
 * their first part is loaded before the product's turn. */
static void weights_of_few_rows_are_loaded_whole(void **state) {
    (void)state;
    const vtrn_chip chip = trn1();
    static const int64_t rows[] = {1, 8, 128};
    for (int i = 0; i < 3; i++) {
        contract_shape s = product_of(rows[i], 576, 1536, VTRN_DTYPE_BF16);
        contract_cut cut = contract_choose_cut(&chip, &s, 0, 0, TRN1_BYTES);
        assert_int_equal(cut.b_span, 1536);
    }
}

/* Weights wider than PSUM, whose parts load slowly: in strips, for one row of x or for a tile. */
static void wide_weights_are_loaded_in_strips(void **state) {
    (void)state;
    const vtrn_chip chip = trn1_whose_parts_of_rows_are_slow();
    static const int64_t rows[] = {1, 31, 128}, cols[] = {8192, 16384, 18432};
    for (int i = 0; i < 9; i++) {
        contract_shape s = product_of(rows[i % 3], 2560, cols[i / 3], VTRN_DTYPE_BF16);
        contract_cut cut = contract_choose_cut(&chip, &s, 0, 0, TRN1_BYTES);
        assert_int_equal(cut.n_sums, 1);
        assert_int_equal(cut.b_span, cols[i / 3]);
        assert_true(cut.n_b >= 2);
        assert_true(contract_cut_bytes(&cut) <= TRN1_BYTES);
        double n_bytes = 2.0 * 2560 * (double)cols[i / 3] / chip.n_dma_engines;
        assert_true(cut.ns < n_bytes / chip.dma.strided_load_bytes_per_s * 1e9);
        s.keeps_whole_k = true; /* the tiles of a fusion have all of k when they are asked for */
        s.is_stored = false;
        cut = contract_choose_cut(&chip, &s, 0, 0, TRN1_BYTES);
        assert_int_equal(cut.n_sums, 0);
    }
    contract_shape narrow = product_of(128, 2560, 2048, VTRN_DTYPE_BF16);
    assert_int_equal(contract_choose_cut(&chip, &narrow, 0, 0, TRN1_BYTES).n_sums, 0);
    contract_shape tall = product_of(8192, 2560, 18432, VTRN_DTYPE_BF16);
    assert_int_equal(contract_choose_cut(&chip, &tall, 0, 0, TRN1_BYTES).n_sums, 0);
}

static void tiles_of_a_fusion_have_all_of_k(void **state) {
    (void)state;
    vtrn_chip chip = trn1();
    contract_shape s = product_of(1024, 3000, 2048, VTRN_DTYPE_BF16);
    s.is_stored = false;
    s.keeps_whole_k = true;
    contract_cut cut = contract_choose_cut(&chip, &s, 512, 1024, TRN1_BYTES);
    assert_int_equal(cut.chunk_k, 3000);
    assert_int_equal(cut.n_together, 1);
    assert_int_equal(cut.group_rows, 512);
    assert_int_equal(cut.turn_cols, 1024);
    assert_int_equal(cut.n_out, 0);
}

/* What does not fit whole is taken in chunks of k that several row tiles share. */
static void a_long_k_is_taken_in_chunks(void **state) {
    (void)state;
    vtrn_chip chip = trn1();
    contract_shape s = product_of(1024, 1 << 20, 1024, VTRN_DTYPE_BF16);
    contract_cut cut = contract_choose_cut(&chip, &s, 0, 0, TRN1_BYTES);
    assert_true(cut.chunk_k < s.n_k);
    assert_int_equal(cut.chunk_k % 128, 0);
    assert_true(cut.n_together > 1 || cut.n_sums == 8);
}

static void what_a_resident_has_needs_no_slots(void **state) {
    (void)state;
    vtrn_chip chip = trn1();
    contract_shape s = product_of(256, 256, 256, VTRN_DTYPE_BF16);
    s.b.is_resident = true;
    contract_cut cut = contract_choose_cut(&chip, &s, 0, 0, TRN1_BYTES);
    assert_int_equal(cut.n_b, 0);
    assert_true(cut.n_a > 0 && cut.n_natural > 0);
    s.a.is_resident = true; /* it is transposed into a slot all the same */
    cut = contract_choose_cut(&chip, &s, 0, 0, TRN1_BYTES);
    assert_true(cut.n_a > 0);
    assert_int_equal(cut.n_natural, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(more_room_is_never_slower),
        cmocka_unit_test(large_products_are_bound_by_the_tensor_engine),
        cmocka_unit_test(rows_are_loaded_whole_where_parts_of_them_are_slow),
        cmocka_unit_test(weights_of_few_rows_are_loaded_whole),
        cmocka_unit_test(wide_weights_are_loaded_in_strips),
        cmocka_unit_test(tiles_of_a_fusion_have_all_of_k),
        cmocka_unit_test(a_long_k_is_taken_in_chunks),
        cmocka_unit_test(what_a_resident_has_needs_no_slots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
