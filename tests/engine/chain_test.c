/* Rows that go through several instructions at once: SBUF and PSUM are as after one instruction
 * after the other, for any number of threads. */
#include "draft.h"

#include "engine/chain.h"
#include "test_seed.h"

enum {
    AREA_BYTES = 16384, /* of a partition that a kind of numbers has */
    N_KINDS = 4,        /* fp32, bf16, uint8, uint32: each has an area */
    N_SHAPES = 3,       /* of the tiles of a program */
    ROUNDS = 200,
};

static uint64_t seed;

static const vtrn_dtype kinds[N_KINDS] = {VTRN_DTYPE_FP32, VTRN_DTYPE_BF16, VTRN_DTYPE_UINT8,
                                          VTRN_DTYPE_UINT32};

typedef struct shape {
    int partition, n_rows;
    uint32_t n;
} shape;

static shape shapes[N_SHAPES];

static void draw_shapes(void) {
    static const uint32_t lengths[] = {1, 2, 3, 16, 47, 64, 100, 250, 256, 384, 500, 600, 1100};
    for (int i = 0; i < N_SHAPES; i++) {
        shape *s = &shapes[i];
        s->n = lengths[rig_below(&seed, 13)];
        s->n_rows = rig_below(&seed, 8) ? 1 + (int)rig_below(&seed, 128) : 128;
        s->partition = (int)rig_below(&seed, 128 - (uint32_t)s->n_rows + 1) / 16 * 16;
    }
}

/* A tile of one of few places, so that instructions meet, and tiles sometimes in part. */
static vtrn_ap tile(int kind, const shape *s, uint32_t n) {
    const uint32_t size = (uint32_t)dtype_size(kinds[kind]);
    const uint32_t places = (AREA_BYTES - 4800) / 1200;
    vtrn_ap ap = {.space = VTRN_SPACE_SBUF,
                  .dtype = (uint8_t)kinds[kind],
                  .n_dims = 1,
                  .partition = (uint16_t)s->partition,
                  .n_partitions = (uint16_t)s->n_rows,
                  .partition_step = 1,
                  .addr = kind * AREA_BYTES + 1200 * (int64_t)rig_below(&seed, places),
                  .dim = {{1, n}}};
    if (!rig_below(&seed, 20))
        ap.addr += size * rig_below(&seed, 4);
    return ap;
}

/* A source may repeat an element, lie in two loops or in PSUM, or a few partitions away. */
static vtrn_ap source(int kind, const shape *s) {
    vtrn_ap ap = tile(kind, s, s->n);
    if (!rig_below(&seed, 8)) {
        ap.dim[0].step = 0;
    } else if (!rig_below(&seed, 8) && s->n % 2 == 0) {
        ap.n_dims = 2;
        ap.dim[0] = (vtrn_dim){(int32_t)s->n / 2 + 3, 2};
        ap.dim[1] = (vtrn_dim){1, s->n / 2};
    } else if (kind == 0 && !rig_below(&seed, 12)) {
        ap.space = VTRN_SPACE_PSUM;
        ap.addr = 4 * rig_below(&seed, 100);
    }
    return ap;
}

static bool has_one_result(const vtrn_instr *in) {
    for (int i = 1; i < VTRN_MAX_AP; i++) {
        const vtrn_ap *a = &in->ap[i], *d = &in->ap[0];
        int64_t lo, hi, d_lo, d_hi;
        if (a->space != d->space)
            continue;
        isa_ap_extent(a, &lo, &hi);
        isa_ap_extent(d, &d_lo, &d_hi);
        if (lo < d_hi && d_lo < hi && !isa_ap_is_same(a, d))
            return false;
    }
    return true;
}

static uint8_t arithmetic(void) {
    static const uint8_t ops[] = {VTRN_ALU_ADD, VTRN_ALU_SUBTRACT, VTRN_ALU_MAX, VTRN_ALU_MIN,
                                  VTRN_ALU_IS_GT};
    return ops[rig_below(&seed, 5)];
}

