/* One linear map y = W x + b, in whatever storage its weight has.
 * Floor 2: tensor. */
#ifndef MPRESS_LINEAR_H
#define MPRESS_LINEAR_H

#include "mpress/dtype.h"
#include "mpress/error.h"

#include <stdint.h>

/* Dense, or a pair of factors W = A B; packed integers become a further kind here, and nobody who calls
 * mp_linear_apply will notice. */
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
    mp_dtype bias_dtype; /* of the bias as stored */
    const float *bias;   /* [d_out] or NULL; borrowed */
} mp_linear;

/* The factors, each row-major: A [d_out, a_stride], B [rank, d_in]. */
float *mp_linear_a(const mp_linear *linear);
float *mp_linear_b(const mp_linear *linear);

/* Numbers that are stored: d_out d_in, or rank (d_out + d_in). */
int64_t mp_linear_parameters(int64_t d_out, int64_t d_in, int64_t rank);

/* y [n_tokens, d_out] = x [n_tokens, d_in] W^T + b.  Cost 2 n_tokens mp_linear_parameters flop; factors
 * need n_tokens * rank floats of scratch. */
mp_status mp_linear_apply(const mp_linear *linear, int64_t n_tokens, const float *x, float *y);

/* y += x W^T + b: the residual stream takes the sum without a buffer between. */
mp_status mp_linear_add(const mp_linear *linear, int64_t n_tokens, const float *x, float *y);

#endif
