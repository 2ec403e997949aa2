/* SparseGPT: Frantar & Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
 * One-Shot", arXiv:2301.00774, algorithm 1; threshold, dead columns and damping as in its released
 * code.
 *
 * The paper's sweep needs U with H^-1 = U^T U.  With H = R R^T, R upper (moment.h), U is R^-1, and the
 * sweep can be written with R itself, so that nothing but the diagonal blocks is ever inverted: with
 * D = W - W' the difference so far, a block of columns B is entered with
 *     W_B + (D[:, before B] R[before B, B]) U_BB,   U_BB = R_BB^-1,
 * which equals the weights the paper's updates lead to, because D[:, before] = E U[before, before] and
 * U[before, B] = -U[before, before] R[before, B] U_BB. */
#include "mpress/method.h"

#include "mpress/linalg.h"
#include "mpress/memory.h"
#include "mpress/simd.h"

#include <math.h>
#include <omp.h>
#include <string.h>

static mp_status fits(const mp_method_options *options, const char *name, int64_t d_in)
{
    return mp_pattern_fits(&options->pattern, name, d_in, options->blocksize);
}

/* What the sweep over one block of columns works with. */
typedef struct sweep {
    const mp_method_options *options;
    mp_problem *problem;
    int64_t nb;          /* columns of a block */
    int64_t begin;       /* the first column of this one */
    int64_t columns;     /* of this one that are there: fewer than nb at the end */
    const float *factor; /* [nb][length]: factor[c][i] = R[i][begin + c] */
    int64_t length;
    float *u;        /* [nb][nb] U_BB, upper, row-major */
    double *inverse; /* [nb][nb] the same in double */
    double damped;   /* what the damping added to the diagonal of H */
    float *score;    /* [strips][nb][MP_STRIP] (w / U_jj)^2: unstructured only */
    float threshold[MP_MAX_LINEARS];

    /* a strip each for every thread, [threads][nb][MP_STRIP] */
    float *gathered; /* D[:, before B] R[before B, B], transposed; scores after */
    unsigned char *prune;
} sweep;

static void sweep_close(sweep *s)
{
    mp_free(s->u);
    mp_free(s->inverse);
    mp_free(s->score);
    mp_free(s->gathered);
    mp_free(s->prune);
}

static mp_status sweep_open(sweep *s, const mp_method_options *options, double damping,
                            mp_problem *problem)
{
    int64_t nb = options->blocksize, strips = mp_threads() * MP_STRIP;

    *s = (sweep){.options = options, .problem = problem, .nb = nb};
    MP_TRY(mp_damping_amount(problem->moment, damping, &s->damped));
    MP_TRY(MP_NEW(s->u, nb * nb, "a block of the factor"));
    MP_TRY(MP_NEW(s->inverse, nb * nb, "a block of the factor"));
    MP_TRY(MP_NEW(s->gathered, strips * nb, "updates of strips"));
    MP_TRY(MP_NEW(s->prune, strips * nb, "masks of strips"));
    if (options->pattern.m != 0) return MP_OK;
    return MP_NEW(s->score, problem->strips * nb * MP_STRIP, "scores of a block");
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
        if (s->problem->moment->diagonal[s->problem->order - 1 - s->begin - c] == 0.0)
            memset(w + c * MP_STRIP, 0, MP_STRIP * sizeof *w); /* a dead channel */
    return MP_OK;
}

/* (w / U_jj)^2 of columns of a strip; u is at the first of them on the diagonal. */
MP_SIMD_CLONES
static void score_columns(const float *w, int64_t columns, const float *u, int64_t nb, float *score)
{
    for (int64_t c = 0; c < columns; c++) {
        float inverse = 1.0f / u[c * nb + c];

        for (int r = 0; r < MP_STRIP; r++) {
            float scaled = w[c * MP_STRIP + r] * inverse;

            score[c * MP_STRIP + r] = scaled * scaled;
        }
    }
}

MP_SIMD_CLONES
static void prune_up_to(const float *score, int64_t count, float threshold, unsigned char *prune)
{
    for (int64_t r = 0; r < count; r++) prune[r] = score[r] <= threshold;
}

/* Columns [from, to) of a strip in turn: the pruned weight becomes zero, and its error moves the later
 * columns of the block.  w and prune are [nb][MP_STRIP].  Returns the sum of the squared errors: with
 * D = E U and H^-1 = U^T U, that is tr(D H D^T) of the damped H. */
MP_SIMD_CLONES
static double sweep_columns(float *restrict w, const float *restrict u,
                            const unsigned char *restrict prune, int64_t nb, int64_t from,
                            int64_t to)
{
    float squares[MP_STRIP] = {0.0f};
    double sum = 0.0;

    for (int64_t i = from; i < to; i++) {
        float error[MP_STRIP], inverse = 1.0f / u[i * nb + i];

        for (int r = 0; r < MP_STRIP; r++) {
            float value = w[i * MP_STRIP + r];

            error[r] = prune[i * MP_STRIP + r] ? value * inverse : 0.0f;
            w[i * MP_STRIP + r] = prune[i * MP_STRIP + r] ? 0.0f : value;
            squares[r] += error[r] * error[r];
        }
        for (int64_t j = i + 1; j < nb; j++)
            for (int r = 0; r < MP_STRIP; r++) w[j * MP_STRIP + r] -= error[r] * u[i * nb + j];
    }
    for (int r = 0; r < MP_STRIP; r++) sum += (double)squares[r];
    return sum;
}

