/* Messages that are counted without being sent: as many bytes as are sent. */
#include "worker.h"

#include "mpress/dlinalg.h"
#include "mpress/forecast.h"
#include "mpress/memory.h"
#include "mpress/method.h"
#include "mpress/moment.h"
#include "mpress/rng.h"

#include <string.h>

enum { TILE = 16, TOKENS = 24 };

/* What `step` sends on the job itself and, on the same rank of one that does not run, what is counted. */
static mp_status compare(const mp_comm *c, mp_status (*step)(const mp_comm *, int64_t), int64_t n)
{
    mp_comm *dry = NULL;
    int64_t sent = mp_comm_bytes_moved(), counted;

    MP_TRY(step(c, n));
    sent = mp_comm_bytes_moved() - sent;
    MP_TRY(mp_comm_create_dry(c->rank, c->size, c->node_size, &dry));
    MP_EXPECT(mp_comm_is_dry(dry) && !mp_comm_is_dry(c));
    counted = mp_comm_bytes_moved();
    MP_TRY(step(dry, n));
    counted = mp_comm_bytes_moved() - counted;
    mp_comm_free(dry);
    MP_EXPECT(counted == sent);
    MP_TRY(mp_comm_sum_int(c, &sent, 1));
    MP_EXPECT(c->size > 1 ? sent > 0 || n <= TILE : sent == 0);
    return MP_OK;
}

/* One round of windows of all but the last rank, where there are several. */
static mp_status merge(const mp_comm *c, int64_t n)
{
    const int active = c->size > 1 ? c->size - 1 : 1;
    mp_moment_scratch *scratch = NULL;
    mp_moment *m = NULL;
    float *x = NULL, weights[TOKENS];
    mp_status st;

    MP_TRY(mp_moment_create(c, n, TILE, &m));
    if (mp_comm_is_dry(c)) {
        st = mp_moment_add_dry(m, active);
        mp_moment_free(m);
        return st;
    }
    for (int t = 0; t < TOKENS; t++) weights[t] = 1.0f;
    MP_GO(mp_moment_scratch_create(c, &n, 1, TILE, TOKENS, &scratch));
    MP_GO(MP_NEW_RAW(x, TOKENS * n, "states"));
    mp_philox_normal(1, (uint64_t)c->rank, 0, TOKENS * n, x);
    MP_GO(mp_moment_add(m, scratch, active, x, TOKENS, weights));
out:
    mp_free(x);
    mp_moment_scratch_free(scratch);
    mp_moment_free(m);
    return st;
}

/* A matrix from all ranks to the last half of them, factorised there, streamed to all from both ends. */
static mp_status factor_and_stream(const mp_comm *c, int64_t order)
{
    const mp_grid grid = {c->size / 2, 1, c->size - c->size / 2};
    mp_dmat *all = NULL, *few = NULL;
    double *ones = NULL;
    int64_t failed_at, length;
    mp_status st;

    MP_TRY(mp_dmat_create(c, mp_grid_of(0, c->size), order, TILE, &all));
    MP_GO(mp_dmat_move(&all, grid, &few));
    MP_GO(MP_NEW(ones, order, "a diagonal"));
    for (int64_t i = 0; i < order; i++) ones[i] = 1.0;
    if (!mp_comm_is_dry(c)) mp_dmat_set_diagonal(few, ones);
    MP_GO(mp_dmat_cholesky(few, &failed_at));
    for (int half = 0; half < 2; half++) {
        mp_stream *stream = NULL;
        float *column;

        MP_GO(mp_stream_create(few, half == 0 ? MP_LOWER_HALF : MP_UPPER_HALF, few->tiles - 1, -1,
                               &stream));
        for (int64_t t = 0; t < few->tiles && st == MP_OK; t++)
            st = mp_stream_next(stream, &column, &length);
        mp_stream_free(stream);
    }
out:
    mp_free(ones);
    mp_dmat_free(all);
    mp_dmat_free(few);
    return st;
}

