/* One linear map on random weights and activations: pruned, or factored (bench.h). */
#include "bench.h"

#include "mpress/block_run.h"
#include "mpress/budget.h"
#include "mpress/dlinalg.h"
#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/plan.h"
#include "mpress/rng.h"

#include <math.h>
#include <string.h>

/* Random activations with channels of different strength, as real ones have. */
static void random_states(int64_t sequence, int64_t n_tokens, int64_t n, float *x)
{
    mp_philox_normal(1, (uint64_t)sequence, 0, n_tokens * n, x);
    for (int64_t t = 0; t < n_tokens; t++)
        for (int64_t i = 0; i < n; i++) x[t * n + i] *= 0.1f + (float)(i * 7 % 64) / 64.0f;
}

/* H of 2 d_in random tokens on `grid`; of the widest layers, where that would take longer than what is
 * timed, of 1024 and a diagonal. */
static mp_status random_moment(const mp_comm *comm, const bench_config *config, const mp_grid *grid,
                               mp_moment **moment)
{
    enum { TOKENS = 1024, WIDEST = 16384 };
    int64_t n = config->d_in, sequences = n > WIDEST ? 1 : (2 * n + TOKENS - 1) / TOKENS;
    mp_moment_scratch *scratch = NULL;
    mp_moment *m = NULL;
    float *x = NULL, *weights = NULL;
    mp_status st;

    MP_GO(mp_moment_create(comm, n, config->blocksize, &m));
    st = mp_moment_scratch_create(comm, &n, 1, config->blocksize, TOKENS, &scratch);
    if (st == MP_OK) st = MP_NEW(x, TOKENS * n, "activations");
    if (st == MP_OK) st = MP_NEW(weights, TOKENS, "token weights");
    MP_GO(mp_comm_agree(comm, st));
    for (int t = 0; t < TOKENS; t++) weights[t] = 1.0f;
    for (int64_t s = 0; s < sequences; s += comm->size) {
        int active = sequences - s < comm->size ? (int)(sequences - s) : comm->size;

        random_states(s + comm->rank, TOKENS, n, x);
        MP_GO(mp_moment_add(m, scratch, active, x, TOKENS, weights));
    }
    MP_GO(mp_moment_finish(m, *grid));
    for (int64_t r = m->order - n; r < m->order && n > WIDEST; r++)
        m->diagonal[r] += (double)(1 + r * 13 % 31);
    mp_dmat_set_diagonal(m->matrix, m->diagonal);
    *moment = m;
    m = NULL;
out:
    mp_moment_free(m);
    mp_moment_scratch_free(scratch);
    mp_free(x);
    mp_free(weights);
    return st;
}

static mp_status random_problem(const mp_comm *comm, const bench_config *config,
                                const mp_quant *quant, mp_moment *moment, mp_problem *p)
{
    *p = (mp_problem){.comm = comm,
                      .moment = moment,
                      .n = config->d_in,
                      .order = moment->order,
                      .parts = 1,
                      .groups = quant->bits > 0 ? mp_quant_groups(quant, config->d_in) : 0,
                      .part = {{.name = "bench", .dtype = MP_BF16, .d_out = config->d_out}}};
    return mp_problem_open(p);
}

static mp_status solve_once(const mp_comm *comm, const mp_method *method,
                            const mp_method_options *options, mp_moment *m, mp_problem *p, best *b)
{
    mp_outcome outcome = {.damping = NAN};
    double mark, start, n = (double)p->n;
    const mp_grid *grid = &m->matrix->grid;
    mp_clock clock = {.seconds = {0.0}};
    mp_status st = MP_OK;

    for (int64_t i = 0; i < p->strips; i++)
        mp_philox_normal(2, (uint64_t)(p->part[0].first_row / MP_STRIP + i), 0, p->n * MP_STRIP,
                         p->weight + i * p->order * MP_STRIP);
    MP_TRY(mp_dmat_mirror(m->matrix, MP_UPPER_HALF)); /* the factor of the last run goes */
    mp_dmat_set_diagonal(m->matrix, m->diagonal);
    MP_TRY(bench_barrier(comm));
    start = mark = mp_seconds();
    if (method->prepare != NULL && mp_grid_holds(grid, comm->rank)) {
        st = method->prepare(options, m, &outcome);
        mp_clock_lap(&clock, MP_PHASE_FACTOR,
                     method->factor_flop * n * n * n / (grid->rows * grid->cols), &mark);
    }
    MP_TRY(mp_comm_agree(comm, st));
    mp_clock_lap(&clock, MP_PHASE_FACTOR, 0.0, &mark);
    MP_TRY(method->compress(options, &outcome, p));
    mp_clock_lap(&clock, MP_PHASE_SWEEP,
                 method->sweep_flop * (double)(p->strips * MP_STRIP) * n * n, &mark);
    return bench_keep_best(comm, mp_seconds() - start, &clock, b);
}

