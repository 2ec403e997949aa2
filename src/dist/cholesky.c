/* Cholesky factorisation of moderate matrices, whose bits do not depend on the number of ranks.
 *
 * p?potrf hands its local library products whose shapes follow from the grid, and the library rounds
 * differently at the edges of a product (measured: OpenBLAS, AVX2), so that its factor changes with the
 * number of ranks.  Here whole tile columns belong to one rank, and every call has a shape that follows
 * from the place of the column in the matrix alone, on one thread (threads take different columns).
 * Right-looking, one tile column at a time, the next
 * one factorised first, so that it travels while the others are updated. */
#include "dist_internal.h"

#include "mpress/linalg.h"
#include "mpress/memory.h"

#include <string.h>

typedef struct panel {
    double *values; /* [nb][rows] column-major: the factor's column from its diagonal tile down */
    double failed;  /* leading minor that is not positive definite, 0 if all are */
    MPI_Request requests[2];
} panel;

static int owner_of(const mp_dmat *m, int64_t tile)
{
    return (int)(tile % m->grid.cols); /* in `members` */
}

/* Factorises tile column k, which all earlier ones have updated, and copies it to the panel. */
static mp_status factor_column(mp_dmat *m, int64_t k, panel *p)
{
    int64_t rows = m->order - k * m->nb, failed_at;
    double *diagonal = mp_dmat_tile(m, k, k);

    MP_TRY(mp_dpotrf(m->nb, diagonal, m->local_rows, &failed_at));
    p->failed = failed_at > 0 ? (double)(k * m->nb + failed_at) : 0.0;
    MP_TRY(mp_dtrsm_below(rows - m->nb, m->nb, diagonal, m->local_rows, diagonal + m->nb,
                          m->local_rows));
    for (int64_t c = 0; c < m->nb; c++)
        memcpy(p->values + c * rows, diagonal + c * m->local_rows,
               (size_t)rows * sizeof *p->values);
    return MP_OK;
}

static void count_column(const mp_dmat *m, int64_t k)
{
    mp_comm_count_broadcast(m->comm, (m->order - k * m->nb) * m->nb * 8, m->grid.first,
                            m->grid.cols);
}

/* Starts tile column k on its way to all ranks of the grid. */
static mp_status send_column(mp_dmat *m, int64_t k, panel *p)
{
    int64_t rows = m->order - k * m->nb;

    if (m->my_col == owner_of(m, k)) {
        mp_status st = MP_OK;

#pragma omp parallel
#pragma omp single
        st = factor_column(m, k, p); /* inside a region, so that BLAS keeps to one thread */
        MP_TRY(st);
        count_column(m, k);
    }
    MP_TRY(mp_mpi_check(
        MPI_Ibcast(&p->failed, 1, MPI_DOUBLE, owner_of(m, k), m->members, &p->requests[0]),
        "broadcasting a panel"));
    return mp_mpi_check(MPI_Ibcast(p->values, (int)(rows * m->nb), MPI_DOUBLE, owner_of(m, k),
                                   m->members, &p->requests[1]),
                        "broadcasting a panel");
}

/* Takes the part of factor column k off tile column j, where this rank has it. */
static mp_status update_column(mp_dmat *m, int64_t k, int64_t j, const panel *p)
{
    int64_t rows = m->order - k * m->nb;

    if (j >= m->tiles || m->my_col != owner_of(m, j)) return MP_OK;
    return mp_dupdate_column(m->order - j * m->nb, m->nb, m->nb, p->values + (j - k) * m->nb, rows,
                             mp_dmat_tile(m, j, j), m->local_rows);
}

static mp_status factorise(mp_dmat *m, panel p[2], int64_t *failed_at)
{
    int failed = 0;

    MP_TRY(send_column(m, 0, &p[0]));
    for (int64_t k = 0; k < m->tiles; k++) {
        panel *mine = &p[k % 2], *next = &p[(k + 1) % 2];

        MP_TRY(
            mp_mpi_check(MPI_Waitall(2, mine->requests, MPI_STATUSES_IGNORE), "receiving a panel"));
        if (mine->failed > 0.0) {
            *failed_at = (int64_t)mine->failed;
            return MP_OK;
        }
        MP_TRY(update_column(m, k, k + 1, mine));
        if (k + 1 < m->tiles) MP_TRY(send_column(m, k + 1, next));
#pragma omp parallel for schedule(dynamic) reduction(max : failed)
        for (int64_t j = k + 2; j < m->tiles; j++)
            if (update_column(m, k, j, mine) != MP_OK) failed = 1;
        if (failed) return mp_fail(MP_ERR_NOFIT, "a tile column does not fit the BLAS library");
    }
    return MP_OK;
}

mp_status mp_dist_cholesky_exact(mp_dmat *matrix, int64_t *failed_at)
{
    panel p[2] = {{.values = NULL}, {.values = NULL}};
    mp_status st;

    if (mp_comm_is_dry(matrix->comm)) {
        for (int64_t k = 0; k < matrix->tiles; k++)
            if (matrix->my_col == owner_of(matrix, k)) count_column(matrix, k);
        return MP_OK;
    }
    MP_TRY(mp_dist_open_members(matrix));
    st = MP_NEW_RAW(p[0].values, matrix->order * matrix->nb, "a panel of a factor");
    if (st == MP_OK)
        st = MP_NEW_RAW(p[1].values, matrix->order * matrix->nb, "a panel of a factor");
    MP_GO(mp_grid_agree(matrix, st));
    st = factorise(matrix, p, failed_at);
out:
    mp_free(p[0].values);
    mp_free(p[1].values);
    return st;
}