static mp_status messages_of_moments_are_counted_dry(const mp_comm *c)
{
    MP_TRY(compare(c, merge, 16));
    MP_TRY(compare(c, merge, 50));
    return compare(c, merge, 333);
}

static mp_status messages_of_factors_are_counted_dry(const mp_comm *c)
{
    MP_TRY(compare(c, factor_and_stream, 2 * TILE));
    return compare(c, factor_and_stream, 13 * TILE);
}

/* Bytes that all ranks of a job of 8 send in `step`, and those of them that go to another node. */
static mp_status count_job(mp_status (*step)(const mp_comm *, int64_t), int per_node,
                           int64_t *moved, int64_t *crossed)
{
    *moved = -mp_comm_bytes_moved();
    *crossed = -mp_comm_bytes_crossed();
    for (int r = 0; r < 8; r++) {
        mp_comm *dry = NULL;

        MP_TRY(mp_comm_create_dry(r, 8, per_node, &dry));
        MP_TRY(step(dry, 9 * TILE));
        mp_comm_free(dry);
    }
    *moved += mp_comm_bytes_moved();
    *crossed += mp_comm_bytes_crossed();
    return MP_OK;
}

static mp_status broadcast(const mp_comm *c, int64_t n)
{
    return mp_comm_bcast(c, NULL, (size_t)n, 5);
}

static mp_status move_alone(const mp_comm *c, int64_t order)
{
    const mp_grid grid = {3, 1, 4};
    mp_dmat *all = NULL, *few = NULL;

    MP_TRY(mp_dmat_create(c, mp_grid_of(0, c->size), order, TILE, &all));
    MP_TRY(mp_dmat_move(&all, grid, &few));
    mp_dmat_free(few);
    return MP_OK;
}

/* Of a broadcast each node takes in one copy, of an exchange what its ranks get from those of others. */
static mp_status bytes_into_nodes_are_counted_apart(const mp_comm *c)
{
    int64_t moved, crossed, alone;

    (void)c;
    MP_TRY(count_job(broadcast, 4, &moved, &crossed));
    MP_EXPECT(moved == 7 * 9 * TILE && crossed == 9 * TILE);
    MP_TRY(count_job(broadcast, 1, &moved, &crossed));
    MP_EXPECT(crossed == moved);
    MP_TRY(count_job(merge, 1, &moved, &alone));
    MP_EXPECT(alone == moved && moved > 0);
    MP_TRY(count_job(merge, 4, &moved, &crossed));
    MP_EXPECT(moved == alone && crossed > moved / 3 && crossed < moved);
    MP_TRY(count_job(factor_and_stream, 8, &moved, &crossed));
    MP_EXPECT(moved > 0 && crossed == 0);
    return MP_OK;
}

/* Moves are counted for all ranks at once: as many bytes as rank by rank. */
static mp_status moves_are_counted_for_all_ranks_at_once(const mp_comm *c)
{
    const mp_grid from = mp_grid_of(0, 8), to = {3, 1, 4};
    mp_comm *dry = NULL;
    int64_t moved, crossed, moved_at_once, crossed_at_once;

    (void)c;
    MP_TRY(count_job(move_alone, 3, &moved, &crossed));
    MP_TRY(mp_comm_create_dry(0, 8, 3, &dry));
    moved_at_once = mp_comm_bytes_moved();
    crossed_at_once = mp_comm_bytes_crossed();
    mp_dmat_count_move(dry, &from, &to, 9, TILE);
    moved_at_once = mp_comm_bytes_moved() - moved_at_once;
    crossed_at_once = mp_comm_bytes_crossed() - crossed_at_once;
    mp_comm_free(dry);
    MP_EXPECT(moved == moved_at_once && crossed == crossed_at_once && crossed > 0);
    return MP_OK;
}

