/* DMA against plain loops over a copy of the memories: random shapes, spaces and data types. */
#include "rig.h"

#include "test_seed.h"

#include <math.h>

enum { ROW_BYTES = 16384, SLOT_BYTES = 1 << 20, N_ROUNDS = 80 };

static uint64_t seed;

/* The memories before the instruction, on which the plain loops work. */
static uint8_t hbm_copy[2 * SLOT_BYTES];
static uint8_t sbuf_copy[128][ROW_BYTES];

static uint8_t *at(rig *r, const vtrn_ap *ap, bool in_copy, int64_t row, uint64_t i) {
    int64_t size = (int64_t)dtype_size((vtrn_dtype)ap->dtype), offset = ap->addr;
    for (int d = ap->n_dims - 1; d >= 0; d--) {
        offset += (int64_t)(i % ap->dim[d].num) * ap->dim[d].step * size;
        i /= ap->dim[d].num;
    }
    if (ap->space == VTRN_SPACE_HBM) {
        offset += row * ap->partition_step * size + (int64_t)r->slot_base[ap->slot];
        return in_copy ? hbm_copy + offset : r->hbm + offset;
    }
    int64_t partition = ap->partition + row * ap->partition_step;
    return in_copy ? sbuf_copy[partition] + offset
                   : r->core.sbuf.base + partition * (int64_t)r->core.sbuf.stride + offset;
}

