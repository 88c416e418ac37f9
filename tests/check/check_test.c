/* The checker on programs that are right, and on the same programs with one thing missing. */
#include "check/check.h"
#include "check/footprint.h"
#include "isa/asm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static vtrn_chip chip;

/* Two tensors in, one out, 64 KiB each, and two scratch tensors in the same memory. */
static const char head[] = "program \"p\" chip \"trn1\" gen 2\n"
                           "arguments 2\noutputs _\nscratch 65536\n"
                           "slot 0 argument fp32 65536 bytes number 0\n"
                           "slot 1 argument fp32 65536 bytes number 1\n"
                           "slot 2 output fp32 65536 bytes number 0\n"
                           "slot 3 scratch fp32 65536 bytes at 0\n"
                           "slot 4 scratch fp32 65536 bytes at 0\n"
                           "source 0 \"stablehlo.test\" \"model.py:42\"\n";

typedef struct loaded {
    vtrn_program *program;
    engine_plan plan;
} loaded;

static void assert_ok(vtrn_status status) {
    if (status)
        fail_msg("%s", vtrn_status_text(status));
}

static loaded load(const char *body) {
    static char text[8192];
    snprintf(text, sizeof text, "%s%s", head, body);
    loaded l;
    assert_ok(program_assemble(text, strlen(text), "test", &l.program));
    assert_ok(engine_plan_create(l.program, &chip, 1, &l.plan));
    return l;
}

static void unload(loaded *l) {
    engine_plan_destroy(&l->plan);
    program_destroy(l->program);
}

/* NULL when the check passes; else the message, which must name every part. */
static void expect(vtrn_status status, vtrn_category category, const char *parts[]) {
    assert_int_equal(vtrn_status_category(status), category);
    for (int i = 0; parts && parts[i]; i++)
        if (!strstr(vtrn_status_text(status), parts[i]))
            fail_msg("no '%s' in: %s", parts[i], vtrn_status_text(status));
    vtrn_status_free(status);
}

static void expect_hazard(const char *body, const char *a, const char *b) {
    loaded l = load(body);
    const char *parts[] = {"hazard: block ", a, b, "stablehlo.test at model.py:42", NULL};
    expect(check_hazards(l.program, &l.plan), VTRN_HAZARD, parts);
    unload(&l);
}

static void expect_order(const char *body) {
    loaded l = load(body);
    assert_ok(check_hazards(l.program, &l.plan));
    unload(&l);
}

#define TILE  "sbuf[0:128, 0x0]:fp32(1:128)"
#define OTHER "sbuf[0:128, 0x200]:fp32(1:128)"
#define IN    "hbm[0, 0x0, 128*128]:fp32(1:128)"
#define OUT   "hbm[2, 0x0, 128*128]:fp32(1:128)"
#define LOAD  "Sync dma_copy " TILE ", " IN ", ring 0"

static void a_read_needs_a_wait_for_the_load(void **state) {
    (void)state;
    expect_order("block 0\n" LOAD ", inc s0+16\n"
                 "Vector tensor_copy " OTHER ", " TILE ", wait s0>=16\nstop\n");
    expect_hazard("block 0\n" LOAD ", inc s0+16\nVector tensor_copy " OTHER ", " TILE "\nstop\n",
                  "tensor_copy of Vector), which reads SBUF partitions 0-127, bytes 0-511",
                  "dma_copy of Sync), which writes them");
    expect_hazard("block 0\n" LOAD ", inc s0+16\n"
                  "Vector tensor_copy " OTHER ", " TILE ", wait s0>=0\nstop\n",
                  "tensor_copy", "dma_copy");
}

static void a_write_needs_a_wait_for_the_last_read(void **state) {
    (void)state;
    expect_hazard("block 0\nVector tensor_copy " OTHER ", " TILE "\n" LOAD "\nstop\n",
                  "which reads", "which writes");
    expect_order("block 0\nVector tensor_copy " OTHER ", " TILE ", inc s3\n" LOAD
                 ", wait s3>=1\nstop\n");
}

