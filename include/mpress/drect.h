/* Rectangular double-precision matrices in tiles, on the grid of a square one (dmat.h), and the steps of
 * low-rank approximation on ScaLAPACK.
 * Floor 3: dist.
 *
 * Collective here means over the grid: ranks outside of it must not call.  What fails on one rank of the
 * grid is agreed among its ranks. */
#ifndef MPRESS_DRECT_H
#define MPRESS_DRECT_H

#include "mpress/dmat.h"

/* Element (i, j) lies where tile (i / nb, j / nb) of the square matrix would; the last tiles are cut. */
typedef struct mp_drect {
    mp_dmat *on; /* whose grid, tiles and context these are; borrowed */
    int64_t rows, cols, local_rows, local_cols;
    double *data; /* [local_cols][local_rows], column-major; owned unless it is a view */
    int is_view;
} mp_drect;

/* Zeroed.  Collective.  Errors: MP_ERR_NOMEM, MP_ERR_NOFIT; agreed. */
mp_status mp_drect_create(mp_dmat *on, int64_t rows, int64_t cols, mp_drect **rect);
void mp_drect_free(mp_drect *rect);

/* The square matrix itself, as it stands, in the shape of the others; no data of its own. */
mp_drect mp_drect_view(mp_dmat *matrix);

/* The place in the whole matrix of a local row or column. */
int64_t mp_drect_row(const mp_drect *rect, int64_t local);
int64_t mp_drect_col(const mp_drect *rect, int64_t local);

/* C = op(A) op(B); trans != 0 transposes.  `first_a` columns of A are passed over: op(A) is made of those
 * from there on (A^T: of rows), as many as C needs.  Collective.  Cost 2 rows cols inner flop. */
mp_status mp_drect_multiply(int trans_a, int trans_b, const mp_drect *a, int64_t first_a,
                            const mp_drect *b, mp_drect *c);

/* The lower triangle of C = A B^T, which is known to be symmetric, in panels: what lies above the diagonal
 * outside of a panel's square is not touched.  Collective.  Cost rows^2 inner flop and an eighth. */
mp_status mp_drect_multiply_lower(const mp_drect *a, const mp_drect *b, mp_drect *c);

/* To the first rows of `to` the columns of `from` from `first` on, as many as `to` has.  Collective. */
mp_status mp_drect_copy_columns(const mp_drect *from, int64_t first, mp_drect *to);

/* How long the parts of mp_drect_eigen took on this rank, seconds. */
typedef struct mp_eigen_times {
    double reduce, solve, back;
} mp_eigen_times;

/* Eigenvalues (rising, [order], on all ranks of the grid) of the symmetric matrix whose lower triangle is
 * given, and eigenvectors: columns [order - k, order) of `vectors` belong to the k largest; the others
 * hold nothing of use.  The matrix is destroyed.  Divide and conquer: p?sytrd, p?stedc, p?ormtr; on a
 * grid of one rank LAPACK's own.
 * Errors: MP_ERR_NUMERIC where it does not converge.  Collective.  Cost: 4/3 n^3 flop, half of them bound
 * by memory, and up to 4/3 n^3 + 2 n^2 k at the rate of products. */
mp_status mp_drect_eigen(mp_drect *matrix, int64_t k, double *values, mp_drect *vectors,
                         mp_eigen_times *times);

/* All of them by QR iteration (p?syev): slower, and surer. */
mp_status mp_drect_eigen_by_qr(mp_drect *matrix, double *values, mp_drect *vectors);

/* W [m, n], m >= n, becomes the reflectors of W = Q R; R [n, n] is filled.  mp_drect_apply_q then makes
 * C [m, k] = Q C.  Collective. */
typedef struct mp_qr {
    mp_drect *reflectors; /* borrowed */
    double *tau;          /* of this rank's columns; owned */
} mp_qr;
mp_status mp_drect_qr(mp_drect *w, mp_drect *r, mp_qr *qr);
mp_status mp_drect_apply_q(const mp_qr *qr, mp_drect *c);
void mp_qr_free(mp_qr *qr);

/* The road of the papers, for comparison.  S is the lower triangle of `factor`:
 *   A = A S (p?trmm), or A = A S^-1 (p?trsm);
 *   A = U diag(values) V^T by p?gesvd, values falling, [min(rows, cols)]; A is destroyed. */
mp_status mp_drect_times_lower(const mp_drect *factor, int inverse, mp_drect *a);
mp_status mp_drect_svd(mp_drect *a, double *values, mp_drect *u, mp_drect *vt);

/* The same status on all ranks of the grid. */
mp_status mp_grid_agree(mp_dmat *on, mp_status mine);

#endif
