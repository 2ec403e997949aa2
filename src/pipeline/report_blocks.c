/* What a run tells of blocks that are done: a line for people, and a line of log.jsonl. */
#include "run.h"

#include "mpress/log.h"
#include "mpress/memory.h"

#include <math.h>
#include <stdio.h>

/* The phases since the last block: what they took, and their share of the GEMM rate. */
static void since_last_block(run *r, mp_clock *delta)
{
    for (int i = 0; i < MP_PHASE_COUNT; i++) {
        delta->seconds[i] = r->runner.clock.seconds[i] - r->clock_before.seconds[i];
        delta->flop[i] = r->runner.clock.flop[i] - r->clock_before.flop[i];
        delta->moved[i] = r->runner.clock.moved[i] - r->clock_before.moved[i];
    }
    r->clock_before = r->runner.clock;
}

static double share_of_gemm(const run *r, const mp_clock_summary *s, mp_phase phase)
{
    if (s->max[phase] <= 0.0 || s->flop[phase] <= 0.0) return NAN;
    return s->flop[phase] / s->max[phase] / r->gemm_flops;
}

/* Which ranks factorised which states of a block: {"attn_in": [first, count]}. */
static json_t *groups_json(const run *r, const mp_linear_result *results)
{
    json_t *groups = json_object();

    for (int s = 0; s < r->arch.n_states; s++)
        for (int i = r->arch.states[s].first_linear, k = 0; k < r->arch.states[s].linear_count; k++)
            if (results[i + k].compressed && results[i + k].grid.rows > 0)
                json_object_set_new(groups, r->arch.states[s].name,
                                    json_pack("[i, i]", results[i + k].grid.first,
                                              results[i + k].grid.rows * results[i + k].grid.cols));
    return groups;
}

/* Seconds that each rank waited for other groups, an array on rank 0. */
static mp_status idle_json(const mp_comm *comm, double mine, json_t **all)
{
    double *seconds = NULL;
    mp_status st;

    MP_GO(mp_comm_agree(comm, MP_NEW(seconds, comm->size, "seconds of all ranks")));
    MP_GO(mp_mpi_check(MPI_Gather(&mine, 1, MPI_DOUBLE, seconds, 1, MPI_DOUBLE, 0, comm->mpi),
                       "seconds of all ranks"));
    *all = json_array();
    for (int i = 0; comm->rank == 0 && i < comm->size; i++)
        json_array_append_new(*all, json_real(seconds[i]));
out:
    mp_free(seconds);
    return st;
}

static json_t *block_figures(const run *r, int64_t first, int count, double seconds,
                             const mp_clock_summary *s, json_t *idle, int64_t node_bytes)
{
    json_t *phases = json_object(), *blocks = json_array();

    for (int i = 0; i < MP_PHASE_COUNT; i++)
        if (s->max[i] > 0.0)
            json_object_set_new(phases, mp_phase_name((mp_phase)i),
                                json_pack("{s:f, s:f, s:o}", "seconds", s->max[i], "least",
                                          s->min[i], "share",
                                          report_real(share_of_gemm(r, s, (mp_phase)i))));
    for (int64_t b = first; b < first + count; b++) {
        const mp_linear_result *results = r->results + b * r->arch.n_linears;
        json_t *errors = json_object();

        for (int i = 0; i < r->arch.n_linears; i++)
            json_object_set_new(errors, r->arch.linears[i].name, report_real(results[i].rel_error));
        json_array_append_new(
            blocks, json_pack("{s:I, s:o, s:o, s:o}", "block", (json_int_t)b, "rel_error", errors,
                              "groups", groups_json(r, results), "states", report_states(r, b, 1)));
    }
    return json_pack("{s:I, s:f, s:o, s:o, s:o, s:I}", "block", (json_int_t)(first + count - 1),
                     "wall_s", seconds, "phases", phases, "blocks", blocks, "idle_s", idle,
                     "node_peak_bytes", (json_int_t)node_bytes);
}

