#include "mpress/block_run.h"

#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/plan.h"
#include "solve.h"

#include <math.h>
#include <string.h>

mp_status mp_order_parse(const char *text, mp_order *order)
{
    static const char *const names[] = {"block", "linear", "dense"};

    for (int i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0) {
            *order = (mp_order)i;
            return MP_OK;
        }
    return mp_fail(MP_ERR_ARG, "--propagate %s: expected block, linear or dense", text);
}

static mp_status allocate(mp_runner *run)
{
    int64_t widths[MP_MAX_STATES], n_tokens = run->hidden->n_tokens;

    for (int s = 0; s < run->arch->n_states; s++) widths[s] = run->arch->states[s].width;
    MP_TRY(mp_forward_create(run->arch, n_tokens, &run->forward));
    MP_TRY(mp_moment_scratch_create(run->comm, widths, run->arch->n_states, run->options.blocksize,
                                    n_tokens, &run->scratch));
    return MP_NEW_RAW(run->weights, n_tokens, "token weights");
}

mp_status mp_runner_open(mp_runner *run)
{
    run->block = NULL;
    run->forward = NULL;
    run->scratch = NULL;
    run->weights = NULL;
    MP_TRY(mp_block_create(run->comm, run->arch, &run->block));
    if (run->hidden == NULL) return MP_OK;
    return mp_comm_agree(run->comm, allocate(run));
}

void mp_runner_close(mp_runner *run)
{
    mp_block_free(run->block);
    mp_forward_free(run->forward);
    mp_moment_scratch_free(run->scratch);
    mp_free(run->weights);
    run->block = NULL;
    run->forward = NULL;
    run->scratch = NULL;
    run->weights = NULL;
}

/* Whether any linear map of the state is to be compressed. */
static int state_is_wanted(const mp_runner *run, int state, const int *skip)
{
    const mp_state *s = &run->arch->states[state];

    for (int i = s->first_linear; i < s->first_linear + s->linear_count; i++)
        if (!skip[i]) return 1;
    return 0;
}

/* One round of one state into its moment; the time of product and merge are kept apart. */
static mp_status measure_round(mp_runner *run, int state, mp_moment *moment, int64_t round,
                               const float *x, double *mark)
{
    int64_t n_tokens = run->hidden->n_tokens;
    mp_moment_times before = mp_moment_clock(), after;

    mp_token_weights(&run->lengths, &run->arch->states[state], n_tokens, run->weights);
    MP_TRY(mp_moment_add(moment, run->scratch, mp_hidden_active(run->hidden, run->comm, round), x,
                         n_tokens, run->weights));
    after = mp_moment_clock();
    mp_clock_lap(&run->clock, MP_PHASE_MERGE, 0.0, mark);
    run->clock.seconds[MP_PHASE_MERGE] -= after.product_s - before.product_s;
    run->clock.seconds[MP_PHASE_MOMENT] += after.product_s - before.product_s;
    run->clock.flop[MP_PHASE_MOMENT] += after.product_flop - before.product_flop;
    return MP_OK;
}

/* Flop of one sequence up to and including state `state`, from the one before. */
static double state_flop(const mp_runner *run, int state)
{
    double n = (double)run->hidden->n_tokens, linears, attention, flop = 0.0;

    for (int i = 0; i < run->arch->n_linears && state > 0; i++)
        if (run->arch->linears[i].state == state - 1)
            flop += 2.0 * n * (double)run->arch->linears[i].d_out * (double)run->arch->linears[i].d_in;
    mp_forward_flops(run->arch, run->hidden->n_tokens, &linears, &attention);
    return state == 1 ? flop + attention : flop;
}

/* All ranks know what happened to a state; only its grid has seen it. */
static mp_status share_outcome(const mp_runner *run, const mp_grid *grid, mp_outcome *outcome)
{
    return mp_mpi_check(MPI_Bcast(outcome, (int)sizeof *outcome, MPI_BYTE, grid->first,
                                  run->comm->mpi),
                        "telling the outcome of a factorisation");
}

static mp_status name_state(const mp_runner *run, int state, mp_status st)
{
    if (st == MP_OK) return MP_OK;
    return mp_fail(st, "block %lld, state %s: %s", (long long)run->block->index,
                   run->arch->states[state].name, mp_error_message());
}

