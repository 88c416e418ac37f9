/* Data types: names, sizes, and conversion bit for bit as NumPy and ml_dtypes do it. */
#include "base/dtype.h"

#include "base/dtype_bits.h"
#include "base/dtype_kernels.h"

#include <math.h>

static const struct {
    const char *name;
    char kind;
} types[] = {
#define DTYPE(e, name, size, kind) [VTRN_DTYPE_##e] = {name, #kind[0]},
    VTRN_DTYPES(DTYPE)
#undef DTYPE
};

const uint8_t dtype_sizes[VTRN_DTYPE_COUNT] = {
#define DTYPE(e, name, size, kind) [VTRN_DTYPE_##e] = size,
    VTRN_DTYPES(DTYPE)
#undef DTYPE
};

static bool is_known(vtrn_dtype t) {
    return (unsigned)t < VTRN_DTYPE_COUNT;
}

const char *dtype_name(vtrn_dtype t) {
    return is_known(t) ? types[t].name : "unknown";
}

int dtype_bits(vtrn_dtype t) {
    switch (t) {
    case VTRN_DTYPE_INT2:
    case VTRN_DTYPE_UINT2:
        return 2;
    case VTRN_DTYPE_INT4:
    case VTRN_DTYPE_UINT4:
    case VTRN_DTYPE_FP4E2M1FN:
        return 4;
    case VTRN_DTYPE_FP6E2M3FN:
    case VTRN_DTYPE_FP6E3M2FN:
        return 6;
    default:
        return 8 * (int)dtype_size(t);
    }
}

bool dtype_has_no_format(vtrn_dtype t) {
    return t >= VTRN_DTYPE_INT2;
}

bool dtype_is_on_engines(vtrn_dtype t) {
    return !dtype_has_no_format(t) && dtype_size(t) <= 4;
}

vtrn_dtype dtype_of_packed(vtrn_dtype t) {
    return t == VTRN_DTYPE_FP8E4M3FN_X4   ? VTRN_DTYPE_FP8E4M3FN
           : t == VTRN_DTYPE_FP8E5M2_X4   ? VTRN_DTYPE_FP8E5M2
           : t == VTRN_DTYPE_FP4E2M1FN_X4 ? VTRN_DTYPE_FP4E2M1FN
                                          : t;
}

bool dtype_is_complex(vtrn_dtype t) {
    return is_known(t) && types[t].kind == 'C';
}

bool dtype_is_float(vtrn_dtype t) {
    return is_known(t) && types[t].kind == 'F';
}

bool dtype_is_signed_int(vtrn_dtype t) {
    return is_known(t) && types[t].kind == 'S';
}

bool dtype_is_unsigned_int(vtrn_dtype t) {
    return is_known(t) && types[t].kind == 'U';
}

bool dtype_is_int(vtrn_dtype t) {
    return dtype_is_signed_int(t) || dtype_is_unsigned_int(t);
}

bool dtype_from_name(const char *name, vtrn_dtype *out) {
    for (int i = 0; i < VTRN_DTYPE_COUNT; i++)
        if (!strcmp(name, types[i].name)) {
            *out = (vtrn_dtype)i;
            return true;
        }
    return false;
}

void dtype_load_fp32(vtrn_dtype t, const void *src, float *dst, size_t n) {
    if (is_known(t))
        CPU_TABLE(dtype_kernel_table)->load[t](src, dst, n);
}

void dtype_store_fp32(vtrn_dtype t, const float *src, void *dst, size_t n) {
    if (is_known(t))
        CPU_TABLE(dtype_kernel_table)->store[t](src, dst, n);
}

/* xorshift64 (Marsaglia 2003, triple 13, 7, 17); the upper half is the better one. */
static uint32_t next_random(uint64_t *state) {
    uint64_t s = *state ? *state : 0x9e3779b97f4a7c15u;
    s ^= s << 13;
    s ^= s >> 7;
    s ^= s << 17;
    *state = s;
    return (uint32_t)(s >> 32);
}

static uint32_t format_store_stochastic(dtype_format f, float x, uint32_t random) {
    int cut = 23 - f.n_mantissa;
    uint32_t bits = float_to_bits(x), a = bits & 0x7fffffffu;
    if (a >= 0x7f800000u)
        return format_store(f, x);
    uint32_t code;
    if (a < (uint32_t)(128 - f.bias) << 23) {
        float t = ldexpf(bits_to_float(a), f.bias - 1 + f.n_mantissa);
        code = (uint32_t)t;
        code += (float)(random >> 8) * 0x1p-24f < t - (float)code;
    } else {
        code = ((a + (random & ((1u << cut) - 1))) >> cut) -
               ((uint32_t)(127 - f.bias) << f.n_mantissa);
    }
    code = code > f.overflow_code ? f.overflow_code : code;
    return code | bits >> 31 << f.n_magnitude;
}

