/* Eigenvalues, orthogonal factors and singular values of distributed matrices (drect.h). */
#include "mpress/drect.h"

#include "dist_internal.h"
#include "mpress/fault.h"
#include "mpress/linalg.h"
#include "mpress/log.h"
#include "mpress/memory.h"

#include <limits.h>

void pdsytrd_(const char *, const int *, double *, const int *, const int *, const int *, double *,
              double *, double *, double *, const int *, int *);
void pdstedc_(const char *, const int *, double *, double *, double *, const int *, const int *,
              const int *, double *, const int *, int *, const int *, int *);
void pdormtr_(const char *, const char *, const char *, const int *, const int *, const double *,
              const int *, const int *, const int *, const double *, double *, const int *,
              const int *, const int *, double *, const int *, int *);
void pdlared1d_(const int *, const int *, const int *, const int *, const double *, double *,
                double *, const int *);
void pdsyev_(const char *, const char *, const int *, double *, const int *, const int *,
             const int *, double *, double *, const int *, const int *, const int *, double *,
             const int *, int *);
void pdgeqrf_(const int *, const int *, double *, const int *, const int *, const int *, double *,
              double *, const int *, int *);
void pdormqr_(const char *, const char *, const int *, const int *, const int *, const double *,
              const int *, const int *, const int *, const double *, double *, const int *,
              const int *, const int *, double *, const int *, int *);
void pdgesvd_(const char *, const char *, const int *, const int *, double *, const int *,
              const int *, const int *, double *, double *, const int *, const int *, const int *,
              double *, const int *, const int *, const int *, double *, const int *, int *);

static const int one = 1;

/* Workspace as ScaLAPACK asks for it, and room on top: some of its queries say too little (pdstedc),
 * and sizes are 32-bit (hpc notes of its issue 74). */
static mp_status workspace(double asked, int64_t formula, double **work, int *length)
{
    double largest = asked > (double)formula ? asked : (double)formula;
    int64_t room = (int64_t)(1.2 * largest) + 1024;

    if (room > INT_MAX)
        return mp_fail(MP_ERR_NOFIT,
                       "a workspace of %lld numbers does not fit the 32-bit integers of "
                       "ScaLAPACK: use more ranks",
                       (long long)room);
    *length = (int)room;
    return MP_NEW_RAW(*work, room, "workspace of ScaLAPACK");
}

static mp_status checked(const char *routine, int info)
{
    if (info == 0) return MP_OK;
    if (info < 0) return mp_fail(MP_ERR_INTERNAL, "%s: argument %d is not valid", routine, -info);
    return mp_fail(MP_ERR_NUMERIC, "%s did not converge (info %d)", routine, info);
}

/* What the reduction leaves: T's diagonal and off-diagonal, spread like the columns, and its
 * reflectors. */
typedef struct tridiagonal {
    double *d, *e, *tau; /* of this rank's columns */
} tridiagonal;

static mp_status reduce(mp_drect *a, tridiagonal *t)
{
    const int n = (int)a->rows, ask = -1;
    double *work = NULL, query = 0.0;
    int length, info = 0, da[9];
    mp_status st;

    mp_dist_describe_rect(a, da);
    MP_GO(MP_NEW(t->d, a->local_cols + 1, "a diagonal"));
    MP_GO(MP_NEW(t->e, a->local_cols + 1, "a diagonal"));
    MP_GO(MP_NEW(t->tau, a->local_cols + 1, "reflectors"));
out:
    MP_TRY(mp_grid_agree(a->on, st)); /* the query is a call of all, too */
    pdsytrd_("L", &n, a->data, &one, &one, da, t->d, t->e, t->tau, &query, &ask, &info);
    st = mp_grid_agree(a->on, workspace(query, 3 * a->on->nb, &work, &length));
    if (st == MP_OK) {
        pdsytrd_("L", &n, a->data, &one, &one, da, t->d, t->e, t->tau, work, &length, &info);
        st = checked("pdsytrd", info);
    }
    mp_free(work);
    return st;
}

/* The whole diagonals on every rank: values [n] and off [n]. */
static mp_status gather_diagonals(const mp_drect *a, const tridiagonal *t, double *values,
                                  double *off)
{
    const int n = (int)a->rows, ask = (int)a->rows;
    double *work = NULL;
    int da[9];
    mp_status st;

    mp_dist_describe_rect(a, da);
    MP_GO(mp_grid_agree(a->on, MP_NEW_RAW(work, n, "a diagonal")));
    pdlared1d_(&n, &one, &one, da, t->d, values, work, &ask);
    pdlared1d_(&n, &one, &one, da, t->e, off, work, &ask);
out:
    mp_free(work);
    return st;
}

