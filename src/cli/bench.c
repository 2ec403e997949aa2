/* Benchmarks: one linear layer, or one block, on random weights and activations, beside the GEMM rate
 * of the same ranks in the same run. */
#include "commands.h"

#include "mpress/block_run.h"
#include "mpress/dlinalg.h"
#include "mpress/linalg.h"
#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/plan.h"
#include "mpress/rng.h"
#include "mpress/tensor.h"
#include "startup.h"

#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct bench_config {
    const char *what, *method, *pattern, *config, *propagate;
    int64_t d_in, d_out, tokens, seqlen, blocksize, repeat;
    double damp;
    int json;
} bench_config;

#define AT(field) offsetof(bench_config, field)

static const mp_option rows[] = {
    {"solve|block", NULL, "one linear layer with its Hessian given, or one whole block", NULL,
     MP_OPT_STRING, AT(what), 0},
    {"--method", "NAME", "method to run", "sparsegpt", MP_OPT_STRING, AT(method), 0},
    {"--pattern", "S", "sparsity: 0.5 or N:M", "4:8", MP_OPT_STRING, AT(pattern), 0},
    {"--d-in", "N", "solve: input channels", "4096", MP_OPT_INT, AT(d_in), 0},
    {"--d-out", "M", "solve: output channels", "4096", MP_OPT_INT, AT(d_out), 0},
    {"--config", "FILE", "block: config.json of the shape", NULL, MP_OPT_STRING, AT(config), 0},
    {"--tokens", "T", "block: calibration tokens in all", "8192", MP_OPT_INT, AT(tokens), 0},
    {"--seqlen", "L", "block: tokens per sequence", "2048", MP_OPT_INT, AT(seqlen), 0},
    {"--propagate", "ORDER", "block: block, linear or dense", "block", MP_OPT_STRING, AT(propagate), 0},
    {"--damp", "D", "damping", "0.01", MP_OPT_DOUBLE, AT(damp), 0},
    {"--blocksize", "B", "columns of a lazy update", "128", MP_OPT_INT, AT(blocksize), 0},
    {"--repeat", "N", "runs, of which the best counts", "3", MP_OPT_INT, AT(repeat), 0},
    {"--json", NULL, "print JSON alone", NULL, MP_OPT_FLAG, AT(json), 0},
    {NULL, NULL, NULL, NULL, MP_OPT_FLAG, 0, 0},
};

static const mp_command_line line = {"bench", "time one layer or one block against the GEMM rate", rows};

/* The best run so far. */
typedef struct best {
    double seconds;
    mp_clock clock;
} best;

/* Ends one run: the slowest rank counts. */
static mp_status keep_best(const mp_comm *comm, double seconds, const mp_clock *clock, best *b)
{
    MP_TRY(mp_comm_max(comm, &seconds, 1));
    if (b->seconds == 0.0 || seconds < b->seconds) {
        b->seconds = seconds;
        b->clock = *clock;
    }
    return MP_OK;
}

static mp_status barrier(const mp_comm *comm)
{
    return mp_mpi_check(MPI_Barrier(comm->mpi), "barrier");
}

static json_t *phases_json(const mp_clock_summary *s, double single, double twice)
{
    json_t *phases = json_object();

    for (int i = 0; i < MP_PHASE_COUNT; i++) {
        const char *precision = mp_phase_precision((mp_phase)i);
        double rate = s->max[i] > 0.0 ? s->flop[i] / s->max[i] : 0.0;
        double peak = strcmp(precision, "fp64") == 0 ? twice : single;

        if (s->max[i] > 0.0)
            json_object_set_new(phases, mp_phase_name((mp_phase)i),
                                json_pack("{s:f, s:f, s:s, s:f}", "seconds", s->max[i], "gflops",
                                          1e-9 * rate, "precision", precision, "share", rate / peak));
    }
    return phases;
}