/* Adds random bits below the cut (a power of 2) and truncates there; infinities and NaNs stay. */
static float cut_stochastic(float x, uint32_t cut, uint32_t random) {
    uint32_t bits = float_to_bits(x);
    if ((bits & 0x7f800000u) == 0x7f800000u)
        return x;
    return bits_to_float((bits + (random & (cut - 1))) & ~(cut - 1));
}

void dtype_store_fp32_stochastic(vtrn_dtype t, const float *src, void *dst, size_t n,
                                 uint64_t *state) {
    uint8_t *d8 = dst;
    uint16_t *d16 = dst;
    float *d32 = dst;
#define FORMAT_LOOP(out, type, format)                                                             \
    for (size_t i = 0; i < n; i++)                                                                 \
        out[i] = (type)format_store_stochastic(format, src[i], next_random(state));                \
    break
    switch (t) {
    case VTRN_DTYPE_FP8E4M3:
        FORMAT_LOOP(d8, uint8_t, FORMAT_FP8E4M3);
    case VTRN_DTYPE_FP8E4M3FN:
        FORMAT_LOOP(d8, uint8_t, FORMAT_FP8E4M3FN);
    case VTRN_DTYPE_FP8E5M2:
        FORMAT_LOOP(d8, uint8_t, FORMAT_FP8E5M2);
    case VTRN_DTYPE_FP8E3M4:
        FORMAT_LOOP(d8, uint8_t, FORMAT_FP8E3M4);
    case VTRN_DTYPE_FP16:
        FORMAT_LOOP(d16, uint16_t, FORMAT_FP16);
    case VTRN_DTYPE_BF16:
        for (size_t i = 0; i < n; i++)
            d16[i] = bf16_store(cut_stochastic(src[i], 1u << 16, next_random(state)));
        break;
    case VTRN_DTYPE_TF32:
        for (size_t i = 0; i < n; i++)
            d32[i] = tf32_round(cut_stochastic(src[i], 1u << 13, next_random(state)));
        break;
    default:
        dtype_store_fp32(t, src, dst, n);
    }
#undef FORMAT_LOOP
}

/* An element on its way from any type to any other: exactly one of the values counts. */
typedef struct wide {
    char kind; /* of the dtype table */
    double re, im;
    int64_t s;
    uint64_t u;
} wide;

static wide wide_load(vtrn_dtype t, const uint8_t *p) {
    wide w = {.kind = types[t].kind};
    float f;
#define INTEGER(E, type, field)                                                                    \
    case VTRN_DTYPE_##E: {                                                                         \
        type x;                                                                                    \
        memcpy(&x, p, sizeof x);                                                                   \
        w.field = x;                                                                               \
        break;                                                                                     \
    }
    switch (t) {
        INTEGER(INT8, int8_t, s)
        INTEGER(INT16, int16_t, s)
        INTEGER(INT32, int32_t, s)
        INTEGER(INT64, int64_t, s)
    case VTRN_DTYPE_INT2:
        w.s = sign_extend(*p, 2);
        break;
    case VTRN_DTYPE_INT4:
        w.s = sign_extend(*p, 4);
        break;
    case VTRN_DTYPE_UINT2:
        w.u = *p & 0x3;
        break;
    case VTRN_DTYPE_UINT4:
        w.u = *p & 0xf;
        break;
        INTEGER(UINT8, uint8_t, u)
        INTEGER(UINT16, uint16_t, u)
        INTEGER(UINT32, uint32_t, u)
        INTEGER(UINT64, uint64_t, u)
        INTEGER(FP64, double, re)
        INTEGER(FP32, float, re)
    case VTRN_DTYPE_PRED:
        w.u = *p != 0;
        w.kind = 'U';
        break;
    case VTRN_DTYPE_C64:
        memcpy(&f, p, sizeof f);
        w.re = f;
        memcpy(&f, p + sizeof f, sizeof f);
        w.im = f;
        break;
    case VTRN_DTYPE_C128:
        memcpy(&w.re, p, sizeof w.re);
        memcpy(&w.im, p + sizeof w.re, sizeof w.im);
        break;
    default:
        dtype_load_fp32(t, p, &f, 1);
        w.re = f;
    }
#undef INTEGER
    return w;
}

static double wide_to_double(const wide *w) {
    return w->kind == 'S' ? (double)w->s : w->kind == 'U' ? (double)w->u : w->re;
}