/* The mean relative error of the blocks' compressed linear maps; NaN without any. */
static double mean_error(const run *r, int64_t first, int blocks)
{
    const mp_linear_result *results = r->results + first * r->arch.n_linears;
    double sum = 0.0;
    int count = 0;

    for (int i = 0; i < blocks * r->arch.n_linears; i++)
        if (results[i].compressed && isfinite(results[i].rel_error)) {
            sum += results[i].rel_error;
            count++;
        }
    return count > 0 ? sum / count : NAN;
}

/* "forward 0.1s 80%, merge 0.3s, ..., " for the phases that count flop and those that take a tenth of the time,
 * and how long the ranks waited. */
static void phases_text(const run *r, const mp_clock_summary *s, double seconds, char text[512])
{
    size_t used = 0;

    text[0] = '\0';
    for (mp_phase phase = 0; phase < MP_PHASE_COUNT; phase++) {
        double share = share_of_gemm(r, s, phase);

        if (phase == MP_PHASE_IDLE || !(isfinite(share) || s->max[phase] >= 0.1 * seconds))
            continue;
        used += (size_t)snprintf(text + used, 512 - used, "%s %.1fs", mp_phase_name(phase),
                                 s->max[phase]);
        if (isfinite(share))
            used += (size_t)snprintf(text + used, 512 - used, " %.0f%%", 100.0 * share);
        used += (size_t)snprintf(text + used, 512 - used, ", ");
    }
    if (r->comm->size > 1 && s->max[MP_PHASE_IDLE] > 0.0)
        snprintf(text + used, 512 - used, "idle %.1f to %.1fs, ", s->min[MP_PHASE_IDLE],
                 s->max[MP_PHASE_IDLE]);
}

/* "attn_in on rank 0, attn_out on ranks 1-2": of one block. */
static void say_groups(const run *r, int64_t block)
{
    json_t *groups = groups_json(r, r->results + block * r->arch.n_linears), *range;
    char text[256] = "";
    const char *state;
    size_t used = 0;

    json_object_foreach (groups, state, range) {
        int first = (int)json_integer_value(json_array_get(range, 0));
        int count = (int)json_integer_value(json_array_get(range, 1));

        used += (size_t)snprintf(text + used, sizeof text - used,
                                 count > 1 ? "%s%s on ranks %d-%d" : "%s%s on rank %d",
                                 used > 0 ? ", " : "", state, first, first + count - 1);
    }
    if (used > 0) mp_log(MP_LOG_INFO, "  block %lld: %s", (long long)block + 1, text);
    json_decref(groups);
}

static void say_blocks(const run *r, int64_t first, int count, double seconds,
                       const mp_clock_summary *s, int64_t node_bytes)
{
    char text[512], which[64], took[32], left[32], memory[32], error[32] = "";
    double blocks = (double)r->arch.n_blocks, done = (double)(first + count);

    snprintf(which, sizeof which, count > 1 ? "blocks %lld-%lld" : "block %lld",
             (long long)first + 1, (long long)first + count);
    if (isfinite(mean_error(r, first, count)))
        snprintf(error, sizeof error, "error %.4f, ", mean_error(r, first, count));
    phases_text(r, s, seconds, text);
    mp_log(MP_LOG_INFO, "%s/%lld in %s: %s%s%s per node, ETA %s", which, (long long)blocks,
           mp_duration(seconds, took), error, text, mp_memory_text(node_bytes, memory),
           mp_duration(seconds / (double)count * (blocks - done), left));
    for (int64_t b = first; b < first + count && r->ranks != NULL && r->comm->size > 1; b++)
        say_groups(r, b);
}

mp_status report_blocks(run *r, int64_t first, int count, double seconds)
{
    mp_clock delta;
    mp_clock_summary s;
    int64_t job_bytes, node_bytes;
    json_t *idle;

    since_last_block(r, &delta);
    MP_TRY(mp_clock_gather(r->comm, &delta, &s));
    MP_TRY(mp_comm_peak_bytes(r->comm, &job_bytes, &node_bytes));
    if (mp_progress_is_shown())
        mp_progress((double)(first + count), (double)r->arch.n_blocks, "blocks");
    else
        say_blocks(r, first, count, seconds, &s, node_bytes);
    MP_TRY(idle_json(r->comm, delta.seconds[MP_PHASE_IDLE], &idle));
    return report_event(r, "block_done",
                        block_figures(r, first, count, seconds, &s, idle, node_bytes));
}
