/* Elementwise arithmetic of floats and complex numbers. */
#include "compiler/reference/ref_internal.h"

#include <math.h>

/* x where both functions of it have become constant or 0 in any float type; NaN stays. */
static double in_reach(double x) {
    return x < -1e4 ? -1e4 : x > 1e4 ? 1e4 : x;
}

/* x * share, which is -0 where no type has the share, and NaN where x is infinite there. */
static double shared(double x, double share) {
    return share != 0 ? x * share : isinf(x) ? x * 0 : -0.0;
}

static double ref_silu(double x) {
    const double gate = 1 / (1 + exp(-in_reach(x)));
    return shared(x, gate);
}

static double ref_silu_dx(double x) {
    const double gate = 1 / (1 + exp(-in_reach(x)));
    return gate + gate * (in_reach(x) / (1 + exp(in_reach(x))));
}

static double ref_gelu(double x) {
    const double share = erfc(-in_reach(x) * M_SQRT1_2) / 2;
    return shared(x, share);
}

static double ref_gelu_dx(double x) {
    const double t = in_reach(x), density = exp(-t * t / 2) * M_2_SQRTPI * M_SQRT1_2 / 2;
    return erfc(-t * M_SQRT1_2) / 2 + t * density;
}

static double ref_gelu_tanh(double x) {
    const double t = in_reach(x), u = M_2_SQRTPI * M_SQRT1_2 * (t + 0.044715 * t * t * t);
    const double share = 1 / (1 + exp(-2 * u));
    return shared(x, share);
}

#define T           float
#define M(name)     name##f
#define UNARY_NAME  unary_f32
#define BINARY_NAME binary_f32
#include "compiler/reference/ref_float_ops.inc"
#undef T
#undef M
#undef UNARY_NAME
#undef BINARY_NAME

#define T           double
#define M(name)     name
#define UNARY_NAME  unary_f64
#define BINARY_NAME binary_f64
#include "compiler/reference/ref_float_ops.inc"

bool ref_float_unary(graph_kind kind, ref_class cls, const void *a, void *out, int64_t n) {
    return cls == REF_F32 ? unary_f32(kind, a, out, n) : unary_f64(kind, a, out, n);
}

bool ref_float_binary(graph_kind kind, ref_class cls, const void *a, const void *b, void *out,
                      int64_t n) {
    return cls == REF_F32 ? binary_f32(kind, a, b, out, n) : binary_f64(kind, a, b, out, n);
}

static double complex complex_expm1(double complex z) {
    const double x = creal(z), y = cimag(z), s = sin(y / 2);
    /* exp(x) cos(y) - 1 without cancellation near zero */
    return CMPLX(expm1(x) * cos(y) - 2 * s * s, exp(x) * sin(y));
}

static double complex complex_log1p(double complex z) {
    const double x = creal(z), y = cimag(z);
    if (fabs(x) > 0.5 || fabs(y) > 0.5)
        return clog(1 + z);
    return CMPLX(0.5 * log1p(x * (2 + x) + y * y), atan2(y, 1 + x));
}

static double complex complex_pow(double complex a, double complex b) {
    if (a == 0) {
        if (b == 0)
            return 1;
        return creal(b) > 0 ? 0 : CMPLX(NAN, NAN);
    }
    return b == 0 ? 1 : cpow(a, b);
}

/* -i log((x + iy) / sqrt(x^2 + y^2)), as StableHLO defines it. */
static double complex complex_atan2(double complex y, double complex x) {
    const double complex i = CMPLX(0, 1), log = clog((x + i * y) / csqrt(x * x + y * y));
    return CMPLX(cimag(log), -creal(log));
}

static double complex complex_sign(double complex z) {
    if (z == 0)
        return 0;
    return z / cabs(z);
}

#define EACH(expr)                                                                                 \
    for (int64_t i = 0; i < n; i++) {                                                              \
        const double complex x = a[i];                                                             \
        o[i] = (expr);                                                                             \
    }                                                                                              \
    return true

bool ref_complex_unary(graph_kind kind, const double complex *a, double complex *o, int64_t n) {
    switch (kind) {
    case GRAPH_CBRT:
        EACH(x == 0 ? 0 : cpow(x, 1.0 / 3));
    case GRAPH_COSINE:
        EACH(ccos(x));
    case GRAPH_EXPONENTIAL:
        EACH(cexp(x));
    case GRAPH_EXPONENTIAL_MINUS_ONE:
        EACH(complex_expm1(x));
    case GRAPH_LOG:
        EACH(clog(x));
    case GRAPH_LOG_PLUS_ONE:
        EACH(complex_log1p(x));
    case GRAPH_LOGISTIC:
        EACH(1 / (1 + cexp(-x)));
    case GRAPH_NEGATE:
        EACH(-x);
    case GRAPH_RSQRT:
        EACH(1 / csqrt(x));
    case GRAPH_SIGN:
        EACH(complex_sign(x));
    case GRAPH_SINE:
        EACH(csin(x));
    case GRAPH_SQRT:
        EACH(csqrt(x));
    case GRAPH_TAN:
        EACH(ctan(x));
    case GRAPH_TANH:
        EACH(ctanh(x));
    default:
        return false;
    }
}
#undef EACH

/* Lexicographic order, real part first. */
static bool complex_less(double complex a, double complex b) {
    return creal(a) < creal(b) || (creal(a) == creal(b) && cimag(a) < cimag(b));
}

#define EACH(expr)                                                                                 \
    for (int64_t i = 0; i < n; i++) {                                                              \
        const double complex x = a[i], y = b[i];                                                   \
        o[i] = (expr);                                                                             \
    }                                                                                              \
    return true

bool ref_complex_binary(graph_kind kind, const double complex *a, const double complex *b,
                        double complex *o, int64_t n) {
    switch (kind) {
    case GRAPH_ADD:
        EACH(x + y);
    case GRAPH_SUBTRACT:
        EACH(x - y);
    case GRAPH_MULTIPLY:
        EACH(x * y);
    case GRAPH_DIVIDE:
        EACH(x / y);
    case GRAPH_POWER:
        EACH(complex_pow(x, y));
    case GRAPH_ATAN2:
        EACH(complex_atan2(x, y));
    case GRAPH_MAXIMUM:
        EACH(complex_less(x, y) ? y : x);
    case GRAPH_MINIMUM:
        EACH(complex_less(y, x) ? y : x);
    default:
        return false;
    }
}
#undef EACH