/* More than pdstedc asks for, who forgets that pdlasrt sorts with np (nb + nq) numbers. */
static int64_t divide_formula(const mp_drect *z)
{
    int64_t nb = z->on->nb, np = z->local_rows + nb, nq = z->local_cols + nb;

    return 7 * z->rows + 2 * np * nq + np * (nb + nq);
}

static mp_status divide_and_conquer(double *values, double *off, mp_drect *z)
{
    const int n = (int)z->rows, ask = -1, integers = 7 * n + 8 * (z->on->grid.cols + 2);
    double *work = NULL, query = 0.0;
    int *iwork = NULL, length, info = 0, first = 0, dz[9];
    mp_status st;

    mp_dist_describe_rect(z, dz);
    MP_GO(mp_grid_agree(z->on, MP_NEW_RAW(iwork, integers, "workspace of ScaLAPACK")));
    pdstedc_("I", &n, values, off, z->data, &one, &one, dz, &query, &ask, &first, &ask, &info);
    st = mp_grid_agree(z->on, workspace(query, divide_formula(z), &work, &length));
    if (st == MP_OK) {
        info = 0;
        pdstedc_("I", &n, values, off, z->data, &one, &one, dz, work, &length, iwork, &integers,
                 &info);
        if (mp_fault(MP_FAULT_EIGEN)) info = 1;
        st = checked("pdstedc", info);
    }
    st = mp_grid_agree(z->on, st);
out:
    mp_free(work);
    mp_free(iwork);
    MP_TRY(st);
    /* a matrix of one tile is solved by its owner, who keeps the values to himself */
    return mp_mpi_check(MPI_Bcast(values, n, MPI_DOUBLE, 0, z->on->members), "telling eigenvalues");
}

/* Columns [n - k, n) of z to eigenvectors of the matrix that was reduced to `a`. */
static mp_status transform_back(const mp_drect *a, const double *tau, int64_t k, mp_drect *z)
{
    const int n = (int)a->rows, count = (int)k, first = n - count + 1, ask = -1;
    double *work = NULL, query = 0.0;
    int length, info = 0, da[9], dz[9];
    mp_status st;

    mp_dist_describe_rect(a, da);
    mp_dist_describe_rect(z, dz);
    pdormtr_("L", "L", "N", &n, &count, a->data, &one, &one, da, tau, z->data, &one, &first, dz,
             &query, &ask, &info);
    st = mp_grid_agree(a->on, workspace(query, 0, &work, &length));
    if (st == MP_OK) {
        pdormtr_("L", "L", "N", &n, &count, a->data, &one, &one, da, tau, z->data, &one, &first, dz,
                 work, &length, &info);
        st = checked("pdormtr", info);
    }
    mp_free(work);
    return st;
}

static mp_status eigen_grid(mp_drect *matrix, int64_t k, double *values, mp_drect *vectors,
                            mp_eigen_times *times)
{
    tridiagonal t = {NULL, NULL, NULL};
    double *off = NULL, mark = mp_seconds();
    mp_status st;

    MP_GO(mp_grid_agree(matrix->on, MP_NEW(off, matrix->rows + 1, "a diagonal")));
    MP_GO(reduce(matrix, &t));
    mp_lap(&mark, &times->reduce);
    MP_GO(gather_diagonals(matrix, &t, values, off));
    MP_GO(divide_and_conquer(values, off, vectors));
    mp_lap(&mark, &times->solve);
    MP_GO(transform_back(matrix, t.tau, k, vectors));
    mp_lap(&mark, &times->back);
out:
    mp_free(t.d);
    mp_free(t.e);
    mp_free(t.tau);
    mp_free(off);
    return st;
}

mp_status mp_drect_eigen(mp_drect *matrix, int64_t k, double *values, mp_drect *vectors,
                         mp_eigen_times *times)
{
    double seconds[3] = {0.0};
    mp_status st;

    if (matrix->on->grid.rows * matrix->on->grid.cols > 1)
        return eigen_grid(matrix, k, values, vectors, times);
    st = mp_dsyev_largest(matrix->rows, matrix->data, k, values, vectors->data, seconds);
    times->reduce += seconds[0];
    times->solve += seconds[1];
    times->back += seconds[2];
    return st;
}

