/* The sensitivity of a model's linear maps against the perplexity of models in which they are replaced. */
#include "worker.h"

#include "memory_source.h"

#include "mpress/forward.h"
#include "mpress/memory.h"
#include "mpress/perplexity.h"
#include "mpress/sensitivity.h"
#include "mpress/weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { BLOCKS = 4, STORED = 12, WINDOWS = 5, TOKENS = 24, SEED = 11 };

/* Blocks 0 and 2 have none: the dense streams pass them. */
static const mp_candidate some[] = {
    {1, MP_Q, 3, 0.0},      {1, MP_Q, STORED, 0.0}, {1, MP_UP, 5, 0.0},
    {1, MP_DOWN, 1, 0.0},   {3, MP_K, 2, 0.0},      {3, MP_V, 7, 0.0},
    {3, MP_O, STORED, 0.0}, {3, MP_GATE, 11, 0.0},  {3, MP_DOWN, 12, 0.0},
};

enum { SOME = sizeof some / sizeof some[0] };

/* A model of random weights, the same with every linear map factored, and windows of random tokens. */
typedef struct setup {
    mp_arch arch;
    mp_source *dense, *factors;
    mp_windows windows; /* tokens on rank 0 only */
} setup;

static void setup_close(setup *s)
{
    mp_source_close(&s->dense);
    mp_source_close(&s->factors);
    mp_windows_free(&s->windows);
}

static mp_status factor_all(const mp_arch *arch, mp_source *source)
{
    for (int64_t b = 0; b < arch->n_blocks; b++)
        for (int i = 0; i < arch->n_linears; i++) {
            char name[256];

            mp_arch_tensor_name(b, arch->linears[i].name, name);
            MP_TRY(memory_source_factor(source, name, STORED, (uint64_t)(100 * b + i)));
        }
    return MP_OK;
}

static mp_status setup_open(const mp_comm *comm, const char *family, setup *s)
{
    char extra[64];

    snprintf(extra, sizeof extra, "\"num_hidden_layers\": %d", BLOCKS);
    MP_TRY(tiny_arch(family, extra, &s->arch));
    MP_TRY(memory_source_create(&s->arch, MP_BF16, SEED, &s->dense));
    MP_TRY(memory_source_create(&s->arch, MP_BF16, SEED, &s->factors));
    MP_TRY(factor_all(&s->arch, s->factors));
    s->windows.count = WINDOWS;
    s->windows.seqlen = TOKENS;
    if (comm->rank > 0) return MP_OK;
    MP_TRY(MP_NEW(s->windows.tokens, WINDOWS * TOKENS, "tokens"));
    for (int64_t i = 0; i < WINDOWS * TOKENS; i++)
        s->windows.tokens[i] = (int32_t)(i * i * 7 % s->arch.vocabulary);
    return MP_OK;
}

/* The first `rank` columns of A and rows of B of one model into another, which has them alone. */
static void cut_factors(mp_source *from, mp_source *to, const char *name, int64_t rank)
{
    const memory_tensor *a, *b;
    memory_tensor *cut_a, *cut_b;
    char factor[300];

    snprintf(factor, sizeof factor, "%s.A", name);
    a = memory_source_tensor(from, factor);
    cut_a = memory_source_tensor(to, factor);
    snprintf(factor, sizeof factor, "%s.B", name);
    b = memory_source_tensor(from, factor);
    cut_b = memory_source_tensor(to, factor);
    for (int64_t i = 0; i < a->info.shape[0]; i++)
        memcpy((uint16_t *)cut_a->data + i * rank, (const uint16_t *)a->data + i * STORED,
               (size_t)rank * sizeof(uint16_t));
    memcpy(cut_b->data, b->data, (size_t)(rank * b->info.shape[1]) * sizeof(uint16_t));
}

/* The loss of the model in which the candidate's linear map really is the pair of factors. */
static mp_status replaced_loss(const mp_comm *comm, const setup *s, const mp_candidate *c,
                               double *nll)
{
    mp_perplexity_result result = {0.0, 0.0, 0};
    mp_source *model = NULL;
    char name[256];
    mp_status st;

    mp_arch_tensor_name(c->block, s->arch.linears[c->linear].name, name);
    MP_GO(memory_source_create(&s->arch, MP_BF16, SEED, &model));
    MP_GO(memory_source_factor(model, name, c->rank, 0));
    cut_factors(s->factors, model, name, c->rank);
    MP_GO(mp_perplexity(comm, &s->arch, model, &s->windows, &result));
    *nll = result.nll;
out:
    mp_source_close(&model);
    return st;
}

