/* Copies that the tensor engine reads past: nothing that the program writes may differ. */
#include "draft.h"

#include "test_seed.h"

enum {
    N_SLOTS = 3, /* read only, read and written, written */
    SLOT_BYTES = 1 << 18,
    AREA_BYTES = 2048, /* of a partition that the programs use */
    ROUNDS = 600,
};

static uint64_t seed;

static vtrn_ap tile_ap(int space, int partition, int n_rows, int64_t addr, uint32_t n) {
    return (vtrn_ap){.space = (uint8_t)space,
                     .dtype = VTRN_DTYPE_FP32,
                     .n_dims = 1,
                     .partition = (uint16_t)partition,
                     .n_partitions = (uint16_t)n_rows,
                     .addr = addr,
                     .partition_step = 1,
                     .dim = {{1, n}}};
}

static vtrn_ap hbm_tile(uint32_t slot, int n_rows, int64_t addr, int64_t step, uint32_t n) {
    vtrn_ap ap = tile_ap(VTRN_SPACE_HBM, 0, n_rows, addr, n);
    ap.slot = slot;
    ap.partition_step = step;
    return ap;
}

/* Mostly whole cells of the planner (64 bytes of 16 partitions), so that some copies can be left
 * out; the area is small, so that tiles meet. */
static vtrn_ap random_tile(int n_rows, uint32_t n) {
    int partition = (int)rig_below(&seed, 128 - (uint32_t)n_rows + 1) / 16 * 16;
    int64_t addr = rig_below(&seed, (AREA_BYTES - n * 4) / 64 + 1) * 64;
    if (!rig_below(&seed, 12))
        addr = addr > 0 ? addr - 4 : 0;
    return tile_ap(VTRN_SPACE_SBUF, partition, n_rows, addr, n);
}

static int random_rows(void) {
    return rig_below(&seed, 8) ? 16 << rig_below(&seed, 4) : 1 + (int)rig_below(&seed, 128);
}

static void add_copy(draft *d) {
    int n_rows = random_rows();
    uint32_t n = rig_below(&seed, 8) ? 16u << rig_below(&seed, 4) : 1 + rig_below(&seed, 100);
    vtrn_instr *in = draft_add(d, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC);
    in->ap[0] = random_tile(n_rows, n);
    in->ap[1] = hbm_tile(!rig_below(&seed, 5), n_rows, 4 * rig_below(&seed, 1000),
                         n + rig_below(&seed, 40), n);
}

static void add_store(draft *d) {
    int n_rows = random_rows();
    uint32_t n = 1 + rig_below(&seed, 60);
    vtrn_instr *in = draft_add(d, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC);
    in->ap[0] = hbm_tile(1 + rig_below(&seed, 2), n_rows, 4 * rig_below(&seed, 1000), 100, n);
    in->ap[1] = random_tile(n_rows, n);
}

/* A part of what some copy before brought; false: none was made. */
static bool part_of_a_copy(const draft *d, vtrn_ap *out, uint32_t most) {
    for (int tries = 0; tries < 8; tries++) {
        const vtrn_instr *in = &d->instr[rig_below(&seed, (uint32_t)d->n)];
        if (in->opcode != VTRN_OP_DMA_COPY || in->ap[0].space != VTRN_SPACE_SBUF)
            continue;
        *out = in->ap[0];
        uint32_t n = out->dim[0].num, skipped = rig_below(&seed, 3) ? 0 : rig_below(&seed, n);
        out->addr += 4 * skipped;
        out->dim[0].num = n - skipped < most ? n - skipped : most;
        return true;
    }
    return false;
}

static void add_product(draft *d) {
    vtrn_ap weights, moving;
    if (!part_of_a_copy(d, &weights, rig_below(&seed, 2) ? 1 : 128) ||
        !part_of_a_copy(d, &moving, 256))
        return;
    int k = weights.n_partitions < moving.n_partitions ? weights.n_partitions : moving.n_partitions;
    weights.n_partitions = moving.n_partitions = (uint16_t)k;
    uint32_t m = weights.dim[0].num, n = moving.dim[0].num;
    draft_add(d, VTRN_OP_LDWEIGHTS, VTRN_ENGINE_TENSOR)->ap[1] = weights;
    vtrn_instr *in = draft_add(d, VTRN_OP_MATMUL, VTRN_ENGINE_TENSOR);
    in->ap[0] = tile_ap(VTRN_SPACE_PSUM, 0, (int)m, 2048 * rig_below(&seed, 4), n);
    in->ap[1] = moving;
    in->flags = rig_below(&seed, 2) ? VTRN_FLAG_ACCUMULATE : 0;
}

