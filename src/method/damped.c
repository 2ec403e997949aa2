/* The Cholesky factor of a damped Hessian, which more than one method wants (method.h). */
#include "mpress/method.h"

#include "mpress/dlinalg.h"
#include "mpress/memory.h"

#include <math.h>
#include <string.h>

/* A channel that was never excited gets what the others have on average, which is returned; the papers' code
 * gives it a one, so that the damping would depend on the unit of H.  Padding stays what it is. */
static double mend_diagonal(const mp_moment *m, double *diagonal, int64_t *dead)
{
    const int64_t first = m->order - m->n;
    double sum = 0.0, mean;

    *dead = 0;
    memcpy(diagonal, m->diagonal, (size_t)m->order * sizeof *diagonal);
    for (int64_t r = first; r < m->order; r++) {
        sum += diagonal[r];
        *dead += diagonal[r] == 0.0;
    }
    mean = *dead < m->n ? sum / (double)(m->n - *dead) : 1.0;
    for (int64_t r = first; r < m->order; r++)
        if (diagonal[r] == 0.0) diagonal[r] = mean;
    return mean;
}

/* Which row of the matrix each row is to be taken from, by falling diagonal of H; both count backwards. */
static mp_status find_order(const mp_moment *m, int64_t **from)
{
    int64_t *channel = NULL, *row = NULL;
    mp_status st;

    MP_GO(MP_NEW_RAW(channel, m->order, "an order of channels"));
    MP_GO(mp_moment_order(m, channel));
    MP_GO(MP_NEW_RAW(row, m->order, "an order of rows"));
    for (int64_t r = 0; r < m->order; r++) row[r] = m->order - 1 - channel[m->order - 1 - r];
    *from = row;
out:
    mp_free(channel);
    return st;
}

/* What the factorisation of a state works with; all that is its own. */
typedef struct diagonals {
    double *mended, *damped; /* [order] */
    int64_t *from;           /* [order] NULL: rows as they are */
} diagonals;

static mp_status diagonals_open(const mp_method_options *options, const mp_moment *m, diagonals *d)
{
    *d = (diagonals){.mended = NULL};
    MP_TRY(MP_NEW_RAW(d->mended, m->order, "a diagonal"));
    MP_TRY(MP_NEW_RAW(d->damped, m->order, "a damped diagonal"));
    return options->act_order ? find_order(m, &d->from) : MP_OK;
}

static void diagonals_close(diagonals *d)
{
    mp_free(d->mended);
    mp_free(d->damped);
    mp_free(d->from);
}

/* H to the lower triangle, from the upper one, which still holds it; `again` after a factorisation. */
static mp_status fill_lower(mp_moment *m, const diagonals *d, int again)
{
    if (d->from != NULL) return mp_dmat_permute(m->matrix, d->from);
    return again ? mp_dmat_mirror(m->matrix, MP_UPPER_HALF) : MP_OK;
}

static void set_damped_diagonal(mp_moment *m, const diagonals *d, double amount)
{
    for (int64_t r = 0; r < m->order; r++)
        d->damped[r] =
            d->mended[d->from != NULL ? d->from[r] : r] + (r < m->order - m->n ? 0.0 : amount);
    mp_dmat_set_diagonal(m->matrix, d->damped);
}

/* H + damp mean(diag H) I = L L^T; where that is not positive definite, once more with ten times the
 * damping, up to the mean itself. */
mp_status mp_factor_damped(const mp_method_options *options, mp_moment *m, mp_outcome *outcome)
{
    enum { MOST_RETRIES = 12 };
    double mean;
    int64_t failed_at = 1;
    diagonals d;
    mp_status st = diagonals_open(options, m, &d);

    if (m->matrix->my_row >= 0) st = mp_grid_agree(m->matrix, st);
    MP_GO(st);
    mean = mend_diagonal(m, d.mended, &outcome->dead);
    outcome->damping = options->damp;
    outcome->retries = 0;
    if (m->matrix->my_row < 0) goto out;
    for (;;) {
        MP_GO(fill_lower(m, &d, outcome->retries > 0));
        set_damped_diagonal(m, &d, outcome->damping * mean);
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
    }
out:
    diagonals_close(&d);
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
