/* The table of linear algebra that JAX asks for by custom call: factorisations and what solves with
 * them, each for one matrix. The targets vtrn.* are those of python/vtrn/jax_linalg.py. */
#include "compiler/reference/ref_matrices.h"

static void *scalar_at(const matrices_call *c, void *numbers, int64_t i) {
    return (char *)numbers + i * (int64_t)c->la->scalar_size;
}

static void copy(const matrices_call *c, void *dst, const void *src, int64_t n) {
    memcpy(dst, src, (size_t)n * c->la->scalar_size);
}

static int64_t lesser(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The lower triangle of a becomes the adjoint of the upper one, which is what the caller means. */
static void use_upper(const matrices_call *c, void *a, int64_t n) {
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = j + 1; i < n; i++)
            if (c->is_complex)
                ((double complex *)a)[j * n + i] = conj(((double complex *)a)[i * n + j]);
            else
                ((double *)a)[j * n + i] = ((double *)a)[i * n + j];
}

static bool eigh_fits(const matrices_call *c) {
    const int64_t first = matrices_attr(c->op, "first", 0), n = matrices_size(c, 'n');
    return c->n_results == 2 && first >= 0 && first <= n && matrices_size(c, 'd') <= n - first;
}

static bool run_eigh(matrices_call *c) {
    const int64_t n = matrices_size(c, 'n'), d = matrices_size(c, 'd');
    const int64_t first = matrices_attr(c->op, "first", 0);
    double *values = c->work_matrices;
    if (!matrices_attr(c->op, "lower", 1))
        use_upper(c, c->in[0], n);
    if (!c->la->eigh(c->in[0], n, values, c->work))
        return false;
    copy(c, c->out[0], scalar_at(c, c->in[0], first * n), n * d);
    memcpy(c->out[1], values + first, (size_t)d * sizeof *values);
    return true;
}

static bool qr_fits(const matrices_call *c) {
    return c->n_results == 2 &&
           matrices_size(c, 'k') == lesser(matrices_size(c, 'm'), matrices_size(c, 'n'));
}

static bool run_qr(matrices_call *c) {
    const int64_t m = matrices_size(c, 'm'), n = matrices_size(c, 'n');
    copy(c, c->out[0], c->in[0], m * n);
    c->la->qr(c->out[0], m, n, c->out[1]);
    return true;
}

static bool product_fits(const matrices_call *c) {
    return matrices_size(c, 'k') <= lesser(matrices_size(c, 'm'), matrices_size(c, 'n'));
}

static bool run_product(matrices_call *c) {
    const int64_t m = matrices_size(c, 'm'), n = matrices_size(c, 'n');
    copy(c, c->out[0], c->in[0], m * n);
    c->la->reflections_product(c->out[0], m, n, matrices_size(c, 'k'), c->in[1]);
    return true;
}

static const matrices_routine ROUTINES[] = {
    {"Qr", "smn -> smn sk", qr_fits, run_qr, 2, 0, false},
    {"ProductOfElementaryHouseholderReflectors", "smn sk -> smn", product_fits, run_product, 2, 0,
     false},
    {"vtrn.eigh", "snn -> snd rd", eigh_fits, run_eigh, 9, 1, false},
};

const matrices_routine *matrices_find(const graph_op *op) {
    for (size_t i = 0; op->name && i < sizeof ROUTINES / sizeof *ROUTINES; i++)
        if (!strcmp(op->name, ROUTINES[i].target))
            return &ROUTINES[i];
    return NULL;
}
