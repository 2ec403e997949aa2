/* The perplexity of the dense model and of the one that was made, kept in the journal. */
#include "run.h"

#include "mpress/log.h"
#include "mpress/stop.h"

#include <math.h>

/* The same tokens in windows of another length are other windows. */
int run_recall_perplexity(const run *r, const mp_checkpoint *from, const char *name,
                          mp_perplexity_result *result)
{
    const json_t *noted = mp_checkpoint_noted(from, name);

    if (json_integer_value(json_object_get(noted, "crc")) != r->evaluation_crc ||
        json_integer_value(json_object_get(noted, "count")) != r->evaluation.count ||
        json_integer_value(json_object_get(noted, "seqlen")) != r->evaluation.seqlen)
        return 0;
    result->nll = json_number_value(json_object_get(noted, "nll"));
    result->perplexity = exp(result->nll);
    result->windows = json_integer_value(json_object_get(noted, "windows"));
    return 1;
}

mp_status run_evaluate(run *r, const char *name, const mp_source *source,
                       mp_perplexity_result *result)
{
    double mark = mp_seconds();

    if (r->job->eval == NULL) return MP_OK;
    if (run_recall_perplexity(r, r->checkpoint, name, result)) return MP_OK;
    mp_stop_expect(INFINITY);
    MP_TRY(mp_perplexity(r->comm, &r->arch, source, &r->evaluation, result));
    mp_clock_lap(&r->runner.clock, MP_PHASE_EVAL, 0.0, &mark);
    return mp_checkpoint_note(
        r->checkpoint, name,
        json_pack("{s:I, s:I, s:I, s:f, s:I}", "crc", (json_int_t)r->evaluation_crc, "count",
                  (json_int_t)r->evaluation.count, "seqlen", (json_int_t)r->evaluation.seqlen,
                  "nll", result->nll, "windows", (json_int_t)result->windows));
}
