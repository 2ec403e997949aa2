/* The sweep over columns of SparseGPT and GPTQ (Frantar & Alistarh, arXiv:2301.00774, algorithm 1; Frantar
 * et al., arXiv:2210.17323, algorithm 1, which differ in what a column becomes).
 *
 * The papers' sweep needs U with H^-1 = U^T U.  With H = R R^T, R upper (moment.h), U is R^-1, and the
 * sweep can be written with R itself, so that nothing but the diagonal blocks is ever inverted: with
 * D = W - W' the difference so far, a block of columns B is entered with
 *     W_B + (D[:, before B] R[before B, B]) U_BB,   U_BB = R_BB^-1,
 * which equals the weights the papers' updates lead to, because D[:, before] = E U[before, before] and
 * U[before, B] = -U[before, before] R[before, B] U_BB. */
#include "sweep.h"

#include "mpress/linalg.h"
#include "mpress/memory.h"
#include "mpress/simd.h"

#include <omp.h>
#include <string.h>

static void sweep_close(sweep *s)
{
    mp_free(s->dead);
    mp_free(s->u);
    mp_free(s->inverse);
    mp_free(s->gathered);
    mp_free(s->prune);
}

/* Buffers; everything else of `s` is set. */
static mp_status sweep_open(sweep *s, double damping)
{
    const mp_problem *p = s->problem;
    int64_t nb = s->nb, strips = mp_threads() * MP_STRIP;

    MP_TRY(mp_damping_amount(p->moment, damping, &s->damped));
    MP_TRY(MP_NEW(s->dead, p->order, "dead columns"));
    MP_TRY(MP_NEW(s->u, nb * nb, "a block of the factor"));
    MP_TRY(MP_NEW(s->inverse, nb * nb, "a block of the factor"));
    MP_TRY(MP_NEW(s->gathered, strips * nb, "updates of strips"));
    MP_TRY(MP_NEW(s->prune, strips * nb, "masks of strips"));
    for (int64_t c = 0; c < p->n; c++) {
        int64_t channel = s->channel != NULL ? s->channel[c] : c;

        s->dead[c] = p->moment->diagonal[p->order - 1 - channel] == 0.0;
    }
    return MP_OK;
}

/* U_BB from the factor. */
static mp_status invert_block(sweep *s)
{
    int64_t nb = s->nb;
    mp_status st = MP_OK;

    for (int64_t i = 0; i < nb; i++)
        for (int64_t c = 0; c < nb; c++)
            s->inverse[i * nb + c] = c < i ? 0.0 : (double)s->factor[c * s->length + s->begin + i];
#pragma omp parallel
#pragma omp single
    st =
        mp_dtrtri_upper(nb, s->inverse, nb); /* inside a region, so that BLAS keeps to one thread */
    MP_TRY(st);
    for (int64_t i = 0; i < nb * nb; i++) s->u[i] = (float)s->inverse[i];
    return MP_OK;
}

/* Brings one strip of the block to where the earlier columns' errors have moved it; the original
 * weights go to the difference, from which the new ones will be taken off. */
static mp_status enter(const sweep *s, float *strip, float *difference, float *gathered)
{
    int64_t nb = s->nb, size = nb * MP_STRIP;
    float *w = strip + s->begin * MP_STRIP;

    memcpy(difference + s->begin * MP_STRIP, w, (size_t)size * sizeof *w);
    if (s->begin > 0) {
        MP_TRY(mp_sgemm(0, 0, nb, MP_STRIP, s->begin, 1.0f, s->factor, s->length, difference,
                        MP_STRIP, 0.0f, gathered, MP_STRIP));
        MP_TRY(mp_sgemm(1, 0, nb, MP_STRIP, nb, 1.0f, s->u, nb, gathered, MP_STRIP, 1.0f, w,
                        MP_STRIP));
    }
    for (int64_t c = 0; c < s->columns; c++)
        if (s->dead[s->begin + c]) memset(w + c * MP_STRIP, 0, MP_STRIP * sizeof *w);
    return MP_OK;
}

/* Column i of a block of a strip, whose weights were `old` and are now w[i]: zero where they are pruned,
 * and their error moves the later columns.  w and prune are [nb][MP_STRIP].  The squares of the errors are
 * added to `squares`: with D = E U and H^-1 = U^T U their sum is tr(D H D^T) of the damped H. */
MP_SIMD_CLONES
static void finish_column(float *restrict w, const float *restrict u,
                          const unsigned char *restrict prune, int64_t nb, int64_t i,
                          const float *restrict old, float *restrict squares)
{
    float error[MP_STRIP], inverse = 1.0f / u[i * nb + i];

    for (int r = 0; r < MP_STRIP; r++) {
        float value = prune[i * MP_STRIP + r] ? 0.0f : w[i * MP_STRIP + r];

        error[r] = (old[r] - value) * inverse;
        w[i * MP_STRIP + r] = value;
        squares[r] += error[r] * error[r];
    }
    for (int64_t j = i + 1; j < nb; j++)
        for (int r = 0; r < MP_STRIP; r++) w[j * MP_STRIP + r] -= error[r] * u[i * nb + j];
}

/* Buffers of one thread, [nb][MP_STRIP]. */
typedef struct workspace {
    float *gathered;
    unsigned char *prune;
} workspace;