static float bf16_value(const uint8_t *p) {
    uint32_t bits = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 24;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static double plain_load(const uint8_t *p, int dtype) {
    float f;
    int32_t i;
    switch (dtype) {
    case VTRN_DTYPE_FP32:
        memcpy(&f, p, 4);
        return f;
    case VTRN_DTYPE_INT32:
        memcpy(&i, p, 4);
        return (double)(float)i;
    case VTRN_DTYPE_BF16:
        return bf16_value(p);
    default:
        return (double)(int8_t)*p;
    }
}

/* Values in these tests are never NaN and saturate in int8 only. */
static void plain_store(uint8_t *p, int dtype, double value) {
    float f = (float)value;
    int32_t i = (int32_t)nearbyintf(f);
    uint32_t bits;
    switch (dtype) {
    case VTRN_DTYPE_FP32:
        memcpy(p, &f, 4);
        return;
    case VTRN_DTYPE_INT32:
        memcpy(p, &i, 4);
        return;
    case VTRN_DTYPE_BF16:
        memcpy(&bits, &f, 4);
        bits = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        memcpy(p, &bits, 2);
        return;
    default:
        *p = (uint8_t)(int8_t)(i > 127 ? 127 : i < -128 ? -128 : i);
    }
}

static void randomise_ap(rig *r, const vtrn_ap *ap, int64_t n_rows) {
    uint64_t n = isa_ap_free_size(ap);
    for (int64_t row = 0; row < n_rows; row++)
        for (uint64_t i = 0; i < n; i++)
            plain_store(at(r, ap, false, row, i), ap->dtype,
                        (double)((int)rig_below(&seed, 101) - 50) /
                            (ap->dtype == VTRN_DTYPE_FP32 ? 4 : 1));
}

static void take_copy(rig *r) {
    memcpy(hbm_copy, r->hbm, sizeof hbm_copy);
    for (int p = 0; p < 128; p++)
        memcpy(sbuf_copy[p], r->core.sbuf.base + (size_t)p * r->core.sbuf.stride, ROW_BYTES);
}

static void expect_equal_memories(rig *r, int round) {
    bool is_equal = memcmp(hbm_copy, r->hbm, sizeof hbm_copy) == 0;
    for (size_t i = 0; !is_equal && i < sizeof hbm_copy; i++)
        if (hbm_copy[i] != r->hbm[i])
            fail_msg("round %d: HBM byte %zu is %d, not %d", round, i, r->hbm[i], hbm_copy[i]);
    for (int p = 0; p < 128; p++) {
        const uint8_t *row = r->core.sbuf.base + (size_t)p * r->core.sbuf.stride;
        is_equal = memcmp(sbuf_copy[p], row, ROW_BYTES) == 0;
        for (size_t i = 0; !is_equal && i < ROW_BYTES; i++)
            if (sbuf_copy[p][i] != row[i])
                fail_msg("round %d: SBUF partition %d byte %zu is %d, not %d", round, p, i, row[i],
                         sbuf_copy[p][i]);
    }
}

/* n = product of up to 4 factors, in a random cut. */
static int random_cut(uint32_t n, uint32_t out[4]) {
    int n_dims = 1 + (int)rig_below(&seed, 4);
    for (int i = 0; i < n_dims; i++) {
        uint32_t take = 1;
        for (uint32_t f = 2; i < n_dims - 1 && f <= n; f++)
            if (n % f == 0 && rig_below(&seed, 2)) {
                take = f;
                break;
            }
        out[i] = i == n_dims - 1 ? n : take;
        n /= out[i];
    }
    return n_dims;
}

/* Steps so that no two elements of a row meet: dims nested in a random order with random gaps. For
 * HBM the row dimension is nested among them. */
static vtrn_ap random_ap(int space, uint32_t slot, int dtype, int n_rows, uint32_t n_elements,
                         bool is_source) {
    vtrn_ap ap = {.space = (uint8_t)space,
                  .dtype = (uint8_t)dtype,
                  .slot = slot,
                  .n_partitions = (uint16_t)n_rows,
                  .partition_step = 1};
    uint32_t cut[4];
    ap.n_dims = (uint8_t)random_cut(n_elements, cut);
    if (n_elements == 1 && rig_below(&seed, 2))
        ap.n_dims = 0;
    int order[5], n_loops = ap.n_dims + (space == VTRN_SPACE_HBM);
    for (int i = 0; i < n_loops; i++)
        order[i] = i; /* innermost first: dim n_dims-1 .. 0, then the row */
    for (int i = n_loops - 1; i > 0 && rig_below(&seed, 2); i--) {
        int k = (int)rig_below(&seed, (uint32_t)i + 1), t = order[i];
        order[i] = order[k];
        order[k] = t;
    }
    int64_t step = 1, low = 0;
    for (int i = 0; i < n_loops; i++) {
        bool is_row = order[i] == ap.n_dims;
        int d = ap.n_dims - 1 - order[i];
        int64_t num = is_row ? n_rows : cut[d];
        int64_t s = rig_below(&seed, 6) ? step : -step;
        if (is_source && rig_below(&seed, 12) == 0)
            s = 0;
        if (is_row)
            ap.partition_step = s;
        else
            ap.dim[d] = (vtrn_dim){(int32_t)s, (uint32_t)num};
        low += s < 0 ? s * (num - 1) : 0;
        step = step * num + (rig_below(&seed, 2) ? rig_below(&seed, 3) : 0);
    }
    ap.addr = (-low + rig_below(&seed, 5)) * (int64_t)dtype_size((vtrn_dtype)dtype);
    if (space == VTRN_SPACE_SBUF) {
        bool is_broadcast = is_source && rig_below(&seed, 8) == 0;
        ap.partition_step = !is_broadcast;
        ap.partition = (uint16_t)rig_below(&seed, 129 - (uint32_t)(is_broadcast ? 1 : n_rows));
    }
    return ap;
}

static bool fits(const vtrn_ap *ap, int64_t n_rows) {
    vtrn_ap all = *ap;
    int64_t lo, hi;
    all.n_partitions = (uint16_t)n_rows;
    isa_ap_extent(&all, &lo, &hi);
    return hi <= (ap->space == VTRN_SPACE_HBM ? SLOT_BYTES : ROW_BYTES);
}

static const int dtypes[] = {VTRN_DTYPE_FP32, VTRN_DTYPE_BF16, VTRN_DTYPE_INT32, VTRN_DTYPE_INT8};

/* Element i of a row of an operand. */
typedef struct element {
    const vtrn_ap *ap;
    int64_t row;
    uint64_t i;
} element;

/* The source is read as it was before the instruction. */
static void plain_copy_element(rig *r, const vtrn_instr *in, element to_element,
                               element from_element) {
    const vtrn_ap *dst = to_element.ap, *src = from_element.ap;
    uint8_t *to = at(r, dst, true, to_element.row, to_element.i);
    const uint8_t *from = at(r, src, false, from_element.row, from_element.i);
    if (in->flags & VTRN_FLAG_ACCUMULATE)
        plain_store(to, dst->dtype, plain_load(to, dst->dtype) + plain_load(from, src->dtype));
    else if (dst->dtype == src->dtype)
        memcpy(to, from, dtype_size((vtrn_dtype)dst->dtype));
    else
        plain_store(to, dst->dtype, plain_load(from, src->dtype));
}

static rig *rig_with_slots(int n_threads) {
    rig *r = rig_create(n_threads);
    rig_add_slot(r, SLOT_BYTES);
    rig_add_slot(r, SLOT_BYTES);
    return r;
}

static void copies_of_any_shape_match_plain_loops(void **state) {
    (void)state;
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        rig *r = rig_with_slots(n_threads);
        for (int round = 0; round < N_ROUNDS; round++) {
            rig_clear(r);
            int n_rows = 1 + (int)rig_below(&seed, 128);
            uint32_t n = 1 + rig_below(&seed, rig_below(&seed, 4) ? 64 : 1500);
            int dtype = dtypes[round % 4];
            bool is_cast = rig_below(&seed, 3) == 0;
            vtrn_instr *in = rig_add(r, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC);
            do {
                in->ap[0] = random_ap(rig_below(&seed, 2) ? VTRN_SPACE_SBUF : VTRN_SPACE_HBM, 0,
                                      dtype, n_rows, n, false);
                in->ap[1] =
                    random_ap(rig_below(&seed, 2) ? VTRN_SPACE_SBUF : VTRN_SPACE_HBM, 1,
                              is_cast ? dtypes[rig_below(&seed, 4)] : dtype, n_rows, n, true);
                /* keep clear of each other in SBUF */
                if (in->ap[1].space == VTRN_SPACE_SBUF)
                    in->ap[1].addr += ROW_BYTES / 2;
                n = 1 + rig_below(&seed, n);
            } while (!fits(&in->ap[0], n_rows) || !fits(&in->ap[1], n_rows) ||
                     isa_ap_free_size(&in->ap[0]) != isa_ap_free_size(&in->ap[1]));
            if (in->ap[0].space == VTRN_SPACE_SBUF && in->ap[1].space == VTRN_SPACE_SBUF) {
                int64_t lo, hi;
                isa_ap_extent(&in->ap[0], &lo, &hi);
                if (hi > ROW_BYTES / 2)
                    continue;
            }
            in->flags = rig_below(&seed, 4) ? 0 : VTRN_FLAG_ACCUMULATE;
            randomise_ap(r, &in->ap[0], n_rows);
            randomise_ap(r, &in->ap[1], n_rows);
            take_copy(r);
            uint64_t n_row = isa_ap_free_size(&in->ap[0]);
            for (int row = 0; row < n_rows; row++)
                for (uint64_t i = 0; i < n_row; i++)
                    plain_copy_element(r, in, (element){&in->ap[0], row, i},
                                       (element){&in->ap[1], row, i});
            rig_ok(rig_run(r));
            expect_equal_memories(r, round);
        }
        rig_destroy(r);
    }
}