static void an_engine_orders_its_own_instructions_but_not_its_transfers(void **state) {
    (void)state;
    expect_order("block 0\nVector memset.none " TILE "\n"
                 "Vector tensor_copy " OTHER ", " TILE "\nstop\n");
    expect_hazard("block 0\nScalar activate.exp " TILE ", " OTHER "\n"
                  "Scalar dma_copy " OUT ", " TILE ", ring 0\nstop\n",
                  "activate", "dma_copy");
}

static void transfers_of_one_ring_may_overlap_until_one_waits(void **state) {
    (void)state;
    expect_hazard("block 0\n" LOAD ", inc s0+16\nSync dma_copy " OUT ", " TILE ", ring 0\nstop\n",
                  "dma_copy", "dma_copy");
    /* the second load's semaphore proves the first load too: a ring completes in order */
    expect_order("block 0\n" LOAD "\nSync dma_copy " OTHER ", " IN ", ring 0, inc s0+16\n"
                 "Vector tensor_copy sbuf[0:128, 0x400]:fp32(1:128), " TILE
                 ", wait s0>=16\nstop\n");
    expect_hazard("block 0\n" LOAD "\nSync dma_copy " OTHER ", " IN ", ring 1, inc s0+16\n"
                  "Vector tensor_copy sbuf[0:128, 0x400]:fp32(1:128), " TILE
                  ", wait s0>=16\nstop\n",
                  "tensor_copy", "dma_copy");
}

static void order_passes_through_third_parties(void **state) {
    (void)state;
    expect_order("block 0\n" LOAD ", inc s0+16\n"
                 "Vector tensor_copy " OTHER ", " TILE ", wait s0>=16, inc s1\n"
                 "Scalar activate.exp sbuf[0:128, 0x400]:fp32(1:128), " OTHER
                 ", wait s1>=1, inc s2\n"
                 "GpSimd memset.none " TILE ", wait s2>=1\nstop\n");
}

static void of_several_raisers_only_what_the_others_cannot_give_is_proof(void **state) {
    (void)state;
#define TWO_RAISERS                                                                                \
    "block 0\n" LOAD ", inc s0+16\n"                                                               \
    "Scalar activate.exp sbuf[0:128, 0x400]:fp32(1:128), " OTHER ", inc s0+16\n"                   \
    "Vector tensor_copy sbuf[0:128, 0x600]:fp32(1:128), " TILE ", wait s0>="
    expect_order(TWO_RAISERS "32\nstop\n");
    expect_order(TWO_RAISERS "17\nstop\n");
    expect_hazard(TWO_RAISERS "16\nstop\n", "tensor_copy", "dma_copy");
}

static void operands_count_to_the_byte(void **state) {
    (void)state;
    expect_order("block 0\nVector memset.none sbuf[0:128, 0x0]:fp32(2:64)\n"
                 "GpSimd memset.none sbuf[0:128, 0x4]:fp32(2:64)\nstop\n");
    expect_hazard("block 0\nVector memset.none sbuf[0:128, 0x0]:fp32(2:64)\n"
                  "GpSimd memset.none sbuf[64:128, 0x4]:fp32(3:40)\nstop\n",
                  "memset of Vector", "memset of GpSimd");
    expect_order("block 0\nVector memset.none sbuf[0:64, 0x0]:fp32(1:64)\n"
                 "GpSimd memset.none sbuf[64:128, 0x0]:fp32(1:64)\nstop\n");
    /* the same columns of different rows in HBM, then of the same rows */
    expect_order(
        "block 0\n"
        "Sync dma_copy hbm[2, 0x0, 64*256]:fp32(1:128), sbuf[0:64, 0x0]:fp32(1:128), ring 0\n"
        "Sync dma_copy hbm[2, 0x200, 64*256]:fp32(1:128), sbuf[0:64, 0x0]:fp32(1:128), ring 1\n"
        "stop\n");
    expect_hazard(
        "block 0\n"
        "Sync dma_copy hbm[2, 0x0, 64*256]:fp32(1:129), sbuf[0:64, 0x0]:fp32(1:129), ring 0\n"
        "Sync dma_copy hbm[2, 0x200, 64*256]:fp32(1:128), sbuf[0:64, 0x0]:fp32(1:128), ring 1\n"
        "stop\n",
        "HBM bytes", "dma_copy");
}