static uint8_t bits(void) {
    static const uint8_t ops[] = {VTRN_ALU_BITWISE_XOR, VTRN_ALU_BITWISE_OR, VTRN_ALU_SHIFT_LEFT,
                                  VTRN_ALU_SHIFT_RIGHT_LOGICAL};
    return ops[rig_below(&seed, 4)];
}

/* A number a row, or an immediate. */
static void add_scalar(vtrn_instr *in, int i, int kind, const shape *s) {
    if (rig_below(&seed, 3))
        in->ap[i] = tile(kind, s, 1);
    else if (kind == 3)
        in->imm[i - 2].bits = rig_below(&seed, 32);
    else
        in->imm[i - 2].f = (float)((int)rig_below(&seed, 17) - 8) / 4;
}

static void add_words(draft *d, const shape *s) {
    vtrn_instr in = {.engine = VTRN_ENGINE_VECTOR, .op0 = bits(), .op1 = VTRN_ALU_NONE};
    in.opcode = rig_below(&seed, 2) ? VTRN_OP_TENSOR_TENSOR : VTRN_OP_TENSOR_SCALAR;
    in.ap[0] = tile(3, s, s->n);
    in.ap[1] = source(3, s);
    if (rig_below(&seed, 3) == 0) {
        in.engine = VTRN_ENGINE_GPSIMD;
        in.op0 = arithmetic();
        if (rig_below(&seed, 4) == 0)
            in.ap[0] = tile(0, s, s->n); /* numbers of integers */
    }
    if (in.opcode == VTRN_OP_TENSOR_TENSOR) {
        in.ap[2] = source(3, s);
    } else {
        add_scalar(&in, 2, 3, s);
        if (rig_below(&seed, 2)) {
            in.op1 = in.engine == VTRN_ENGINE_GPSIMD ? arithmetic() : bits();
            add_scalar(&in, 3, 3, s);
        }
    }
    if (has_one_result(&in))
        *draft_add(d, (vtrn_opcode)in.opcode, (vtrn_engine)in.engine) = in;
}

static void add_numbers(draft *d, const shape *s) {
    const uint32_t form = rig_below(&seed, 9);
    vtrn_instr in = {.engine = VTRN_ENGINE_VECTOR, .op0 = arithmetic(), .op1 = VTRN_ALU_NONE};
    in.ap[0] = tile((int)rig_below(&seed, 3), s, s->n);
    in.flags = (rig_below(&seed, 2) ? VTRN_FLAG_REVERSE0 : 0) |
               (rig_below(&seed, 2) ? VTRN_FLAG_REVERSE1 : 0);
    if (form < 8)
        in.ap[1] = source((int)rig_below(&seed, 3), s);
    if (form < 2) {
        in.opcode = VTRN_OP_TENSOR_TENSOR;
        in.ap[2] = source((int)rig_below(&seed, 3), s);
    } else if (form < 4) {
        in.opcode = VTRN_OP_TENSOR_SCALAR;
        add_scalar(&in, 2, (int)rig_below(&seed, 2), s);
        in.op1 = rig_below(&seed, 2) ? arithmetic() : VTRN_ALU_NONE;
        if (in.op1 != VTRN_ALU_NONE)
            add_scalar(&in, 3, (int)rig_below(&seed, 2), s);
    } else if (form < 5) {
        in.opcode = VTRN_OP_SCALAR_TENSOR_TENSOR;
        add_scalar(&in, 2, 0, s);
        in.op1 = arithmetic();
        in.ap[3] = source((int)rig_below(&seed, 3), s);
    } else if (form < 6) {
        in.opcode = VTRN_OP_ACTIVATE;
        in.engine = VTRN_ENGINE_SCALAR;
        in.func = rig_below(&seed, 2) ? VTRN_ACT_RELU : VTRN_ACT_TANH;
        add_scalar(&in, 2, 0, s);
        add_scalar(&in, 3, 0, s);
    } else if (form < 7) {
        in.opcode = VTRN_OP_TENSOR_COPY;
    } else if (form < 8) {
        in.opcode = VTRN_OP_COPY_PREDICATED;
        in.ap[0] = tile(0, s, s->n);
        in.ap[1] = source(0, s);
        in.ap[2] = source(2, s);
    } else {
        in.opcode = VTRN_OP_MEMSET;
        in.imm[0].f = (float)rig_below(&seed, 9);
    }
    if (has_one_result(&in))
        *draft_add(d, (vtrn_opcode)in.opcode, (vtrn_engine)in.engine) = in;
}

