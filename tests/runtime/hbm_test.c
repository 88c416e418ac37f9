/* The HBM allocator against a model that keeps every range in a plain array. */
#include "runtime/hbm.h"

#include "test_seed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { UNIT = HBM_ALIGN_BYTES, N_UNITS = 512, N_SLOTS = 96 };

static uint64_t round_up(uint64_t n) {
    return n == 0 ? UNIT : (n + UNIT - 1) / UNIT * UNIT;
}

/* The largest run of free units in the model. */
static uint64_t model_largest(const uint8_t *used) {
    uint64_t best = 0, run = 0;
    for (int i = 0; i < N_UNITS; i++) {
        run = used[i] ? 0 : run + 1;
        best = run > best ? run : best;
    }
    return best * UNIT;
}

static void random_use_agrees_with_a_model(void **state) {
    (void)state;
    srand((unsigned)test_seed());
    const uint64_t base = 4096;
    hbm_heap *heap;
    assert_null(hbm_heap_create(base, N_UNITS * UNIT, &heap));
    hbm_block *live[N_SLOTS] = {0};
    uint8_t used[N_UNITS] = {0};
    uint64_t in_use = 0, peak = 0;
    int n_refused = 0;
    for (int step = 0; step < 20000; step++) {
        int slot = rand() % N_SLOTS;
        uint64_t trim_addr, trim_bytes;
        if (live[slot]) {
            uint64_t first = (hbm_block_addr(live[slot]) - base) / UNIT;
            uint64_t n = hbm_block_bytes(live[slot]) / UNIT;
            hbm_free(heap, live[slot], &trim_addr, &trim_bytes);
            memset(used + first, 0, n);
            in_use -= n * UNIT;
            live[slot] = NULL;
        } else {
            uint64_t want = (uint64_t)(rand() % (rand() % 8 ? 12 * UNIT : 200 * UNIT));
            vtrn_status status = hbm_alloc(heap, want, &live[slot]);
            assert_int_equal(status != NULL, round_up(want) > model_largest(used));
            if (status) {
                assert_int_equal(vtrn_status_category(status), VTRN_CAPACITY);
                vtrn_status_free(status);
                live[slot] = NULL;
                n_refused++;
            } else {
                uint64_t addr = hbm_block_addr(live[slot]);
                assert_int_equal(addr % UNIT, 0);
                assert_int_equal(hbm_block_bytes(live[slot]), round_up(want));
                uint64_t first = (addr - base) / UNIT, n = round_up(want) / UNIT;
                assert_true(first + n <= N_UNITS);
                for (uint64_t i = first; i < first + n; i++)
                    assert_false(used[i]);
                memset(used + first, 1, n);
                in_use += n * UNIT;
                peak = in_use > peak ? in_use : peak;
            }
        }
        hbm_stats stats;
        hbm_heap_stats(heap, &stats);
        assert_int_equal(stats.in_use_bytes, in_use);
        assert_int_equal(stats.peak_bytes, peak);
        assert_int_equal(stats.largest_free_bytes, model_largest(used));
        if (step % 16 == 0)
            assert_true(hbm_heap_is_sound(heap));
    }
    assert_true(n_refused > 0);
    hbm_heap_destroy(heap);
}

static void a_refusal_names_request_free_largest_and_capacity(void **state) {
    (void)state;
    hbm_heap *heap;
    assert_null(hbm_heap_create(0, 10 * UNIT, &heap));
    hbm_block *a, *b, *c;
    uint64_t trim_addr, trim_bytes;
    assert_null(hbm_alloc(heap, 4 * UNIT, &a));
    assert_null(hbm_alloc(heap, 4 * UNIT, &b));
    hbm_free(heap, a, &trim_addr, &trim_bytes);
    vtrn_status status = hbm_alloc(heap, 5 * UNIT, &c);
    assert_int_equal(vtrn_status_category(status), VTRN_CAPACITY);
    assert_string_equal(vtrn_status_message(status),
                        "HBM: 320 bytes requested, 384 bytes free, largest free block 256 bytes, "
                        "capacity of the stack 640 bytes");
    vtrn_status_free(status);
    status = hbm_alloc(heap, UINT64_MAX, &c);
    assert_int_equal(vtrn_status_category(status), VTRN_CAPACITY);
    vtrn_status_free(status);
    assert_null(hbm_alloc(heap, 4 * UNIT, &c));
    assert_int_equal(hbm_block_addr(c), 0);
    hbm_heap_destroy(heap);
}

static void big_freed_blocks_are_given_back_once(void **state) {
    (void)state;
    hbm_heap *heap;
    assert_null(hbm_heap_create(0, 1ull << 32, &heap));
    hbm_block *big, *small;
    uint64_t trim_addr, trim_bytes;
    assert_null(hbm_alloc(heap, 4096, &small));
    assert_null(hbm_alloc(heap, 1ull << 30, &big));
    hbm_free(heap, big, &trim_addr, &trim_bytes);
    assert_int_equal(trim_addr, 4096);
    assert_int_equal(trim_bytes, 1ull << 30);
    hbm_free(heap, small, &trim_addr, &trim_bytes);
    assert_int_equal(trim_bytes, 0);
    hbm_heap_destroy(heap);
}

static void a_range_without_room_is_refused(void **state) {
    (void)state;
    hbm_heap *heap;
    vtrn_status status = hbm_heap_create(1, 62, &heap);
    assert_int_equal(vtrn_status_category(status), VTRN_BAD_ARGUMENT);
    vtrn_status_free(status);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_use_agrees_with_a_model),
        cmocka_unit_test(a_refusal_names_request_free_largest_and_capacity),
        cmocka_unit_test(big_freed_blocks_are_given_back_once),
        cmocka_unit_test(a_range_without_room_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
