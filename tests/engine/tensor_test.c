/* Tensor engine against double precision, and against itself at every instruction-set level and
 * number of threads. */
#include "rig.h"

#include "base/cpu.h"
#include "test_seed.h"

#include <math.h>

enum { DST_ADDR = 64, MOVING_ADDR = 8192, PSUM_COPY_BYTES = 8192 };

static uint64_t seed;

static double element(const rig *r, const vtrn_ap *ap, int row, uint64_t i) {
    int64_t offset = 0;
    for (int d = ap->n_dims - 1; d >= 0; d--) {
        offset += (int64_t)(i % ap->dim[d].num) * ap->dim[d].step;
        i /= ap->dim[d].num;
    }
    const uint8_t *p =
        engine_row(&r->core, ap, NULL, row) + offset * (int64_t)dtype_size(ap->dtype);
    uint32_t bits;
    uint16_t half;
    float f;
    switch (ap->dtype) {
    case VTRN_DTYPE_BF16:
        memcpy(&half, p, 2);
        bits = (uint32_t)half << 16;
        memcpy(&f, &bits, 4);
        return f;
    case VTRN_DTYPE_INT8:
        return (int8_t)*p;
    case VTRN_DTYPE_TF32: /* 10 bits of mantissa: to nearest, ties to even */
        memcpy(&f, p, 4);
        return f == 0 ? 0 : ldexp(nearbyint(ldexp(f, 10 - ilogbf(f))), ilogbf(f) - 10);
    default:
        memcpy(&f, p, 4);
        return f;
    }
}

static void fill_sbuf(rig *r, int dtype, bool is_small_integers) {
    for (int p = 0; p < 128; p++) {
        uint8_t *row = r->core.sbuf.base + (size_t)p * r->core.sbuf.stride;
        for (int i = 0; i < 32768; i += 4) {
            float f = is_small_integers
                          ? (float)((int)rig_below(&seed, 17) - 8)
                          : (float)((double)rig_below(&seed, 1 << 24) / (1 << 23) - 1);
            uint32_t bits;
            memcpy(&bits, &f, 4);
            if (dtype == VTRN_DTYPE_BF16)
                bits = (bits & 0xffff0000u) | bits >> 16;
            if (dtype == VTRN_DTYPE_INT8)
                bits = (uint32_t)rig_random(&seed);
            memcpy(row + i, &bits, 4);
        }
    }
}

/* Rows of a window: adjacent elements or each second one, then a gap. */
static void make_window(vtrn_ap *ap, uint32_t n) {
    static const uint32_t widths[] = {55, 27, 14, 13, 7, 6, 5, 4, 3, 2};
    uint32_t width = n, first = rig_below(&seed, 10);
    for (uint32_t i = 0; i < 10 && width == n; i++)
        width = n % widths[(first + i) % 10] ? n : widths[(first + i) % 10];
    int32_t step = 1 + (int32_t)rig_below(&seed, 2);
    ap->dim[0] = (vtrn_dim){(int32_t)width * step + (int32_t)rig_below(&seed, 3), n / width};
    ap->dim[1] = (vtrn_dim){step, width};
}

static vtrn_ap strided_ap(int space, int dtype, int n_rows, uint32_t n, int64_t addr,
                          bool is_dense) {
    vtrn_ap ap = {.space = (uint8_t)space,
                  .dtype = (uint8_t)dtype,
                  .n_dims = 1,
                  .n_partitions = (uint16_t)n_rows,
                  .partition_step = 1,
                  .addr = addr,
                  .dim = {{1, n}}};
    if (is_dense)
        return ap;
    ap.n_dims = 2;
    if (rig_below(&seed, 2)) {
        make_window(&ap, n);
        return ap;
    }
    uint32_t outer = n % 4 == 0 ? 4 : n % 3 == 0 ? 3 : 1;
    ap.dim[0] = (vtrn_dim){1, outer}; /* the outer dimension is the adjacent one */
    ap.dim[1] = (vtrn_dim){(int32_t)outer + (int32_t)rig_below(&seed, 2), n / outer};
    return ap;
}

typedef struct shape {
    int k, m, dtype, dst_dtype;
    uint32_t n;
    bool is_moving_dense, is_weights_dense, is_dst_dense, is_adding;
    int dst_partition;
} shape;

