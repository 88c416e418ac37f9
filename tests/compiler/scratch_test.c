/* Addresses of scratch tensors: what lives at the same time lies apart, and little is wasted. */
#include "compiler/build/scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
// cmocka needs the headers above.
#include <cmocka.h>

enum { N_SLOTS = 60, N_INSTRS = 100, N_ROUNDS = 200 };

static uint64_t seed;

static uint32_t below(uint32_t n) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33) % n;
}

static build_slot slot(uint64_t size_bytes, uint32_t first, uint32_t last) {
    return (build_slot){.slot = {.kind = VTRN_SLOT_SCRATCH, .size_bytes = size_bytes},
                        .first = first,
                        .last = last};
}

static uint64_t assign(build_slot *slots, uint32_t n, bool has_control_flow) {
    uint64_t size;
    assert_null(scratch_assign(slots, n, has_control_flow, &size));
    return size;
}

static bool lie_apart(const build_slot *a, const build_slot *b) {
    return a->slot.offset + a->slot.size_bytes <= b->slot.offset ||
           b->slot.offset + b->slot.size_bytes <= a->slot.offset;
}

static void make_slots(build_slot *slots) {
    for (int i = 0; i < N_SLOTS; i++) {
        uint32_t first = below(N_INSTRS), last = first + below(below(4) ? 10 : N_INSTRS);
        slots[i] = slot(below(8) ? 1 + below(5000) : 64 * below(3), first, last);
        if (below(20) == 0)
            slots[i].first = UINT32_MAX; /* nobody names it */
        if (below(10) == 0)
            slots[i].slot.kind = VTRN_SLOT_ARGUMENT;
    }
}

static bool takes_part(const build_slot *s) {
    return s->slot.kind == VTRN_SLOT_SCRATCH && s->first != UINT32_MAX;
}

static void tensors_that_live_at_the_same_time_lie_apart(void **state) {
    (void)state;
    build_slot slots[N_SLOTS];
    for (int round = 0; round < N_ROUNDS; round++) {
        bool has_control_flow = below(4) == 0;
        make_slots(slots);
        uint64_t size = assign(slots, N_SLOTS, has_control_flow);
        for (int i = 0; i < N_SLOTS; i++) {
            const build_slot *a = &slots[i];
            if (!takes_part(a))
                continue;
            assert_int_equal(a->slot.offset % 64, 0);
            assert_true(a->slot.offset + a->slot.size_bytes <= size);
            for (int k = 0; k < i; k++) {
                const build_slot *b = &slots[k];
                bool meet = has_control_flow || (a->first <= b->last && b->first <= a->last);
                if (takes_part(b) && meet)
                    assert_true(lie_apart(a, b));
            }
        }
    }
}

static void tensors_one_after_the_other_share_their_memory(void **state) {
    (void)state;
    build_slot slots[] = {slot(1000, 0, 3), slot(1024, 4, 5), slot(10, 6, 6)};
    assert_int_equal(assign(slots, 3, false), 1024);
    assert_int_equal(assign(slots, 3, true), 1024 + 1024 + 64);
}

/* First come, first served, the small tensor that lives on would lie in the way. */
static void a_large_tensor_takes_the_place_of_those_that_ended(void **state) {
    (void)state;
    build_slot slots[] = {slot(64, 0, 1), slot(64, 0, 9), slot(4096, 2, 9), slot(4032, 0, 1)};
    assert_int_equal(assign(slots, 4, false), 4096 + 64);
}

int main(void) {
    const char *given = getenv("VTRN_TEST_SEED");
    seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 2654435761u + 1;
    printf("seed: VTRN_TEST_SEED=%llu\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_that_live_at_the_same_time_lie_apart),
        cmocka_unit_test(tensors_one_after_the_other_share_their_memory),
        cmocka_unit_test(a_large_tensor_takes_the_place_of_those_that_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