static void add_transpose(draft *d) {
    vtrn_ap src;
    if (!part_of_a_copy(d, &src, 128))
        return;
    vtrn_instr *in = draft_add(d, VTRN_OP_PE_TRANSPOSE, VTRN_ENGINE_TENSOR);
    in->ap[0] = tile_ap(VTRN_SPACE_PSUM, 0, (int)src.dim[0].num, 8192 + 2048 * rig_below(&seed, 4),
                        src.n_partitions);
    in->ap[1] = src;
}

static void add_elementwise(draft *d) {
    int n_rows = rig_below(&seed, 2) ? 1 : random_rows();
    uint32_t n = rig_below(&seed, 3) ? 16u << rig_below(&seed, 4) : 1 + rig_below(&seed, 100);
    vtrn_ap dst = random_tile(n_rows, n), src = random_tile(n_rows, n);
    bool is_set = rig_below(&seed, 2);
    const vtrn_instr *before = &d->instr[d->n - 1];
    if (!is_set && before->opcode == VTRN_OP_MEMSET) { /* what was just written */
        src = dst = before->ap[0];
        dst.addr = dst.addr < 1024 ? dst.addr + 1024 : dst.addr - 1024;
    }
    if (llabs(src.addr - dst.addr) < 4 * (int64_t)n) /* such copies have no one result */
        src.addr = dst.addr;
    vtrn_instr *in =
        draft_add(d, is_set ? VTRN_OP_MEMSET : VTRN_OP_TENSOR_COPY, VTRN_ENGINE_VECTOR);
    in->ap[0] = dst;
    in->imm[0].f = (float)d->n;
    src.partition = dst.partition;
    if (!is_set)
        in->ap[1] = src;
}

/* Columns of a few numbers that lie apart, of tiles mostly: written, or stored as they lie. */
static void add_columns(draft *d) {
    uint32_t n_each = 1 + rig_below(&seed, 3), n_columns = 2 + rig_below(&seed, 18);
    uint32_t step = n_each + rig_below(&seed, (AREA_BYTES / 4 - n_each) / n_columns - n_each + 1);
    vtrn_ap columns = random_tile(random_rows(), (n_columns - 1) * step + n_each);
    columns.n_dims = 2;
    columns.dim[0] = (vtrn_dim){(int32_t)step, n_columns};
    columns.dim[1] = (vtrn_dim){1, n_each};
    vtrn_instr *in = draft_add(d, VTRN_OP_MEMSET, VTRN_ENGINE_VECTOR);
    in->ap[0] = columns;
    in->imm[0].f = (float)d->n;
    if (rig_below(&seed, 2))
        return;
    if (rig_below(&seed, 2)) { /* numbers of one of them, or beside it */
        columns.addr +=
            4 * (int64_t)(rig_below(&seed, n_columns) * step + rig_below(&seed, n_each));
        columns.n_dims = 1;
        columns.dim[0] = (vtrn_dim){1, 1 + rig_below(&seed, 2)};
        columns.addr -= columns.addr + 8 > AREA_BYTES ? 4 : 0;
    } else if (!rig_below(&seed, 3)) { /* bytes beside them, too */
        columns.dim[1].num += n_each < step;
        columns.addr -= 4 * (columns.addr > 0 && !rig_below(&seed, 2));
        int64_t lo, hi;
        isa_ap_extent(&columns, &lo, &hi);
        columns.addr -= hi > AREA_BYTES ? 4 : 0; /* fill() does not set bytes beyond the area */
    }
    in = draft_add(d, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC);
    in->ap[0] = hbm_tile(2, columns.n_partitions, 4 * rig_below(&seed, 1000), 100,
                         (uint32_t)isa_ap_free_size(&columns));
    in->ap[1] = columns;
}

static void make_draft(draft *d) {
    d->n = 0;
    add_copy(d);
    for (int i = 0, n = 4 + (int)rig_below(&seed, 24); i < n; i++) {
        uint32_t kind = rig_below(&seed, 18);
        if (kind >= 16)
            add_columns(d);
        else if (kind < 6)
            add_copy(d);
        else if (kind < 10)
            add_product(d);
        else if (kind < 12)
            add_transpose(d);
        else if (kind < 15)
            add_elementwise(d);
        else
            add_store(d);
    }
}

