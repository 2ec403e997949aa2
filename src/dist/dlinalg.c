#include "mpress/dlinalg.h"

#include "dist_internal.h"
#include "mpress/fault.h"
#include "mpress/linalg.h"

#include <dlfcn.h>
#include <stdio.h>

/* There are no headers for C: these are the prototypes of ScaLAPACK 2 and its BLACS. */
int Csys2blacs_handle(MPI_Comm comm);
void Cfree_blacs_system_handle(int handle);
void Cblacs_gridmap(int *context, int *map, int ld, int rows, int cols);
void Cblacs_gridexit(int context);
void Cblacs_set(int context, int what, int *value);
void pdpotrf_(const char *, const int *, double *, const int *, const int *, const int *, int *);
void pdtran_(const int *, const int *, const double *, const double *, const int *, const int *,
             const int *, const double *, double *, const int *, const int *, const int *);

mp_status mp_dist_open_members(mp_dmat *m)
{
    int size = m->grid.rows * m->grid.cols;
    int range[1][3] = {{m->grid.first, m->grid.first + size - 1, 1}};
    MPI_Group all, grid;
    mp_status st;

    if (m->members != MPI_COMM_NULL) return MP_OK;
    MPI_Comm_group(m->comm->mpi, &all);
    MPI_Group_range_incl(all, 1, range, &grid);
    st = mp_mpi_check(MPI_Comm_create_group(m->comm->mpi, grid, 0, &m->members),
                      "making the communicator of a grid");
    MPI_Group_free(&grid);
    MPI_Group_free(&all);
    return st;
}

mp_status mp_dist_open_context(mp_dmat *m)
{
    enum { REPEATABLE = 15 }; /* sums in an order that does not depend on who comes first */
    int yes = 1;
    int map[4096]; /* column-major, as BLACS reads it; ranks of `members` */
    int handle;

    if (m->context >= 0) return MP_OK;
    if (m->grid.rows * m->grid.cols > (int)(sizeof map / sizeof map[0]))
        return mp_fail(MP_ERR_NOFIT, "a grid of %d x %d ranks is larger than %zu ranks",
                       m->grid.rows, m->grid.cols, sizeof map / sizeof map[0]);
    MP_TRY(mp_dist_open_members(m));
    for (int p = 0; p < m->grid.rows; p++)
        for (int q = 0; q < m->grid.cols; q++) map[q * m->grid.rows + p] = p * m->grid.cols + q;
    /* the handle is given back at once: freeing one later renumbers those that still live */
    handle = Csys2blacs_handle(m->members);
    m->context = handle;
    Cblacs_gridmap(&m->context, map, m->grid.rows, m->grid.rows, m->grid.cols);
    Cfree_blacs_system_handle(handle);
    Cblacs_set(m->context, REPEATABLE, &yes);
    return MP_OK;
}

void mp_dist_close_context(mp_dmat *matrix)
{
    if (matrix->context >= 0) Cblacs_gridexit(matrix->context);
    if (matrix->members != MPI_COMM_NULL) MPI_Comm_free(&matrix->members);
    matrix->context = -1;
}

/* The descriptor of ScaLAPACK: type, context, M, N, MB, NB, row source, column source, LLD. */
static void describe(const mp_dmat *m, int descriptor[9])
{
    const int words[9] = {1,
                          m->context,
                          (int)m->order,
                          (int)m->order,
                          (int)m->nb,
                          (int)m->nb,
                          0,
                          0,
                          m->local_rows > 0 ? (int)m->local_rows : 1};

    for (int i = 0; i < 9; i++) descriptor[i] = words[i];
}

/* Within one square of the local matrix: to[r][c] = from[c][r] on the other side of the diagonal. */
static void mirror_square(double *a, int64_t ld, int64_t n, mp_half from)
{
    for (int64_t c = 0; c < n; c++)
        for (int64_t r = c + 1; r < n; r++) {
            if (from == MP_LOWER_HALF)
                a[r * ld + c] = a[c * ld + r];
            else
                a[c * ld + r] = a[r * ld + c];
        }
}

