/* The activation functions of one fp32 number, branch-free so that loops over them vectorise.
 * Polynomials are minimax fits (weighted least squares, iterated) made for these intervals. */
#ifndef VTRN_ENGINE_ACT_FUNCTIONS_H
#define VTRN_ENGINE_ACT_FUNCTIONS_H

#include "base/dtype_bits.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>

static inline float act_abs(float x) {
    return bits_to_float(float_to_bits(x) & 0x7fffffffu);
}

static inline float act_with_sign(float magnitude, float sign) {
    return bits_to_float(float_to_bits(magnitude) | (float_to_bits(sign) & 0x80000000u));
}

/* e^x * (1 + tail) for x in -110..89 or NaN; |tail| tiny: it carries what x itself could not. */
static inline float act_exp_with_tail(float x, float tail) {
    /* adding 1.5 * 2^23 rounds to an integer, which then lies in the low bits */
    float shifted = fmaf(x, 1.44269502f, 0x1.8p23f);
    float n = shifted - 0x1.8p23f;
    float r = fmaf(n, -0.693359375f, x); /* ln 2 = 0.693359375 - 2.12194440e-4, the first exact */
    r = fmaf(n, 2.12194440e-4f, r) + tail;
    float r_2 = r * r;
    float p_0 = fmaf(r, 1.666666716e-01f, 0.5f);
    float p_2 = fmaf(r, 8.333265781e-03f, 4.166626930e-02f);
    float p_4 = fmaf(r, 1.991781464e-04f, 1.394607476e-03f);
    float p = 1.0f + fmaf(r_2, fmaf(r_2, fmaf(r_2, p_4, p_2), p_0), r);
    /* 2^n in two factors, so that subnormal results and those next to overflow come out */
    int32_t k = (int32_t)(float_to_bits(shifted) - 0x4b400000u + 2 * 127), k_1 = k >> 1;
    return p * bits_to_float((uint32_t)k_1 << 23) * bits_to_float((uint32_t)(k - k_1) << 23);
}

/* The clamp lets NaN pass. e^89 and e^-104 round to infinity and 0. */
static inline float act_at_most(float x, float limit) {
    return x > limit ? limit : x;
}

/* The 0 below the limit is chosen and not computed: an underflow takes the host a hundred times as
 * long as a product, and masked scores of attention are all there. */
static inline float act_exp(float x) {
    bool is_zero = x <= -104.0f;
    float y = act_exp_with_tail(act_at_most(is_zero ? 0.0f : x, 89.0f), 0.0f);
    return is_zero ? 0.0f : y;
}

/* e^-a for a >= 0 */
static inline float act_exp_of_minus(float a) {
    bool is_zero = a >= 104.0f;
    float y = act_exp_with_tail(is_zero ? 0.0f : -a, 0.0f);
    return is_zero ? 0.0f : y;
}

static inline float act_log(float x) {
    float scaled = x < 0x1p-126f ? x * 0x1p23f : x;
    float offset = x < 0x1p-126f ? -23.0f : 0.0f;
    uint32_t bits = float_to_bits(scaled);
    /* m in [sqrt(1/2), sqrt(2)) */
    int32_t e = (int32_t)(bits - 0x3f3504f3u) >> 23;
    float m = bits_to_float(bits - ((uint32_t)e << 23));
    float f = m - 1.0f, z = f * f, n = (float)e + offset;
    float p = fmaf(f, 6.915578246e-02f, -1.178879961e-01f);
    p = fmaf(f, p, 1.187230945e-01f);
    p = fmaf(f, p, -1.238449439e-01f);
    p = fmaf(f, p, 1.421878040e-01f);
    p = fmaf(f, p, -1.666924506e-01f);
    p = fmaf(f, p, 2.000221908e-01f);
    p = fmaf(f, p, -2.499998659e-01f);
    p = fmaf(f, p, 3.333331048e-01f);
    p = fmaf(f * z, p, n * -2.12194440e-4f);
    float y = fmaf(n, 0.693359375f, f + fmaf(z, -0.5f, p));
    y = x == 0.0f ? -INFINITY : y;
    y = x < 0.0f ? NAN : y;
    return x < INFINITY ? y : x; /* infinity and NaN stay */
}

