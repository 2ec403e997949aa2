/* What a run takes over from an earlier one in OUT: blocks, hidden states, and what was found out. */
#include "run.h"

#include "mpress/fileio.h"
#include "mpress/forecast.h"
#include "mpress/json.h"
#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/options.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static mp_status read_start(const mp_job *job, mp_start *start)
{
    static const char *const names[] = {"never", "auto", "require"};
    static const mp_start starts[] = {MP_START_NEW, MP_START_RESUME, MP_START_REQUIRE};

    for (int i = 0; i < 3; i++)
        if (strcmp(job->resume, names[i]) == 0) {
            *start = starts[i];
            if (!job->overwrite) return MP_OK;
            *start = MP_START_OVERWRITE;
            return strcmp(job->resume, "require") != 0
                       ? MP_OK
                       : mp_fail(MP_ERR_ARG, "--resume require contradicts --overwrite");
        }
    return mp_fail(MP_ERR_ARG, "--resume %s: expected auto, never or require", job->resume);
}

static mp_status read_save(const char *text, save_policy *save)
{
    save->last = -1;
    save->every = strcmp(text, "auto") == 0 ? -1 : 0;
    if (save->every < 0 || strcmp(text, "off") == 0) return MP_OK;
    if (strncmp(text, "every=", 6) == 0 && mp_parse_int(text + 6, &save->every) == 0 &&
        save->every >= 1)
        return MP_OK;
    return mp_fail(MP_ERR_ARG, "--save-hidden %s: expected auto, every=N or off", text);
}

mp_status resume_options(run *r)
{
    const char *dtype = r->job->hidden_dtype;

    MP_TRY(read_start(r->job, &r->start));
    MP_TRY(read_save(r->job->save_hidden, &r->save));
    r->runner.hidden_dtype = strcmp(dtype, "bf16") == 0 ? MP_BF16 : MP_F32;
    if (r->runner.hidden_dtype == MP_BF16 || strcmp(dtype, "fp32") == 0) return MP_OK;
    return mp_fail(MP_ERR_ARG, "--hidden-dtype %s: expected fp32 or bf16", dtype);
}

static int has_all(const run *r, const mp_checkpoint *there)
{
    mp_perplexity_result result;

    return (r->job->no_export || mp_checkpoint_has_folder(there, "hf")) &&
           (r->job->eval == NULL || (run_recall_perplexity(r, there, "before", &result) &&
                                     run_recall_perplexity(r, there, "after", &result)));
}

mp_status resume_is_done(const run *r, int *is_done)
{
    json_t *record = report_identity(r), *report = NULL;
    mp_checkpoint *there = NULL;
    mp_status st = MP_OK;

    *is_done = 0;
    if (r->start != MP_START_RESUME && r->start != MP_START_REQUIRE) goto out;
    MP_GO(mp_checkpoint_find_finished(r->comm, r->job->out, &r->arch, record, &there));
    if (there == NULL || !has_all(r, there)) goto out;
    MP_GO(mp_checkpoint_verify(r->comm, r->job->out, &report));
    *is_done = json_array_size(json_object_get(report, "damaged")) == 0 &&
               json_integer_value(json_object_get(report, "bad_journal_line")) == 0;
    if (*is_done)
        mp_log(MP_LOG_INFO, "%s: finished already, by the same options; every file is whole",
               r->job->out);
out:
    mp_checkpoint_free(there);
    json_decref(record);
    json_decref(report);
    return st;
}

static void say_resumed(const run *r)
{
    mp_log(MP_LOG_INFO, "%s: going on with an earlier run: %lld of %lld blocks are there",
           r->job->out, (long long)r->kept_blocks, (long long)r->arch.n_blocks);
}