static rig *new_rig(int n_threads) {
    rig *r = rig_create(n_threads);
    for (int i = 0; i < N_SLOTS; i++)
        rig_add_slot(r, SLOT_BYTES);
    return r;
}

/* The same numbers in all memories of every core. */
static void fill(rig *r) {
    for (size_t i = 0; i < N_SLOTS * SLOT_BYTES / 4; i++)
        ((float *)r->hbm)[i] = (float)((i * 7919) % 1009) / 1009 - 0.5f;
    for (int p = 0; p < 128; p++) {
        memset(r->core.sbuf.base + (size_t)p * r->core.sbuf.stride, 0, AREA_BYTES);
        memset(r->core.psum.base + (size_t)p * r->core.psum.stride, 0, RIG_PSUM_BYTES);
    }
}

/* Returns how many copies were left out. */
static int run(rig *r, unsigned freedom) {
    engine_plan plan;
    int n_left_out = 0;
    rig_ok(plan_create(&r->program, &r->chip, team_size(r->threads), freedom, &plan));
    for (uint32_t b = 0; b < plan.n_blocks; b++)
        for (uint32_t i = 0; i < plan.blocks[b].n_steps; i++)
            n_left_out += plan.blocks[b].steps[i].is_left_out;
    engine_run run = {.program = &r->program, .plan = &plan, .slot_base = r->slot_base};
    rig_ok(engine_execute(&r->core, &run));
    free(run.block_trace);
    engine_plan_destroy(&plan);
    return n_left_out;
}

static void expect_equal_results(const rig *a, const rig *b, int round) {
    if (memcmp(a->hbm, b->hbm, N_SLOTS * SLOT_BYTES))
        fail_msg("round %d: HBM differs", round);
    for (int p = 0; p < 128; p++)
        if (memcmp(a->core.psum.base + (size_t)p * a->core.psum.stride,
                   b->core.psum.base + (size_t)p * b->core.psum.stride, RIG_PSUM_BYTES))
            fail_msg("round %d: PSUM differs in partition %d", round, p);
}

static void random_programs_have_the_bits_of_all_copies_made(void **state) {
    (void)state;
    rig *plain = new_rig(1), *in_place[3] = {new_rig(1), new_rig(2), new_rig(3)};
    int n_left_out = 0;
    for (int round = 0; round < ROUNDS; round++) {
        draft d;
        make_draft(&d);
        rig *r = in_place[round % 3];
        draft_deal(&d, plain);
        draft_deal(&d, r);
        fill(plain);
        fill(r);
        assert_int_equal(run(plain, 0), 0);
        n_left_out += run(r, PLAN_MAY_SKIP_SBUF);
        expect_equal_results(plain, r, round);
    }
    assert_true(n_left_out > ROUNDS / 8); /* what is tested does happen */
    rig_destroy(plain);
    for (int i = 0; i < 3; i++)
        rig_destroy(in_place[i]);
}

/* One tile of 128 x 64 from a slot that is only read, and its transpose. */
static void make_transpose_of_a_tile(draft *d) {
    d->n = 0;
    vtrn_instr *copy = draft_add(d, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC);
    copy->ap[0] = tile_ap(VTRN_SPACE_SBUF, 0, 128, 512, 64);
    copy->ap[1] = hbm_tile(0, 128, 256, 64, 64);
    vtrn_instr *in = draft_add(d, VTRN_OP_PE_TRANSPOSE, VTRN_ENGINE_TENSOR);
    in->ap[0] = tile_ap(VTRN_SPACE_PSUM, 0, 64, 0, 128);
    in->ap[1] = tile_ap(VTRN_SPACE_SBUF, 0, 128, 512, 64);
}

/* A rig on one thread that is about to run it. */
static rig *rig_with_a_transpose(draft *d) {
    rig *r = new_rig(1);
    make_transpose_of_a_tile(d);
    draft_deal(d, r);
    fill(r);
    return r;
}

static int left_out_of(rig *r, const draft *d) {
    draft_deal(d, r);
    fill(r);
    return run(r, PLAN_MAY_SKIP_SBUF);
}

