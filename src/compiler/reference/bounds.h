/* What a right result may be: the reference's value of each element, and how far from it an engine
 * may end that rounds where the reference does not, or in another order.
 *
 * Floats of up to four bytes are evaluated in double. After each op the exact result is rounded to
 * the op's type, which is the value; the radius covers
 *
 *     what the operands' radii can do to the result (interval arithmetic on the op),
 *     rounding to the type or, as tiles in SBUF and PSUM may, only to fp32,
 *     a few units in the last place of fp32 for functions (bounds_ulps),
 *     (4 + s / 4) 2^-24 sum |terms| for a sum of n terms in fp32; s is the number of additions in a
 *     row: n for scans and scatters, min(n, 512) + n / 128 for reductions and products; windows of
 * a narrower type may round each partial sum to it.
 *
 * Integers, comparisons of exact values and all that only moves data have no radius. */
#ifndef VTRN_COMPILER_REFERENCE_BOUNDS_H
#define VTRN_COMPILER_REFERENCE_BOUNDS_H

#include "compiler/graph/graph.h"

typedef struct bounded {
    void *value;    /* malloc'd: doubles where bounds_is_wide(), else the type's own elements */
    double *radius; /* malloc'd, by element; INFINITY: unknown; NULL: exact */
} bounded;

/* Whether values of the type are evaluated, and held, as doubles. */
bool bounds_is_wide(vtrn_dtype t);
/* n elements of type t <-> doubles; t is wide. Rounds to nearest even. */
void bounds_load(vtrn_dtype t, const void *src, double *dst, int64_t n);
void bounds_store(vtrn_dtype t, const double *src, void *dst, int64_t n);

/* Evaluates the body of g, which has no control flow. values[n_values]: the body's arguments come
 * in, its results come out; all other elements are zero before and after. ran_as_reference[n_ops]:
 * the op was a reference op in the program, so that its results have the same bits. */
vtrn_status bounds_evaluate(const graph *g, const uint8_t *ran_as_reference, bounded *values);
void bounds_release(bounded *values, uint32_t n);

#endif