mp_status mp_drect_eigen_by_qr(mp_drect *matrix, double *values, mp_drect *vectors)
{
    const int n = (int)matrix->rows, ask = -1;
    double *work = NULL, query = 0.0;
    int length, info = 0, da[9], dz[9];
    mp_status st;

    mp_dist_describe_rect(matrix, da);
    mp_dist_describe_rect(vectors, dz);
    pdsyev_("V", "L", &n, matrix->data, &one, &one, da, values, vectors->data, &one, &one, dz,
            &query, &ask, &info);
    st = mp_grid_agree(matrix->on, workspace(query, 0, &work, &length));
    if (st == MP_OK) {
        pdsyev_("V", "L", &n, matrix->data, &one, &one, da, values, vectors->data, &one, &one, dz,
                work, &length, &info);
        st = checked("pdsyev", info);
    }
    mp_free(work);
    return mp_grid_agree(matrix->on, st);
}

void mp_qr_free(mp_qr *qr)
{
    mp_free(qr->tau);
    *qr = (mp_qr){NULL, NULL};
}

/* R(i, j) has the owner and the local place of W(i, j). */
static void copy_upper(const mp_drect *w, mp_drect *r)
{
    for (int64_t j = 0; j < r->local_cols; j++)
        for (int64_t i = 0; i < r->local_rows; i++)
            r->data[j * r->local_rows + i] =
                mp_drect_row(r, i) <= mp_drect_col(r, j) ? w->data[j * w->local_rows + i] : 0.0;
}

mp_status mp_drect_qr(mp_drect *w, mp_drect *r, mp_qr *qr)
{
    const int m = (int)w->rows, n = (int)w->cols, ask = -1;
    double *work = NULL, query = 0.0;
    int length, info = 0, dw[9];
    mp_status st;

    *qr = (mp_qr){.reflectors = w};
    mp_dist_describe_rect(w, dw);
    MP_TRY(mp_grid_agree(w->on, MP_NEW(qr->tau, w->local_cols + 1, "reflectors")));
    pdgeqrf_(&m, &n, w->data, &one, &one, dw, qr->tau, &query, &ask, &info);
    st = mp_grid_agree(w->on, workspace(query, 0, &work, &length));
    if (st == MP_OK) {
        pdgeqrf_(&m, &n, w->data, &one, &one, dw, qr->tau, work, &length, &info);
        st = checked("pdgeqrf", info);
        copy_upper(w, r);
    }
    mp_free(work);
    return st;
}

mp_status mp_drect_apply_q(const mp_qr *qr, mp_drect *c)
{
    const int m = (int)c->rows, n = (int)c->cols, k = (int)qr->reflectors->cols, ask = -1;
    double *work = NULL, query = 0.0;
    int length, info = 0, dq[9], dc[9];
    mp_status st;

    mp_dist_describe_rect(qr->reflectors, dq);
    mp_dist_describe_rect(c, dc);
    pdormqr_("L", "N", &m, &n, &k, qr->reflectors->data, &one, &one, dq, qr->tau, c->data, &one,
             &one, dc, &query, &ask, &info);
    st = mp_grid_agree(c->on, workspace(query, 0, &work, &length));
    if (st == MP_OK) {
        pdormqr_("L", "N", &m, &n, &k, qr->reflectors->data, &one, &one, dq, qr->tau, c->data, &one,
                 &one, dc, work, &length, &info);
        st = checked("pdormqr", info);
    }
    mp_free(work);
    return st;
}

mp_status mp_drect_svd(mp_drect *a, double *values, mp_drect *u, mp_drect *vt)
{
    const int m = (int)a->rows, n = (int)a->cols, ask = -1;
    double *work = NULL, query = 0.0;
    int length, info = 0, da[9], du[9], dv[9];
    mp_status st;

    mp_dist_describe_rect(a, da);
    mp_dist_describe_rect(u, du);
    mp_dist_describe_rect(vt, dv);
    pdgesvd_("V", "V", &m, &n, a->data, &one, &one, da, values, u->data, &one, &one, du, vt->data,
             &one, &one, dv, &query, &ask, &info);
    st = mp_grid_agree(a->on, workspace(query, 0, &work, &length));
    if (st == MP_OK) {
        pdgesvd_("V", "V", &m, &n, a->data, &one, &one, da, values, u->data, &one, &one, du,
                 vt->data, &one, &one, dv, work, &length, &info);
        if (mp_fault(MP_FAULT_SVD)) info = 1;
        st = checked("pdgesvd", info);
    }
    mp_free(work);
    return mp_grid_agree(a->on, st);
}
