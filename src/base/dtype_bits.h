/* One element to and from fp32, as branch-free integer arithmetic that compilers vectorise. */
#ifndef VTRN_BASE_DTYPE_BITS_H
#define VTRN_BASE_DTYPE_BITS_H

#include <stdint.h>
#include <string.h>

static inline float bits_to_float(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t float_to_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* A binary floating-point format of at most 16 bits: sign, exponent, mantissa. */
typedef struct dtype_format {
    int n_mantissa, n_magnitude; /* bits; magnitude is exponent and mantissa */
    int bias;
    uint32_t overflow_code; /* magnitude that replaces whatever rounds above the largest finite */
    uint32_t nan_code;      /* magnitude of the NaN that a store writes */
    uint32_t min_nan_code;  /* smallest magnitude that is a NaN */
} dtype_format;

#define FORMAT_FP8E4M3        ((dtype_format){3, 7, 7, 0x78, 0x7c, 0x79})
#define FORMAT_FP8E4M3FN      ((dtype_format){3, 7, 7, 0x7f, 0x7f, 0x7f})
#define FORMAT_FP8E5M2        ((dtype_format){2, 7, 15, 0x7c, 0x7e, 0x7d})
#define FORMAT_FP8E3M4        ((dtype_format){4, 7, 3, 0x70, 0x78, 0x71})
#define FORMAT_FP4E2M1FN      ((dtype_format){1, 3, 1, 0x07, 0x07, 0x08})
#define FORMAT_FP6E2M3FN      ((dtype_format){3, 5, 1, 0x1f, 0x1f, 0x20})
#define FORMAT_FP6E3M2FN      ((dtype_format){2, 5, 3, 0x1f, 0x1f, 0x20})
#define FORMAT_FP8E4M3FNUZ    ((dtype_format){3, 7, 8, 0x80, 0x80, 0x80})
#define FORMAT_FP8E5M2FNUZ    ((dtype_format){2, 7, 16, 0x80, 0x80, 0x80})
#define FORMAT_FP8E4M3B11FNUZ ((dtype_format){3, 7, 11, 0x80, 0x80, 0x80})
#define FORMAT_FP16           ((dtype_format){10, 15, 15, 0x7c00, 0x7e00, 0x7c01})

static inline float format_load(dtype_format f, uint32_t code) {
    uint32_t magnitude = code & ((1u << f.n_magnitude) - 1);
    uint32_t sign = (code >> f.n_magnitude) << 31;
    uint32_t shifted = magnitude << (23 - f.n_mantissa);
    uint32_t normal = shifted + ((uint32_t)(127 - f.bias) << 23);
    /* a subnormal read as if it had the hidden bit, which the subtraction then removes */
    uint32_t min_normal = (uint32_t)(128 - f.bias) << 23;
    uint32_t subnormal =
        float_to_bits(bits_to_float(shifted + min_normal) - bits_to_float(min_normal));
    uint32_t bits = magnitude >> f.n_mantissa ? normal : subnormal;
    uint32_t infinity = f.overflow_code == f.nan_code ? ~0u : f.overflow_code;
    bits = magnitude == infinity ? 0x7f800000u : bits;
    bits = magnitude >= f.min_nan_code ? 0x7fc00000u : bits;
    return bits_to_float(bits | sign);
}

/* Exponent and mantissa of x, rounded to nearest even. */
static inline uint32_t format_magnitude(dtype_format f, float x) {
    int cut = 23 - f.n_mantissa;
    uint32_t a = float_to_bits(x) & 0x7fffffffu;
    uint32_t normal = ((a + ((1u << (cut - 1)) - 1) + (a >> cut & 1)) >> cut) -
                      ((uint32_t)(127 - f.bias) << f.n_mantissa);
    /* adding a number whose ulp is the smallest subnormal makes the adder round there */
    uint32_t magic = (uint32_t)(128 - f.bias + cut) << 23;
    uint32_t subnormal = float_to_bits(bits_to_float(a) + bits_to_float(magic)) - magic;
    uint32_t code = a < (uint32_t)(128 - f.bias) << 23 ? subnormal : normal;
    code = code > f.overflow_code ? f.overflow_code : code;
    return a > 0x7f800000u ? f.nan_code : code;
}

static inline uint32_t format_store(dtype_format f, float x) {
    return format_magnitude(f, x) | float_to_bits(x) >> 31 << f.n_magnitude;
}

/* Formats without NaN: a zero of the other sign stands for it, as in ml_dtypes. */
static inline uint32_t finite_store(dtype_format f, float x) {
    uint32_t is_positive = ~float_to_bits(x) >> 31;
    return x != x ? is_positive << f.n_magnitude : format_store(f, x);
}

/* FNUZ formats: finite, but for the one NaN in the place of -0. */
static inline float fnuz_load(dtype_format f, uint32_t code) {
    return code == 0x80 ? bits_to_float(0x7fc00000u) : format_load(f, code);
}

static inline uint32_t fnuz_store(dtype_format f, float x) {
    uint32_t magnitude = format_magnitude(f, x);
    uint32_t sign = magnitude & 0x7f ? float_to_bits(x) >> 24 & 0x80 : 0;
    return magnitude | sign;
}

/* E8M0: 2^(code - 127), 255 is NaN; there is no zero, no sign, no infinity. */
static inline float e8m0_load(uint32_t code) {
    return bits_to_float(code == 255 ? 0x7fc00000u : code == 0 ? 0x00400000u : code << 23);
}

static inline uint32_t e8m0_store(float x) {
    /* Ties round up, as in ml_dtypes. Code 0, 2^-127, is half of a normal fp32. */
    uint32_t bits = float_to_bits(x), code = bits < 0x600000u ? 0 : (bits + 0x400000u) >> 23;
    return bits - 1 < 0x7f7fffffu ? code : 255; /* positive and finite */
}

static inline int32_t sign_extend(uint32_t code, int n_bits) {
    return (int32_t)(code << (32 - n_bits)) >> (32 - n_bits);
}

static inline uint16_t bf16_store(float x) {
    uint32_t bits = float_to_bits(x);
    uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1);
    return (uint16_t)((x != x ? (bits & 0x80000000u) | 0x7fc00000u : rounded) >> 16);
}

static inline float bf16_load(uint16_t code) {
    return bits_to_float((uint32_t)code << 16);
}

static inline float tf32_round(float x) {
    uint32_t bits = float_to_bits(x);
    uint32_t rounded = (bits + 0xfffu + (bits >> 13 & 1)) & ~0x1fffu;
    rounded = (bits & 0x7fffffffu) > 0x7f800000u ? (bits & 0x80000000u) | 0x7fc00000u : rounded;
    return bits_to_float(rounded);
}

/* Nearest even integer, as a float. Numbers from 2^23 up are integers already. */
static inline float round_even(float x) {
    uint32_t sign = float_to_bits(x) & 0x80000000u;
    float a = bits_to_float(float_to_bits(x) & 0x7fffffffu);
    float r = (a + 0x1p23f) - 0x1p23f;
    r = a < 0x1p23f ? r : a;
    return bits_to_float(float_to_bits(r) | sign);
}

#endif
