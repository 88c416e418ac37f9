/* Conversion loops between fp32 and every dtype, compiled once for each instruction-set level. */
#include "base/dtype_kernels.h"

#include "base/dtype_bits.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define LOAD(name, type, expr)                                                                     \
    static void load_##name(const void *src, float *restrict dst, size_t n) {                      \
        const type *restrict s = src;                                                              \
        for (size_t i = 0; i < n; i++) {                                                           \
            type x = s[i];                                                                         \
            dst[i] = (expr);                                                                       \
        }                                                                                          \
    }

/* src and dst may be the same memory, element for element, so no restrict where sizes match. */
#define STORE(name, type, qualifier, expr)                                                         \
    static void store_##name(const float *src, void *dst, size_t n) {                              \
        type *qualifier d = dst;                                                                   \
        for (size_t i = 0; i < n; i++) {                                                           \
            float x = src[i];                                                                      \
            d[i] = (type)(expr);                                                                   \
        }                                                                                          \
    }

#define NOT_NAN(x)          ((x) == (x) ? (x) : 0.0f)
#define CLAMP(x, low, high) ((x) < (low) ? (low) : (x) > (high) ? (high) : (x))

static inline int32_t small_int(float x, float low, float high) {
    return (int32_t)round_even(CLAMP(NOT_NAN(x), low, high));
}

static inline int32_t to_int32(float x) {
    float r = round_even(NOT_NAN(x));
    /* 2147483520 is the largest fp32 below 2^31 */
    int32_t inside = (int32_t)CLAMP(r, -0x1p31f, 2147483520.0f);
    return r >= 0x1p31f ? INT32_MAX : inside;
}

static inline uint32_t to_uint32(float x) {
    float r = round_even(NOT_NAN(x));
    r = CLAMP(r, 0.0f, 4294967040.0f);
    float low = r >= 0x1p31f ? r - 0x1p31f : r; /* exact; conversion of signed numbers is native */
    uint32_t inside = (uint32_t)(int32_t)low + (r >= 0x1p31f ? 0x80000000u : 0u);
    return x >= 0x1p32f ? UINT32_MAX : inside;
}

LOAD(pred, uint8_t, x ? 1.0f : 0.0f)
LOAD(int8, int8_t, (float)x)
LOAD(int16, int16_t, (float)x)
LOAD(int32, int32_t, (float)x)
LOAD(int64, int64_t, (float)x)
LOAD(uint8, uint8_t, (float)(int32_t)x)
LOAD(uint16, uint16_t, (float)(int32_t)x)
LOAD(uint32, uint32_t, (float)x)
LOAD(uint64, uint64_t, (float)x)
LOAD(fp8e4m3, uint8_t, format_load(FORMAT_FP8E4M3, x))
LOAD(fp8e4m3fn, uint8_t, format_load(FORMAT_FP8E4M3FN, x))
LOAD(fp8e5m2, uint8_t, format_load(FORMAT_FP8E5M2, x))
LOAD(fp8e3m4, uint8_t, format_load(FORMAT_FP8E3M4, x))
LOAD(bf16, uint16_t, bf16_load(x))
LOAD(fp16, uint16_t, format_load(FORMAT_FP16, x))
LOAD(tf32, float, tf32_round(x))
LOAD(fp64, double, (float)x)
LOAD(int2, uint8_t, (float)sign_extend(x, 2))
LOAD(int4, uint8_t, (float)sign_extend(x, 4))
LOAD(uint2, uint8_t, (float)(x & 0x3))
LOAD(uint4, uint8_t, (float)(x & 0xf))
LOAD(fp4e2m1fn, uint8_t, format_load(FORMAT_FP4E2M1FN, x & 0xfu))
LOAD(fp6e2m3fn, uint8_t, format_load(FORMAT_FP6E2M3FN, x & 0x3fu))
LOAD(fp6e3m2fn, uint8_t, format_load(FORMAT_FP6E3M2FN, x & 0x3fu))
LOAD(fp8e4m3fnuz, uint8_t, fnuz_load(FORMAT_FP8E4M3FNUZ, x))
LOAD(fp8e5m2fnuz, uint8_t, fnuz_load(FORMAT_FP8E5M2FNUZ, x))
LOAD(fp8e4m3b11fnuz, uint8_t, fnuz_load(FORMAT_FP8E4M3B11FNUZ, x))
LOAD(fp8e8m0fnu, uint8_t, e8m0_load(x))

STORE(pred, uint8_t, restrict, x != 0.0f ? 1 : 0)
STORE(int8, int8_t, restrict, small_int(x, -128.0f, 127.0f))
STORE(int16, int16_t, restrict, small_int(x, -32768.0f, 32767.0f))
STORE(int32, int32_t, , to_int32(x))
#if defined(__AVX2__)
/* Truths of comparisons are stored so. NaN is not above 0, and what is beyond the limits ends at
 * them before it is rounded, which is to even. */
static inline void store_8_uint8(const float *src, uint8_t *dst) {
    __m256 x = _mm256_max_ps(_mm256_loadu_ps(src), _mm256_setzero_ps());
    __m256i i = _mm256_cvtps_epi32(_mm256_min_ps(x, _mm256_set1_ps(255.0f)));
    __m128i half = _mm_packus_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    _mm_storel_epi64((__m128i *)dst, _mm_packus_epi16(half, half));
}