/* n:m groups are chosen when the sweep reaches them, with the weights as they are then. */
static double sweep_groups(const sweep *s, float *w, float *score, unsigned char *prune)
{
    int64_t m = s->options->pattern.m, nb = s->nb;
    double loss = 0.0;

    for (int64_t at = 0; at < s->columns; at += m) {
        score_columns(w + at * MP_STRIP, m, s->u + at * nb + at, nb, score);
        mp_select_n_of_m(score, s->options->pattern.n, m, prune + at * MP_STRIP);
        loss += sweep_columns(w, s->u, prune, nb, at, at + m);
    }
    return loss;
}

/* Buffers of one thread, [nb][MP_STRIP]. */
typedef struct workspace {
    float *gathered;
    unsigned char *prune;
} workspace;

/* Part `p` of the problem that strip `strip` belongs to. */
static int part_of(const mp_problem *problem, int64_t strip)
{
    int p = 0;

    while (p + 1 < problem->parts && strip >= problem->part[p + 1].first_strip) p++;
    return p;
}

/* First pass over a strip, and for n:m the only one. */
static mp_status first_pass(const sweep *s, int64_t strip, workspace *work)
{
    int64_t at = strip * s->problem->order * MP_STRIP;
    float *w = s->problem->weight + at + s->begin * MP_STRIP;

    MP_TRY(enter(s, s->problem->weight + at, s->problem->difference + at, work->gathered));
    if (s->options->pattern.m == 0)
        score_columns(w, s->columns, s->u, s->nb, s->score + strip * s->nb * MP_STRIP);
    else
        s->problem->loss[strip] += sweep_groups(s, w, work->gathered, work->prune);
    return MP_OK;
}

/* Second pass: unstructured masks wait for the thresholds, which all ranks find together. */
static void second_pass(const sweep *s, int64_t strip, workspace *work)
{
    float *w = s->problem->weight + (strip * s->problem->order + s->begin) * MP_STRIP;

    prune_up_to(s->score + strip * s->nb * MP_STRIP, s->columns * MP_STRIP,
                s->threshold[part_of(s->problem, strip)], work->prune);
    s->problem->loss[strip] += sweep_columns(w, s->u, work->prune, s->nb, 0, s->columns);
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
        int dead = p->moment->diagonal[p->order - 1 - s->begin - c] == 0.0;
        double squares =
            subtract_column(p->difference + at + c * MP_STRIP, p->weight + at + c * MP_STRIP);

        if (!dead) p->loss[strip] -= s->damped * squares;
    }
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
                second_pass(s, i, &work);
            else
                failed |= first_pass(s, i, &work) != MP_OK;
            if (second || s->options->pattern.m != 0) take_difference(s, i);
        }
    }
    return failed
               ? mp_fail(MP_ERR_NOFIT, "a strip of %d rows does not fit the BLAS library", MP_STRIP)
               : MP_OK;
}

/* One threshold per linear map over all rows of all ranks and the columns of this block: the score of
 * rank int(rows * columns * s), and all up to it go (so that ties may prune more). */
static mp_status find_thresholds(sweep *s)
{
    mp_problem *p = s->problem;
    int64_t k[MP_MAX_LINEARS], smaller[MP_MAX_LINEARS];

    for (int i = 0; i < p->parts; i++)
        k[i] = (int64_t)((double)(p->part[i].d_out * s->columns) * s->options->pattern.sparsity);
    return mp_select_kth(p->comm, s->score, s->columns, s->nb, p->part, p->parts, k, s->threshold,
                         smaller);
}

static mp_status sweep_block(sweep *s)
{
    MP_TRY(invert_block(s));
    MP_TRY(pass(s, 0));
    if (s->options->pattern.m != 0) return MP_OK;
    MP_TRY(find_thresholds(s));
    return pass(s, 1);
}

static mp_status compress(const mp_method_options *options, const mp_outcome *outcome,
                          mp_problem *p)
{
    const mp_dmat *factor = p->moment->matrix;
    mp_stream *stream = NULL;
    sweep s;
    mp_status st;

    st = mp_comm_agree(p->comm, sweep_open(&s, options, outcome->damping, p));
    p->loss_is_known = 1;
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

const mp_method mp_method_sparsegpt = {
    .name = "sparsegpt",
    .words = "one-shot pruning with second-order updates of the weights that stay",
    .source = "Frantar & Alistarh, arXiv:2301.00774",
    .order = "block",
    .needs = MP_NEED_MOMENT,
    .factor_flop = 1.0 / 3.0,
    .sweep_flop = 1.0,
    .streams = 1,
    .knows_loss = 1,
    .fits = fits,
    .prepare = mp_factor_damped,
    .compress = compress,
};
