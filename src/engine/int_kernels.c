/* The 32-bit integer loops of the Vector and GpSimd engines, compiled once for each level. */
#include "engine/int_kernels.h"

#include "engine/kernel_loop.h"

static inline uint32_t magnitude_int32_t(int32_t x) {
    return x < 0 ? 0u - (uint32_t)x : (uint32_t)x;
}

static inline uint32_t magnitude_uint32_t(uint32_t x) {
    return x;
}

/* x to the y, wrapping; 1/x^-y truncated toward zero where y is negative (0 to it gives 0). */
static inline uint32_t int_power(uint32_t x, uint32_t y, int is_signed) {
    if (is_signed && (int32_t)y < 0)
        return x == 1 ? 1 : x == UINT32_MAX ? (y & 1 ? UINT32_MAX : 1) : 0;
    uint32_t result = 1;
    for (; y; y >>= 1, x *= x)
        if (y & 1)
            result *= x;
    return result;
}

/* Operations of 32-bit integers: M(enum, type to view x and y as, expression). */
#define INT_OPS(M, T)                                                                              \
    M(NONE, T, x)                                                                                  \
    M(ADD, T, (uint32_t)x + (uint32_t)y)                                                           \
    M(SUBTRACT, T, (uint32_t)x - (uint32_t)y)                                                      \
    M(MULTIPLY, T, (uint32_t)x *(uint32_t)y)                                                       \
    M(MAX, T, x > y ? x : y)                                                                       \
    M(MIN, T, x < y ? x : y)                                                                       \
    M(ABS_MAX, T, magnitude_##T(x) > magnitude_##T(y) ? magnitude_##T(x) : magnitude_##T(y))       \
    M(ABS_MIN, T, magnitude_##T(x) < magnitude_##T(y) ? magnitude_##T(x) : magnitude_##T(y))       \
    M(POWER, T, int_power((uint32_t)x, (uint32_t)y, (T)-1 < (T)1))                                 \
    M(IS_EQUAL, T, x == y)                                                                         \
    M(NOT_EQUAL, T, x != y)                                                                        \
    M(IS_GE, T, x >= y)                                                                            \
    M(IS_GT, T, x > y)                                                                             \
    M(IS_LE, T, x <= y)                                                                            \
    M(IS_LT, T, x < y)                                                                             \
    M(LOGICAL_AND, T, (x != 0) & (y != 0))                                                         \
    M(LOGICAL_OR, T, (x != 0) | (y != 0))                                                          \
    M(LOGICAL_XOR, T, (x != 0) != (y != 0))

#define BIT_OPS(M, T)                                                                              \
    M(BITWISE_AND, T, x &y)                                                                        \
    M(BITWISE_OR, T, x | y)                                                                        \
    M(BITWISE_XOR, T, x ^ y)                                                                       \
    M(BITWISE_NOT, T, ~x)                                                                          \
    M(SHIFT_LEFT, T, (uint32_t)y < 32 ? (uint32_t)x << ((uint32_t)y & 31) : 0)                     \
    M(SHIFT_RIGHT_LOGICAL, T, (uint32_t)y < 32 ? (uint32_t)x >> ((uint32_t)y & 31) : 0)            \
    M(SHIFT_RIGHT_ARITH, T, (int32_t)x >> ((uint32_t)y < 31 ? (uint32_t)y : 31))

#define INT_KERNELS(E, T, expr)                                                                    \
    static void tt_##E##_##T(const uint32_t *a, const uint32_t *b, uint32_t *dst, size_t n) {      \
        INDEPENDENT_LOOP for (size_t i = 0; i < n; i++) {                                          \
            T x = (T)a[i], y = (T)b[i];                                                            \
            (void)y;                                                                               \
            dst[i] = (uint32_t)(expr);                                                             \
        }                                                                                          \
    }                                                                                              \
    static void ts_##E##_##T(const uint32_t *a, uint32_t s, uint32_t *dst, size_t n) {             \
        T y = (T)s;                                                                                \
        (void)y;                                                                                   \
        INDEPENDENT_LOOP for (size_t i = 0; i < n; i++) {                                          \
            T x = (T)a[i];                                                                         \
            dst[i] = (uint32_t)(expr);                                                             \
        }                                                                                          \
    }                                                                                              \
    static void st_##E##_##T(const uint32_t *a, uint32_t s, uint32_t *dst, size_t n) {             \
        T x = (T)s;                                                                                \
        INDEPENDENT_LOOP for (size_t i = 0; i < n; i++) {                                          \
            T y = (T)a[i];                                                                         \
            (void)y;                                                                               \
            dst[i] = (uint32_t)(expr);                                                             \
        }                                                                                          \
    }
INT_OPS(INT_KERNELS, int32_t)
INT_OPS(INT_KERNELS, uint32_t)
BIT_OPS(INT_KERNELS, uint32_t)

#define TT_ENTRY(E, T, expr) [VTRN_ALU_##E] = tt_##E##_##T,
#define TS_ENTRY(E, T, expr) [VTRN_ALU_##E] = ts_##E##_##T,
#define ST_ENTRY(E, T, expr) [VTRN_ALU_##E] = st_##E##_##T,
#define TABLE(ENTRY)                                                                               \
    {                                                                                              \
        {INT_OPS(ENTRY, int32_t) BIT_OPS(ENTRY, uint32_t)}, {                                      \
            INT_OPS(ENTRY, uint32_t) BIT_OPS(ENTRY, uint32_t)                                      \
        }                                                                                          \
    }

const int_kernels VTRN_AT_LEVEL(int_kernel_table) = {
    .tt = TABLE(TT_ENTRY),
    .ts = TABLE(TS_ENTRY),
    .st = TABLE(ST_ENTRY),
};
