/* Which elements the verifier looks at, and index arithmetic over row-major tensors. */
#ifndef VTRN_COMPILER_PLAN_VERIFY_SAMPLE_H
#define VTRN_COMPILER_PLAN_VERIFY_SAMPLE_H

#include "compiler/graph/graph.h"
#include "compiler/plan/view.h"

enum { SAMPLE_COUNT = 16 };

/* Element number i of n for the i-th look: the corners first, then a multiplicative sequence that
 * spreads over all elements and is the same in every run. */
static inline int64_t sample_index(int64_t n, int i) {
    if (i == 0)
        return 0;
    if (i == 1)
        return n - 1;
    return (int64_t)(((uint64_t)i * 0x9e3779b97f4a7c15ull >> 1) % (uint64_t)n);
}

static inline void sample_unravel(const graph_type *t, int64_t linear, int64_t *at) {
    for (int d = t->rank - 1; d >= 0; d--) {
        at[d] = linear % t->dims[d];
        linear /= t->dims[d];
    }
}

static inline int64_t sample_ravel(const graph_type *t, const int64_t *at) {
    int64_t linear = 0;
    for (int d = 0; d < t->rank; d++)
        linear = linear * t->dims[d] + at[d];
    return linear;
}

/* Offset of linear index `linear` over factors. */
static inline int64_t sample_offset(const view_factor *f, int n, int64_t linear) {
    int64_t offset = 0;
    for (int i = n - 1; i >= 0; i--) {
        offset += linear % f[i].size * f[i].stride;
        linear /= f[i].size;
    }
    return offset;
}

/* The element of memory that a view's element `linear` is. */
static inline int64_t sample_element(const view *v, int64_t linear) {
    return v->offset + sample_offset(v->f, v->n, linear);
}

#endif
