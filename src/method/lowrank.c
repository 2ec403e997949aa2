/* Low-rank factors W' = A B of a linear map, the best of their rank on the calibration data.
 *
 * ASVD+: Wang et al., "SVD-LLM", arXiv:2403.07378, whitens with the Cholesky factor S of H and cuts the
 * SVD of W S.  The optimum needs neither: W' = U_k U_k^T W with U_k the leading eigenvectors of
 * W H W^T, the covariance of the layer's outputs (Eckart-Young on W S, any S with S S^T = H; also found
 * in "Swift-SVD", arXiv:2604.01609).  H is never factored, so one of low rank is no special case.  Where
 * d_out > d_in the smaller side is taken: W = Q R, V_k the leading eigenvectors of R H R^T, A = Q V_k,
 * B = V_k^T R.  `whiten` takes the paper's road, for comparison.
 *
 * ASVD: Yuan et al., "ASVD: Activation-aware Singular Value Decomposition for Compressing Large Language
 * Models", arXiv:2312.05821: S = diag(mean |x_j|^alpha + 1e-6) in place of the Cholesky factor, and so
 * S^2 in place of H; the truncation is exact. */
#include "mpress/method.h"

#include "mpress/log.h"
#include "mpress/memory.h"

#include <math.h>

/* The eigensolver is fastest on small tiles (4096 on 2 ranks: reduction 3.8 s with 64, 4.3 s with 128). */
enum { TILE = 64 };

static mp_lowrank_times clock_so_far;

mp_lowrank_times mp_lowrank_clock(void)
{
    return clock_so_far;
}

void mp_factors_free(mp_factors *f)
{
    mp_drect_free(f->a);
    mp_drect_free(f->b);
    mp_free(f->spectrum);
    f->a = f->b = NULL;
    f->spectrum = NULL;
}

/* What stands for H between W and W^T: the moment, or a diagonal. */
typedef struct metric {
    const mp_method_options *options;
    mp_moment *moment;
    double
        *squares; /* [order] of the scales, in the order of the moment; NULL: the moment itself */
} metric;

/* The weights, channels reversed behind their padding: every rank of the grid picks its elements. */
static mp_status spread(const metric *m, const mp_factors *f, mp_drect **spread)
{
    int64_t order = m->moment->order;
    mp_drect *w;

    MP_TRY(mp_drect_create(m->moment->matrix, f->d_out, order, &w));
#pragma omp parallel for
    for (int64_t j = 0; j < w->local_cols; j++) {
        int64_t channel = order - 1 - mp_drect_col(w, j);

        for (int64_t i = 0; i < w->local_rows && channel < f->d_in; i++)
            w->data[j * w->local_rows + i] =
                (double)f->weight[mp_drect_row(w, i) * f->d_in + channel];
    }
    *spread = w;
    return MP_OK;
}

/* w times the squared scales, column by column. */
static void scale_columns(const metric *m, const mp_drect *w, mp_drect *y)
{
#pragma omp parallel for
    for (int64_t j = 0; j < w->local_cols; j++) {
        double square = m->squares[mp_drect_col(w, j)];

        for (int64_t i = 0; i < w->local_rows; i++)
            y->data[j * w->local_rows + i] = w->data[j * w->local_rows + i] * square;
    }
}

/* y -= (w mu) (T mu)^T, mu the mean of the tokens and T their weight: the moment about the mean. */
static mp_status take_off_mean(const metric *m, const mp_drect *w, mp_drect *y)
{
    const mp_channels *c = m->moment->channels;
    int64_t order = m->moment->order;
    double *output = NULL;
    mp_status st;

    MP_GO(mp_grid_agree(y->on, MP_NEW(output, w->rows, "mean outputs")));
    for (int64_t j = 0; j < w->local_cols; j++) {
        int64_t channel = order - 1 - mp_drect_col(w, j);

        for (int64_t i = 0; i < w->local_rows && channel < c->n; i++)
            output[mp_drect_row(w, i)] +=
                w->data[j * w->local_rows + i] * c->sum[channel] / c->weight;
    }
    if (y->on->grid.rows * y->on->grid.cols > 1)
        MPI_Allreduce(MPI_IN_PLACE, output, (int)w->rows, MPI_DOUBLE, MPI_SUM, y->on->members);
    for (int64_t j = 0; j < y->local_cols; j++) {
        int64_t channel = order - 1 - mp_drect_col(y, j);

        for (int64_t i = 0; i < y->local_rows && channel < c->n; i++)
            y->data[j * y->local_rows + i] -= output[mp_drect_row(y, i)] * c->sum[channel];
    }
out:
    mp_free(output);
    return st;
}

