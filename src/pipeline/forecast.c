/* Work, messages and files of a run that is thought of (forecast.h). */
#include "mpress/forecast.h"

#include "mpress/dlinalg.h"
#include "mpress/memory.h"
#include "mpress/plan.h"
#include "solve.h"

#include <math.h>
#include <string.h>

/* Nothing is skipped. */
static const int none_skipped[MP_MAX_LINEARS];

static int64_t rounds_of(const mp_forecast_job *job)
{
    return (job->windows + job->size - 1) / job->size;
}

/* Rows of a linear map on the rank that has most. */
static double most_rows(const mp_forecast_job *job, const mp_linear_row *row)
{
    int64_t begin, end;

    mp_share(row->d_out, MP_STRIP, 0, job->size, &begin, &end);
    return (double)(end - begin);
}

mp_status forecast_grids(const mp_forecast_job *job, int count, mp_grid *grids)
{
    const int64_t *ranks = job->method->factorise != NULL ? job->ranks : NULL;
    const int n = job->arch->n_states, together = job->order == MP_ORDER_LINEAR ? 1 : count * n;
    mp_plan_task tasks[MP_MAX_BATCH * MP_MAX_STATES];

    for (int u = 0; u < count * n; u++)
        tasks[u] = mp_plan_state(job->arch, u % n, none_skipped, ranks);
    for (int u = 0; u < count * n; u += together)
        MP_TRY(mp_plan_grids(tasks + u, together, job->size, grids + u));
    return MP_OK;
}

int64_t forecast_order(const mp_forecast_job *job, int state)
{
    int64_t nb = job->options->blocksize;

    return (job->arch->states[state].width + nb - 1) / nb * nb;
}

/* Products with H for the error of a linear map: of the dense weights and, where the method does not know what
 * it has lost, of the difference.  Whatever rounds to grids knows it of F32 alone. */
static int products_of(const mp_forecast_job *job)
{
    const int is_exact = job->options->quant.bits == 0 || job->arch->dtype == MP_F32;

    if (job->windows == 0) return 0;
    return job->method->knows_loss && is_exact ? 1 : 2;
}

/* Blocks that are solved side by side, and how often there are so many. */
typedef struct batch {
    int count;
    int64_t times;
    mp_grid grids[MP_MAX_BATCH * MP_MAX_STATES]; /* [count][n_states] */
} batch;

/* What is counted of a job, and from where on it is. */
typedef struct traffic {
    int64_t *moved, *crossed; /* [MP_PHASE_COUNT] */
    int64_t moved_before, crossed_before;
} traffic;

static traffic count_into(int64_t *moved, int64_t *crossed)
{
    return (traffic){moved, crossed, mp_comm_bytes_moved(), mp_comm_bytes_crossed()};
}

/* What was sent since the start of the count belongs to `phase`, `times` over; it is taken off the counts of
 * the process again: nobody has sent it. */
static void take_count(const traffic *t, mp_phase phase, int64_t times)
{
    int64_t moved = mp_comm_bytes_moved() - t->moved_before;
    int64_t crossed = mp_comm_bytes_crossed() - t->crossed_before;

    mp_comm_count_bytes(-moved, -crossed);
    t->moved[phase] += times * moved;
    t->crossed[phase] += times * crossed;
}

static mp_status count_streams(const mp_dmat *matrix, mp_half half, int times, mp_phase phase,
                               const traffic *t)
{
    int64_t length;
    mp_stream *stream = NULL;
    mp_status st = MP_OK;
    float *column;

    if (times == 0) return MP_OK;
    MP_TRY(mp_stream_create(matrix, half, matrix->tiles - 1, -1, &stream));
    for (int64_t tile = 0; tile < matrix->tiles && st == MP_OK; tile++)
        st = mp_stream_next(stream, &column, &length);
    mp_stream_free(stream);
    take_count(t, phase, times);
    return st;
}

static mp_status count_merge(const mp_forecast_job *job, mp_moment *moment, int times,
                             const traffic *t)
{
    MP_TRY(mp_moment_add_dry(moment, job->size));
    take_count(t, MP_PHASE_MERGE, times * (job->windows / job->size));
    MP_TRY(mp_moment_add_dry(moment, (int)(job->windows % job->size)));
    take_count(t, MP_PHASE_MERGE, times);
    return MP_OK;
}

