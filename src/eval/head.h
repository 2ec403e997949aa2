/* Negative log-likelihoods at the end of one model, or of several that share final norm and head: the
 * vocabulary is read once for all of them.
 * Floor 8: eval; for the files of src/eval only. */
#ifndef MPRESS_HEAD_H
#define MPRESS_HEAD_H

#include "mpress/arch.h"
#include "mpress/comm.h"
#include "mpress/corpus.h"
#include "mpress/hidden.h"
#include "mpress/source.h"

/* Running log-sum-exp over the vocabulary of each position of the local windows. */
typedef struct head {
    const mp_comm *comm;
    mp_hidden *const *hidden; /* [models] residual streams of the same windows; borrowed */
    int64_t models;
    const int32_t *tokens; /* [local][n_tokens] of this rank's windows; borrowed */
    mp_shared *panel;      /* rows of the vocabulary, [..][d_model], one copy per node */
    float *logits;         /* of one window, for the rows of the panel */
    float *largest;        /* [models][local][n_tokens] */
    double *sum;           /* [models][local][n_tokens] sum of exp(logit - largest) */
    float *target;         /* [models][local][n_tokens] logit of the next token */
} head;

/* This rank's windows of tokens, [local][n_tokens]: sent by rank 0, the only one that reads `windows`, to
 * all, kept by their owners.  Collective. */
mp_status head_own_tokens(const mp_comm *comm, const mp_windows *windows, const mp_hidden *hidden,
                          int32_t *own);

/* `*h` is set, and is to be closed, whatever is returned.  Collective; agreed. */
mp_status head_open(head *h, const mp_comm *comm, mp_hidden *const *hidden, int64_t models,
                    const int32_t *tokens);
void head_close(head *h);

/* Bytes per position of a window and model that head_open takes. */
int64_t head_position_bytes(void);

/* What head_open takes on a rank that has `local` windows of n_tokens, for one model. */
int64_t head_bytes(int64_t local, int64_t n_tokens);

/* What head_open has the ranks of a node share, for streams of `width`. */
size_t head_panel_bytes(int64_t width);

/* Final norm, in place, and all panels of the vocabulary.  Collective; agreed. */
mp_status head_run(head *h, const mp_arch *arch, const mp_source *source);

/* The loss of each local window of one model, in nats, at its place in nll [n_sequences], 0 at the others.
 * Local.  Errors: MP_ERR_NUMERIC for a logit that is not finite, naming window and position. */
mp_status head_losses(const head *h, int64_t model, double *nll);

/* Nats per predicted token, from what head_losses gave on each rank.  nll then has the windows of all
 * ranks; they are added in their own order, so that the mean does not depend on the ranks.  Collective. */
mp_status head_mean(const head *h, double *nll, double *mean);

#endif
