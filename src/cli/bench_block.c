/* One whole block on random weights and activations (bench.h). */
#include "bench.h"

#include "mpress/budget.h"
#include "mpress/forecast.h"

static mp_status block_once(mp_runner *run, best *b)
{
    double seconds;

    MP_TRY(mp_trial_block(run, 0, &seconds));
    return bench_keep_best(run->comm, seconds, &run->clock, b);
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
