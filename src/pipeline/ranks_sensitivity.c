/* Ranks by sensitivity: every linear map in turn at several ratios, all others dense (budget.h has the
 * rule, mpress/sensitivity.h the measurement). */
#include "mpress/sensitivity.h"

#include "mpress/fileio.h"
#include "mpress/log.h"
#include "mpress/memory.h"
#include "ranks.h"

#include <math.h>

static const double ratios[] = {0.4, 0.5, 0.6, 0.7, 0.8, 0.9};

enum { RATIOS = sizeof ratios / sizeof ratios[0], MOST_WINDOWS = 32 };

/* Of a host, for the candidates under way, or what the calibration's hidden states took. */
static const size_t LEAST_BYTES = (size_t)4 << 30;

/* The same candidates for the measurement and for the cut, by rising item and ratio. */
typedef struct table {
    mp_candidate *candidates; /* [count] */
    mp_budget_trial *trials;  /* [count] */
    int64_t count;
} table;

static void table_close(table *t)
{
    mp_free(t->candidates);
    mp_free(t->trials);
}

static mp_status table_open(const run *r, const rank_search *s, table *t)
{
    MP_TRY(MP_NEW(t->candidates, s->count * RATIOS, "candidates"));
    MP_TRY(MP_NEW(t->trials, s->count * RATIOS, "trials"));
    for (int64_t i = 0; i < s->count; i++)
        for (int k = 0; k < RATIOS; k++) {
            int64_t rank = mp_rank_of_ratio(s->items[i].d_out, s->items[i].d_in, ratios[k]);

            if (rank < 1) continue;
            t->candidates[t->count] =
                (mp_candidate){.block = s->place[i] / r->arch.n_linears,
                               .linear = (int)(s->place[i] % r->arch.n_linears),
                               .rank = rank};
            t->trials[t->count++] = (mp_budget_trial){.item = i, .ratio = ratios[k], .rank = rank};
        }
    if (t->count > 0) return MP_OK;
    return mp_fail(MP_ERR_ARG,
                   "--rank-policy sensitivity: none of %lld linear maps can be factored",
                   (long long)s->count);
}

/* The first of the calibration windows. */
static mp_windows search_windows(const run *r)
{
    mp_windows windows = r->calibration;

    if (windows.count > MOST_WINDOWS) windows.count = MOST_WINDOWS;
    return windows;
}

mp_status sensitivity_afford(const run *r)
{
    const mp_windows windows = search_windows(r);
    rank_search s = {.count = 0};
    table t = {.count = 0};
    double flop;
    mp_status st;

    MP_GO(search_open(r, &s));
    MP_GO(table_open(r, &s, &t));
    flop = mp_sensitivity_flop(&r->arch, windows.count, windows.seqlen, t.candidates, t.count);
    mp_log(MP_LOG_INFO,
           "search by sensitivity: %lld candidates on %lld windows of %lld tokens, %.3g flop",
           (long long)t.count, (long long)windows.count, (long long)windows.seqlen, flop);
    if (!(flop <= r->job->max_search_flop))
        st = mp_fail(MP_ERR_ARG,
                     "--rank-policy sensitivity takes %.3g flop, expected at most the %g of "
                     "--max-search-flop (--rank-policy spectrum needs no search)",
                     flop, r->job->max_search_flop);
out:
    table_close(&t);
    search_close(r, &s);
    return st;
}

/* Factors of the largest rank of any candidate: those of the others are their first columns and rows. */
static mp_status write_factors(run *r, const table *t, mp_checkpoint *to)
{
    for (int64_t b = 0; b < r->arch.n_blocks; b++) {
        int64_t ranks[MP_MAX_LINEARS] = {0};
        mp_linear_result results[MP_MAX_LINEARS];

        for (int64_t i = 0; i < t->count; i++) {
            const mp_candidate *c = &t->candidates[i];

            if (c->block == b && c->rank > ranks[c->linear]) ranks[c->linear] = c->rank;
        }
        MP_TRY(search_blocks(r, b, 1, ranks, NULL, results));
        MP_TRY(run_write_block(r, to, b, results, NULL));
    }
    return mp_checkpoint_finish(to);
}

