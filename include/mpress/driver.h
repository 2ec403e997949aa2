/* The whole road: from a model directory and a text to a compressed checkpoint.
 * Floor 9: pipeline. */
#ifndef MPRESS_DRIVER_H
#define MPRESS_DRIVER_H

#include "mpress/comm.h"
#include "mpress/error.h"

#include <jansson.h>
#include <stdint.h>

/* What the user asked for, as the command line says it (mpress compress --help). */
typedef struct mp_job {
    const char *model, *out;
    const char *method, *sparsity, *calib, *bos, *propagate, *skip, *blocks, *eval;
    const char *rank_policy, *asvd_scale, *svd;
    int64_t nsamples, seqlen, seed, blocksize, eval_seqlen, max_windows, batch;
    double state_ratio, damp, ratio, alpha, max_search_flop;
    int center, strict, no_export, overwrite;
    json_t *options; /* the effective options, for the record; borrowed */
} mp_job;

/* Collective; the status is agreed. */
mp_status mp_compress(const mp_comm *comm, const mp_job *job);

#endif