static mp_status check_finite(const mp_drect *gram, const char *name)
{
    mp_status st = MP_OK;

    for (int64_t i = 0; i < gram->local_rows * gram->local_cols && st == MP_OK;
         i++) /* zeros above */
        if (!isfinite(gram->data[i]))
            st = mp_fail(MP_ERR_NUMERIC, "%s: the covariance of its outputs is not finite", name);
    return mp_grid_agree(gram->on, st);
}

static double ranks_of(const mp_drect *rect)
{
    return (double)rect->on->grid.rows * rect->on->grid.cols;
}

/* The lower triangle of gram [rows, rows] = w H w^T. */
static mp_status make_gram(const metric *m, const mp_factors *f, const mp_drect *w, mp_drect **gram)
{
    const mp_drect h = mp_drect_view(m->moment->matrix);
    double mark = mp_seconds(), rows = (double)w->rows, n = (double)w->cols;
    double ranks = ranks_of(w);
    mp_drect *y = NULL, *g = NULL;
    mp_status st;

    MP_GO(mp_drect_create(m->moment->matrix, w->rows, w->cols, &y));
    if (m->squares != NULL)
        scale_columns(m, w, y);
    else
        MP_GO(mp_drect_multiply(0, 0, w, 0, &h, y));
    if (f->centered) MP_GO(take_off_mean(m, w, y));
    MP_GO(mp_drect_create(m->moment->matrix, w->rows, w->rows, &g));
    MP_GO(mp_drect_multiply_lower(y, w, g));
    MP_GO(check_finite(g, f->name));
    *gram = g;
    g = NULL;
    clock_so_far.gram_flop +=
        ((m->squares != NULL ? 0.0 : 2.0 * rows * n * n) + rows * rows * n) / ranks;
out:
    mp_drect_free(y);
    mp_drect_free(g);
    mp_lap(&mark, &clock_so_far.gram);
    return st;
}

/* The leading f->rank eigenvectors of w H w^T, [w->rows, w->rows], at its last columns.  Divide and
 * conquer can fail to converge: then QR iteration on a Gram matrix made anew. */
static mp_status leading_vectors(const metric *m, mp_factors *f, const mp_drect *w,
                                 mp_drect **vectors, mp_outcome *outcome)
{
    mp_eigen_times times = {0.0, 0.0, 0.0};
    mp_drect *gram = NULL, *z = NULL;
    double n = (double)w->rows;
    mp_status st;

    MP_GO(make_gram(m, f, w, &gram));
    MP_GO(mp_drect_create(gram->on, w->rows, w->rows, &z));
    st = mp_drect_eigen(gram, f->rank, f->spectrum, z, &times);
    if (st == MP_ERR_NUMERIC && !m->options->strict) {
        outcome->retries++;
        outcome->by_qr++; /* rank 0, which may not be of this grid, tells it */
        mp_drect_free(gram);
        gram = NULL;
        MP_GO(make_gram(m, f, w, &gram));
        st = mp_drect_eigen_by_qr(gram, f->spectrum, z);
    }
    MP_GO(st);
    *vectors = z;
    z = NULL;
    clock_so_far.reduce += times.reduce;
    clock_so_far.solve += times.solve;
    clock_so_far.back += times.back;
    clock_so_far.reduce_flop += 4.0 / 3.0 * n * n * n / ranks_of(w);
    clock_so_far.back_flop += 2.0 * n * n * (double)f->rank / ranks_of(w);
out:
    mp_drect_free(gram);
    mp_drect_free(z);
    return st;
}

