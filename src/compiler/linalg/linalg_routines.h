/* The routines behind the tables linalg_real and linalg_complex; see linalg.h. */
#ifndef VTRN_COMPILER_LINALG_LINALG_ROUTINES_H
#define VTRN_COMPILER_LINALG_LINALG_ROUTINES_H

#include "compiler/linalg/linalg_scalar.h"

void LINALG(qr)(void *matrix, int64_t m, int64_t n, void *taus);
void LINALG(qr_pivoted)(void *matrix, int64_t m, int64_t n, int64_t *pivots, void *taus,
                        void *work);
void LINALG(reflections_product)(void *matrix, int64_t m, int64_t n, int64_t n_tau,
                                 const void *taus);
void LINALG(tridiagonal)(void *matrix, int64_t n, double *d, double *e, void *taus, void *work);
bool LINALG(eigh)(void *matrix, int64_t n, double *w, void *work);
void LINALG(reflections_apply)(const linalg_reflections *r, bool is_adjoint, void *matrix,
                               int64_t n_columns);
bool LINALG(svd)(void *matrix, int64_t m, int64_t n, const linalg_vectors *vectors, double *s,
                 void *work);
void LINALG(lu)(void *matrix, int64_t m, int64_t n, int64_t *pivots);
bool LINALG(cholesky)(void *matrix, int64_t n);
void LINALG(solve_left)(const linalg_triangle *t, const void *a, int64_t n, void *b,
                        int64_t n_columns);
void LINALG(solve_right)(const linalg_triangle *t, const void *matrix, int64_t n, void *b,
                         int64_t n_rows);
void LINALG(hessenberg)(void *matrix, int64_t n, void *taus, void *work);
void LINALG(balance)(void *matrix, int64_t n, double *d);
bool LINALG(schur)(void *matrix, int64_t n, void *vectors, void *work);
void LINALG(schur_of_adjoint)(void *form, int64_t n, void *vectors);
void LINALG(eigenvalues)(const void *form, int64_t n, double complex *w);
void LINALG(eigenvectors)(void *form, int64_t n, const void *vectors, const double *d,
                          double complex *v, void *work);
bool LINALG(solve_tridiagonal)(const linalg_tridiagonal *t, void *right, int64_t n_columns,
                               void *work);

#endif
