/* What a rank has in memory at its worst moment (forecast.h). */
#include "mpress/forecast.h"

#include "mpress/memory.h"
#include "mpress/perplexity.h"
#include "mpress/plan.h"
#include "solve.h"

#include <math.h>
#include <string.h>

enum {
    MOST_NODES = 4096,
    MOST_RANKS = 1 << 20 /* as of --ranks */
};

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* What all ranks of a job have in common. */
typedef struct setting {
    const mp_forecast_job *job;
    int64_t base, weights; /* of a rank without a model; of a node */
    int64_t buffers;       /* made once for all blocks, and those of a window */
    mp_grid everybody;
    int units;                                   /* states of all blocks of a batch */
    mp_grid grids[MP_MAX_BATCH * MP_MAX_STATES]; /* [units] */
} setting;

static int64_t buffer_bytes(const mp_forecast_job *job)
{
    int64_t widths[MP_MAX_STATES], widest = job->arch->d_model, nb = job->options->blocksize;

    for (int s = 0; s < job->arch->n_states; s++) {
        widths[s] = job->arch->states[s].width;
        widest = larger(widest, widths[s]);
    }
    return mp_forward_bytes(job->arch, job->seqlen, 0) +
           mp_moment_scratch_bytes(job->size, widths, job->arch->n_states, nb, job->seqlen) +
           3 * 4 * (job->seqlen + nb) * widest;
}

/* What the ranks of a node share: blocks under work or, before and after, what an evaluation has. */
static int64_t shared_bytes(const mp_forecast_job *job)
{
    int64_t blocks = job->batch * (int64_t)mp_block_bytes(job->arch);

    if (job->eval_windows == 0) return blocks;
    return larger(blocks, (int64_t)mp_perplexity_shared_bytes(job->arch));
}

static mp_status set_out(const mp_forecast_job *job, int64_t base, setting *s)
{
    *s = (setting){.job = job,
                   .base = base,
                   .weights = shared_bytes(job),
                   .buffers = job->windows > 0 ? buffer_bytes(job) : 0,
                   .everybody = mp_grid_of(0, job->size),
                   .units = job->batch * job->arch->n_states};
    return forecast_grids(job, job->batch, s->grids);
}

/* Bytes of a matrix of the state's order on a rank. */
static mp_status tile_bytes(const mp_forecast_job *job, int rank, int state, const mp_grid *grid,
                            int64_t *bytes)
{
    int64_t rows, cols;

    MP_TRY(mp_grid_share(grid, rank, forecast_order(job, state), job->options->blocksize, &rows,
                         &cols));
    *bytes = 8 * rows * cols;
    return MP_OK;
}

/* This rank's rows of a state's linear maps before and after, in strips, with their grids. */
static int64_t row_bytes(const mp_forecast_job *job, int rank, int state)
{
    const mp_state *s = &job->arch->states[state];
    const mp_quant *quant = &job->options->quant;
    int64_t strips = 0, row = 2 * 4 * forecast_order(job, state);

    if (quant->bits > 0) row += 2 * 4 * mp_quant_groups(quant, s->width); /* scale, zero point */
    for (int i = s->first_linear; i < s->first_linear + s->linear_count; i++) {
        int64_t begin, end;

        mp_share(job->arch->linears[i].d_out, MP_STRIP, rank, job->size, &begin, &end);
        strips += (end - begin + MP_STRIP - 1) / MP_STRIP;
    }
    return strips * MP_STRIP * row;
}

/* Factors of a state's linear maps on a rank of their grid, and what the map under work takes beside them:
 * its two products with the moment, and two matrices of its smaller side. */
static int64_t factor_bytes(const setting *set, int rank, int unit, int64_t *under_work)
{
    const mp_forecast_job *job = set->job;
    const mp_state *s = &job->arch->states[unit % job->arch->n_states];
    const mp_grid *grid = &set->grids[unit];
    int64_t ranks = grid->rows * grid->cols, factors = 0;

    *under_work = 0;
    if (job->method->factorise == NULL || !mp_grid_holds(grid, rank)) return 0;
    for (int i = s->first_linear; i < s->first_linear + s->linear_count; i++) {
        const mp_linear_row *map = &job->arch->linears[i];
        int64_t least = map->d_out < map->d_in ? map->d_out : map->d_in;

        factors += 8 * job->ranks[i] * (map->d_out + map->d_in) / ranks;
        *under_work =
            larger(*under_work, 8 * (2 * map->d_out * map->d_in + 2 * least * least) / ranks);
    }
    return factors;
}