/* A pattern in HBM whose outer dims count partitions, and one in SBUF for as many. */
static int random_folded_pair(vtrn_ap *hbm, vtrn_ap *sbuf, int dtype, bool is_load, bool is_cast) {
    for (;;) {
        int n_rows = 1 + (int)rig_below(&seed, 12);
        *hbm = random_ap(VTRN_SPACE_HBM, 0, dtype, n_rows, 1 + rig_below(&seed, 2000), is_load);
        if (hbm->n_dims == 0)
            continue;
        int n_row_dims = 1 + (int)rig_below(&seed, hbm->n_dims);
        uint32_t per_row = 1;
        for (int d = 0; d < n_row_dims; d++)
            per_row *= hbm->dim[d].num;
        if (per_row == 1 || per_row * (uint32_t)n_rows > 128 || !fits(hbm, n_rows))
            continue;
        *sbuf =
            random_ap(VTRN_SPACE_SBUF, 0, is_cast ? dtypes[rig_below(&seed, 4)] : dtype,
                      n_rows * (int)per_row, (uint32_t)isa_ap_free_size(hbm) / per_row, !is_load);
        if (fits(sbuf, sbuf->n_partitions))
            return (int)per_row;
    }
}

static void a_row_in_hbm_may_serve_several_partitions(void **state) {
    (void)state;
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        rig *r = rig_with_slots(n_threads);
        for (int round = 0; round < N_ROUNDS; round++) {
            rig_clear(r);
            vtrn_instr *in = rig_add(r, VTRN_OP_DMA_COPY, VTRN_ENGINE_SYNC);
            bool is_load = rig_below(&seed, 2);
            vtrn_ap *hbm = &in->ap[is_load], *sbuf = &in->ap[!is_load];
            int per_row =
                random_folded_pair(hbm, sbuf, dtypes[round % 4], is_load, rig_below(&seed, 3) == 0);
            in->flags = rig_below(&seed, 4) ? 0 : VTRN_FLAG_ACCUMULATE;
            randomise_ap(r, hbm, hbm->n_partitions);
            randomise_ap(r, sbuf, sbuf->n_partitions);
            take_copy(r);
            uint64_t n = isa_ap_free_size(sbuf);
            for (int row = 0; row < sbuf->n_partitions; row++)
                for (uint64_t i = 0; i < n; i++) {
                    int far_row = row / per_row;
                    uint64_t far_i = (uint64_t)(row % per_row) * n + i;
                    plain_copy_element(
                        r, in, (element){&in->ap[0], is_load ? row : far_row, is_load ? i : far_i},
                        (element){&in->ap[1], is_load ? far_row : row, is_load ? far_i : i});
                }
            rig_ok(rig_run(r));
            expect_equal_memories(r, round);
        }
        rig_destroy(r);
    }
}

