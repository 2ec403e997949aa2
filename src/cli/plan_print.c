#include "plan_print.h"

#include "mpress/json.h"
#include "mpress/log.h"
#include "mpress/memory.h"

#include <jansson.h>
#include <stdio.h>

static int nodes_of(const mp_forecast_job *job)
{
    return (job->size + job->per_node - 1) / job->per_node;
}

static int64_t moved_in_all(const mp_forecast *f)
{
    int64_t sum = 0;

    for (int i = 0; i < MP_PHASE_COUNT; i++) sum += f->moved[i];
    return sum;
}

static void print_memory(const mp_forecast_job *job, const mp_forecast *f)
{
    const mp_forecast_memory *m = &f->memory;
    const struct {
        const char *what;
        int64_t bytes;
    } parts[] = {{"second moments", m->moments},
                 {"rows under work", m->rows},
                 {"hidden states", m->hidden},
                 {"buffers", m->buffers},
                 {"program", m->base},
                 {"share of a block's weights", mp_forecast_rank_bytes(job, f) - m->rank}};
    char text[32];

    printf("memory  %14s per rank\n", mp_memory_text(mp_forecast_rank_bytes(job, f), text));
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (parts[i].bytes > 0)
            printf("        %14s   %s\n", mp_memory_text(parts[i].bytes, text), parts[i].what);
    printf("        %14s per node of %d rank%s\n", mp_memory_text(f->node_bytes, text),
           job->per_node, job->per_node == 1 ? "" : "s");
    printf("        %14s   in shared memory\n", mp_memory_text(m->weights, text));
}

static void print_nodes(const mp_forecast_job *job, int64_t limit, int nodes)
{
    const char *plural = job->per_node == 1 ? "" : "s";
    char text[32];
    const char *each = mp_memory_text(limit, text);

    if (nodes > 0)
        printf("fits    %14d node%s of %d rank%s with %s each %s the least\n", nodes,
               nodes == 1 ? "" : "s", job->per_node, plural, each, nodes == 1 ? "is" : "are");
    else
        printf("fits          no number of nodes up to %d of %d rank%s with %s each\n",
               mp_forecast_most_nodes(job), job->per_node, plural, each);
}

static void print_phases(const mp_forecast *f, const double *seconds, double sum)
{
    char text[32], bytes[32];

    printf("time    %14s\n", mp_duration(sum, text));
    for (int i = 0; i < MP_PHASE_COUNT; i++)
        if (f->moved[i] > 0)
            printf("        %14s   %-10s %10s between ranks\n", mp_duration(seconds[i], text),
                   mp_phase_name((mp_phase)i), mp_traffic_text(f->moved[i], bytes));
        else if (seconds[i] > 0.0)
            printf("        %14s   %s\n", mp_duration(seconds[i], text),
                   mp_phase_name((mp_phase)i));
    printf("network %14s between ranks in all\n", mp_traffic_text(moved_in_all(f), bytes));
}

static void print_disk(const mp_forecast *f, int64_t saves)
{
    char text[32];

    printf("disk    %14s of the model read\n", mp_traffic_text(f->read_bytes, text));
    printf("        %14s kept in blocks/\n", mp_traffic_text(f->checkpoint_bytes, text));
    if (f->hf_bytes > 0) printf("        %14s kept in hf/\n", mp_traffic_text(f->hf_bytes, text));
    if (saves > 0)
        printf("        %14s of hidden states in %lld times on the way, none kept\n",
               mp_traffic_text(f->hidden_bytes * saves, text), (long long)saves);
}

