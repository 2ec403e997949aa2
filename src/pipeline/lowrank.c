/* The linear maps of one state as factors: from the grid that found them to the weights of every node
 * (block_run.h). */
#include "solve.h"

#include "mpress/linalg.h"
#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/tensor.h"

#include <math.h>
#include <string.h>

void mp_clock_lowrank(mp_clock *c, const mp_lowrank_times *before)
{
    const mp_lowrank_times now = mp_lowrank_clock();

    c->seconds[MP_PHASE_GRAM] += now.gram - before->gram;
    c->flop[MP_PHASE_GRAM] += now.gram_flop - before->gram_flop;
    c->seconds[MP_PHASE_REDUCE] += now.reduce - before->reduce;
    c->flop[MP_PHASE_REDUCE] += now.reduce_flop - before->reduce_flop;
    c->seconds[MP_PHASE_EIGEN] += now.solve - before->solve;
    c->seconds[MP_PHASE_BACK] += now.back - before->back;
    c->flop[MP_PHASE_BACK] += now.back_flop - before->back_flop;
    c->seconds[MP_PHASE_FACTORS] += now.factors - before->factors;
    c->flop[MP_PHASE_FACTORS] += now.factors_flop - before->factors_flop;
    c->seconds[MP_PHASE_WHITEN] += now.whiten - before->whiten;
}

mp_status lowrank_factorise(mp_runner *run, int state, mp_moment *moment, const int *skip,
                            mp_factors *factors, mp_outcome *outcome)
{
    const mp_state *s = &run->arch->states[state];
    const mp_lowrank_times before = mp_lowrank_clock();
    mp_factors wanted[MP_MAX_LINEARS];
    int which[MP_MAX_LINEARS], count = 0;
    mp_status st;

    for (int i = s->first_linear; i < s->first_linear + s->linear_count; i++) {
        const mp_linear *l = &run->block->linears[i];

        if (skip[i]) continue;
        which[count] = i;
        wanted[count++] = (mp_factors){.name = run->arch->linears[i].name,
                                       .d_out = l->d_out,
                                       .d_in = l->d_in,
                                       .rank = run->ranks[i],
                                       .weight = l->weight,
                                       .centered = run->options.center && l->bias != NULL};
    }
    st = run->method->factorise(&run->options, moment, wanted, count, outcome);
    for (int i = 0; i < count; i++) factors[which[i]] = wanted[i];
    mp_clock_lowrank(&run->clock, &before);
    return st;
}

/* This rank's elements of A and B to their places in the shared weights, which are zero elsewhere: the
 * pair that keeps most first, channels in their own order. */
static void place(const mp_factors *f, const mp_linear *l)
{
    float *a = mp_linear_a(l), *b = mp_linear_b(l);

    for (int64_t j = 0; j < f->a->local_cols; j++) {
        int64_t pair = mp_drect_col(f->a, j), at = f->rising ? f->rank - 1 - pair : pair;

        for (int64_t i = 0; i < f->a->local_rows; i++)
            a[mp_drect_row(f->a, i) * f->rank + at] = (float)f->a->data[j * f->a->local_rows + i];
    }
    for (int64_t j = 0; j < f->b->local_cols; j++) {
        int64_t channel = f->b->cols - 1 - mp_drect_col(f->b, j);

        for (int64_t i = 0; i < f->b->local_rows && channel < l->d_in; i++) {
            int64_t pair = mp_drect_row(f->b, i), at = f->rising ? f->rank - 1 - pair : pair;

            b[at * l->d_in + channel] = (float)f->b->data[j * f->b->local_rows + i];
        }
    }
}

/* The largest entry of a column of A is made positive, and everything rounded to the stored dtype;
 * pairs [begin, end). */
static mp_status settle(const mp_linear *l, int64_t begin, int64_t end)
{
    float *a = mp_linear_a(l), *largest = NULL;
    int64_t count = end - begin;

    MP_TRY(MP_NEW(largest, count, "largest entries"));
    for (int64_t i = 0; i < l->d_out; i++)
        for (int64_t k = 0; k < count; k++) {
            float value = a[i * l->a_stride + begin + k];

            if (fabsf(value) > fabsf(largest[k])) largest[k] = value;
        }
    for (int64_t i = 0; i < l->d_out; i++) {
        float *row = a + i * l->a_stride + begin;

        for (int64_t k = 0; k < count; k++) row[k] = largest[k] < 0.0f ? -row[k] : row[k];
        mp_round_f32(l->dtype, row, count);
    }
    for (int64_t k = 0; k < count; k++) {
        float *row = mp_linear_b(l) + (begin + k) * l->d_in;

        for (int64_t j = 0; j < l->d_in && largest[k] < 0.0f; j++) row[j] = -row[j];
        mp_round_f32(l->dtype, row, l->d_in);
    }
    mp_free(largest);
    return MP_OK;
}

