/* Products whose columns threads divide: the bits are those of one thread that makes all copies. */
#include "base/cpu.h"
#include "draft.h"

#include "test_seed.h"

enum {
    READ_BYTES = 2 << 20,  /* of the slot that weights come from */
    WRITE_BYTES = 1 << 19, /* of the slot that results go to */
    TILE_COLS = 512,       /* of each copy */
    N_GROUPS = 14,         /* copy, loads, products, result */
    ROUNDS = 12,
    N_TEAMS = 4,
};
static const int team_sizes[N_TEAMS] = {2, 3, 5, 11}; /* more than there are parts, too */

static uint64_t seed;

static vtrn_ap tile_ap(int space, int dtype, int n_rows, int64_t addr, uint32_t n) {
    return (vtrn_ap){.space = (uint8_t)space,
                     .dtype = (uint8_t)dtype,
                     .n_dims = 1,
                     .n_partitions = (uint16_t)n_rows,
                     .addr = addr,
                     .partition_step = 1,
                     .dim = {{1, n}}};
}

/* A copy of a tile of the first slot, whole or but for its last columns, to a place of the group's
 * own. */
static vtrn_ap add_copy(draft *d, int dtype, int64_t addr, uint32_t n) {
    vtrn_instr *in = draft_add(d, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC);
    in->ap[0] = tile_ap(VTRN_SPACE_SBUF, dtype, 128, addr, n);
    in->ap[1] = tile_ap(VTRN_SPACE_HBM, dtype, 128, 4 * rig_below(&seed, 1000), n);
    in->ap[1].partition_step = TILE_COLS + rig_below(&seed, 3);
    return in->ap[0];
}

static uint32_t odd_size(void) {
    static const uint32_t sizes[] = {1,  15, 16,  17,  31,  33,  47, 48,
                                     49, 96, 127, 129, 255, 500, 511};
    return rig_below(&seed, 3) ? TILE_COLS : sizes[rig_below(&seed, sizeof sizes / sizeof *sizes)];
}

/* Loads part of `columns` and multiplies it with parts of `tile` into bank `bank`. */
static void add_products(draft *d, vtrn_ap columns, vtrn_ap tile, int m, int bank) {
    int n_k = rig_below(&seed, 4) ? 128 : 1 + (int)rig_below(&seed, 128);
    columns.n_partitions = tile.n_partitions = (uint16_t)n_k;
    columns.addr += (int64_t)dtype_size(columns.dtype) * rig_below(&seed, 3);
    columns.dim[0].num = (uint32_t)m;
    draft_add(d, VTRN_OP_LDWEIGHTS, VTRN_ENGINE_TENSOR)->ap[1] = columns;
    for (int i = 0, n = 1 + (int)rig_below(&seed, 2); i < n; i++) {
        uint32_t n_cols = odd_size(), first = rig_below(&seed, TILE_COLS - n_cols + 1);
        vtrn_instr *in = draft_add(d, VTRN_OP_MATMUL, VTRN_ENGINE_TENSOR);
        in->ap[0] = tile_ap(VTRN_SPACE_PSUM, VTRN_DTYPE_FP32, m, bank * 2048 + 4 * first, n_cols);
        in->ap[1] = tile;
        in->ap[1].addr += (int64_t)dtype_size(tile.dtype) * first;
        in->ap[1].dim[0].num = n_cols;
        in->flags = rig_below(&seed, 3) ? VTRN_FLAG_ACCUMULATE : 0;
    }
}

static void make_draft(draft *d) {
    d->n = 0;
    for (int g = 0; g < N_GROUPS; g++) {
        int dtype = rig_below(&seed, 3) ? VTRN_DTYPE_FP32 : VTRN_DTYPE_BF16;
        int m = rig_below(&seed, 3) ? 1 : 1 + (int)rig_below(&seed, 16);
        int64_t addr = g % 4 * 8192;
        vtrn_ap columns = add_copy(d, dtype, addr, 64);
        vtrn_ap tile = add_copy(d, dtype, addr + 4096, TILE_COLS);
        for (int i = 0; i < 3; i++)
            add_products(d, columns, tile, m, g % 8);
        vtrn_instr *in = draft_add(d, VTRN_OP_TENSOR_COPY, VTRN_ENGINE_VECTOR);
        in->ap[0] = tile_ap(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, m, 65536, TILE_COLS);
        in->ap[1] = tile_ap(VTRN_SPACE_PSUM, VTRN_DTYPE_FP32, m, g % 8 * 2048, TILE_COLS);
        in = draft_add(d, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC);
        in->ap[0] = tile_ap(VTRN_SPACE_HBM, VTRN_DTYPE_FP32, m, g * 32768, TILE_COLS);
        in->ap[0].slot = 1;
        in->ap[0].partition_step = TILE_COLS;
        in->ap[1] = tile_ap(VTRN_SPACE_SBUF, VTRN_DTYPE_FP32, m, 65536, TILE_COLS);
    }
}

static rig *new_rig(int n_threads) {
    rig *r = rig_create(n_threads);
    rig_add_slot(r, READ_BYTES);
    rig_add_slot(r, WRITE_BYTES);
    return r;
}

