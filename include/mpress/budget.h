/* How a parameter budget is shared out among linear maps that are to be factored.
 * Floor 9: pipeline. */
#ifndef MPRESS_BUDGET_H
#define MPRESS_BUDGET_H

#include "mpress/error.h"

#include <stdint.h>

/* How ranks are chosen:
 *   uniform      every linear map at the same ratio
 *   spectrum     least discarded energy, each map's as a share of its own, for the parameters (the idea of
 *                "SVD-LLM V2", arXiv:2503.12340); from the eigenvalues alone
 *   sensitivity  truncation rank search of ASVD, arXiv:2312.05821, section 3.4: by the perplexity with one
 *                map replaced at a time */
typedef enum mp_rank_policy {
    MP_RANKS_UNIFORM,
    MP_RANKS_SPECTRUM,
    MP_RANKS_SENSITIVITY
} mp_rank_policy;

mp_status mp_rank_policy_parse(const char *text, mp_rank_policy *policy);

/* floor(int(d_out d_in ratio) / (d_out + d_in)); 0 where the map stays dense: ratio 1, or where factors
 * of that rank would not be smaller.
 * Errors: MP_ERR_ARG naming the map and both sizes where not even rank 1 fits. */
mp_status mp_rank_uniform(const char *name, int64_t d_out, int64_t d_in, double ratio,
                          int64_t *rank);

/* The same for a map that need not be factored: 0 also where not even rank 1 fits. */
int64_t mp_rank_of_ratio(int64_t d_out, int64_t d_in, double ratio);

/* One linear map that may be factored. */
typedef struct mp_budget_item {
    int64_t d_out, d_in;
    const double *spectrum; /* [values] falling, what each pair of factors keeps; borrowed */
    int64_t values;
    int64_t rank; /* out: 0 dense */
} mp_budget_item;

/* Ranks of at least 1 with sum of stored <= ratio times sum of dense parameters, as little energy lost as
 * a greedy choice by gain per parameter can (the best one where all spectra fall).  A map whose factors
 * are no smaller becomes dense if the budget has room for it.  Ties go to the lower index.
 * Errors: MP_ERR_ARG where there are fewer than two maps to choose between, or rank 1 of all does not fit.
 * Local, deterministic.  Cost: O(sum of ranks x log count). */
mp_status mp_budget_by_spectrum(mp_budget_item *items, int64_t count, double ratio);

/* What one linear map at one rank, all others dense, does to a model. */
typedef struct mp_budget_trial {
    int64_t item; /* index of the map */
    double ratio; /* that the rank stands for, below 1 */
    int64_t rank; /* at least 1, rising with the ratio */
    double nll;   /* of the model, nats per token */
} mp_budget_trial;

/* The trials in falling order of nll (ties: lower item first, then lower ratio) are cut in two.  Those
 * behind the cut are accepted: a map gets the rank of its lowest accepted ratio, or stays dense without
 * any.  The cut is the last one with sum of stored <= ratio times sum of dense parameters, ranks counted
 * as the integers they are.  The spectra of the items are not looked at.
 * Errors: MP_ERR_NUMERIC for an nll that is not finite; MP_ERR_ARG where accepting all is not enough,
 * naming the ratio it gives.
 * Local, deterministic.  Cost: O(n_trials log n_trials).
 * Source: Yuan et al., ASVD, arXiv:2312.05821, section 3.4; their code also stops at cuts above the
 * target. */
mp_status mp_budget_by_sensitivity(mp_budget_item *items, int64_t count,
                                   const mp_budget_trial *trials, int64_t n_trials, double ratio);

/* Parameters kept by items, and all there were. */
void mp_budget_totals(const mp_budget_item *items, int64_t count, int64_t *stored, int64_t *dense);

#endif
