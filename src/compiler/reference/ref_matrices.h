/* Operations on the matrices in the last two dimensions of their operands: what their types must
 * be, said in a line of text, and the loop over the matrices. */
#ifndef VTRN_COMPILER_REFERENCE_REF_MATRICES_H
#define VTRN_COMPILER_REFERENCE_REF_MATRICES_H

#include "compiler/linalg/linalg.h"
#include "compiler/reference/ref_internal.h"

enum { MATRICES_MAX_VALUES = 8 };

/* One matrix of each operand and result. Matrices are column-major; their elements are scalars of
 * `la`, double, double complex or int64_t, by the letter of the signature: s, r, c, i. Results are
 * zero on entry. */
typedef struct matrices_call {
    const graph_op *op;
    const linalg *la;
    bool is_complex;
    uint32_t n_results;
    int64_t size['z' - 'a' + 1]; /* by letter */
    void *in[MATRICES_MAX_VALUES], *out[MATRICES_MAX_VALUES];
    void *work; /* linalg_work(m, n) scalars */
    void *work_matrices;
} matrices_call;

typedef struct matrices_routine {
    const char *target; /* of the custom call */
    /* A word for each operand and, behind ->, each result: the type's letter, then one for each
     * dimension behind those of the batch. s is the type of operand 0, a float or complex number; r
     * and c are its real and its complex counterpart; i is int32. The same letter means the same
     * size. */
    const char *signature;
    bool (*fits)(const matrices_call *c); /* of sizes and attributes; NULL: no more rules */
    bool (*run)(matrices_call *c);        /* false: results become NaN */
    double flops; /* for each element of the largest operand and each row or column of the
                     first, whichever are fewer */
    uint8_t n_work_matrices;   /* of the size of operand 0 */
    bool has_optional_results; /* the last words may have none */
    bool takes_any; /* numbers that are not finite too; otherwise they make results NaN */
} matrices_routine;

bool matrices_fit(const matrices_routine *r, const graph *g, const graph_op *op);
/* Fails as MALFORMED when they do not fit. */
vtrn_status matrices_run(const matrices_routine *r, ref_call *ref);
uint64_t matrices_flops(const matrices_routine *r, const graph *g, const graph_op *op);

/* A number of the attributes of a custom call of ours: "name=number" between spaces. */
int64_t matrices_attr(const graph_op *op, const char *name, int64_t otherwise);

static inline int64_t matrices_size(const matrices_call *c, char letter) {
    return c->size[letter - 'a'];
}

/* The routine of an op, NULL when there is none for it. */
const matrices_routine *matrices_find(const graph_op *op);

#endif
