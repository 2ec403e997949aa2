/* Low-rank factors against reference results, and one road against the other. */
#include "golden.h"
#include "worker.h"

#include "mpress/fileio.h"
#include "mpress/linalg.h"
#include "mpress/memory.h"
#include "mpress/method.h"
#include "mpress/rng.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A problem: one linear map and its Hessian, the same on all ranks. */
typedef struct layer {
    double *weight, *h; /* [m, n], [n, n] */
    double *abs_mean;   /* [n] or NULL */
    int64_t m, n, rank;
} layer;

static void layer_free(layer *l)
{
    mp_free(l->weight);
    mp_free(l->h);
    mp_free(l->abs_mean);
}

/* The product of the factors on every rank, from the pieces of the grid. */
static mp_status multiply_out(const mp_comm *c, const mp_factors *f, int64_t n, double *product)
{
    double *a = NULL, *b = NULL;

    MP_TRY(MP_NEW(a, f->d_out * f->rank, "A"));
    MP_TRY(MP_NEW(b, f->rank * n, "B"));
    for (int64_t j = 0; f->a != NULL && j < f->a->local_cols; j++)
        for (int64_t i = 0; i < f->a->local_rows; i++)
            a[mp_drect_row(f->a, i) * f->rank + mp_drect_col(f->a, j)] =
                f->a->data[j * f->a->local_rows + i];
    for (int64_t j = 0; f->b != NULL && j < f->b->local_cols; j++) {
        int64_t channel = f->b->cols - 1 - mp_drect_col(f->b, j);

        for (int64_t i = 0; i < f->b->local_rows && channel < n; i++)
            b[mp_drect_row(f->b, i) * n + channel] = f->b->data[j * f->b->local_rows + i];
    }
    MP_TRY(mp_comm_sum(c, a, (int)(f->d_out * f->rank)));
    MP_TRY(mp_comm_sum(c, b, (int)(f->rank * n)));
    MP_TRY(mp_dgemm(0, 0, f->d_out, n, f->rank, 1.0, a, f->rank, b, n, 0.0, product, n));
    mp_free(a);
    mp_free(b);
    return MP_OK;
}

/* A B by `method`, [m, n]; tail: the energy that the spectrum says is lost. */
static mp_status factor(const mp_comm *c, const layer *l, const char *method,
                        const mp_method_options *options, mp_grid grid, mp_outcome *outcome,
                        double *product, double *tail)
{
    mp_factors f = {.name = "the layer", .d_out = l->m, .d_in = l->n, .rank = l->rank};
    mp_moment *m = NULL;
    float *weight = NULL;
    mp_status st;

    MP_TRY(MP_NEW(weight, l->m * l->n, "weights"));
    for (int64_t i = 0; i < l->m * l->n; i++) weight[i] = (float)l->weight[i];
    f.weight = weight;
    MP_GO(golden_moment(c, l->h, l->n, options->blocksize, grid, &m));
    if (l->abs_mean != NULL) {
        MP_GO(mp_moment_track_channels(m));
        memcpy(m->channels->sum_abs, l->abs_mean, (size_t)l->n * sizeof(double));
        m->channels->weight = 1.0;
    }
    if (mp_grid_holds(&grid, c->rank))
        st = mp_method_find(method)->factorise(options, m, &f, 1, outcome);
    MP_GO(mp_comm_agree(c, st));
    MP_GO(multiply_out(c, &f, l->n, product));
    *tail = 0.0;
    for (int64_t i = 0; f.spectrum != NULL && i < f.values - f.rank; i++) *tail += f.spectrum[i];
    st = mp_comm_max(c, tail, 1); /* the ranks of the grid have the same */
out:
    mp_factors_free(&f);
    mp_moment_free(m);
    mp_free(weight);
    return st;
}

static double difference(const double *x, const double *y, int64_t count)
{
    double wrong = 0.0, all = 0.0;

    for (int64_t i = 0; i < count; i++) {
        wrong += (x[i] - y[i]) * (x[i] - y[i]);
        all += y[i] * y[i];
    }
    return sqrt(wrong / all);
}