static void print_text(const mp_forecast_job *job, const mp_forecast *f, const mp_rates *rates,
                       const double *seconds, double sum, const char *batch)
{
    const mp_arch *arch = job->arch;

    printf(
        "job           %d rank%s on %d node%s; %s, %lld blocks, %.1f M parameters in linear maps; "
        "%s, %lld windows of %lld tokens\n",
        job->size, job->size == 1 ? "" : "s", nodes_of(job), nodes_of(job) == 1 ? "" : "s",
        arch->family, (long long)arch->n_blocks,
        1e-6 * (double)(mp_arch_linear_parameters(arch) * arch->n_blocks), job->method->name,
        (long long)job->windows, (long long)job->seqlen);
    printf("rates   %14.1f Gflop/s (fp32) and %.2f GB/s of disk per rank, %.2f GB/s into a node\n",
           1e-9 * rates->gemm, 1e-9 * rates->disk, 1e-9 * rates->net);
    if (batch != NULL)
        printf("batch   %14d block%s side by side, %s\n", job->batch, job->batch == 1 ? "" : "s",
               batch);
    print_memory(job, f);
    print_phases(f, seconds, sum);
    print_disk(f, mp_forecast_saves(job, f, rates));
}

static json_t *phases_json(const mp_forecast *f, const double *seconds)
{
    json_t *phases = json_object();

    for (int i = 0; i < MP_PHASE_COUNT; i++)
        if (seconds[i] > 0.0 || f->moved[i] > 0)
            json_object_set_new(phases, mp_phase_name((mp_phase)i),
                                json_pack("{s:f, s:f, s:I}", "seconds", seconds[i], "work",
                                          f->work[i], "bytes_moved", (json_int_t)f->moved[i]));
    return phases;
}

static json_t *plan_json(const mp_forecast_job *job, const mp_forecast *f, const mp_rates *rates,
                         const double *seconds, double sum, int nodes)
{
    const mp_forecast_memory *m = &f->memory;

    return json_pack(
        "{s:i, s:i, s:i, s:f, s:o, s:I, s:{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}, s:{s:I, s:I, "
        "s:I, "
        "s:I, s:I}, s:{s:f, s:f, s:f}, s:o}",
        "ranks", job->size, "nodes", nodes_of(job), "batch", job->batch, "seconds", sum, "phases",
        phases_json(f, seconds), "bytes_moved", (json_int_t)moved_in_all(f), "memory", "rank",
        (json_int_t)mp_forecast_rank_bytes(job, f), "node", (json_int_t)f->node_bytes, "moments",
        (json_int_t)m->moments, "rows", (json_int_t)m->rows, "hidden", (json_int_t)m->hidden,
        "buffers", (json_int_t)m->buffers, "base", (json_int_t)m->base, "shared",
        (json_int_t)m->weights, "disk", "read", (json_int_t)f->read_bytes, "checkpoint",
        (json_int_t)f->checkpoint_bytes, "hf", (json_int_t)f->hf_bytes, "hidden",
        (json_int_t)f->hidden_bytes, "hidden_written",
        (json_int_t)(f->hidden_bytes * mp_forecast_saves(job, f, rates)), "rates", "gflops",
        1e-9 * rates->gemm, "net_gbs", 1e-9 * rates->net, "disk_gbs", 1e-9 * rates->disk,
        "least_nodes", nodes > 0 ? json_integer(nodes) : json_null());
}

void plan_print(const mp_forecast_job *job, const mp_forecast *f, const mp_rates *rates,
                int64_t limit, const char *batch, int json)
{
    double seconds[MP_PHASE_COUNT], sum = mp_forecast_seconds(job, f, rates, seconds);
    char *text = NULL;
    json_t *all;
    int nodes = 0;

    if (limit > 0 && mp_forecast_nodes(job, rates->base, limit, &nodes) != MP_OK) nodes = 0;
    if (!json) {
        print_text(job, f, rates, seconds, sum, batch);
        if (limit > 0) print_nodes(job, limit, nodes);
        return;
    }
    all = plan_json(job, f, rates, seconds, sum, nodes);
    if (mp_json_dump(all, 0, &text) == MP_OK) puts(text);
    mp_free(text);
    json_decref(all);
}
