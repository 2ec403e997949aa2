/* Every idea of how long a calibration text should be is one weight per token and state:
 * H = sum_t w_t x_t x_t^T.
 * Floor 5: calibrate.
 *
 * With causal attention the state at position t depends on nothing after t, so that weights on one
 * pass of length L give the statistics of every shorter length too.
 *
 * A policy is one row of the table in token_weights.c, and the rows combine by two rules.  Rows that
 * say which tokens count come first, and a token counts if none of them objects.  Then one row weighs
 * what is left, prefix by prefix: with prefixes of l_1 < .. < l_K tokens (one of all L where
 * --lengths names none) and n_k the tokens of prefix k that count at this state,
 *
 *   w_t = 1/K sum over the prefixes k that hold t of 1/n_k   (normalised: a prefix weighs 1/K in all)
 *   w_t = 1/K times the number of prefixes that hold t       (not normalised)
 *
 * With a state ratio r a prefix of l tokens holds floor(r l) of them at normalised states and l at the
 * others: the rule of the state-aware length, applied to each window of the nest. */
#ifndef MPRESS_TOKEN_WEIGHTS_H
#define MPRESS_TOKEN_WEIGHTS_H

#include "mpress/arch.h"
#include "mpress/error.h"

enum { MP_MAX_LENGTHS = 16 };

typedef struct mp_length_policy {
    double state_ratio; /* normalised states count their first (int64)(L * ratio) tokens; 1 = all */
    int n_lengths;      /* 0: whole windows */
    int64_t lengths[MP_MAX_LENGTHS]; /* of the nested prefixes, rising */
    int normalise;                   /* a prefix weighs the same whatever its length */
    int drop_first;                  /* the first token of a sequence, a sink of attention */
} mp_length_policy;

/* "128,512,2048" into lengths and n_lengths.  MP_ERR_ARG for anything but up to MP_MAX_LENGTHS rising
 * numbers of 1 or more. */
mp_status mp_lengths_parse(const char *text, mp_length_policy *policy);

/* "auto" (sequence where there are lengths, otherwise none), "none" or "sequence" into normalise;
 * *effective is the one of the latter two that it comes to, static.  MP_ERR_ARG. */
mp_status mp_normalise_parse(const char *text, mp_length_policy *policy, const char **effective);

/* MP_ERR_ARG where the policy leaves a state without a token at window length `seqlen`, or names a
 * length that such a window does not have; with a length of 0 only what is wrong for any window. */
mp_status mp_length_policy_check(const mp_length_policy *policy, int64_t seqlen);

/* weights[0 .. n_tokens) of one sequence at `state`.  Local.
 * Sources: state-aware length, "Beyond Fixed-Length Calibration for Post-Training Compression of
 * LLMs", EMNLP Findings 2025; nested lengths, each normalised, MaCa, arXiv:2602.07465 (as its abstract
 * describes them); without the normalisation they show what the lengths do alone. */
void mp_token_weights(const mp_length_policy *policy, const mp_state *state, int64_t n_tokens,
                      float *weights);

#endif
