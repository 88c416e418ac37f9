/* The fp32 arithmetic loops of the Vector and GpSimd engines, compiled once for each level. */
#include "engine/alu_kernels.h"

#include "base/dtype_bits.h"
#include "engine/kernel_loop.h"
#include "engine/power.h"

#include <string.h>

#define IS_NAN(x)    ((x) != (x))
#define ONE_IF(cond) ((cond) ? 1.0f : 0.0f)

/* As IEEE 754-2019 has maximum and minimum: NaN is above all, +0 is above -0. Of equal operands
 * only zeros differ in their bits, and only in the sign. */
static inline float maximum(float x, float y) {
    uint32_t a = float_to_bits(x), b = float_to_bits(y);
    uint32_t greater = x > y || IS_NAN(x) ? a : b;
    return bits_to_float(x == y ? a & b : greater);
}

static inline float minimum(float x, float y) {
    uint32_t a = float_to_bits(x), b = float_to_bits(y);
    uint32_t smaller = x < y || IS_NAN(x) ? a : b;
    return bits_to_float(x == y ? a | b : smaller);
}

static inline float magnitude(float x) {
    return bits_to_float(float_to_bits(x) & 0x7fffffffu);
}

static inline float abs_max(float x, float y) {
    float a = magnitude(x), b = magnitude(y);
    return a > b || IS_NAN(a) ? a : b;
}

static inline float abs_min(float x, float y) {
    float a = magnitude(x), b = magnitude(y);
    return a < b || IS_NAN(a) ? a : b;
}

/* The table of fp32 operations: M(enum, expression of x and y). */
#define FLOAT_OPS(M)                                                                               \
    M(NONE, x)                                                                                     \
    M(ADD, x + y)                                                                                  \
    M(SUBTRACT, x - y)                                                                             \
    M(MULTIPLY, x *y)                                                                              \
    M(MAX, maximum(x, y))                                                                          \
    M(MIN, minimum(x, y))                                                                          \
    M(ABS_MAX, abs_max(x, y))                                                                      \
    M(ABS_MIN, abs_min(x, y))                                                                      \
    M(POWER, power(x, y))                                                                          \
    M(IS_EQUAL, ONE_IF(x == y))                                                                    \
    M(NOT_EQUAL, ONE_IF(x != y))                                                                   \
    M(IS_GE, ONE_IF(x >= y))                                                                       \
    M(IS_GT, ONE_IF(x > y))                                                                        \
    M(IS_LE, ONE_IF(x <= y))                                                                       \
    M(IS_LT, ONE_IF(x < y))                                                                        \
    M(LOGICAL_AND, ONE_IF((x != 0.0f) & (y != 0.0f)))                                              \
    M(LOGICAL_OR, ONE_IF((x != 0.0f) | (y != 0.0f)))                                               \
    M(LOGICAL_XOR, ONE_IF((x != 0.0f) != (y != 0.0f)))

/* Not copied into loops over rows: of two NaN operands the order decides whose sign stays, and
 * copies may differ in it. */
#define ONE_BODY __attribute__((noinline))

enum { FEW = 4 }; /* elements a row: of fewer the loop over rows is the inner one */

static inline void next_row(alu_rows *r) {
    r->x += r->x_step;
    r->y += r->y_step;
    r->dst += r->dst_step;
}

/* A function for blocks of rows: element i of row k from x and y, or `row` for each row. */
#define ROWS(name, x_of, y_of, expr, row)                                                          \
    static void name(alu_rows r) {                                                                 \
        if (r.n < FEW && r.n_rows > 1) {                                                           \
            for (size_t i = 0; i < r.n; i++)                                                       \
                INDEPENDENT_LOOP for (size_t k = 0; k < r.n_rows; k++) {                           \
                    float x = (x_of), y = (y_of);                                                  \
                    (void)x, (void)y;                                                              \
                    r.dst[k * r.dst_step + i] = (expr);                                            \
                }                                                                                  \
            return;                                                                                \
        }                                                                                          \
        for (; r.n_rows; r.n_rows--, next_row(&r))                                                 \
            row;                                                                                   \
    }