/* Not of a chain, but on its bytes. */
static void add_other(draft *d, const shape *s) {
    vtrn_instr *in = draft_add(d, VTRN_OP_TENSOR_REDUCE, VTRN_ENGINE_VECTOR);
    in->op0 = VTRN_ALU_MAX;
    in->ap[1] = tile(0, s, s->n);
    in->ap[0] = tile(0, s, 1);
    in->arg[0] = 1;
    if (!has_one_result(in))
        d->n--;
}

static void make_draft(draft *d) {
    d->n = 0;
    draw_shapes();
    for (int i = 0, n = 4 + (int)rig_below(&seed, 60); i < n; i++) {
        const shape *s = &shapes[rig_below(&seed, N_SHAPES)];
        const uint32_t kind = rig_below(&seed, 16);
        if (kind < 6)
            add_words(d, s);
        else if (kind < 15)
            add_numbers(d, s);
        else
            add_other(d, s);
    }
}

static uint8_t start[128][N_KINDS * AREA_BYTES];

static void make_start(void) {
    for (size_t p = 0; p < 128; p++)
        for (int k = 0; k < N_KINDS; k++)
            for (size_t i = 0, size = dtype_size(kinds[k]); i < AREA_BYTES / size; i++) {
                float x = (float)((i * 7919 + p * 104729) % 251);
                dtype_store_fp32(kinds[k], &x, &start[p][(size_t)k * AREA_BYTES + i * size], 1);
            }
}

/* The same small numbers in all memories of every core. */
static void fill(rig *r) {
    for (int p = 0; p < 128; p++) {
        float *psum = (float *)(r->core.psum.base + (size_t)p * r->core.psum.stride);
        memcpy(r->core.sbuf.base + (size_t)p * r->core.sbuf.stride, start[p], sizeof start[p]);
        for (int i = 0; i < 2048; i++)
            psum[i] = (float)((i * 31 + p) % 101) / 8;
    }
}

/* Returns how many instructions are of chains. */
static uint32_t run(rig *r, unsigned freedom) {
    engine_plan plan;
    uint32_t n_chained = 0;
    rig_ok(plan_create(&r->program, &r->chip, team_size(r->threads), freedom, &plan));
    for (uint32_t i = 0; i < plan.blocks[0].n_chains; i++)
        n_chained += plan.blocks[0].chains[i].end - plan.blocks[0].chains[i].first;
    engine_run run = {.program = &r->program, .plan = &plan, .slot_base = r->slot_base};
    rig_ok(engine_execute(&r->core, &run));
    free(run.block_trace);
    engine_plan_destroy(&plan);
    return n_chained;
}

static void expect_equal(const rig *a, const rig *b, int round) {
    for (int p = 0; p < 128; p++) {
        const uint8_t *x = a->core.sbuf.base + (size_t)p * a->core.sbuf.stride;
        const uint8_t *y = b->core.sbuf.base + (size_t)p * b->core.sbuf.stride;
        int at = 0;
        if (!memcmp(x, y, N_KINDS * AREA_BYTES))
            continue;
        while (x[at] == y[at])
            at++;
        fail_msg("round %d: partition %d differs at byte %d", round, p, at);
    }
}