/* A model of four states whose widths do not divide by the tiles. */
static mp_arch arch_of(int64_t width)
{
    mp_arch arch = {.n_blocks = 3,
                    .d_model = width,
                    .n_heads = 4,
                    .n_kv_heads = 2,
                    .head_dim = width / 4,
                    .d_ff = 2 * width + 40,
                    .n_states = 4,
                    .n_linears = 4};

    for (int i = 0; i < 4; i++) {
        int64_t d_in = i == 3 ? arch.d_ff : width, d_out = i == 2 ? arch.d_ff : width;

        arch.states[i] = (mp_state){.width = d_in, .first_linear = i, .linear_count = 1};
        arch.linears[i] =
            (mp_linear_row){.name = "a map", .d_out = d_out, .d_in = d_in, .state = i};
    }
    return arch;
}

/* What is foretold of the buffers is what they allocate. */
static mp_status room_is_foretold_to_the_byte(const mp_comm *c)
{
    const mp_arch arch = arch_of(200);
    const int64_t widths[] = {200, 440, 9000};
    int64_t before = mp_memory_bytes(), bytes;
    mp_moment_scratch *scratch = NULL;
    mp_forward *forward = NULL;

    MP_TRY(mp_forward_create(&arch, TOKENS, &forward));
    bytes = mp_memory_bytes() - before;
    mp_forward_free(forward);
    MP_EXPECT(bytes == mp_forward_bytes(&arch, TOKENS, 0));
    MP_TRY(mp_moment_scratch_create(c, widths, 3, TILE, TOKENS, &scratch));
    bytes = mp_memory_bytes() - before;
    mp_moment_scratch_free(scratch);
    MP_EXPECT(bytes == mp_moment_scratch_bytes(c->size, widths, 3, TILE, TOKENS));
    return MP_OK;
}

/* This rank's rows of a state's linear maps, with scales and zero points, are what the problem of the state
 * allocates but for the strips' losses. */
static mp_status rows_of_integers_are_foretold_with_their_grids(const mp_comm *c)
{
    mp_arch arch = arch_of(192);
    mp_method_options options = {.blocksize = TILE, .quant = {.bits = 4, .group = 2}};
    mp_forecast_job job = {.arch = &arch,
                           .method = mp_method_find("rtn"),
                           .options = &options,
                           .size = c->size,
                           .per_node = c->size,
                           .batch = 1};
    mp_problem p = {.comm = c, .n = 192, .order = 192, .parts = 1, .groups = 96};
    int64_t before = mp_memory_bytes(), bytes;
    mp_forecast f;

    arch.n_states = arch.n_linears = 1;
    p.part[0].name = "a map";
    p.part[0].d_out = arch.linears[0].d_out;
    MP_TRY(mp_problem_open(&p));
    bytes = mp_memory_bytes() - before - p.strips * (int64_t)sizeof *p.loss;
    mp_problem_close(&p);
    MP_TRY(mp_forecast_memory_of(&job, 0, &f));
    MP_EXPECT(f.memory.rows >= bytes && (c->rank > 0 || f.memory.rows == bytes));
    return MP_OK;
}

static mp_status bytes_on(const mp_forecast_job *job, int nodes, int64_t *bytes)
{
    mp_forecast_job wider = *job;
    mp_forecast f;

    wider.size = nodes * job->per_node;
    MP_TRY(mp_forecast_memory_of(&wider, 1000, &f));
    *bytes = mp_forecast_rank_bytes(&wider, &f);
    return MP_OK;
}

/* The search looks at a few ranks of each number of nodes: what it finds holds for all of them. */
static mp_status nodes_that_are_found_hold_every_rank(const mp_comm *c)
{
    const mp_arch arch = arch_of(1000);
    const mp_method_options options = {.blocksize = TILE};
    mp_forecast_job job = {.arch = &arch,
                           .method = mp_method_find("sparsegpt"),
                           .options = &options,
                           .windows = 37,
                           .seqlen = TOKENS,
                           .per_node = 3,
                           .batch = 1};

    int found;

    (void)c;
    for (int nodes = 1; nodes < 60; nodes++) {
        int64_t limit, there, before = INT64_MAX;

        MP_TRY(bytes_on(&job, nodes, &limit));
        MP_TRY(mp_forecast_nodes(&job, 1000, limit, &found));
        /* what ranks take in of each other grows again: only powers of two are met for certain */
        MP_EXPECT(found >= 1 || (nodes & (nodes - 1)) != 0);
        if (found == 0) continue;
        MP_TRY(bytes_on(&job, found, &there));
        if (found > 1) MP_TRY(bytes_on(&job, found - 1, &before));
        MP_EXPECT(there <= limit && before > limit);
    }
    MP_TRY(mp_forecast_nodes(&job, 1000, mp_forecast_floor(&job, 1000) - 1, &found));
    MP_EXPECT(found == 0);
    return MP_OK;
}

