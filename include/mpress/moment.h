/* The second moment of an activation state, H = sum_t w_t x_t x_t^T, spread over the ranks in tiles.
 * Floor 5: calibrate.
 *
 * H is kept in *reversed* channel order and padded to whole tiles: element (r, c) of the matrix
 * belongs to channels order - 1 - r and order - 1 - c, and channels n .. order - 1 are padding.  Its
 * Cholesky factor L, read backwards, is then the upper R with H = R R^T that the sweep of SparseGPT
 * and GPTQ wants: R[i][j] = L[order-1-i][order-1-j].  One factorisation, and no inverse at all.
 *
 * Sums are in double, of single-precision products of one sequence, added in the order of the
 * sequences: the bits do not depend on the number of ranks. */
#ifndef MPRESS_MOMENT_H
#define MPRESS_MOMENT_H

#include "mpress/channels.h"
#include "mpress/dmat.h"
#include "mpress/probe.h"

typedef struct mp_moment {
    const mp_comm *comm;
    int64_t n;        /* channels */
    int64_t order;    /* n rounded up to whole tiles */
    mp_dmat *matrix;  /* lower triangle while it grows; symmetric after mp_moment_finish */
    double *diagonal; /* [order], reversed, on all ranks; after mp_moment_finish */
    int64_t tokens;   /* counted on this rank so far; of all ranks after mp_moment_finish */
    int64_t
        bad_token; /* the first non-finite activation seen here: token and channel, -1 if none */
    int64_t bad_channel;
    mp_channels *channels; /* sums of the same tokens, NULL unless asked for; owned */
    mp_probe *probe;       /* what the weights do to H, NULL unless asked for; owned */
} mp_moment;

/* Buffers that moments share: one sequence's states, and panels of one sequence's product. */
typedef struct mp_moment_scratch mp_moment_scratch;

/* For moments of the given widths over tiles of `tile`, and sequences of up to `max_tokens`.  Local.
 * Memory: max_tokens * widest floats, three panels of about 128 MiB (one panel on one rank), and some
 * 100 widest floats for probes. */
mp_status mp_moment_scratch_create(const mp_comm *comm, const int64_t *widths, int count,
                                   int64_t tile, int64_t max_tokens, mp_moment_scratch **scratch);
void mp_moment_scratch_free(mp_moment_scratch *scratch);

/* What that allocates on each of `ranks` ranks. */
int64_t mp_moment_scratch_bytes(int ranks, const int64_t *widths, int count, int64_t tile,
                                int64_t max_tokens);

/* A zero moment over tiles of `tile`, spread over all ranks.  Collective. */
mp_status mp_moment_create(const mp_comm *comm, int64_t n, int64_t tile, mp_moment **moment);

/* From now on the sums of the channels are kept, too.  Collective; agreed. */
mp_status mp_moment_track_channels(mp_moment *moment);

/* From now on it is followed how far H moves away from the sum with weights of one.  Collective; agreed. */
mp_status mp_moment_track_distance(mp_moment *moment);
void mp_moment_free(mp_moment *moment);

/* One round: ranks 0 .. active - 1 add one sequence each, in the order of the ranks.
 *
 *   x        in  [n_tokens, n] states of this rank's sequence; ignored on ranks >= active
 *   weights  in  [n_tokens] >= 0; tokens of weight 0 cost nothing
 *
 * Collective.  A non-finite activation is remembered and reported by mp_moment_finish.
 * Cost n_tokens * n^2 flop per rank, n^2 / 2 floats sent per rank (none on one rank). */
mp_status mp_moment_add(mp_moment *moment, mp_moment_scratch *scratch, int active, const float *x,
                        int64_t n_tokens, const float *weights);

/* The messages of mp_moment_add, on a communicator that is dry (comm.h). */
mp_status mp_moment_add_dry(mp_moment *moment, int active);

/* Ends the sum: moves the tiles to `grid`, where they will be factorised, fills both triangles and the
 * diagonal.  Padding gets a one on its diagonal.  Collective.
 * Errors: MP_ERR_NUMERIC for non-finite activations (token and channel; the caller knows the layer). */
mp_status mp_moment_finish(mp_moment *moment, mp_grid grid);

/* diag(H) in the order of the channels, [n].  Local, after mp_moment_finish. */
void mp_moment_channels(const mp_moment *moment, double *squares);

/* What there is to say of a second moment. */
typedef struct mp_moment_summary {
    /* tr(H)^2 / ||H||_F^2, the participation ratio of the eigenvalues: n where all are equal, 1 where one
     * is all.  (Bartlett, Long, Lugosi, Tsigler, PNAS 2020, call it an effective rank, R_0.) */
    double effective_rank;
    double distance;       /* to the plain sum (probe.h); exactly 0 where it was not followed */
    double distance_error; /* standard error of that estimate */
    int64_t probes;        /* vectors that it comes from; 0: it is no estimate */
} mp_moment_summary;

/* Collective, after mp_moment_finish and before a method works on the matrix; agreed.  The same bits on
 * any number of ranks.  Cost: one look at every element. */
mp_status mp_moment_summarise(const mp_moment *moment, mp_moment_summary *summary);

/* The channels in the order of their diag(H), largest first, of equal ones the lower index first; then the
 * padding.  channel: [order].  Local, the same on all ranks, after mp_moment_finish. */
mp_status mp_moment_order(const mp_moment *moment, int64_t *channel);

/* Seconds this process has spent so far in products, and their flop; in exchange and addition. */
typedef struct mp_moment_times {
    double product_s, product_flop, merge_s;
} mp_moment_times;
mp_moment_times mp_moment_clock(void);

#endif