/* Makes OUT, first of all: a run that may not write there must not compute for an hour before. */
mp_status resume_open(run *r)
{
    json_t *record = report_identity(r);
    double mark = mp_seconds();
    mp_status st;

    MP_GO(mp_comm_agree(r->comm, mp_path_join(r->job->out, "log.jsonl", &r->log_path)));
    MP_GO(mp_checkpoint_create(r->comm, r->job->out, r->assets, &r->arch, r->source, record,
                               r->start, &r->checkpoint));
    for (int64_t b = 0; b < r->arch.n_blocks; b++)
        r->kept_blocks += mp_checkpoint_has_block(r->checkpoint, b);
    if (mp_checkpoint_resumed(r->checkpoint)) say_resumed(r);
    MP_GO(run_keep_windows(r));
    mp_clock_lap(&r->runner.clock, MP_PHASE_WRITE, 0.0, &mark);
out:
    json_decref(record);
    return st;
}

static double real_of(const json_t *record, const char *key)
{
    const json_t *value = json_object_get(record, key);

    return json_is_number(value) ? json_number_value(value) : NAN;
}

static int64_t int_of(const json_t *record, const char *key)
{
    return json_integer_value(json_object_get(record, key));
}

/* Of one linear map, as its block's file has it. */
static void recall_linear(run *r, const json_t *record)
{
    const char *name = json_string_value(json_object_get(record, "name"));
    const char *by = json_string_value(json_object_get(record, "method"));
    int64_t block = int_of(record, "block");

    for (int i = 0; i < r->arch.n_linears; i++) {
        if (strcmp(r->arch.linears[i].name, name) != 0) continue;
        r->results[block * r->arch.n_linears + i] = (mp_linear_result){
            .compressed = strcmp(by, "dense") != 0,
            .rel_error = real_of(record, "rel_error"),
            .sparsity = real_of(record, "sparsity"),
            .rank = int_of(record, "rank"),
            .quant = {.bits = (int)int_of(record, "bits"),
                      .group = int_of(record, "group"),
                      .symmetric = (int)int_of(record, "symmetric")},
            .kept = real_of(record, "kept"),
            .tokens = int_of(record, "tokens"),
            .outcome = {.damping = real_of(record, "damping"),
                        .retries = int_of(record, "retries"),
                        .by_qr = int_of(record, "by_qr"),
                        .dead = int_of(record, "dead")},
        };
    }
}

static void recall_state(run *r, const json_t *record)
{
    const char *name = json_string_value(json_object_get(record, "name"));
    int64_t block = int_of(record, "block");

    for (int i = 0; i < r->arch.n_states; i++)
        if (strcmp(r->arch.states[i].name, name) == 0)
            r->states[block * r->arch.n_states + i] = (mp_state_result){
                .tokens = int_of(record, "tokens"),
                .weight = real_of(record, "weight"),
                .summary = {.effective_rank = real_of(record, "effective_rank"),
                            .distance = real_of(record, "distance"),
                            .distance_error = real_of(record, "distance_error"),
                            .probes = int_of(record, "probes")},
            };
}

/* Rank 0. */
static mp_status recall_results(run *r)
{
    json_t *description = NULL;
    const json_t *record;
    size_t i;

    MP_TRY(mp_checkpoint_describe(r->job->out, &description));
    json_array_foreach (json_object_get(description, "linears"), i, record)
        recall_linear(r, record);
    json_array_foreach (json_object_get(description, "states"), i, record) recall_state(r, record);
    json_decref(description);
    return MP_OK;
}

static void recall_ranks(run *r)
{
    const json_t *noted = mp_checkpoint_noted(r->checkpoint, "ranks");
    const json_t *ranks = json_object_get(noted, "ranks"), *rank;
    size_t i, n = (size_t)(r->arch.n_blocks * r->arch.n_linears);

    if (r->ranks == NULL || json_array_size(ranks) != n) return;
    json_array_foreach (ranks, i, rank) r->ranks[i] = json_integer_value(rank);
    r->sensitivity = json_incref(json_object_get(noted, "sensitivity"));
    r->search_retries = int_of(noted, "retries");
    r->has_ranks = 1;
}