static mp_status load_layer(const golden *g, const mp_source *statistics, const char *linear,
                            const char *state, layer *l)
{
    char name[128];
    int64_t shape[2];

    snprintf(name, sizeof name, "H.%lld.%s", (long long)g->block, state);
    MP_TRY(golden_load(statistics, name, &l->h, shape));
    snprintf(name, sizeof name, "abs_mean.%lld.%s", (long long)g->block, state);
    MP_TRY(golden_load(statistics, name, &l->abs_mean, shape));
    snprintf(name, sizeof name, "%lld.%s", (long long)g->block, linear);
    MP_TRY(golden_weight(g, name, &l->weight, shape));
    MP_EXPECT(l->h != NULL && l->abs_mean != NULL);
    l->m = shape[0];
    l->n = shape[1];
    l->rank = (int64_t)((double)(l->m * l->n) * 0.8) / (l->m + l->n);
    return MP_OK;
}

/* Both methods on one linear map: the product within 1e-4, the loss within 1e-4 of the optimum. */
static mp_status check_layer(const mp_comm *c, const golden *g, const mp_source *solve,
                             const char *linear, const layer *l, mp_grid grid)
{
    const mp_method_options options = {.blocksize = 64, .alpha = 0.5};
    double *product = NULL, *reference = NULL, *optimum = NULL, tail, loss;
    mp_outcome outcome = {0};
    int64_t shape[2];
    char name[128];

    MP_TRY(MP_NEW(product, l->m * l->n, "a product"));
    snprintf(name, sizeof name, "%lld.%s.asvd+.0.8", (long long)g->block, linear);
    MP_TRY(golden_load(solve, name, &reference, shape));
    snprintf(name, sizeof name, "%lld.%s.asvd+.0.8.loss", (long long)g->block, linear);
    MP_TRY(golden_load(solve, name, &optimum, shape));
    MP_EXPECT(reference != NULL && optimum != NULL);
    MP_TRY(factor(c, l, "asvd+", &options, grid, &outcome, product, &tail));
    loss = golden_loss(l->h, l->weight, product, l->n, 0, l->m);
    MP_EXPECT(difference(product, reference, l->m * l->n) <= 1e-4);
    MP_EXPECT(fabs(loss / optimum[0] - 1.0) <= 1e-4);
    MP_EXPECT(fabs(tail / optimum[0] - 1.0) <= 1e-4);
    mp_free(reference);
    snprintf(name, sizeof name, "%lld.%s.asvd.0.8", (long long)g->block, linear);
    MP_TRY(golden_load(solve, name, &reference, shape));
    MP_EXPECT(reference != NULL);
    MP_TRY(factor(c, l, "asvd", &options, grid, &outcome, product, &tail));
    MP_EXPECT(difference(product, reference, l->m * l->n) <= 1e-4);
    mp_free(reference);
    mp_free(optimum);
    mp_free(product);
    return MP_OK;
}

static mp_status check_golden(const mp_comm *c, const golden *g)
{
    static const char *const of[][2] = {
        {"self_attn.q_proj", "attn_in"}, {"mlp.gate_proj", "ffn_in"}, {"mlp.down_proj", "ffn_mid"}};
    mp_source *statistics = NULL, *solve = NULL;

    MP_TRY(golden_open(g, "statistics.safetensors", &statistics));
    MP_TRY(golden_open(g, "solve.safetensors", &solve));
    for (int i = 0; i < 3; i++) {
        layer l = {NULL, NULL, NULL, 0, 0, 0};

        MP_TRY(load_layer(g, statistics, of[i][0], of[i][1], &l));
        MP_TRY(check_layer(c, g, solve, of[i][0], &l, mp_grid_of(0, c->size)));
        MP_TRY(check_layer(c, g, solve, of[i][0], &l, (mp_grid){c->size - 1, 1, 1}));
        layer_free(&l);
    }
    mp_source_close(&statistics);
    mp_source_close(&solve);
    return MP_OK;
}

