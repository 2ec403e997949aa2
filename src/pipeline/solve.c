/* The linear maps of one state: weights in, compressed weights out, on every node (block_run.h). */
#include "solve.h"

#include "mpress/log.h"
#include "mpress/tensor.h"

#include <math.h>
#include <string.h>

void mp_runner_rows(const mp_runner *runner, int linear, int64_t *begin, int64_t *end)
{
    mp_share(runner->arch->linears[linear].d_out, MP_STRIP, runner->comm->rank, runner->comm->size,
             begin, end);
}

static mp_status problem_open(const mp_runner *run, int state, const mp_moment *moment,
                              const int *skip, mp_problem *p, int *linear)
{
    const mp_state *s = &run->arch->states[state];
    int64_t tile = run->options.blocksize;

    *p = (mp_problem){.comm = run->comm, .moment = moment, .n = s->width};
    p->order = (s->width + tile - 1) / tile * tile;
    if (run->options.quant.bits > 0) p->groups = mp_quant_groups(&run->options.quant, s->width);
    for (int i = s->first_linear; i < s->first_linear + s->linear_count; i++) {
        if (skip[i]) continue;
        linear[p->parts] = i;
        p->part[p->parts].name = run->arch->linears[i].name;
        p->part[p->parts].dtype = run->block->linears[i].dtype;
        p->part[p->parts++].d_out = run->arch->linears[i].d_out;
    }
    return mp_problem_open(p);
}

float *solve_node_row(const mp_runner *run, const mp_problem *p, int part, int linear, int64_t row)
{
    return run->block->linears[linear].weight + (p->part[part].first_row + row) * p->n;
}

static void load_weights(const mp_runner *run, const int *linear, mp_problem *p)
{
    for (int i = 0; i < p->parts; i++) {
#pragma omp parallel for
        for (int64_t row = 0; row < p->part[i].rows; row += MP_STRIP)
            mp_strip_from_rows(solve_node_row(run, p, i, linear[i], row),
                               mp_strip_rows(&p->part[i], row), p->n,
                               mp_problem_strip(p, p->weight, i, row));
    }
}

mp_status solve_open(const mp_runner *run, int state, const mp_moment *moment, const int *skip,
                     mp_problem *p, int *linear)
{
    MP_TRY(problem_open(run, state, moment, skip, p, linear));
    load_weights(run, linear, p);
    return MP_OK;
}

/* Rounds one strip to the stored dtype, so that whatever is computed from now on uses the bits that are
 * kept; difference = dense - rounded.  Weights on a grid stay as they are: their codes follow from what they
 * are before (quant.h).  Returns 0 where a weight is not finite. */
static int round_strip(mp_dtype dtype, const float *dense, int64_t rows, int64_t n, int on_grid,
                       float *weight, float *difference)
{
    int finite = 1;

    mp_strip_from_rows(dense, rows, n, difference);
    for (int64_t j = 0; j < n * MP_STRIP; j += MP_STRIP) {
        float rounded[MP_STRIP];

        memcpy(rounded, weight + j, sizeof rounded);
        mp_round_f32(dtype, rounded, MP_STRIP);
        finite &= mp_first_nonfinite(rounded, MP_STRIP) < 0;
        for (int i = 0; i < MP_STRIP; i++) difference[j + i] -= rounded[i];
        if (!on_grid) memcpy(weight + j, rounded, sizeof rounded);
    }
    return finite;
}

static mp_status round_weights(const mp_runner *run, const int *linear, mp_problem *p)
{
    for (int i = 0; i < p->parts; i++) {
        int finite = 1;

#pragma omp parallel for reduction(& : finite)
        for (int64_t row = 0; row < p->part[i].rows; row += MP_STRIP)
            finite &= round_strip(
                run->block->linears[linear[i]].dtype, solve_node_row(run, p, i, linear[i], row),
                mp_strip_rows(&p->part[i], row), p->n, p->groups > 0,
                mp_problem_strip(p, p->weight, i, row), mp_problem_strip(p, p->difference, i, row));
        if (!finite)
            return mp_fail(MP_ERR_NUMERIC, "%s: a compressed weight is not finite in %s",
                           p->part[i].name, mp_dtype_name(run->block->linears[linear[i]].dtype));
    }
    return MP_OK;
}

mp_status solve_share_rows(const mp_comm *comm, int64_t d_out, int64_t n, float *weight)
{
    if (comm->node_rank != 0 || comm->node_count == 1) return MP_OK;
    for (int r = 0, next; r < comm->size; r = next) {
        int64_t begin, end;

        next = mp_share_of_node(comm, d_out, MP_STRIP, r, &begin, &end);
        MP_TRY(mp_comm_bcast_nodes(comm, weight != NULL ? weight + begin * n : NULL,
                                   (size_t)((end - begin) * n) * sizeof *weight, comm->node_of[r]));
    }
    return MP_OK;
}

