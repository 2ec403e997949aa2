/* Which rank each linear map gets (budget.h has the rules). */
#include "ranks.h"

#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/stop.h"

#include <math.h>
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
        return mp_fail(MP_ERR_ARG, "--asvd-scale %s: expected abs_mean or abs_max",
                       job->asvd_scale);
    o->whiten = strcmp(job->svd, "cholesky") == 0;
    if (!o->whiten && strcmp(job->svd, "gram") != 0)
        return mp_fail(MP_ERR_ARG, "--svd %s: expected gram or cholesky", job->svd);
    if (o->whiten && !r->runner.method->whitens)
        return mp_fail(MP_ERR_ARG, "--svd cholesky: whitening by the Hessian is asvd+, not %s",
                       job->method);
    o->center = job->center;
    if (job->center && !r->runner.method->whitens)
        return mp_fail(MP_ERR_ARG,
                       "--center: centring is not defined for %s, expected --method asvd+",
                       job->method);
    MP_TRY(mp_rank_policy_parse(job->rank_policy, &r->policy));
    if (job->center && r->policy == MP_RANKS_SENSITIVITY)
        return mp_fail(MP_ERR_ARG,
                       "--center: the bias then belongs to one rank, and a search by sensitivity "
                       "cuts factors; expected --rank-policy uniform or spectrum");
    return MP_OK;
}

/* The factors of a map that is factored already cannot be found again. */
static mp_status check_is_dense(const run *r, int64_t block, int i)
{
    char name[256], suffix[128];

    snprintf(suffix, sizeof suffix, "%s.A", r->arch.linears[i].name);
    mp_arch_tensor_name(block, suffix, name);
    if (mp_source_find(r->source, name) < 0) return MP_OK;
    return mp_fail(MP_ERR_FORMAT,
                   "%s: tensor \"%s\": the linear map is factored already, expected a dense "
                   "one (--skip leaves it as it is)",
                   r->source->path, name);
}

static int has_bias(const run *r)
{
    int biased = 0;

    for (int i = 0; i < r->arch.n_linears; i++) biased |= r->arch.linears[i].has_bias;
    return biased;
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
            if (r->ranks != NULL && r->policy == MP_RANKS_UNIFORM)
                MP_TRY(mp_rank_uniform(row->name, row->d_out, row->d_in, r->job->ratio,
                                       &r->ranks[b * n + i]));
        }
    }
    if (r->runner.options.center && !has_bias(r))
        return mp_fail(MP_ERR_ARG, "--center: no linear map of a %s has a bias", r->arch.family);
    return MP_OK;
}

void search_close(const run *r, rank_search *s)
{
    for (int64_t i = 0; s->spectra != NULL && i < r->arch.n_blocks * r->arch.n_linears; i++)
        mp_free(s->spectra[i]);
    mp_free(s->spectra);
    mp_free(s->items);
    mp_free(s->place);
}

mp_status search_open(const run *r, rank_search *s)
{
    int64_t all = r->arch.n_blocks * r->arch.n_linears;
    int skip[MP_MAX_LINEARS];

    MP_TRY(MP_NEW(s->items, all, "linear maps"));
    MP_TRY(MP_NEW(s->place, all, "linear maps"));
    for (int64_t b = 0; b < r->arch.n_blocks; b++) {
        selection_of_block(&r->selected, &r->arch, b, skip);
        for (int i = 0; i < r->arch.n_linears; i++) {
            const mp_linear_row *row = &r->arch.linears[i];

            if (skip[i]) continue;
            s->place[s->count] = b * r->arch.n_linears + i;
            s->items[s->count++] = (mp_budget_item){.d_out = row->d_out, .d_in = row->d_in};
        }
    }
    return MP_OK;
}

