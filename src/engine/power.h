/* x^y of two fp32 numbers, with nothing but additions, multiplications and divisions of fp64: each
 * C library has a pow of its own, and the same program must give the same bits on any host. */
#ifndef VTRN_ENGINE_POWER_H
#define VTRN_ENGINE_POWER_H

#include "base/dtype_bits.h"

#include <math.h>
#include <stdbool.h>

static inline double power_from_bits(uint64_t bits) {
    double d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

/* log2 a of a normal a > 0: log m = 2 atanh s with s = (m - 1) / (m + 1) and m in [0.7, 1.42). */
static inline double power_log2(double a) {
    static const uint64_t bits_of_sqrt_half = 0x3fe6a09e667f3bcd;
    uint64_t bits;
    memcpy(&bits, &a, sizeof bits);
    int32_t exponent = (int32_t)((int64_t)(bits - bits_of_sqrt_half) >> 52);
    double m = power_from_bits(bits - ((uint64_t)exponent << 52));
    double s = (m - 1) / (m + 1), z = s * s, p = 1.0 / 21;
    for (int k = 19; k >= 3; k -= 2)
        p = p * z + 1.0 / k;
    return exponent + 2.8853900817779268 * (s + s * (z * p)); /* 2 / ln 2 */
}

/* 2^t; 0 and infinity as fp32 for t beyond +-200. */
static inline double power_exp2(double t) {
    t = t > 200 ? 200 : t < -200 ? -200 : t;
    double shifted = t + 0x1.8p52, n = shifted - 0x1.8p52; /* rounds to an integer */
    double r = (t - n) * 0.69314718055994531, p = 1.0;
    for (int k = 12; k >= 1; k--)
        p = 1 + p * r * (1.0 / k); /* Taylor: |r| < 0.35 */
    return p * power_from_bits((uint64_t)((int64_t)n + 1023) << 52);
}

/* Within 0.50001 ulp, and rounded to even where x^y is halfway between two fp32 numbers: both
 * functions are good to 43 bits, and rounding to 40 of them first restores what lies halfway. */
static inline float power_of_magnitude(float a, float y) {
    double p = power_exp2(y * power_log2(a)), spread = p * 0x1.0008p13; /* 2^13 + 1 */
    return (float)(spread - (spread - p));
}

/* The special cases are those of pow in IEEE 754. */
static inline float power(float x, float y) {
    float a = bits_to_float(float_to_bits(x) & 0x7fffffffu);
    float size = bits_to_float(float_to_bits(y) & 0x7fffffffu);
    if (y == 0 || x == 1)
        return 1;
    if (x != x || y != y)
        return NAN;
    bool is_integer = size >= 0x1p24f || (float)(int32_t)y == y;
    bool is_odd = size < 0x1p24f && is_integer && ((int32_t)y & 1);
    if (x < 0 && a != INFINITY && !is_integer)
        return NAN;
    float magnitude = a == 0 || a == INFINITY ? ((a == 0) == (y < 0) ? INFINITY : 0.0f)
                      : a == 1                ? 1.0f
                                              : power_of_magnitude(a, y);
    return is_odd && signbit(x) ? -magnitude : magnitude;
}

#endif
