/* What a rank has in memory at its worst moment (forecast.h). */
#include "mpress/forecast.h"

#include "mpress/memory.h"
#include "solve.h"

#include <string.h>

enum { MOST_NODES = 4096 };

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Bytes of a matrix of the state's order on this rank. */
static mp_status tile_bytes(const mp_forecast_job *job, const mp_comm *comm, int state,
                            mp_grid grid, int64_t *bytes)
{
    int64_t nb = job->options->blocksize;
    int64_t order = (job->arch->states[state].width + nb - 1) / nb * nb;
    mp_dmat *m = NULL;

    MP_TRY(mp_dmat_create(comm, grid, order, nb, &m));
    *bytes = 8 * m->local_rows * m->local_cols;
    mp_dmat_free(m);
    return MP_OK;
}

/* Room that is made once for all blocks: created and given back, so that it is what the run creates.  Its
 * pages are never touched. */
static mp_status scratch_bytes(const mp_forecast_job *job, const mp_comm *comm, int64_t *bytes)
{
    int64_t widths[MP_MAX_STATES], before = mp_memory_bytes();
    mp_moment_scratch *scratch = NULL;
    mp_forward *forward = NULL;
    mp_status st;

    for (int s = 0; s < job->arch->n_states; s++) widths[s] = job->arch->states[s].width;
    MP_GO(mp_forward_create(job->arch, job->seqlen, &forward));
    MP_GO(mp_moment_scratch_create(comm, widths, job->arch->n_states, job->options->blocksize,
                                   job->seqlen, &scratch));
    *bytes = mp_memory_bytes() - before;
out:
    mp_forward_free(forward);
    mp_moment_scratch_free(scratch);
    return st;
}

/* This rank's rows of a state's linear maps before and after, in strips; of factors also the two products
 * that an eigenproblem takes. */
static int64_t row_bytes(const mp_forecast_job *job, const mp_comm *comm, int state)
{
    const mp_state *s = &job->arch->states[state];
    int64_t nb = job->options->blocksize, order = (s->width + nb - 1) / nb * nb;
    int64_t strips = 0, factors = 0;

    for (int i = s->first_linear; i < s->first_linear + s->linear_count; i++) {
        const mp_linear_row *row = &job->arch->linears[i];
        int64_t begin, end, least = row->d_out < row->d_in ? row->d_out : row->d_in;

        mp_share(row->d_out, MP_STRIP, comm->rank, comm->size, &begin, &end);
        strips += (end - begin + MP_STRIP - 1) / MP_STRIP;
        if (job->method->factorise != NULL)
            factors =
                larger(factors, 8 * (2 * row->d_out * row->d_in + 2 * least * least) / comm->size);
    }
    return larger(2 * 4 * strips * MP_STRIP * order, factors);
}

/* The states of this rank's windows that linear order keeps from one map to the next. */
static int64_t kept_bytes(const mp_forecast_job *job, int64_t local)
{
    int64_t widest = 0;

    for (int s = 0; s < job->arch->n_states && job->order == MP_ORDER_LINEAR; s++)
        if (!job->arch->states[s].normalised) widest = larger(widest, job->arch->states[s].width);
    return 4 * local * job->seqlen * widest;
}

/* The moments of a block on this rank: where they grow, and where they are factorised. */
static mp_status moment_bytes(const mp_forecast_job *job, const mp_comm *comm, const mp_grid *grids,
                              int64_t *grown, int64_t *factorised)
{
    for (int s = 0; s < job->arch->n_states; s++) {
        MP_TRY(tile_bytes(job, comm, s, mp_grid_of(0, comm->size), &grown[s]));
        MP_TRY(tile_bytes(job, comm, s, grids[s], &factorised[s]));
        grown[s] *= job->batch;
        factorised[s] *= job->batch;
    }
    return MP_OK;
}

static void keep_worst(mp_forecast_memory *m, int64_t moments, int64_t rows)
{
    if (moments + rows <= m->moments + m->rows) return;
    m->moments = moments;
    m->rows = rows;
}

/* Moments and rows at their worst: while one matrix after another moves to its grid and stands twice, or
 * while the states are solved one after another and those behind them wait.  In linear order each state has
 * its moment alone. */
