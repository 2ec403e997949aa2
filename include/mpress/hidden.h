/* The residual streams of many sequences, spread over the ranks.
 * Floor 4: model. */
#ifndef MPRESS_HIDDEN_H
#define MPRESS_HIDDEN_H

#include "mpress/arch.h"
#include "mpress/comm.h"
#include "mpress/source.h"

/* Sequence s of all is on rank s mod P, there the (s div P)-th: round i of the ranks is sequences
 * i P .. i P + P - 1 in order. */
typedef struct mp_hidden {
    int64_t n_sequences, n_tokens, width;
    int64_t local;  /* sequences on this rank */
    int64_t rounds; /* the most any rank has */
    float *states;  /* [local][n_tokens][width] */
} mp_hidden;

/* Room for the residual streams; zeroed.  Collective; the status is agreed. */
mp_status mp_hidden_create(const mp_comm *comm, int64_t n_sequences, int64_t n_tokens,
                           int64_t width, mp_hidden **hidden);
void mp_hidden_free(mp_hidden *hidden);

/* The stream of the i-th local sequence, [n_tokens][width]. */
float *mp_hidden_sequence(const mp_hidden *hidden, int64_t local);

/* How many ranks have a sequence in round `round`: ranks 0 .. active - 1. */
int mp_hidden_active(const mp_hidden *hidden, const mp_comm *comm, int64_t round);

/* Rank 0 embeds window by window and sends each to its rank: two windows of memory on rank 0, whatever
 * their number.  tokens [n_sequences, n_tokens] are read on rank 0 only.  Collective; agreed. */
mp_status mp_hidden_embed(const mp_comm *comm, const mp_source *source, const int32_t *tokens,
                          mp_hidden *hidden);

/* The messages of mp_hidden_embed, on a communicator that is dry (comm.h). */
mp_status mp_hidden_embed_dry(const mp_comm *comm, int64_t n_sequences, int64_t n_tokens,
                              int64_t width);

#endif
