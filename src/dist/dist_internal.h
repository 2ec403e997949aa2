/* What the files of this floor share and nobody else needs.
 * Floor 3: dist. */
#ifndef MPRESS_DIST_INTERNAL_H
#define MPRESS_DIST_INTERNAL_H

#include "mpress/drect.h"

/* The communicator of the ranks of the grid, in matrix->members.  Collective over the grid. */
mp_status mp_dist_open_members(mp_dmat *matrix);

/* The BLACS context of a grid, whose ranks alone take part.  Collective over the grid; does nothing from
 * the second call on. */
mp_status mp_dist_open_context(mp_dmat *matrix);

/* Descriptor of ScaLAPACK: type, context, M, N, MB, NB, row source, column source, LLD. */
void mp_dist_describe_rect(const mp_drect *rect, int descriptor[9]);

/* The factorisation of dlinalg.h for a grid of one row, with the same bits on any number of columns. */
mp_status mp_dist_cholesky_exact(mp_dmat *matrix, int64_t *failed_at);

/* Gives back what the calls of ScaLAPACK on this matrix have opened; nothing if there were none. */
void mp_dist_close_context(mp_dmat *matrix);

#endif