/* The linear maps of a state, from the ranks that have them to all nodes. */
static mp_status count_publish(const mp_forecast_job *job, const mp_comm *comm, int state,
                               int times, const traffic *t)
{
    const mp_state *s = &job->arch->states[state];

    for (int i = s->first_linear; i < s->first_linear + s->linear_count; i++) {
        const mp_linear_row *row = &job->arch->linears[i];

        if (job->method->factorise != NULL && job->ranks[i] > 0)
            MP_TRY(lowrank_share_factors(
                comm, NULL, mp_linear_parameters(row->d_out, row->d_in, job->ranks[i])));
        else if (job->options->quant.bits > 0)
            MP_TRY(packing_share_rows(
                comm, row->d_out,
                &(mp_packed){.quant = job->options->quant, .columns = row->d_in}));
        else if (job->method->factorise == NULL)
            MP_TRY(solve_share_rows(comm, row->d_out, row->d_in, NULL));
    }
    take_count(t, MP_PHASE_PUBLISH, times);
    return MP_OK;
}

/* The factorisation of a moment of a state on its grid, and what is streamed of it. */
static mp_status count_solve(const mp_forecast_job *job, const mp_comm *comm, int state,
                             mp_grid grid, const traffic *t)
{
    int64_t nb = job->options->blocksize, failed_at;
    mp_dmat *m = NULL;
    mp_status st;

    MP_TRY(mp_dmat_create(comm, grid, forecast_order(job, state), nb, &m));
    if (job->method->factor_flop > 0.0) MP_GO(mp_dmat_cholesky(m, &failed_at));
    take_count(t, MP_PHASE_FACTOR, 1);
    MP_GO(count_streams(m, MP_LOWER_HALF, job->method->streams, MP_PHASE_SWEEP, t));
    MP_GO(count_streams(m, MP_UPPER_HALF, products_of(job), MP_PHASE_ERROR, t));
out:
    mp_dmat_free(m);
    return st;
}

/* The messages of one rank for one state of the blocks of a batch, phase by phase. */
static mp_status count_state(const mp_forecast_job *job, const mp_comm *comm, int state,
                             const batch *b, const traffic *t)
{
    mp_moment *m = NULL;
    mp_status st;

    MP_TRY(count_publish(job, comm, state, b->count, t));
    if (job->windows == 0) return MP_OK;
    MP_TRY(mp_moment_create(comm, job->arch->states[state].width, job->options->blocksize, &m));
    MP_GO(count_merge(job, m, b->count, t));
    for (int k = 0; k < b->count; k++)
        MP_GO(count_solve(job, comm, state, b->grids[k * job->arch->n_states + state], t));
out:
    mp_moment_free(m);
    return st;
}

/* The moments of a batch from all ranks to their grids, which is counted for all ranks at once. */
static void count_collect(const mp_forecast_job *job, const mp_comm *comm, const batch *b,
                          const traffic *t)
{
    const mp_grid everybody = mp_grid_of(0, job->size);
    const int64_t nb = job->options->blocksize;

    for (int u = 0; u < b->count * job->arch->n_states && job->windows > 0; u++)
        mp_dmat_count_move(comm, &everybody, &b->grids[u],
                           forecast_order(job, u % job->arch->n_states) / nb, nb);
    take_count(t, MP_PHASE_COLLECT, 1);
}

/* All ranks, for one batch. */
static mp_status count_batch(const mp_forecast_job *job, const batch *b, mp_comm *comm,
                             mp_forecast *f)
{
    int64_t moved[MP_PHASE_COUNT] = {0}, crossed[MP_PHASE_COUNT] = {0};
    const traffic t = count_into(moved, crossed);

    count_collect(job, comm, b, &t);
    for (int r = 0; r < job->size; r++) {
        mp_comm_set_dry_rank(comm, r);
        for (int s = 0; s < job->arch->n_states; s++) MP_TRY(count_state(job, comm, s, b, &t));
    }
    for (int i = 0; i < MP_PHASE_COUNT; i++) {
        f->moved[i] += b->times * moved[i];
        f->crossed[i] += b->times * crossed[i];
    }
    return MP_OK;
}

/* The windows, which rank 0 embeds, and all blocks in batches, of which the last may be smaller. */
static mp_status count_messages(const mp_forecast_job *job, mp_forecast *f)
{
    const traffic t = count_into(f->moved, f->crossed);
    const int64_t blocks = job->arch->n_blocks;
    const int rest = (int)(blocks % job->batch);
    batch b = {.count = job->batch, .times = blocks / job->batch};
    mp_comm *comm = NULL;
    mp_status st;

    MP_TRY(mp_comm_create_dry(0, job->size, job->per_node, &comm));
    MP_GO(mp_hidden_embed_dry(comm, job->windows, job->seqlen, job->arch->d_model));
    take_count(&t, MP_PHASE_EMBED, 1);
    MP_GO(forecast_grids(job, b.count, b.grids));
    if (b.times > 0) MP_GO(count_batch(job, &b, comm, f));
    if (rest == 0) goto out;
    b.count = rest;
    b.times = 1;
    MP_GO(forecast_grids(job, b.count, b.grids));
    MP_GO(count_batch(job, &b, comm, f));
out:
    mp_comm_free(comm);
    return st;
}