static void warn_of_outcome(const mp_runner *run, int state, const mp_outcome *o)
{
    const char *name = run->arch->states[state].name;
    long long block = (long long)run->block->index;

    if (o->retries > 0)
        mp_log(MP_LOG_WARNING, "block %lld, %s: damping raised to %g after %lld failed factorisations",
               block, name, o->damping, (long long)o->retries);
    if (o->dead > 0)
        mp_log(MP_LOG_WARNING, "block %lld, %s: %lld of %lld channels are dead (no token excites them)",
               block, name, (long long)o->dead, (long long)run->arch->states[state].width);
}

/* One state on its grid, by this rank of it. */
static mp_status prepare_state(mp_runner *run, int state, mp_moment *moment, const int *skip,
                               mp_factors *factors, mp_outcome *outcome)
{
    const mp_grid *grid = &moment->matrix->grid;
    double mark = mp_seconds(), n = (double)moment->n;
    mp_status st;

    if (run->method->factorise != NULL)
        return name_state(run, state, lowrank_factorise(run, state, moment, skip, factors, outcome));
    if (run->method->prepare == NULL) return MP_OK;
    st = name_state(run, state, run->method->prepare(&run->options, moment, outcome));
    mp_clock_lap(&run->clock, MP_PHASE_FACTOR,
                 run->method->factor_flop * n * n * n / (grid->rows * grid->cols), &mark);
    return st;
}

/* Finishes and factorises the moments of states [first, end), side by side where their grids are
 * disjoint: a rank passes over the states whose grid it is not in. */
static mp_status prepare_states(mp_runner *run, int first, int end, mp_moment **moments, const int *skip,
                                mp_factors *factors, mp_outcome *outcomes)
{
    int64_t widths[MP_MAX_STATES];
    mp_grid grids[MP_MAX_STATES];
    double mark = mp_seconds();
    mp_status st = MP_OK;
    int count = 0, which[MP_MAX_STATES];

    for (int s = first; s < end; s++)
        if (moments[s] != NULL) {
            which[count] = s;
            widths[count++] = run->arch->states[s].width;
        }
    mp_plan_grids(widths, count, run->comm->size, grids);
    for (int i = 0; i < count; i++)
        MP_TRY(name_state(run, which[i], mp_moment_finish(moments[which[i]], grids[i])));
    mp_clock_lap(&run->clock, MP_PHASE_COLLECT, 0.0, &mark);
    for (int i = 0; i < count; i++) {
        mp_status one;

        outcomes[which[i]] = (mp_outcome){.damping = NAN};
        if (!mp_grid_holds(&grids[i], run->comm->rank)) continue;
        one = prepare_state(run, which[i], moments[which[i]], skip, factors, &outcomes[which[i]]);
        if (one != MP_OK) st = one; /* and on: the next grid may hold ranks that this one did not */
    }
    mark = mp_seconds();
    MP_TRY(mp_comm_agree(run->comm, st));
    for (int i = 0; i < count; i++) {
        MP_TRY(share_outcome(run, &grids[i], &outcomes[which[i]]));
        warn_of_outcome(run, which[i], &outcomes[which[i]]);
    }
    mp_clock_lap(&run->clock, MP_PHASE_FACTOR, 0.0, &mark); /* waiting for the slowest group */
    return MP_OK;
}

static mp_status create_moments(mp_runner *run, int first, int end, const int *skip,
                                mp_moment **moments)
{
    for (int s = first; s < end; s++)
        if (state_is_wanted(run, s, skip)) {
            MP_TRY(mp_moment_create(run->comm, run->arch->states[s].width, run->options.blocksize,
                                    &moments[s]));
            if ((run->method->needs & MP_NEED_CHANNELS) != 0 || run->options.center)
                MP_TRY(mp_moment_track_channels(moments[s]));
        }
    return MP_OK;
}

/* Room for the states of one sequence: the one at hand and the one before it. */
static mp_status state_buffers(const mp_runner *run, float *buffer[3])
{
    int64_t widest = run->arch->d_model;

    for (int s = 0; s < run->arch->n_states; s++)
        if (run->arch->states[s].width > widest) widest = run->arch->states[s].width;
    for (int i = 0; i < 3; i++)
        MP_TRY(MP_NEW_RAW(buffer[i], run->hidden->n_tokens * widest, "states of one sequence"));
    return MP_OK;
}

/* One sequence of this rank through all states of the dense block, each into its moment.  In block
 * order the residual stream is a copy, and the last linear map is left out: nobody uses its output. */
