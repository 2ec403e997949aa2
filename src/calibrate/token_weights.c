#include "mpress/token_weights.h"

/* A row multiplies the weights it has something to say about; 1 is where all of them start. */
typedef void (*weight_rule)(const mp_length_policy *policy, const mp_state *state, int64_t n_tokens,
                            float *weights);

static int64_t counted_tokens(const mp_length_policy *policy, int64_t n_tokens)
{
    return (int64_t)((double)n_tokens * policy->state_ratio);
}

/* Only the first part of each sequence counts, where a norm's output is measured. */
static void state_aware(const mp_length_policy *policy, const mp_state *state, int64_t n_tokens,
                        float *weights)
{
    if (!state->normalised) return;
    for (int64_t t = counted_tokens(policy, n_tokens); t < n_tokens; t++) weights[t] = 0.0f;
}

static const weight_rule rules[] = {state_aware};

mp_status mp_length_policy_check(const mp_length_policy *policy, int64_t seqlen)
{
    if (!(policy->state_ratio > 0.0 && policy->state_ratio <= 1.0))
        return mp_fail(MP_ERR_ARG, "--state-ratio %g: expected a number in (0, 1]",
                       policy->state_ratio);
    if (counted_tokens(policy, seqlen) < 1)
        return mp_fail(MP_ERR_ARG,
                       "--state-ratio %g of windows of %lld tokens counts 0 tokens; expected at "
                       "least 1 (a ratio of %g or more)",
                       policy->state_ratio, (long long)seqlen, 1.0 / (double)seqlen);
    return MP_OK;
}

void mp_token_weights(const mp_length_policy *policy, const mp_state *state, int64_t n_tokens,
                      float *weights)
{
    for (int64_t t = 0; t < n_tokens; t++) weights[t] = 1.0f;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        rules[i](policy, state, n_tokens, weights);
}
