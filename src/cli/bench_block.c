/* One whole block on random weights and activations (bench.h). */
#include "bench.h"

#include "mpress/block_run.h"
#include "mpress/budget.h"
#include "mpress/log.h"
#include "mpress/rng.h"
#include "mpress/tensor.h"

#include <math.h>
#include <string.h>

/* Random weights of one block, rounded to the dtype of the config, each rank of a node its rows. */
static mp_status random_block(const mp_comm *comm, const mp_arch *arch, mp_block *block)
{
    for (int i = 0; i < arch->n_linears; i++) {
        mp_linear *l = &block->linears[i];
        int64_t begin, end;
        float scale = 1.0f / sqrtf((float)l->d_in);

        mp_share(l->d_out, 1, comm->node_rank, comm->node_size, &begin, &end);
        l->dtype = arch->dtype;
        l->rank = l->a_stride = 0;
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
    mp_linear_result results[MP_MAX_LINEARS];
    int skip[MP_MAX_LINEARS] = {0};
    double start;

    MP_TRY(random_block(run->comm, run->arch, run->block));
    for (int64_t i = 0; i < run->hidden->local; i++)
        mp_philox_normal(11, (uint64_t)(i * run->comm->size + run->comm->rank), 0,
                         run->hidden->n_tokens * run->hidden->width,
                         mp_hidden_sequence(run->hidden, i));
    for (int i = 0; i < run->arch->n_linears; i++)
        skip[i] = run->method->factorise != NULL && run->ranks[i] == 0;
    memset(&run->clock, 0, sizeof run->clock);
    MP_TRY(bench_barrier(run->comm));
    start = mp_seconds();
    MP_TRY(mp_runner_block(run, skip, 0, results));
    return bench_keep_best(run->comm, mp_seconds() - start, &run->clock, b);
}

mp_status bench_block(const mp_comm *comm, const bench_config *config, const mp_method *method,
                      const mp_method_options *options)
{
    mp_arch arch;
    mp_runner run = {.comm = comm,
                     .arch = &arch,
                     .method = method,
                     .options = *options,
                     .lengths.state_ratio = 1.0};
    int64_t ranks[MP_MAX_LINEARS];
    best b = {0};
    mp_status st;

    if (config->config == NULL)
        return mp_fail(MP_ERR_ARG, "'mpress bench block' needs --config FILE");
    if (config->seqlen < 1 || config->tokens < 1 || config->tokens % config->seqlen != 0)
        return mp_fail(MP_ERR_ARG, "--tokens %lld --seqlen %lld: expected whole sequences",
                       (long long)config->tokens, (long long)config->seqlen);
    MP_TRY(mp_order_parse(config->propagate, &run.order));
    MP_TRY(mp_arch_share(comm, config->config, &arch));
    for (int i = 0; i < arch.n_linears; i++) {
        const mp_linear_row *row = &arch.linears[i];

        MP_TRY(method->fits(options, row->name, row->d_in));
        MP_TRY(mp_rank_uniform(row->name, row->d_out, row->d_in, config->ratio, &ranks[i]));
    }
    run.ranks = ranks;
    MP_TRY(mp_hidden_create(comm, config->tokens / config->seqlen, config->seqlen, arch.d_model,
                            &run.hidden));
    MP_GO(mp_runner_open(&run));
    for (int64_t i = 0; i < config->repeat; i++) MP_GO(block_once(&run, &b));
    st = bench_report(comm, config, &b);
out:
    mp_runner_close(&run);
    mp_hidden_free(run.hidden);
    return st;
}
