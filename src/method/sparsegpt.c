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

#include "mpress/dlinalg.h"
#include "mpress/linalg.h"
#include "mpress/memory.h"
#include "mpress/simd.h"

#include <math.h>
#include <string.h>

static mp_status fits(const mp_method_options *options, const char *name, int64_t d_in)
{
    return mp_pattern_fits(&options->pattern, name, d_in, options->blocksize);
}

/* A channel that was never excited gets a one (paper's code); padding stays what it is. */
static double mend_diagonal(const mp_moment *m, double *diagonal, int64_t *dead)
{
    double sum = 0.0;

    *dead = 0;
    memcpy(diagonal, m->diagonal, (size_t)m->order * sizeof *diagonal);
    for (int64_t r = m->order - m->n; r < m->order; r++) {
        if (diagonal[r] == 0.0) {
            diagonal[r] = 1.0;
            ++*dead;
        }
        sum += diagonal[r];
    }
    return sum / (double)m->n;
}

/* H + damp mean(diag H) I = L L^T; where that is not positive definite, once more with ten times the
 * damping, up to the mean itself.  The upper triangle still holds H. */
static mp_status prepare(const mp_method_options *options, mp_moment *m, mp_outcome *outcome)
{
    enum { MOST_RETRIES = 12 };
    double *mended = NULL, *damped = NULL, mean;
    int64_t failed_at = 1;
    mp_status st = MP_OK;

    MP_GO(MP_NEW_RAW(mended, m->order, "a diagonal"));
    MP_GO(MP_NEW_RAW(damped, m->order, "a damped diagonal"));
    mean = mend_diagonal(m, mended, &outcome->dead);
    outcome->damping = options->damp;
    outcome->retries = 0;
    if (m->matrix->my_row < 0) goto out;
    for (;;) {
        for (int64_t r = 0; r < m->order; r++)
            damped[r] = mended[r] + (r < m->order - m->n ? 0.0 : outcome->damping * mean);
        mp_dmat_set_diagonal(m->matrix, damped);
        MP_GO(mp_dmat_cholesky(m->matrix, &failed_at));
        if (failed_at == 0) break;
        if (options->strict || outcome->damping >= 1.0 || outcome->retries == MOST_RETRIES) {
            st = mp_fail(MP_ERR_NUMERIC,
                         "the Hessian is not positive definite with damping %g (leading minor %lld "
                         "of %lld)%s",
                         outcome->damping, (long long)failed_at, (long long)m->order,
                         options->strict ? "; --strict allows no second try" : "");
            goto out;
        }
        outcome->retries++;
        outcome->damping = outcome->damping > 0.0 ? fmin(10.0 * outcome->damping, 1.0) : 1e-8;
        MP_GO(mp_dmat_mirror(m->matrix, MP_UPPER_HALF));
    }
out:
    mp_free(mended);
    mp_free(damped);
    return st;
}

/* What the sweep over one block of columns works with; nb columns, rows side by side (ld). */
typedef struct sweep {
    const mp_method_options *options;
    mp_problem *problem;
    int64_t nb;
    float *u;             /* [nb][nb] U_BB, upper, row-major */
    double *inverse;      /* [nb][nb] the same in double */
    float *gathered;      /* [nb][ld] D[:, before B] R[before B, B], transposed */
    float *score;         /* [nb][ld] (w / U_jj)^2: unstructured only */
    unsigned char *prune; /* [nb][ld] */
} sweep;

static void sweep_close(sweep *s)
{
    mp_free(s->u);
    mp_free(s->inverse);
    mp_free(s->gathered);
    mp_free(s->score);
    mp_free(s->prune);
}

static mp_status sweep_open(sweep *s, const mp_method_options *options, mp_problem *problem)
{
    int64_t nb = options->blocksize;

    *s = (sweep){.options = options, .problem = problem, .nb = nb};
    MP_TRY(MP_NEW(s->u, nb * nb, "a block of the factor"));
    MP_TRY(MP_NEW(s->inverse, nb * nb, "a block of the factor"));
    MP_TRY(MP_NEW(s->gathered, nb * problem->ld, "updates of a block"));
    MP_TRY(MP_NEW(s->score, nb * problem->ld, "scores of a block"));
    return MP_NEW(s->prune, nb * problem->ld, "the mask of a block");
}

