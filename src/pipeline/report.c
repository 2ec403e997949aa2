/* What a run tells: a line per block, log.jsonl for machines, report.json at the end. */
#include "run.h"

#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/log.h"
#include "mpress/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* What the paper's own tables say ("Beyond Fixed-Length Calibration", EMNLP Findings 2025, table 5). */
static const char state_ratio_warning[] =
    "--state-ratio below 1 made low-rank factors clearly worse in the paper that proposes it "
    "(Llama-2-7B, "
    "asvd+ 0.8: perplexity 7.67 with all tokens, 8.69 with an eighth)";

/* NaN and infinity have no place in JSON: null says that there is no figure. */
json_t *report_real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

/* What makes two runs the same: ranks, threads, evaluation, export and limits do not.  The windows are
 * known to rank 0. */
static json_t *identity_json(const run *r)
{
    char crc[16] = "";

    if (r->comm->rank == 0 && r->job->calib != NULL)
        snprintf(crc, sizeof crc, "%08x", mp_windows_crc32c(&r->calibration));
    return json_pack("{s:O, s:s, s:s}", "options", r->job->identity, "model", r->identity,
                     "calibration", crc);
}

json_t *report_identity(const run *r)
{
    return json_pack("{s:i, s:O, s:{s:s, s:s}, s:o}", "format", 1, "options", r->job->options,
                     "model", "path", r->job->model, "identity", r->identity, "identity",
                     identity_json(r));
}

/* One line of log.jsonl: when, who and what, then the figures, which are consumed. */
mp_status report_event(const run *r, const char *name, json_t *figures)
{
    json_t *event = json_pack("{s:f, s:i, s:s}", "t", mp_seconds() - r->started, "rank",
                              r->comm->rank, "event", name);
    char *line = NULL;
    mp_status st = MP_OK;

    if (figures == NULL || json_object_update(event, figures) != 0)
        st = mp_fail(MP_ERR_NOMEM, "no memory for a line of the log");
    if (st == MP_OK && r->comm->rank == 0) {
        st = mp_json_dump(event, 1, &line);
        if (st == MP_OK) st = mp_file_append_line(r->log_path, line);
        mp_free(line);
    }
    json_decref(event);
    json_decref(figures);
    return mp_comm_agree(r->comm, st);
}

/* "2:4", "2:4, 4 bits, symmetric, groups of 128, mse scales", or "ratio 0.8, uniform ranks". */
static const char *setting(const run *r, char text[192])
{
    const mp_method_options *options = &r->runner.options;
    const char *sparsity = r->job->sparsity;
    char grids[64] = "";

    if (options->quant.bits > 0) mp_quant_words(&options->quant, grids);
    if (r->ranks != NULL)
        snprintf(text, 192, "ratio %g, %s ranks", r->job->ratio, r->job->rank_policy);
    else
        snprintf(text, 192, "%s%s%s%s%s", sparsity != NULL ? sparsity : "",
                 sparsity != NULL && options->quant.bits > 0 ? ", " : "", grids,
                 options->scale_by_search ? ", mse scales" : "",
                 options->act_order ? ", columns by diagonal of H" : "");
    return text;
}

/* Which tokens count, and how much, where it is not all of them the same. */
static void say_token_weights(const run *r)
{
    const mp_length_policy *policy = &r->runner.lengths;
    char text[256] = "";
    size_t used = 0;

    if (policy->n_lengths > 0)
        used += (size_t)snprintf(text, 128, ", nested prefixes of %s", r->job->lengths);
    if (policy->state_ratio < 1.0)
        used += (size_t)snprintf(text + used, 64, ", the first %g where norms put out states",
                                 policy->state_ratio);
    snprintf(text + used, 64, "%s%s", policy->normalise ? ", divided by their number" : "",
             policy->drop_first ? ", without the first" : "");
    if (text[0] != '\0') mp_log(MP_LOG_INFO, "tokens that count: %s", text + 2);
}

