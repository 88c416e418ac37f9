/* The routines behind the tables linalg_real and linalg_complex; see linalg.h. */
#ifndef VTRN_COMPILER_LINALG_LINALG_ROUTINES_H
#define VTRN_COMPILER_LINALG_LINALG_ROUTINES_H

#include "compiler/linalg/linalg_scalar.h"

void LINALG(qr)(void *a, int64_t m, int64_t n, void *tau);
void LINALG(qr_pivoted)(void *a, int64_t m, int64_t n, int64_t *pivots, void *tau, void *work);
void LINALG(reflections_product)(void *a, int64_t m, int64_t n, int64_t n_tau, const void *tau);
void LINALG(tridiagonal)(void *a, int64_t n, double *d, double *e, void *tau, void *work);
bool LINALG(eigh)(void *a, int64_t n, double *w, void *work);
void LINALG(reflections_apply)(const linalg_reflections *r, bool is_adjoint, void *c,
                               int64_t n_columns);
bool LINALG(svd)(void *a, int64_t m, int64_t n, const linalg_vectors *vectors, double *s,
                 void *work);
void LINALG(lu)(void *a, int64_t m, int64_t n, int64_t *pivots);
bool LINALG(cholesky)(void *a, int64_t n);
void LINALG(solve_left)(const linalg_triangle *t, const void *a, int64_t n, void *b,
                        int64_t n_columns);
void LINALG(solve_right)(const linalg_triangle *t, const void *a, int64_t n, void *b,
                         int64_t n_rows);
void LINALG(hessenberg)(void *a, int64_t n, void *tau, void *work);
void LINALG(balance)(void *a, int64_t n, double *d);
bool LINALG(schur)(void *a, int64_t n, void *z, void *work);
void LINALG(schur_of_adjoint)(void *t, int64_t n, void *z);
void LINALG(eigenvalues)(const void *t, int64_t n, double complex *w);
void LINALG(eigenvectors)(void *t, int64_t n, const void *z, const double *d, double complex *v,
                          void *work);
bool LINALG(solve_tridiagonal)(const linalg_tridiagonal *t, void *b, int64_t n_columns, void *work);

#endif