/* U_BB from the column of the factor: column[c][i] = R[i][begin + c]. */
static mp_status invert_block(sweep *s, const float *column, int64_t length, int64_t begin)
{
    int64_t nb = s->nb;

    for (int64_t i = 0; i < nb; i++)
        for (int64_t c = 0; c < nb; c++)
            s->inverse[i * nb + c] = c < i ? 0.0 : (double)column[c * length + begin + i];
    MP_TRY(mp_dtrtri_upper(nb, s->inverse, nb));
    for (int64_t i = 0; i < nb * nb; i++) s->u[i] = (float)s->inverse[i];
    return MP_OK;
}

/* Brings the block's weights to where the earlier columns' errors have moved them; the original
 * weights go to `difference`, from which the block's new weights will be taken off. */
static mp_status enter_block(sweep *s, const float *column, int64_t length, int64_t begin)
{
    mp_problem *p = s->problem;
    int64_t ld = p->ld, nb = s->nb;
    float *weight = p->weight + begin * ld, *difference = p->difference + begin * ld;

    memcpy(difference, weight, (size_t)(nb * ld) * sizeof *weight);
    if (begin > 0) {
        MP_TRY(mp_sgemm(0, 0, nb, ld, begin, 1.0f, column, length, p->difference, ld, 0.0f,
                        s->gathered, ld));
        MP_TRY(mp_sgemm(1, 0, nb, ld, nb, 1.0f, s->u, nb, s->gathered, ld, 1.0f, weight, ld));
    }
    for (int64_t c = 0; c < nb && begin + c < p->n; c++)
        if (p->moment->diagonal[p->order - 1 - begin - c] == 0.0)
            memset(weight + c * ld, 0, (size_t)ld * sizeof *weight); /* a dead channel */
    return MP_OK;
}

MP_SIMD_CLONES
static void score_columns(const float *weight, int64_t columns, int64_t ld, const float *u, int64_t nb,
                          float *score)
{
    for (int64_t c = 0; c < columns; c++) {
        float inverse = 1.0f / u[c * nb + c];

        for (int64_t r = 0; r < ld; r++) {
            float scaled = weight[c * ld + r] * inverse;

            score[c * ld + r] = scaled * scaled;
        }
    }
}

MP_SIMD_CLONES
static void prune_up_to(const float *score, int64_t count, float threshold, unsigned char *prune)
{
    for (int64_t r = 0; r < count; r++) prune[r] = score[r] <= threshold;
}

/* One threshold per linear map over all rows of all ranks and the columns of this block: the score of
 * rank int(rows * columns * s), and all up to it go (so that ties may prune more). */
static mp_status mask_block(sweep *s, int64_t begin)
{
    mp_problem *p = s->problem;
    int64_t columns = p->n - begin < s->nb ? p->n - begin : s->nb;
    int64_t k[MP_MAX_LINEARS], smaller[MP_MAX_LINEARS];
    float threshold[MP_MAX_LINEARS];

    score_columns(p->weight + begin * p->ld, columns, p->ld, s->u, s->nb, s->score);
    for (int i = 0; i < p->parts; i++)
        k[i] = (int64_t)((double)(p->d_out[i] * columns) * s->options->pattern.sparsity);
    MP_TRY(mp_select_kth(p->comm, s->score, columns, p->ld, p->part, p->parts, k, threshold, smaller));
    memset(s->prune, 0, (size_t)(s->nb * p->ld));
    for (int i = 0; i < p->parts; i++)
        for (int64_t c = 0; c < columns; c++) {
            int64_t at = c * p->ld + p->part[i].first;

            prune_up_to(s->score + at, p->part[i].count, threshold[i], s->prune + at);
        }
    return MP_OK;
}

enum { STRIP = 64 }; /* rows at a time: a block of 128 columns of them fits the first-level cache */

/* The columns of one strip in turn: the pruned weight becomes zero, and its error moves the later
 * columns of the block.  w is [nb][STRIP], prune [nb][STRIP]; from column `from` up to `to`. */