/* Flop of the forward passes of one window through all blocks. */
static double forward_flop(const mp_forecast_job *job)
{
    const mp_arch *arch = job->arch;
    double blocks = (double)arch->n_blocks, linears, attention, whole, last = 0.0;

    mp_forward_flops(arch, job->seqlen, &linears, &attention);
    whole = linears + attention;
    for (int i = 0; i < arch->n_linears; i++)
        if (arch->linears[i].state == arch->n_states - 1)
            last += 2.0 * (double)job->seqlen *
                    (double)(arch->linears[i].d_out * arch->linears[i].d_in);
    if (job->order == MP_ORDER_DENSE) return blocks * whole;
    if (job->order == MP_ORDER_LINEAR) return blocks * whole - last;
    return blocks * (whole - last) + (blocks - 1.0) * whole;
}

/* Flop of the factorisations of a block on the rank that has most of those of a batch. */
static double factor_flop(const mp_forecast_job *job, const mp_grid *grids)
{
    const int64_t *ranks = job->method->factorise != NULL ? job->ranks : NULL;
    const int n = job->arch->n_states;
    double most = 0.0, work[MP_MAX_STATES];

    if (job->method->factor_flop == 0.0 && ranks == NULL) return 0.0;
    for (int s = 0; s < n; s++) work[s] = mp_plan_state(job->arch, s, none_skipped, ranks).work;
    for (int r = 0; r < job->size; r++) {
        double mine = 0.0;

        for (int u = 0; u < job->batch * n; u++)
            if (mp_grid_holds(&grids[u], r))
                mine += work[u % n] / (double)(grids[u].rows * grids[u].cols);
        if (mine > most) most = mine;
    }
    return most / job->batch;
}

/* What the linear maps of one block take on the rank with most rows. */
static void work_on_rows(const mp_forecast_job *job, double *work)
{
    const mp_method *method = job->method;
    const double products = (double)products_of(job);

    for (int i = 0; i < job->arch->n_linears; i++) {
        const mp_linear_row *row = &job->arch->linears[i];
        double rows = most_rows(job, row), n = (double)row->d_in;

        work[MP_PHASE_SWEEP] +=
            rows * n * (method->sweep_flop > 0.0 ? method->sweep_flop * n : 1.0);
        work[MP_PHASE_ERROR] += products * rows * n * n;
        work[MP_PHASE_PUBLISH] += 4.0 * rows * n;
    }
}

/* What the statistics of one block take on a rank. */
static void work_on_moments(const mp_forecast_job *job, double *work)
{
    const double rounds = (double)rounds_of(job), tokens = rounds * (double)job->seqlen;

    for (int s = 0; s < job->arch->n_states; s++) {
        double n = (double)job->arch->states[s].width;

        work[MP_PHASE_MOMENT] += tokens * n * n;
        work[MP_PHASE_MERGE] += rounds * 4.0 * n * n;
        work[MP_PHASE_COLLECT] += 8.0 * n * n / job->size;
    }
}

static int64_t tensor_bytes(const mp_arch *arch, int64_t numbers)
{
    return numbers * (int64_t)mp_dtype_size(arch->dtype);
}

/* Bytes of a linear map's weight as it is stored: dense, factors, or codes with their grids. */
static int64_t weight_bytes(const mp_forecast_job *job, int i)
{
    const mp_linear_row *row = &job->arch->linears[i];
    const mp_quant *quant = &job->options->quant;
    int64_t groups;

    if (job->method->factorise != NULL)
        return tensor_bytes(job->arch, mp_linear_parameters(row->d_out, row->d_in, job->ranks[i]));
    if (quant->bits == 0) return tensor_bytes(job->arch, row->d_out * row->d_in);
    groups = row->d_out * mp_quant_groups(quant, row->d_in);
    return 4 * row->d_out * mp_packed_words(quant->bits, row->d_in) +
           tensor_bytes(job->arch, groups) + (quant->symmetric ? 0 : groups);
}

/* Bytes of one block as it is stored, and of its masks. */
static void stored_bytes(const mp_forecast_job *job, int64_t *tensors, int64_t *masks)
{
    const mp_arch *arch = job->arch;

    *masks = 0;
    *tensors = tensor_bytes(arch, mp_arch_block_parameters(arch) - mp_arch_linear_parameters(arch));
    for (int i = 0; i < arch->n_linears; i++) {
        *tensors += weight_bytes(job, i);
        if (job->method->prunes)
            *masks += arch->linears[i].d_out * ((arch->linears[i].d_in + 7) / 8);
    }
}