/* Numbers of which half a word is an ordinary bf16 too. */
static void fill(rig *r) {
    for (size_t i = 0; i < (READ_BYTES + WRITE_BYTES) / 4; i++) {
        float value = (float)((i * 7919) % 1009) / 1009 - 0.5f;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        bits = (bits & 0xffff0000u) | bits >> 16;
        memcpy(r->hbm + 4 * i, &bits, sizeof bits);
    }
    for (int p = 0; p < 128; p++)
        memset(r->core.psum.base + (size_t)p * r->core.psum.stride, 0, RIG_PSUM_BYTES);
}

/* Returns the number of stretches that were divided. */
static uint32_t run(rig *r, unsigned freedom) {
    engine_plan plan;
    fill(r);
    rig_ok(plan_create(&r->program, &r->chip, team_size(r->threads), freedom, &plan));
    uint32_t n = plan.is_divided ? plan.blocks[0].n_stretches : 0;
    engine_run run = {.program = &r->program, .plan = &plan, .slot_base = r->slot_base};
    rig_ok(engine_execute(&r->core, &run));
    free(run.block_trace);
    engine_plan_destroy(&plan);
    return n;
}

static void expect_equal(const rig *a, const rig *b, int round) {
    if (memcmp(a->hbm, b->hbm, READ_BYTES + WRITE_BYTES))
        fail_msg("round %d: HBM differs", round);
    for (int p = 0; p < 128; p++)
        if (memcmp(a->core.psum.base + (size_t)p * a->core.psum.stride,
                   b->core.psum.base + (size_t)p * b->core.psum.stride, RIG_PSUM_BYTES))
            fail_msg("round %d: PSUM differs in partition %d", round, p);
}

static void divided_columns_have_the_bits_of_one_thread(void **state) {
    (void)state;
    rig *plain = new_rig(1), *divided[N_TEAMS];
    for (int i = 0; i < N_TEAMS; i++)
        divided[i] = new_rig(team_sizes[i]);
    cpu_level highest = cpu_level_get();
    uint32_t n_stretches = 0;
    for (int round = 0; round < ROUNDS; round++) {
        draft d;
        make_draft(&d);
        cpu_level_set((cpu_level)(round % ((int)highest + 1)));
        draft_deal(&d, plain);
        assert_int_equal(run(plain, 0), 0);
        for (int i = 0; i < N_TEAMS; i++) {
            draft_deal(&d, divided[i]);
            n_stretches += run(divided[i], PLAN_MAY_SKIP_SBUF | PLAN_MAY_BE_SOLO);
            expect_equal(plain, divided[i], round);
        }
    }
    cpu_level_set(highest);
    assert_true(n_stretches > ROUNDS * N_TEAMS * N_GROUPS / 4); /* what is tested does happen */
    rig_destroy(plain);
    for (int i = 0; i < N_TEAMS; i++)
        rig_destroy(divided[i]);
}

/* A stretch ends where something else stands between, and is none where it reads little of HBM. */
static void a_stretch_is_loads_and_products_that_read_hbm(void **state) {
    (void)state;
    rig *r = new_rig(2);
    engine_plan plan;
    draft d = {.n = 0};
    for (int i = 0; i < 12; i++) {
        vtrn_ap tile = add_copy(&d, VTRN_DTYPE_FP32, 4096, TILE_COLS);
        vtrn_ap column = tile;
        column.dim[0].num = 1;
        draft_add(&d, VTRN_OP_LDWEIGHTS, VTRN_ENGINE_TENSOR)->ap[1] = column;
        vtrn_instr *in = draft_add(&d, VTRN_OP_MATMUL, VTRN_ENGINE_TENSOR);
        in->ap[0] = tile_ap(VTRN_SPACE_PSUM, VTRN_DTYPE_FP32, 1, 0, TILE_COLS);
        in->ap[1] = tile;
    }
    draft_deal(&d, r);
    rig_ok(plan_create(&r->program, &r->chip, 2, PLAN_MAY_SKIP_SBUF | PLAN_MAY_BE_SOLO, &plan));
    assert_true(plan.is_divided);
    assert_int_equal(plan.blocks[0].n_stretches,
                     1); /* copies between that are left out are no end */
    engine_plan_destroy(&plan);

    d.instr[5].ap[0].n_dims = 2; /* sums that do not lie in one run: the general way */
    d.instr[5].ap[0].dim[0] = (vtrn_dim){TILE_COLS, 2};
    d.instr[5].ap[0].dim[1] = (vtrn_dim){1, TILE_COLS / 2};
    draft_deal(&d, r);
    rig_ok(plan_create(&r->program, &r->chip, 2, PLAN_MAY_SKIP_SBUF | PLAN_MAY_BE_SOLO, &plan));
    assert_int_equal(plan.blocks[0].n_stretches, 2);
    assert_int_equal(plan.blocks[0].stretches[0].end, 5); /* with the load, whose product is not */
    engine_plan_destroy(&plan);

    rig_ok(plan_create(&r->program, &r->chip, 2, PLAN_MAY_BE_SOLO, &plan)); /* all copies made */
    assert_int_equal(plan.blocks[0].n_stretches, 0);
    assert_false(plan.is_divided);
    engine_plan_destroy(&plan);
    rig_destroy(r);
}

int main(void) {
    seed = test_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(divided_columns_have_the_bits_of_one_thread),
        cmocka_unit_test(a_stretch_is_loads_and_products_that_read_hbm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