static void store_uint8(const float *src, void *dst, size_t n) {
    uint8_t *d = dst, last[8] = {0};
    float rest[8] = {0};
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        store_8_uint8(src + i, d + i);
    for (size_t k = i; k < n; k++)
        rest[k - i] = src[k];
    if (i == n)
        return;
    store_8_uint8(rest, last);
    for (size_t k = i; k < n; k++)
        d[k] = last[k - i];
}
#else
STORE(uint8, uint8_t, restrict, small_int(x, 0.0f, 255.0f))
#endif
STORE(uint16, uint16_t, restrict, small_int(x, 0.0f, 65535.0f))
STORE(uint32, uint32_t, , to_uint32(x))
STORE(int64, int64_t, restrict,
      x >= 0x1p63f ? INT64_MAX : (int64_t)round_even(NOT_NAN(x) < -0x1p63f ? -0x1p63f : NOT_NAN(x)))
STORE(uint64, uint64_t, restrict,
      x >= 0x1p64f ? UINT64_MAX : (uint64_t)round_even(NOT_NAN(x) < 0.0f ? 0.0f : NOT_NAN(x)))
STORE(fp8e4m3, uint8_t, restrict, format_store(FORMAT_FP8E4M3, x))
STORE(fp8e4m3fn, uint8_t, restrict, format_store(FORMAT_FP8E4M3FN, x))
STORE(fp8e5m2, uint8_t, restrict, format_store(FORMAT_FP8E5M2, x))
STORE(fp8e3m4, uint8_t, restrict, format_store(FORMAT_FP8E3M4, x))
STORE(bf16, uint16_t, restrict, bf16_store(x))
STORE(fp16, uint16_t, restrict, format_store(FORMAT_FP16, x))
STORE(int2, uint8_t, restrict, small_int(x, -2.0f, 1.0f) & 0x3)
STORE(int4, uint8_t, restrict, small_int(x, -8.0f, 7.0f) & 0xf)
STORE(uint2, uint8_t, restrict, small_int(x, 0.0f, 3.0f))
STORE(uint4, uint8_t, restrict, small_int(x, 0.0f, 15.0f))
STORE(fp4e2m1fn, uint8_t, restrict, finite_store(FORMAT_FP4E2M1FN, x))
STORE(fp6e2m3fn, uint8_t, restrict, finite_store(FORMAT_FP6E2M3FN, x))
STORE(fp6e3m2fn, uint8_t, restrict, finite_store(FORMAT_FP6E3M2FN, x))
STORE(fp8e4m3fnuz, uint8_t, restrict, fnuz_store(FORMAT_FP8E4M3FNUZ, x))
STORE(fp8e5m2fnuz, uint8_t, restrict, fnuz_store(FORMAT_FP8E5M2FNUZ, x))
STORE(fp8e4m3b11fnuz, uint8_t, restrict, fnuz_store(FORMAT_FP8E4M3B11FNUZ, x))
STORE(fp8e8m0fnu, uint8_t, restrict, e8m0_store(x))
STORE(tf32, float, , tf32_round(x))
STORE(fp64, double, restrict, x)

static void load_fp32(const void *src, float *dst, size_t n) {
    memmove(dst, src, n * sizeof *dst);
}

static void store_fp32(const float *src, void *dst, size_t n) {
    memmove(dst, src, n * sizeof *src);
}

/* Complex numbers: the real part counts, the imaginary part of a store is 0. */
static void load_complex64(const void *src, float *dst, size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = ((const float *)src)[2 * i];
}

static void load_complex128(const void *src, float *dst, size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = (float)((const double *)src)[2 * i];
}

static void store_complex64(const float *src, void *dst, size_t n) {
    for (size_t i = 0; i < n; i++) {
        ((float *)dst)[2 * i] = src[i];
        ((float *)dst)[2 * i + 1] = 0.0f;
    }
}

static void store_complex128(const float *src, void *dst, size_t n) {
    for (size_t i = 0; i < n; i++) {
        ((double *)dst)[2 * i] = src[i];
        ((double *)dst)[2 * i + 1] = 0.0;
    }
}

#define BOTH(E, name) .load[VTRN_DTYPE_##E] = load_##name, .store[VTRN_DTYPE_##E] = store_##name

const dtype_kernels VTRN_AT_LEVEL(dtype_kernel_table) = {
    BOTH(PRED, pred),
    BOTH(INT8, int8),
    BOTH(INT16, int16),
    BOTH(INT32, int32),
    BOTH(INT64, int64),
    BOTH(UINT8, uint8),
    BOTH(UINT16, uint16),
    BOTH(UINT32, uint32),
    BOTH(UINT64, uint64),
    BOTH(FP8E4M3, fp8e4m3),
    BOTH(FP8E4M3FN, fp8e4m3fn),
    BOTH(FP8E5M2, fp8e5m2),
    BOTH(FP8E3M4, fp8e3m4),
    BOTH(BF16, bf16),
    BOTH(FP16, fp16),
    BOTH(TF32, tf32),
    BOTH(FP32, fp32),
    BOTH(FP64, fp64),
    BOTH(C64, complex64),
    BOTH(C128, complex128),
    BOTH(INT2, int2),
    BOTH(INT4, int4),
    BOTH(UINT2, uint2),
    BOTH(UINT4, uint4),
    BOTH(FP4E2M1FN, fp4e2m1fn),
    BOTH(FP6E2M3FN, fp6e2m3fn),
    BOTH(FP6E3M2FN, fp6e3m2fn),
    BOTH(FP8E4M3FNUZ, fp8e4m3fnuz),
    BOTH(FP8E5M2FNUZ, fp8e5m2fnuz),
    BOTH(FP8E4M3B11FNUZ, fp8e4m3b11fnuz),
    BOTH(FP8E8M0FNU, fp8e8m0fnu),
    /* packed ones are never converted */
    BOTH(FP8E4M3FN_X4, uint32),
    BOTH(FP8E5M2_X4, uint32),
    BOTH(FP4E2M1FN_X4, uint16),
};