/* Columns [from, to) of a strip in turn, masked by `prune`. */
static double step_columns(const sweep *s, int64_t strip, float *w, const unsigned char *prune,
                           int64_t from, int64_t to)
{
    float old[MP_STRIP], squares[MP_STRIP] = {0.0f};
    double sum = 0.0;

    for (int64_t i = from; i < to; i++) {
        int64_t channel = s->channel != NULL ? s->channel[s->begin + i] : s->begin + i;

        memcpy(old, w + i * MP_STRIP, sizeof old);
        if (s->options->quant.bits > 0)
            grids_round(s->options, s->problem, strip, channel, w + i * MP_STRIP);
        finish_column(w, s->u, prune, s->nb, i, old, squares);
    }
    for (int r = 0; r < MP_STRIP; r++) sum += (double)squares[r];
    return sum;
}

/* difference -= weight over one column of a strip; returns the sum of the squares of the result. */
MP_SIMD_CLONES
static double subtract_column(float *restrict difference, const float *restrict weight)
{
    float squares[16] = {0.0f};
    double sum = 0.0;

    for (int r = 0; r < MP_STRIP; r += 16)
        for (int i = 0; i < 16; i++) {
            float d = difference[r + i] - weight[r + i];

            difference[r + i] = d;
            squares[i] += d * d;
        }
    for (int i = 0; i < 16; i++) sum += (double)squares[i];
    return sum;
}

/* D_B = W_B - W'_B; and what the damping had added to the loss goes off again. */
static void take_difference(const sweep *s, int64_t strip)
{
    const mp_problem *p = s->problem;
    int64_t at = (strip * p->order + s->begin) * MP_STRIP;

    for (int64_t c = 0; c < s->columns; c++) {
        double squares =
            subtract_column(p->difference + at + c * MP_STRIP, p->weight + at + c * MP_STRIP);

        if (!s->dead[s->begin + c]) p->loss[strip] -= s->damped * squares;
    }
}

/* All columns of a strip's block, as many at once as are masked at once. */
static void step_strip(const sweep *s, int64_t strip, workspace *work)
{
    float *w = s->problem->weight + (strip * s->problem->order + s->begin) * MP_STRIP;
    int64_t step = s->masks->step > 0 ? s->masks->step : s->columns;

    for (int64_t at = 0; at < s->columns; at += step) {
        if (s->masks->choose != NULL)
            s->masks->choose(s, strip, at, step, w, work->gathered, work->prune);
        s->problem->loss[strip] += step_columns(s, strip, w, work->prune, at, at + step);
    }
    take_difference(s, strip);
}

/* First pass over a strip, and the only one where its masks do not wait for those of all rows. */
static mp_status first_pass(const sweep *s, int64_t strip, workspace *work)
{
    int64_t at = strip * s->problem->order * MP_STRIP;
    float *w = s->problem->weight + at;

    MP_TRY(enter(s, w, s->problem->difference + at, work->gathered));
    if (s->masks->settle != NULL)
        s->masks->look(s, strip, w + s->begin * MP_STRIP);
    else
        step_strip(s, strip, work);
    return MP_OK;
}

/* One pass over all strips of this rank. */
static mp_status pass(const sweep *s, int second)
{
    int64_t strips = s->problem->strips, size = s->nb * MP_STRIP;
    int failed = 0;

#pragma omp parallel reduction(| : failed)
    {
        int64_t at = omp_get_thread_num() * size;
        workspace work = {s->gathered + at, s->prune + at};

#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < strips; i++) {
            if (failed) continue;
            if (second)
                step_strip(s, i, &work);
            else
                failed |= first_pass(s, i, &work) != MP_OK;
        }
    }
    return failed
               ? mp_fail(MP_ERR_NOFIT, "a strip of %d rows does not fit the BLAS library", MP_STRIP)
               : MP_OK;
}

static mp_status sweep_block(sweep *s)
{
    MP_TRY(invert_block(s));
    MP_TRY(pass(s, 0));
    if (s->masks->settle == NULL) return MP_OK;
    MP_TRY(s->masks->settle(s));
    return pass(s, 1);
}

mp_status sweep_columns(const sweep_masks *masks, const mp_method_options *options,
                        const mp_outcome *outcome, const int64_t *channel, mp_problem *p)
{
    const mp_dmat *factor = p->moment->matrix;
    sweep s = {.options = options,
               .masks = masks,
               .problem = p,
               .channel = channel,
               .nb = options->blocksize};
    mp_stream *stream = NULL;
    mp_status st;

    st = mp_comm_agree(p->comm, sweep_open(&s, outcome->damping));
    if (st == MP_OK) st = mp_stream_create(factor, MP_LOWER_HALF, factor->tiles - 1, -1, &stream);
    for (int64_t begin = 0; begin < p->order && st == MP_OK; begin += s.nb) {
        float *column;

        MP_GO(mp_stream_next(stream, &column, &s.length));
        s.factor = column;
        s.begin = begin;
        s.columns = p->n - begin < s.nb ? p->n - begin : s.nb;
        MP_GO(sweep_block(&s));
    }
out:
    mp_stream_free(stream);
    sweep_close(&s);
    return st;
}
