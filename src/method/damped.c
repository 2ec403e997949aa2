/* The Cholesky factor of a damped Hessian, which more than one method wants (method.h). */
#include "mpress/method.h"

#include "mpress/dlinalg.h"
#include "mpress/memory.h"

#include <math.h>
#include <string.h>

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
mp_status mp_factor_damped(const mp_method_options *options, mp_moment *m, mp_outcome *outcome)
{
    enum { MOST_RETRIES = 12 };
    double *mended = NULL, *damped = NULL, mean;
    int64_t failed_at = 1;
    mp_status st = MP_OK;

    st = MP_NEW_RAW(mended, m->order, "a diagonal");
    if (st == MP_OK) st = MP_NEW_RAW(damped, m->order, "a damped diagonal");
    if (m->matrix->my_row >= 0) st = mp_grid_agree(m->matrix, st);
    MP_GO(st);
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

mp_status mp_damping_amount(const mp_moment *m, double share, double *damped)
{
    double *mended = NULL;
    int64_t dead;

    MP_TRY(MP_NEW_RAW(mended, m->order, "a diagonal"));
    *damped = share * mend_diagonal(m, mended, &dead);
    mp_free(mended);
    return MP_OK;
}