static mp_status factors_equal_the_reference(const mp_comm *c)
{
    for (int i = 0; i < GOLDENS; i++) {
        if (!mp_path_exists(goldens[i].dir)) {
            MP_TRY(mp_case_skip("no reference results of stories260k"));
            continue;
        }
        MP_TRY(check_golden(c, &goldens[i]));
    }
    return MP_OK;
}

/* Random weights, and H of `tokens` random tokens with channels of five strengths: singular where there are fewer than channels. */
static mp_status random_layer(int64_t m, int64_t n, int64_t tokens, int64_t rank, layer *l)
{
    float *x = NULL, *w = NULL;

    *l = (layer){.m = m, .n = n, .rank = rank};
    MP_TRY(MP_NEW(l->weight, m * n, "weights"));
    MP_TRY(MP_NEW(l->h, n * n, "H"));
    MP_TRY(MP_NEW(x, tokens * n, "tokens"));
    MP_TRY(MP_NEW(w, m * n, "weights"));
    mp_philox_normal(1, 0, 0, m * n, w);
    mp_philox_normal(2, 0, 0, tokens * n, x);
    for (int64_t i = 0; i < m * n; i++) l->weight[i] = (double)w[i];
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++)
                l->h[i * n + j] += (double)x[t * n + i] / (double)(1 + i % 5) *
                                   (double)x[t * n + j] / (double)(1 + j % 5);
    mp_free(x);
    mp_free(w);
    return MP_OK;
}

/* Gram and Cholesky on one layer; damped: whether the second is expected to need damping. */
static mp_status compare_roads(const mp_comm *c, const layer *l, mp_grid grid, int damped)
{
    mp_method_options options = {.blocksize = 64, .alpha = 0.5};
    double *gram = NULL, *whitened = NULL, bound, tail, losses[2];
    mp_outcome outcomes[2] = {{.damping = NAN}, {.damping = NAN}};

    MP_TRY(MP_NEW(gram, l->m * l->n, "a product"));
    MP_TRY(MP_NEW(whitened, l->m * l->n, "a product"));
    MP_TRY(factor(c, l, "asvd+", &options, grid, &outcomes[0], gram, &bound));
    options.whiten = 1;
    MP_TRY(factor(c, l, "asvd+", &options, grid, &outcomes[1], whitened, &tail));
    losses[0] = golden_loss(l->h, l->weight, gram, l->n, 0, l->m);
    losses[1] = golden_loss(l->h, l->weight, whitened, l->n, 0, l->m);
    MP_EXPECT(fabs(losses[0] / bound - 1.0) <= 1e-6);
    MP_EXPECT(fabs(losses[1] / losses[0] - 1.0) <= 1e-3);
    MP_EXPECT(outcomes[0].retries == 0);
    if (mp_grid_holds(&grid, c->rank))
        MP_EXPECT(damped ? outcomes[1].retries > 0 && outcomes[1].damping > 0.0
                         : outcomes[1].retries == 0);
    mp_free(gram);
    mp_free(whitened);
    return MP_OK;
}

/* Sizes that no tile divides, on both sides of d_out = d_in. */
static mp_status both_roads_agree(const mp_comm *c)
{
    static const int64_t sizes[][4] = {{100, 90, 400, 30}, {70, 150, 600, 40}, {260, 70, 300, 40}};
    mp_grid grid = mp_grid_of(0, c->size);
    layer l;

    for (int i = 0; i < 3; i++) {
        MP_TRY(random_layer(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], &l));
        MP_TRY(compare_roads(c, &l, grid, 0));
        layer_free(&l);
    }
    MP_TRY(random_layer(100, 90, 60, 20, &l)); /* fewer tokens than channels */
    MP_TRY(compare_roads(c, &l, grid, 1));
    layer_free(&l);
    return MP_OK;
}

