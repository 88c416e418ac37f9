/* The compact form of small instructions gives the bits of the general path, for every operation,
 * type and way to lie. */
#include "rig.h"

#include "engine/small.h"
#include "test_seed.h"

#include <math.h>

enum {
    N_ROWS = 20,
    N_PARTITIONS = 48,
    AREA_BYTES = 1 << 14, /* of each partition that operands lie in */
    PLACE_BYTES = 4096,   /* an operand's room */
    HBM_AREA_BYTES = 1 << 17,
    N_TURNS = 32, /* instructions of an operation and type of dst */
};

static uint64_t seed;

static const vtrn_dtype types[] = {
    VTRN_DTYPE_FP32, VTRN_DTYPE_BF16,  VTRN_DTYPE_FP16,   VTRN_DTYPE_INT32, VTRN_DTYPE_UINT32,
    VTRN_DTYPE_INT8, VTRN_DTYPE_UINT8, VTRN_DTYPE_UINT16, VTRN_DTYPE_PRED,  VTRN_DTYPE_FP8E4M3,
};
enum { N_TYPES = sizeof types / sizeof *types };

static vtrn_dtype pick_type(void) {
    return rig_below(&seed, 3) ? types[rig_below(&seed, 5)] : types[rig_below(&seed, N_TYPES)];
}

/* Operand i has a place of its own, or that of operand `like`. */
static vtrn_ap operand(int i, int like, vtrn_dtype type, uint32_t n_rows, uint32_t n) {
    bool is_psum = i == 1 && !rig_below(&seed, 4);
    return (vtrn_ap){.space = is_psum && like == i ? VTRN_SPACE_PSUM : VTRN_SPACE_SBUF,
                     .dtype = (uint8_t)type,
                     .n_dims = 1,
                     .partition = (uint16_t)rig_below(&seed, N_PARTITIONS - N_ROWS + 1),
                     .n_partitions = (uint16_t)n_rows,
                     .partition_step = 1,
                     .addr = like * PLACE_BYTES,
                     .dim = {{1, n}}};
}

typedef struct memory {
    uint8_t sbuf[N_PARTITIONS][AREA_BYTES], psum[N_PARTITIONS][AREA_BYTES], hbm[HBM_AREA_BYTES];
} memory;

static memory start, general, compact;

static void fill_start(void) {
    uint8_t *bytes = (uint8_t *)&start;
    for (size_t i = 0; i < sizeof start; i += 4) {
        float x = (float)((int)rig_below(&seed, 2001) - 1000) / 64;
        uint32_t bits = (uint32_t)rig_random(&seed), small = rig_below(&seed, 40);
        const void *kinds[] = {&bits, &small, &x, &x};
        memcpy(bytes + i, kinds[i / 4 % 4], 4);
    }
}

static void put_memory(rig *r, const memory *m) {
    for (int p = 0; p < N_PARTITIONS; p++) {
        memcpy(r->core.sbuf.base + (size_t)p * r->core.sbuf.stride, m->sbuf[p], AREA_BYTES);
        memcpy(r->core.psum.base + (size_t)p * r->core.psum.stride, m->psum[p], AREA_BYTES);
    }
    memcpy(r->hbm, m->hbm, HBM_AREA_BYTES);
}

static void get_memory(rig *r, memory *m) {
    for (int p = 0; p < N_PARTITIONS; p++) {
        memcpy(m->sbuf[p], r->core.sbuf.base + (size_t)p * r->core.sbuf.stride, AREA_BYTES);
        memcpy(m->psum[p], r->core.psum.base + (size_t)p * r->core.psum.stride, AREA_BYTES);
    }
    memcpy(m->hbm, r->hbm, HBM_AREA_BYTES);
}

static int n_packed, n_long; /* instructions with such a form: packed, of many rows */

/* The first byte of an element that differs, but for the signs of NaNs: these are not the same in
 * the first and in the last elements of a row, of which the two paths have other ones. */
