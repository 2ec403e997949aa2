/* Perplexity of a model on disjoint windows, spread over the ranks.
 * Floor 8: eval. */
#ifndef MPRESS_PERPLEXITY_H
#define MPRESS_PERPLEXITY_H

#include "mpress/arch.h"
#include "mpress/comm.h"
#include "mpress/corpus.h"
#include "mpress/source.h"

typedef struct mp_perplexity_result {
    double perplexity; /* exp(nll) */
    double nll;        /* nats per predicted token, the mean over windows x (seqlen - 1) */
    int64_t windows;
} mp_perplexity_result;

/* Each window by itself, seqlen - 1 predictions each.  `windows` is read on rank 0 only (its count and
 * seqlen on all).  Weights are read one block at a time, the head in panels of the vocabulary.
 * Collective; the status is agreed; the figure does not depend on the number of ranks.
 * Errors: MP_ERR_NUMERIC for a logit that is not finite, naming window and position.
 * Source: the protocol of Frantar et al., GPTQ, arXiv:2210.17323, section 4. */
mp_status mp_perplexity(const mp_comm *comm, const mp_arch *arch, const mp_source *source,
                        const mp_windows *windows, mp_perplexity_result *result);

/* The most that mp_perplexity has the ranks of a node share at once, in bytes (mp_shared_plan). */
size_t mp_perplexity_shared_bytes(const mp_arch *arch);

/* And what it holds on a rank that has `local` of the windows. */
int64_t mp_perplexity_rank_bytes(const mp_arch *arch, int64_t windows, int64_t seqlen,
                                 int64_t local);

#endif