/* On one rank, tile by tile, so that both sides of a copy stay in the cache. */
static void mirror_local(mp_dmat *m, mp_half from)
{
    int64_t ld = m->local_rows;

#pragma omp parallel for schedule(dynamic)
    for (int64_t j = 0; j < m->tiles; j++) {
        mirror_square(mp_dmat_tile(m, j, j), ld, m->nb, from);
        for (int64_t i = j + 1; i < m->tiles; i++) {
            double *low = mp_dmat_tile(m, i, j), *high = mp_dmat_tile(m, j, i);

            for (int64_t c = 0; c < m->nb; c++)
                for (int64_t r = 0; r < m->nb; r++) {
                    if (from == MP_LOWER_HALF)
                        high[r * ld + c] = low[c * ld + r];
                    else
                        low[c * ld + r] = high[r * ld + c];
                }
        }
    }
}

/* On a grid: the diagonal tiles by their owners, the rest of each tile column by p?tran, whose source
 * and target are disjoint parts of the same matrix. */
static void mirror_grid(mp_dmat *m, mp_half from)
{
    const double one = 1.0, zero = 0.0;
    const int nb = (int)m->nb;
    int d[9];

    describe(m, d);
    for (int64_t t = 0; t < m->tiles; t++) {
        int diagonal = (int)(t * m->nb) + 1, beyond = diagonal + nb;
        int rest = (int)m->order - beyond + 1;

        if (mp_grid_rank(&m->grid, t, t) == m->comm->rank)
            mirror_square(mp_dmat_tile(m, t, t), m->local_rows, m->nb, from);
        if (rest == 0) continue;
        if (from == MP_LOWER_HALF)
            pdtran_(&nb, &rest, &one, m->data, &beyond, &diagonal, d, &zero, m->data, &diagonal,
                    &beyond, d);
        else
            pdtran_(&rest, &nb, &one, m->data, &diagonal, &beyond, d, &zero, m->data, &beyond,
                    &diagonal, d);
    }
}

mp_status mp_dmat_mirror(mp_dmat *matrix, mp_half from)
{
    if (matrix->my_row < 0) return MP_OK;
    if (matrix->grid.rows * matrix->grid.cols == 1) {
        mirror_local(matrix, from);
        return MP_OK;
    }
    MP_TRY(mp_dist_open_context(matrix));
    mirror_grid(matrix, from);
    return MP_OK;
}

/* The ranks of a grid learn of a failed factorisation from the library, all of them. */
static int fails_on_purpose(const mp_dmat *matrix)
{
    int fails = mp_fault(MP_FAULT_CHOLESKY);

    if (atomic_load(&mp_fault_is_armed))
        MPI_Allreduce(MPI_IN_PLACE, &fails, 1, MPI_INT, MPI_MAX, matrix->members);
    return fails;
}

mp_status mp_dmat_cholesky(mp_dmat *matrix, int64_t *failed_at)
{
    const int one = 1, order = (int)matrix->order;
    int descriptor[9], info = 0;

    *failed_at = 0;
    if (matrix->my_row < 0) return MP_OK;
    if (matrix->order <= MP_EXACT_ORDER && matrix->grid.rows == 1)
        return mp_dist_cholesky_exact(matrix, failed_at);
    if (mp_comm_is_dry(matrix->comm)) return MP_OK;
    if (matrix->grid.rows * matrix->grid.cols == 1)
        return mp_dpotrf(matrix->order, matrix->data, matrix->local_rows, failed_at);
    MP_TRY(mp_dist_open_context(matrix));
    describe(matrix, descriptor);
    pdpotrf_("L", &order, matrix->data, &one, &one, descriptor, &info);
    if (info < 0) return mp_fail(MP_ERR_INTERNAL, "pdpotrf: argument %d is not valid", -info);
    if (fails_on_purpose(matrix)) info = 1;
    *failed_at = info;
    return MP_OK;
}

const char *mp_scalapack_description(void)
{
    static char text[512];
    void *address = dlsym(RTLD_DEFAULT, "pdpotrf_");
    Dl_info info;

    snprintf(text, sizeof text, "%s",
             address != NULL && dladdr(address, &info) != 0 && info.dli_fname != NULL
                 ? info.dli_fname
                 : "statically linked");
    return text;
}