#define FLOAT_KERNELS(E, expr)                                                                     \
    static ONE_BODY void tt_##E(const float *a, const float *b, float *dst, size_t n) {            \
        INDEPENDENT_LOOP for (size_t i = 0; i < n; i++) {                                          \
            float x = a[i], y = b[i];                                                              \
            (void)y;                                                                               \
            dst[i] = (expr);                                                                       \
        }                                                                                          \
    }                                                                                              \
    static ONE_BODY void ts_##E(const float *a, float y, float *dst, size_t n) {                   \
        (void)y;                                                                                   \
        INDEPENDENT_LOOP for (size_t i = 0; i < n; i++) {                                          \
            float x = a[i];                                                                        \
            dst[i] = (expr);                                                                       \
        }                                                                                          \
    }                                                                                              \
    static ONE_BODY void st_##E(const float *a, float x, float *dst, size_t n) {                   \
        INDEPENDENT_LOOP for (size_t i = 0; i < n; i++) {                                          \
            float y = a[i];                                                                        \
            (void)y;                                                                               \
            dst[i] = (expr);                                                                       \
        }                                                                                          \
    }                                                                                              \
    ROWS(tt_rows_##E, r.x[k * r.x_step + i], r.y[k * r.y_step + i], expr,                          \
         tt_##E(r.x, r.y, r.dst, r.n))                                                             \
    ROWS(ts_rows_##E, r.x[k * r.x_step + i], r.y[k * r.y_step], expr,                              \
         ts_##E(r.x, *r.y, r.dst, r.n))                                                            \
    ROWS(st_rows_##E, r.y[k * r.y_step], r.x[k * r.x_step + i], expr, st_##E(r.x, *r.y, r.dst, r.n))
FLOAT_OPS(FLOAT_KERNELS)

static void int32_rows(const uint8_t *src, size_t row_bytes, size_t n_rows, size_t n, float *dst) {
    for (; n_rows; n_rows--, src += row_bytes, dst += n) {
        const int32_t *x = (const int32_t *)src;
        INDEPENDENT_LOOP for (size_t i = 0; i < n; i++) dst[i] = (float)x[i];
    }
}

/* Sixteen lanes as vectors that the level has: of longer ones GCC compares element by element. */
#if defined(__AVX512F__)
enum { PIECE_BYTES = 64 };
#elif defined(__AVX2__)
enum { PIECE_BYTES = 32 };
#else
enum { PIECE_BYTES = 16 };
#endif
enum { N_PIECES = ALU_LANES * (int)sizeof(float) / PIECE_BYTES };
typedef float piece_f __attribute__((vector_size(PIECE_BYTES), aligned(4), may_alias));
typedef struct __attribute__((may_alias)) lanes_f {
    piece_f piece[N_PIECES];
} lanes_f;

/* Four lanes, of which every level has vectors. */
typedef float quad_f __attribute__((vector_size(16), aligned(4), may_alias));

/* On vectors of either length. */
#define BITS_OF(x) ((__typeof__((x) == (x)))(x))
#define BLEND(mask, x, y)                                                                          \
    ((__typeof__(x))(((mask) & (__typeof__(mask))(x)) | (~(mask) & (__typeof__(mask))(y))))
#define LANES_AND(x, m) ((__typeof__(x))(BITS_OF(x) & (m)))
#define LANES_OR(x, m)  ((__typeof__(x))(BITS_OF(x) | (m)))
#define LANES_ABS(x)    ((__typeof__(x))(BITS_OF(x) & 0x7fffffff))
#define LANES_ONE_IF(m) ((__typeof__(acc))((m)&0x3f800000))

/* Reductions: M(enum, identity, acc op x on lanes, x op y on one). The identity leaves every value
 * as it is, -0 and NaN included. */
#define REDUCTIONS(M)                                                                              \
    M(ADD, -0.0f, acc + v, x + y)                                                                  \
    M(MULTIPLY, 1.0f, acc *v, x *y)                                                                \
    M(MAX, -INFINITY,                                                                              \
      LANES_AND(BLEND((acc > v) | (acc != acc), acc, v), BITS_OF(acc) | ~(acc == v)),              \
      maximum(x, y))                                                                               \
    M(MIN, INFINITY, LANES_OR(BLEND((acc < v) | (acc != acc), acc, v), BITS_OF(acc) & (acc == v)), \
      minimum(x, y))                                                                               \
    M(ABS_MAX, 0.0f,                                                                               \
      BLEND((LANES_ABS(acc) > LANES_ABS(v)) | (acc != acc), LANES_ABS(acc), LANES_ABS(v)),         \
      abs_max(x, y))                                                                               \
    M(ABS_MIN, INFINITY,                                                                           \
      BLEND((LANES_ABS(acc) < LANES_ABS(v)) | (acc != acc), LANES_ABS(acc), LANES_ABS(v)),         \
      abs_min(x, y))                                                                               \
    M(LOGICAL_AND, 1.0f, LANES_ONE_IF((acc != 0.0f) & (v != 0.0f)),                                \
      ONE_IF((x != 0.0f) & (y != 0.0f)))                                                           \
    M(LOGICAL_OR, 0.0f, LANES_ONE_IF((acc != 0.0f) | (v != 0.0f)),                                 \
      ONE_IF((x != 0.0f) | (y != 0.0f)))                                                           \
    M(LOGICAL_XOR, 0.0f, LANES_ONE_IF((acc != 0.0f) ^ (v != 0.0f)),                                \
      ONE_IF((x != 0.0f) != (y != 0.0f)))

/* left = left op right, of two values of sixteen lanes, where expr says op of acc and v */
#define JOIN(left, right, expr)                                                                    \
    do {                                                                                           \
        for (int p = 0; p < N_PIECES; p++) {                                                       \
            piece_f acc = (left).piece[p], v = (right).piece[p];                                   \
            (left).piece[p] = (expr);                                                              \
        }                                                                                          \
    } while (0)

#define REDUCE_KERNELS(E, identity, lanes_expr, expr)                                              \
    static void reduce_begin_##E(float lanes[ALU_LANES]) {                                         \
        for (int l = 0; l < ALU_LANES; l++)                                                        \
            lanes[l] = identity;                                                                   \
    }                                                                                              \
    /* sums = the parts of a block of at most ALU_BLOCK elements, joined */                        \
    static inline void block_##E(float sums[ALU_LANES], const float *x, size_t n) {                \
        float last[ALU_LANES];                                                                     \
        reduce_begin_##E(last);                                                                    \
        const lanes_f none = *(const lanes_f *)last;                                               \
        lanes_f part[4] = {none, none, none, none};                                                \
        size_t i = 0;                                                                              \
        for (; i + 4 * ALU_LANES <= n; i += 4 * ALU_LANES)                                         \
            for (size_t k = 0; k < 4; k++)                                                         \
                JOIN(part[k], *(const lanes_f *)(x + i + k * ALU_LANES), lanes_expr);              \
        for (size_t k = 0; i < n; i += ALU_LANES, k++) {                                           \
            if (n - i < ALU_LANES) {                                                               \
                memcpy(last, x + i, (n - i) * sizeof *x);                                          \
                JOIN(part[k], *(const lanes_f *)last, lanes_expr);                                 \
            } else {                                                                               \
                JOIN(part[k], *(const lanes_f *)(x + i), lanes_expr);                              \
            }                                                                                      \
        }                                                                                          \
        JOIN(part[0], part[2], lanes_expr);                                                        \
        JOIN(part[1], part[3], lanes_expr);                                                        \
        JOIN(part[0], part[1], lanes_expr);                                                        \
        *(lanes_f *)sums = part[0];                                                                \
    }                                                                                              \
    static inline void add_##E(float lanes[ALU_LANES], const float *x, size_t n) {                 \
        for (size_t i = 0; i < n; i += 4 * ALU_BLOCK) {                                            \
            float sums[4][ALU_LANES];                                                              \
            size_t left = n - i;                                                                   \
            for (size_t k = 0, from = 0; k < 4; k++, from += ALU_BLOCK) {                          \
                if (from < left)                                                                   \
                    block_##E(sums[k], x + i + from,                                               \
                              left - from < ALU_BLOCK ? left - from : ALU_BLOCK);                  \
                else                                                                               \
                    reduce_begin_##E(sums[k]);                                                     \
            }                                                                                      \
            JOIN(*(lanes_f *)sums[0], *(const lanes_f *)sums[1], lanes_expr);                      \
            JOIN(*(lanes_f *)sums[2], *(const lanes_f *)sums[3], lanes_expr);                      \
            JOIN(*(lanes_f *)sums[0], *(const lanes_f *)sums[2], lanes_expr);                      \
            lanes_f *all = (lanes_f *)lanes;                                                       \
            JOIN(*all, *(const lanes_f *)sums[0], lanes_expr);                                     \
        }                                                                                          \
    }                                                                                              \
    static inline quad_f quad_##E(quad_f acc, quad_f v) {                                          \
        return lanes_expr;                                                                         \
    }                                                                                              \
    static inline float end_##E(const float lanes[ALU_LANES]) {                                    \
        const quad_f *x = (const quad_f *)lanes;                                                   \
        const quad_f t = quad_##E(quad_##E(x[0], x[2]), quad_##E(x[1], x[3]));                     \
        return one_##E(one_##E(t[0], t[2]), one_##E(t[1], t[3]));                                  \
    }                                                                                              \
    static void reduce_add_##E(float lanes[ALU_LANES], const float *x, size_t n) {                 \
        add_##E(lanes, x, n);                                                                      \
    }                                                                                              \
    static float reduce_end_##E(const float lanes[ALU_LANES]) {                                    \
        return end_##E(lanes);                                                                     \
    }                                                                                              \
    /* What add and end do to rows of fewer than ALU_LANES elements, for ALU_LANES rows at once.   \
     */                                                                                            \
    static void reduce_few_##E(const float *x, size_t step, size_t n, float *out) {                \
        float t[ALU_LANES][ALU_LANES]; /* by lane and row */                                       \
        for (size_t l = 0; l < ALU_LANES; l++)                                                     \
            for (size_t r = 0; r < ALU_LANES; r++)                                                 \
                t[l][r] = l < n ? one_##E(identity, x[r * step + l]) : identity;                   \
        for (size_t half = ALU_LANES / 2; half; half /= 2)                                         \
            for (size_t l = 0; l < half; l++)                                                      \
                for (size_t r = 0; r < ALU_LANES; r++)                                             \
                    t[l][r] = one_##E(t[l][r], t[l + half][r]);                                    \
        memcpy(out, t[0], sizeof t[0]);                                                            \
    }                                                                                              \
    static void reduce_rows_##E(const float *x, size_t n_rows, size_t step, size_t n,              \
                                float *out) {                                                      \
        size_t r = 0;                                                                              \
        for (; n < ALU_LANES && r + ALU_LANES <= n_rows; r += ALU_LANES)                           \
            reduce_few_##E(x + r * step, step, n, out + r);                                        \
        for (; r < n_rows; r++) {                                                                  \
            float lanes[ALU_LANES];                                                                \
            reduce_begin_##E(lanes);                                                               \
            add_##E(lanes, x + r * step, n);                                                       \
            out[r] = end_##E(lanes);                                                               \
        }                                                                                          \
    }
