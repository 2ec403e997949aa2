/* The symmetric eigenproblem on one rank (linalg.h): the other file of the door to LAPACK. */
#include "mpress/linalg.h"

#include "mpress/fault.h"
#include "mpress/log.h"
#include "mpress/memory.h"

#include <limits.h>

void dsytrd_(const char *, const int *, double *, const int *, double *, double *, double *,
             double *, const int *, int *);
void dstedc_(const char *, const int *, double *, double *, double *, const int *, double *,
             const int *, int *, const int *, int *);
void dormtr_(const char *, const char *, const char *, const int *, const int *, const double *,
             const int *, const double *, double *, const int *, double *, const int *, int *);

enum { PANEL = 64 }; /* columns of a blocked step, for the workspaces */

/* [4 n + n^2 + 1] serves all three steps; the off-diagonal and the reflectors stand behind it. */
typedef struct buffers {
    double *work, *off, *tau;
    int *iwork;
    int length, integers;
} buffers;

static mp_status allocate(int n, buffers *b)
{
    int64_t length = 1 + 4 * (int64_t)n + (int64_t)n * n + (int64_t)PANEL * n;

    if (length > INT_MAX)
        return mp_fail(
            MP_ERR_NOFIT,
            "eigenvectors of order %d do not fit the 32-bit integers of LAPACK: use more ranks", n);
    b->length = (int)length;
    b->integers = 3 + 5 * n;
    MP_TRY(MP_NEW_RAW(b->work, length, "workspace of LAPACK"));
    MP_TRY(MP_NEW_RAW(b->iwork, b->integers, "workspace of LAPACK"));
    MP_TRY(MP_NEW(b->off, n + 1, "a diagonal"));
    return MP_NEW(b->tau, n + 1, "reflectors");
}

static mp_status solve(int n, int k, double *a, double *values, double *vectors, buffers *b,
                       double seconds[3])
{
    double mark = mp_seconds();
    int info = 0;

    dsytrd_("L", &n, a, &n, values, b->off, b->tau, b->work, &b->length, &info);
    mp_lap(&mark, &seconds[0]);
    dstedc_("I", &n, values, b->off, vectors, &n, b->work, &b->length, b->iwork, &b->integers,
            &info);
    if (mp_fault(MP_FAULT_EIGEN)) info = 1;
    if (info != 0) return mp_fail(MP_ERR_NUMERIC, "dstedc did not converge (info %d)", info);
    mp_lap(&mark, &seconds[1]);
    dormtr_("L", "L", "N", &n, &k, a, &n, b->tau, vectors + (int64_t)(n - k) * n, &n, b->work,
            &b->length, &info);
    mp_lap(&mark, &seconds[2]);
    return MP_OK;
}

mp_status mp_dsyev_largest(int64_t order, double *a, int64_t k, double *values, double *vectors,
                           double seconds[3])
{
    buffers b = {NULL, NULL, NULL, NULL, 0, 0};
    int n;
    mp_status st;

    MP_GO(mp_to_blas_int(order, "order of an eigenproblem", &n));
    MP_GO(allocate(n, &b));
    st = solve(n, (int)k, a, values, vectors, &b, seconds);
out:
    mp_free(b.work);
    mp_free(b.iwork);
    mp_free(b.off);
    mp_free(b.tau);
    return st;
}
