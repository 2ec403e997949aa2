/* The linear maps of one state: weights in, compressed weights out, on every node (block_run.h). */
#include "mpress/block_run.h"

#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/tensor.h"

#include <math.h>
#include <string.h>

enum { ROW_UNIT = 16 }; /* rows of one vector register: a rank holds whole units of them */

void mp_runner_rows(const mp_runner *runner, int linear, int64_t *begin, int64_t *end)
{
    mp_share(runner->arch->linears[linear].d_out, ROW_UNIT, runner->comm->rank, runner->comm->size,
             begin, end);
}

/* Which linear map of the architecture each part of a problem is. */
typedef struct parts {
    int linear[MP_MAX_LINEARS];
    int64_t begin[MP_MAX_LINEARS]; /* this rank's first row of it */
} parts;

static mp_status problem_open(mp_runner *run, int state, const mp_moment *moment, const int *skip,
                              mp_problem *p, parts *which)
{
    const mp_state *s = &run->arch->states[state];
    int64_t tile = run->options.blocksize;

    *p = (mp_problem){.comm = run->comm, .moment = moment, .n = s->width};
    p->order = (s->width + tile - 1) / tile * tile;
    for (int i = s->first_linear; i < s->first_linear + s->linear_count; i++) {
        int64_t end;

        if (skip[i]) continue;
        which->linear[p->parts] = i;
        mp_runner_rows(run, i, &which->begin[p->parts], &end);
        p->part[p->parts] = (mp_rows){p->ld, end - which->begin[p->parts]};
        p->d_out[p->parts] = run->arch->linears[i].d_out;
        p->name[p->parts] = run->arch->linears[i].name;
        p->ld += (end - which->begin[p->parts] + ROW_UNIT - 1) / ROW_UNIT * ROW_UNIT;
        p->parts++;
    }
    MP_TRY(MP_NEW(p->weight, p->order * p->ld, "rows of weights"));
    return MP_NEW(p->difference, p->order * p->ld, "rows of differences");
}

static void problem_close(mp_problem *p)
{
    mp_free(p->weight);
    mp_free(p->difference);
}

/* Between rows [count][n] of a weight and columns [n][ld] of a problem, in squares that fit the cache. */
enum { SQUARE = 64 };

static void rows_to_columns(const float *rows, int64_t count, int64_t n, int64_t ld, float *columns)
{
#pragma omp parallel for
    for (int64_t j0 = 0; j0 < n; j0 += SQUARE)
        for (int64_t r0 = 0; r0 < count; r0 += SQUARE)
            for (int64_t j = j0; j < j0 + SQUARE && j < n; j++)
                for (int64_t r = r0; r < r0 + SQUARE && r < count; r++)
                    columns[j * ld + r] = rows[r * n + j];
}

static void columns_to_rows(const float *columns, int64_t count, int64_t n, int64_t ld, float *rows)
{
#pragma omp parallel for
    for (int64_t r0 = 0; r0 < count; r0 += SQUARE)
        for (int64_t j0 = 0; j0 < n; j0 += SQUARE)
            for (int64_t r = r0; r < r0 + SQUARE && r < count; r++)
                for (int64_t j = j0; j < j0 + SQUARE && j < n; j++)
                    rows[r * n + j] = columns[j * ld + r];
}

static float *own_rows(const mp_runner *run, const parts *which, int part)
{
    const mp_linear *linear = &run->block->linears[which->linear[part]];

    return linear->weight + which->begin[part] * linear->d_in;
}

static void load_weights(const mp_runner *run, const parts *which, mp_problem *p)
{
    for (int i = 0; i < p->parts; i++)
        rows_to_columns(own_rows(run, which, i), p->part[i].count, p->n, p->ld,
                        p->weight + p->part[i].first);
}

/* Rounds to the stored dtype, so that whatever is computed from now on uses the bits that are kept;
 * difference = dense - rounded. */
static mp_status round_weights(const mp_runner *run, const parts *which, mp_problem *p)
{
    for (int i = 0; i < p->parts; i++) {
        const mp_linear *linear = &run->block->linears[which->linear[i]];
        float *difference = p->difference + p->part[i].first;

        rows_to_columns(own_rows(run, which, i), p->part[i].count, p->n, p->ld, difference);
        for (int64_t j = 0; j < p->n; j++) {
            float *column = p->weight + j * p->ld + p->part[i].first;

            mp_round_f32(linear->dtype, column, p->part[i].count);
            if (mp_first_nonfinite(column, p->part[i].count) >= 0)
                return mp_fail(MP_ERR_NUMERIC, "%s: a compressed weight of column %lld is not finite",
                               p->name[i], (long long)j);
            for (int64_t r = 0; r < p->part[i].count; r++)
                difference[j * p->ld + r] -= column[r];
        }
    }
    return MP_OK;
}

