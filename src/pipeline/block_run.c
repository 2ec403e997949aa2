#include "mpress/block_run.h"

#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/stop.h"
#include "mpress/tensor.h"
#include "units.h"

#include <math.h>
#include <string.h>

static const char *const order_names[] = {"block", "linear", "dense"};

mp_status mp_order_parse(const char *text, mp_order *order)
{
    for (int i = 0; i < 3; i++)
        if (strcmp(text, order_names[i]) == 0) {
            *order = (mp_order)i;
            return MP_OK;
        }
    return mp_fail(MP_ERR_ARG, "--propagate %s: expected block, linear or dense", text);
}

mp_status mp_batch_check(const mp_method *method, mp_order order, int64_t batch)
{
    if (batch > MP_MAX_BATCH)
        return mp_fail(MP_ERR_ARG, "--batch %lld: expected at most %d", (long long)batch,
                       MP_MAX_BATCH);
    if (batch > 1 && (order != MP_ORDER_DENSE || method->factorise == NULL))
        return mp_fail(MP_ERR_ARG,
                       "--batch %lld: blocks are solved side by side in dense order of a method "
                       "that factors, not by %s in %s order",
                       (long long)batch, method->name, order_names[order]);
    return MP_OK;
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
    run->forward = NULL;
    run->scratch = NULL;
    run->weights = NULL;
    memset(run->blocks, 0, sizeof run->blocks);
    if (run->batch < 1) run->batch = 1;
    for (int k = 0; k < run->batch; k++)
        MP_TRY(mp_block_create(run->comm, run->arch, &run->blocks[k]));
    run->block = run->blocks[0];
    if (run->hidden == NULL) return MP_OK;
    return mp_comm_agree(run->comm, allocate(run));
}