static void transposes_of_any_shape_match_plain_loops(void **state) {
    (void)state;
    static const int types[] = {VTRN_DTYPE_FP32, VTRN_DTYPE_BF16, VTRN_DTYPE_INT32};
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        rig *r = rig_with_slots(n_threads);
        for (int round = 0; round < N_ROUNDS; round++) {
            rig_clear(r);
            int n_rows = 1 + (int)rig_below(&seed, 128), n = 1 + (int)rig_below(&seed, 128);
            int dtype = types[round % 3];
            vtrn_instr *in = rig_add(r, VTRN_OP_DMA_TRANSPOSE, VTRN_ENGINE_SYNC);
            do {
                in->ap[0] = random_ap(rig_below(&seed, 2) ? VTRN_SPACE_SBUF : VTRN_SPACE_HBM, 0,
                                      dtype, n, (uint32_t)n_rows, false);
                in->ap[1] = random_ap(rig_below(&seed, 2) ? VTRN_SPACE_SBUF : VTRN_SPACE_HBM, 1,
                                      dtype, n_rows, (uint32_t)n, true);
                if (in->ap[1].space == VTRN_SPACE_SBUF)
                    in->ap[1].addr += ROW_BYTES / 2;
            } while (!fits(&in->ap[0], n) || !fits(&in->ap[1], n_rows));
            randomise_ap(r, &in->ap[0], n);
            randomise_ap(r, &in->ap[1], n_rows);
            take_copy(r);
            for (int row = 0; row < n; row++)
                for (int i = 0; i < n_rows; i++)
                    plain_copy_element(r, in, (element){&in->ap[0], row, (uint64_t)i},
                                       (element){&in->ap[1], i, (uint64_t)row});
            rig_ok(rig_run(r));
            expect_equal_memories(r, round);
        }
        rig_destroy(r);
    }
}

