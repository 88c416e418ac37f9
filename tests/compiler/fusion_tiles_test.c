/* Sizes of tiles: they fit what they are asked to fit, and take what they may. */
#include "compiler/plan/fusion_tiles.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { TRN1_BYTES = 176 << 10, LEAST_BYTES = 4096 };

static const fusion_demand softmax = {.form = FUSION_WHOLE,
                                      .n_partitions = 128,
                                      .has_whole_rows = true,
                                      .n = 128 * 1000,
                                      .cols = 1000,
                                      .n_full = 3,
                                      .n_rows = 3,
                                      .fixed_bytes = 128,
                                      .max_abreast = FUSION_MAX_ABREAST};

static void rows_under_a_reduction_are_whole_where_they_fit(void **state) {
    (void)state;
    fusion_tiling t = fusion_tiles(&softmax, TRN1_BYTES);
    assert_int_equal(t.tile_cols, 1000);
    assert_int_equal(t.n_buffers, 2 * t.n_abreast);
    assert_int_equal(t.n_bytes, 128 + t.n_buffers * (3 * t.slot_bytes + 3 * 64));
    assert_true(fusion_tiles(&softmax, LEAST_BYTES).n_bytes > LEAST_BYTES);
}

static void one_tile_has_one_buffer(void **state) {
    (void)state;
    fusion_demand d = softmax;
    d.is_one_tile = true;
    fusion_tiling t = fusion_tiles(&d, TRN1_BYTES);
    assert_int_equal(t.n_buffers, 1);
    assert_int_equal(t.n_abreast, 1);
    d.has_whole_rows = false; /* columns are cut: several tiles after all */
    d.cols = 100000;
    assert_true(fusion_tiles(&d, TRN1_BYTES).n_buffers > 1);
}

static void column_operands_are_whole_or_in_blocks(void **state) {
    (void)state;
    fusion_demand d = {.n_partitions = 128,
                       .n = 300 * 50000,
                       .cols = 50000,
                       .n_full = 2,
                       .n_cols = 1,
                       .fixed_bytes = 64,
                       .max_abreast = FUSION_MAX_ABREAST};
    assert_true(fusion_tiles(&d, TRN1_BYTES).n_bytes > 200000);
    d.form = FUSION_COLUMN_BLOCKS;
    fusion_tiling t = fusion_tiles(&d, TRN1_BYTES);
    assert_true(t.n_bytes <= TRN1_BYTES);
    assert_int_equal(t.col_bytes, t.slot_bytes);
    assert_int_equal(t.n_col_buffers, 2);
}

/* Every demand in a form of blocks fits, or has the least tiles already. */
static void blocks_fit_or_are_the_least(void **state) {
    (void)state;
    static const fusion_form forms[] = {FUSION_COLUMN_BLOCKS, FUSION_PASSES};
    static const int64_t cols[] = {1, 15, 16, 17, 63, 65, 1000, 50021};
    static const uint64_t limits[] = {LEAST_BYTES, 5000, 8192, 16384, TRN1_BYTES};
    for (int i = 0; i < 2 * 8 * 5 * 40; i++) {
        fusion_demand d = {.n_partitions = 128,
                           .form = forms[i % 2],
                           .n = 300 * cols[i / 2 % 8],
                           .cols = cols[i / 2 % 8],
                           .n_full = i / 80,
                           .n_rows = i % 7,
                           .n_cols = forms[i % 2] == FUSION_COLUMN_BLOCKS ? i % 11 : 0,
                           .fixed_bytes = 64 * (uint64_t)(i % 5),
                           .max_abreast = 1 << i % 3};
        uint64_t limit = limits[i / 16 % 5];
        fusion_tiling t = fusion_tiles(&d, limit);
        int64_t least = d.cols < 16 ? d.cols : 16;
        uint64_t least_bytes =
            d.fixed_bytes + 64 * (uint64_t)(d.n_full + d.n_rows + d.n_cols) * (d.cols > 0);
        assert_true(t.tile_cols >= least && t.tile_cols <= d.cols);
        assert_true(t.n_abreast >= 1 && t.n_abreast <= d.max_abreast);
        assert_true(t.n_buffers >= t.n_abreast && t.n_buffers <= FUSION_MAX_BUFFERS);
        assert_int_equal(t.n_bytes <= limit, least_bytes <= limit);
    }
}

static void more_sbuf_never_makes_tiles_narrower(void **state) {
    (void)state;
    fusion_demand d = softmax;
    d.form = FUSION_PASSES;
    d.cols = 50021;
    int64_t before = 0;
    for (uint64_t limit = LEAST_BYTES; limit <= TRN1_BYTES; limit += 512) {
        fusion_tiling t = fusion_tiles(&d, limit);
        bool has_more_buffers = t.n_buffers == 2 && before > t.tile_cols;
        assert_true(t.tile_cols >= before || has_more_buffers);
        before = t.tile_cols;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_under_a_reduction_are_whole_where_they_fit),
        cmocka_unit_test(one_tile_has_one_buffer),
        cmocka_unit_test(column_operands_are_whole_or_in_blocks),
        cmocka_unit_test(blocks_fit_or_are_the_least),
        cmocka_unit_test(more_sbuf_never_makes_tiles_narrower),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
