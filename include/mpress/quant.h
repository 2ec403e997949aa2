/* Integer grids: which numbers a quantised weight can be.
 * Floor 2: tensor.
 *
 * Groups of consecutive columns of one row share a scale s and a zero point z, and a weight is (u - z) s, u
 * a code of `bits` bits, 0 .. 2^bits - 1:
 *   symmetric   z = 2^(bits-1), s = max|w| / ((2^bits - 1) / 2)
 *   asymmetric  z one of the codes, s = (max - min) / (2^bits - 1), the range widened to hold 0
 * What is computed with, everywhere (propagation, evaluation, loaders of an export), is (u - z) s rounded to
 * the dtype that the weight has in the model.  Scales are rounded to that dtype before anything is
 * quantised with them, and are never 0.
 *
 * Since |u - z| < 2^8, u follows exactly from the rounded value, s and z, also in bf16: who passes weights
 * on a grid need not pass codes beside them. */
#ifndef MPRESS_QUANT_H
#define MPRESS_QUANT_H

#include "mpress/dtype.h"
#include "mpress/error.h"

#include <stdint.h>

typedef struct mp_quant {
    int bits;      /* 2 .. 8; 0: not quantised */
    int64_t group; /* columns that share a scale; 0: the whole row ("channel") */
    int symmetric;
} mp_quant;

/* Columns that share a scale: the group, or d_in. */
int64_t mp_quant_group(const mp_quant *quant, int64_t d_in);

/* Scales of a row of d_in columns, of which the group must be a divisor. */
int64_t mp_quant_groups(const mp_quant *quant, int64_t d_in);

#endif