/* The states of this rank's windows that linear order keeps from one map to the next. */
static int64_t kept_bytes(const mp_forecast_job *job, int64_t local)
{
    int64_t widest = 0;

    for (int s = 0; s < job->arch->n_states && job->order == MP_ORDER_LINEAR; s++)
        if (!job->arch->states[s].normalised) widest = larger(widest, job->arch->states[s].width);
    return 4 * local * job->seqlen * widest;
}

/* The moment of a unit on a rank: where it grows, and where it is factorised. */
typedef struct moment_share {
    int64_t grown, factorised;
} moment_share;

static mp_status moment_bytes(const setting *set, int rank, moment_share *share)
{
    for (int u = 0; u < set->units; u++) {
        int state = u % set->job->arch->n_states;

        share[u] = (moment_share){0, 0};
        if (set->job->windows == 0) continue;
        MP_TRY(tile_bytes(set->job, rank, state, &set->everybody, &share[u].grown));
        MP_TRY(tile_bytes(set->job, rank, state, &set->grids[u], &share[u].factorised));
    }
    return MP_OK;
}

static void keep_worst(mp_forecast_memory *m, int64_t moments, int64_t rows)
{
    if (moments + rows <= m->moments + m->rows) return;
    m->moments = moments;
    m->rows = rows;
}

/* While one matrix after another moves to its grid and stands twice; returns what stands then.  In linear
 * order each state has its moment alone. */
static int64_t moves(const setting *set, const moment_share *share, mp_forecast_memory *m)
{
    const int in_turn = set->job->order == MP_ORDER_LINEAR;
    int64_t all = 0;

    for (int u = 0; u < set->units; u++) all += share[u].grown;
    for (int u = 0; u < set->units; u++) {
        int differs = memcmp(&set->everybody, &set->grids[u], sizeof set->everybody) != 0;

        keep_worst(m, (in_turn ? share[u].grown : all) + (differs ? share[u].factorised : 0), 0);
        all += share[u].factorised - share[u].grown;
    }
    return all;
}

/* Moments and rows at their worst: while they move, while factors are found and kept, or while the states
 * are solved one after another and those behind them wait. */
static mp_status solve_bytes(const setting *set, int rank, mp_forecast_memory *m)
{
    const int n = set->job->arch->n_states, in_turn = set->job->order == MP_ORDER_LINEAR;
    moment_share share[MP_MAX_BATCH * MP_MAX_STATES];
    int64_t waiting = 0, factors = 0, under_work, all;

    MP_TRY(moment_bytes(set, rank, share));
    all = moves(set, share, m);
    for (int u = 0; u < set->units; u++) {
        factors = factor_bytes(set, rank, u, &under_work) + (in_turn ? 0 : factors);
        keep_worst(m, in_turn ? share[u].factorised : all, factors + under_work);
    }
    factors = 0;
    for (int u = set->units - 1; u >= 0; u--) {
        waiting = share[u].factorised + (in_turn ? 0 : waiting);
        factors = factor_bytes(set, rank, u, &under_work) + (in_turn ? 0 : factors);
        keep_worst(m, waiting, factors + row_bytes(set->job, rank, u % n));
    }
    return MP_OK;
}

/* Windows of `windows` that a rank has: rank r those r, r + size, ... */
static int64_t local_windows(const mp_forecast_job *job, int64_t windows, int rank)
{
    return (windows - rank + job->size - 1) / job->size;
}

static mp_status memory_of_rank(const setting *set, int rank, mp_forecast_memory *m)
{
    const mp_forecast_job *job = set->job;
    int64_t local = local_windows(job, job->windows, rank);

    *m = (mp_forecast_memory){.base = set->base, .weights = set->weights, .buffers = set->buffers};
    MP_TRY(solve_bytes(set, rank, m));
    if (job->windows > 0)
        m->hidden = 4 * local * job->seqlen * job->arch->d_model + kept_bytes(job, local);
    if (job->eval_windows > 0)
        m->evaluation = mp_perplexity_rank_bytes(job->arch, job->eval_windows, job->eval_seqlen,
                                                 local_windows(job, job->eval_windows, rank));
    m->rank = m->base + larger(m->hidden + m->moments + m->rows + m->buffers, m->evaluation);
    return MP_OK;
}

mp_status mp_forecast_memory_at(const mp_forecast_job *job, int64_t base, int rank,
                                mp_forecast_memory *memory)
{
    setting set;

    MP_TRY(set_out(job, base, &set));
    return memory_of_rank(&set, rank, memory);
}

