/* Data types: names, sizes and bit-exact conversion to and from fp32. */
#ifndef VTRN_BASE_DTYPE_H
#define VTRN_BASE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* DTYPE(ENUM, name, size_bytes, kind): kind is F(loat), S(igned), U(nsigned), B(ool), C(omplex),
 * X (packed). */
#define VTRN_DTYPES(DTYPE)                                                                         \
    DTYPE(PRED, "pred", 1, B)                                                                      \
    DTYPE(INT8, "int8", 1, S)                                                                      \
    DTYPE(INT16, "int16", 2, S)                                                                    \
    DTYPE(INT32, "int32", 4, S)                                                                    \
    DTYPE(INT64, "int64", 8, S)                                                                    \
    DTYPE(UINT8, "uint8", 1, U)                                                                    \
    DTYPE(UINT16, "uint16", 2, U)                                                                  \
    DTYPE(UINT32, "uint32", 4, U)                                                                  \
    DTYPE(UINT64, "uint64", 8, U)                                                                  \
    DTYPE(FP8E4M3, "fp8e4m3", 1, F)     /* IEEE-style, finite max 240: the legacy Neuron type */   \
    DTYPE(FP8E4M3FN, "fp8e4m3fn", 1, F) /* OCP, no infinity, max 448 */                            \
    DTYPE(FP8E5M2, "fp8e5m2", 1, F)                                                                \
    DTYPE(FP8E3M4, "fp8e3m4", 1, F)                                                                \
    DTYPE(BF16, "bf16", 2, F)                                                                      \
    DTYPE(FP16, "fp16", 2, F)                                                                      \
    DTYPE(TF32, "tf32", 4, F) /* fp32 storage, 10-bit mantissa */                                  \
    DTYPE(FP32, "fp32", 4, F)                                                                      \
    DTYPE(FP64, "fp64", 8, F) /* host and reference ops only: no engine has it */                  \
    DTYPE(C64, "complex64", 8, C)                                                                  \
    DTYPE(C128, "complex128", 16, C)                                                               \
    /* dtype_has_no_format() from here on; each value in the low bits of a byte. */                \
    DTYPE(INT2, "int2", 1, S)                                                                      \
    DTYPE(INT4, "int4", 1, S)                                                                      \
    DTYPE(UINT2, "uint2", 1, U)                                                                    \
    DTYPE(UINT4, "uint4", 1, U)                                                                    \
    DTYPE(FP4E2M1FN, "fp4e2m1fn", 1, F)           /* no infinity, no NaN, max 6 */                 \
    DTYPE(FP6E2M3FN, "fp6e2m3fn", 1, F)           /* max 7.5 */                                    \
    DTYPE(FP6E3M2FN, "fp6e3m2fn", 1, F)           /* max 28 */                                     \
    DTYPE(FP8E4M3FNUZ, "fp8e4m3fnuz", 1, F)       /* one NaN, no infinity, no -0; max 240 */       \
    DTYPE(FP8E5M2FNUZ, "fp8e5m2fnuz", 1, F)       /* max 57344 */                                  \
    DTYPE(FP8E4M3B11FNUZ, "fp8e4m3b11fnuz", 1, F) /* max 30 */                                     \
    DTYPE(FP8E8M0FNU, "fp8e8m0fnu", 1, F)         /* powers of two: a scale */                     \
    /* Four narrow floats in one element, the first in the lowest bits: moved, and MX operands. */ \
    DTYPE(FP8E4M3FN_X4, "fp8e4m3fn_x4", 4, X)                                                      \
    DTYPE(FP8E5M2_X4, "fp8e5m2_x4", 4, X)                                                          \
    DTYPE(FP4E2M1FN_X4, "fp4e2m1fn_x4", 2, X)

typedef enum vtrn_dtype {
#define DTYPE(e, name, size, kind) VTRN_DTYPE_##e,
    VTRN_DTYPES(DTYPE)
#undef DTYPE
        VTRN_DTYPE_COUNT
} vtrn_dtype;

const char *dtype_name(vtrn_dtype t);
extern const uint8_t dtype_sizes[VTRN_DTYPE_COUNT];
static inline size_t dtype_size(vtrn_dtype t) { /* bytes; 0 for what is no dtype */
    return (unsigned)t < VTRN_DTYPE_COUNT ? dtype_sizes[t] : 0;
}
int dtype_bits(vtrn_dtype t); /* of a value: fewer than its bytes have for the narrowest types */
/* Buffers and arguments of programs hold values of 2 and 4 bits packed, the first in the lowest
 * bits of the first byte; inside a program, and to the host, each stands in the low bits of a byte.
 */
int dtype_per_byte(vtrn_dtype t); /* 4 or 2 of the types that are packed, else 1 */
uint64_t dtype_packed_size(vtrn_dtype t, uint64_t n); /* bytes of n values in a buffer */
/* n values between a byte each and a buffer; of a type that is not packed, a copy. Bits beyond the
 * last value are 0, and so are those beyond a value's own. src and dst do not overlap. */
void dtype_pack(vtrn_dtype t, const void *src, void *dst, size_t n);
void dtype_unpack(vtrn_dtype t, const void *src, void *dst, size_t n);
/* Whether no NeuronCore has a format for the type: it moves uncast, and reference ops compute. */
bool dtype_has_no_format(vtrn_dtype t);
/* Whether engines compute with the type: it has a format, of 4 bytes at most. */
bool dtype_is_on_engines(vtrn_dtype t);
/* Of a packed type that of its four values, else t. */
vtrn_dtype dtype_of_packed(vtrn_dtype t);
bool dtype_is_complex(vtrn_dtype t);
bool dtype_is_float(vtrn_dtype t);
bool dtype_is_signed_int(vtrn_dtype t);
bool dtype_is_unsigned_int(vtrn_dtype t); /* PRED is not an integer here */
bool dtype_is_int(vtrn_dtype t);
bool dtype_from_name(const char *name, vtrn_dtype *out);

/* How fp32 becomes narrower. */
typedef enum vtrn_rounding {
    VTRN_ROUND_NEAREST_EVEN = 0,
    VTRN_ROUND_STOCHASTIC, /* up or down with probability proportional to the distance */
} vtrn_rounding;

/* n elements of type t at src -> fp32 at dst. Integers convert by value (64-bit ones round),
 * PRED gives 0 or 1. src and dst do not overlap. Fast: vectorised for every engine type. */
void dtype_load_fp32(vtrn_dtype t, const void *src, float *dst, size_t n);

/* n fp32 at src -> elements of type t at dst: RNE; integers round to nearest even and saturate,
 * NaN gives 0; fp8e4m3/e5m2/e3m4/fp16/bf16 overflow to infinity, e4m3fn to NaN (as ml_dtypes).
 * Source: docs/hardware.md, "Numbers". src and dst may be the same when sizes match. */
void dtype_store_fp32(vtrn_dtype t, const float *src, void *dst, size_t n);

/* The same with stochastic rounding for float types. state: xorshift state, advanced. */
void dtype_store_fp32_stochastic(vtrn_dtype t, const float *src, void *dst, size_t n,
                                 uint64_t *state);

/* n elements of any type to any type, the slow exact way of StableHLO convert: float->int truncates
 * and saturates (NaN gives 0), int->int wraps, anything->PRED is != 0; of a complex number only the
 * real part counts. */
void dtype_convert(vtrn_dtype from, const void *src, vtrn_dtype to, void *dst, size_t n);

#endif