void mp_runner_close(mp_runner *run)
{
    for (int k = 0; k < MP_MAX_BATCH; k++) {
        mp_block_free(run->blocks[k]);
        run->blocks[k] = NULL;
    }
    mp_forward_free(run->forward);
    mp_moment_scratch_free(run->scratch);
    mp_free(run->weights);
    run->block = NULL;
    run->forward = NULL;
    run->scratch = NULL;
    run->weights = NULL;
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
            flop +=
                2.0 * n * (double)run->arch->linears[i].d_out * (double)run->arch->linears[i].d_in;
    mp_forward_flops(run->arch, run->hidden->n_tokens, &linears, &attention);
    return state == 1 ? flop + attention : flop;
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
static mp_status pass_sequence(mp_runner *run, int64_t round, const unit *units, float *buffer[3])
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
        if (units[s].moment != NULL)
            MP_TRY(measure_round(run, s, units[s].moment, round, x, &mark));
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

/* Between blocks the hidden states are what a file of them can hold, so that a run that is resumed from
 * one goes on with the same bits. */
static void round_hidden(const mp_runner *run)
{
    mp_hidden *h = run->hidden;

    if (run->hidden_dtype != MP_F32)
        mp_round_f32(run->hidden_dtype, h->states, h->local * h->n_tokens * h->width);
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
    round_hidden(run);
    mp_clock_lap(&run->clock, MP_PHASE_FORWARD, (double)run->hidden->local * (linears + attention),
                 &mark);
    return mp_comm_agree(run->comm, st);
}

mp_status mp_runner_replay(mp_runner *run)
{
    MP_TRY(mp_stop_poll(run->comm));
    return pass_whole(run);
}

/* All sequences through the dense block at hand, its states measured: units [n_states]. */
static mp_status measure_block(mp_runner *run, unit *units, float *buffer[3])
{
    double mark = mp_seconds();
    mp_status st, pass = MP_OK;

    for (int s = 0; s < run->arch->n_states; s++) MP_TRY(unit_open(run, &units[s]));
    mp_clock_lap(&run->clock, MP_PHASE_COLLECT, 0.0, &mark);
    for (int64_t round = 0; round < run->hidden->rounds; round++) {
        MP_TRY(mp_stop_poll(run->comm));
        st = pass_sequence(run, round, units, buffer);
        if (st != MP_OK && pass == MP_OK) pass = st;
    }
    if (run->order == MP_ORDER_DENSE) round_hidden(run);
    return mp_comm_agree(run->comm, pass);
}

/* Block and dense order: all states of a block from one pass over it; in dense order of several blocks,
 * whose states are then solved side by side. */
static mp_status run_states_together(mp_runner *run, const mp_batch_item *items, int count)
{
    int n = run->arch->n_states;
    float *buffer[3] = {NULL};
    unit *units = NULL;
    mp_status st = MP_NEW(units, (int64_t)count * n, "states to solve");

    if (st == MP_OK) st = state_buffers(run, buffer);
    MP_GO(mp_comm_agree(run->comm, st));
    for (int k = 0; k < count; k++) {
        run->block = items[k].block;
        for (int s = 0; s < n; s++) units[k * n + s] = (unit){.item = &items[k], .state = s};
        MP_GO(measure_block(run, units + k * n, buffer));
    }
    MP_GO(units_compress(run, units, count * n));
    if (run->order == MP_ORDER_BLOCK && !items->is_last) MP_GO(mp_runner_replay(run));
out:
    for (int i = 0; units != NULL && i < count * n; i++) unit_close(&units[i]);
    mp_free(units);
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
static mp_status run_state(mp_runner *run, int state, const mp_batch_item *item, float **kept,
                           float *buffer[3])
{
    const mp_state *s = &run->arch->states[state];
    unit u = {.item = item, .state = state};
    int64_t size = run->hidden->n_tokens * s->width, local = run->hidden->local;
    int64_t before = state > 0 ? run->hidden->n_tokens * run->arch->states[state - 1].width : 0;
    float *keep = NULL;
    double mark;
    mp_status st, pass = MP_OK;

    st = s->normalised ? MP_OK : MP_NEW_RAW(keep, local * size, "states of all local sequences");
    MP_GO(mp_comm_agree(run->comm, st));
    mark = mp_seconds();
    MP_GO(unit_open(run, &u));
    mp_clock_lap(&run->clock, MP_PHASE_COLLECT, 0.0, &mark);
    for (int64_t i = 0; i < run->hidden->rounds; i++) {
        float *x = keep != NULL && i < local ? keep + i * size : buffer[0];

        MP_GO(mp_stop_poll(run->comm));
        mark = mp_seconds();
        if (i < local && pass == MP_OK)
            pass = advance(run, state, i, *kept != NULL ? *kept + i * before : NULL, buffer[1], x);
        mp_clock_lap(&run->clock, MP_PHASE_FORWARD, i < local ? state_flop(run, state) : 0.0,
                     &mark);
        if (u.moment != NULL) MP_GO(measure_round(run, state, u.moment, i, x, &mark));
    }
    MP_GO(mp_comm_agree(run->comm, pass));
    MP_GO(units_compress(run, &u, 1));
out:
    unit_close(&u);
    mp_free(*kept);
    *kept = keep;
    return st;
}

/* Linear order: each state is measured with the earlier linear maps already compressed, and each
 * linear map is evaluated once. */
static mp_status run_states_in_turn(mp_runner *run, const mp_batch_item *item)
{
    int last = run->arch->n_states - 1;
    int64_t n_tokens = run->hidden->n_tokens, size = n_tokens * run->arch->states[last].width;
    float *kept = NULL, *buffer[3] = {NULL};
    double mark;
    mp_status st, pass = MP_OK;

    MP_GO(mp_comm_agree(run->comm, state_buffers(run, buffer)));
    for (int s = 0; s <= last; s++) MP_GO(run_state(run, s, item, &kept, buffer));
    mark = mp_seconds();
    for (int64_t i = 0; i < run->hidden->local && !item->is_last && pass == MP_OK; i++)
        pass = mp_forward_finish(run->forward, run->block, n_tokens,
                                 mp_hidden_sequence(run->hidden, i), kept + i * size);
    mp_clock_lap(&run->clock, MP_PHASE_FORWARD,
                 item->is_last ? 0.0 : (double)run->hidden->local * state_flop(run, last + 1),
                 &mark);
    round_hidden(run);
    MP_GO(mp_comm_agree(run->comm, pass));
out:
    mp_free(kept);
    for (int i = 0; i < 3; i++) mp_free(buffer[i]);
    return st;
}

/* Without calibration every state is compressed from its weights alone. */
static mp_status run_without_data(mp_runner *run, const mp_batch_item *item)
{
    const mp_outcome nothing = {.damping = NAN};

    for (int s = 0; s < run->arch->n_states; s++)
        if (unit_is_wanted(run, s, item->skip))
            MP_TRY(mp_runner_solve(run, s, NULL, &nothing, item->skip, item->results));
    return MP_OK;
}

mp_status mp_runner_batch(mp_runner *run, const mp_batch_item *items, int count)
{
    int wanted = 0;

    if (count > 1 && (run->order != MP_ORDER_DENSE || run->hidden == NULL))
        return mp_fail(MP_ERR_INTERNAL, "%d blocks at once: only in dense order", count);
    for (int k = 0; k < count; k++)
        for (int i = 0; i < run->arch->n_linears; i++) {
            items[k].results[i] = (mp_linear_result){.rank = items[k].block->linears[i].rank,
                                                     .rel_error = NAN,
                                                     .kept = NAN,
                                                     .outcome.damping = NAN};
            wanted |= !items[k].skip[i];
        }
    run->block = items->block;
    run->ranks = items->ranks;
    if (run->hidden == NULL) return run_without_data(run, items);
    if (!wanted && count == 1) return items->is_last ? MP_OK : pass_whole(run);
    return run->order == MP_ORDER_LINEAR ? run_states_in_turn(run, items)
                                         : run_states_together(run, items, count);
}

mp_status mp_runner_block(mp_runner *run, const int *skip, int is_last, mp_linear_result *results)
{
    const mp_batch_item item = {.block = run->block,
                                .skip = skip,
                                .ranks = run->ranks,
                                .is_last = is_last,
                                .results = results};

    return mp_runner_batch(run, &item, 1);
}