mp_status report_start(const run *r)
{
    char text[192];

    mp_log(MP_LOG_INFO, "%s: %s, %lld blocks, %.1f M parameters in linear maps; %s %s, %s order",
           r->job->model, r->arch.family, (long long)r->arch.n_blocks,
           1e-6 * (double)(mp_arch_linear_parameters(&r->arch) * r->arch.n_blocks),
           r->runner.method->name, setting(r, text), r->job->propagate);
    if (r->wanted < r->arch.n_blocks * r->arch.n_linears)
        mp_log(MP_LOG_INFO, "--skip and --blocks leave %lld of %lld linear maps dense",
               (long long)(r->arch.n_blocks * r->arch.n_linears - r->wanted),
               (long long)(r->arch.n_blocks * r->arch.n_linears));
    if (r->ranks != NULL && r->job->state_ratio < 1.0)
        mp_log(MP_LOG_WARNING, "%s", state_ratio_warning);
    if (r->job->calib != NULL)
        mp_log(MP_LOG_INFO, "calibration: %lld windows of %lld tokens from %s",
               (long long)r->calibration.count, (long long)r->calibration.seqlen, r->job->calib);
    say_token_weights(r);
    if (r->comm->size > 1) snprintf(text, sizeof text, " of all %d ranks", r->comm->size);
    mp_log(MP_LOG_INFO, "GEMM rate%s: %.0f Gflop/s (fp32); percentages are shares of it",
           r->comm->size > 1 ? text : "", 1e-9 * r->gemm_flops);
    return report_event(r, "start",
                        json_pack("{s:i, s:i, s:f}", "ranks", r->comm->size, "nodes",
                                  r->comm->host_count, "gemm_gflops", 1e-9 * r->gemm_flops));
}

/* What took the place of a factorisation that failed; NULL where none did. */
static const char *retry_road(const mp_outcome *outcome)
{
    if (outcome->by_qr > 0) return "p?syev";
    return outcome->retries > 0 ? "damping" : NULL;
}

static json_t *linear_json(int64_t block, const mp_linear_row *row, const mp_linear_result *result)
{
    const mp_quant *quant = &result->quant;
    json_t *linear = json_pack(
        "{s:I, s:s, s:I, s:I, s:o, s:o, s:I, s:s?, s:I, s:f, s:I, s:o, s:I}", "block",
        (json_int_t)block, "name", row->name, "d_out", (json_int_t)row->d_out, "d_in",
        (json_int_t)row->d_in, "rel_error", report_real(result->rel_error), "damping",
        report_real(result->outcome.damping), "retries", (json_int_t)result->outcome.retries,
        "retry", retry_road(&result->outcome), "dead", (json_int_t)result->outcome.dead, "sparsity",
        result->sparsity, "rank", (json_int_t)result->rank, "kept", report_real(result->kept),
        "parameters", (json_int_t)mp_linear_parameters(row->d_out, row->d_in, result->rank));

    if (quant->bits == 0) return linear;
    json_object_set_new(linear, "bits", json_integer(quant->bits));
    json_object_set_new(linear, "group", json_integer((json_int_t)quant->group));
    json_object_set_new(linear, "symmetric", json_boolean(quant->symmetric));
    return linear;
}

static json_t *linears_json(const run *r)
{
    json_t *all = json_array();

    for (int64_t b = 0; b < r->arch.n_blocks; b++)
        for (int i = 0; i < r->arch.n_linears; i++) {
            const mp_linear_result *result = &r->results[b * r->arch.n_linears + i];

            if (result->compressed)
                json_array_append_new(all, linear_json(b, &r->arch.linears[i], result));
        }
    return all;
}

/* Parameters of the linear maps of all blocks: as they are stored, and dense. */
static json_t *parameters_json(const run *r)
{
    int64_t stored = 0, dense = mp_arch_linear_parameters(&r->arch) * r->arch.n_blocks;

    for (int64_t b = 0; b < r->arch.n_blocks; b++)
        for (int i = 0; i < r->arch.n_linears; i++)
            stored += mp_linear_parameters(r->arch.linears[i].d_out, r->arch.linears[i].d_in,
                                           r->results[b * r->arch.n_linears + i].rank);
    return json_pack("{s:I, s:I, s:f}", "stored", (json_int_t)stored, "dense", (json_int_t)dense,
                     "ratio", (double)stored / (double)dense);
}

static json_t *phases_json(const mp_clock_summary *s)
{
    json_t *phases = json_object();

    for (int i = 0; i < MP_PHASE_COUNT; i++)
        json_object_set_new(phases, mp_phase_name((mp_phase)i),
                            json_pack("{s:f, s:f, s:f, s:I}", "min", s->min[i], "mean", s->mean[i],
                                      "max", s->max[i], "bytes_moved", (json_int_t)s->moved[i]));
    return phases;
}

static json_t *calibration_json(const run *r)
{
    char crc[16];

    if (r->job->calib == NULL) return json_null();
    snprintf(crc, sizeof crc, "%08x", mp_windows_crc32c(&r->calibration));
    return json_pack("{s:s, s:I, s:I, s:I, s:s, s:s}", "source", r->job->calib, "seed",
                     (json_int_t)r->job->seed, "windows", (json_int_t)r->calibration.count,
                     "seqlen", (json_int_t)r->calibration.seqlen, "bos", r->job->bos, "crc32c",
                     crc);
}