static size_t first_difference(vtrn_dtype type) {
    const uint8_t *x = (const uint8_t *)&general, *y = (const uint8_t *)&compact;
    size_t size = dtype_size(type);
    if (!memcmp(x, y, sizeof general))
        return sizeof general;
    for (size_t at = 0; at < sizeof general; at += size) {
        float a = 0, b = 0;
        if (!memcmp(x + at, y + at, size))
            continue;
        if (dtype_is_float(type)) {
            dtype_load_fp32(type, x + at, &a, 1);
            dtype_load_fp32(type, y + at, &b, 1);
        }
        if (!isnan(a) || !isnan(b))
            return at;
    }
    return sizeof general;
}

/* False: there is no compact form. */
static bool compare(rig *r, const vtrn_instr *instr) {
    small_op op;
    if (!small_decode(&r->chip, instr, false, &op))
        return false;
    n_packed += op.packed != 0;
    n_long += op.n_rows > 16;
    put_memory(r, &start);
    rig_ok(engine_table[instr->opcode](&r->core, instr, r->slot_base, 0));
    get_memory(r, &general);
    put_memory(r, &start);
    small_context c = small_context_of(&r->core, r->slot_base);
    for (int row = 0; row < op.n_rows; row++)
        op.run(&op, &c, row);
    get_memory(r, &compact);
    size_t at = first_difference((vtrn_dtype)instr->ap[0].dtype);
    if (at == sizeof general)
        return true;
    fail_msg("%s.%s.%s flags %u, %s <- %s %s %s, %u rows of %u: byte %zu differs",
             isa_op_info((vtrn_opcode)instr->opcode)->mnemonic, isa_alu_name(instr->op0),
             isa_alu_name(instr->op1), instr->flags, dtype_name(instr->ap[0].dtype),
             dtype_name(instr->ap[1].dtype), dtype_name(instr->ap[2].dtype),
             dtype_name(instr->ap[3].dtype), instr->ap[0].n_partitions, op.n, at);
    return true;
}

/* Lays the elements of a source in other ways: one over and over, apart, or in two loops. Those of
 * dst stay apart from each other. */
static void strew(vtrn_ap *ap, bool is_dst) {
    uint32_t n = ap->dim[0].num, kind = rig_below(&seed, 4);
    if (kind == 1 && !is_dst) {
        ap->dim[0].step = 0;
    } else if (kind == 2) {
        ap->dim[0].step = 2;
    } else if (kind == 3 && n % 2 == 0) {
        ap->n_dims = 2;
        ap->dim[1] = (vtrn_dim){1, n / 2};
        ap->dim[0] = (vtrn_dim){is_dst || rig_below(&seed, 2) ? (int32_t)n / 2 + 3 : 0, 2};
    }
}

/* An instruction with operands drawn at random; op0, dst's type and the turn by plan. */
static vtrn_instr draw(vtrn_opcode opcode, int op0, vtrn_dtype dst, int turn) {
    static const uint32_t sizes[] = {1, 16, 31, 64, 127, 128, 400, 512};
    static const uint32_t row_sizes[] = {1, 2, 3, 4, 7, 16, 31, 64};
    static const uint32_t rows[] = {2, 3, 16, N_ROWS};
    bool has_rows = turn % 2 == 0;
    uint32_t n_rows = has_rows ? rows[rig_below(&seed, 4)] : 1;
    uint32_t n = has_rows ? row_sizes[turn / 2 % 8] : sizes[turn / 2 % 8];
    vtrn_instr in = {.opcode = (uint16_t)opcode,
                     .engine = turn % 2 ? VTRN_ENGINE_GPSIMD : VTRN_ENGINE_VECTOR,
                     .op0 = (uint8_t)op0,
                     .op1 = VTRN_ALU_NONE,
                     .update_semaphore = VTRN_NO_SEMAPHORE};
    in.ap[0] = operand(0, 0, dst, n_rows, n);
    for (int i = 1; i < VTRN_MAX_AP; i++) {
        bool is_in_place = !rig_below(&seed, 4);
        in.ap[i] = operand(i, is_in_place ? 0 : i, is_in_place ? dst : pick_type(), n_rows, n);
        if (is_in_place)
            in.ap[i].partition = in.ap[0].partition;
        else if (turn % 4 > 1)
            strew(&in.ap[i], false);
    }
    bool is_anywhere = true; /* no operand is dst */
    for (int i = 1; i < VTRN_MAX_AP; i++)
        is_anywhere &= in.ap[i].addr != in.ap[0].addr;
    if (turn % 4 > 1 && is_anywhere)
        strew(&in.ap[0], true);
    in.flags = (rig_below(&seed, 2) ? VTRN_FLAG_REVERSE0 : 0) |
               (rig_below(&seed, 2) ? VTRN_FLAG_REVERSE1 : 0);
    for (int i = 0; i < 2; i++) {
        in.imm[i].f = (float)((int)rig_below(&seed, 200) - 100) / 8;
        if (!rig_below(&seed, 3))
            in.imm[i].bits = rig_below(&seed, 32);
    }
    return in;
}