static void random_programs_have_the_bits_of_one_instruction_at_a_time(void **state) {
    (void)state;
    rig *plain = rig_create(1), *chained[3] = {rig_create(1), rig_create(2), rig_create(3)};
    uint32_t n_chained = 0, n_all = 0;
    for (int round = 0; round < ROUNDS; round++) {
        draft d;
        make_draft(&d);
        if (!d.n)
            continue;
        rig *r = chained[round % 3];
        draft_deal(&d, plain);
        draft_deal(&d, r);
        fill(plain);
        fill(r);
        assert_int_equal(run(plain, 0), 0);
        n_chained += run(r, PLAN_MAY_CHAIN);
        n_all += (uint32_t)d.n;
        expect_equal(plain, r, round);
    }
    assert_true(n_chained > n_all / 8); /* what is tested does happen */
    rig_destroy(plain);
    for (int i = 0; i < 3; i++)
        rig_destroy(chained[i]);
}

enum { N_STORES = 4, STORE_BYTES = 128 * 1100 * 4 };

/* Somewhere between the instructions, and behind them, tiles go to HBM. */
static void add_stores(draft *d, uint32_t slot) {
    for (int i = 0; i < N_STORES; i++) {
        const shape *s = &shapes[rig_below(&seed, N_SHAPES)];
        const int at = i ? (int)rig_below(&seed, (uint32_t)d->n + 1) : d->n;
        memmove(d->instr + at + 1, d->instr + at, (size_t)(d->n - at) * sizeof *d->instr);
        d->n++;
        vtrn_instr *in = &d->instr[at];
        *in = (vtrn_instr){.opcode = VTRN_OP_DMA_COPY, .engine = VTRN_ENGINE_SYNC};
        in->ap[1] = tile((int)rig_below(&seed, N_KINDS), s, s->n);
        in->ap[0] = in->ap[1];
        in->ap[0].space = VTRN_SPACE_HBM;
        in->ap[0].slot = slot;
        in->ap[0].partition = 0;
        in->ap[0].partition_step = (int64_t)s->n;
        in->ap[0].addr = (int64_t)i * STORE_BYTES;
    }
}

/* Two blocks, the second behind the first. */
static void deal_in_two(const draft *d, rig *r, vtrn_block blocks[2]) {
    draft half = {.n = d->n / 2};
    memcpy(half.instr, d->instr, (size_t)half.n * sizeof *half.instr);
    draft_deal(&half, r);
    blocks[0] = r->block;
    blocks[0].end = VTRN_END_JUMP;
    blocks[0].next[0] = 1;
    memcpy(half.instr, d->instr + half.n, (size_t)(d->n - half.n) * sizeof *half.instr);
    half.n = d->n - half.n;
    const uint32_t n_before = r->program.n_instrs;
    static vtrn_instr before[MAX_DRAFT];
    memcpy(before, r->instrs, n_before * sizeof *before);
    draft_deal(&half, r);
    memmove(r->instrs + n_before, r->instrs, r->program.n_instrs * sizeof *r->instrs);
    memcpy(r->instrs, before, n_before * sizeof *before);
    r->program.n_instrs += n_before;
    blocks[1] = r->block;
    for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
        blocks[1].first[e] += n_before;
    r->program.blocks = blocks;
    r->program.n_blocks = 2;
}

static bool is_sbuf_equal(const rig *a, const rig *b) {
    for (int p = 0; p < 128; p++)
        if (memcmp(a->core.sbuf.base + (size_t)p * a->core.sbuf.stride,
                   b->core.sbuf.base + (size_t)p * b->core.sbuf.stride, N_KINDS * AREA_BYTES) != 0)
            return false;
    return true;
}