static json_t *perplexity_of(const mp_perplexity_result *result)
{
    return result->windows > 0 ? json_real(result->perplexity) : json_null();
}

static mp_status write_report(const run *r, const mp_clock_summary *s, int64_t moved, int64_t peak)
{
    json_t *report = report_identity(r);
    char *path = NULL, *text = NULL;
    mp_status st;

    json_object_set_new(report, "calibration", calibration_json(r));
    json_object_set_new(report, "perplexity",
                        json_pack("{s:o, s:o}", "before", perplexity_of(&r->before), "after",
                                  perplexity_of(&r->after)));
    json_object_set_new(report, "linears", linears_json(r));
    json_object_set_new(report, "states", report_states(r, 0, r->arch.n_blocks));
    json_object_set_new(report, "parameters", parameters_json(r));
    json_object_set_new(report, "bytes",
                        json_pack("{s:I, s:I}", "stored", (json_int_t)r->size.stored, "dense",
                                  (json_int_t)r->size.dense));
    json_object_set_new(report, "warnings",
                        r->ranks != NULL && r->job->state_ratio < 1.0
                            ? json_pack("[s]", state_ratio_warning)
                            : json_array());
    if (r->ranks != NULL && r->policy != MP_RANKS_UNIFORM)
        json_object_set_new(report, "search_retries", json_integer((json_int_t)r->search_retries));
    if (r->sensitivity != NULL) json_object_set(report, "sensitivity", r->sensitivity);
    json_object_set_new(report, "resumed_blocks", json_integer((json_int_t)r->kept_blocks));
    json_object_set_new(report, "phases", phases_json(s)); /* of this run, not of those before */
    json_object_set_new(report, "bytes_moved", json_integer((json_int_t)moved));
    json_object_set_new(report, "peak_bytes", json_integer((json_int_t)peak));
    MP_GO(mp_json_dump(report, 0, &text));
    MP_GO(mp_path_join(r->job->out, "report.json", &path));
    MP_GO(mp_checkpoint_check_owner(r->checkpoint));
    MP_GO(mp_file_write(path, text, strlen(text)));
out:
    json_decref(report);
    mp_free(path);
    mp_free(text);
    return st;
}

mp_status report_write(const run *r)
{
    mp_clock_summary s;
    int64_t moved = mp_comm_bytes_moved(), peak, node_bytes;

    MP_TRY(mp_clock_gather(r->comm, &r->runner.clock, &s));
    MP_TRY(mp_comm_sum_int(r->comm, &moved, 1));
    MP_TRY(mp_comm_peak_bytes(r->comm, &peak, &node_bytes));
    return mp_comm_agree(r->comm, r->comm->rank == 0 ? write_report(r, &s, moved, peak) : MP_OK);
}

mp_status report_finish(const run *r)
{
    int64_t moved = mp_comm_bytes_moved(), peak, node_bytes;
    char took[32], bytes[32];

    mp_progress_end();
    MP_TRY(report_write(r));
    MP_TRY(mp_comm_sum_int(r->comm, &moved, 1));
    MP_TRY(mp_comm_peak_bytes(r->comm, &peak, &node_bytes));
    if (r->before.windows > 0)
        mp_log(MP_LOG_INFO, "perplexity %.4f before, %.4f after, on %lld windows of %lld tokens",
               r->before.perplexity, r->after.perplexity, (long long)r->evaluation.count,
               (long long)r->evaluation.seqlen);
    if (r->size.n_factored > 0)
        mp_log(MP_LOG_INFO,
               "factored %.1f MB, for transformers with trust_remote_code; dense %.1f MB",
               1e-6 * (double)r->size.stored, 1e-6 * (double)r->size.dense);
    mp_log(MP_LOG_INFO, "%s: done in %s, peak %s on all ranks%s", r->job->out,
           mp_duration(mp_seconds() - r->started, took), mp_memory_text(peak, bytes),
           r->job->no_export ? "" : ", Hugging Face directory in hf/");
    return report_event(r, "finished",
                        json_pack("{s:o, s:o, s:I, s:I}", "perplexity_before",
                                  perplexity_of(&r->before), "perplexity_after",
                                  perplexity_of(&r->after), "bytes_moved", (json_int_t)moved,
                                  "peak_bytes", (json_int_t)peak));
}
