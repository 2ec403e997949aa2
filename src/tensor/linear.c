#include "mpress/linear.h"

#include "mpress/linalg.h"

#include <string.h>

/* The bias is written first and the product added to it, so that y is passed over only once more. */
static mp_status apply(const mp_linear *linear, int64_t n_tokens, const float *x, float beta,
                       float *y)
{
    return mp_sgemm(0, 1, n_tokens, linear->d_out, linear->d_in, 1.0f, x, linear->d_in,
                    linear->weight, linear->d_in, beta, y, linear->d_out);
}

mp_status mp_linear_apply(const mp_linear *linear, int64_t n_tokens, const float *x, float *y)
{
    if (linear->bias == NULL) return apply(linear, n_tokens, x, 0.0f, y);
    for (int64_t t = 0; t < n_tokens; t++)
        memcpy(y + t * linear->d_out, linear->bias, (size_t)linear->d_out * sizeof *y);
    return apply(linear, n_tokens, x, 1.0f, y);
}

mp_status mp_linear_add(const mp_linear *linear, int64_t n_tokens, const float *x, float *y)
{
    if (linear->bias != NULL)
        for (int64_t t = 0; t < n_tokens; t++)
            for (int64_t i = 0; i < linear->d_out; i++) y[t * linear->d_out + i] += linear->bias[i];
    return apply(linear, n_tokens, x, 1.0f, y);
}