static void an_indexed_operand_counts_from_its_first_row_to_its_last(void **state) {
    (void)state;
    /* the table: 32 rows of 128 elements, 16 KiB of the tensor */
#define GATHER                                                                                     \
    "block 0\nVector memset.none sbuf[0:128, 0x800]:int32, inc s1\n"                               \
    "GpSimd dma_gather " TILE ", hbm[2, 0x0, 1*128]:fp32(1:128), "                                 \
    "sbuf[0:128, 0x800]:int32, ring 6, arg1 32, clamp_index, wait s1>=1\n"
    expect_order(GATHER "Sync dma_copy hbm[2, 0x4000, 32*128]:fp32(1:128), "
                        "sbuf[0:32, 0x400]:fp32(1:128), ring 0\nstop\n");
    expect_hazard(GATHER "Sync dma_copy hbm[2, 0x3ffc, 1*128]:fp32(1:2), "
                         "sbuf[0:1, 0x400]:fp32(1:2), ring 0\nstop\n",
                  "which reads HBM bytes 0-16383", "dma_copy of Sync), which writes");
}

static void engines_meet_between_blocks(void **state) {
    (void)state;
    expect_order("block 0\n" LOAD "\njump 1\nblock 1\nVector tensor_copy " OTHER ", " TILE
                 "\nstop\n");
}

static void scratch_tensors_in_one_place_race(void **state) {
    (void)state;
    expect_hazard("block 0\n"
                  "Sync dma_copy hbm[3, 0x0, 128*128]:fp32(1:128), " TILE ", ring 0\n"
                  "Sync dma_copy hbm[4, 0x0, 128*128]:fp32(1:128), " TILE ", ring 1\nstop\n",
                  "which writes HBM bytes 0-65535", "which writes them");
}

static void expect_reads(const char *body, const uint32_t *trace, uint32_t n, const char *place) {
    loaded l = load(body);
    const char *parts[] = {"uninitialised: ", place, "model.py:42", NULL};
    vtrn_status status = check_reads(l.program, &chip, &l.plan, trace, n);
    if (place)
        expect(status, VTRN_UNINITIALISED, parts);
    else
        assert_ok(status);
    unload(&l);
}

static void a_read_of_one_unwritten_element_is_found(void **state) {
    (void)state;
    expect_reads("block 0\n" LOAD ", inc s0+16\n"
                 "Vector tensor_copy " OTHER ", " TILE ", wait s0>=16\nstop\n",
                 (uint32_t[]){0}, 1, NULL);
    expect_reads("block 0\n" LOAD ", inc s0+16\n"
                 "Vector tensor_copy sbuf[0:128, 0x400]:fp32(1:129), sbuf[0:128, 0x0]:fp32(1:129), "
                 "wait s0>=16\nstop\n",
                 (uint32_t[]){0}, 1, "reads SBUF partitions 0-127, bytes 0-515");
    expect_reads("block 0\nVector memset.none sbuf[0:127, 0x0]:fp32(1:128)\n"
                 "Vector tensor_copy " OTHER ", " TILE "\nstop\n",
                 (uint32_t[]){0}, 1, "reads SBUF");
}