static mp_status solve_bytes(const mp_forecast_job *job, const mp_comm *comm, const mp_grid *grids,
                             mp_forecast_memory *m)
{
    const int n = job->arch->n_states, in_turn = job->order == MP_ORDER_LINEAR;
    int64_t grown[MP_MAX_STATES] = {0}, factorised[MP_MAX_STATES] = {0}, waiting = 0, all = 0;

    if (job->windows > 0) MP_TRY(moment_bytes(job, comm, grids, grown, factorised));
    for (int s = 0; s < n; s++) all += grown[s];
    for (int s = 0; s < n; s++) {
        int moves = grown[s] != factorised[s];

        keep_worst(m, (in_turn ? grown[s] : all) + (moves ? factorised[s] : 0), 0);
        all += factorised[s] - grown[s];
    }
    for (int s = n - 1; s >= 0; s--) {
        waiting = factorised[s] + (in_turn ? 0 : waiting);
        keep_worst(m, waiting, row_bytes(job, comm, s));
    }
    return MP_OK;
}

static mp_status memory_of_rank(const mp_forecast_job *job, int64_t base, const mp_comm *comm,
                                const mp_grid *grids, mp_forecast_memory *m)
{
    int64_t local = (job->windows - comm->rank + comm->size - 1) / comm->size;
    int64_t widest = job->arch->d_model, nb = job->options->blocksize;

    *m = (mp_forecast_memory){.base = base,
                              .weights = job->batch * (int64_t)mp_block_bytes(job->arch)};
    for (int s = 0; s < job->arch->n_states; s++)
        widest = larger(widest, job->arch->states[s].width);
    MP_TRY(solve_bytes(job, comm, grids, m));
    if (job->windows > 0) {
        MP_TRY(scratch_bytes(job, comm, &m->buffers));
        m->hidden = 4 * local * job->seqlen * job->arch->d_model + kept_bytes(job, local);
        m->buffers += 3 * 4 * job->seqlen * widest + 3 * 4 * nb * widest;
    }
    m->rank = m->base + m->hidden + m->moments + m->rows + m->buffers;
    return MP_OK;
}

mp_status mp_forecast_memory_of(const mp_forecast_job *job, int64_t base, mp_forecast *f)
{
    mp_grid grids[MP_MAX_STATES];
    int64_t node = 0;
    mp_status st = MP_OK;

    MP_TRY(forecast_grids(job, grids));
    memset(&f->memory, 0, sizeof f->memory);
    f->node_bytes = 0;
    for (int r = 0; r < job->size && st == MP_OK; r++) {
        mp_forecast_memory one;
        mp_comm *comm = NULL;

        MP_TRY(mp_comm_create_dry(r, job->size, job->per_node, &comm));
        st = memory_of_rank(job, base, comm, grids, &one);
        node = (comm->node_rank == 0 ? one.weights : node) + one.rank;
        f->node_bytes = larger(f->node_bytes, node);
        if (one.rank > f->memory.rank) f->memory = one;
        mp_comm_free(comm);
    }
    return st;
}

int64_t mp_forecast_rank_bytes(const mp_forecast_job *job, const mp_forecast *f)
{
    int sharing = job->size < job->per_node ? job->size : job->per_node;

    return f->memory.rank + f->memory.weights / sharing;
}

static mp_status fits_nodes(const mp_forecast_job *job, int64_t base, int64_t limit, int nodes,
                            int *fits)
{
    mp_forecast_job wider = *job;
    mp_forecast f;

    wider.size = nodes * job->per_node;
    MP_TRY(mp_forecast_memory_of(&wider, base, &f));
    *fits = mp_forecast_rank_bytes(&wider, &f) <= limit;
    return MP_OK;
}

/* Memory falls with the number of nodes: doubled until it fits, then halved back. */
mp_status mp_forecast_nodes(const mp_forecast_job *job, int64_t base, int64_t limit, int *nodes)
{
    int low = 0, high = 1, fits = 0;

    *nodes = 0;
    for (;; high *= 2) {
        MP_TRY(fits_nodes(job, base, limit, high, &fits));
        if (fits || high >= MOST_NODES) break;
        low = high;
    }
    while (fits && high - low > 1) {
        int middle = low + (high - low) / 2, enough;

        MP_TRY(fits_nodes(job, base, limit, middle, &enough));
        *(enough ? &high : &low) = middle;
    }
    if (fits) *nodes = high;
    return MP_OK;
}
