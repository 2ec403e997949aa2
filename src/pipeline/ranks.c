/* Which rank each linear map gets (budget.h has the rules). */
#include "run.h"

#include "mpress/log.h"
#include "mpress/memory.h"

#include <string.h>

static mp_status read_choices(run *r)
{
    const mp_job *job = r->job;
    mp_method_options *o = &r->runner.options;

    if (!(job->ratio > 0.0 && job->ratio <= 1.0))
        return mp_fail(MP_ERR_ARG, "--ratio %g: expected a share above 0, up to 1", job->ratio);
    if (!(job->alpha > 0.0 && job->alpha <= 2.0))
        return mp_fail(MP_ERR_ARG, "--alpha %g: expected an exponent above 0, up to 2", job->alpha);
    o->alpha = job->alpha;
    o->scale_by_max = strcmp(job->asvd_scale, "abs_max") == 0;
    if (!o->scale_by_max && strcmp(job->asvd_scale, "abs_mean") != 0)
        return mp_fail(MP_ERR_ARG, "--asvd-scale %s: expected abs_mean or abs_max", job->asvd_scale);
    o->whiten = strcmp(job->svd, "cholesky") == 0;
    if (!o->whiten && strcmp(job->svd, "gram") != 0)
        return mp_fail(MP_ERR_ARG, "--svd %s: expected gram or cholesky", job->svd);
    o->center = job->center;
    if (job->center && strcmp(job->method, "asvd+") != 0)
        return mp_fail(MP_ERR_ARG, "--center: centring is defined for asvd+, not for %s", job->method);
    return mp_rank_policy_parse(job->rank_policy, &r->policy);
}

/* The factors of a map that is factored already cannot be found again. */
static mp_status check_is_dense(const run *r, int64_t block, int i)
{
    char name[256], suffix[128];

    snprintf(suffix, sizeof suffix, "%s.A", r->arch.linears[i].name);
    mp_arch_tensor_name(block, suffix, name);
    if (mp_source_find(r->source, name) < 0) return MP_OK;
    return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%s\": the linear map is factored already, expected a dense "
                   "one (--skip leaves it as it is)", r->source->path, name);
}

mp_status ranks_open(run *r)
{
    const mp_method *method = r->runner.method;
    int skip[MP_MAX_LINEARS], n = r->arch.n_linears;

    if (method->factorise != NULL) {
        MP_TRY(read_choices(r));
        MP_TRY(MP_NEW(r->ranks, r->arch.n_blocks * n, "ranks"));
    }
    for (int64_t b = 0; b < r->arch.n_blocks; b++) {
        selection_of_block(&r->selected, &r->arch, b, skip);
        for (int i = 0; i < n; i++) {
            const mp_linear_row *row = &r->arch.linears[i];

            if (skip[i]) continue;
            MP_TRY(check_is_dense(r, b, i));
            if (r->ranks != NULL)
                MP_TRY(mp_rank_uniform(row->name, row->d_out, row->d_in, r->job->ratio,
                                       &r->ranks[b * n + i]));
        }
    }
    return MP_OK;
}

/* What a search over all blocks of the dense model finds. */
typedef struct search {
    mp_budget_item *items; /* [count] the linear maps that are not skipped, */
    int64_t *place;        /* [count] and where they stand in run.ranks */
    double **spectra;      /* [n_blocks][n_linears], owned */
    int64_t count;
} search;

static void search_close(const run *r, search *s)
{
    for (int64_t i = 0; s->spectra != NULL && i < r->arch.n_blocks * r->arch.n_linears; i++)
        mp_free(s->spectra[i]);
    mp_free(s->spectra);
    mp_free(s->items);
    mp_free(s->place);
}

static mp_status search_open(const run *r, search *s)
{
    int64_t all = r->arch.n_blocks * r->arch.n_linears;
    int skip[MP_MAX_LINEARS];

    MP_TRY(MP_NEW(s->items, all, "linear maps"));
    MP_TRY(MP_NEW(s->place, all, "linear maps"));
    MP_TRY(MP_NEW(s->spectra, all, "spectra"));
    for (int64_t b = 0; b < r->arch.n_blocks; b++) {
        selection_of_block(&r->selected, &r->arch, b, skip);
        for (int i = 0; i < r->arch.n_linears; i++) {
            const mp_linear_row *row = &r->arch.linears[i];
            int64_t place = b * r->arch.n_linears + i;
            int64_t values = row->d_out < row->d_in ? row->d_out : row->d_in;

            if (skip[i]) continue;
            MP_TRY(MP_NEW(s->spectra[place], values, "a spectrum"));
            s->place[s->count] = place;
            s->items[s->count++] = (mp_budget_item){.d_out = row->d_out, .d_in = row->d_in,
                                                    .spectrum = s->spectra[place], .values = values};
        }
    }
    return MP_OK;
}

/* The spectra of one block of the dense model; rank 1 is enough for them. */
static mp_status search_block(run *r, int64_t b, search *s)
{
    int64_t ones[MP_MAX_LINEARS];
    mp_linear_result results[MP_MAX_LINEARS];
    int skip[MP_MAX_LINEARS];
    double mark = mp_seconds();

    for (int i = 0; i < MP_MAX_LINEARS; i++) ones[i] = 1;
    MP_TRY(mp_block_load(r->runner.block, r->comm, r->source, b));
    mp_block_prefetch(&r->arch, r->comm, r->source, b + 1);
    mp_clock_lap(&r->runner.clock, MP_PHASE_READ, 0.0, &mark);
    selection_of_block(&r->selected, &r->arch, b, skip);
    r->runner.ranks = ones;
    r->runner.spectra = s->spectra + b * r->arch.n_linears;
    r->runner.spectra_only = 1;
    MP_TRY(mp_runner_block(&r->runner, skip, b + 1 == r->arch.n_blocks, results));
    mp_log(MP_LOG_INFO, "spectra of block %lld/%lld", (long long)b + 1, (long long)r->arch.n_blocks);
    return MP_OK;
}

static mp_status find_spectra(run *r, search *s)
{
    const mp_order order = r->runner.order;
    mp_status st = MP_OK;

    r->runner.order = MP_ORDER_DENSE;
    for (int64_t b = 0; b < r->arch.n_blocks && st == MP_OK; b++) st = search_block(r, b, s);
    r->runner.order = order;
    r->runner.spectra = NULL;
    r->runner.spectra_only = 0;
    return st;
}

mp_status ranks_search(run *r)
{
    search s = {.count = 0};
    int64_t stored, dense;
    mp_status st;

    if (r->ranks == NULL || r->policy == MP_RANKS_UNIFORM || r->job->ratio == 1.0) return MP_OK;
    MP_GO(mp_comm_agree(r->comm, search_open(r, &s)));
    MP_GO(find_spectra(r, &s));
    MP_GO(mp_comm_agree(r->comm, mp_budget_by_spectrum(s.items, s.count, r->job->ratio)));
    for (int64_t i = 0; i < s.count; i++) r->ranks[s.place[i]] = s.items[i].rank;
    mp_budget_totals(s.items, s.count, &stored, &dense);
    mp_log(MP_LOG_INFO, "ranks by spectrum: %.4f of the parameters of %lld linear maps",
           (double)stored / (double)dense, (long long)s.count);
    st = run_embed(r);
out:
    search_close(r, &s);
    return st;
}