/* A = U_k and B = U_k^T W. */
static mp_status project(const mp_drect *w, const mp_drect *vectors, mp_factors *f)
{
    double mark = mp_seconds();
    int64_t first = w->rows - f->rank;

    MP_TRY(mp_drect_create(w->on, w->rows, f->rank, &f->a));
    MP_TRY(mp_drect_create(w->on, f->rank, w->cols, &f->b));
    MP_TRY(mp_drect_copy_columns(vectors, first, f->a));
    MP_TRY(mp_drect_multiply(1, 0, f->a, 0, w, f->b));
    clock_so_far.factors_flop +=
        2.0 * (double)f->rank * (double)w->rows * (double)w->cols / ranks_of(w);
    mp_lap(&mark, &clock_so_far.factors);
    return MP_OK;
}

static mp_status factor_wide(const metric *m, mp_factors *f, mp_outcome *outcome)
{
    mp_drect *w = NULL, *vectors = NULL;
    mp_status st;

    MP_GO(spread(m, f, &w));
    MP_GO(leading_vectors(m, f, w, &vectors, outcome));
    st = project(w, vectors, f);
out:
    mp_drect_free(w);
    mp_drect_free(vectors);
    return st;
}

/* From the factors of R, [V_k, V_k^T R], those of W = Q R. */
static mp_status lift(const mp_qr *qr, int64_t d_out, mp_factors *f)
{
    double mark = mp_seconds();
    mp_drect *tall = NULL;
    mp_status st;

    MP_GO(mp_drect_create(f->a->on, d_out, f->rank, &tall));
    MP_GO(mp_drect_copy_columns(f->a, 0, tall));
    MP_GO(mp_drect_apply_q(qr, tall));
    mp_drect_free(f->a);
    f->a = tall;
    tall = NULL;
out:
    mp_drect_free(tall);
    mp_lap(&mark, &clock_so_far.factors);
    return st;
}

static mp_status factor_tall(const metric *m, mp_factors *f, mp_outcome *outcome)
{
    mp_drect *w = NULL, *r = NULL, *vectors = NULL;
    mp_qr qr = {NULL, NULL};
    double mark = mp_seconds();
    mp_status st;

    MP_GO(spread(m, f, &w));
    MP_GO(mp_drect_create(w->on, w->cols, w->cols, &r));
    MP_GO(mp_drect_qr(w, r, &qr));
    mp_lap(&mark, &clock_so_far.factors);
    MP_GO(leading_vectors(m, f, r, &vectors, outcome));
    MP_GO(project(r, vectors, f));
    st = lift(&qr, f->d_out, f);
out:
    mp_qr_free(&qr);
    mp_drect_free(w);
    mp_drect_free(r);
    mp_drect_free(vectors);
    return st;
}

/* The paper's road: W S = U diag(s) V^T, A = U_k, B = diag(s_k) V_k^T S^-1, S in the lower triangle of
 * the moment.  The spectrum is that of W H W^T, as on the other road. */
static mp_status factor_whitened(const metric *m, mp_factors *f, mp_outcome *outcome)
{
    const mp_drect s = mp_drect_view(m->moment->matrix);
    mp_drect *w = NULL, *u = NULL, *vt = NULL;
    double mark = mp_seconds();
    mp_status st;

    (void)outcome;
    MP_GO(spread(m, f, &w));
    MP_GO(mp_drect_create(w->on, w->rows, f->values, &u));
    MP_GO(mp_drect_create(w->on, f->values, w->cols, &vt));
    MP_GO(mp_drect_times_lower(&s, 0, w));
    MP_GO(mp_drect_svd(w, f->spectrum, u, vt));
    MP_GO(mp_drect_create(w->on, w->rows, f->rank, &f->a));
    MP_GO(mp_drect_copy_columns(u, 0, f->a));
    MP_GO(mp_drect_create(w->on, f->rank, w->cols, &f->b));
    for (int64_t j = 0; j < f->b->local_cols; j++) /* the first rows of vt have the places of b's */
        for (int64_t i = 0; i < f->b->local_rows; i++)
            f->b->data[j * f->b->local_rows + i] =
                vt->data[j * vt->local_rows + i] * f->spectrum[mp_drect_row(f->b, i)];
    MP_GO(mp_drect_times_lower(&s, 1, f->b));
    for (int64_t i = 0; i < f->values / 2; i++) {
        double swap = f->spectrum[i];

        f->spectrum[i] = f->spectrum[f->values - 1 - i];
        f->spectrum[f->values - 1 - i] = swap;
    }
    for (int64_t i = 0; i < f->values; i++) f->spectrum[i] *= f->spectrum[i];
out:
    mp_drect_free(w);
    mp_drect_free(u);
    mp_drect_free(vt);
    mp_lap(&mark, &clock_so_far.whiten);
    return st;
}

