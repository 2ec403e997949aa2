/* What the files of this floor share and nobody else needs.
 * Floor 3: dist. */
#ifndef MPRESS_DIST_INTERNAL_H
#define MPRESS_DIST_INTERNAL_H

#include "mpress/dmat.h"

/* The communicator of the ranks of the grid, in matrix->members.  Collective over the grid. */
mp_status mp_dist_open_members(mp_dmat *matrix);

/* The factorisation of dlinalg.h for a grid of one row, with the same bits on any number of columns. */
mp_status mp_dist_cholesky_exact(mp_dmat *matrix, int64_t *failed_at);

/* Gives back what the calls of ScaLAPACK on this matrix have opened; nothing if there were none. */
void mp_dist_close_context(mp_dmat *matrix);

#endif