static void make_scalar(vtrn_ap *ap, bool is_absent) {
    ap->n_dims = 1;
    ap->dim[0].num = 1;
    if (is_absent)
        *ap = (vtrn_ap){0};
}

/* Draws instructions of an opcode with an operation; says how many had a compact form. */
static int compare_some(rig *r, vtrn_opcode opcode, int op0) {
    int n = 0;
    for (int t = 0; t < N_TYPES; t++)
        for (int turn = 0; turn < N_TURNS; turn++) {
            vtrn_instr in = draw(opcode, op0, types[t], turn);
            bool has_second = opcode == VTRN_OP_SCALAR_TENSOR_TENSOR || turn % 4 == 1;
            if (opcode != VTRN_OP_TENSOR_TENSOR && has_second)
                in.op1 = (uint8_t)rig_below(&seed, VTRN_ALU_COUNT - 1);
            if (opcode == VTRN_OP_TENSOR_SCALAR || opcode == VTRN_OP_ACTIVATE) {
                make_scalar(&in.ap[2], turn % 3 == 1);
                make_scalar(&in.ap[3], turn % 5 > 1);
            }
            if (opcode == VTRN_OP_SCALAR_TENSOR_TENSOR)
                make_scalar(&in.ap[2], turn % 3 == 1);
            if (opcode == VTRN_OP_ACTIVATE)
                in.func = (uint8_t)op0;
            n += compare(r, &in);
        }
    return n;
}

static void every_operation_gives_the_bits_of_the_general_path(void **state) {
    (void)state;
    rig *r = rig_create(1);
    fill_start();
    int n_tt = 0, n_ts = 0, n_stt = 0, n_act = 0;
    for (int op = 0; op < VTRN_ALU_COUNT; op++) {
        if (op == VTRN_ALU_NONE)
            continue;
        n_tt += compare_some(r, VTRN_OP_TENSOR_TENSOR, op) > 0;
        n_ts += compare_some(r, VTRN_OP_TENSOR_SCALAR, op) > 0;
        n_stt += compare_some(r, VTRN_OP_SCALAR_TENSOR_TENSOR, op) > 0;
    }
    for (int f = 0; f < VTRN_ACT_COUNT; f++)
        n_act += compare_some(r, VTRN_OP_ACTIVATE, f) > 0;
    assert_int_equal(n_tt, VTRN_ALU_COUNT - 1);
    assert_int_equal(n_ts, VTRN_ALU_COUNT - 1);
    assert_true(n_stt > VTRN_ALU_COUNT / 2); /* not those on bits */
    assert_int_equal(n_act, VTRN_ACT_COUNT);
    static const vtrn_opcode others[] = {VTRN_OP_RECIPROCAL, VTRN_OP_TENSOR_COPY, VTRN_OP_MEMSET,
                                         VTRN_OP_COPY_PREDICATED};
    for (int i = 0; i < 4; i++)
        assert_true(compare_some(r, others[i], VTRN_ALU_NONE) > 0);
    assert_true(n_packed > 2000);
    assert_true(n_long > 200);
    rig_destroy(r);
}