typedef mp_status (*road)(const metric *m, mp_factors *f, mp_outcome *outcome);

static mp_status factor_all(const metric *m, road given, mp_factors *factors, int count,
                            mp_outcome *outcome)
{
    for (int i = 0; i < count; i++) {
        mp_factors *f = &factors[i];
        int tall = f->d_out > m->moment->order;
        road take = given != NULL ? given : tall ? factor_tall : factor_wide;

        f->values = tall ? m->moment->order : f->d_out;
        f->rising = given == NULL;
        MP_TRY(mp_grid_agree(m->moment->matrix, MP_NEW(f->spectrum, f->values, "a spectrum")));
        MP_TRY(take(m, f, outcome));
    }
    return MP_OK;
}

static mp_status asvd_plus(const mp_method_options *options, mp_moment *moment, mp_factors *factors,
                           int count, mp_outcome *outcome)
{
    const metric m = {.options = options, .moment = moment};
    mp_method_options undamped = *options;

    for (int64_t r = moment->order - moment->n; r < moment->order; r++)
        outcome->dead += moment->diagonal[r] == 0.0;
    if (!options->whiten) return factor_all(&m, NULL, factors, count, outcome);
    undamped.damp = 0.0; /* as the papers' code begins */
    MP_TRY(mp_factor_damped(&undamped, moment, outcome));
    return factor_all(&m, factor_whitened, factors, count, outcome);
}

static mp_status asvd(const mp_method_options *options, mp_moment *moment, mp_factors *factors,
                      int count, mp_outcome *outcome)
{
    const mp_channels *c = moment->channels;
    metric m = {.options = options, .moment = moment};
    mp_status st;

    MP_GO(
        mp_grid_agree(moment->matrix, MP_NEW(m.squares, moment->order, "scales of the channels")));
    for (int64_t j = 0; j < c->n; j++) {
        double size = options->scale_by_max ? c->max_abs[j] : c->sum_abs[j] / c->weight;

        m.squares[moment->order - 1 - j] = pow(pow(size, options->alpha) + 1e-6, 2.0);
        outcome->dead += c->max_abs[j] == 0.0;
    }
    st = factor_all(&m, NULL, factors, count, outcome);
out:
    mp_free(m.squares);
    return st;
}

static mp_status fits(const mp_method_options *options, const char *name, int64_t d_in)
{
    (void)options, (void)name, (void)d_in;
    return MP_OK;
}

const mp_method mp_method_asvd_plus = {
    .name = "asvd+",
    .words = "low rank: leading directions of the layer's outputs (whitening by the Hessian)",
    .source =
        "Wang et al., \"SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language "
        "Model Compression\", arXiv:2403.07378",
    .order = "dense",
    .tile = TILE,
    .needs = MP_NEED_MOMENT,
    .whitens = 1,
    .fits = fits,
    .factorise = asvd_plus,
};

const mp_method mp_method_asvd = {
    .name = "asvd",
    .words = "low rank: SVD of the weights scaled by |activation|^alpha, channel by channel",
    .source =
        "Yuan et al., \"ASVD: Activation-aware Singular Value Decomposition for Compressing Large "
        "Language Models\", arXiv:2312.05821",
    .order = "dense",
    .tile = TILE,
    .needs = MP_NEED_MOMENT | MP_NEED_CHANNELS,
    .fits = fits,
    .factorise = asvd,
};