/* An indexed tensor of n_table rows in HBM slot 1, indices in slot 0 or SBUF. */
static vtrn_instr *random_indexed(rig *r, vtrn_opcode opcode, int round) {
    bool is_gather = opcode == VTRN_OP_DMA_GATHER;
    int n_rows = 1 + (int)rig_below(&seed, 128), n_table = 1 + (int)rig_below(&seed, 40);
    uint32_t n = 1 + rig_below(&seed, 40);
    int dtype = dtypes[round / 2 % 4]; /* every other round is a gather */
    vtrn_instr *in = rig_add(r, opcode, VTRN_ENGINE_GPSIMD);
    in->arg[1] = n_table;
    vtrn_ap *table = &in->ap[is_gather ? 1 : 0], *rows = &in->ap[is_gather ? 0 : 1];
    do
        *table = random_ap(VTRN_SPACE_HBM, 1, dtype, n_table, n, false);
    while (!fits(table, n_table));
    table->n_partitions = (uint16_t)n_rows;
    const bool is_in_hbm = rig_below(&seed, 3) == 0;
    do
        *rows =
            random_ap(is_in_hbm ? VTRN_SPACE_HBM : VTRN_SPACE_SBUF, 0,
                      rig_below(&seed, 3) ? dtype : dtypes[rig_below(&seed, 4)], n_rows, n, false);
    while (!fits(rows, n_rows));
    if (!is_in_hbm)
        rows->partition_step = 1;
    if (!is_in_hbm && rows->partition + n_rows > 128)
        rows->partition = 0;
    if (!is_in_hbm && rig_below(&seed, 2))
        in->ap[2] = (vtrn_ap){.space = VTRN_SPACE_HBM,
                              .dtype = VTRN_DTYPE_INT32,
                              .n_partitions = (uint16_t)n_rows,
                              .partition_step = 1};
    else
        in->ap[2] = (vtrn_ap){.space = VTRN_SPACE_SBUF,
                              .dtype = VTRN_DTYPE_INT32,
                              .n_partitions = (uint16_t)n_rows,
                              .partition_step = 1,
                              .partition = (uint16_t)rig_below(&seed, 129 - (uint32_t)n_rows),
                              .addr = ROW_BYTES - 4};
    in->flags = round % 3 == 0 ? VTRN_FLAG_OOB_SKIP : VTRN_FLAG_CLAMP_INDEX;
    randomise_ap(r, table, n_table);
    randomise_ap(r, rows, n_rows);
    for (int i = 0; i < n_rows; i++) {
        int32_t index = (int32_t)rig_below(&seed, (uint32_t)n_table + 6) - 3;
        memcpy(at(r, &in->ap[2], false, i, 0), &index, 4);
    }
    return in;
}

/* -1: skip */
static int64_t plain_index(rig *r, const vtrn_instr *in, int row) {
    int32_t index;
    memcpy(&index, at(r, &in->ap[2], true, row, 0), 4);
    if (index >= 0 && index < in->arg[1])
        return index;
    if (in->flags & VTRN_FLAG_OOB_SKIP)
        return -1;
    return index < 0 ? 0 : in->arg[1] - 1;
}

static void gathers_and_scatters_match_plain_loops(void **state) {
    (void)state;
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        rig *r = rig_with_slots(n_threads);
        for (int round = 0; round < N_ROUNDS; round++) {
            rig_clear(r);
            bool is_gather = round % 2;
            vtrn_instr *in =
                random_indexed(r, is_gather ? VTRN_OP_DMA_GATHER : VTRN_OP_DMA_SCATTER, round);
            if (round % 5 == 0)
                in->flags |= VTRN_FLAG_ACCUMULATE;
            take_copy(r);
            int n_rows = in->ap[is_gather ? 0 : 1].n_partitions;
            uint64_t n = isa_ap_free_size(&in->ap[0]);
            for (int row = 0; row < n_rows; row++) {
                int64_t index = plain_index(r, in, row);
                for (uint64_t i = 0; index >= 0 && i < n; i++)
                    plain_copy_element(r, in, (element){&in->ap[0], is_gather ? row : index, i},
                                       (element){&in->ap[1], is_gather ? index : row, i});
            }
            rig_ok(rig_run(r));
            expect_equal_memories(r, round);
        }
        rig_destroy(r);
    }
}

