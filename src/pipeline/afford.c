/* Whether a run fits the memory of its hosts, before it does any work. */
#include "run.h"

#include "mpress/forecast.h"
#include "mpress/memory.h"
#include "mpress/options.h"

#include <math.h>
#include <stdio.h>

static const double gib = 1024.0 * 1024.0 * 1024.0;

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
    int nodes;

    MP_TRY(mp_forecast_nodes(job, base, limit, &nodes));
    if (nodes > 0)
        snprintf(text, 160, "%d nodes of %d rank%s would do", nodes, job->per_node, plural);
    else if (least > limit)
        snprintf(text, 160,
                 "no number of nodes of %d rank%s will do: program, buffers and weights take %.2f "
                 "GiB on any",
                 job->per_node, plural, (double)least / gib);
    else
        snprintf(text, 160, "%d nodes of %d rank%s would not do either",
                 mp_forecast_most_nodes(job), job->per_node, plural);
    return MP_OK;
}

mp_status mp_forecast_refuse(const mp_forecast_job *job, const mp_forecast *f, int64_t limit,
                             const char *what)
{
    const mp_forecast_memory *m = &f->memory;
    char wider[160];

    if (mp_forecast_rank_bytes(job, f) <= limit) return MP_OK;
    MP_TRY(say_nodes(job, m->base, limit, wider));
    return mp_fail(
        MP_ERR_NOFIT,
        "%s: %.2f GiB, but a rank needs %.2f GiB (second moments %.2f, rows under work "
        "%.2f, hidden states %.2f, buffers %.2f, its share of a block's weights %.2f); %s",
        what, (double)limit / gib, (double)mp_forecast_rank_bytes(job, f) / gib,
        (double)m->moments / gib, (double)m->rows / gib, (double)m->hidden / gib,
        (double)m->buffers / gib, (double)(mp_forecast_rank_bytes(job, f) - m->rank) / gib, wider);
}

/* What a rank of this host could have: an equal share of what is free, and what it has already. */
static int64_t share_of_host(const mp_comm *comm, int64_t base)
{
    double free = mp_memory_available();

    return isfinite(free) ? (int64_t)(free / comm->host_size) + base : INT64_MAX;
}

mp_status run_afford(run *r)
{
    int64_t base = mp_memory_peak() + MP_FILE_LIBRARIES, limit = share_of_host(r->comm, base);
    double ends[2] = {(double)limit, -(double)base};
    mp_forecast_job job = {.arch = &r->arch,
                           .method = r->runner.method,
                           .options = &r->runner.options,
                           .order = r->runner.order,
                           .windows = r->calibration.count,
                           .seqlen = r->calibration.seqlen,
                           .size = r->comm->size,
                           .per_node = r->comm->node_size,
                           .batch = r->job->batch > 1 ? (int)r->job->batch : 1};
    mp_forecast f;
    mp_status st;

    for (int i = 0; i < r->arch.n_linears; i++)
        job.ranks[i] =
            mp_rank_of_ratio(r->arch.linears[i].d_out, r->arch.linears[i].d_in, r->job->ratio);
    MP_TRY(mp_comm_min(r->comm, ends, 2));
    st = mp_forecast_memory_of(&job, (int64_t)-ends[1], &f);
    if (st == MP_OK && r->rank_limit > 0)
        st = mp_forecast_refuse(&job, &f, r->rank_limit, "--mem-per-rank");
    if (st == MP_OK && ends[0] < 9e18)
        st = mp_forecast_refuse(&job, &f, (int64_t)ends[0], "the memory that is free for a rank");
    return mp_comm_agree(r->comm, st);
}