MP_SIMD_CLONES
static void sweep_columns(float *restrict w, const float *restrict u,
                          const unsigned char *restrict prune, int64_t nb, int64_t from, int64_t to)
{
    for (int64_t i = from; i < to; i++) {
        float error[STRIP], inverse = 1.0f / u[i * nb + i];

        for (int r = 0; r < STRIP; r++) {
            float value = w[i * STRIP + r];

            error[r] = prune[i * STRIP + r] ? value * inverse : 0.0f;
            w[i * STRIP + r] = prune[i * STRIP + r] ? 0.0f : value;
        }
        for (int64_t j = i + 1; j < nb; j++)
            for (int r = 0; r < STRIP; r++) w[j * STRIP + r] -= error[r] * u[i * nb + j];
    }
}

/* n:m groups are chosen when the sweep reaches them, with the weights as they are then. */
static void sweep_groups(const sweep *s, float *w, unsigned char *prune, int64_t columns)
{
    int64_t m = s->options->pattern.m, n = s->options->pattern.n, nb = s->nb;
    float score[128 * STRIP];

    for (int64_t at = 0; at < columns; at += m) {
        score_columns(w + at * STRIP, m, STRIP, s->u + at * nb + at, nb, score);
        mp_select_n_of_m(score, STRIP, STRIP, n, m, prune + at * STRIP);
        sweep_columns(w, s->u, prune, nb, at, at + m);
    }
}

/* One strip of rows through the block; a short last strip works on zeros beyond its end. */
static void sweep_strip(const sweep *s, int64_t begin, int64_t row, float *w, unsigned char *prune)
{
    const mp_problem *p = s->problem;
    int64_t columns = p->n - begin < s->nb ? p->n - begin : s->nb;
    int64_t rows = p->ld - row < STRIP ? p->ld - row : STRIP;
    float *weight = p->weight + begin * p->ld + row;

    if (rows < STRIP) memset(w, 0, (size_t)(s->nb * STRIP) * sizeof *w);
    memset(prune, 0, (size_t)(s->nb * STRIP));
    for (int64_t c = 0; c < s->nb; c++) {
        memcpy(w + c * STRIP, weight + c * p->ld, (size_t)rows * sizeof *w);
        if (s->options->pattern.m == 0)
            memcpy(prune + c * STRIP, s->prune + c * p->ld + row, (size_t)rows);
    }
    if (s->options->pattern.m == 0)
        sweep_columns(w, s->u, prune, s->nb, 0, columns);
    else
        sweep_groups(s, w, prune, columns);
    for (int64_t c = 0; c < s->nb; c++)
        memcpy(weight + c * p->ld, w + c * STRIP, (size_t)rows * sizeof *w);
}

static mp_status sweep_block(sweep *s, int64_t begin)
{
    mp_problem *p = s->problem;
    int failed = 0;

#pragma omp parallel reduction(| : failed)
    {
        float *w = NULL;
        unsigned char *prune = NULL;

        failed = MP_NEW(w, s->nb * STRIP, "a strip of rows") != MP_OK ||
                 MP_NEW(prune, s->nb * STRIP, "a strip of the mask") != MP_OK;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < p->ld; row += STRIP)
            if (!failed) sweep_strip(s, begin, row, w, prune);
        mp_free(w);
        mp_free(prune);
    }
    if (failed) return mp_fail(MP_ERR_NOMEM, "no memory for a strip of %d rows", STRIP);
    for (int64_t i = begin * p->ld; i < (begin + s->nb) * p->ld; i++)
        p->difference[i] -= p->weight[i];
    return MP_OK;
}

static mp_status compress(const mp_method_options *options, const mp_outcome *outcome, mp_problem *p)
{
    const mp_dmat *factor = p->moment->matrix;
    mp_stream *stream = NULL;
    float *column;
    int64_t length;
    sweep s;
    mp_status st;

    (void)outcome;
    st = mp_comm_agree(p->comm, sweep_open(&s, options, p));
    if (st == MP_OK)
        st = mp_stream_create(factor, MP_LOWER_HALF, factor->tiles - 1, -1, &stream);
    for (int64_t begin = 0; begin < p->order && st == MP_OK; begin += s.nb) {
        MP_GO(mp_stream_next(stream, &column, &length));
        MP_GO(invert_block(&s, column, length, begin));
        MP_GO(enter_block(&s, column, length, begin));
        if (options->pattern.m == 0) MP_GO(mask_block(&s, begin));
        MP_GO(sweep_block(&s, begin));
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
    .needs = MP_NEED_MOMENT,
    .fits = fits,
    .prepare = prepare,
    .compress = compress,
};