mp_status mp_forecast_memory_of(const mp_forecast_job *job, int64_t base, mp_forecast *f)
{
    int64_t node = 0;
    setting set;

    memset(&f->memory, 0, sizeof f->memory);
    f->node_bytes = 0;
    MP_TRY(set_out(job, base, &set));
    for (int r = 0; r < job->size; r++) {
        mp_forecast_memory one;

        MP_TRY(memory_of_rank(&set, r, &one));
        node = (r % job->per_node == 0 ? one.weights : node) + one.rank;
        f->node_bytes = larger(f->node_bytes, node);
        if (one.rank > f->memory.rank) f->memory = one;
    }
    return MP_OK;
}

/* *most, where `rank` or another from first on needs more at the start of a row of the grid. */
static mp_status look_at_rows(const setting *set, const mp_grid *grid, mp_forecast_memory *most)
{
    for (int row = 0; row < grid->rows; row++) {
        mp_forecast_memory one;

        MP_TRY(memory_of_rank(set, grid->first + row * grid->cols, &one));
        if (one.rank > most->rank) *most = one;
    }
    return MP_OK;
}

/* The rank that needs most.  From one rank to the next every part stays or falls (shares of windows and rows
 * are given out longest first, and so are tiles along a row of a grid), but where a row of one of the grids
 * begins: no other rank is looked at. */
static mp_status worst_rank(const setting *set, mp_forecast_memory *most)
{
    MP_TRY(memory_of_rank(set, 0, most));
    MP_TRY(look_at_rows(set, &set->everybody, most));
    for (int u = 0; u < set->units; u++) MP_TRY(look_at_rows(set, &set->grids[u], most));
    return MP_OK;
}

int64_t mp_forecast_rank_bytes(const mp_forecast_job *job, const mp_forecast *f)
{
    int sharing = job->size < job->per_node ? job->size : job->per_node;

    return f->memory.rank + f->memory.weights / sharing;
}

int64_t mp_forecast_floor(const mp_forecast_job *job, int64_t base)
{
    mp_forecast_job alone = *job;

    alone.size = 1;
    return base + (job->windows > 0 ? buffer_bytes(&alone) : 0) + shared_bytes(job) / job->per_node;
}

/* A matrix that no call of a library could count does not fit either. */
static mp_status fits_limit(const mp_forecast_job *job, int64_t base, int64_t limit, int *fits)
{
    mp_forecast f;
    setting set;
    mp_status st;

    *fits = 0;
    MP_TRY(set_out(job, base, &set));
    st = worst_rank(&set, &f.memory);
    if (st == MP_ERR_NOFIT) return MP_OK;
    *fits = st == MP_OK && mp_forecast_rank_bytes(job, &f) <= limit;
    return st;
}

static mp_status fits_nodes(const mp_forecast_job *job, int64_t base, int64_t limit, int nodes,
                            int *fits)
{
    mp_forecast_job wider = *job;

    wider.size = nodes * job->per_node;
    return fits_limit(&wider, base, limit, fits);
}

int mp_forecast_most_nodes(const mp_forecast_job *job)
{
    const int most = MOST_RANKS / job->per_node;

    return most > MOST_NODES ? MOST_NODES : most > 1 ? most : 1;
}

/* Memory falls with the number of nodes: doubled until it fits, then halved back. */
mp_status mp_forecast_nodes(const mp_forecast_job *job, int64_t base, int64_t limit, int *nodes)
{
    const int most = mp_forecast_most_nodes(job);
    int low = 0, high = 1, fits = 0;

    *nodes = 0;
    if (mp_forecast_floor(job, base) > limit) return MP_OK;
    for (;; high = high < most / 2 ? 2 * high : most) {
        MP_TRY(fits_nodes(job, base, limit, high, &fits));
        if (fits || high >= most) break;
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

mp_status mp_forecast_batch(const mp_forecast_job *job, int64_t base, int64_t limit, double free,
                            int *batch)
{
    int sharing = job->size < job->per_node ? job->size : job->per_node;
    const mp_plan_host host = {
        .size = job->size, .ranks = sharing, .sharing = sharing, .memory = free, .room = INFINITY};
    mp_forecast_job tried = *job;
    int fits = limit == 0;

    *batch = 1;
    if (job->order != MP_ORDER_DENSE || job->method->factorise == NULL) return MP_OK;
    tried.batch = mp_plan_batch_of(job->arch, &host, job->arch->n_blocks);
    while (!fits && tried.batch > 1) {
        MP_TRY(fits_limit(&tried, base, limit, &fits));
        if (!fits) tried.batch--;
    }
    *batch = tried.batch;
    return MP_OK;
}