static inline float act_tanh(float x) {
    float a = act_abs(x), z = x * x;
    float p = fmaf(z, 2.147536958e-03f, -8.182673715e-03f);
    p = fmaf(z, p, 2.170296758e-02f);
    p = fmaf(z, p, -5.394720286e-02f);
    p = fmaf(z, p, 1.333321035e-01f);
    p = fmaf(z, p, -3.333333135e-01f);
    float small = fmaf(a * z, p, a);
    float large = 1.0f - 2.0f / (act_exp_with_tail(act_at_most(a + a, 40.0f), 0.0f) + 1.0f);
    return act_with_sign(a < 0.625f ? small : large, x); /* -0 too */
}

/* The quotient by the rounded 1 + e, mended by what the sum and the division lost. */
static inline float act_sigmoid(float x) {
    float e = act_exp_of_minus(act_abs(x)), n = x < 0.0f ? e : 1.0f;
    float d = 1.0f + e, lost = e - (d - 1.0f), inverse = 1.0f / d, q = n * inverse;
    return fmaf(fmaf(-q, lost, fmaf(-q, d, n)), inverse, q);
}

/* 1 / sqrt(x): the rounded quotient, mended by what root and division lost. */
static inline float act_rsqrt(float x) {
    float root = sqrtf(x), y = 1.0f / root;
    float lost = fmaf(-y, root, 1.0f) - 0.5f * (fmaf(-root, root, x) * y) * y;
    float mended = fmaf(y, lost, y);
    return x > 0.0f && x < INFINITY ? mended : y;
}

/* -infinity gives NaN here and in the gelus below, as the product x * share does that a program
 * writes: the limit is 0, but an overflow must not vanish in it. */
static inline float act_silu(float x) {
    return x * act_sigmoid(x);
}

static inline float act_silu_dx(float x) {
    float s = act_sigmoid(x), t = act_sigmoid(-x);
    return fmaf(act_abs(x) == INFINITY ? 0.0f : x, s * t, s);
}

/* Beyond these e^(-t^2) and e^(-t^2 / 2) round to 0. */
#define ACT_GAUSSIAN_END 10.25f
#define ACT_DENSITY_END  14.5f

/* e^(-t^2 / divisor): the square in two parts, or its rounding error would be raised. */
static inline float act_gaussian(float t, float divisor) {
    float scale = -1.0f / divisor, square = t * t;
    return act_exp_with_tail(scale * square, scale * fmaf(t, t, -square));
}

/* erfc(t) / e^(-t^2) for t in 0..16. */
static inline float act_erfcx(float t) {
    float slope = 1.0f + 2.0f * t, shifted = t + 2.0f;
    float inverse = 1.0f / (slope * shifted);
    float q = (t - 2.0f) * slope * inverse;
    /* in pairs (Estrin), not one after another: half the latency */
    float q_2 = q * q, q_4 = q_2 * q_2;
    float p_0 = fmaf(q, -9.276398271e-02f, 1.276978374e+00f);
    float p_2 = fmaf(q, 1.640554219e-01f, -1.660314649e-01f);
    float p_4 = fmaf(q, -8.060143329e-03f, -5.420388281e-02f);
    float p_6 = fmaf(q, 1.313309884e-03f, 8.630097844e-03f);
    float p_8 = fmaf(q, -3.994496074e-04f, -1.228002366e-03f);
    float p = fmaf(q_4, fmaf(q_4, p_8, fmaf(q_2, p_6, p_4)), fmaf(q_2, p_2, p_0));
    return p * shifted * inverse;
}

static inline float act_erf(float x) {
    float a = act_abs(x), z = x * x;
    float p = fmaf(z, 7.889119297e-05f, -8.020841051e-04f);
    p = fmaf(z, p, 5.189535208e-03f);
    p = fmaf(z, p, -2.685444430e-02f);
    p = fmaf(z, p, 1.128360033e-01f);
    p = fmaf(z, p, -3.761262596e-01f);
    p = fmaf(z, p, 1.283791661e-01f);
    float small = fmaf(x, p, x);
    float t = act_at_most(a, ACT_GAUSSIAN_END);
    float large = act_with_sign(fmaf(-act_gaussian(t, 1.0f), act_erfcx(t), 1.0f), x);
    return a < 1.0f ? small : large;
}

static inline float act_erf_dx(float x) {
    return 1.12837917f * act_gaussian(act_at_most(act_abs(x), ACT_GAUSSIAN_END), 1.0f);
}

/* The normal distribution function; *density is e^(-x^2/2). Near 0 from the series of erf, farther
 * out from its complement. */