static void count_files(const mp_forecast_job *job, mp_forecast *f)
{
    const mp_arch *arch = job->arch;
    int64_t tensors, masks, matrix = arch->vocabulary * arch->d_model;
    int64_t outside = tensor_bytes(arch, arch->d_model + matrix * (arch->tied_head ? 1 : 2));
    int64_t dense = tensor_bytes(arch, mp_arch_block_parameters(arch));
    double ranks = (double)job->size, blocks = (double)arch->n_blocks;

    stored_bytes(job, &tensors, &masks);
    f->hidden_bytes = job->windows * job->seqlen * arch->d_model * 4;
    f->read_bytes = outside + arch->n_blocks * dense;
    f->checkpoint_bytes = outside + arch->n_blocks * (tensors + masks);
    f->hf_bytes = job->exports ? outside + arch->n_blocks * tensors : 0;
    f->files = 2 * arch->n_blocks; /* a block, and the journal that names it */
    f->work[MP_PHASE_START] = 2.0 * (double)outside / ranks;
    f->work[MP_PHASE_READ] = blocks * (double)dense / job->per_node;
    f->work[MP_PHASE_EMBED] = (double)f->hidden_bytes;
    f->work[MP_PHASE_WRITE] = blocks * (double)(tensors + masks) / ranks;
    f->work[MP_PHASE_EXPORT] = 2.0 * (double)f->hf_bytes / ranks;
}

mp_status mp_forecast_run(const mp_forecast_job *job, mp_forecast *f)
{
    const double blocks = (double)job->arch->n_blocks;
    mp_grid grids[MP_MAX_BATCH * MP_MAX_STATES];

    memset(f, 0, sizeof *f);
    MP_TRY(count_messages(job, f));
    MP_TRY(forecast_grids(job, job->batch, grids));
    work_on_rows(job, f->work);
    if (job->windows > 0) {
        work_on_moments(job, f->work);
        f->work[MP_PHASE_FACTOR] = factor_flop(job, grids);
    }
    for (int i = 0; i < MP_PHASE_COUNT; i++) f->work[i] *= blocks;
    if (job->windows > 0) f->work[MP_PHASE_FORWARD] = (double)rounds_of(job) * forward_flop(job);
    count_files(job, f);
    return MP_OK;
}

/* One phase, without what hidden states take on their way to disk. */
static double phase_seconds(const mp_forecast_job *job, const mp_forecast *f, const mp_rates *rates,
                            int phase)
{
    const int nodes = (job->size + job->per_node - 1) / job->per_node;
    double seconds = f->work[phase] > 0.0 ? f->work[phase] / rates->rate[phase] : 0.0;

    /* what comes into a node; the windows all leave that of rank 0 */
    return seconds + (double)f->crossed[phase] / (phase == MP_PHASE_EMBED ? 1 : nodes) / rates->net;
}

static double save_seconds(const mp_forecast_job *job, const mp_forecast *f, const mp_rates *rates)
{
    return (double)f->hidden_bytes / job->size / rates->rate[MP_PHASE_WRITE] + rates->sync;
}

int64_t mp_forecast_saves(const mp_forecast_job *job, const mp_forecast *f, const mp_rates *rates)
{
    const int64_t batches = (job->arch->n_blocks + job->batch - 1) / job->batch;
    double all = 0.0, every;

    if (f->hidden_bytes == 0 || batches < 2) return 0;
    for (int i = MP_PHASE_READ; i < MP_PHASE_WRITE; i++)
        if (i != MP_PHASE_EMBED) all += phase_seconds(job, f, rates, i);
    every = ceil(100.0 / MP_SAVE_PERCENT * save_seconds(job, f, rates) *
                 (double)job->arch->n_blocks / all / job->batch);
    /* after the first batch, then after every so many, but never after the last */
    return 1 + (int64_t)((double)(batches - 2) / fmax(every, 1.0));
}

double mp_forecast_seconds(const mp_forecast_job *job, const mp_forecast *f, const mp_rates *rates,
                           double seconds[MP_PHASE_COUNT])
{
    double sum = 0.0;

    for (int i = 0; i < MP_PHASE_COUNT; i++) seconds[i] = phase_seconds(job, f, rates, i);
    seconds[MP_PHASE_START] += rates->start;
    seconds[MP_PHASE_WRITE] +=
        (double)f->files * rates->sync +
        (double)mp_forecast_saves(job, f, rates) * save_seconds(job, f, rates);
    for (int i = 0; i < MP_PHASE_COUNT; i++) sum += seconds[i];
    return sum;
}
