/* The whole road: from a model directory and a text to a compressed checkpoint.
 * Floor 9: pipeline. */
#ifndef MPRESS_DRIVER_H
#define MPRESS_DRIVER_H

#include "mpress/comm.h"
#include "mpress/error.h"
#include "mpress/method.h"

#include <jansson.h>
#include <stdint.h>

/* What the user asked for, as the command line says it (mpress compress --help). */
typedef struct mp_job {
    const char *model, *out;
    const char *method, *sparsity, *calib, *bos, *propagate, *skip, *blocks, *eval;
    const char *resume;       /* auto, never, require */
    const char *save_hidden;  /* auto, every=N, off */
    const char *hidden_dtype; /* fp32, bf16 */
    const char *max_time;     /* "SECONDS" or "HH:MM:SS"; NULL: no limit */
    const char *mem_per_rank; /* "12G"; NULL: what is free */
    const char *rank_policy, *asvd_scale, *svd, *model_io;
    const char *lengths;   /* "L1,L2,..": nested prefixes; NULL: whole windows */
    const char *normalise; /* none, sequence (token_weights.h) */
    int64_t nsamples, seqlen, seed, blocksize, eval_seqlen, max_windows, batch;
    double state_ratio, damp, ratio, alpha, max_search_flop, stop_grace;
    mp_quant_options quant;
    int center, strict, no_export, overwrite, drop_first;
    json_t *options;  /* the effective options, for the record; borrowed */
    json_t *identity; /* of these, the ones that change the result; borrowed */
} mp_job;

/* An unfinished run of the same identity in OUT is continued (job->resume), one that is finished is left
 * alone.  MP_ERR_STOPPED where the run was asked to stop (mpress/stop.h): the same call goes on.
 * Collective; the status is agreed. */
mp_status mp_compress(const mp_comm *comm, const mp_job *job);

#endif