static mp_status report(const mp_comm *comm, const bench_config *config, const best *b)
{
    double rates[2] = {0.0, 0.0};
    mp_clock_summary s;
    int64_t peak, node;
    json_t *all;
    char *text;

    MP_TRY(mp_comm_peak_bytes(comm, &peak, &node));
    MP_TRY(barrier(comm)); /* all ranks at once: they share caches and memory as in the run */
    MP_TRY(mp_comm_agree(comm, mp_gemm_rate(3072, 1, &rates[0])));
    MP_TRY(barrier(comm));
    MP_TRY(mp_comm_agree(comm, mp_gemm_rate(2048, 0, &rates[1])));
    MP_TRY(mp_comm_sum(comm, rates, 2));
    MP_TRY(mp_clock_gather(comm, &b->clock, &s));
    if (comm->rank != 0) return MP_OK;
    all = json_pack("{s:f, s:f, s:f, s:o, s:I}", "seconds", b->seconds, "gemm_gflops",
                    1e-9 * rates[0], "dgemm_gflops", 1e-9 * rates[1], "phases",
                    phases_json(&s, rates[0], rates[1]), "peak_bytes", (json_int_t)peak);
    text = json_dumps(all, JSON_REAL_PRECISION(6) | (config->json ? JSON_COMPACT : JSON_INDENT(2)));
    printf("%s\n", text != NULL ? text : "");
    free(text);
    json_decref(all);
    return MP_OK;
}

/* Random activations with channels of different strength, as real ones have. */
static void random_states(int64_t sequence, int64_t n_tokens, int64_t n, float *x)
{
    mp_philox_normal(1, (uint64_t)sequence, 0, n_tokens * n, x);
    for (int64_t t = 0; t < n_tokens; t++)
        for (int64_t i = 0; i < n; i++) x[t * n + i] *= 0.1f + (float)(i * 7 % 64) / 64.0f;
}

/* H of 2 d_in random tokens. */
static mp_status random_moment(const mp_comm *comm, const bench_config *config, mp_moment **moment)
{
    enum { TOKENS = 1024 };
    int64_t n = config->d_in, sequences = (2 * n + TOKENS - 1) / TOKENS;
    mp_moment_scratch *scratch = NULL;
    mp_moment *m = NULL;
    float *x = NULL, *weights = NULL;
    mp_grid grid;
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
    mp_plan_grids(&n, 1, comm->size, &grid);
    MP_GO(mp_moment_finish(m, grid));
    *moment = m;
    m = NULL;
out:
    mp_moment_free(m);
    mp_moment_scratch_free(scratch);
    mp_free(x);
    mp_free(weights);
    return st;
}

static mp_status random_problem(const mp_comm *comm, const bench_config *config, mp_moment *moment,
                                mp_problem *p)
{
    *p = (mp_problem){.comm = comm, .moment = moment, .n = config->d_in, .order = moment->order,
                      .parts = 1, .part = {{.name = "bench", .d_out = config->d_out}}};
    return mp_problem_open(p);
}

static mp_status solve_once(const mp_comm *comm, const mp_method *method,
                            const mp_method_options *options, mp_moment *m, mp_problem *p, best *b)
{
    mp_outcome outcome = {.damping = NAN};
    double mark, start, n = (double)p->n;
    const mp_grid *grid = &m->matrix->grid;
    mp_clock clock = {{0.0}, {0.0}};
    mp_status st = MP_OK;

    for (int64_t i = 0; i < p->strips; i++)
        mp_philox_normal(2, (uint64_t)(p->part[0].first_row / MP_STRIP + i), 0, p->n * MP_STRIP,
                         p->weight + i * p->order * MP_STRIP);
    MP_TRY(mp_dmat_mirror(m->matrix, MP_UPPER_HALF)); /* the factor of the last run goes */
    mp_dmat_set_diagonal(m->matrix, m->diagonal);
    MP_TRY(barrier(comm));
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
    return keep_best(comm, mp_seconds() - start, &clock, b);
}

static mp_status bench_solve(const mp_comm *comm, const bench_config *config, const mp_method *method,
                             const mp_method_options *options)
{
    mp_moment *moment = NULL;
    mp_problem p = {0};
    best b = {0};
    mp_status st;

    if (config->d_in < 1 || config->d_out < 1)
        return mp_fail(MP_ERR_ARG, "--d-in %lld --d-out %lld: expected positive sizes",
                       (long long)config->d_in, (long long)config->d_out);
    MP_TRY(method->fits(options, "the layer", config->d_in));
    MP_GO(random_moment(comm, config, &moment));
    MP_GO(mp_comm_agree(comm, random_problem(comm, config, moment, &p)));
    for (int64_t i = 0; i < config->repeat; i++)
        MP_GO(solve_once(comm, method, options, moment, &p, &b));
    st = report(comm, config, &b);
out:
    mp_problem_close(&p);
    mp_moment_free(moment);
    return st;
}