static void copies_between_memories_are_the_same(void **state) {
    (void)state;
    rig *r = rig_create(1);
    fill_start();
    rig_add_slot(r, HBM_AREA_BYTES / 2);
    rig_add_slot(r, HBM_AREA_BYTES / 2);
    int n = 0, n_folded = 0;
    for (int turn = 0; turn < 600; turn++) {
        vtrn_instr in = draw(VTRN_OP_DMA_COPY, VTRN_ALU_NONE, pick_type(), turn);
        in.flags = 0;
        if (turn % 3)
            in.ap[1].dtype = in.ap[0].dtype;
        in.ap[1].space = VTRN_SPACE_SBUF;
        in.ap[2] = in.ap[3] = (vtrn_ap){0};
        for (int i = 0; i < 2; i++)
            if (turn >> i & 1) {
                in.ap[i].space = VTRN_SPACE_HBM;
                in.ap[i].partition = 0;
                in.ap[i].slot = (uint32_t)i;
                in.ap[i].addr = turn % 8 ? 4 * rig_below(&seed, 16) : rig_below(&seed, 64);
                in.ap[i].partition_step = 600;
            }
        if (turn % 8 == 6 && in.ap[0].n_partitions % 2 == 0) { /* a row serves two partitions */
            vtrn_ap *hbm = &in.ap[1];
            hbm->n_dims = 2;
            hbm->dim[1] = (vtrn_dim){turn % 16 == 6 ? 1 : 2, (uint32_t)isa_ap_free_size(&in.ap[0])};
            hbm->dim[0] = (vtrn_dim){200, 2};
            hbm->n_partitions /= 2;
            n_folded += compare(r, &in);
        }
        n += compare(r, &in);
    }
    assert_true(n > 400);
    assert_true(n_folded > 10);
    rig_destroy(r);
}

static vtrn_ap random_row(void) {
    static const vtrn_dtype sizes[] = {VTRN_DTYPE_FP32, VTRN_DTYPE_BF16, VTRN_DTYPE_UINT8};
    vtrn_ap ap = {.space = VTRN_SPACE_SBUF,
                  .dtype = (uint8_t)sizes[rig_below(&seed, 3)],
                  .n_dims = (uint8_t)(1 + rig_below(&seed, 3)),
                  .n_partitions = 1,
                  .partition_step = 1,
                  .addr = 512 + 4 * rig_below(&seed, 8)};
    for (int d = 0; d < ap.n_dims; d++)
        ap.dim[d] = (vtrn_dim){(int32_t)rig_below(&seed, 13) - 4, 1 + rig_below(&seed, 4)};
    if (rig_below(&seed, 2))
        ap.dim[ap.n_dims - 1].step = rig_below(&seed, 4) ? 1 : -1;
    return ap;
}

/* Sets a mark at each byte of the row that the operand names. */
static void mark_bytes(const vtrn_ap *ap, uint8_t marks[1024]) {
    const size_t size = dtype_size((vtrn_dtype)ap->dtype);
    uint32_t n = 1;
    for (int d = 0; d < ap->n_dims; d++)
        n *= ap->dim[d].num;
    for (uint32_t i = 0; i < n; i++) {
        int64_t at = ap->addr;
        for (uint32_t d = ap->n_dims, left = i; d-- > 0; left /= ap->dim[d].num)
            at += left % ap->dim[d].num * (int64_t)ap->dim[d].step * (int64_t)size;
        memset(marks + at, 1, size);
    }
}

static void operands_cross_where_they_share_bytes(void **state) {
    (void)state;
    int n_interleaved = 0;
    for (int round = 0; round < 20000; round++) {
        vtrn_instr in = {.ap = {random_row(), random_row()}};
        uint8_t to[1024] = {0}, from[1024] = {0};
        int64_t lo[2], hi[2];
        bool shares = false;
        mark_bytes(&in.ap[0], to);
        mark_bytes(&in.ap[1], from);
        for (int i = 0; i < 1024; i++)
            shares |= to[i] && from[i];
        for (int i = 0; i < 2; i++)
            isa_ap_extent(&in.ap[i], &lo[i], &hi[i]);
        bool crosses = engine_crossed(&in);
        if (shares && !isa_ap_is_same(&in.ap[0], &in.ap[1]))
            assert_true(crosses);
        n_interleaved +=
            !crosses && lo[0] < hi[1] && lo[1] < hi[0] && !isa_ap_is_same(&in.ap[0], &in.ap[1]);
    }
    assert_true(n_interleaved > 50); /* what is tested does happen */
}

int main(void) {
    seed = test_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operation_gives_the_bits_of_the_general_path),
        cmocka_unit_test(copies_between_memories_are_the_same),
        cmocka_unit_test(operands_cross_where_they_share_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
