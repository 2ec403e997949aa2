#include "mpress/driver.h"

#include "mpress/export.h"
#include "mpress/fileio.h"
#include "mpress/forecast.h"
#include "mpress/hidden.h"
#include "mpress/log.h"
#include "mpress/linalg.h"
#include "mpress/memory.h"
#include "mpress/plan.h"
#include "mpress/stop.h"
#include "run.h"

#include <math.h>
#include <string.h>

/* 0 stands for a default; a negative number is a slip. */
static mp_status check_counts(const mp_job *job)
{
    const struct {
        const char *option;
        int64_t value;
    } counts[] = {{"--nsamples", job->nsamples},
                  {"--seqlen", job->seqlen},
                  {"--seed", job->seed},
                  {"--batch", job->batch},
                  {"--eval-seqlen", job->eval_seqlen},
                  {"--max-windows", job->max_windows}};

    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        if (counts[i].value < 0)
            return mp_fail(MP_ERR_ARG, "%s %lld: expected 0 or more", counts[i].option,
                           (long long)counts[i].value);
    return MP_OK;
}

/* Which tokens count and how much, as far as it does not hang on the windows. */
static mp_status read_lengths(run *r)
{
    mp_length_policy *policy = &r->runner.lengths;
    const char *normalise;

    policy->state_ratio = r->job->state_ratio;
    policy->drop_first = r->job->drop_first;
    if (r->job->lengths != NULL) MP_TRY(mp_lengths_parse(r->job->lengths, policy));
    MP_TRY(mp_normalise_parse(r->job->normalise, policy, &normalise));
    return mp_length_policy_check(policy, 0);
}

/* A method that does without calibration data may have some; what is said of them needs them. */
static mp_status expect_calibration(const run *r)
{
    const mp_length_policy *policy = &r->runner.lengths;
    const char *what = policy->n_lengths > 0        ? "--lengths"
                       : policy->normalise          ? "--normalise"
                       : policy->state_ratio != 1.0 ? "--state-ratio"
                       : policy->drop_first         ? "--drop-first"
                                                    : NULL;

    if (r->job->calib != NULL) return MP_OK;
    if ((r->runner.method->needs & MP_NEED_MOMENT) != 0)
        return mp_fail(MP_ERR_ARG, "--calib: method %s needs calibration data", r->job->method);
    return what == NULL ? MP_OK : mp_fail(MP_ERR_ARG, "%s: says nothing without --calib", what);
}

/* Options that say something by themselves, before any file is opened. */
static mp_status read_options(run *r)
{
    const mp_job *job = r->job;
    mp_method_options *o = &r->runner.options;

    r->runner.method = mp_method_find(job->method);
    if (r->runner.method == NULL) {
        char known[256] = "";

        for (int i = 0; mp_method_at(i) != NULL; i++) {
            strcat(known, i > 0 ? ", " : "");
            strcat(known, mp_method_at(i)->name);
        }
        return mp_fail(MP_ERR_ARG, "--method %s: expected one of %s", job->method, known);
    }
    if (job->sparsity != NULL) MP_TRY(mp_pattern_parse(job->sparsity, &o->pattern));
    MP_TRY(mp_order_parse(job->propagate, &r->runner.order));
    o->damp = job->damp;
    o->blocksize = r->runner.method->tile > 0 ? r->runner.method->tile : job->blocksize;
    o->strict = job->strict;
    MP_TRY(mp_method_options_check(o));
    MP_TRY(mp_quant_options_read(r->runner.method, &job->quant, o));
    MP_TRY(check_counts(job));
    MP_TRY(mp_batch_check(r->runner.method, r->runner.order, job->batch));
    MP_TRY(mp_bos_parse(job->bos, &r->bos));
    MP_TRY(resume_options(r));
    MP_TRY(stopping_options(r));
    MP_TRY(mp_forecast_limit(job->mem_per_rank, &r->rank_limit));
    MP_TRY(mp_model_io_parse(job->model_io, &r->model_io));
    MP_TRY(read_lengths(r));
    return expect_calibration(r);
}

/* Block b of the model into place k of a batch. */
static mp_status load_block(run *r, int64_t b, int k, int skip[MP_MAX_LINEARS], mp_batch_item *item)
{
    int n = r->arch.n_linears;
    double mark = mp_seconds();

    MP_TRY(mp_block_load(r->runner.blocks[k], r->comm, r->source, b));
    mp_block_prefetch(&r->arch, r->comm, r->source, b + 1);
    mp_clock_lap(&r->runner.clock, MP_PHASE_READ, 0.0, &mark);
    selection_of_block(&r->selected, &r->arch, b, skip);
    for (int i = 0; r->ranks != NULL && i < n; i++) skip[i] |= r->ranks[b * n + i] == 0;
    *item = (mp_batch_item){.block = r->runner.blocks[k],
                            .skip = skip,
                            .ranks = r->ranks != NULL ? r->ranks + b * n : NULL,
                            .is_last = b + 1 == r->arch.n_blocks,
                            .results = r->results + b * n,
                            .states = r->states + b * r->arch.n_states};
    return MP_OK;
}