static void a_copy_is_made_where_its_bytes_are_needed(void **state) {
    (void)state;
    rig *r = new_rig(2);
    draft d;
    make_transpose_of_a_tile(&d);
    assert_int_equal(left_out_of(r, &d), 1);

    vtrn_instr *in = draft_add(&d, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC); /* SBUF is read too */
    in->ap[0] = hbm_tile(2, 1, 0, 1, 1);
    in->ap[1] = tile_ap(VTRN_SPACE_SBUF, 127, 1, 512 + 63 * 4, 1);
    assert_int_equal(left_out_of(r, &d), 0);

    make_transpose_of_a_tile(&d);
    d.instr[0].ap[1].slot = 1; /* a tensor that the program writes */
    in = draft_add(&d, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC);
    in->ap[0] = hbm_tile(1, 1, 0, 1, 1);
    in->ap[1] = tile_ap(VTRN_SPACE_SBUF, 0, 1, 0, 1);
    assert_int_equal(left_out_of(r, &d), 0);

    make_transpose_of_a_tile(&d);
    d.instr[0].ap[1].dtype = VTRN_DTYPE_BF16;
    assert_int_equal(left_out_of(r, &d), 0);
    rig_destroy(r);
}

/* New bytes beside old ones, of which either may be read later. */
static void a_copy_is_made_where_bytes_beside_new_ones_are_needed(void **state) {
    (void)state;
    rig *r = new_rig(2);
    draft d;
    make_transpose_of_a_tile(&d);
    vtrn_instr *in = draft_add(&d, VTRN_OP_MEMSET, VTRN_ENGINE_VECTOR);
    in->ap[0] = tile_ap(VTRN_SPACE_SBUF, 5, 1, 516, 2);
    assert_int_equal(left_out_of(r, &d), 1);

    vtrn_instr *store = draft_add(&d, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC);
    store->ap[0] = hbm_tile(2, 1, 0, 1, 2);
    store->ap[1] = in->ap[0];
    assert_int_equal(left_out_of(r, &d), 1);
    store->ap[1].addr -= 4;
    assert_int_equal(left_out_of(r, &d), 0);
    in->ap[0] = tile_ap(VTRN_SPACE_SBUF, 5, 1, 512, 64); /* the whole row */
    assert_int_equal(left_out_of(r, &d), 1);

    make_transpose_of_a_tile(&d);
    in = draft_add(&d, VTRN_OP_MEMSET, VTRN_ENGINE_VECTOR);
    in->ap[0] = tile_ap(VTRN_SPACE_SBUF, 0, 128, 516, 2);
    in->ap[0].n_dims = 2;
    in->ap[0].dim[0] = (vtrn_dim){32, 2}; /* two columns of two numbers, 32 apart */
    in->ap[0].dim[1] = (vtrn_dim){1, 2};
    store = draft_add(&d, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC);
    store->ap[0] = hbm_tile(2, 128, 0, 4, 4);
    store->ap[1] = in->ap[0];
    assert_int_equal(left_out_of(r, &d), 1);
    store->ap[1].addr += 4;
    assert_int_equal(left_out_of(r, &d), 0);
    store->ap[0] = hbm_tile(2, 128, 0, 1, 1);
    store->ap[1] = tile_ap(VTRN_SPACE_SBUF, 0, 128, 516 + 32 * 4 + 4, 1);
    assert_int_equal(left_out_of(r, &d), 1);
    store->ap[1].addr += 4;
    assert_int_equal(left_out_of(r, &d), 0);

    make_transpose_of_a_tile(&d);
    in = draft_add(&d, VTRN_OP_MEMSET, VTRN_ENGINE_VECTOR);
    in->ap[0] = tile_ap(VTRN_SPACE_SBUF, 5, 1, 516, 2);
    vtrn_instr *again = draft_add(&d, VTRN_OP_PE_TRANSPOSE, VTRN_ENGINE_TENSOR);
    again->ap[0] = tile_ap(VTRN_SPACE_PSUM, 0, 32, 2048, 128);
    again->ap[1] = tile_ap(VTRN_SPACE_SBUF, 0, 128, 512 + 32 * 4, 32); /* beside them */
    assert_int_equal(left_out_of(r, &d), 1);
    again->ap[1].addr = 512;
    assert_int_equal(left_out_of(r, &d), 0);
    rig_destroy(r);
}