/* Every type comes once in four rounds. */
static shape random_shape(int round) {
    static const int dtypes[] = {VTRN_DTYPE_FP32, VTRN_DTYPE_BF16, VTRN_DTYPE_TF32,
                                 VTRN_DTYPE_INT8};
    shape s = {.k = 1 + (int)rig_below(&seed, 128),
               .m = 1 + (int)rig_below(&seed, 128),
               .n = 1 + rig_below(&seed, rig_below(&seed, 3) ? 100 : 512),
               .dtype = dtypes[round % 4],
               .dst_dtype = VTRN_DTYPE_FP32,
               .is_moving_dense = rig_below(&seed, 3),
               .is_weights_dense = rig_below(&seed, 3),
               .is_dst_dense = rig_below(&seed, 3),
               .is_adding = rig_below(&seed, 2)};
    if (!rig_below(&seed, 4))
        s.m = 1; /* has loops of its own */
    s.dst_partition = (int)rig_below(&seed, 129 - (uint32_t)s.m);
    if (rig_below(&seed, 2))
        s.dst_partition = 0;
    return s;
}

static vtrn_instr *add_product(rig *r, const shape *s) {
    vtrn_instr *load = rig_add(r, VTRN_OP_LDWEIGHTS, VTRN_ENGINE_TENSOR);
    load->ap[1] =
        strided_ap(VTRN_SPACE_SBUF, s->dtype, s->k, (uint32_t)s->m, 0, s->is_weights_dense);
    vtrn_instr *in = rig_add(r, VTRN_OP_MATMUL, VTRN_ENGINE_TENSOR);
    in->ap[0] = strided_ap(VTRN_SPACE_PSUM, s->dst_dtype, s->m, s->n, DST_ADDR, s->is_dst_dense);
    in->ap[0].partition = (uint16_t)s->dst_partition;
    in->ap[1] = strided_ap(VTRN_SPACE_SBUF, s->dtype, s->k, s->n, MOVING_ADDR, s->is_moving_dense);
    in->flags = s->is_adding ? VTRN_FLAG_ACCUMULATE : 0;
    return in;
}

static void fill_psum(rig *r, float value) {
    for (int p = 0; p < 128; p++)
        for (int i = 0; i < RIG_PSUM_BYTES / 4; i++)
            ((float *)(r->core.psum.base + (size_t)p * r->core.psum.stride))[i] = value;
}

static void products_match_double_precision_within_the_bound_of_fp32(void **state) {
    (void)state;
    rig *r = rig_create(2);
    for (int round = 0; round < 60; round++) {
        shape s = random_shape(round);
        bool is_exact = round / 4 % 2;
        rig_clear(r);
        fill_sbuf(r, s.dtype, is_exact);
        fill_psum(r, 3);
        vtrn_instr *in = add_product(r, &s);
        const vtrn_ap *weights = &in[-1].ap[1];
        rig_ok(rig_run(r));
        is_exact |= s.dtype == VTRN_DTYPE_INT8; /* products below 2^24 / 128 */
        for (int m = 0; m < s.m; m++)
            for (uint32_t i = 0; i < s.n; i++) {
                double sum = 0, magnitude = 0;
                for (int k = 0; k < s.k; k++) {
                    double term =
                        element(r, weights, k, (uint64_t)m) * element(r, &in->ap[1], k, i);
                    sum += term;
                    magnitude += fabs(term);
                }
                double expected = s.is_adding ? sum + 3 : sum;
                double bound = is_exact ? 0 : (s.k + 2) * 0x1p-24 * (magnitude + 3);
                double got = element(r, &in->ap[0], m, i);
                if (!(fabs(got - expected) <= bound))
                    fail_msg("round %d: k %d m %d n %u %s: element (%d, %u) is %.9g, not %.9g",
                             round, s.k, s.m, s.n, dtype_name((vtrn_dtype)s.dtype), m, i, got,
                             expected);
            }
    }
    rig_destroy(r);
}

