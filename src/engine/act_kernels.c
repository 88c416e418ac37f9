/* Loops over the activation functions, compiled once for each level. */
#include "engine/act_kernels.h"

#include "engine/act_functions.h"
#include "engine/kernel_loop.h"

/* Each row: enum, value as a function of v = x * scale + bias. */
#define FUNCTIONS(M)                                                                               \
    M(COPY, v)                                                                                     \
    M(SQUARE, v *v)                                                                                \
    M(ABS, act_abs(v))                                                                             \
    M(SIGN, v > 0.0f ? 1.0f : v < 0.0f ? -1.0f : v)                                                \
    M(RELU, v < 0.0f ? 0.0f : v)                                                                   \
    M(PRELU, v < 0.0f ? v * slope : v)                                                             \
    M(EXP, act_exp(v))                                                                             \
    M(TANH, act_tanh(v))                                                                           \
    M(SIGMOID, act_sigmoid(v))                                                                     \
    M(SILU, act_silu(v))                                                                           \
    M(SILU_DX, act_silu_dx(v))                                                                     \
    M(GELU, act_gelu(v))                                                                           \
    M(GELU_DX, act_gelu_dx(v))                                                                     \
    M(GELU_APPRX_TANH, act_gelu_apprx_tanh(v))                                                     \
    M(GELU_APPRX_SIGMOID, act_gelu_apprx_sigmoid(v))                                               \
    M(GELU_APPRX_SIGMOID_DX, act_gelu_apprx_sigmoid_dx(v))                                         \
    M(ERF, act_erf(v))                                                                             \
    M(ERF_DX, act_erf_dx(v))                                                                       \
    M(SOFTPLUS, act_softplus(v))                                                                   \
    M(MISH, act_mish(v))                                                                           \
    M(LOG, act_log(v))                                                                             \
    M(SQRT, sqrtf(v))                                                                              \
    M(RSQRT, act_rsqrt(v))                                                                         \
    M(RECIPROCAL, 1.0f / v)                                                                        \
    M(SIN, act_sin(v))                                                                             \
    M(ARCTAN, act_arctan(v))

#define KERNEL(E, expr)                                                                            \
    static void act_##E(const float *x, float scale, float bias, float slope, float *dst,          \
                        size_t n) {                                                                \
        (void)slope;                                                                               \
        INDEPENDENT_LOOP for (size_t i = 0; i < n; i++) {                                          \
            float v = x[i] * scale + bias;                                                         \
            dst[i] = (expr);                                                                       \
        }                                                                                          \
    }
FUNCTIONS(KERNEL)

/* x * 1 + -0, as its bits: a NaN becomes quiet. */
static void copy_bf16(const uint16_t *x, uint16_t *dst, size_t n) {
    INDEPENDENT_LOOP for (size_t i = 0; i < n; i++) {
        uint16_t bits = x[i];
        uint16_t nan = (bits & 0x8000u) | 0x7fc0u;
        dst[i] = (uint16_t)(bits & 0x7fffu) > 0x7f80u ? nan : bits;
    }
}

#define ENTRY(E, expr) [VTRN_ACT_##E] = act_##E,
const act_kernels VTRN_AT_LEVEL(act_kernel_table) = {.act = {FUNCTIONS(ENTRY)},
                                                     .copy_bf16 = copy_bf16};
