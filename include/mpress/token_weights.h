/* Every idea of how long a calibration text should be is one weight per token and state:
 * H = sum_t w_t x_t x_t^T.
 * Floor 5: calibrate.
 *
 * With causal attention the state at position t depends on nothing after t, so that weights on one
 * pass of length L give the statistics of every shorter length too.  A policy is one row of the table
 * in token_weights.c. */
#ifndef MPRESS_TOKEN_WEIGHTS_H
#define MPRESS_TOKEN_WEIGHTS_H

#include "mpress/arch.h"
#include "mpress/error.h"

typedef struct mp_length_policy {
    double state_ratio; /* normalised states count their first (int64)(L * ratio) tokens; 1 = all */
} mp_length_policy;

/* MP_ERR_ARG where the policy leaves a state without a token at window length `seqlen`. */
mp_status mp_length_policy_check(const mp_length_policy *policy, int64_t seqlen);

/* weights[0 .. n_tokens) of one sequence at `state`.  Local.
 * Source: state-aware length, "Beyond Fixed-Length Calibration for Post-Training Compression of LLMs",
 * EMNLP Findings 2025. */
void mp_token_weights(const mp_length_policy *policy, const mp_state *state, int64_t n_tokens,
                      float *weights);

#endif