static void a_product_added_to_what_no_product_began_is_found(void **state) {
    (void)state;
#define PRODUCT                                                                                    \
    "block 0\nVector memset.none sbuf[0:128, 0x0]:fp32(1:128), inc s0\n"                           \
    "Tensor ldweights sbuf[0:128, 0x0]:fp32(1:64), wait s0>=1\n"                                   \
    "Tensor matmul psum[0:64, 0x0]:fp32(1:64), sbuf[0:128, 0x100]:fp32(1:64), "
    expect_reads(PRODUCT "last\nstop\n", (uint32_t[]){0}, 1, NULL);
    expect_reads(PRODUCT "accumulate, last\nstop\n", (uint32_t[]){0}, 1,
                 "reads PSUM partitions 0-63, bytes 0-255");
}

static void scratch_is_unwritten_though_its_memory_was_another_tensor(void **state) {
    (void)state;
#define TO_SCRATCH                                                                                 \
    "block 0\n" LOAD "\nSync dma_copy hbm[3, 0x0, 128*128]:fp32(1:128), " TILE ", ring 0\n"
    expect_reads(TO_SCRATCH "Sync dma_copy " OTHER
                            ", hbm[3, 0x0, 128*128]:fp32(1:128), ring 0\nstop\n",
                 (uint32_t[]){0}, 1, NULL);
    expect_reads(TO_SCRATCH "Sync dma_copy " OTHER
                            ", hbm[4, 0x0, 128*128]:fp32(1:128), ring 0\nstop\n",
                 (uint32_t[]){0}, 1, "reads HBM bytes 0-65535 of tensor 4");
    expect_reads("block 0\nSync dma_copy " OTHER ", " OUT ", ring 0\nstop\n", (uint32_t[]){0}, 1,
                 "of tensor 2");
}

/* "00" is partition 0 of the quadrant, "ff" leaves the result's partition. */
static void what_a_mask_leaves_as_it_was_need_not_be_written(void **state) {
    (void)state;
#define ZEROS "00000000000000000000000000000000000000000000000000000000000000"
    expect_reads("block 0\nVector memset.none " TILE "\nVector stream_shuffle " OTHER ", " TILE
                 ", shuffle ff" ZEROS "\nstop\n",
                 (uint32_t[]){0}, 1, NULL);
    expect_reads("block 0\nVector stream_shuffle " OTHER ", " TILE ", shuffle ff" ZEROS "\nstop\n",
                 (uint32_t[]){0}, 1, "reads SBUF partitions 0-127, bytes 0-511");
}

static void only_blocks_that_ran_have_written(void **state) {
    (void)state;
    static const char body[] = "block 0\nVector memset.none " OTHER "\njump 1\n"
                               "block 1\nVector memset.none " TILE "\njump 2\n"
                               "block 2\nVector tensor_copy " OTHER ", " TILE "\nstop\n";
    expect_reads(body, (uint32_t[]){0, 1, 2, 1, 2}, 5, NULL);
    expect_reads(body, (uint32_t[]){0, 2, 1, 2}, 4, "reads SBUF");
}

static uint32_t next_random(uint32_t *state, uint32_t n) {
    *state = *state * 1664525u + 1013904223u;
    return (*state >> 8) % n;
}

static bool set_bytes(void *ctx, int64_t lo, int64_t hi) {
    memset((char *)ctx + lo, 1, (size_t)(hi - lo));
    return true;
}

