/* Dense linear algebra on one rank: the only module that calls BLAS and LAPACK.
 * Floor 2: tensor.
 *
 * Matrices are row-major unless said otherwise; a leading dimension is the distance in elements
 * between rows.  Single-precision products have the same bits on any number of threads (linalg.c says
 * how); the rest is the library's.  Sizes pass one gate to the library's 32-bit integers (MP_ERR_NOFIT). */
#ifndef MPRESS_LINALG_H
#define MPRESS_LINALG_H

#include "mpress/error.h"

#include <stdint.h>

mp_status mp_to_blas_int(int64_t n, const char *what, int *out);

/* C [m, n] = alpha op(A) op(B) + beta C, op(A) is [m, k], op(B) is [k, n]; trans != 0 transposes. */
mp_status mp_sgemm(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                   const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                   int64_t ldc);
mp_status mp_dgemm(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, double alpha,
                   const double *a, int64_t lda, const double *b, int64_t ldb, double beta,
                   double *c, int64_t ldc);

/* Upper triangle of C [n, n] = A^T A, A is [k, n]; of the lower one, squares on the diagonal are
 * written too, the rest is not touched. */
mp_status mp_ssyrk(int64_t n, int64_t k, const float *a, int64_t lda, float *c, int64_t ldc);

/* In place, lower triangle of the column-major A [n, n]: A = L L^T; the strict upper triangle is not
 * touched.  *failed_at is 0, or the order (1-based) of the leading minor that is not positive definite. */
mp_status mp_dpotrf(int64_t n, double *a, int64_t lda, int64_t *failed_at);

/* The steps of a blocked Cholesky factorisation, column-major, double.
 * B [m, n] = B L^-T, L [n, n] lower triangular. */
mp_status mp_dtrsm_below(int64_t m, int64_t n, const double *l, int64_t ldl, double *b,
                         int64_t ldb);

/* C [m, n] -= A B^T, A is [m, k], B is [n, k]; m >= n, A begins with B, and of the n x n square on top
 * only the lower triangle is touched. */
mp_status mp_dupdate_column(int64_t m, int64_t n, int64_t k, const double *a, int64_t lda,
                            double *c, int64_t ldc);

/* In place inverse of an upper triangular A [n, n] with non-zero diagonal. */
mp_status mp_dtrtri_upper(int64_t n, double *a, int64_t lda);

/* Eigenvalues, rising, of the symmetric column-major A [n, n], lower triangle given, which is destroyed;
 * columns [n - k, n) of `vectors` [n, n] belong to the k largest, the others hold nothing of use.
 * Divide and conquer.  seconds[3] += reduction to tridiagonal form, its eigenproblem, back
 * transformation.  Errors: MP_ERR_NUMERIC where it does not converge, MP_ERR_NOFIT.
 * Memory: n^2 doubles more.  Cost: 4/3 n^3 flop, half of them bound by memory; 4/3 n^3 + 2 n^2 k more. */
mp_status mp_dsyev_largest(int64_t n, double *a, int64_t k, double *values, double *vectors,
                           double seconds[3]);

/* What computes the single-precision products: "oneDNN 2.6.3", or "BLAS". */
const char *mp_sgemm_description(void);

/* Best rate of a square product in single or double precision, flop/s of this rank with its threads:
 * best of three at order `n`. */
mp_status mp_gemm_rate(int64_t n, int single, double *flops);

/* Threads of BLAS and of our own OpenMP loops on this rank. */
void mp_threads_set(int threads);
int mp_threads(void);

/* "OpenBLAS 0.3.21 ..., /usr/lib/.../libopenblas.so.0": the library's own words where it has any, and
 * the file that sgemm was resolved to. */
const char *mp_blas_description(void);

/* Whether it looks like the reference BLAS: an order of magnitude slower in silence. */
int mp_blas_is_reference(void);

#endif