/* A copy, or a transpose, whose sides are in one tensor or in the same partitions and mostly meet.
 * False: none was found. */
static bool random_across(vtrn_instr *in, int round) {
    const int space = rig_below(&seed, 3) ? VTRN_SPACE_HBM : VTRN_SPACE_SBUF;
    bool is_transpose = in->opcode == VTRN_OP_DMA_TRANSPOSE;
    int n_rows = 1 + (int)rig_below(&seed, rig_below(&seed, 2) ? 16 : 100);
    uint32_t n = 1 + rig_below(&seed, rig_below(&seed, 2) ? 16 : 100);
    int dtype = dtypes[round % 3], from = dtype;
    if (dtype == VTRN_DTYPE_INT32 && !is_transpose) /* whose bits may be any, as those of int8 */
        from = rig_below(&seed, 2) ? dtype : VTRN_DTYPE_INT8;
    vtrn_ap *dst = &in->ap[0], *src = &in->ap[1];
    *dst = random_ap(space, 0, dtype, is_transpose ? (int)n : n_rows,
                     is_transpose ? (uint32_t)n_rows : n, false);
    *src = random_ap(space, 0, from, n_rows, n, true);
    if (rig_below(&seed, 2) && !is_transpose) { /* the same pattern, a little further */
        *src = *dst;
        src->addr += (int64_t)rig_below(&seed, 3 * n) * (int64_t)dtype_size((vtrn_dtype)dtype);
        src->partition = (uint16_t)(space == VTRN_SPACE_HBM ? 0 : rig_below(&seed, 129 - n_rows));
    }
    return fits(dst, dst->n_partitions) && fits(src, src->n_partitions);
}

static void transfers_across_themselves_read_before_they_write(void **state) {
    (void)state;
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        rig *r = rig_with_slots(n_threads);
        for (int round = 0; round < 4 * N_ROUNDS; round++) {
            rig_clear(r);
            bool is_transpose = round % 4 == 0;
            vtrn_instr *in = rig_add(r, is_transpose ? VTRN_OP_DMA_TRANSPOSE : VTRN_OP_DMA_COPY,
                                     VTRN_ENGINE_SYNC);
            while (!random_across(in, round))
                ;
            in->flags = is_transpose || rig_below(&seed, 4) ? 0 : VTRN_FLAG_ACCUMULATE;
            randomise_ap(r, &in->ap[0], in->ap[0].n_partitions);
            randomise_ap(r, &in->ap[1], in->ap[1].n_partitions);
            take_copy(r);
            uint64_t n = isa_ap_free_size(&in->ap[0]);
            for (int row = 0; row < in->ap[0].n_partitions; row++)
                for (uint64_t i = 0; i < n; i++)
                    plain_copy_element(r, in, (element){&in->ap[0], row, i},
                                       (element){&in->ap[1], is_transpose ? (int64_t)i : row,
                                                 is_transpose ? (uint64_t)row : i});
            rig_ok(rig_run(r));
            expect_equal_memories(r, round);
        }
        rig_destroy(r);
    }
}

