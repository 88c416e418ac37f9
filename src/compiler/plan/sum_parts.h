/* Into how many parts updates are cut that matmuls add up: each part is summed up exactly by
 * itself. */
#ifndef VTRN_COMPILER_PLAN_SUM_PARTS_H
#define VTRN_COMPILER_PLAN_SUM_PARTS_H

enum {
    INT_BYTES = 4,                    /* parts of a 32-bit integer (emit/int_bytes.h) */
    INT_BYTES_MAX_SUMMANDS = 1 << 16, /* bytes of so many add up to less than 2^24 */
    FLOAT_PARTS = 3,                  /* of floats that may not be finite (emit/non_finite.h) */
    MAX_SUM_PARTS = INT_BYTES,
};

#endif
