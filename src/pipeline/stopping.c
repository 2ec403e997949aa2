/* When a run stops before its end, and what it says then. */
#include "run.h"

#include "mpress/fileio.h"
#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/options.h"
#include "mpress/stop.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* "90", "02:30:00". */
static mp_status parse_time(const char *text, double *seconds)
{
    int64_t whole;
    long long h, m, s;
    int end = 0;

    if (mp_parse_int(text, &whole) == 0 && whole > 0) {
        *seconds = (double)whole;
        return MP_OK;
    }
    if (sscanf(text, "%lld:%lld:%lld%n", &h, &m, &s, &end) == 3 && text[end] == '\0' && h >= 0 &&
        m >= 0 && m < 60 && s >= 0 && s < 60 && h + m + s > 0) {
        *seconds = (double)(3600 * h + 60 * m + s);
        return MP_OK;
    }
    return mp_fail(MP_ERR_ARG, "--max-time %s: expected seconds above 0, or HH:MM:SS", text);
}

mp_status stopping_options(run *r)
{
    const mp_job *job = r->job;

    if (!(job->stop_grace >= 0.0 && isfinite(job->stop_grace)))
        return mp_fail(MP_ERR_ARG, "--stop-grace %g: expected seconds, 0 or more", job->stop_grace);
    return job->max_time != NULL ? parse_time(job->max_time, &r->max_seconds) : MP_OK;
}

mp_status stopping_open(run *r)
{
    mp_stop_rules rules = {
        .grace = r->job->stop_grace, .max_seconds = r->max_seconds, .started = r->started};

    MP_TRY(mp_comm_agree(r->comm, mp_path_join(r->job->out, "stop", &r->stop_path)));
    rules.file = r->stop_path;
    mp_stop_rule(&rules);
    return MP_OK;
}

/* Of a block before any has been measured: its products at half of the GEMM rate. */
static double estimate_block(const run *r)
{
    double linears, attention, tokens, flop;

    if (r->runner.hidden == NULL || r->gemm_flops <= 0.0) return 0.0;
    mp_forward_flops(&r->arch, r->calibration.seqlen, &linears, &attention);
    flop = (r->runner.order == MP_ORDER_BLOCK ? 2.0 : 1.0) * (linears + attention);
    tokens = (double)r->calibration.seqlen;
    for (int s = 0; s < r->arch.n_states; s++)
        flop += tokens * (double)r->arch.states[s].width * (double)r->arch.states[s].width;
    return 2.0 * flop * (double)r->calibration.count / r->gemm_flops;
}

mp_status stopping_before_blocks(const run *r, int count)
{
    double each = r->save.block_seconds > 0.0 ? r->save.block_seconds : estimate_block(r);
    mp_status st = mp_stop_before(r->comm, each * count);

    if (st == MP_OK) mp_stop_expect(mp_seconds() + each * count);
    return st;
}

mp_status stopping_say(const run *r, mp_status st)
{
    int64_t there = 0;
    char why[160];

    if (st != MP_ERR_STOPPED) return st;
    mp_progress_end();
    if (r->comm->rank == 0 && r->stop_path != NULL) (void)mp_path_remove(r->stop_path);
    for (int64_t b = 0; r->checkpoint != NULL && b < r->arch.n_blocks; b++)
        there += mp_checkpoint_has_block(r->checkpoint, b);
    snprintf(why, sizeof why, "%.150s", mp_error_message());
    return mp_fail(MP_ERR_STOPPED,
                   "%s: %s: %lld of %lld blocks are there; the same command%s goes on", r->job->out,
                   why, (long long)there, (long long)r->arch.n_blocks,
                   r->start == MP_START_OVERWRITE ? " without --overwrite"
                   : r->start == MP_START_NEW     ? " without --resume never"
                                                  : "");
}