/* Blocks [b, b + count), committed one by one after the hidden states behind them. */
static mp_status compress_blocks(run *r, int64_t b, int count)
{
    int skip[MP_MAX_BATCH][MP_MAX_LINEARS];
    mp_batch_item items[MP_MAX_BATCH];
    double start = mp_seconds(), mark;

    MP_TRY(stopping_before_blocks(r, count));
    for (int k = 0; k < count; k++) MP_TRY(load_block(r, b + k, k, skip[k], &items[k]));
    MP_TRY(mp_runner_batch(&r->runner, items, count));
    mark = mp_seconds();
    r->save.block_seconds = (mark - start) / count;
    MP_TRY(resume_save_hidden(r, b + count - 1));
    for (int k = 0; k < count; k++) {
        r->runner.block = items[k].block;
        MP_TRY(run_write_block(r, r->checkpoint, b + k, items[k].results, items[k].states));
    }
    mp_clock_lap(&r->runner.clock, MP_PHASE_WRITE, 0.0, &mark);
    r->save.block_seconds = (mp_seconds() - start) / count;
    return report_blocks(r, b, count, mp_seconds() - start);
}

/* How many blocks are solved side by side: in dense order, where the method factors. */
static mp_status choose_batch(run *r)
{
    int64_t most = r->job->batch > 0 ? r->job->batch : r->most_batch;

    r->runner.batch = 1;
    if (r->runner.order != MP_ORDER_DENSE || r->ranks == NULL) return MP_OK;
    if (most > r->arch.n_blocks) most = r->arch.n_blocks;
    if (r->job->batch == 0) return mp_plan_batch(r->comm, &r->arch, most, &r->runner.batch);
    r->runner.batch = (int)most;
    return MP_OK;
}

/* How many of the blocks from b on are to be made together: up to the next one that is there. */
static int blocks_together(const run *r, int64_t b)
{
    int count = 1;

    while (count < r->runner.batch && b + count < r->arch.n_blocks &&
           !mp_checkpoint_has_block(r->checkpoint, b + count))
        count++;
    return count;
}

/* Hidden states go through every block up to the last that is missing: through those that are there as
 * they are; in dense order as they were. */
static mp_status compress_from(run *r, int64_t first, const mp_source *blocks)
{
    int64_t end = r->arch.n_blocks;

    while (end > 0 && mp_checkpoint_has_block(r->checkpoint, end - 1)) end--;
    for (int64_t b = first; b < end;) {
        int count = 1;

        if (mp_checkpoint_has_block(r->checkpoint, b)) {
            MP_TRY(resume_replay(r, blocks, b));
        } else {
            count = blocks_together(r, b);
            MP_TRY(compress_blocks(r, b, count));
        }
        b += count;
    }
    return MP_OK;
}

static mp_status compress_all(run *r)
{
    int is_dense = r->runner.order == MP_ORDER_DENSE;
    mp_source *there = NULL;
    int64_t first;
    mp_status st = MP_OK;

    r->clock_before = r->runner.clock; /* a block's figures are its own */
    if (r->kept_blocks > 0 && !is_dense) MP_GO(mp_checkpoint_share_blocks(r->checkpoint, &there));
    MP_GO(resume_hidden(r, &first));
    MP_GO(compress_from(r, first, is_dense ? r->source : there));
out:
    mp_source_close(&there);
    return st;
}

/* All that comes between the start and the last block. */
static mp_status make_blocks(run *r)
{
    if (r->kept_blocks == r->arch.n_blocks) return MP_OK;
    MP_TRY(run_embed(r));
    MP_TRY(choose_batch(r));
    MP_TRY(mp_runner_open(&r->runner));
    MP_TRY(ranks_search(r));
    return compress_all(r);
}

static mp_status export_hf(run *r, const mp_source *compressed, const char *assets)
{
    double mark = mp_seconds();

    if (r->job->no_export || mp_checkpoint_has_folder(r->checkpoint, "hf")) return MP_OK;
    if (mp_checkpoint_has(r->checkpoint, "hf/config.json"))
        mp_log(MP_LOG_INFO, "%s/hf: not all of its files have checksums: it is written again",
               r->job->out);
    MP_TRY(mp_checkpoint_export(r->checkpoint, compressed, assets));
    mp_clock_lap(&r->runner.clock, MP_PHASE_EXPORT, 0.0, &mark);
    return MP_OK;
}

