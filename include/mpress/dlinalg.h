/* Factorisations of distributed matrices: the only module that calls ScaLAPACK and BLACS.
 * Floor 3: dist. */
#ifndef MPRESS_DLINALG_H
#define MPRESS_DLINALG_H

#include "mpress/dmat.h"

/* Copies the strict lower triangle to the upper one, or back.  Collective over the grid. */
mp_status mp_dmat_mirror(mp_dmat *matrix, mp_half from);

/* In place, lower triangle: A = L L^T by p?potrf (LAPACK's own on a grid of one rank).  The strict
 * upper triangle is not touched.  *failed_at is 0, or the order (1-based) of the leading minor that
 * is not positive definite.  Collective over the grid; ranks outside return at once.
 * Cost: order^3 / 3 flop.  Bits: those of LAPACK on one rank; on more, those of the grid. */
mp_status mp_dmat_cholesky(mp_dmat *matrix, int64_t *failed_at);

/* "libscalapack...so.2.2": the file that p?potrf was resolved to. */
const char *mp_scalapack_description(void);

#endif
