/* The table of the routines for one kind of number. */
#include "compiler/linalg/linalg_routines.h"

#if LINALG_COMPLEX
const linalg VTRN_AT_LEVEL(linalg_complex) = {
#else
const linalg VTRN_AT_LEVEL(linalg_real) = {
#endif
    .scalar_size = sizeof(scalar),
    .qr = LINALG(qr),
    .qr_pivoted = LINALG(qr_pivoted),
    .reflections_product = LINALG(reflections_product),
    .tridiagonal = LINALG(tridiagonal),
    .eigh = LINALG(eigh),
    .reflections_apply = LINALG(reflections_apply),
    .svd = LINALG(svd),
    .lu = LINALG(lu),
    .cholesky = LINALG(cholesky),
    .solve_left = LINALG(solve_left),
    .solve_right = LINALG(solve_right),
    .hessenberg = LINALG(hessenberg),
    .balance = LINALG(balance),
    .schur = LINALG(schur),
    .schur_of_adjoint = LINALG(schur_of_adjoint),
    .eigenvalues = LINALG(eigenvalues),
    .eigenvectors = LINALG(eigenvectors),
    .solve_tridiagonal = LINALG(solve_tridiagonal),
};
