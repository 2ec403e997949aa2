/* Benchmarks: one linear layer, or one block, on random weights and activations, beside the GEMM rate
 * of the same ranks in the same run. */
#include "bench.h"
#include "commands.h"

#include "mpress/linalg.h"
#include "mpress/log.h"
#include "startup.h"

#include <jansson.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(bench_config, field)

static const mp_option rows[] = {
    {"solve|lowrank|block", NULL,
     "one linear layer with its Hessian given, pruned, quantised or factored, or one block", NULL,
     MP_OPT_STRING, AT(what), 0},
    {"--method", "NAME", "method to run; auto: sparsegpt, for lowrank asvd+", "auto", MP_OPT_STRING,
     AT(method), 0},
    {"--pattern", "S", "sparsity: 0.5 or N:M", "4:8", MP_OPT_STRING, AT(pattern), 0},
    {"--bits", "B", "of a weight; 0: 4 for gptq and rtn, none for others", "0", MP_OPT_INT,
     AT(quant.bits), 0},
    {"--group-size", "G|channel", "columns that share a scale; 128 where nothing is said", NULL,
     MP_OPT_STRING, AT(quant.group), 0},
    {"--asym", NULL, "grids with zero points", NULL, MP_OPT_FLAG, AT(quant.asymmetric), 0},
    {"--act-order", "none|static", "gptq: order of columns", "none", MP_OPT_STRING, AT(quant.order),
     0},
    {"--scale", "absmax|mse", "how scales are found", "absmax", MP_OPT_STRING, AT(quant.scale), 0},
    {"--d-in", "N", "solve, lowrank: input channels", "4096", MP_OPT_INT, AT(d_in), 0},
    {"--d-out", "M", "solve, lowrank: output channels", "4096", MP_OPT_INT, AT(d_out), 0},
    {"--ratio", "R", "lowrank: stored parameters as a share of the dense ones", "0.8",
     MP_OPT_DOUBLE, AT(ratio), 0},
    {"--svd", "gram|cholesky", "lowrank: road to the factors", "gram", MP_OPT_STRING, AT(svd), 0},
    {"--config", "FILE", "block: config.json of the shape", NULL, MP_OPT_STRING, AT(config), 0},
    {"--tokens", "T", "block: calibration tokens in all", "8192", MP_OPT_INT, AT(tokens), 0},
    {"--seqlen", "L", "block: tokens per sequence", "2048", MP_OPT_INT, AT(seqlen), 0},
    {"--propagate", "block|linear|dense", "block: what statistics are measured on", "block",
     MP_OPT_STRING, AT(propagate), 0},
    {"--damp", "D", "damping", "0.01", MP_OPT_DOUBLE, AT(damp), 0},
    {"--blocksize", "B", "columns of a lazy update", "128", MP_OPT_INT, AT(blocksize), 0},
    {"--repeat", "N", "runs, of which the best counts", "3", MP_OPT_INT, AT(repeat), 0},
    {"--json", NULL, "print JSON alone", NULL, MP_OPT_FLAG, AT(json), 0},
    {NULL, NULL, NULL, NULL, MP_OPT_FLAG, 0, 0},
};

static const mp_command_line line = {"bench", "time one layer or one block against the GEMM rate",
                                     rows};

/* Ends one run: the slowest rank counts. */
mp_status bench_keep_best(const mp_comm *comm, double seconds, const mp_clock *clock, best *b)
{
    MP_TRY(mp_comm_max(comm, &seconds, 1));
    if (b->seconds == 0.0 || seconds < b->seconds) {
        b->seconds = seconds;
        b->clock = *clock;
    }
    return MP_OK;
}

mp_status bench_barrier(const mp_comm *comm)
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
                                          1e-9 * rate, "precision", precision, "share",
                                          rate / peak));
    }
    return phases;
}

mp_status bench_report(const mp_comm *comm, const bench_config *config, const best *b)
{
    double rates[2] = {0.0, 0.0};
    mp_clock_summary s;
    int64_t peak, node;
    json_t *all;
    char *text;

    MP_TRY(mp_comm_peak_bytes(comm, &peak, &node));
    MP_TRY(bench_barrier(comm)); /* all ranks at once: they share caches and memory as in the run */
    MP_TRY(mp_comm_agree(comm, mp_gemm_rate(3072, 1, &rates[0])));
    MP_TRY(bench_barrier(comm));
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

/* The options of the method, and the method itself, from the command line. */
static mp_status read_method(bench_config *config, mp_method_options *options,
                             const mp_method **method)
{
    int factors = strcmp(config->what, "lowrank") == 0;

    if (strcmp(config->method, "auto") == 0) config->method = factors ? "asvd+" : "sparsegpt";
    *method = mp_method_find(config->method);
    if (*method == NULL)
        return mp_fail(MP_ERR_ARG,
                       "--method %s: no such method ('mpress compress --help' lists them)",
                       config->method);
    if (config->repeat < 1)
        return mp_fail(MP_ERR_ARG, "--repeat %lld: expected at least 1", (long long)config->repeat);
    options->whiten = strcmp(config->svd, "cholesky") == 0;
    if (!options->whiten && strcmp(config->svd, "gram") != 0)
        return mp_fail(MP_ERR_ARG, "--svd %s: expected gram or cholesky", config->svd);
    if ((*method)->prunes) MP_TRY(mp_pattern_parse(config->pattern, &options->pattern));
    mp_quant_options_complete(*method, &config->quant);
    MP_TRY(mp_quant_options_read(*method, &config->quant, options));
    options->damp = config->damp;
    options->alpha = 0.5;
    if ((*method)->tile > 0) config->blocksize = (*method)->tile;
    options->blocksize = config->blocksize;
    return mp_method_options_check(options);
}

static mp_status run(const mp_comm *comm, int argc, char **argv)
{
    static const struct {
        const char *what;
        mp_status (*run)(const mp_comm *, const bench_config *, const mp_method *,
                         const mp_method_options *);
    } benches[] = {{"solve", bench_solve}, {"lowrank", bench_lowrank}, {"block", bench_block}};
    bench_config config;
    mp_method_options options = {0};
    const mp_method *method;

    MP_TRY(command_parse(&command_bench, argc, argv, &config));
    MP_TRY(read_method(&config, &options, &method));
    startup_banner(comm);
    for (size_t i = 0; i < sizeof benches / sizeof benches[0]; i++)
        if (strcmp(config.what, benches[i].what) == 0)
            return benches[i].run(comm, &config, method, &options);
    return mp_fail(MP_ERR_ARG, "%s: expected solve, lowrank or block", config.what);
}

const mp_command command_bench = {&line, run};