mp_status search_blocks(run *r, int64_t b, int count, const int64_t *ranks, double **spectra,
                        mp_linear_result *results)
{
    int n = r->arch.n_linears, skip[MP_MAX_BATCH][MP_MAX_LINEARS];
    mp_batch_item items[MP_MAX_BATCH];
    double mark = mp_seconds();

    for (int k = 0; k < count; k++) {
        MP_TRY(mp_block_load(r->runner.blocks[k], r->comm, r->source, b + k));
        mp_block_prefetch(&r->arch, r->comm, r->source, b + k + 1);
        selection_of_block(&r->selected, &r->arch, b + k, skip[k]);
        for (int i = 0; i < n; i++) skip[k][i] |= ranks[i] == 0;
        items[k] = (mp_batch_item){.block = r->runner.blocks[k],
                                   .skip = skip[k],
                                   .ranks = ranks,
                                   .spectra = spectra != NULL ? spectra + k * n : NULL,
                                   .is_last = b + k + 1 == r->arch.n_blocks,
                                   .results = results + k * n};
    }
    mp_clock_lap(&r->runner.clock, MP_PHASE_READ, 0.0, &mark);
    r->runner.spectra_only = spectra != NULL;
    MP_TRY(mp_runner_batch(&r->runner, items, count));
    mp_log(MP_LOG_INFO, "search for ranks: block %lld/%lld", (long long)b + count,
           (long long)r->arch.n_blocks);
    return MP_OK;
}

static mp_status open_spectra(const run *r, rank_search *s)
{
    MP_TRY(MP_NEW(s->spectra, r->arch.n_blocks * r->arch.n_linears, "spectra"));
    for (int64_t i = 0; i < s->count; i++) {
        mp_budget_item *item = &s->items[i];

        item->values = item->d_out < item->d_in ? item->d_out : item->d_in;
        MP_TRY(MP_NEW(s->spectra[s->place[i]], item->values, "a spectrum"));
        item->spectrum = s->spectra[s->place[i]];
    }
    return MP_OK;
}

/* The spectra come with any rank; 1 is enough. */
static mp_status by_spectrum(run *r, rank_search *s)
{
    int64_t ones[MP_MAX_LINEARS];
    mp_linear_result results[MP_MAX_BATCH * MP_MAX_LINEARS];
    int64_t blocks = r->arch.n_blocks;
    int batch = r->runner.batch;

    for (int i = 0; i < MP_MAX_LINEARS; i++) ones[i] = 1;
    MP_TRY(mp_comm_agree(r->comm, open_spectra(r, s)));
    for (int64_t b = 0; b < blocks; b += batch)
        MP_TRY(search_blocks(r, b, (int)(blocks - b < batch ? blocks - b : batch), ones,
                             s->spectra + b * r->arch.n_linears, results));
    return mp_comm_agree(r->comm, mp_budget_by_spectrum(s->items, s->count, r->job->ratio));
}

static int is_searched(const run *r)
{
    return r->ranks != NULL && r->policy != MP_RANKS_UNIFORM && r->job->ratio != 1.0;
}

mp_status ranks_afford(run *r)
{
    if (!is_searched(r) || r->policy != MP_RANKS_SENSITIVITY) return MP_OK;
    return mp_comm_agree(r->comm, sensitivity_afford(r));
}

/* For a run that goes on with this one: the search is not done twice. */
static mp_status keep_ranks(run *r)
{
    json_t *ranks = json_array();

    for (int64_t i = 0; i < r->arch.n_blocks * r->arch.n_linears; i++)
        json_array_append_new(ranks, json_integer((json_int_t)r->ranks[i]));
    return mp_checkpoint_note(r->checkpoint, "ranks",
                              json_pack("{s:o, s:O?, s:I}", "ranks", ranks, "sensitivity",
                                        r->sensitivity, "retries", (json_int_t)r->search_retries));
}

mp_status ranks_search(run *r)
{
    const mp_order order = r->runner.order;
    rank_search s = {.count = 0};
    int64_t stored, dense;
    mp_status st;

    if (!is_searched(r) || r->has_ranks) return MP_OK;
    mp_stop_expect(INFINITY);
    MP_GO(mp_comm_agree(r->comm, search_open(r, &s)));
    r->runner.order = MP_ORDER_DENSE;
    st = r->policy == MP_RANKS_SPECTRUM ? by_spectrum(r, &s) : by_sensitivity(r, &s);
    r->runner.order = order;
    r->runner.spectra_only = 0;
    MP_GO(st);
    r->search_retries = r->runner.retries;
    for (int64_t i = 0; i < s.count; i++) r->ranks[s.place[i]] = s.items[i].rank;
    mp_budget_totals(s.items, s.count, &stored, &dense);
    mp_log(MP_LOG_INFO, "ranks by %s: %.4f of the parameters of %lld linear maps",
           r->job->rank_policy, (double)stored / (double)dense, (long long)s.count);
    MP_GO(keep_ranks(r));
    MP_GO(run_embed(r));
    if (r->runner.block == NULL) st = mp_runner_open(&r->runner);
out:
    search_close(r, &s);
    return st;
}
