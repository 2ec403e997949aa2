#include "mpress/token_weights.h"

#include "mpress/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A row takes tokens out (weight 0), or weighs those that are left; 1 is where all of them start. */
typedef void (*weight_rule)(const mp_length_policy *policy, const mp_state *state, int64_t n_tokens,
                            float *weights);

/* Tokens that a prefix of `length` holds at a state, dropped ones included. */
static int64_t prefix_tokens(const mp_length_policy *policy, const mp_state *state, int64_t length)
{
    return state->normalised ? (int64_t)((double)length * policy->state_ratio) : length;
}

/* Only the first part of each sequence counts, where a norm's output is measured. */
static void state_aware(const mp_length_policy *policy, const mp_state *state, int64_t n_tokens,
                        float *weights)
{
    for (int64_t t = prefix_tokens(policy, state, n_tokens); t < n_tokens; t++) weights[t] = 0.0f;
}

static void drop_first(const mp_length_policy *policy, const mp_state *state, int64_t n_tokens,
                       float *weights)
{
    (void)state;
    if (policy->drop_first && n_tokens > 0) weights[0] = 0.0f;
}

/* The last row: the prefixes of a sequence, in double until their sum is known. */
static void weigh_prefixes(const mp_length_policy *policy, const mp_state *state, int64_t n_tokens,
                           float *weights)
{
    int count = policy->n_lengths > 0 ? policy->n_lengths : 1;
    int64_t end[MP_MAX_LENGTHS], t = 0, counted = 0;
    double share[MP_MAX_LENGTHS];

    for (int k = 0; k < count; k++) {
        end[k] =
            prefix_tokens(policy, state, policy->n_lengths > 0 ? policy->lengths[k] : n_tokens);
        for (; t < end[k] && t < n_tokens; t++) counted += weights[t] > 0.0f;
        share[k] = (policy->normalise ? 1.0 / (double)counted : 1.0) / count;
    }
    for (t = 0; t < n_tokens; t++) {
        double sum = 0.0;

        for (int k = 0; k < count; k++) sum += t < end[k] ? share[k] : 0.0;
        weights[t] = weights[t] > 0.0f ? (float)sum : 0.0f;
    }
}

static const weight_rule rules[] = {state_aware, drop_first, weigh_prefixes};

static mp_status bad_lengths(const char *text, const char *what)
{
    return mp_fail(MP_ERR_ARG,
                   "--lengths %s: %s; expected up to %d rising numbers, as 128,512,2048", text,
                   what, MP_MAX_LENGTHS);
}

mp_status mp_lengths_parse(const char *text, mp_length_policy *policy)
{
    const char *from = text;

    policy->n_lengths = 0;
    for (;;) {
        size_t size = strcspn(from, ",");
        char word[24];
        int64_t length;

        if (policy->n_lengths == MP_MAX_LENGTHS) return bad_lengths(text, "too many lengths");
        snprintf(word, sizeof word, "%.*s", (int)size, from);
        if (size >= sizeof word || mp_parse_int(word, &length) != 0 || length < 1)
            return bad_lengths(text, "not all of it is a number of 1 or more");
        if (policy->n_lengths > 0 && length <= policy->lengths[policy->n_lengths - 1])
            return bad_lengths(text, "a length is not above the one before it");
        policy->lengths[policy->n_lengths++] = length;
        if (from[size] == '\0') return MP_OK;
        from += size + 1;
    }
}

mp_status mp_normalise_parse(const char *text, mp_length_policy *policy, const char **effective)
{
    static const char *const names[] = {"none", "sequence"};

    policy->normalise =
        strcmp(text, "auto") == 0 ? policy->n_lengths > 0 : strcmp(text, names[1]) == 0;
    *effective = names[policy->normalise];
    if (strcmp(text, "auto") == 0 || strcmp(text, *effective) == 0) return MP_OK;
    return mp_fail(MP_ERR_ARG, "--normalise %s: expected auto, none or sequence", text);
}

/* The smallest ratio of six digits that lets a prefix of `length` hold `need` tokens: cut off at the
 * sixth digit, 1/3 would not do for three. */
static const char *smallest_ratio(int64_t length, int64_t need, char text[32])
{
    const double least = (double)need / (double)length;
    double ratio = least;

    do {
        snprintf(text, 32, "%.6g", ratio);
        ratio += 1e-6 * least;
    } while ((int64_t)((double)length * strtod(text, NULL)) < need);
    return text;
}

/* A window, or a prefix of it, that loses all its tokens. */
static mp_status check_prefix(const mp_length_policy *policy, const char *what, int64_t length)
{
    static const mp_state normalised = {.normalised = 1};
    int64_t need = policy->drop_first ? 2 : 1, held = prefix_tokens(policy, &normalised, length);
    char ratio[32];

    if (length < need)
        return mp_fail(MP_ERR_ARG, "--drop-first leaves no token of %s of %lld tokens", what,
                       (long long)length);
    if (held >= need) return MP_OK;
    return mp_fail(MP_ERR_ARG,
                   "--state-ratio %g of %s of %lld tokens counts 0 tokens%s; expected at least 1 "
                   "(a ratio of %s or more)",
                   policy->state_ratio, what, (long long)length,
                   held > 0 ? " behind the first, which --drop-first leaves out" : "",
                   smallest_ratio(length, need, ratio));
}

mp_status mp_length_policy_check(const mp_length_policy *policy, int64_t seqlen)
{
    if (!(policy->state_ratio > 0.0 && policy->state_ratio <= 1.0))
        return mp_fail(MP_ERR_ARG, "--state-ratio %g: expected a number in (0, 1]",
                       policy->state_ratio);
    for (int k = 0; k < policy->n_lengths; k++)
        MP_TRY(check_prefix(policy, "a prefix (--lengths)", policy->lengths[k]));
    if (seqlen == 0) return MP_OK;
    if (policy->n_lengths > 0 && policy->lengths[policy->n_lengths - 1] > seqlen)
        return mp_fail(MP_ERR_ARG,
                       "--lengths: %lld tokens are more than the %lld of a window; expected at "
                       "most those",
                       (long long)policy->lengths[policy->n_lengths - 1], (long long)seqlen);
    return check_prefix(policy, "windows", seqlen);
}

void mp_token_weights(const mp_length_policy *policy, const mp_state *state, int64_t n_tokens,
                      float *weights)
{
    for (int64_t t = 0; t < n_tokens; t++) weights[t] = 1.0f;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        rules[i](policy, state, n_tokens, weights);
}