/* One long window: the rank that has it needs most, and the others are not charged for it. */
static mp_status a_host_needs_what_its_ranks_need_together(const mp_comm *c)
{
    const mp_arch arch = arch_of(64);
    const mp_method_options options = {.blocksize = TILE};
    const mp_forecast_job job = {.arch = &arch,
                                 .method = mp_method_find("sparsegpt"),
                                 .options = &options,
                                 .windows = 1,
                                 .seqlen = 1 << 16,
                                 .size = c->size,
                                 .per_node = c->size,
                                 .batch = 1};
    const int64_t base = 1 << 20;
    mp_forecast f;
    double needed;

    MP_TRY(mp_forecast_memory_of(&job, base, &f));
    needed = (double)(f.node_bytes - c->size * base);
    MP_EXPECT(c->size == 1 || needed < (double)(c->size * (f.memory.rank - base)));
    MP_TRY(mp_forecast_refuse_hosts(c, &job, base, needed));
    MP_EXPECT(mp_forecast_refuse_hosts(c, &job, base, needed - 1.0) == MP_ERR_NOFIT);
    MP_EXPECT(strstr(mp_error_message(), "free on a host") != NULL);
    return MP_OK;
}

/* Windows of an evaluation are there when those of the calibration are not. */
static mp_status an_evaluation_can_be_what_needs_most(const mp_comm *c)
{
    const mp_arch arch = arch_of(64);
    const mp_method_options options = {.blocksize = TILE};
    mp_forecast_job job = {.arch = &arch,
                           .method = mp_method_find("sparsegpt"),
                           .options = &options,
                           .windows = 4,
                           .seqlen = TOKENS,
                           .eval_windows = 1,
                           .eval_seqlen = TOKENS,
                           .size = c->size,
                           .per_node = c->size,
                           .batch = 1};
    mp_forecast f;
    int64_t few;

    MP_TRY(mp_forecast_memory_of(&job, 0, &f));
    few = f.memory.rank;
    job.eval_windows = 4000;
    MP_TRY(mp_forecast_memory_of(&job, 0, &f));
    MP_EXPECT(f.memory.rank > few && f.memory.rank == f.memory.evaluation);
    MP_EXPECT(f.memory.evaluation >= 4000 / c->size * TOKENS * arch.d_model * 4);
    return MP_OK;
}

const mp_case cases_forecast[] = {
    {"messages_of_moments_are_counted_dry", messages_of_moments_are_counted_dry},
    {"messages_of_factors_are_counted_dry", messages_of_factors_are_counted_dry},
    {"bytes_into_nodes_are_counted_apart", bytes_into_nodes_are_counted_apart},
    {"moves_are_counted_for_all_ranks_at_once", moves_are_counted_for_all_ranks_at_once},
    {"room_is_foretold_to_the_byte", room_is_foretold_to_the_byte},
    {"rows_of_integers_are_foretold_with_their_grids",
     rows_of_integers_are_foretold_with_their_grids},
    {"nodes_that_are_found_hold_every_rank", nodes_that_are_found_hold_every_rank},
    {"a_host_needs_what_its_ranks_need_together", a_host_needs_what_its_ranks_need_together},
    {"an_evaluation_can_be_what_needs_most", an_evaluation_can_be_what_needs_most},
    {NULL, NULL},
};
