#include "units.h"

#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/stop.h"
#include "mpress/plan.h"

#include <math.h>

int unit_is_wanted(const mp_runner *run, int state, const int *skip)
{
    const mp_state *s = &run->arch->states[state];

    for (int i = s->first_linear; i < s->first_linear + s->linear_count; i++)
        if (!skip[i]) return 1;
    return 0;
}

/* Whether the weights of a state differ, so that its moment is not simply a multiple of the plain one. */
static int is_weighted(const mp_runner *run, int state)
{
    int64_t n = run->hidden->n_tokens;

    mp_token_weights(&run->lengths, &run->arch->states[state], n, run->weights);
    for (int64_t t = 1; t < n; t++)
        if (run->weights[t] != run->weights[0]) return 1;
    return 0;
}

mp_status unit_open(const mp_runner *run, unit *u)
{
    if (!unit_is_wanted(run, u->state, u->item->skip)) return MP_OK;
    MP_TRY(mp_moment_create(run->comm, run->arch->states[u->state].width, run->options.blocksize,
                            &u->moment));
    if (u->item->states != NULL && is_weighted(run, u->state))
        MP_TRY(mp_moment_track_distance(u->moment));
    if ((run->method->needs & MP_NEED_CHANNELS) == 0 && !run->options.center) return MP_OK;
    return mp_moment_track_channels(u->moment);
}

void unit_close(unit *u)
{
    for (int i = 0; i < MP_MAX_LINEARS; i++) mp_factors_free(&u->factors[i]);
    mp_moment_free(u->moment);
    u->moment = NULL;
}

/* The runner works on the block of this unit from now on. */
static void enter(mp_runner *run, const unit *u)
{
    run->block = u->item->block;
    run->ranks = u->item->ranks;
}

static mp_status name_unit(const mp_runner *run, const unit *u, mp_status st)
{
    if (st == MP_OK) return MP_OK;
    return mp_fail(st, "block %lld, state %s: %s", (long long)u->item->block->index,
                   run->arch->states[u->state].name, mp_error_message());
}

static void warn_of_outcome(const mp_runner *run, const unit *u)
{
    const char *name = run->arch->states[u->state].name;
    long long block = (long long)u->item->block->index;

    if (u->outcome.by_qr > 0)
        mp_log(MP_LOG_WARNING,
               "block %lld, %s: divide and conquer did not converge for %lld eigenproblems; QR "
               "iteration (p?syev) solved them",
               block, name, (long long)u->outcome.by_qr);
    if (u->outcome.retries > u->outcome.by_qr)
        mp_log(MP_LOG_WARNING,
               "block %lld, %s: damping raised to %g after %lld failed factorisations", block, name,
               u->outcome.damping, (long long)u->outcome.retries);
    if (u->outcome.dead > 0)
        mp_log(MP_LOG_WARNING,
               "block %lld, %s: %lld of %lld channels are dead (no token excites them)", block,
               name, (long long)u->outcome.dead, (long long)run->arch->states[u->state].width);
}

/* All ranks know what happened to a unit; only its grid has seen it. */
static mp_status share_outcome(mp_runner *run, unit *u)
{
    MP_TRY(mp_mpi_check(
        MPI_Bcast(&u->outcome, (int)sizeof u->outcome, MPI_BYTE, u->grid.first, run->comm->mpi),
        "telling the outcome of a factorisation"));
    run->retries += u->outcome.retries;
    warn_of_outcome(run, u);
    return MP_OK;
}

static mp_status plan(const mp_runner *run, unit *units, int count)
{
    mp_plan_task *tasks = NULL;
    mp_grid *grids = NULL;
    int tasks_count = 0;
    mp_status st;

    MP_GO(MP_NEW(tasks, count, "a plan"));
    MP_GO(MP_NEW(grids, count, "a plan"));
    for (int i = 0; i < count; i++)
        if (units[i].moment != NULL)
            tasks[tasks_count++] =
                mp_plan_state(run->arch, units[i].state, units[i].item->skip,
                              run->method->factorise != NULL ? units[i].item->ranks : NULL);
    MP_GO(mp_plan_grids(tasks, tasks_count, run->comm->size, grids));
    tasks_count = 0;
    for (int i = 0; i < count; i++)
        if (units[i].moment != NULL) units[i].grid = grids[tasks_count++];
out:
    mp_free(tasks);
    mp_free(grids);
    return st;
}