/* What comes after the last block: perplexity of what was written, export, the journal's end. */
static mp_status finish(run *r)
{
    mp_source *compressed = NULL;
    char *assets = NULL;
    mp_status st;

    mp_runner_close(&r->runner); /* the evaluation needs a block and hidden states of its own */
    mp_hidden_free(r->runner.hidden);
    r->runner.hidden = NULL;
    MP_GO(mp_comm_agree(r->comm, mp_path_join(r->job->out, "assets", &assets)));
    MP_GO(mp_checkpoint_share_model(r->checkpoint, &compressed));
    MP_GO(mp_comm_agree(r->comm, mp_model_size_of(compressed, &r->size)));
    MP_GO(run_evaluate(r, "after", compressed, &r->after));
    MP_GO(report_write(r)); /* should the export fail, the run is complete without it */
    MP_GO(export_hf(r, compressed, assets));
    MP_GO(report_finish(r));
    MP_GO(mp_checkpoint_add_file(r->checkpoint, "report.json"));
    MP_GO(mp_checkpoint_finish(r->checkpoint));
out:
    mp_source_close(&compressed);
    mp_free(assets);
    return st;
}

static void close_run(run *r)
{
    mp_runner_close(&r->runner);
    mp_hidden_free(r->runner.hidden);
    mp_checkpoint_free(r->checkpoint);
    mp_windows_free(&r->calibration);
    mp_windows_free(&r->evaluation);
    selection_close(&r->selected);
    mp_source_close(&r->source);
    mp_free(r->assets);
    for (int64_t i = 0; r->states != NULL && i < r->arch.n_blocks * r->arch.n_states; i++)
        mp_free(r->states[i].squares);
    mp_free(r->states);
    mp_free(r->results);
    mp_free(r->ranks);
    json_decref(r->sensitivity);
    mp_free(r->log_path);
    mp_free(r->stop_path);
    mp_stop_rule(NULL);
    mp_comm_free(r->apart);
}

static mp_status measure_rate(run *r)
{
    mp_status st = mp_gemm_rate(1536, 1, &r->gemm_flops);

    MP_TRY(mp_comm_agree(r->comm, st));
    return mp_comm_sum(r->comm, &r->gemm_flops, 1);
}

/* Whether what the run needs is there: before OUT is begun, so that nothing is written in vain.  An OUT with
 * an earlier run may need none of it: there, once it is known what is left to do. */
static mp_status afford(run *r)
{
    if (r->kept_blocks == r->arch.n_blocks) return MP_OK;
    MP_TRY(run_afford(r));
    return r->has_ranks ? MP_OK : ranks_afford(r);
}

static mp_status find_earlier_run(run *r)
{
    r->has_earlier =
        r->comm->rank == 0 && r->start != MP_START_OVERWRITE && mp_checkpoint_is(r->job->out);
    return mp_comm_tell(r->comm, &r->has_earlier, sizeof r->has_earlier, 0);
}

/* From the claim on OUT to the end. */
static mp_status carry_out(run *r)
{
    double mark = r->started;

    MP_TRY(resume_open(r));
    MP_TRY(stopping_open(r));
    MP_TRY(resume_recall(r));
    if (r->has_earlier) MP_TRY(afford(r));
    MP_TRY(measure_rate(r));
    MP_TRY(report_start(r));
    mp_clock_lap(&r->runner.clock, MP_PHASE_START, 0.0, &mark);
    MP_TRY(run_evaluate(r, "before", r->source, &r->before));
    MP_TRY(make_blocks(r));
    return finish(r);
}

mp_status mp_compress(const mp_comm *comm, const mp_job *job)
{
    run r = {.comm = comm, .job = job, .started = mp_seconds()};
    int is_done = 0;
    mp_status st;

    r.runner.comm = comm;
    r.runner.arch = &r.arch;
    MP_GO(mp_comm_agree(comm, read_options(&r)));
    MP_GO(mp_model_verify(comm, job->model));
    MP_GO(run_open_model(&r));
    MP_GO(run_identify(&r));
    MP_GO(run_draw_windows(&r));
    MP_GO(resume_is_done(&r, &is_done));
    if (is_done) goto out;
    MP_GO(find_earlier_run(&r));
    if (!r.has_earlier) MP_GO(afford(&r));
    MP_GO(run_check_outside_blocks(&r));
    MP_GO(carry_out(&r));
out:
    st = stopping_say(&r, st);
    close_run(&r);
    return st;
}