static mp_status equals_replaced_models(const mp_comm *comm, const setup *s)
{
    mp_candidate candidates[SOME];
    mp_perplexity_result dense;
    double expected;

    memcpy(candidates, some, sizeof some);
    MP_TRY(mp_perplexity(comm, &s->arch, s->dense, &s->windows, &dense));
    MP_TRY(mp_sensitivity(comm, &s->arch, s->dense, s->factors, &s->windows, 1 << 20, candidates,
                          SOME));
    for (int i = 0; i < SOME; i++) {
        MP_TRY(replaced_loss(comm, s, &some[i], &expected));
        if (!(fabs(candidates[i].nll - expected) < 1e-9 * expected))
            return mp_fail(MP_ERR_NUMERIC, "candidate %d: %.12f, expected %.12f", i,
                           candidates[i].nll, expected);
        MP_EXPECT(fabs(expected - dense.nll) > 1e-6 * expected); /* or it would prove nothing */
    }
    return MP_OK;
}

static mp_status with_model(const mp_comm *comm, const char *family,
                            mp_status (*run)(const mp_comm *, const setup *))
{
    setup s = {.dense = NULL};
    mp_status st = mp_comm_agree(comm, setup_open(comm, family, &s));

    if (st == MP_OK) st = run(comm, &s);
    setup_close(&s);
    return st;
}

static mp_status sensitivity_is_the_perplexity_of_replaced_models(const mp_comm *comm)
{
    MP_TRY(with_model(comm, "llama", equals_replaced_models));
    return with_model(comm, "qwen2", equals_replaced_models); /* which has biases */
}

/* One candidate at a time, all at once, and numbers between that do and do not divide them. */
static mp_status sweeps_agree(const mp_comm *comm, const setup *s)
{
    const size_t most = (WINDOWS + (size_t)comm->size - 1) / (size_t)comm->size * TOKENS *
                        ((size_t)s->arch.d_model * sizeof(float) + 16);
    const size_t bytes[] = {0, 2 * most, 3 * most, 4 * most, 1 << 24};
    mp_candidate first[SOME], again[SOME];

    memcpy(first, some, sizeof some);
    MP_TRY(mp_sensitivity(comm, &s->arch, s->dense, s->factors, &s->windows, (size_t)1 << 40, first,
                          SOME));
    for (size_t k = 0; k < sizeof bytes / sizeof bytes[0]; k++) {
        memcpy(again, some, sizeof some);
        MP_TRY(mp_sensitivity(comm, &s->arch, s->dense, s->factors, &s->windows, bytes[k], again,
                              SOME));
        for (int i = 0; i < SOME; i++) MP_EXPECT(again[i].nll == first[i].nll);
    }
    return MP_OK;
}

static mp_status sweeps_do_not_change_a_bit(const mp_comm *comm)
{
    return with_model(comm, "llama", sweeps_agree);
}

/* Rank 0 alone on its windows, against all. */
static mp_status ranks_agree(const mp_comm *comm, const setup *s)
{
    mp_candidate together[SOME], alone[SOME];
    mp_comm *self = NULL;
    mp_status st = MP_OK;

    memcpy(together, some, sizeof some);
    memcpy(alone, some, sizeof some);
    MP_TRY(
        mp_sensitivity(comm, &s->arch, s->dense, s->factors, &s->windows, 1 << 20, together, SOME));
    for (int i = 0; i < SOME; i++)
        MP_TRY(mp_comm_same(comm, (int64_t)(together[i].nll * 1e15), "nll"));
    if (comm->rank == 0) {
        MP_GO(mp_comm_create(MPI_COMM_SELF, &self));
        MP_GO(mp_sensitivity(self, &s->arch, s->dense, s->factors, &s->windows, 1 << 20, alone,
                             SOME));
        for (int i = 0; i < SOME; i++)
            if (!(fabs(alone[i].nll - together[i].nll) <= 1e-12 * alone[i].nll))
                MP_GO(mp_fail(MP_ERR_NUMERIC, "candidate %d: %.15f on %d ranks, %.15f on 1", i,
                              together[i].nll, comm->size, alone[i].nll));
    }
out:
    mp_comm_free(self);
    return mp_comm_agree(comm, st);
}