static void levels_and_thread_numbers_give_equal_bits_and_touch_nothing_else(void **state) {
    (void)state;
    static uint8_t expected[128][RIG_PSUM_BYTES];
    cpu_level highest = cpu_level_get();
    rig *rigs[3] = {rig_create(1), rig_create(2), rig_create(3)};
    for (int round = 0; round < 20; round++) {
        shape s = random_shape(round);
        s.dst_dtype = round / 4 % 2 ? VTRN_DTYPE_BF16 : VTRN_DTYPE_FP32;
        uint64_t seed_of_round = rig_random(&seed);
        for (int variant = 0; variant < 3 * ((int)highest + 1); variant++) {
            rig *r = rigs[variant % 3];
            cpu_level level = (cpu_level)(variant / 3);
            cpu_level_set(level);
            seed = seed_of_round;
            rig_clear(r);
            fill_sbuf(r, s.dtype, false);
            fill_psum(r, 3);
            add_product(r, &s);
            rig_ok(rig_run(r));
            for (int p = 0; p < 128; p++) {
                uint8_t *row = r->core.psum.base + (size_t)p * r->core.psum.stride;
                if (variant == 0)
                    memcpy(expected[p], row, RIG_PSUM_BYTES);
                else if (memcmp(expected[p], row, RIG_PSUM_BYTES))
                    fail_msg("round %d: %s with %d threads differs in partition %d", round,
                             cpu_level_name(level), variant % 3 + 1, p);
            }
        }
    }
    cpu_level_set(highest);
    for (int i = 0; i < 3; i++)
        rig_destroy(rigs[i]);
}

static void a_product_of_one_row_has_the_bits_of_one_of_several(void **state) {
    (void)state;
    static float several[512];
    rig *r = rig_create(2);
    for (int round = 0; round < 24; round++) {
        shape s = random_shape(round % 2);
        s.is_moving_dense = s.is_dst_dense = true;
        s.dst_partition = 0;
        uint64_t seed_of_round = rig_random(&seed);
        for (s.m = 2; s.m > 0; s.m--) {
            seed = seed_of_round;
            rig_clear(r);
            fill_sbuf(r, s.dtype, false);
            fill_psum(r, 3);
            add_product(r, &s);
            rig_ok(rig_run(r));
            const uint8_t *row = r->core.psum.base + DST_ADDR;
            if (s.m > 1)
                memcpy(several, row, s.n * sizeof *several);
            else
                assert_memory_equal(several, row, s.n * sizeof *several);
        }
    }
    rig_destroy(r);
}

/* Weights of 0 and 1, about `n_ones` a column; 0: any numbers. */
static void fill_weights(rig *r, const shape *s, uint32_t n_ones) {
    const size_t size = dtype_size((vtrn_dtype)s->dtype);
    for (int k = 0; k < s->k && n_ones; k++)
        for (int m = 0; m < s->m; m++) {
            float one = rig_below(&seed, (uint32_t)s->k) < n_ones ? 1 : 0;
            uint8_t *at = r->core.sbuf.base + (size_t)k * r->core.sbuf.stride + (size_t)m * size;
            dtype_store_fp32((vtrn_dtype)s->dtype, &one, at, 1);
        }
}

/* Some numbers of the moving tile become what sums may stumble over. */
static void fill_oddities(rig *r, const shape *s, bool has_infinite) {
    static const float odd[] = {-0.0f, 0x1p-126f, -0x1p-126f, 0, 0x1p127f, -INFINITY, NAN};
    const size_t size = dtype_size((vtrn_dtype)s->dtype);
    for (int i = 0; i < 40; i++) {
        size_t k = rig_below(&seed, (uint32_t)s->k),
               at = MOVING_ADDR + rig_below(&seed, s->n) * size;
        dtype_store_fp32((vtrn_dtype)s->dtype, &odd[rig_below(&seed, has_infinite ? 7 : 5)],
                         r->core.sbuf.base + k * r->core.sbuf.stride + at, 1);
    }
}