/* Random weights of one block, rounded to the dtype of the config, each rank of a node its rows. */
static mp_status random_block(const mp_comm *comm, const mp_arch *arch, mp_block *block)
{
    for (int i = 0; i < arch->n_linears; i++) {
        mp_linear *l = &block->linears[i];
        int64_t begin, end;
        float scale = 1.0f / sqrtf((float)l->d_in);

        mp_share(l->d_out, 1, comm->node_rank, comm->node_size, &begin, &end);
        l->dtype = arch->dtype;
        for (int64_t r = begin; r < end; r++) {
            float *row = l->weight + r * l->d_in;

            mp_philox_normal(3 + (uint64_t)i, (uint64_t)r, 0, l->d_in, row);
            for (int64_t c = 0; c < l->d_in; c++) row[c] *= scale;
            mp_round_f32(l->dtype, row, l->d_in);
        }
    }
    for (int i = 0; i < arch->n_vectors && comm->node_rank == 0; i++) {
        float *norm = (float *)block->norms[arch->vectors[i].role];

        for (int64_t c = 0; c < arch->vectors[i].size; c++) norm[c] = 1.0f;
    }
    block->index = 0;
    return mp_shared_fence(comm, block->memory);
}

static mp_status block_once(mp_runner *run, best *b)
{
    const int skip[MP_MAX_LINEARS] = {0};
    mp_linear_result results[MP_MAX_LINEARS];
    double start;

    MP_TRY(random_block(run->comm, run->arch, run->block));
    for (int64_t i = 0; i < run->hidden->local; i++)
        mp_philox_normal(11, (uint64_t)(i * run->comm->size + run->comm->rank), 0,
                         run->hidden->n_tokens * run->hidden->width,
                         mp_hidden_sequence(run->hidden, i));
    memset(&run->clock, 0, sizeof run->clock);
    MP_TRY(barrier(run->comm));
    start = mp_seconds();
    MP_TRY(mp_runner_block(run, skip, 0, results));
    return keep_best(run->comm, mp_seconds() - start, &run->clock, b);
}

static mp_status bench_block(const mp_comm *comm, const bench_config *config, const mp_method *method,
                             const mp_method_options *options)
{
    mp_arch arch;
    mp_runner run = {.comm = comm, .arch = &arch, .method = method, .options = *options,
                     .lengths = {1.0}};
    best b = {0};
    mp_status st;

    if (config->config == NULL) return mp_fail(MP_ERR_ARG, "'mpress bench block' needs --config FILE");
    if (config->seqlen < 1 || config->tokens < config->seqlen)
        return mp_fail(MP_ERR_ARG, "--tokens %lld --seqlen %lld: expected at least one sequence",
                       (long long)config->tokens, (long long)config->seqlen);
    MP_TRY(mp_order_parse(config->propagate, &run.order));
    MP_TRY(mp_arch_load(config->config, &arch));
    for (int i = 0; i < arch.n_linears; i++)
        MP_TRY(method->fits(options, arch.linears[i].name, arch.linears[i].d_in));
    MP_TRY(mp_hidden_create(comm, config->tokens / config->seqlen, config->seqlen, arch.d_model,
                            &run.hidden));
    MP_GO(mp_runner_open(&run));
    for (int64_t i = 0; i < config->repeat; i++) MP_GO(block_once(&run, &b));
    st = report(comm, config, &b);
out:
    mp_runner_close(&run);
    mp_hidden_free(run.hidden);
    return st;
}

static mp_status run(const mp_comm *comm, int argc, char **argv)
{
    bench_config config;
    mp_method_options options = {0};
    const mp_method *method;

    MP_TRY(command_parse(&command_bench, argc, argv, &config));
    method = mp_method_find(config.method);
    if (method == NULL) return mp_fail(MP_ERR_ARG, "--method %s: no such method", config.method);
    if (config.repeat < 1)
        return mp_fail(MP_ERR_ARG, "--repeat %lld: expected at least 1", (long long)config.repeat);
    MP_TRY(mp_pattern_parse(config.pattern, &options.pattern));
    options.damp = config.damp;
    options.blocksize = config.blocksize;
    MP_TRY(mp_method_options_check(&options));
    startup_banner(comm);
    if (strcmp(config.what, "solve") == 0) return bench_solve(comm, &config, method, &options);
    if (strcmp(config.what, "block") == 0) return bench_block(comm, &config, method, &options);
    return mp_fail(MP_ERR_ARG, "%s: expected solve or block", config.what);
}

const mp_command command_bench = {&line, run};