static void what_reaches_hbm_is_the_same_where_results_that_nobody_reads_stay_away(void **state) {
    (void)state;
    rig *plain = rig_create(1), *chained[3] = {rig_create(1), rig_create(2), rig_create(3)};
    const uint32_t slot = rig_add_slot(plain, N_STORES * STORE_BYTES);
    for (int i = 0; i < 3; i++)
        rig_add_slot(chained[i], N_STORES * STORE_BYTES);
    int n_different = 0;
    for (int round = 0; round < ROUNDS; round++) {
        draft d;
        vtrn_block blocks[2][2];
        make_draft(&d);
        add_stores(&d, slot);
        rig *r = chained[round % 3];
        for (int i = 0; i < 2; i++) {
            rig *x = i ? r : plain;
            deal_in_two(&d, x, blocks[i]);
            if (round % 4 == 0) {
                draft_deal(&d, x);
                x->program.blocks = &x->block;
                x->program.n_blocks = 1;
            }
            fill(x);
            memset(rig_slot(x, slot), 0, N_STORES * STORE_BYTES);
        }
        run(plain, 0);
        run(r, PLAN_MAY_CHAIN | PLAN_MAY_SKIP_SBUF);
        assert_memory_equal(rig_slot(plain, slot), rig_slot(r, slot), N_STORES * STORE_BYTES);
        n_different += !is_sbuf_equal(plain, r);
    }
    assert_true(n_different > ROUNDS / 8); /* what is tested does happen */
    rig_destroy(plain);
    for (int i = 0; i < 3; i++)
        rig_destroy(chained[i]);
}

/* y = x + 1, z = y * y over 128 rows of n. */
static void make_two(draft *d, uint32_t n) {
    const shape s = {0, 128, n};
    d->n = 0;
    vtrn_instr *in = draft_add(d, VTRN_OP_TENSOR_SCALAR, VTRN_ENGINE_VECTOR);
    in->op0 = VTRN_ALU_ADD;
    in->op1 = VTRN_ALU_NONE;
    in->imm[0].f = 1;
    in->ap[1] = tile(0, &s, n);
    in->ap[1].addr = 0;
    in->ap[0] = in->ap[1];
    in->ap[0].addr = 4096;
    vtrn_instr *next = draft_add(d, VTRN_OP_TENSOR_TENSOR, VTRN_ENGINE_VECTOR);
    next->op0 = VTRN_ALU_MULTIPLY;
    next->op1 = VTRN_ALU_NONE;
    next->ap[1] = next->ap[2] = in->ap[0];
    next->ap[0] = in->ap[0];
    next->ap[0].addr = 8192;
}

static uint32_t chained_of(rig *r, const draft *d) {
    draft_deal(d, r);
    fill(r);
    return run(r, PLAN_MAY_CHAIN);
}

static void what_depends_on_other_bytes_is_not_of_the_chain(void **state) {
    (void)state;
    rig *r = rig_create(2);
    draft d;
    make_two(&d, 8);
    assert_int_equal(chained_of(r, &d), 2);
    make_two(&d, 300);
    assert_int_equal(chained_of(r, &d), 2);
    d.instr[1].ap[1].addr += 4; /* reads across what the first one wrote */
    assert_int_equal(chained_of(r, &d), 0);
    make_two(&d, 8);
    d.instr[1].ap[0].addr = d.instr[0].ap[1].addr + 4; /* writes across what it read */
    assert_int_equal(chained_of(r, &d), 0);
    make_two(&d, 8);
    d.instr[1].flags = VTRN_FLAG_STOCHASTIC;
    assert_int_equal(chained_of(r, &d), 0);
    rig_destroy(r);
}

int main(void) {
    seed = test_seed();
    make_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_programs_have_the_bits_of_one_instruction_at_a_time),
        cmocka_unit_test(what_reaches_hbm_is_the_same_where_results_that_nobody_reads_stay_away),
        cmocka_unit_test(what_depends_on_other_bytes_is_not_of_the_chain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
