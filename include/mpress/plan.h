/* Which ranks factorise which state: a cost model, and the schedule that it prefers.
 * Floor 9: pipeline. */
#ifndef MPRESS_PLAN_H
#define MPRESS_PLAN_H

#include "mpress/dmat.h"

/* Seconds to factorise a matrix of order n on a grid (Cholesky of ScaLAPACK, users' guide form:
 * arithmetic, words of the panels, messages). */
double mp_plan_factor_seconds(int64_t n, const mp_grid *grid);

/* A grid for each of `count` states of the given widths, which are factorised side by side where the
 * model says that it gains, in turn on all ranks where not.  Up to MP_EXACT_ORDER (dlinalg.h) a grid
 * has one row: then the bits of the factor follow from n alone.  Local: the same on all ranks. */
void mp_plan_grids(const int64_t *widths, int count, int ranks, mp_grid *grids);

#endif
