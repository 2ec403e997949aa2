/* The windows of a run: drawn, kept in OUT, embedded. */
#include "run.h"

#include "mpress/draw.h"
#include "mpress/fileio.h"
#include "mpress/log.h"
#include "mpress/memory.h"

static mp_status draw(const run *r, const char *path, int64_t count, int64_t seqlen,
                      mp_status (*from)(const mp_corpus_request *, mp_windows *),
                      mp_windows *windows)
{
    mp_corpus_request request = {.path = path,
                                 .model = r->assets,
                                 .nsamples = count,
                                 .seqlen = seqlen,
                                 .vocabulary = r->arch.vocabulary,
                                 .seed = (uint64_t)r->job->seed,
                                 .bos = r->bos};

    return mp_draw_windows(r->comm, &request, from, r->arch.max_positions, windows);
}

static void record_count(const run *r, const char *name, int64_t value)
{
    json_object_set_new(r->job->options, name, json_integer((json_int_t)value));
    json_object_set_new(r->job->identity, name, json_integer((json_int_t)value));
}

/* The record of the options holds what the files decided where the user left it to them. */
static void record_windows(const run *r)
{
    if (r->job->calib != NULL) {
        record_count(r, "nsamples", r->calibration.count);
        record_count(r, "seqlen", r->calibration.seqlen);
    }
    if (r->job->eval != NULL)
        json_object_set_new(r->job->options, "eval-seqlen",
                            json_integer((json_int_t)r->evaluation.seqlen));
}

mp_status run_draw_windows(run *r)
{
    const mp_job *job = r->job;

    if (job->calib != NULL) {
        MP_TRY(draw(r, job->calib, job->nsamples, job->seqlen, mp_corpus_calibration,
                    &r->calibration));
        MP_TRY(mp_length_policy_check(&r->runner.lengths, r->calibration.seqlen));
    }
    if (job->eval != NULL)
        MP_TRY(draw(r, job->eval, job->max_windows,
                    job->eval_seqlen > 0 ? job->eval_seqlen : r->calibration.seqlen,
                    mp_corpus_evaluation, &r->evaluation));
    record_windows(r);
    r->evaluation_crc = r->comm->rank == 0 ? mp_windows_crc32c(&r->evaluation) : 0;
    return mp_comm_tell(r->comm, &r->evaluation_crc, sizeof r->evaluation_crc, 0);
}

mp_status run_keep_windows(const run *r)
{
    static const char file[] = "calib.safetensors";
    char *path = NULL;
    mp_status st = MP_OK;

    if (r->job->calib == NULL || mp_checkpoint_has(r->checkpoint, file)) return MP_OK;
    if (r->comm->rank == 0) {
        st = mp_path_join(r->job->out, file, &path);
        if (st == MP_OK) st = mp_checkpoint_check_owner(r->checkpoint);
        if (st == MP_OK) st = mp_windows_write(path, &r->calibration);
        mp_free(path);
    }
    MP_TRY(mp_comm_agree(r->comm, st));
    return mp_checkpoint_add_file(r->checkpoint, file);
}

mp_status run_embed(run *r)
{
    double mark = mp_seconds();
    mp_status st;

    if (r->job->calib == NULL) return MP_OK;
    if (r->runner.hidden == NULL)
        MP_TRY(mp_hidden_create(r->comm, r->calibration.count, r->calibration.seqlen,
                                r->arch.d_model, &r->runner.hidden));
    st = mp_hidden_embed(r->comm, r->source, r->calibration.tokens, r->runner.hidden);
    mp_clock_lap(&r->runner.clock, MP_PHASE_EMBED, 0.0, &mark);
    return st;
}