/* On the way to fp32 and narrower types. Integers round through fp32, as ml_dtypes does. A double
 * rounds once: for types narrower than fp32 the fp32's last bit is sticky (round to odd), so that
 * the second rounding depends on all bits of the double. */
static float wide_to_float(const wide *w, vtrn_dtype to) {
    if (w->kind == 'S')
        return (float)w->s;
    if (w->kind == 'U')
        return (float)w->u;
    float f = (float)w->re;
    if (to == VTRN_DTYPE_FP32 || f == w->re || !(fabs(w->re) < INFINITY))
        return f;
    uint32_t bits = float_to_bits(f);
    if (fabs((double)f) > fabs(w->re))
        bits--; /* toward zero, then sticky */
    return bits_to_float(bits | 1);
}

static int64_t double_to_int(double x, int64_t low, int64_t high) {
    if (!(x == x))
        return 0;
    if (x >= (double)high) /* high rounds up to a power of two as a double, or is exact */
        return high;
    return x <= (double)low ? low : (int64_t)x;
}

static uint64_t double_to_uint(double x, uint64_t high) {
    return !(x > 0.0) ? 0 : x >= (double)high ? high : (uint64_t)x;
}

static void wide_store_int(const wide *w, vtrn_dtype to, uint8_t *p) {
    int n_bits = dtype_bits(to), n_spare_bits = 64 - n_bits; /* of an integer type: 2 to 64 bits */
    uint64_t u = w->kind == 'S' ? (uint64_t)w->s : w->u; /* wraps when the low bits are copied */
    if (w->kind == 'F' || w->kind == 'C') {
        if (types[to].kind == 'S')
            u = (uint64_t)double_to_int(w->re, INT64_MIN >> n_spare_bits,
                                        INT64_MAX >> n_spare_bits);
        else
            u = double_to_uint(w->re, UINT64_MAX >> n_spare_bits);
    }
    if (n_bits < 8)
        u &= (1u << n_bits) - 1;
    memcpy(p, &u, dtype_sizes[to]); /* little-endian hosts only, like the device's memory */
}

static void wide_store(const wide *w, vtrn_dtype to, uint8_t *p) {
    float f;
    double d;
    switch (types[to].kind) {
    case 'S':
    case 'U':
        wide_store_int(w, to, p);
        break;
    case 'B':
        *p = w->kind == 'S' ? w->s != 0 : w->kind == 'U' ? w->u != 0 : w->re != 0;
        break;
    case 'C':
        d = wide_to_double(w);
        if (to == VTRN_DTYPE_C128) {
            memcpy(p, &d, sizeof d);
            memcpy(p + sizeof d, &w->im, sizeof w->im);
            break;
        }
        f = wide_to_float(w, VTRN_DTYPE_FP32);
        memcpy(p, &f, sizeof f);
        f = (float)w->im;
        memcpy(p + sizeof f, &f, sizeof f);
        break;
    default:
        if (to == VTRN_DTYPE_FP64) {
            d = wide_to_double(w);
            memcpy(p, &d, sizeof d);
            break;
        }
        f = wide_to_float(w, to);
        dtype_store_fp32(to, &f, p, 1);
    }
}

/* Types whose every value fp32 holds. */
static bool fits_fp32(vtrn_dtype t) {
    return dtype_sizes[t] <= 2 || t == VTRN_DTYPE_FP32 || t == VTRN_DTYPE_TF32;
}

static bool converts_through_fp32(vtrn_dtype from, vtrn_dtype to) {
    bool to_float_or_pred =
        to == VTRN_DTYPE_PRED || (types[to].kind == 'F' && to != VTRN_DTYPE_FP64);
    return to_float_or_pred &&
           (fits_fp32(from) || from == VTRN_DTYPE_INT32 || from == VTRN_DTYPE_UINT32);
}

void dtype_convert(vtrn_dtype from, const void *src, vtrn_dtype to, void *dst, size_t n) {
    if (!is_known(from) || !is_known(to))
        return;
    const uint8_t *s = src;
    uint8_t *d = dst;
    size_t s_size = dtype_sizes[from], d_size = dtype_sizes[to];
    if (from == to && from != VTRN_DTYPE_PRED) {
        memmove(dst, src, n * s_size);
        return;
    }
    if (converts_through_fp32(from, to)) {
        float chunk[1024];
        for (size_t i = 0; i < n; i += 1024) {
            size_t m = n - i < 1024 ? n - i : 1024;
            dtype_load_fp32(from, s + i * s_size, chunk, m);
            dtype_store_fp32(to, chunk, d + i * d_size, m);
        }
        return;
    }
    for (size_t i = 0; i < n; i++) {
        wide w = wide_load(from, s + i * s_size);
        wide_store(&w, to, d + i * d_size);
    }
}