static inline float act_normal(float x, float *density) {
    float a = act_abs(x), t = act_at_most(a, ACT_DENSITY_END), e = act_gaussian(t, 2.0f);
    float tail = 0.5f * e * act_erfcx(t * 0.707106781f);
    *density = e;
    float z = x * x;
    float p = fmaf(z, 9.438453367e-05f, -1.169653710e-03f);
    p = fmaf(z, p, 9.967385638e-03f);
    p = fmaf(z, p, -6.648962085e-02f);
    p = fmaf(z, p, 3.989422654e-01f);
    float y = x < 0.0f ? tail : 1.0f - tail;
    return a < 1.0f ? fmaf(x, p, 0.5f) : y;
}

static inline float act_gelu(float x) {
    float density;
    return x * act_normal(x, &density);
}

static inline float act_gelu_dx(float x) {
    float density, share = act_normal(x, &density);
    float y = fmaf(0.398942280f * density, x, share);
    return act_abs(x) < 20.0f || !(x == x) ? y : share;
}

static inline float act_gelu_apprx_tanh(float x) {
    /* 0.5 x (1 + tanh u) = x sigmoid(2u) */
    return x * act_sigmoid(1.59576912f * fmaf(0.044715f * x * x, x, x));
}

static inline float act_gelu_apprx_sigmoid(float x) {
    return x * act_sigmoid(1.702f * x);
}

static inline float act_gelu_apprx_sigmoid_dx(float x) {
    float u = 1.702f * x, s = act_sigmoid(u), t = act_sigmoid(-u);
    return fmaf(act_abs(u) == INFINITY ? 0.0f : u, s * t, s);
}

/* max(x, 0) + log(1 + e) with e = e^-|x|: log(u) for u, 1 + e rounded, and what this rounding and
 * that of the first sum lost. */
static inline float act_softplus(float x) {
    float e = act_exp_of_minus(act_abs(x)), u = 1.0f + e;
    float base = x < 0.0f ? 0.0f : x, log_u = act_log(u), y = base + log_u;
    float added = y - base, lost = (base - (y - added)) + (log_u - added);
    float mended = y + fmaf(e - (u - 1.0f), 1.0f / u, lost);
    return y < INFINITY ? mended : y;
}

static inline float act_mish(float x) {
    /* tanh(log(1 + e)) = e(e + 2) / (e(e + 2) + 2) */
    float e = act_exp(act_at_most(x, 30.0f)), n = e * (e + 2.0f);
    return x * (n / (n + 2.0f));
}

/* No range reduction: beyond [-pi, pi] the last cubic goes on. Source: docs/hardware.md, "Scalar
 * engine". */
static inline float act_sin(float x) {
    float a = act_abs(x);
    float rest = (3.14159274f - a) + -8.74227766e-08f; /* pi - a */
    float y = a > 1.57079637f ? rest : a, z = y * y;
    float p = fmaf(z, -2.390959608e-08f, 2.752663931e-06f);
    p = fmaf(z, p, -1.984089467e-04f);
    p = fmaf(z, p, 8.333330974e-03f);
    p = fmaf(z, p, -1.666666716e-01f);
    float inside = fmaf(y * z, p, y);
    float outside = rest - rest * rest * (rest * (1.0f / 6.0f));
    float s = a > 3.14159274f ? outside : inside;
    return bits_to_float(float_to_bits(s) ^ (float_to_bits(x) & 0x80000000u));
}

static inline float act_arctan(float x) {
    float a = act_abs(x);
    float t = a > 1.0f ? 1.0f / a : a, z = t * t;
    float p = fmaf(z, 1.144904993e-03f, -7.480540778e-03f);
    p = fmaf(z, p, 2.290146612e-02f);
    p = fmaf(z, p, -4.513565451e-02f);
    p = fmaf(z, p, 6.774802506e-02f);
    p = fmaf(z, p, -8.826380968e-02f);
    p = fmaf(z, p, 1.106249243e-01f);
    p = fmaf(z, p, -1.428051144e-01f);
    p = fmaf(z, p, 1.999972463e-01f);
    p = fmaf(z, p, -3.333332837e-01f);
    float y = fmaf(t * z, p, t);
    /* beyond 1, pi/2 - (t + lost + t z p), rounded once: lost is what 1/a has beyond t */
    float lost = a < 0x1p60f ? fmaf(-t, a, 1.0f) * t / (1.0f + z) : 0.0f;
    float high = 1.57079637f - t, rest = (1.57079637f - high) - t;
    float far = high + fmaf(-t * z, p, (rest - lost) + -4.37113883e-08f);
    return act_with_sign(a > 1.0f ? far : y, x);
}

#endif