static mp_status a_grid_finds_what_one_rank_finds(const mp_comm *c)
{
    const mp_method_options options = {.blocksize = 64};
    double *alone = NULL, *together = NULL, tails[2];
    mp_outcome outcome = {0};
    layer l;

    MP_TRY(random_layer(190, 230, 900, 70, &l));
    MP_TRY(MP_NEW(alone, l.m * l.n, "a product"));
    MP_TRY(MP_NEW(together, l.m * l.n, "a product"));
    MP_TRY(factor(c, &l, "asvd+", &options, (mp_grid){0, 1, 1}, &outcome, alone, &tails[0]));
    MP_TRY(factor(c, &l, "asvd+", &options, mp_grid_of(0, c->size), &outcome, together, &tails[1]));
    MP_EXPECT(fabs(tails[1] / tails[0] - 1.0) <= 1e-9);
    MP_EXPECT(difference(alone, together, l.m * l.n) <= 1e-9);
    mp_free(alone);
    mp_free(together);
    layer_free(&l);
    return MP_OK;
}

/* The road that is taken where divide and conquer does not converge: the same eigenvalues, orthonormal
 * vectors that the matrix only stretches. */
static mp_status qr_iteration_finds_the_same_pairs(const mp_comm *c)
{
    enum { N = 90, TILE = 16 };
    double values[2][N], wrong = 0.0;
    mp_eigen_times times = {0.0, 0.0, 0.0};
    mp_drect *a[2] = {NULL, NULL}, *z = NULL, *product = NULL;
    mp_dmat *square = NULL;

    MP_TRY(mp_dmat_create(c, mp_grid_of(0, c->size), (N + TILE - 1) / TILE * TILE, TILE, &square));
    if (square->my_row >= 0) {
        MP_TRY(mp_drect_create(square, N, N, &z));
        MP_TRY(mp_drect_create(square, N, N, &product));
        for (int k = 0; k < 2; k++) {
            MP_TRY(mp_drect_create(square, N, N, &a[k]));
            for (int64_t j = 0; j < a[k]->local_cols; j++)
                for (int64_t i = 0; i < a[k]->local_rows; i++)
                    a[k]->data[j * a[k]->local_rows + i] =
                        1.0 / (1.0 + (double)(mp_drect_row(a[k], i) + mp_drect_col(a[k], j)));
        }
        MP_TRY(mp_drect_eigen(a[0], 1, values[0], z, &times));
        MP_TRY(mp_drect_eigen_by_qr(a[1], values[1], z));
        for (int i = 0; i < N; i++)
            MP_EXPECT(fabs(values[0][i] - values[1][i]) <= 1e-13 * values[1][N - 1]);
        MP_TRY(mp_drect_multiply(1, 0, z, 0, z, product));
        for (int64_t j = 0; j < product->local_cols; j++)
            for (int64_t i = 0; i < product->local_rows; i++)
                wrong = fmax(wrong, fabs(product->data[j * product->local_rows + i] -
                                         (mp_drect_row(product, i) == mp_drect_col(product, j))));
        MP_EXPECT(wrong <= 1e-12);
    }
    mp_drect_free(a[0]);
    mp_drect_free(a[1]);
    mp_drect_free(z);
    mp_drect_free(product);
    mp_dmat_free(square);
    return mp_comm_agree(c, MP_OK);
}

static mp_status a_hessian_that_is_not_finite_is_refused(const mp_comm *c)
{
    const mp_method_options options = {.blocksize = 64};
    double *product = NULL, tail;
    mp_outcome outcome = {0};
    layer l;

    MP_TRY(random_layer(40, 50, 60, 10, &l));
    l.h[3 * l.n + 3] = INFINITY;
    MP_TRY(MP_NEW(product, l.m * l.n, "a product"));
    MP_EXPECT(factor(c, &l, "asvd+", &options, mp_grid_of(0, c->size), &outcome, product, &tail) ==
              MP_ERR_NUMERIC);
    MP_EXPECT(strstr(mp_error_message(), "not finite") != NULL);
    mp_free(product);
    layer_free(&l);
    return MP_OK;
}

const mp_case cases_lowrank[] = {
    {"factors_equal_the_reference", factors_equal_the_reference},
    {"both_roads_agree", both_roads_agree},
    {"a_grid_finds_what_one_rank_finds", a_grid_finds_what_one_rank_finds},
    {"qr_iteration_finds_the_same_pairs", qr_iteration_finds_the_same_pairs},
    {"a_hessian_that_is_not_finite_is_refused", a_hessian_that_is_not_finite_is_refused},
    {NULL, NULL},
};
