/* What a job will take, told before it is submitted. */
#include "commands.h"

#include "mpress/budget.h"
#include "mpress/forecast.h"
#include "mpress/linalg.h"
#include "mpress/log.h"
#include "mpress/memory.h"
#include "plan_print.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

typedef struct plan_config {
    const char *model, *method, *propagate, *mem_per_rank, *dir;
    int64_t ranks, ranks_per_node, tokens, seqlen, blocksize, batch;
    double ratio, gflops, net, disk;
    mp_quant_options quant;
    int no_export, json;
} plan_config;

#define AT(field) offsetof(plan_config, field)

static const mp_option rows[] = {
    {"MODEL", NULL, "Hugging Face directory, or a config.json", NULL, MP_OPT_STRING, AT(model), 0},
    {"--ranks", "P", "ranks of the job; 0: as many as are running now", "0", MP_OPT_INT, AT(ranks),
     0},
    {"--ranks-per-node", "R", "of them on one node; 0: as now, if --ranks is too, else 1", "0",
     MP_OPT_INT, AT(ranks_per_node), 0},
    {"--tokens", "T", "of the calibration in all; 0: none", "262144", MP_OPT_INT, AT(tokens), 0},
    {"--seqlen", "L", "tokens per window", "2048", MP_OPT_INT, AT(seqlen), 0},
    {"--method", "NAME", "as for compress", "sparsegpt", MP_OPT_STRING, AT(method), 0},
    {"--bits", "B", "integers: bits of a weight, as for compress", "0", MP_OPT_INT, AT(quant.bits),
     0},
    {"--group-size", "G|channel", "integers: columns that share a scale, 128 where nothing is said",
     NULL, MP_OPT_STRING, AT(quant.group), 0},
    {"--asym", NULL, "integers: with zero points", NULL, MP_OPT_FLAG, AT(quant.asymmetric), 0},
    {"--ratio", "R", "low rank: stored parameters as a share of the dense ones", "0.8",
     MP_OPT_DOUBLE, AT(ratio), 0},
    {"--propagate", "auto|block|linear|dense", "as for compress", "auto", MP_OPT_STRING,
     AT(propagate), 0},
    {"--blocksize", "B", "columns of a lazy update, and tile of the Hessians", "128", MP_OPT_INT,
     AT(blocksize), 0},
    {"--batch", "K",
     "dense order, low rank: blocks solved side by side; 0: as compress would in this memory", "0",
     MP_OPT_INT, AT(batch), 0},
    {"--no-export", NULL, "OUT/hf is not written", NULL, MP_OPT_FLAG, AT(no_export), 0},
    {"--mem-per-rank", "SIZE", "what a rank may have, 12G (binary); more is an error", NULL,
     MP_OPT_STRING, AT(mem_per_rank), 0},
    {"--gflops", "G", "GEMM rate of one rank, fp32; 0: measured here, phase by phase", "0",
     MP_OPT_DOUBLE, AT(gflops), 0},
    {"--net-gbs", "G", "GB/s into a node; 0: measured between the nodes of this job, else 1", "0",
     MP_OPT_DOUBLE, AT(net), 0},
    {"--disk-gbs", "G", "GB/s of one rank, written and read back; 0: measured in --dir", "0",
     MP_OPT_DOUBLE, AT(disk), 0},
    {"--dir", "DIR", "where OUT would be", ".", MP_OPT_STRING, AT(dir), 0},
    {"--json", NULL, "print JSON alone", NULL, MP_OPT_FLAG, AT(json), 0},
    {NULL, NULL, NULL, NULL, MP_OPT_FLAG, 0, 0},
};

static const mp_command_line line = {
    "plan", "tell memory, messages, disk and time of a job before it runs", rows};

static mp_status check_counts(const plan_config *c)
{
    const struct {
        const char *option;
        int64_t value, least, most;
    } counts[] = {{"--ranks", c->ranks, 0, 1 << 20},
                  {"--ranks-per-node", c->ranks_per_node, 0, 1 << 16},
                  {"--tokens", c->tokens, 0, INT64_MAX},
                  {"--seqlen", c->seqlen, 1, INT64_MAX},
                  {"--batch", c->batch, 0, MP_MAX_BATCH}};

    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        if (counts[i].value < counts[i].least || counts[i].value > counts[i].most)
            return mp_fail(MP_ERR_ARG, "%s %lld: expected %lld or more%s", counts[i].option,
                           (long long)counts[i].value, (long long)counts[i].least,
                           counts[i].most < INT64_MAX && counts[i].value > 0 ? ", but not so many"
                                                                             : "");
    if (c->tokens % c->seqlen != 0)
        return mp_fail(MP_ERR_ARG, "--tokens %lld: expected whole windows of --seqlen %lld",
                       (long long)c->tokens, (long long)c->seqlen);
    if (c->gflops < 0.0 || c->net < 0.0 || c->disk < 0.0)
        return mp_fail(MP_ERR_ARG, "--gflops, --net-gbs, --disk-gbs: expected 0 or more");
    return MP_OK;
}