mp_status lowrank_share_factors(const mp_comm *comm, float *values, int64_t count)
{
    enum { PIECE = 1 << 26 };
    int64_t bytes = count * (int64_t)sizeof *values;

    if (comm->node_rank != 0 || comm->node_count == 1) return MP_OK;
    /* a large sum goes round in a ring twice: pieces are added, then handed out */
    mp_comm_count_bytes(bytes, 2 * bytes / comm->node_count * (comm->node_count - 1));
    for (int64_t i = 0; i < count && !mp_comm_is_dry(comm); i += PIECE) {
        int n = (int)(count - i < PIECE ? count - i : PIECE);

        MP_TRY(mp_mpi_check(
            MPI_Allreduce(MPI_IN_PLACE, values + i, n, MPI_FLOAT, MPI_SUM, comm->leaders),
            "gathering factors"));
    }
    return MP_OK;
}

/* One linear map's factors to the shared weights of every node, in place of the dense ones. */
static mp_status publish(const mp_runner *run, const mp_factors *f, int64_t rank, mp_linear *l)
{
    const mp_comm *comm = run->comm;
    int64_t size = mp_linear_parameters(l->d_out, l->d_in, rank), begin, end;

    MP_TRY(mp_shared_fence(comm, run->block->memory)); /* nobody reads the dense weights any more */
    l->rank = l->a_stride = rank;
    mp_share(size, 1, comm->node_rank, comm->node_size, &begin, &end);
    memset(l->weight + begin, 0, (size_t)(end - begin) * sizeof *l->weight);
    MP_TRY(mp_shared_fence(comm, run->block->memory));
    if (f->a != NULL) place(f, l);
    MP_TRY(mp_shared_fence(comm, run->block->memory));
    MP_TRY(mp_comm_agree(comm, lowrank_share_factors(comm, l->weight, size)));
    MP_TRY(mp_shared_fence(comm, run->block->memory));
    mp_share(rank, 1, comm->node_rank, comm->node_size, &begin, &end);
    MP_TRY(mp_comm_agree(comm, settle(l, begin, end)));
    return mp_shared_fence(comm, run->block->memory);
}

/* weight - A B on this rank's rows of a part, strip by strip. */
static mp_status subtract_product(const mp_linear *l, const mp_problem *p, int part)
{
    const mp_part *rows = &p->part[part];
    float *product = NULL, *strip = NULL;
    mp_status st;

    MP_GO(MP_NEW_RAW(product, MP_STRIP * p->n, "rows of a product"));
    MP_GO(MP_NEW(strip, p->order * MP_STRIP, "a strip of a product"));
    for (int64_t row = 0; row < rows->rows; row += MP_STRIP) {
        int64_t count = mp_strip_rows(rows, row);
        const float *weight = mp_problem_strip(p, p->weight, part, row);
        float *difference = mp_problem_strip(p, p->difference, part, row);

        MP_GO(mp_sgemm(0, 0, count, p->n, l->rank, 1.0f,
                       mp_linear_a(l) + (rows->first_row + row) * l->a_stride, l->a_stride,
                       mp_linear_b(l), p->n, 0.0f, product, p->n));
        if (mp_first_nonfinite(product, count * p->n) >= 0)
            MP_GO(mp_fail(MP_ERR_NUMERIC, "%s: a factor is not finite in %s", rows->name,
                          mp_dtype_name(l->dtype)));
        memset(strip, 0, (size_t)(p->order * MP_STRIP) * sizeof *strip);
        mp_strip_from_rows(product, count, p->n, strip);
        for (int64_t i = 0; i < p->order * MP_STRIP; i++) difference[i] = weight[i] - strip[i];
    }
out:
    mp_free(product);
    mp_free(strip);
    return st;
}

/* The bias takes what the mean of the activations loses: b += (W - A B) mu, rounded to its dtype.  Rank 0
 * of a node writes.  *mended: how much of the energy T |(W - A B) mu|^2 is therefore no error any more. */
static mp_status correct_bias(const mp_runner *run, const mp_problem *p, int part, mp_linear *l,
                              double *mended)
{
    const mp_channels *c = p->moment->channels;
    const mp_part *rows = &p->part[part];
    double *shift = NULL;
    float *bias = NULL;
    mp_status st = MP_NEW(shift, l->d_out, "a shift of the bias");

    if (st == MP_OK) st = MP_NEW(bias, l->d_out, "a bias");
    MP_GO(mp_comm_agree(run->comm, st));
    for (int64_t row = 0; row < rows->rows; row++) {
        const float *strip = mp_problem_strip(p, p->difference, part, row) + row % MP_STRIP;

        for (int64_t j = 0; j < p->n; j++)
            shift[rows->first_row + row] += (double)strip[j * MP_STRIP] * c->sum[j] / c->weight;
    }
    MP_GO(mp_comm_sum(run->comm, shift, (int)l->d_out));
    for (int64_t i = 0; i < l->d_out; i++) {
        double missed;

        bias[i] = l->bias[i] + (float)shift[i];
        mp_round_f32(l->bias_dtype, &bias[i], 1);
        missed =
            shift[i] - ((double)bias[i] - (double)l->bias[i]); /* what the dtype does not hold */
        *mended += c->weight * (shift[i] * shift[i] - missed * missed);
    }
    if (mp_first_nonfinite(bias, l->d_out) >= 0)
        MP_GO(mp_fail(MP_ERR_NUMERIC, "%s: a corrected bias is not finite in %s", rows->name,
                      mp_dtype_name(l->bias_dtype)));
    MP_GO(mp_shared_fence(run->comm, run->block->memory)); /* all have read the old one */
    if (run->comm->node_rank == 0) memcpy((float *)l->bias, bias, (size_t)l->d_out * sizeof *bias);
    st = mp_shared_fence(run->comm, run->block->memory);
out:
    mp_free(shift);
    mp_free(bias);
    return st;
}

