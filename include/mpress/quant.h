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
 * In single precision (u - z) s has 24 bits, so that u follows from it, s and z: who passes weights on a grid
 * need not pass codes beside them.  Rounded to bf16, of 8 bits, neighbouring codes may meet where |u - z|
 * goes beyond 128. */
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

/* What the command line says of bits and groups ("128", "channel").  Errors: MP_ERR_ARG naming the option. */
mp_status mp_quant_read(int64_t bits, const char *group, int asymmetric, mp_quant *quant);

/* "4 bits, groups of 128, symmetric"; for the log. */
const char *mp_quant_words(const mp_quant *quant, char text[64]);

/* Whether the groups fit a linear map of d_in columns; MP_ERR_ARG, with sizes that would, if not. */
mp_status mp_quant_fits(const mp_quant *quant, const char *name, int64_t d_in);

/* Columns that share a scale: the group, or d_in. */
int64_t mp_quant_group(const mp_quant *quant, int64_t d_in);

/* Scales of a row of d_in columns, of which the group must be a divisor. */
int64_t mp_quant_groups(const mp_quant *quant, int64_t d_in);

/* The grids of one group of columns, for `rows` rows at once, by the extremes of each row.
 *
 *   dtype   F32, F16 or BF16: that of the weights in the model
 *   weight  in   [columns][rows]
 *   scale   out  [rows] exact values of dtype, > 0: where the weights are so small that the scale
 *                rounds to zero, the smallest number of dtype that no processor takes for zero; where they
 *                are all zero, 1
 *   zero    out  [rows] the zero points, codes; where the weights are all zero, the middle one
 *
 * Local; any number of rows, a row's result does not depend on the others. */
void mp_quant_fit(const mp_quant *quant, mp_dtype dtype, int64_t rows, int64_t columns,
                  const float *weight, float *scale, float *zero);

/* The same by a search: of 40 grids, whose range is that of the extremes times 1, 0.98, .. 0.22, the one
 * with the least sum of importance[j] (w - rounded w)^2 over the columns; of equal ones the widest.
 * importance: [columns] >= 0, or NULL: the same for all.
 * Source: the shrinkage of the ranges is that of GPTQ's released code (steps of 0.01 there); with the
 * diagonal of H for importance the sum is the loss of the layer without the terms between columns.
 * Cost: 40 times that of rounding, in single precision. */
void mp_quant_search(const mp_quant *quant, mp_dtype dtype, int64_t rows, int64_t columns,
                     const float *weight, const float *importance, float *scale, float *zero);

/* One column of weights to the grids of its group, in place: w becomes (u - z) s in single precision, u =
 * clamp(rint(w / s) + z), with the quotient in double, so that halves go to even: the extreme of a group
 * lies exactly between two codes.  Not a number stays what it is.  Local. */
void mp_quant_round(const mp_quant *quant, int64_t rows, const float *scale, const float *zero,
                    float *weight);

#endif
