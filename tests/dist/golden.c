#include "golden.h"

#include "mpress/fileio.h"
#include "mpress/memory.h"
#include "mpress/safetensors.h"
#include "mpress/weights.h"

#include <stdio.h>

const golden goldens[GOLDENS] = {
    {MPRESS_DATA "/wikillama-5m", MPRESS_DATA "/golden", 3, "64,128,256", "maca.safetensors",
     MP_BF16, "integers.safetensors"},
    {MPRESS_SHARED "/models/stories260k", MPRESS_SHARED "/golden/stories260k", 0, "32,64,128",
     "statistics.safetensors", MP_F32, "solve.safetensors"},
    {MPRESS_SHARED "/models/stories260k", MPRESS_SHARED "/golden/stories260k", 2, "32,64,128",
     "statistics.safetensors", MP_F32, "solve.safetensors"},
};

mp_status golden_open(const golden *g, const char *file, mp_source **source)
{
    char *path = NULL;
    mp_status st;

    MP_TRY(mp_path_join(g->dir, file, &path));
    st = mp_safetensors_open(path, source);
    mp_free(path);
    return st;
}

mp_status golden_load(const mp_source *source, const char *name, double **values, int64_t shape[2])
{
    int64_t index = mp_source_find(source, name), count;
    const mp_tensor_info *info;
    float *single = NULL;
    mp_status st;

    *values = NULL;
    if (index < 0) return MP_OK;
    info = source->at(source->self, index);
    count = mp_tensor_elements(info);
    shape[0] = info->shape[0];
    shape[1] = info->ndim > 1 ? info->shape[1] : 1;
    MP_TRY(MP_NEW(*values, count, name));
    if (info->dtype == MP_F64) return source->read(source->self, index, 0, count * 8, *values);
    MP_TRY(MP_NEW(single, count, name));
    st = source->read(source->self, index, 0, count * 4, single);
    for (int64_t i = 0; i < count; i++) (*values)[i] = (double)single[i];
    mp_free(single);
    return st;
}

mp_status golden_moment(const mp_comm *c, const double *h, int64_t n, int64_t tile, mp_grid grid,
                        mp_moment **moment)
{
    mp_moment *m = NULL;
    mp_dmat *d;
    mp_status st;

    MP_TRY(mp_moment_create(c, n, tile, &m));
    d = m->matrix;
    for (int64_t j = 0; j < d->order; j++)
        for (int64_t i = j; i < d->order; i++) {
            int64_t a = d->order - 1 - i, b = d->order - 1 - j;

            if (a >= n || b >= n || mp_grid_rank(&d->grid, i / d->nb, j / d->nb) != c->rank)
                continue;
            mp_dmat_tile(d, i / d->nb, j / d->nb)[j % d->nb * d->local_rows + i % d->nb] =
                h[a * n + b];
        }
    st = mp_moment_finish(m, grid);
    if (st == MP_OK)
        *moment = m;
    else
        mp_moment_free(m);
    return st;
}

mp_status golden_weight(const golden *g, const char *linear, double **weight, int64_t shape[2])
{
    mp_source *model = NULL;
    char name[256];
    float *rows = NULL;
    const mp_tensor_info *info;

    snprintf(name, sizeof name, "model.layers.%s.weight", linear);
    MP_TRY(mp_safetensors_open(g->model, &model));
    info = model->at(model->self, mp_source_find(model, name));
    shape[0] = info->shape[0];
    shape[1] = info->shape[1];
    MP_TRY(MP_NEW(rows, shape[0] * shape[1], "weights"));
    MP_TRY(MP_NEW(*weight, shape[0] * shape[1], "weights"));
    MP_TRY(mp_weights_rows(model, name, 0, shape[0], rows));
    for (int64_t i = 0; i < shape[0] * shape[1]; i++) (*weight)[i] = (double)rows[i];
    mp_free(rows);
    mp_source_close(&model);
    return MP_OK;
}

mp_status golden_problem(const mp_comm *c, const mp_moment *m, const double *weight,
                         const int64_t shape[2], mp_dtype dtype, int64_t groups, mp_problem *p)
{
    *p = (mp_problem){.comm = c,
                      .moment = m,
                      .n = shape[1],
                      .order = m->order,
                      .groups = groups,
                      .parts = 1,
                      .part = {{.name = "the linear map", .dtype = dtype, .d_out = shape[0]}}};
    MP_TRY(mp_problem_open(p));
    for (int64_t r = 0; r < p->part[0].rows; r++)
        for (int64_t j = 0; j < p->n; j++)
            mp_problem_strip(p, p->weight, 0, r)[j * MP_STRIP + r % MP_STRIP] =
                (float)weight[(p->part[0].first_row + r) * p->n + j];
    return MP_OK;
}

double golden_loss(const double *h, const double *w, const double *v, int64_t n, int64_t begin,
                   int64_t count)
{
    double loss = 0.0;

    for (int64_t r = begin; r < begin + count; r++)
        for (int64_t i = 0; i < n; i++) {
            double di = w[r * n + i] - v[r * n + i], sum = 0.0;

            if (di == 0.0) continue;
            for (int64_t j = 0; j < n; j++) sum += h[i * n + j] * (w[r * n + j] - v[r * n + j]);
            loss += di * sum;
        }
    return loss;
}