/* One unit on its grid, by this rank of it. */
static mp_status prepare(mp_runner *run, unit *u)
{
    double mark = mp_seconds(), n = (double)u->moment->n;
    mp_status st;

    enter(run, u);
    if (run->method->factorise != NULL)
        return lowrank_factorise(run, u->state, u->moment, u->item->skip, u->factors, &u->outcome);
    if (run->method->prepare == NULL) return MP_OK;
    st = run->method->prepare(&run->options, u->moment, &u->outcome);
    mp_clock_lap(&run->clock, MP_PHASE_FACTOR,
                 run->method->factor_flop * n * n * n / (u->grid.rows * u->grid.cols), &mark);
    return st;
}

/* What is told of the state, and kept for others: before a method works on the moment. */
static mp_status note_state(const mp_runner *run, const unit *u)
{
    const mp_state *s = &run->arch->states[u->state];
    mp_state_result *result;
    double weight = 0.0;

    if (u->item->states == NULL) return MP_OK;
    result = &u->item->states[u->state];
    mp_token_weights(&run->lengths, s, run->hidden->n_tokens, run->weights);
    for (int64_t t = 0; t < run->hidden->n_tokens; t++) weight += (double)run->weights[t];
    result->tokens = u->moment->tokens;
    result->weight = weight * (double)run->hidden->n_sequences;
    MP_TRY(mp_comm_agree(run->comm, MP_NEW_RAW(result->squares, s->width, "squares of channels")));
    mp_moment_channels(u->moment, result->squares);
    return mp_moment_summarise(u->moment, &result->summary);
}

/* A moment moved to its grid, and noted. */
static mp_status finish_moment(const mp_runner *run, const unit *u)
{
    if (u->moment == NULL) return MP_OK;
    MP_TRY(name_unit(run, u, mp_moment_finish(u->moment, u->grid)));
    return note_state(run, u);
}

/* Finishes and factorises all moments, side by side where their grids are disjoint: a rank passes over
 * the units whose grid it is not in. */
static mp_status prepare_all(mp_runner *run, unit *units, int count)
{
    double mark = mp_seconds();
    mp_status st = MP_OK;

    MP_TRY(mp_comm_agree(run->comm, plan(run, units, count)));
    for (int i = 0; i < count; i++) MP_TRY(finish_moment(run, &units[i]));
    mp_clock_lap(&run->clock, MP_PHASE_COLLECT, 0.0, &mark);
    for (int i = 0; i < count; i++) {
        unit *u = &units[i];
        mp_status one;

        u->outcome = (mp_outcome){.damping = NAN};
        if (u->moment == NULL || !mp_grid_holds(&u->grid, run->comm->rank)) continue;
        one = name_unit(run, u, prepare(run, u));
        if (one != MP_OK) st = one; /* and on: the next grid may hold ranks that this one did not */
    }
    mark = mp_seconds();
    st = mp_comm_agree(run->comm, st);
    mp_clock_lap(&run->clock, MP_PHASE_IDLE, 0.0, &mark); /* waiting for the slowest group */
    for (int i = 0; i < count && st == MP_OK; i++)
        if (units[i].moment != NULL) st = share_outcome(run, &units[i]);
    return st;
}

static mp_status finish(mp_runner *run, unit *u)
{
    const mp_state *s = &run->arch->states[u->state];
    const mp_batch_item *item = u->item;

    enter(run, u);
    if (run->spectra_only) return lowrank_share_spectra(run, u->state, u->moment, item, u->factors);
    if (run->method->factorise != NULL)
        MP_TRY(lowrank_publish(run, u->state, u->moment, &u->outcome, item->skip, u->factors,
                               item->results));
    else
        MP_TRY(mp_runner_solve(run, u->state, u->moment, &u->outcome, item->skip, item->results));
    for (int i = s->first_linear; i < s->first_linear + s->linear_count; i++)
        item->results[i].grid = u->grid;
    return MP_OK;
}

mp_status units_compress(mp_runner *run, unit *units, int count)
{
    MP_TRY(prepare_all(run, units, count));
    for (int i = 0; i < count; i++) {
        if (units[i].moment == NULL) continue;
        MP_TRY(mp_stop_poll(run->comm));
        MP_TRY(name_unit(run, &units[i], finish(run, &units[i])));
        unit_close(&units[i]);
    }
    return MP_OK;
}