static mp_status ranks_do_not_change_sensitivities(const mp_comm *comm)
{
    return with_model(comm, "llama", ranks_agree);
}

/* Counted block by block: each stream through each block it passes, and the head. */
static mp_status flop_of_some(const mp_comm *comm, const setup *s)
{
    double linears, attention, expected = 0.0;

    (void)comm;
    mp_forward_flops(&s->arch, TOKENS, &linears, &attention);
    for (int64_t b = 0; b < some[SOME - 1].block; b++) expected += linears + attention;
    for (int i = 0; i < SOME; i++) {
        const mp_linear_row *row = &s->arch.linears[some[i].linear];

        for (int64_t b = some[i].block; b < BLOCKS; b++) expected += linears + attention;
        expected += 2.0 * TOKENS *
                    (double)(some[i].rank * (row->d_out + row->d_in) - row->d_out * row->d_in);
        expected += 2.0 * TOKENS * (double)(s->arch.vocabulary * s->arch.d_model);
    }
    expected *= WINDOWS;
    MP_EXPECT(fabs(mp_sensitivity_flop(&s->arch, WINDOWS, TOKENS, some, SOME) - expected) <
              1e-9 * expected);
    MP_EXPECT(mp_sensitivity_flop(&s->arch, WINDOWS, TOKENS, some, 0) == 0.0);
    return MP_OK;
}

static mp_status the_cost_counts_every_pass(const mp_comm *comm)
{
    return with_model(comm, "llama", flop_of_some);
}

/* Fails on all ranks, with these words. */
static mp_status refused(const mp_comm *comm, const setup *s, const mp_windows *windows,
                         mp_candidate *candidates, int64_t count, mp_status expected,
                         const char *words)
{
    mp_status st =
        mp_sensitivity(comm, &s->arch, s->dense, s->factors, windows, 1 << 20, candidates, count);

    MP_EXPECT(st == expected);
    if (strstr(mp_error_message(), words) != NULL) return MP_OK;
    return mp_fail(MP_ERR_NUMERIC, "expected \"%s\" in \"%s\"", words, mp_error_message());
}

static mp_status refuse_what_is_wrong(const mp_comm *comm, const setup *s)
{
    mp_candidate too_high[] = {{1, MP_Q, 3, 0.0}, {2, MP_O, STORED + 1, 0.0}};
    mp_candidate backwards[] = {{2, MP_Q, 3, 0.0}, {1, MP_O, 3, 0.0}};
    mp_candidate beyond[] = {{BLOCKS, MP_Q, 3, 0.0}};
    mp_windows short_ones = {.count = WINDOWS, .seqlen = 1, .tokens = s->windows.tokens};
    memory_tensor *norm = memory_source_tensor(s->dense, MP_NORM_NAME);
    mp_candidate one[] = {{2, MP_K, 4, 0.0}};

    MP_TRY(refused(comm, s, &s->windows, too_high, 2, MP_ERR_ARG,
                   "block 2, self_attn.o_proj: rank 13 is asked for, expected 1 to 12"));
    MP_TRY(refused(comm, s, &s->windows, backwards, 2, MP_ERR_ARG, "of block 1, expected 2 to 3"));
    MP_TRY(refused(comm, s, &s->windows, beyond, 1, MP_ERR_ARG, "of block 4, expected 0 to 3"));
    MP_TRY(refused(comm, s, &short_ones, one, 1, MP_ERR_ARG, "of 1 tokens"));
    for (int64_t i = 0; i < s->arch.d_model; i++) ((uint16_t *)norm->data)[i] = 0x7f7f; /* 3.4e38 */
    return refused(
        comm, s, &s->windows, one, 1, MP_ERR_NUMERIC,
        "block 2, self_attn.k_proj at rank 4: a logit of window 0, position 0 is not finite");
}

static mp_status what_cannot_be_measured_is_refused(const mp_comm *comm)
{
    return with_model(comm, "llama", refuse_what_is_wrong);
}

const mp_case cases_sensitivity[] = {
    {"sensitivity_is_the_perplexity_of_replaced_models",
     sensitivity_is_the_perplexity_of_replaced_models},
    {"sweeps_do_not_change_a_bit", sweeps_do_not_change_a_bit},
    {"ranks_do_not_change_sensitivities", ranks_do_not_change_sensitivities},
    {"the_cost_counts_every_pass", the_cost_counts_every_pass},
    {"what_cannot_be_measured_is_refused", what_cannot_be_measured_is_refused},
    {NULL, NULL},
};
