/* Factorisations of distributed square matrices: with drect.h the only door to ScaLAPACK and BLACS.
 * Floor 3: dist. */
#ifndef MPRESS_DLINALG_H
#define MPRESS_DLINALG_H

#include "mpress/dmat.h"

/* Copies the strict lower triangle to the upper one, or back.  Collective over the grid. */
mp_status mp_dmat_mirror(mp_dmat *matrix, mp_half from);

/* Up to this order, and on a grid of one row, the factor has the same bits on any number of ranks. */
enum { MP_EXACT_ORDER = 4096 };

/* In place, lower triangle: A = L L^T.  Up to MP_EXACT_ORDER on a grid of one row by tile columns of
 * our own (cholesky.c says why), otherwise by p?potrf, whose bits are those of the grid.  The strict
 * upper triangle is not touched.  *failed_at is 0, or the order (1-based) of the leading minor that is
 * not positive definite.  Collective over the grid; ranks outside return at once.
 * Cost: order^3 / 3 flop. */
mp_status mp_dmat_cholesky(mp_dmat *matrix, int64_t *failed_at);

/* "libscalapack...so.2.2": the file that p?potrf was resolved to. */
const char *mp_scalapack_description(void);

#endif
