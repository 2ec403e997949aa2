#include "mpress/channels.h"

#include "mpress/memory.h"
#include "mpress/simd.h"

#include <math.h>

mp_status mp_channels_create(int64_t n, mp_channels **channels)
{
    mp_channels *c = NULL;
    mp_status st;

    MP_GO(MP_NEW(c, 1, "channel sums"));
    c->n = n;
    MP_GO(MP_NEW(c->sum, n, "channel sums"));
    MP_GO(MP_NEW(c->sum_abs, n, "channel sums"));
    MP_GO(MP_NEW(c->max_abs, n, "channel maxima"));
    *channels = c;
    c = NULL;
out:
    mp_channels_free(c);
    return st;
}

void mp_channels_free(mp_channels *channels)
{
    if (channels == NULL) return;
    mp_free(channels->sum);
    mp_free(channels->sum_abs);
    mp_free(channels->max_abs);
    mp_free(channels);
}

MP_SIMD_CLONES
static void add_token(int64_t n, double w, const float *x, double *sum, double *sum_abs,
                      double *max_abs)
{
    for (int64_t i = 0; i < n; i++) {
        double value = (double)x[i], size = fabs(value);

        sum[i] += w * value;
        sum_abs[i] += w * size;
        max_abs[i] = size > max_abs[i] ? size : max_abs[i];
    }
}

void mp_channels_add(mp_channels *c, const float *x, int64_t n_tokens, const float *weights)
{
    for (int64_t t = 0; t < n_tokens; t++) {
        if (weights[t] == 0.0f) continue;
        add_token(c->n, (double)weights[t], x + t * c->n, c->sum, c->sum_abs, c->max_abs);
        c->weight += (double)weights[t];
    }
}

mp_status mp_channels_finish(const mp_comm *comm, mp_channels *c)
{
    MP_TRY(mp_comm_sum(comm, &c->weight, 1));
    MP_TRY(mp_comm_sum(comm, c->sum, (int)c->n));
    MP_TRY(mp_comm_sum(comm, c->sum_abs, (int)c->n));
    return mp_comm_max(comm, c->max_abs, (int)c->n);
}