#define REDUCE_ONE(E, identity, lanes_expr, expr)                                                  \
    static inline float one_##E(float x, float y) {                                                \
        return expr;                                                                               \
    }
REDUCTIONS(REDUCE_ONE)
REDUCTIONS(REDUCE_KERNELS)

static void reciprocal(const float *x, float *dst, size_t n) {
    INDEPENDENT_LOOP for (size_t i = 0; i < n; i++) dst[i] = 1.0f / x[i];
}

static void negate(const float *x, float *dst, size_t n) {
    INDEPENDENT_LOOP for (size_t i = 0; i < n; i++) dst[i] = -x[i];
}

/* Bit masks rather than a condition: loops with two element sizes vectorise only without one. */
#define SELECT(name, mask_t, n_bits)                                                               \
    static void name(const mask_t *mask, int inverse, const uint##n_bits##_t *x,                   \
                     uint##n_bits##_t *dst, size_t n) {                                            \
        uint32_t flip = inverse ? UINT32_MAX : 0;                                                  \
        INDEPENDENT_LOOP for (size_t i = 0; i < n; i++) {                                          \
            uint##n_bits##_t m = (uint##n_bits##_t)((mask[i] ? UINT32_MAX : 0) ^ flip);            \
            dst[i] = (uint##n_bits##_t)((x[i] & m) | (dst[i] & (uint##n_bits##_t) ~m));            \
        }                                                                                          \
    }
#define SELECT_ONE(name, mask_t)                                                                   \
    static void name(const mask_t *mask, int inverse, uint32_t x, uint32_t *dst, size_t n) {       \
        uint32_t flip = inverse ? UINT32_MAX : 0;                                                  \
        INDEPENDENT_LOOP for (size_t i = 0; i < n; i++) {                                          \
            uint32_t m = (mask[i] ? UINT32_MAX : 0) ^ flip;                                        \
            dst[i] = (x & m) | (dst[i] & ~m);                                                      \
        }                                                                                          \
    }
SELECT_ONE(select32_one, uint32_t)
SELECT_ONE(select32_one_by8, uint8_t)
SELECT(select32, uint32_t, 32)
SELECT(select32_by8, uint8_t, 32)
SELECT(select16, uint32_t, 16)
SELECT(select8, uint32_t, 8)

#define TT_ENTRY(E, expr)                          [VTRN_ALU_##E] = tt_##E,
#define TS_ENTRY(E, expr)                          [VTRN_ALU_##E] = ts_##E,
#define ST_ENTRY(E, expr)                          [VTRN_ALU_##E] = st_##E,
#define TT_ROWS_ENTRY(E, expr)                     [VTRN_ALU_##E] = tt_rows_##E,
#define TS_ROWS_ENTRY(E, expr)                     [VTRN_ALU_##E] = ts_rows_##E,
#define ST_ROWS_ENTRY(E, expr)                     [VTRN_ALU_##E] = st_rows_##E,
#define BEGIN_ENTRY(E, identity, lanes_expr, expr) [VTRN_ALU_##E] = reduce_begin_##E,
#define ADD_ENTRY(E, identity, lanes_expr, expr)   [VTRN_ALU_##E] = reduce_add_##E,
#define END_ENTRY(E, identity, lanes_expr, expr)   [VTRN_ALU_##E] = reduce_end_##E,
#define ROWS_ENTRY(E, identity, lanes_expr, expr)  [VTRN_ALU_##E] = reduce_rows_##E,
const alu_kernels VTRN_AT_LEVEL(alu_kernel_table) = {
    .tt = {FLOAT_OPS(TT_ENTRY)},
    .ts = {FLOAT_OPS(TS_ENTRY)},
    .st = {FLOAT_OPS(ST_ENTRY)},
    .tt_rows = {FLOAT_OPS(TT_ROWS_ENTRY)},
    .ts_rows = {FLOAT_OPS(TS_ROWS_ENTRY)},
    .st_rows = {FLOAT_OPS(ST_ROWS_ENTRY)},
    .int32_rows = int32_rows,
    .reduce_begin = {REDUCTIONS(BEGIN_ENTRY)},
    .reduce_add = {REDUCTIONS(ADD_ENTRY)},
    .reduce_end = {REDUCTIONS(END_ENTRY)},
    .reduce_rows = {REDUCTIONS(ROWS_ENTRY)},
    .reciprocal = reciprocal,
    .negate = negate,
    .select32 = select32,
    .select32_by8 = select32_by8,
    .select32_one = select32_one,
    .select32_one_by8 = select32_one_by8,
    .select16 = select16,
    .select8 = select8,
};