mp_status resume_recall(run *r)
{
    size_t bytes = (size_t)(r->arch.n_blocks * r->arch.n_linears) * sizeof *r->results;

    if (!mp_checkpoint_resumed(r->checkpoint)) return MP_OK;
    recall_ranks(r);
    MP_TRY(mp_comm_agree(r->comm, r->comm->rank == 0 ? recall_results(r) : MP_OK));
    MP_TRY(mp_comm_tell(r->comm, r->results, bytes, 0));
    return mp_comm_tell(r->comm, r->states,
                        (size_t)(r->arch.n_blocks * r->arch.n_states) * sizeof *r->states, 0);
}

/* States that cannot be read are no loss: the blocks that are there make them again from the embedded
 * windows, which a read that failed half way has written over. */
static mp_status embed_again(run *r, mp_status st)
{
    if (st != MP_ERR_IO && st != MP_ERR_FORMAT) return st;
    mp_log(MP_LOG_WARNING, "%s: hidden states go through the blocks that are there",
           mp_error_message());
    return run_embed(r);
}

mp_status resume_hidden(run *r, int64_t *first)
{
    int64_t missing = 0, saved = mp_checkpoint_hidden_block(r->checkpoint);
    double mark = mp_seconds();
    mp_status st;

    *first = 0;
    if (r->runner.hidden == NULL) return MP_OK;
    while (missing < r->arch.n_blocks && mp_checkpoint_has_block(r->checkpoint, missing)) missing++;
    if (saved < 0 || saved >= missing) return MP_OK; /* those of a later block are of no use */
    st = mp_checkpoint_get_hidden(r->checkpoint, r->runner.hidden);
    if (st != MP_OK) return embed_again(r, st);
    mp_clock_lap(&r->runner.clock, MP_PHASE_READ, 0.0, &mark);
    mp_log(MP_LOG_INFO, "hidden states after block %lld are read back", (long long)saved + 1);
    *first = saved + 1;
    r->save.last = saved;
    return MP_OK;
}

mp_status resume_replay(run *r, const mp_source *blocks, int64_t b)
{
    double mark = mp_seconds();

    if (r->runner.hidden == NULL) return MP_OK;
    MP_TRY(mp_block_load(r->runner.block, r->comm, blocks, b));
    mp_block_prefetch(&r->arch, r->comm, blocks, b + 1);
    mp_clock_lap(&r->runner.clock, MP_PHASE_READ, 0.0, &mark);
    MP_TRY(mp_runner_replay(&r->runner));
    mp_log(MP_LOG_INFO, "block %lld/%lld is there already: hidden states went through it",
           (long long)b + 1, (long long)r->arch.n_blocks);
    return MP_OK;
}

/* Rank 0's measure of the last save decides for all. */
static mp_status choose_every(run *r, double seconds)
{
    double every = ceil(100.0 / MP_SAVE_PERCENT * seconds / r->save.block_seconds);

    if (r->save.every >= 0 || r->save.block_seconds <= 0.0) return MP_OK;
    r->save.every = every < 1.0 ? 1 : every > 1e6 ? 1000000 : (int64_t)every;
    MP_TRY(mp_comm_tell(r->comm, &r->save.every, sizeof r->save.every, 0));
    if (r->save.every > 1)
        mp_log(MP_LOG_INFO, "hidden states are saved every %lld blocks (%.1f s each time)",
               (long long)r->save.every, seconds);
    return MP_OK;
}

mp_status resume_save_hidden(run *r, int64_t b)
{
    double start = mp_seconds();

    if (r->runner.hidden == NULL || r->save.every == 0 || b + 1 == r->arch.n_blocks) return MP_OK;
    if (b <= mp_checkpoint_hidden_block(r->checkpoint)) return MP_OK; /* a damaged one made again */
    if (r->save.every > 0 && b - r->save.last < r->save.every) return MP_OK;
    MP_TRY(mp_checkpoint_put_hidden(r->checkpoint, b, r->runner.hidden_dtype, r->runner.hidden));
    r->save.last = b;
    return choose_every(r, mp_seconds() - start);
}
