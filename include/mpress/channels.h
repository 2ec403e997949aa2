/* Sums over the tokens of a state, channel by channel: what a diagonal scaling and a centring need.
 * Floor 5: calibrate. */
#ifndef MPRESS_CHANNELS_H
#define MPRESS_CHANNELS_H

#include "mpress/comm.h"

typedef struct mp_channels {
    int64_t n;
    double weight;   /* sum of w_t */
    double *sum;     /* [n] sum of w_t x */
    double *sum_abs; /* [n] sum of w_t |x| */
    double *max_abs; /* [n] largest |x| of the tokens with w_t > 0 */
} mp_channels;

/* Zeroed.  Local. */
mp_status mp_channels_create(int64_t n, mp_channels **channels);
void mp_channels_free(mp_channels *channels);

/* One sequence of this rank: x [n_tokens, n], weights [n_tokens] >= 0.  Local. */
void mp_channels_add(mp_channels *channels, const float *x, int64_t n_tokens, const float *weights);

/* The figures of all ranks, on all ranks.  Collective.  Added in double, rank by rank: they may differ in
 * the last bits between numbers of ranks. */
mp_status mp_channels_finish(const mp_comm *comm, mp_channels *channels);

#endif
