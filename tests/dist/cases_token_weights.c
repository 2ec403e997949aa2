/* Token weights against their definition, written a second time. */
#include "worker.h"

#include "mpress/token_weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 40 };

static const mp_state normalised = {.name = "attn_in", .normalised = 1},
                      other = {.name = "ffn_mid"};

/* Whether token t is one of the first `length`, as the state counts them. */
static int holds(const mp_length_policy *p, const mp_state *s, int64_t length, int64_t t)
{
    return t < (s->normalised ? (int64_t)floor((double)length * p->state_ratio) : length) &&
           !(p->drop_first && t == 0);
}

static double expected(const mp_length_policy *p, const mp_state *s, int64_t t)
{
    const int64_t whole = TOKENS, *lengths = p->n_lengths > 0 ? p->lengths : &whole;
    int count = p->n_lengths > 0 ? p->n_lengths : 1;
    double sum = 0.0;

    for (int k = 0; k < count; k++) {
        int64_t tokens = 0;

        for (int64_t i = 0; i < TOKENS; i++) tokens += holds(p, s, lengths[k], i);
        if (holds(p, s, lengths[k], t)) sum += p->normalise ? 1.0 / (double)tokens : 1.0;
    }
    return sum / count;
}

static mp_status compare(const mp_length_policy *p, const mp_state *s)
{
    float weights[TOKENS];
    double sum = 0.0;

    mp_token_weights(p, s, TOKENS, weights);
    for (int64_t t = 0; t < TOKENS; t++) {
        MP_EXPECT(fabs((double)weights[t] - expected(p, s, t)) <= 1e-7 * expected(p, s, t));
        sum += (double)weights[t];
    }
    MP_EXPECT(!p->normalise || fabs(sum - 1.0) < 1e-6);
    return MP_OK;
}

static mp_status weights_follow_their_definition(const mp_comm *c)
{
    static const char *const lengths[] = {NULL, "40", "7", "8,16,40", "4,5,6,39"};
    static const double ratios[] = {1.0, 0.5, 0.72};

    (void)c;
    for (int i = 0; i < 5 * 3 * 4; i++) {
        mp_length_policy p = {
            .state_ratio = ratios[i % 3], .normalise = i / 3 % 2, .drop_first = i / 6 % 2};

        if (lengths[i / 12] != NULL) MP_TRY(mp_lengths_parse(lengths[i / 12], &p));
        MP_TRY(mp_length_policy_check(&p, TOKENS));
        MP_TRY(compare(&p, &normalised));
        MP_TRY(compare(&p, &other));
    }
    return MP_OK;
}

/* Nothing asked for is a weight of one, bit for bit. */
static mp_status plain_weights_are_ones(const mp_comm *c)
{
    const mp_length_policy plain = {.state_ratio = 1.0};
    float weights[TOKENS];

    (void)c;
    mp_token_weights(&plain, &normalised, TOKENS, weights);
    for (int t = 0; t < TOKENS; t++) MP_EXPECT(weights[t] == 1.0f);
    return MP_OK;
}

/* The ratio that a refusal names is enough, and so the message is worth reading. */
static mp_status refused_ratios_name_one_that_works(const mp_comm *c)
{
    (void)c;
    for (int64_t length = 2; length < 3000; length += 1 + length / 7) {
        mp_length_policy p = {.state_ratio = 1e-9, .drop_first = length % 2 == 1};
        const char *found;

        MP_EXPECT(mp_length_policy_check(&p, length) == MP_ERR_ARG);
        found = strstr(mp_error_message(), "a ratio of ");
        MP_EXPECT(found != NULL);
        p.state_ratio = strtod(found + strlen("a ratio of "), NULL);
        MP_TRY(mp_length_policy_check(&p, length));
        p.state_ratio *= 1.0 - 1e-4; /* and it is about the smallest */
        MP_EXPECT(mp_length_policy_check(&p, length) == MP_ERR_ARG);
    }
    return MP_OK;
}

const mp_case cases_token_weights[] = {
    {"weights_follow_their_definition", weights_follow_their_definition},
    {"plain_weights_are_ones", plain_weights_are_ones},
    {"refused_ratios_name_one_that_works", refused_ratios_name_one_that_works},
    {NULL, NULL},
};
