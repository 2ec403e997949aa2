/* How far token weights have turned a second moment, without a second one to compare it with.
 * Floor 5: calibrate.
 *
 * Of H = sum w_t x_t x_t^T and the plain P = sum x_t x_t^T of the same tokens
 *
 *   distance = min over c of ||H - c P||_F / ||H||_F:
 *
 * the best multiple of P is taken off because no method here sees a factor before H (damping is a share
 * of its diagonal).  It is the sine of the angle between the two matrices: 0 for multiples of each other,
 * at most 1, and the same with H and P exchanged.
 *
 * P would cost as much memory and network as H.  Instead, ||A||_F^2 is the mean of |A z|^2 over vectors z of
 * random signs (Hutchinson, 1989), and H z and P z take two products with the tokens.  The vectors come
 * from a counter and are the same in every run; sums are in double, in the order of the sequences and of
 * pieces of channels: the bits do not depend on the number of ranks.  The estimate is a quotient of sums over
 * the same vectors, in which most of their noise cancels; its standard error is that of the jackknife over
 * them.
 *
 * Cost beside the n^2 flop per token of H: 6 MP_PROBES n.  Per round a rank sends 2 MP_PROBES n floats, spread
 * over all ranks, and takes in 2 MP_PROBES n as well where all are active; pieces of 1024 channels are the
 * least that one rank can have (8 KiB from each other one). */
#ifndef MPRESS_PROBE_H
#define MPRESS_PROBE_H

#include "mpress/comm.h"

enum { MP_PROBES = 16 };

typedef struct mp_probe mp_probe;

/* Buffers that probes share: for states of up to `widest` channels and `max_tokens`.  Local. */
typedef struct mp_probe_room mp_probe_room;
mp_status mp_probe_room_create(const mp_comm *comm, int64_t widest, int64_t max_tokens,
                               mp_probe_room **room);
void mp_probe_room_free(mp_probe_room *room);

/* What that allocates on each of `ranks` ranks. */
int64_t mp_probe_room_bytes(int ranks, int64_t widest, int64_t max_tokens);

/* The images of the vectors, [MP_PROBES, 2, n] over all ranks, zeroed.  Local. */
mp_status mp_probe_create(const mp_comm *comm, int64_t n, mp_probe **probe);
void mp_probe_free(mp_probe *probe);

/* One round, as in mp_moment_add: x [n_tokens, n], weights [n_tokens].  Collective. */
mp_status mp_probe_add(mp_probe *probe, mp_probe_room *room, int active, const float *x,
                       int64_t n_tokens, const float *weights);

/* The distance and its standard error, the same on all ranks.  Collective. */
mp_status mp_probe_finish(const mp_probe *probe, double *distance, double *error);

#endif