/* The rows of all ranks to the weights of every node: inside a node by writing, between nodes by one
 * broadcast per rank among the first ranks of the nodes. */
static mp_status publish(const mp_runner *run, const parts *which, const mp_problem *p)
{
    const mp_comm *comm = run->comm;

    for (int i = 0; i < p->parts; i++)
        columns_to_rows(p->weight + p->part[i].first, p->part[i].count, p->n, p->ld,
                        own_rows(run, which, i));
    MP_TRY(mp_shared_fence(comm, run->block->memory));
    for (int i = 0; i < p->parts && comm->leaders != MPI_COMM_NULL && comm->node_count > 1; i++) {
        const mp_linear *linear = &run->block->linears[which->linear[i]];

        for (int r = 0; r < comm->size; r++) {
            int64_t begin, end;

            mp_share(linear->d_out, ROW_UNIT, r, comm->size, &begin, &end);
            MP_TRY(mp_comm_bcast_nodes(comm, linear->weight + begin * linear->d_in,
                                       (size_t)((end - begin) * linear->d_in) * sizeof(float),
                                       comm->node_of[r]));
        }
    }
    return mp_shared_fence(comm, run->block->memory);
}

/* Zeros of this rank's stored rows; of all ranks after the sum. */
static mp_status count_zeros(const mp_comm *comm, const mp_problem *p, double *sparsity)
{
    for (int i = 0; i < p->parts; i++) {
        int64_t zeros = 0;

        for (int64_t j = 0; j < p->n; j++)
            for (int64_t r = p->part[i].first; r < p->part[i].first + p->part[i].count; r++)
                zeros += p->weight[j * p->ld + r] == 0.0f;
        sparsity[i] = (double)zeros / ((double)p->d_out[i] * (double)p->n);
    }
    return mp_comm_sum(comm, sparsity, p->parts);
}

static mp_status measure(mp_runner *run, const mp_outcome *outcome, const mp_problem *p,
                         const parts *which, mp_linear_result *results)
{
    double energy[MP_MAX_LINEARS], loss[MP_MAX_LINEARS], sparsity[MP_MAX_LINEARS];

    MP_TRY(count_zeros(run->comm, p, sparsity));
    if (p->moment != NULL) MP_TRY(mp_layer_error(p, energy, loss));
    for (int i = 0; i < p->parts; i++)
        results[which->linear[i]] = (mp_linear_result){
            .compressed = 1,
            .sparsity = sparsity[i],
            .rel_error = p->moment == NULL ? NAN : energy[i] > 0.0 ? loss[i] / energy[i] : 0.0,
            .outcome = *outcome,
            .tokens = p->moment != NULL ? p->moment->tokens : 0,
        };
    return MP_OK;
}

mp_status mp_runner_solve(mp_runner *run, int state, const mp_moment *moment,
                          const mp_outcome *outcome, const int *skip, mp_linear_result *results)
{
    double mark = mp_seconds(), n = (double)run->arch->states[state].width;
    mp_problem p;
    parts which;
    mp_status st;

    MP_GO(mp_comm_agree(run->comm, problem_open(run, state, moment, skip, &p, &which)));
    if (p.parts == 0) goto out;
    load_weights(run, &which, &p);
    MP_GO(run->method->compress(&run->options, outcome, &p));
    mp_clock_lap(&run->clock, MP_PHASE_SWEEP,
                 run->method->prepare != NULL ? (double)p.ld * n * n : 0.0, &mark);
    MP_GO(mp_comm_agree(run->comm, round_weights(run, &which, &p)));
    MP_GO(measure(run, outcome, &p, &which, results));
    mp_clock_lap(&run->clock, MP_PHASE_ERROR, moment != NULL ? 2.0 * (double)p.ld * n * n : 0.0, &mark);
    MP_GO(publish(run, &which, &p));
    mp_clock_lap(&run->clock, MP_PHASE_PUBLISH, 0.0, &mark);
out:
    problem_close(&p);
    return st;
}