static void panels_of_ones_and_few_columns_give_one_chain_of_multiply_adds(void **state) {
    (void)state;
    cpu_level highest = cpu_level_get();
    rig *rigs[2] = {rig_create(1), rig_create(2)};
    for (int round = 0; round < 80; round++) {
        rig *r = rigs[round % 2];
        shape s = random_shape(round / 2 % 2);
        s.n = 1 + rig_below(&seed, rig_below(&seed, 2) ? 12 : 110);
        s.is_weights_dense = s.is_moving_dense = true;
        cpu_level_set((cpu_level)rig_below(&seed, (uint32_t)highest + 1));
        rig_clear(r);
        fill_sbuf(r, s.dtype, round % 3 == 0);
        fill_psum(r, 3);
        fill_weights(r, &s, round / 4 % 4 ? 1u << rig_below(&seed, 6) : 0);
        fill_oddities(r, &s, round % 5 == 0);
        vtrn_instr *in = add_product(r, &s);
        rig_ok(rig_run(r));
        for (int m = 0; m < s.m; m++)
            for (uint32_t i = 0; i < s.n; i++) {
                float sum = 0, got = (float)element(r, &in->ap[0], m, i);
                for (int k = 0; k < s.k; k++)
                    sum = fmaf((float)element(r, &in[-1].ap[1], k, (uint64_t)m),
                               (float)element(r, &in->ap[1], k, i), sum);
                sum = s.is_adding ? 3 + sum : sum;
                if (memcmp(&sum, &got, sizeof sum) && !(isnan(sum) && isnan(got)))
                    fail_msg("round %d: k %d m %d n %u %s: element (%d, %u) is %a, not %a", round,
                             s.k, s.m, s.n, dtype_name((vtrn_dtype)s.dtype), m, i, got, sum);
            }
    }
    cpu_level_set(highest);
    rig_destroy(rigs[0]);
    rig_destroy(rigs[1]);
}

static void transposes_keep_every_bit(void **state) {
    (void)state;
    static const int dtypes[] = {VTRN_DTYPE_FP32, VTRN_DTYPE_BF16, VTRN_DTYPE_INT8};
    rig *r = rig_create(3);
    for (int round = 0; round < 40; round++) {
        int dtype = dtypes[round % 3], rows = 1 + (int)rig_below(&seed, 128);
        uint32_t columns = 1 + rig_below(&seed, 128);
        size_t size = dtype_size((vtrn_dtype)dtype);
        rig_clear(r);
        vtrn_instr *in = rig_add(r, VTRN_OP_PE_TRANSPOSE, VTRN_ENGINE_TENSOR);
        in->ap[0] = strided_ap(VTRN_SPACE_PSUM, dtype, (int)columns, (uint32_t)rows, 0, true);
        in->ap[1] = strided_ap(VTRN_SPACE_SBUF, dtype, rows, columns, 0, true);
        for (int p = 0; p < rows; p++)
            for (size_t i = 0; i < columns * size; i++) /* NaN patterns among them */
                r->core.sbuf.base[(size_t)p * r->core.sbuf.stride + i] = (uint8_t)rig_random(&seed);
        rig_ok(rig_run(r));
        for (int p = 0; p < rows; p++)
            for (uint32_t f = 0; f < columns; f++)
                assert_memory_equal(
                    r->core.psum.base + (size_t)f * r->core.psum.stride + (size_t)p * size,
                    r->core.sbuf.base + (size_t)p * r->core.sbuf.stride + f * size, size);
    }
    rig_destroy(r);
}

static void a_moving_tile_that_does_not_fit_the_weights_is_refused(void **state) {
    (void)state;
    rig *r = rig_create(2);
    shape s = {.k = 64,
               .m = 32,
               .n = 16,
               .dtype = VTRN_DTYPE_FP32,
               .dst_dtype = VTRN_DTYPE_FP32,
               .is_moving_dense = true,
               .is_weights_dense = true,
               .is_dst_dense = true};
    vtrn_instr *in = add_product(r, &s);
    in->ap[1].n_partitions = 63;
    vtrn_status status = rig_run(r);
    assert_int_equal(vtrn_status_category(status), VTRN_UNDEFINED);
    assert_non_null(
        strstr(vtrn_status_message(status),
               "moving tile of 63 rows into 32 rows of dst; the stationary tile has 64"));
    vtrn_status_free(status);
    rig_destroy(r);
}

int main(void) {
    seed = test_seed();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_match_double_precision_within_the_bound_of_fp32),
        cmocka_unit_test(levels_and_thread_numbers_give_equal_bits_and_touch_nothing_else),
        cmocka_unit_test(a_product_of_one_row_has_the_bits_of_one_of_several),
        cmocka_unit_test(panels_of_ones_and_few_columns_give_one_chain_of_multiply_adds),
        cmocka_unit_test(transposes_keep_every_bit),
        cmocka_unit_test(a_moving_tile_that_does_not_fit_the_weights_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
