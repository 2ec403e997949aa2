/* How well a model predicts with one of its linear maps replaced by factors, and all others dense.
 * Floor 8: eval. */
#ifndef MPRESS_SENSITIVITY_H
#define MPRESS_SENSITIVITY_H

#include "mpress/arch.h"
#include "mpress/comm.h"
#include "mpress/corpus.h"
#include "mpress/source.h"

#include <stddef.h>

/* The model to be tried: linear map `linear` of block `block` at `rank`. */
typedef struct mp_candidate {
    int64_t block;
    int linear;   /* index into arch->linears */
    int64_t rank; /* the first `rank` columns of A and rows of B count, of those that are stored */
    double nll;   /* out: nats per predicted token, as in mp_perplexity_result */
} mp_candidate;

/* The nll of each candidate on the windows, each window by itself.
 *
 *   dense       in      the model
 *   factors     in      the same model; in place of the weight of each candidate's linear map its factors
 *   windows     in      read on rank 0 only (its count and seqlen on all)
 *   bytes       in      per rank, the same on all: for the residual streams of candidates under way
 *   candidates  in/out  [count] by rising block
 *
 * A candidate differs from the dense model from its own block on: there it branches off the dense streams,
 * which pass each block once in all.  As many candidates as `bytes` can hold (at least one) share a sweep
 * over the blocks and over the vocabulary.  Memory besides: the dense streams, two blocks per node.
 *
 * Collective; the status is agreed.  The bits depend neither on the number of ranks nor on `bytes`.
 * Cost     mp_sensitivity_flop; the blocks from a sweep's first candidate to the end are read once a sweep.
 * Errors   MP_ERR_ARG: windows of fewer than 2 tokens, candidates out of order, a rank that is not stored;
 *          MP_ERR_NUMERIC: a logit that is not finite, naming candidate, window and position.
 * Source   Yuan et al., ASVD, arXiv:2312.05821, section 3.4, with the prefix kept. */
mp_status mp_sensitivity(const mp_comm *comm, const mp_arch *arch, const mp_source *dense,
                         const mp_source *factors, const mp_windows *windows, size_t bytes,
                         mp_candidate *candidates, int64_t count);

/* Floating-point operations of all ranks for the above, whatever the number of sweeps.  Local. */
double mp_sensitivity_flop(const mp_arch *arch, int64_t n_windows, int64_t seqlen,
                           const mp_candidate *candidates, int64_t count);

/* The most that mp_sensitivity has the ranks of a node share at once, in bytes (mp_shared_plan). */
size_t mp_sensitivity_shared_bytes(const mp_arch *arch);

#endif
