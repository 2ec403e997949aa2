/* The states that are solved together: of one block, or, in dense order, of several.
 * Floor 9: pipeline. */
#ifndef MPRESS_UNITS_H
#define MPRESS_UNITS_H

#include "solve.h"

typedef struct unit {
    const mp_batch_item *item; /* the block it belongs to; borrowed */
    int state;
    mp_moment *moment; /* NULL where no linear map of the state is to be compressed */
    mp_grid grid;      /* where it is factorised */
    mp_outcome outcome;
    mp_factors factors[MP_MAX_LINEARS]; /* by linear map, where the method factors */
} unit;

/* Whether any linear map of the state is to be compressed. */
int unit_is_wanted(const mp_runner *runner, int state, const int *skip);

/* The moment of a unit whose item and state are set, if it is wanted.  Collective; agreed. */
mp_status unit_open(const mp_runner *runner, unit *u);
void unit_close(unit *u);

/* All linear maps of the units, whose moments are measured: factorised side by side, then compressed one
 * unit after another by all ranks.  Collective; agreed. */
mp_status units_compress(mp_runner *runner, unit *units, int count);

#endif
