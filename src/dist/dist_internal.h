/* What the files of this floor share and nobody else needs.
 * Floor 3: dist. */
#ifndef MPRESS_DIST_INTERNAL_H
#define MPRESS_DIST_INTERNAL_H

#include "mpress/dmat.h"

/* Gives back what the calls of ScaLAPACK on this matrix have opened; nothing if there were none. */
void mp_dist_close_context(mp_dmat *matrix);

#endif
