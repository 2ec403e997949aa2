/* The loops of the forward pass that are not matrix products: one row at a time, vectorised.
 * Floor 4: model.
 *
 * A sum is taken over a fixed number of partial sums in a fixed order, so that a row's result
 * depends on the row alone, not on threads or ranks. */
#ifndef MPRESS_KERNELS_H
#define MPRESS_KERNELS_H

#include <stdint.h>

/* out = x / sqrt(mean(x^2) + eps) * weight, all [width]; x and out may be the same.  The mean is
 * taken in double precision. */
void mp_kernel_rms_norm(int64_t width, double eps, const float *x, const float *weight, float *out);

/* Rotates `n_heads` heads of one token in place, heads [n_heads, head_dim]: the pair (x_i,
 * x_{i + head_dim / 2}) by the angle whose cosine and sine are cosines[i], sines[i], both
 * [head_dim / 2]. */
void mp_kernel_rotate(int64_t n_heads, int64_t head_dim, const float *cosines, const float *sines,
                      float *heads);

/* up = silu(gate) * up, silu(x) = x / (1 + exp(-x)). */
void mp_kernel_silu_mul(int64_t count, const float *gate, float *up);

/* The largest value; -infinity if count is 0.  A NaN may be passed over. */
float mp_kernel_max(int64_t count, const float *x);

/* In place x = exp(x - shift); returns the sum.  A NaN stays one, in x and in the sum. */
float mp_kernel_exp_sum(int64_t count, float shift, float *x);

/* In place x *= factor. */
void mp_kernel_scale(int64_t count, float factor, float *x);

/* exp of each x in place: relative error below 2e-7 for -87 <= x <= 88; 0 below, and -infinity
 * gives 0; exp(88) above. */
void mp_kernel_exp(int64_t count, float *x);

#endif
