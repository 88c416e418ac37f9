/* Granules of HBM tensors: accesses that share a byte share a granule, tiles side by side do not.
 */
#include "compiler/build/slot_grid.h"

#include "test_seed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the headers above.
#include <cmocka.h>

enum { N_ROUNDS = 2000, SLOT_BYTES = 3 * 128 * 448, UNIT = 1024 };

static uint64_t state;

static int64_t below(int64_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)(state >> 33) % n;
}

/* Rows of runs of one byte elements. */
static vtrn_ap rows_of(int64_t at, int64_t n_rows, int64_t step, int64_t n_cols) {
    return (vtrn_ap){.space = VTRN_SPACE_HBM,
                     .dtype = VTRN_DTYPE_UINT8,
                     .n_partitions = (uint16_t)n_rows,
                     .addr = at,
                     .partition_step = step,
                     .n_dims = 1,
                     .dim = {{1, (uint32_t)n_cols}}};
}

static isa_access access_of(const vtrn_ap *ap, bool is_written) {
    return (isa_access){.ap = ap,
                        .space = VTRN_SPACE_HBM,
                        .is_read = !is_written,
                        .is_written = is_written,
                        .n_rows = ap->n_partitions};
}

static vtrn_ap random_rows(int64_t pitch) {
    for (;;) {
        const int64_t steps[] = {pitch, 2 * pitch, 1 + below(600), 0};
        vtrn_ap ap = rows_of(below(SLOT_BYTES), 1 + below(130), steps[below(4)], 1 + below(500));
        int64_t lo, hi;
        isa_ap_extent(&ap, &lo, &hi);
        if (hi <= SLOT_BYTES)
            return ap;
    }
}

static void mark(const vtrn_ap *ap, uint8_t *bytes) {
    for (int64_t r = 0; r < ap->n_partitions; r++)
        memset(bytes + ap->addr + r * ap->partition_step, 1, ap->dim[0].num);
}

static bool overlap(const vtrn_ap *a, const vtrn_ap *b) {
    static uint8_t of_a[SLOT_BYTES], of_b[SLOT_BYTES];
    memset(of_a, 0, sizeof of_a);
    memset(of_b, 0, sizeof of_b);
    mark(a, of_a);
    mark(b, of_b);
    for (int i = 0; i < SLOT_BYTES; i++)
        if (of_a[i] && of_b[i])
            return true;
    return false;
}

static bool share(const slot_grid *g, const vtrn_ap *a, const vtrn_ap *b) {
    isa_access x = access_of(a, true), y = access_of(b, false);
    slot_box p, q;
    assert_true(slot_grid_box(g, &x, SLOT_BYTES, &p) && slot_grid_box(g, &y, SLOT_BYTES, &q));
    assert_true(p.last_block < g->n_blocks && p.last_col < g->n_cols);
    return p.first_block <= q.last_block && q.first_block <= p.last_block &&
           p.first_col <= q.last_col && q.first_col <= p.last_col;
}

static void accesses_that_share_a_byte_share_a_granule(void **unused) {
    (void)unused;
    int n_overlapping = 0, n_apart = 0;
    for (int round = 0; round < N_ROUNDS; round++) {
        int64_t pitch = 448;
        vtrn_ap first = rows_of(below(4) * 56, 128, pitch, 56 * (1 + below(3)));
        isa_access a = access_of(&first, true);
        slot_grid g = slot_grid_for(&a, SLOT_BYTES, UNIT);
        vtrn_ap x = random_rows(pitch), y = random_rows(pitch);
        bool is_shared = share(&g, &x, &y);
        n_overlapping += overlap(&x, &y);
        n_apart += !is_shared;
        if (overlap(&x, &y))
            assert_true(is_shared);
    }
    assert_true(n_overlapping > N_ROUNDS / 20 && n_apart > N_ROUNDS / 20);
}

static void tiles_side_by_side_share_none(void **unused) {
    (void)unused;
    vtrn_ap first = rows_of(0, 128, 448, 112), next = rows_of(112, 128, 448, 112);
    vtrn_ap below_first = rows_of(128 * 448, 128, 448, 112);
    isa_access a = access_of(&first, true);
    slot_grid g = slot_grid_for(&a, SLOT_BYTES, UNIT);
    assert_false(share(&g, &first, &next));
    assert_false(share(&g, &first, &below_first));
    assert_true(share(&g, &first, &first));
}

static void whole_rows_have_granules_of_the_given_size(void **unused) {
    (void)unused;
    vtrn_ap rows = rows_of(0, 128, 448, 448);
    isa_access a = access_of(&rows, true);
    slot_grid g = slot_grid_for(&a, SLOT_BYTES, UNIT);
    assert_int_equal(g.n_blocks, 1);
    assert_int_equal(g.unit, UNIT);
}

int main(void) {
    state = test_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accesses_that_share_a_byte_share_a_granule),
        cmocka_unit_test(tiles_side_by_side_share_none),
        cmocka_unit_test(whole_rows_have_granules_of_the_given_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
