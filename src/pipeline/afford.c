/* Whether a run fits the memory of its hosts, before it does any work. */
#include "run.h"

#include "mpress/forecast.h"
#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/options.h"

#include <math.h>
#include <stdio.h>

mp_status mp_forecast_limit(const char *text, int64_t *limit)
{
    *limit = 0;
    if (text == NULL || mp_parse_bytes(text, limit) == 0) return MP_OK;
    return mp_fail(MP_ERR_ARG, "--mem-per-rank %s: expected bytes above 0, as 800M, 12G or 1.5T",
                   text);
}

/* How many nodes would do, or that none would and why. */
static mp_status say_nodes(const mp_forecast_job *job, int64_t base, int64_t limit, char text[160])
{
    const char *plural = job->per_node == 1 ? "" : "s";
    int64_t least = mp_forecast_floor(job, base);
    char bytes[32];
    int nodes;

    MP_TRY(mp_forecast_nodes(job, base, limit, &nodes));
    if (nodes > 0)
        snprintf(text, 160, "%d nodes of %d rank%s would do", nodes, job->per_node, plural);
    else if (least > limit)
        snprintf(
            text, 160,
            "no number of nodes of %d rank%s will do: program, buffers and weights take %s on any",
            job->per_node, plural, mp_memory_text(least, bytes));
    else
        snprintf(text, 160, "%d nodes of %d rank%s would not do either",
                 mp_forecast_most_nodes(job), job->per_node, plural);
    return MP_OK;
}

/* What memory is needed for, at the worst moment; `weights` are the share of those of a node. */
static void say_parts(const mp_forecast_memory *m, int64_t weights, char text[256])
{
    const int evaluates = m->evaluation > m->moments + m->rows + m->hidden + m->buffers;
    const struct {
        const char *what;
        int64_t bytes;
    } parts[] = {{"evaluation", evaluates ? m->evaluation : 0},
                 {"second moments", evaluates ? 0 : m->moments},
                 {"rows under work", evaluates ? 0 : m->rows},
                 {"hidden states", evaluates ? 0 : m->hidden},
                 {"buffers", evaluates ? 0 : m->buffers},
                 {"a block's weights", weights}};
    size_t used = 0;

    text[0] = '\0';
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        char bytes[32];

        if (parts[i].bytes == 0) continue;
        used += (size_t)snprintf(text + used, 256 - used, "%s%s %s", used > 0 ? ", " : "",
                                 parts[i].what, mp_memory_text(parts[i].bytes, bytes));
    }
}

mp_status mp_forecast_refuse(const mp_forecast_job *job, const mp_forecast *f, int64_t limit,
                             const char *what)
{
    int64_t bytes = mp_forecast_rank_bytes(job, f);
    char wider[160], parts[256], given[32], needed[32];

    if (bytes <= limit) return MP_OK;
    MP_TRY(say_nodes(job, f->memory.base, limit, wider));
    say_parts(&f->memory, bytes - f->memory.rank, parts);
    return mp_fail(MP_ERR_NOFIT, "%s: %s, but a rank needs %s (%s); %s", what,
                   mp_memory_text(limit, given), mp_memory_text(bytes, needed), parts, wider);
}

/* What all ranks of a host need together, in the fields of one. */
static mp_status sum_of_host(const mp_comm *comm, const mp_forecast_memory *mine,
                             mp_forecast_memory *sum)
{
    double v[] = {(double)mine->weights * (comm->node_rank == 0),
                  (double)mine->hidden,
                  (double)mine->moments,
                  (double)mine->rows,
                  (double)mine->buffers,
                  (double)mine->evaluation,
                  (double)mine->base,
                  (double)mine->rank};

    MP_TRY(mp_comm_sum_host(comm, v, sizeof v / sizeof v[0]));
    *sum = (mp_forecast_memory){.weights = (int64_t)v[0],
                                .hidden = (int64_t)v[1],
                                .moments = (int64_t)v[2],
                                .rows = (int64_t)v[3],
                                .buffers = (int64_t)v[4],
                                .evaluation = (int64_t)v[5],
                                .base = (int64_t)v[6],
                                .rank = (int64_t)v[7]};
    return MP_OK;
}

/* The message for a host; of nodes that would do, those whose worst ranks have an equal share of `free`. */
static mp_status refuse_host(const mp_comm *comm, const mp_forecast_job *job, int64_t base,
                             double free, const mp_forecast_memory *sum)
{
    int64_t bytes = sum->rank - sum->base + sum->weights;
    char wider[160], parts[256], given[32], needed[32], ranks[32] = "its rank needs";

    if ((double)bytes <= free) return MP_OK;
    MP_TRY(say_nodes(job, base, (int64_t)(free / comm->host_size) + base, wider));
    say_parts(sum, sum->weights, parts);
    if (comm->host_size > 1) snprintf(ranks, sizeof ranks, "its %d ranks need", comm->host_size);
    return mp_fail(MP_ERR_NOFIT,
                   "the memory that is free on a host: %s, but %s %s more than they have (%s); %s",
                   mp_memory_text((int64_t)free, given), ranks, mp_memory_text(bytes, needed),
                   parts, wider);
}

mp_status mp_forecast_refuse_hosts(const mp_comm *comm, const mp_forecast_job *job, int64_t base,
                                   double free)
{
    mp_forecast_memory mine, sum;
    mp_status st;

    MP_TRY(mp_comm_agree(comm, mp_forecast_memory_at(job, base, comm->rank, &mine)));
    MP_TRY(sum_of_host(comm, &mine, &sum));
    MP_TRY(mp_comm_min_host(comm, &free, 1));
    st = isfinite(free) ? refuse_host(comm, job, base, free, &sum) : MP_OK;
    return mp_comm_agree(comm, st);
}

/* The run as a job that is thought of. */
static mp_forecast_job job_of(const run *r)
{
    mp_forecast_job job = {.arch = &r->arch,
                           .method = r->runner.method,
                           .options = &r->runner.options,
                           .order = r->runner.order,
                           .windows = r->calibration.count,
                           .seqlen = r->calibration.seqlen,
                           .eval_windows = r->evaluation.count,
                           .eval_seqlen = r->evaluation.seqlen,
                           .size = r->comm->size,
                           .per_node = r->comm->node_size,
                           .batch = r->job->batch > 1 ? (int)r->job->batch : 1};

    for (int i = 0; i < r->arch.n_linears; i++)
        job.ranks[i] =
            mp_rank_of_ratio(r->arch.linears[i].d_out, r->arch.linears[i].d_in, r->job->ratio);
    return job;
}

mp_status run_afford(run *r)
{
    mp_forecast_job job = job_of(r);
    double base = (double)mp_memory_peak();
    mp_forecast f;
    mp_status st;

    MP_TRY(mp_comm_max(r->comm, &base, 1));
    /* one block at a time is the least that is needed: more only where there is room */
    MP_TRY(mp_forecast_batch(&job, (int64_t)base + MP_FILE_LIBRARIES, r->rank_limit, INFINITY,
                             &r->most_batch));
    st = mp_forecast_memory_of(&job, (int64_t)base + MP_FILE_LIBRARIES, &f);
    if (st == MP_OK && r->rank_limit > 0)
        st = mp_forecast_refuse(&job, &f, r->rank_limit, "--mem-per-rank");
    MP_TRY(mp_comm_agree(r->comm, st));
    return mp_forecast_refuse_hosts(r->comm, &job, (int64_t)base, mp_memory_available());
}