static mp_status make_factors(run *r, const table *t, const char *dir, mp_source **factors)
{
    json_t *record = report_identity(r);
    mp_checkpoint *checkpoint = NULL;
    mp_status st;

    MP_GO(
        mp_checkpoint_create(r->comm, dir, r->assets, &r->arch, r->source, record, 0, &checkpoint));
    MP_GO(write_factors(r, t, checkpoint));
    MP_GO(mp_checkpoint_share_model(checkpoint, factors));
out:
    mp_checkpoint_free(checkpoint);
    json_decref(record);
    return st;
}

/* When nobody has a file of it open any more.  Collective; agreed. */
static mp_status remove_factors(const run *r, const char *dir)
{
    MP_TRY(mp_comm_agree(r->comm, MP_OK));
    return mp_comm_agree(r->comm, r->comm->rank == 0 ? mp_path_remove(dir) : MP_OK);
}

/* Per rank, and the same on all. */
static size_t bytes_to_use(const run *r)
{
    const mp_hidden *h = r->runner.hidden;
    size_t had = (size_t)(h->rounds * h->n_tokens * h->width) * sizeof *h->states;
    size_t least =
        LEAST_BYTES / (size_t)((r->comm->size + r->comm->host_count - 1) / r->comm->host_count);

    return had > least ? had : least;
}

static mp_status measure(run *r, const mp_source *factors, table *t)
{
    const mp_windows windows = search_windows(r);
    const size_t bytes = bytes_to_use(r);
    double mark = mp_seconds();

    mp_runner_close(&r->runner);
    mp_hidden_free(r->runner.hidden);
    r->runner.hidden = NULL;
    MP_TRY(mp_sensitivity(r->comm, &r->arch, r->source, factors, &windows, bytes, t->candidates,
                          t->count));
    for (int64_t i = 0; i < t->count; i++) t->trials[i].nll = t->candidates[i].nll;
    mp_clock_lap(&r->runner.clock, MP_PHASE_EVAL, 0.0, &mark);
    return MP_OK;
}

/* A perplexity that is too large for a double has no place in JSON. */
static json_t *table_json(const run *r, const table *t)
{
    json_t *all = json_array();

    for (int64_t i = 0; i < t->count; i++) {
        const mp_candidate *c = &t->candidates[i];
        double perplexity = exp(c->nll);

        json_array_append_new(
            all, json_pack("{s:I, s:s, s:f, s:I, s:o}", "block", (json_int_t)c->block, "name",
                           r->arch.linears[c->linear].name, "ratio", t->trials[i].ratio, "rank",
                           (json_int_t)c->rank, "perplexity",
                           isfinite(perplexity) ? json_real(perplexity) : json_null()));
    }
    return all;
}

mp_status by_sensitivity(run *r, rank_search *s)
{
    mp_source *factors = NULL;
    table t = {.count = 0};
    char *dir = NULL;
    int all_know_dir = 0;
    mp_status st, gone = MP_OK;

    st = table_open(r, s, &t);
    if (st == MP_OK) st = mp_path_join(r->job->out, "search", &dir);
    MP_GO(mp_comm_agree(r->comm, st));
    all_know_dir = 1;
    MP_GO(remove_factors(r, dir)); /* of a run that was killed */
    MP_GO(make_factors(r, &t, dir, &factors));
    MP_GO(measure(r, factors, &t));
    MP_GO(mp_comm_agree(
        r->comm, mp_budget_by_sensitivity(s->items, s->count, t.trials, t.count, r->job->ratio)));
    r->sensitivity = table_json(r, &t);
out:
    mp_source_close(&factors);
    if (all_know_dir) gone = remove_factors(r, dir);
    if (st == MP_OK) st = gone;
    table_close(&t);
    mp_free(dir);
    return st;
}
