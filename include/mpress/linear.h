/* One linear map y = W x + b, in whatever storage its weight has.
 * Floor 2: tensor. */
#ifndef MPRESS_LINEAR_H
#define MPRESS_LINEAR_H

#include "mpress/packed.h"

/* Dense, a pair of factors W = A B, or packed integers; who calls mp_linear_apply need not know which. */
typedef struct mp_linear {
    int64_t d_out, d_in;
    int64_t rank;   /* 0: dense; otherwise `weight` holds [A | B] */
    mp_dtype dtype; /* of weight or factors as stored */
    float *
        weight; /* [d_out, d_in], or A [d_out, a_stride] and at once B [.., d_in]: exact values of the
                       stored dtype; borrowed */
    int64_t
        a_stride; /* columns of A, >= rank: the first `rank` of A and rows of B count, so that a pair
                         can be cut without a copy */
    mp_packed packed;    /* packed.quant.bits > 0: codes, scales and zero points in the memory of
                         `weight`, which is then not to be read as numbers */
    mp_dtype bias_dtype; /* of the bias as stored */
    const float *bias;   /* [d_out] or NULL; borrowed */
} mp_linear;

/* The factors, each row-major: A [d_out, a_stride], B [rank, d_in]. */
float *mp_linear_a(const mp_linear *linear);
float *mp_linear_b(const mp_linear *linear);

/* Makes integers of `quant` the storage: points `packed` into the memory of the d_out d_in numbers at
 * `weight`, whose content is not touched, scales first.  The dtype must be set.  MP_ERR_NOFIT where that is
 * too small: rows of one or two columns. */
mp_status mp_linear_set_packed(mp_linear *linear, const mp_quant *quant);

/* Numbers that are stored: d_out d_in, or rank (d_out + d_in). */
int64_t mp_linear_parameters(int64_t d_out, int64_t d_in, int64_t rank);

/* y [n_tokens, d_out] = x [n_tokens, d_in] W^T + b.  Cost 2 n_tokens mp_linear_parameters flop; factors
 * need n_tokens * rank floats of scratch, integers at most 128 MiB for as many rows as are multiplied at a
 * time: the dense matrix need not exist.  Up to that many rows the bits are those of the dense product
 * with the weights that the codes say, beyond them its last bits may differ (linalg.h, mp_sgemm). */
mp_status mp_linear_apply(const mp_linear *linear, int64_t n_tokens, const float *x, float *y);

/* y += x W^T + b: the residual stream takes the sum without a buffer between. */
mp_status mp_linear_add(const mp_linear *linear, int64_t n_tokens, const float *x, float *y);

#endif