static mp_status pass_sequence(mp_runner *run, int64_t round, mp_moment **moments, float *buffer[3])
{
    int mine = round < run->hidden->local, in_place = run->order == MP_ORDER_DENSE;
    int64_t n_tokens = run->hidden->n_tokens;
    float *hidden = mine ? mp_hidden_sequence(run->hidden, round) : NULL;
    float *x = buffer[0], *before = buffer[1];
    double mark = mp_seconds();
    mp_status st = MP_OK;

    if (mine && !in_place) {
        memcpy(buffer[2], hidden, (size_t)(n_tokens * run->arch->d_model) * sizeof *hidden);
        hidden = buffer[2];
    }
    for (int s = 0; s < run->arch->n_states; s++) {
        if (mine && st == MP_OK)
            st = mp_forward_state(run->forward, run->block, s, n_tokens, hidden, before, x);
        mp_clock_lap(&run->clock, MP_PHASE_FORWARD, mine ? state_flop(run, s) : 0.0, &mark);
        if (moments[s] != NULL) MP_TRY(measure_round(run, s, moments[s], round, x, &mark));
        float *swap = x;
        x = before;
        before = swap;
    }
    if (mine && in_place && st == MP_OK)
        st = mp_forward_finish(run->forward, run->block, n_tokens, hidden, before);
    mp_clock_lap(&run->clock, MP_PHASE_FORWARD,
                 mine && in_place ? state_flop(run, run->arch->n_states) : 0.0, &mark);
    return st;
}

/* All linear maps of the states [first, end), whose moments are measured. */
static mp_status compress_states(mp_runner *run, int first, int end, mp_moment **moments,
                                 const int *skip, mp_linear_result *results)
{
    mp_factors factors[MP_MAX_LINEARS] = {{.name = NULL}};
    mp_outcome outcomes[MP_MAX_STATES];
    mp_status st;

    MP_GO(prepare_states(run, first, end, moments, skip, factors, outcomes));
    for (int s = first; s < end; s++) {
        if (!state_is_wanted(run, s, skip)) continue;
        if (run->spectra != NULL)
            MP_GO(lowrank_share_spectra(run, s, moments[s], skip, factors));
        if (!run->spectra_only)
            st = run->method->factorise != NULL
                     ? lowrank_publish(run, s, moments[s], &outcomes[s], skip, factors, results)
                     : mp_runner_solve(run, s, moments[s], &outcomes[s], skip, results);
        MP_GO(name_state(run, s, st));
        mp_moment_free(moments[s]);
        moments[s] = NULL;
    }
out:
    for (int i = 0; i < MP_MAX_LINEARS; i++) mp_factors_free(&factors[i]);
    return st;
}

/* The block as it stands, over the residual streams. */
static mp_status pass_whole(mp_runner *run)
{
    double mark = mp_seconds(), linears, attention;
    mp_status st = MP_OK;

    mp_forward_flops(run->arch, run->hidden->n_tokens, &linears, &attention);
    for (int64_t i = 0; i < run->hidden->local && st == MP_OK; i++)
        st = mp_forward_block(run->forward, run->block, run->hidden->n_tokens,
                              mp_hidden_sequence(run->hidden, i));
    mp_clock_lap(&run->clock, MP_PHASE_FORWARD, (double)run->hidden->local * (linears + attention),
                 &mark);
    return mp_comm_agree(run->comm, st);
}

/* Block and dense order: all states from one pass over the dense block. */
static mp_status run_states_together(mp_runner *run, const int *skip, int is_last,
                                     mp_linear_result *results)
{
    mp_moment *moments[MP_MAX_STATES] = {NULL};
    float *buffer[3] = {NULL};
    mp_status st, pass = MP_OK;

    MP_GO(mp_comm_agree(run->comm, state_buffers(run, buffer)));
    MP_GO(create_moments(run, 0, run->arch->n_states, skip, moments));
    for (int64_t round = 0; round < run->hidden->rounds; round++) {
        st = pass_sequence(run, round, moments, buffer);
        if (st != MP_OK && pass == MP_OK) pass = st;
    }
    MP_GO(mp_comm_agree(run->comm, pass));
    MP_GO(compress_states(run, 0, run->arch->n_states, moments, skip, results));
    if (run->order == MP_ORDER_BLOCK && !is_last) MP_GO(pass_whole(run));
out:
    for (int s = 0; s < MP_MAX_STATES; s++) mp_moment_free(moments[s]);
    for (int i = 0; i < 3; i++) mp_free(buffer[i]);
    return st;
}

/* One state of one local sequence in linear order: a normalised state is recomputed from the residual
 * stream where it is needed, the others are kept from state to state. */
