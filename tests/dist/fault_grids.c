/* Factorisations on grids of several ranks. */
#include "fault_tasks.h"
#include "golden.h"

#include "mpress/dlinalg.h"
#include "mpress/fileio.h"
#include "mpress/memory.h"
#include "mpress/method.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ORDER = 48, TILE = 16, RANK = 10 };

/* A well-conditioned H, the same on all ranks. */
static mp_status make_h(double **h)
{
    MP_TRY(MP_NEW(*h, ORDER * ORDER, "H"));
    for (int i = 0; i < ORDER; i++)
        for (int j = 0; j < ORDER; j++)
            (*h)[i * ORDER + j] = exp(-0.1 * abs(i - j)) + (i == j ? 1.0 + 0.01 * i : 0.0);
    return MP_OK;
}

static mp_status open_moment(const mp_comm *comm, mp_grid grid, mp_moment **moment)
{
    double *h = NULL;
    mp_status st = mp_comm_agree(comm, make_h(&h));

    if (st == MP_OK) st = golden_moment(comm, h, ORDER, TILE, grid, moment);
    mp_free(h);
    return st;
}

/* The ranks' checksums, mixed in their order. */
static mp_status mix(const mp_comm *comm, uint32_t mine, task_result *result)
{
    uint32_t all[64];

    MP_TRY(mp_mpi_check(MPI_Allgather(&mine, 1, MPI_UINT32_T, all, 1, MPI_UINT32_T, comm->mpi),
                        "checksums"));
    result->crc = mp_crc32c(result->crc, all, (size_t)comm->size * sizeof *all);
    return MP_OK;
}

static mp_status factor(const mp_comm *comm, mp_grid grid, task_result *result)
{
    const mp_method_options options = {.damp = 0.01, .blocksize = TILE};
    mp_outcome outcome = {0};
    mp_moment *m = NULL;
    mp_status st;

    MP_GO(open_moment(comm, grid, &m));
    MP_GO(mp_comm_agree(comm, mp_factor_damped(&options, m, &outcome)));
    result->retries += outcome.retries;
    MP_GO(mix(comm,
              mp_crc32c(0, m->matrix->data,
                        (size_t)(m->matrix->local_rows * m->matrix->local_cols) * sizeof(double)),
              result));
out:
    mp_moment_free(m);
    return st;
}

/* By tile columns of our own on a grid of one row, by p?potrf on one of one column. */
mp_status task_cholesky(const mp_comm *comm, task_result *result)
{
    *result = (task_result){.crc = 0};
    MP_TRY(factor(comm, (mp_grid){0, 1, comm->size}, result));
    return factor(comm, (mp_grid){0, comm->size, 1}, result);
}

static mp_status fill_weights(float **weight)
{
    MP_TRY(MP_NEW(*weight, 2 * ORDER * ORDER, "weights"));
    for (int i = 0; i < 2 * ORDER * ORDER; i++) (*weight)[i] = (float)sin(i * i % 1009);
    return MP_OK;
}

/* A wide map and a tall one. */
static mp_status factorise(const mp_comm *comm, int whiten, task_result *result)
{
    const mp_method_options options = {.blocksize = TILE, .whiten = whiten};
    mp_factors f[2] = {{.name = "wide", .d_out = 32, .d_in = ORDER, .rank = RANK},
                       {.name = "tall", .d_out = 2 * ORDER, .d_in = ORDER, .rank = RANK}};
    mp_outcome outcome = {0};
    mp_moment *m = NULL;
    float *weight = NULL;
    uint32_t crc = 0;
    mp_status st;

    *result = (task_result){.crc = 0};
    MP_GO(mp_comm_agree(comm, fill_weights(&weight)));
    f[0].weight = f[1].weight = weight;
    MP_GO(open_moment(comm, (mp_grid){0, 1, comm->size}, &m));
    MP_GO(mp_comm_agree(comm, mp_method_asvd_plus.factorise(&options, m, f, 2, &outcome)));
    for (int i = 0; i < 2; i++)
        crc = mp_crc32c(crc, f[i].b->data,
                        (size_t)(f[i].b->local_rows * f[i].b->local_cols) * sizeof(double));
    result->retries = outcome.retries;
    st = mix(comm, crc, result);
out:
    for (int i = 0; i < 2; i++) mp_factors_free(&f[i]);
    mp_moment_free(m);
    mp_free(weight);
    return st;
}

mp_status task_eigen(const mp_comm *comm, task_result *result)
{
    return factorise(comm, 0, result);
}

mp_status task_svd(const mp_comm *comm, task_result *result)
{
    return factorise(comm, 1, result);
}