/* Against maps of bytes, filled by plain nested loops over the access pattern. */
static void footprints_meet_exactly_when_their_bytes_do(void **state) {
    (void)state;
    enum { MAP_BYTES = 1 << 14 };
    static char map[2][MAP_BYTES], runs[MAP_BYTES];
    const char *given = getenv("VTRN_TEST_SEED");
    uint32_t seed = given ? (uint32_t)atoi(given) : 1;
    print_message("seed %u\n", seed);
    loaded l = load("block 0\nstop\n");
    int n_meet = 0;
    for (int round = 0; round < 20000; round++) {
        footprint f[2];
        for (int k = 0; k < 2; k++) {
            vtrn_ap ap = {.space = VTRN_SPACE_HBM, .dtype = VTRN_DTYPE_BF16, .slot = 2};
            ap.addr = 2 * (MAP_BYTES / 4 + next_random(&seed, 300));
            ap.n_partitions = (uint16_t)(1 + next_random(&seed, 4));
            ap.partition_step = (int64_t)next_random(&seed, 200);
            ap.n_dims = (uint8_t)next_random(&seed, 4);
            for (int d = 0; d < ap.n_dims; d++)
                ap.dim[d] =
                    (vtrn_dim){(int32_t)next_random(&seed, 41) - 20, 1 + next_random(&seed, 6)};
            vtrn_instr instr = {.opcode = VTRN_OP_DMA_COPY, .ap = {ap}};
            instr.ap[1] = (vtrn_ap){.space = VTRN_SPACE_SBUF, .dtype = VTRN_DTYPE_BF16};
            access_walk walk = access_begin(&instr, NULL, 0);
            isa_access store;
            assert_true(access_next(&walk, &store) && store.is_written);
            f[k] = footprint_of(l.program, &store, true);
            memset(map[k], 0, MAP_BYTES);
            uint32_t num[3] = {1, 1, 1};
            for (int d = 0; d < ap.n_dims; d++)
                num[d] = ap.dim[d].num;
            for (int r = 0; r < ap.n_partitions; r++)
                for (uint32_t a = 0; a < num[0]; a++)
                    for (uint32_t b = 0; b < num[1]; b++)
                        for (uint32_t c = 0; c < num[2]; c++)
                            memset(&map[k][ap.addr + 2 * (r * ap.partition_step +
                                                          (int64_t)a * ap.dim[0].step +
                                                          (int64_t)b * ap.dim[1].step +
                                                          (int64_t)c * ap.dim[2].step)],
                                   1, 2);
            memset(runs, 0, MAP_BYTES);
            footprint_runs(&f[k], set_bytes, runs);
            assert_memory_equal(runs, map[k], MAP_BYTES);
        }
        bool meet = false;
        for (int i = 0; i < MAP_BYTES; i++)
            meet |= map[0][i] && map[1][i];
        assert_int_equal(footprint_overlap(&f[0], &f[1]), meet);
        n_meet += meet;
    }
    assert_in_range(n_meet, 2000, 18000); /* both answers occurred */
    unload(&l);
}

int main(void) {
    vtrn_status status = chip_load("trn1", &chip);
    if (status) {
        fprintf(stderr, "%s\n", vtrn_status_text(status));
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_read_needs_a_wait_for_the_load),
        cmocka_unit_test(a_write_needs_a_wait_for_the_last_read),
        cmocka_unit_test(an_engine_orders_its_own_instructions_but_not_its_transfers),
        cmocka_unit_test(transfers_of_one_ring_may_overlap_until_one_waits),
        cmocka_unit_test(order_passes_through_third_parties),
        cmocka_unit_test(of_several_raisers_only_what_the_others_cannot_give_is_proof),
        cmocka_unit_test(operands_count_to_the_byte),
        cmocka_unit_test(an_indexed_operand_counts_from_its_first_row_to_its_last),
        cmocka_unit_test(engines_meet_between_blocks),
        cmocka_unit_test(scratch_tensors_in_one_place_race),
        cmocka_unit_test(a_read_of_one_unwritten_element_is_found),
        cmocka_unit_test(a_product_added_to_what_no_product_began_is_found),
        cmocka_unit_test(scratch_is_unwritten_though_its_memory_was_another_tensor),
        cmocka_unit_test(what_a_mask_leaves_as_it_was_need_not_be_written),
        cmocka_unit_test(only_blocks_that_ran_have_written),
        cmocka_unit_test(footprints_meet_exactly_when_their_bytes_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