/* What each pair of one linear map can keep, largest first, from the grid's first rank to all. */
static mp_status share_spectrum(const mp_runner *run, const mp_moment *moment, const mp_factors *f,
                                const mp_linear *l, double *spectrum)
{
    int64_t count = l->d_out < l->d_in ? l->d_out : l->d_in;

    for (int64_t i = 0; f->spectrum != NULL && i < count; i++)
        spectrum[i] = f->spectrum[f->values - 1 - i];
    return mp_comm_bcast(run->comm, spectrum, (size_t)count * sizeof *spectrum,
                         moment->matrix->grid.first);
}

mp_status lowrank_share_spectra(mp_runner *run, int state, const mp_moment *moment,
                                const mp_batch_item *item, const mp_factors *factors)
{
    const mp_state *s = &run->arch->states[state];

    for (int i = s->first_linear; i < s->first_linear + s->linear_count; i++)
        if (!item->skip[i])
            MP_TRY(share_spectrum(run, moment, &factors[i], &run->block->linears[i],
                                  item->spectra[i]));
    return MP_OK;
}

/* The share of what there is that the first pairs keep, as the grid's first rank knows it. */
static mp_status share_kept(const mp_runner *run, const mp_moment *moment, const mp_factors *f,
                            int64_t rank, double *kept)
{
    double all = 0.0, first = 0.0;

    for (int64_t i = 0; f->spectrum != NULL && i < f->values; i++) {
        all += f->spectrum[i];
        if (i >= f->values - rank) first += f->spectrum[i];
    }
    *kept = all > 0.0 ? first / all : 1.0;
    return mp_mpi_check(MPI_Bcast(kept, 1, MPI_DOUBLE, moment->matrix->grid.first, run->comm->mpi),
                        "telling the kept energy");
}

/* mended: [parts] energy of the differences that a corrected bias makes up for. */
static mp_status publish_all(mp_runner *run, const mp_problem *p, const int *linear,
                             mp_factors *factors, mp_linear_result *results, double *mended)
{
    for (int i = 0; i < p->parts; i++) {
        mp_linear *l = &run->block->linears[linear[i]];
        mp_factors *f = &factors[linear[i]];
        int64_t rank = run->ranks[linear[i]];

        MP_TRY(share_kept(run, p->moment, f, rank, &results[linear[i]].kept));
        MP_TRY(publish(run, f, rank, l));
        mp_factors_free(f);
        MP_TRY(mp_comm_agree(run->comm, subtract_product(l, p, i)));
        if (run->options.center && l->bias != NULL) MP_TRY(correct_bias(run, p, i, l, &mended[i]));
    }
    return MP_OK;
}

mp_status lowrank_publish(mp_runner *run, int state, const mp_moment *moment,
                          const mp_outcome *outcome, const int *skip, mp_factors *factors,
                          mp_linear_result *results)
{
    double mark = mp_seconds(), n = (double)run->arch->states[state].width, rows;
    double energy[MP_MAX_LINEARS] = {0.0}, loss[MP_MAX_LINEARS] = {0.0},
           mended[MP_MAX_LINEARS] = {0.0};
    int linear[MP_MAX_LINEARS];
    mp_problem p;
    mp_status st;

    MP_GO(mp_comm_agree(run->comm, solve_open(run, state, moment, skip, &p, linear)));
    if (p.parts == 0) goto out;
    rows = (double)(p.strips * MP_STRIP);
    MP_GO(mp_layer_energy(&p, p.weight, energy));
    mp_clock_lap(&run->clock, MP_PHASE_ERROR, rows * n * n, &mark);
    MP_GO(publish_all(run, &p, linear, factors, results, mended));
    mp_clock_lap(&run->clock, MP_PHASE_PUBLISH, 0.0, &mark);
    MP_GO(mp_layer_energy(&p, p.difference, loss));
    for (int i = 0; i < p.parts; i++) {
        mp_linear_result *r = &results[linear[i]];

        r->compressed = 1;
        r->rank = run->ranks[linear[i]];
        r->rel_error = energy[i] > 0.0 ? fmax(loss[i] - mended[i], 0.0) / energy[i] : 0.0;
        r->outcome = *outcome;
        r->tokens = moment->tokens;
    }
    mp_clock_lap(&run->clock, MP_PHASE_ERROR, rows * n * n, &mark);
out:
    mp_problem_close(&p);
    return st;
}