static mp_status advance(mp_runner *run, int state, int64_t i, float *kept_before, float *norm,
                         float *out)
{
    float *hidden = mp_hidden_sequence(run->hidden, i);
    int64_t n_tokens = run->hidden->n_tokens;
    const float *before = kept_before;

    if (state > 0 && run->arch->states[state - 1].normalised) {
        MP_TRY(mp_forward_norm(run->block, state - 1, n_tokens, hidden, norm));
        before = norm;
    }
    return mp_forward_state(run->forward, run->block, state, n_tokens, hidden, before, out);
}

/* Linear order, one state: propagate all sequences to it, measure, compress what reads it.  `kept`
 * holds the states of all local sequences, [local][n_tokens][width]: on entry of the state before,
 * on return of this one; NULL for a normalised state. */
static mp_status run_state(mp_runner *run, int state, const int *skip, float **kept, float *buffer[3],
                           mp_linear_result *results)
{
    const mp_state *s = &run->arch->states[state];
    mp_moment *moments[MP_MAX_STATES] = {NULL};
    int64_t size = run->hidden->n_tokens * s->width, local = run->hidden->local;
    int64_t before = state > 0 ? run->hidden->n_tokens * run->arch->states[state - 1].width : 0;
    float *keep = NULL;
    mp_status st, pass = MP_OK;

    st = s->normalised ? MP_OK : MP_NEW_RAW(keep, local * size, "states of all local sequences");
    MP_GO(mp_comm_agree(run->comm, st));
    MP_GO(create_moments(run, state, state + 1, skip, moments));
    for (int64_t i = 0; i < run->hidden->rounds; i++) {
        float *x = keep != NULL && i < local ? keep + i * size : buffer[0];
        double mark = mp_seconds();

        if (i < local && pass == MP_OK)
            pass = advance(run, state, i, *kept != NULL ? *kept + i * before : NULL, buffer[1], x);
        mp_clock_lap(&run->clock, MP_PHASE_FORWARD, i < local ? state_flop(run, state) : 0.0, &mark);
        if (moments[state] != NULL) MP_GO(measure_round(run, state, moments[state], i, x, &mark));
    }
    MP_GO(mp_comm_agree(run->comm, pass));
    MP_GO(compress_states(run, state, state + 1, moments, skip, results));
out:
    mp_moment_free(moments[state]);
    mp_free(*kept);
    *kept = keep;
    return st;
}

/* Linear order: each state is measured with the earlier linear maps already compressed, and each
 * linear map is evaluated once. */
static mp_status run_states_in_turn(mp_runner *run, const int *skip, int is_last,
                                    mp_linear_result *results)
{
    int last = run->arch->n_states - 1;
    int64_t n_tokens = run->hidden->n_tokens, size = n_tokens * run->arch->states[last].width;
    float *kept = NULL, *buffer[3] = {NULL};
    double mark;
    mp_status st, pass = MP_OK;

    MP_GO(mp_comm_agree(run->comm, state_buffers(run, buffer)));
    for (int s = 0; s <= last; s++) MP_GO(run_state(run, s, skip, &kept, buffer, results));
    mark = mp_seconds();
    for (int64_t i = 0; i < run->hidden->local && !is_last && pass == MP_OK; i++)
        pass = mp_forward_finish(run->forward, run->block, n_tokens,
                                 mp_hidden_sequence(run->hidden, i), kept + i * size);
    mp_clock_lap(&run->clock, MP_PHASE_FORWARD,
                 is_last ? 0.0 : (double)run->hidden->local * state_flop(run, last + 1), &mark);
    MP_GO(mp_comm_agree(run->comm, pass));
out:
    mp_free(kept);
    for (int i = 0; i < 3; i++) mp_free(buffer[i]);
    return st;
}

/* Without calibration every state is compressed from its weights alone. */
static mp_status run_without_data(mp_runner *run, const int *skip, mp_linear_result *results)
{
    const mp_outcome nothing = {.damping = NAN};

    for (int s = 0; s < run->arch->n_states; s++)
        if (state_is_wanted(run, s, skip))
            MP_TRY(mp_runner_solve(run, s, NULL, &nothing, skip, results));
    return MP_OK;
}

mp_status mp_runner_block(mp_runner *run, const int *skip, int is_last, mp_linear_result *results)
{
    int wanted = 0;

    for (int i = 0; i < run->arch->n_linears; i++) {
        results[i] = (mp_linear_result){.rel_error = NAN, .kept = NAN, .outcome.damping = NAN};
        wanted |= !skip[i];
    }
    if (run->hidden == NULL) return run_without_data(run, skip, results);
    if (!wanted) return is_last ? MP_OK : pass_whole(run);
    return run->order == MP_ORDER_LINEAR ? run_states_in_turn(run, skip, is_last, results)
                                         : run_states_together(run, skip, is_last, results);
}
