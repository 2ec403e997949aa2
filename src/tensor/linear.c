#include "mpress/linear.h"

#include "mpress/linalg.h"
#include "mpress/memory.h"

#include <string.h>

float *mp_linear_a(const mp_linear *linear)
{
    return linear->weight;
}

float *mp_linear_b(const mp_linear *linear)
{
    return linear->weight + linear->d_out * linear->a_stride;
}

int64_t mp_linear_parameters(int64_t d_out, int64_t d_in, int64_t rank)
{
    return rank > 0 ? rank * (d_out + d_in) : d_out * d_in;
}

/* y = (x B^T) A^T + beta y. */
static mp_status apply_factors(const mp_linear *l, int64_t n_tokens, const float *x, float beta,
                               float *y)
{
    float *latent = NULL;
    mp_status st;

    MP_GO(MP_NEW_RAW(latent, n_tokens * l->rank, "latent activations"));
    MP_GO(mp_sgemm(0, 1, n_tokens, l->rank, l->d_in, 1.0f, x, l->d_in, mp_linear_b(l), l->d_in,
                   0.0f, latent, l->rank));
    st = mp_sgemm(0, 1, n_tokens, l->d_out, l->rank, 1.0f, latent, l->rank, mp_linear_a(l),
                  l->a_stride, beta, y, l->d_out);
out:
    mp_free(latent);
    return st;
}

/* The bias is written first and the product added to it, so that y is passed over only once more. */
static mp_status apply(const mp_linear *linear, int64_t n_tokens, const float *x, float beta,
                       float *y)
{
    if (linear->rank > 0) return apply_factors(linear, n_tokens, x, beta, y);
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
