/* One linear map y = W x + b, in whatever storage its weight has.
 * Floor 2: tensor. */
#ifndef MPRESS_LINEAR_H
#define MPRESS_LINEAR_H

#include "mpress/dtype.h"
#include "mpress/error.h"

#include <stdint.h>

/* Dense is the one storage so far; factor pairs and packed integers become further kinds here, and
 * nobody who calls mp_linear_apply will notice. */
typedef struct mp_linear {
    int64_t d_out, d_in;
    mp_dtype dtype; /* of the weight as stored */
    float *weight;  /* [d_out, d_in], exact values of the stored dtype; borrowed */
    mp_dtype bias_dtype; /* of the bias as stored */
    const float *bias;   /* [d_out] or NULL; borrowed */
} mp_linear;

/* y [n_tokens, d_out] = x [n_tokens, d_in] W^T + b.  Cost 2 n_tokens d_out d_in flop. */
mp_status mp_linear_apply(const mp_linear *linear, int64_t n_tokens, const float *x, float *y);

/* y += x W^T + b: the residual stream takes the sum without a buffer between. */
mp_status mp_linear_add(const mp_linear *linear, int64_t n_tokens, const float *x, float *y);

#endif