static void a_copy_is_made_where_another_block_may_read_it(void **state) {
    (void)state;
    draft d;
    rig *r = rig_with_a_transpose(&d);
    vtrn_block blocks[2] = {r->block, {.end = VTRN_END_STOP}};
    blocks[0].end = VTRN_END_JUMP;
    blocks[0].next[0] = 1;
    r->program.blocks = blocks;
    r->program.n_blocks = 2;
    assert_int_equal(run(r, PLAN_MAY_SKIP_SBUF), 1); /* no block reads it */

    vtrn_instr *in = &r->instrs[r->program.n_instrs++]; /* of the second block */
    *in = (vtrn_instr){.opcode = VTRN_OP_DMA_COPY,
                       .engine = VTRN_ENGINE_SYNC,
                       .update_semaphore = VTRN_NO_SEMAPHORE};
    in->ap[0] = hbm_tile(2, 1, 0, 1, 2);
    in->ap[1] = tile_ap(VTRN_SPACE_SBUF, 127, 1, 512 + 62 * 4, 2);
    blocks[1].first[VTRN_ENGINE_SYNC] = r->program.n_instrs - 1;
    blocks[1].count[VTRN_ENGINE_SYNC] = 1;
    assert_int_equal(run(r, PLAN_MAY_SKIP_SBUF), 0);
    in->ap[1].addr = 512 + 64 * 4; /* beside it */
    assert_int_equal(run(r, PLAN_MAY_SKIP_SBUF), 1);

    in->ap[1].addr = 512; /* the second block writes it first: one of the numbers, then both */
    vtrn_instr *set = &r->instrs[r->program.n_instrs++];
    *set = *in;
    set->ap[0] = in->ap[1];
    set->ap[1] = hbm_tile(0, 1, 0, 1, 1);
    set->ap[0].dim[0].num = 1;
    vtrn_instr first = *set;
    *set = *in;
    *in = first;
    blocks[1].count[VTRN_ENGINE_SYNC] = 2;
    assert_int_equal(run(r, PLAN_MAY_SKIP_SBUF), 0);
    in->ap[0].dim[0].num = in->ap[1].dim[0].num = 2;
    assert_int_equal(run(r, PLAN_MAY_SKIP_SBUF), 1);
    rig_destroy(r);
}

/* What an operation left in scratch before a loop is as good as an argument there. */
static void a_copy_from_scratch_is_left_out_where_its_block_does_not_write_it(void **state) {
    (void)state;
    draft d;
    rig *r = rig_with_a_transpose(&d);
    r->slots[0] = (vtrn_slot){.kind = VTRN_SLOT_SCRATCH, .offset = 0, .size_bytes = SLOT_BYTES};
    r->slots[1] = (vtrn_slot){.kind = VTRN_SLOT_SCRATCH, .offset = SLOT_BYTES, .size_bytes = 64};
    assert_int_equal(run(r, PLAN_MAY_SKIP_SBUF), 1);
    vtrn_instr *in = draft_add(&d, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC);
    in->ap[0] = hbm_tile(1, 1, 0, 1, 1);
    in->ap[1] = tile_ap(VTRN_SPACE_SBUF, 0, 1, 0, 1);
    draft_deal(&d, r);
    assert_int_equal(run(r, PLAN_MAY_SKIP_SBUF), 1);
    r->slots[1].offset -= 4; /* they share memory */
    assert_int_equal(run(r, PLAN_MAY_SKIP_SBUF), 0);
    rig_destroy(r);
}

static void a_copy_from_an_argument_that_an_output_replaces_is_made(void **state) {
    (void)state;
    draft d;
    rig *r = rig_with_a_transpose(&d);
    int32_t alias = 0;
    r->program.n_outputs = 1;
    r->program.output_alias = &alias;
    assert_int_equal(run(r, PLAN_MAY_SKIP_SBUF), 0);
    alias = 1;
    assert_int_equal(run(r, PLAN_MAY_SKIP_SBUF), 1);
    rig_destroy(r);
}

int main(void) {
    seed = test_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_programs_have_the_bits_of_all_copies_made),
        cmocka_unit_test(a_copy_is_made_where_its_bytes_are_needed),
        cmocka_unit_test(a_copy_is_made_where_bytes_beside_new_ones_are_needed),
        cmocka_unit_test(a_copy_is_made_where_another_block_may_read_it),
        cmocka_unit_test(a_copy_from_scratch_is_left_out_where_its_block_does_not_write_it),
        cmocka_unit_test(a_copy_from_an_argument_that_an_output_replaces_is_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