/* Rows of one tensor, chosen by number, to others of it. */
static void rows_of_a_tensor_are_gathered_and_scattered_within_it(void **state) {
    (void)state;
    enum { N_ROWS = 40, N_COLUMNS = 33, N_MOVED = 24 };
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        rig *r = rig_with_slots(n_threads);
        for (int round = 0; round < N_ROUNDS; round++) {
            rig_clear(r);
            bool is_gather = round % 2;
            vtrn_instr *in = rig_add(r, is_gather ? VTRN_OP_DMA_GATHER : VTRN_OP_DMA_SCATTER,
                                     VTRN_ENGINE_GPSIMD);
            vtrn_ap *table = &in->ap[is_gather], *rows = &in->ap[!is_gather];
            *table = (vtrn_ap){.space = VTRN_SPACE_HBM,
                               .dtype = VTRN_DTYPE_FP32,
                               .n_dims = 1,
                               .n_partitions = N_MOVED,
                               .partition_step = N_COLUMNS,
                               .dim = {{1, N_COLUMNS}}};
            *rows = *table;
            rows->addr = (int64_t)rig_below(&seed, N_COLUMNS * N_MOVED / 2) * 4;
            in->ap[2] = (vtrn_ap){.space = VTRN_SPACE_SBUF,
                                  .dtype = VTRN_DTYPE_INT32,
                                  .n_partitions = N_MOVED,
                                  .partition_step = 1};
            in->arg[1] = N_ROWS;
            randomise_ap(r, table, N_ROWS);
            for (int row = 0; row < N_MOVED; row++) { /* a scatter to a row twice has an order */
                int32_t index = row < 8 ? N_ROWS - 1 - row : (int32_t)rig_below(&seed, N_ROWS);
                memcpy(at(r, &in->ap[2], false, row, 0), &index, 4);
            }
            take_copy(r);
            for (int row = 0; row < N_MOVED; row++) {
                int64_t index = plain_index(r, in, row);
                for (uint64_t i = 0; i < N_COLUMNS; i++)
                    plain_copy_element(r, in, (element){&in->ap[0], is_gather ? row : index, i},
                                       (element){&in->ap[1], is_gather ? index : row, i});
            }
            rig_ok(rig_run(r));
            expect_equal_memories(r, round);
        }
        rig_destroy(r);
    }
}

static void an_index_out_of_bounds_is_an_error_that_names_the_place(void **state) {
    (void)state;
    rig *r = rig_with_slots(2);
    vtrn_instr *in = rig_add(r, VTRN_OP_DMA_GATHER, VTRN_ENGINE_GPSIMD);
    in->arg[1] = 5;
    in->ap[0] = (vtrn_ap){.space = VTRN_SPACE_SBUF,
                          .dtype = VTRN_DTYPE_FP32,
                          .n_partitions = 32,
                          .partition_step = 1};
    in->ap[1] = (vtrn_ap){.space = VTRN_SPACE_HBM,
                          .dtype = VTRN_DTYPE_FP32,
                          .n_partitions = 32,
                          .partition_step = 1,
                          .slot = 1};
    in->ap[2] = (vtrn_ap){.space = VTRN_SPACE_HBM,
                          .dtype = VTRN_DTYPE_INT32,
                          .n_partitions = 32,
                          .partition_step = 1};
    int32_t bad = 7;
    memcpy(rig_slot(r, 0) + 20 * 4, &bad, 4);
    vtrn_status status = rig_run(r);
    assert_int_equal(vtrn_status_category(status), VTRN_UNDEFINED);
    const char *message = vtrn_status_message(status);
    assert_non_null(strstr(message, "index 7 of row 20 is outside of the tensor's 5 rows"));
    assert_non_null(strstr(message, "instruction 0 (dma_gather) of stablehlo.test at model.py:42"));
    vtrn_status_free(status);
    in->flags = VTRN_FLAG_CLAMP_INDEX;
    rig_ok(rig_run(r)); /* the core stays usable */
    rig_destroy(r);
}

int main(void) {
    seed = test_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_of_any_shape_match_plain_loops),
        cmocka_unit_test(a_row_in_hbm_may_serve_several_partitions),
        cmocka_unit_test(transposes_of_any_shape_match_plain_loops),
        cmocka_unit_test(gathers_and_scatters_match_plain_loops),
        cmocka_unit_test(transfers_across_themselves_read_before_they_write),
        cmocka_unit_test(rows_of_a_tensor_are_gathered_and_scattered_within_it),
        cmocka_unit_test(an_index_out_of_bounds_is_an_error_that_names_the_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