static mp_status read_method(plan_config *c, mp_forecast_job *job, mp_method_options *o)
{
    job->method = mp_method_find(c->method);
    if (job->method == NULL)
        return mp_fail(MP_ERR_ARG,
                       "--method %s: no such method ('mpress compress --help' lists them)",
                       c->method);
    *o = (mp_method_options){.pattern = {.n = 2, .m = 4, .sparsity = 0.5},
                             .damp = 0.01,
                             .alpha = 0.5,
                             .blocksize = job->method->tile > 0 ? job->method->tile : c->blocksize};
    job->options = o;
    if (c->tokens == 0 && (job->method->needs & MP_NEED_MOMENT) != 0)
        return mp_fail(MP_ERR_ARG, "--tokens 0: method %s needs calibration data", c->method);
    c->quant.order = "none";
    c->quant.scale = "absmax";
    mp_quant_options_complete(job->method, &c->quant);
    MP_TRY(mp_quant_options_read(job->method, &c->quant, o));
    MP_TRY(mp_method_options_check(o));
    MP_TRY(mp_order_parse(strcmp(c->propagate, "auto") == 0 ? job->method->order : c->propagate,
                          &job->order));
    return mp_batch_check(job->method, job->order, c->batch);
}

static mp_status read_shape(const mp_comm *comm, const plan_config *c, const mp_arch *arch,
                            mp_forecast_job *job)
{
    job->arch = arch;
    job->windows = c->tokens / c->seqlen;
    job->seqlen = c->seqlen;
    job->size = c->ranks > 0 ? (int)c->ranks : comm->size;
    job->per_node = c->ranks_per_node > 0 ? (int)c->ranks_per_node
                    : c->ranks > 0        ? 1
                                          : comm->node_size;
    job->batch = c->batch > 0 ? (int)c->batch : 1;
    job->exports = !c->no_export;
    for (int i = 0; i < arch->n_linears; i++)
        MP_TRY(job->method->fits(job->options, arch->linears[i].name, arch->linears[i].d_in));
    for (int i = 0; i < arch->n_linears && job->method->factorise != NULL; i++)
        MP_TRY(mp_rank_uniform(arch->linears[i].name, arch->linears[i].d_out, arch->linears[i].d_in,
                               c->ratio, &job->ranks[i]));
    return MP_OK;
}

/* Where the user leaves it to us: by --mem-per-rank, or by what is free on this host.  *why is what to say
 * of it, NULL where blocks go one by one anyway. */
static mp_status choose_batch(const mp_comm *comm, const plan_config *c, int64_t base,
                              int64_t limit, mp_forecast_job *job, const char **why)
{
    double free = limit > 0 ? INFINITY : mp_memory_available();

    *why = NULL;
    MP_TRY(mp_comm_min(comm, &free, 1));
    if (job->order != MP_ORDER_DENSE || job->method->factorise == NULL) return MP_OK;
    *why = c->batch > 0 ? "as --batch says"
           : limit > 0  ? "as --mem-per-rank allows"
                        : "as half of the memory that is free on this host allows";
    if (c->batch > 0) return MP_OK;
    return mp_forecast_batch(job, base, limit, free, &job->batch);
}

static mp_status run(const mp_comm *comm, int argc, char **argv)
{
    mp_method_options options;
    mp_forecast_job job = {0};
    mp_forecast forecast;
    plan_config c;
    mp_rates rates;
    mp_arch arch;
    const char *why;
    int64_t limit;

    MP_TRY(command_parse(&command_plan, argc, argv, &c));
    MP_TRY(check_counts(&c));
    MP_TRY(mp_forecast_limit(c.mem_per_rank, &limit));
    MP_TRY(read_method(&c, &job, &options));
    MP_TRY(mp_arch_share(comm, c.model, &arch));
    MP_TRY(read_shape(comm, &c, &arch, &job));
    rates = (mp_rates){.gemm = 1e9 * c.gflops, .net = 1e9 * c.net, .disk = 1e9 * c.disk};
    MP_TRY(mp_rates_measure(comm, &job, c.dir, &rates));
    MP_TRY(mp_comm_agree(comm, choose_batch(comm, &c, rates.base, limit, &job, &why)));
    MP_TRY(mp_comm_agree(comm, mp_forecast_run(&job, &forecast)));
    MP_TRY(mp_comm_agree(comm, mp_forecast_memory_of(&job, rates.base, &forecast)));
    if (comm->rank == 0) plan_print(&job, &forecast, &rates, limit, why, c.json);
    return limit > 0 ? mp_forecast_refuse(&job, &forecast, limit, "--mem-per-rank") : MP_OK;
}

const mp_command command_plan = {&line, run};