mp_status bench_solve(const mp_comm *comm, const bench_config *config, const mp_method *method,
                      const mp_method_options *options)
{
    mp_moment *moment = NULL;
    mp_problem p = {0};
    const mp_plan_task task = mp_plan_cholesky(config->d_in);
    best b = {0};
    mp_grid grid;
    mp_status st;

    if (method->compress == NULL)
        return mp_fail(MP_ERR_ARG,
                       "--method %s: factors instead of pruning: 'mpress bench lowrank'",
                       method->name);
    if (config->d_in < 1 || config->d_out < 1)
        return mp_fail(MP_ERR_ARG, "--d-in %lld --d-out %lld: expected positive sizes",
                       (long long)config->d_in, (long long)config->d_out);
    MP_TRY(method->fits(options, "the layer", config->d_in));
    MP_TRY(mp_plan_grids(&task, 1, comm->size, &grid));
    MP_GO(random_moment(comm, config, &grid, &moment));
    MP_GO(mp_comm_agree(comm, random_problem(comm, config, &options->quant, moment, &p)));
    for (int64_t i = 0; i < config->repeat; i++)
        MP_GO(solve_once(comm, method, options, moment, &p, &b));
    st = bench_report(comm, config, &b);
out:
    mp_problem_close(&p);
    mp_moment_free(moment);
    return st;
}

/* Normal weights, once per node. */
static mp_status random_weight(const mp_comm *comm, const bench_config *config, mp_shared **shared)
{
    int64_t begin, end, n = config->d_in;
    float scale = 1.0f / sqrtf((float)n);

    MP_TRY(mp_shared_create(comm, (size_t)(config->d_out * n) * sizeof(float), "a weight", shared));
    mp_share(config->d_out, 1, comm->node_rank, comm->node_size, &begin, &end);
    for (int64_t r = begin; r < end; r++) {
        float *row = (float *)(*shared)->base + r * n;

        mp_philox_normal(2, (uint64_t)r, 0, n, row);
        for (int64_t j = 0; j < n; j++) row[j] *= scale;
    }
    return mp_shared_fence(comm, *shared);
}

static mp_status factor_once(const mp_comm *comm, const mp_method *method,
                             const mp_method_options *options, mp_moment *m, mp_factors *f, best *b)
{
    const mp_lowrank_times before = mp_lowrank_clock();
    mp_outcome outcome = {.damping = NAN};
    mp_clock clock = {.seconds = {0.0}};
    double start, seconds;
    mp_status st = MP_OK;

    if (options->whiten)
        MP_TRY(mp_dmat_mirror(m->matrix, MP_UPPER_HALF)); /* the last run's factor goes */
    mp_dmat_set_diagonal(m->matrix, m->diagonal);
    MP_TRY(bench_barrier(comm));
    start = mp_seconds();
    if (mp_grid_holds(&m->matrix->grid, comm->rank))
        st = method->factorise(options, m, f, 1, &outcome);
    MP_TRY(mp_comm_agree(comm, st));
    seconds = mp_seconds() - start;
    mp_clock_lowrank(&clock, &before);
    mp_factors_free(f);
    return bench_keep_best(comm, seconds, &clock, b);
}

mp_status bench_lowrank(const mp_comm *comm, const bench_config *config, const mp_method *method,
                        const mp_method_options *options)
{
    const mp_grid grid = mp_grid_of(0, comm->size);
    mp_factors f = {.name = "the layer", .d_out = config->d_out, .d_in = config->d_in};
    mp_shared *weight = NULL;
    mp_moment *moment = NULL;
    best b = {0};
    mp_status st;

    if (method->factorise == NULL)
        return mp_fail(MP_ERR_ARG, "--method %s: expected one that factors: asvd+", method->name);
    if ((method->needs & MP_NEED_CHANNELS) != 0)
        return mp_fail(MP_ERR_ARG, "--method %s: 'mpress bench lowrank' times asvd+", method->name);
    if (config->d_in < 1 || config->d_out < 1)
        return mp_fail(MP_ERR_ARG, "--d-in %lld --d-out %lld: expected positive sizes",
                       (long long)config->d_in, (long long)config->d_out);
    MP_TRY(mp_rank_uniform(f.name, f.d_out, f.d_in, config->ratio, &f.rank));
    if (f.rank == 0) return mp_fail(MP_ERR_ARG, "--ratio %g leaves the layer dense", config->ratio);
    MP_GO(random_moment(comm, config, &grid, &moment));
    MP_GO(random_weight(comm, config, &weight));
    f.weight = weight->base;
    for (int64_t i = 0; i < config->repeat; i++)
        MP_GO(factor_once(comm, method, options, moment, &f, &b));
    st = bench_report(comm, config, &b);
out:
    mp_shared_free(weight);
    mp_moment_free(moment);
    return st;
}
