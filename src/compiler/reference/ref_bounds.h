/* What the files of the bounds share. */
#ifndef VTRN_COMPILER_REFERENCE_REF_BOUNDS_H
#define VTRN_COMPILER_REFERENCE_REF_BOUNDS_H

#include "compiler/reference/bounds.h"
#include "compiler/reference/ref_internal.h"

typedef struct bounds {
    const graph *g;
    graph wide;  /* the same, but doubles for the floats that are evaluated so */
    graph loose; /* the same; its types are set for one evaluation of radii at a time */
    bounded *values;
} bounds;

vtrn_status bounds_array(int64_t n, size_t size, void **out); /* malloc'd, zeroed */
/* Rounds v[n], exact results of an op of type t that are off by at most delta[n], to the type, and
 * makes delta the radius of the rounded values. */
void bounds_settle(vtrn_dtype t, double *v, double *delta, int64_t n);
/* The radius, or NULL (freed) when all of it is zero. */
double *bounds_nonzero(double *radius, int64_t n);

/* An elementwise op whose floats are all wide. */
vtrn_status bounds_elementwise(const bounds *all, const graph_op *op, bounded *out);

#endif