/* The rows of all ranks to the weights of every node: inside a node by writing, between nodes by one
 * broadcast per node among the first ranks of the nodes. */
static mp_status publish(const mp_runner *run, const int *linear, const mp_problem *p)
{
    const mp_comm *comm = run->comm;

    for (int i = 0; i < p->parts; i++) {
#pragma omp parallel for
        for (int64_t row = 0; row < p->part[i].rows; row += MP_STRIP)
            mp_strip_to_rows(mp_problem_strip(p, p->weight, i, row),
                             mp_strip_rows(&p->part[i], row), p->n,
                             solve_node_row(run, p, i, linear[i], row));
    }
    MP_TRY(mp_shared_fence(comm, run->block->memory));
    for (int i = 0; i < p->parts; i++)
        MP_TRY(
            solve_share_rows(comm, p->part[i].d_out, p->n, run->block->linears[linear[i]].weight));
    return mp_shared_fence(comm, run->block->memory);
}

/* The share of exact zeros in the stored rows of all ranks. */
static mp_status count_zeros(const mp_comm *comm, const mp_problem *p, double *sparsity)
{
    for (int i = 0; i < p->parts; i++) {
        int64_t zeros = 0;

        for (int64_t row = 0; row < p->part[i].rows; row++) {
            const float *strip = mp_problem_strip(p, p->weight, i, row) + row % MP_STRIP;

            for (int64_t j = 0; j < p->n; j++) zeros += strip[j * MP_STRIP] == 0.0f;
        }
        sparsity[i] = (double)zeros;
    }
    MP_TRY(mp_comm_sum(comm, sparsity, p->parts)); /* whole numbers: the order does not matter */
    for (int i = 0; i < p->parts; i++) sparsity[i] /= (double)p->part[i].d_out * (double)p->n;
    return MP_OK;
}

/* tr(D H D^T) of each part: as the method says, or measured on what was rounded. */
static mp_status find_loss(const mp_problem *p, double *loss)
{
    return p->loss_is_known ? mp_sum_strips(p, p->loss, loss)
                            : mp_layer_energy(p, p->difference, loss);
}

/* energy: tr(W H W^T) of each part, W the dense weights. */
static mp_status measure(mp_runner *run, const mp_outcome *outcome, const mp_problem *p,
                         const int *linear, const double *energy, mp_linear_result *results)
{
    double loss[MP_MAX_LINEARS], sparsity[MP_MAX_LINEARS];

    MP_TRY(count_zeros(run->comm, p, sparsity));
    if (p->moment != NULL) MP_TRY(find_loss(p, loss));
    for (int i = 0; i < p->parts; i++)
        results[linear[i]] = (mp_linear_result){
            .compressed = 1,
            .kept = NAN,
            .quant = run->options.quant,
            .sparsity = sparsity[i],
            .rel_error = p->moment == NULL ? NAN
                         : energy[i] > 0.0 ? loss[i] / energy[i]
                                           : 0.0,
            .outcome = *outcome,
            .tokens = p->moment != NULL ? p->moment->tokens : 0,
        };
    return MP_OK;
}

mp_status mp_runner_solve(mp_runner *run, int state, const mp_moment *moment,
                          const mp_outcome *outcome, const int *skip, mp_linear_result *results)
{
    double mark = mp_seconds(), n = (double)run->arch->states[state].width, rows;
    double energy[MP_MAX_LINEARS] = {0.0}, known;
    int linear[MP_MAX_LINEARS];
    mp_problem p;
    mp_status st;

    MP_GO(mp_comm_agree(run->comm, solve_open(run, state, moment, skip, &p, linear)));
    if (p.parts == 0) goto out;
    rows = (double)(p.strips * MP_STRIP);
    mp_clock_lap(&run->clock, MP_PHASE_SWEEP, 0.0, &mark);
    if (moment != NULL) MP_GO(mp_layer_energy(&p, p.weight, energy));
    mp_clock_lap(&run->clock, MP_PHASE_ERROR, moment != NULL ? rows * n * n : 0.0, &mark);
    MP_GO(mp_comm_agree(run->comm, run->method->compress(&run->options, outcome, &p)));
    mp_clock_lap(&run->clock, MP_PHASE_SWEEP, run->method->sweep_flop * rows * n * n, &mark);
    MP_GO(mp_comm_agree(run->comm, round_weights(run, linear, &p)));
    MP_GO(measure(run, outcome, &p, linear, energy, results));
    known = moment == NULL || p.loss_is_known ? 1.0 : 0.0;
    mp_clock_lap(&run->clock, MP_PHASE_ERROR, (1.0 - known) * rows * n * n, &mark);
    MP_GO(p.groups > 0 ? packing_publish(run, linear, &p) : publish(run, linear, &p));
    mp_clock_lap(&run->clock, MP_PHASE_PUBLISH, 0.0, &mark);
out:
    mp_problem_close(&p);
    return st;
}
