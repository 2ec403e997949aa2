/* The energy of rows on the calibration data of a layer, tr(X H X^T): of the dense weights, and of what
 * a compression took off them. */
#include "mpress/method.h"

#include "mpress/linalg.h"
#include "mpress/memory.h"
#include "mpress/simd.h"

#include <omp.h>
#include <string.h>

/* Makes the diagonal tile of a column of the upper half one half of H's: the strictly upper part (the
 * lower one holds the factor), and half of the diagonal.  column[c][k] = H[begin + k][begin + c]. */
static void halve_diagonal_tile(const mp_moment *m, float *column, int64_t length, int64_t begin)
{
    int64_t nb = m->matrix->nb;

    for (int64_t c = 0; c < nb; c++) {
        memset(column + c * length, 0, (size_t)c * sizeof *column);
        column[c * length + c] = (float)(0.5 * m->diagonal[m->order - 1 - begin - c]);
    }
}

/* x . y in double: sixteen partial sums, so that the compiler can add a vector at a time. */
MP_SIMD_CLONES
static double dot(const float *x, const float *y, int64_t count)
{
    enum { LANES = 16 };
    double partial[LANES] = {0.0}, sum = 0.0;
    int64_t r = 0;

    for (; r + LANES <= count; r += LANES)
        for (int i = 0; i < LANES; i++) partial[i] += (double)x[r + i] * (double)y[r + i];
    for (; r < count; r++) sum += (double)x[r] * (double)y[r];
    for (int i = 0; i < LANES; i++) sum += partial[i];
    return sum;
}

/* One strip and one block of columns B: with G = X[:, B and after] H[B and after, B] (half of the
 * diagonal tile), tr(X H X^T) is twice the sum of X_B . G over the blocks. */
static mp_status add_strip(const mp_dmat *h, const float *column, int64_t length, const float *x,
                           float *product, double *energy)
{
    MP_TRY(mp_sgemm(0, 0, h->nb, MP_STRIP, length, 1.0f, column, length, x, MP_STRIP, 0.0f, product,
                    MP_STRIP));
    *energy += 2.0 * dot(x, product, h->nb * MP_STRIP);
    return MP_OK;
}

/* products: a strip of nb columns for every thread. */
static mp_status add_block(const mp_problem *p, const float *column, int64_t length, int64_t begin,
                           const float *x, float *products, double *energy)
{
    const mp_dmat *h = p->moment->matrix;
    int failed = 0;

#pragma omp parallel for schedule(dynamic) reduction(| : failed)
    for (int64_t i = 0; i < p->strips; i++)
        failed |=
            add_strip(h, column, length, x + (i * p->order + begin) * MP_STRIP,
                      products + omp_get_thread_num() * h->nb * MP_STRIP, &energy[i]) != MP_OK;
    return failed
               ? mp_fail(MP_ERR_NOFIT, "a strip of %d rows does not fit the BLAS library", MP_STRIP)
               : MP_OK;
}

mp_status mp_layer_energy(const mp_problem *p, const float *x, double *energy)
{
    const mp_dmat *h = p->moment->matrix;
    mp_stream *stream = NULL;
    double *strips = NULL;
    float *products = NULL;
    mp_status st;

    st = MP_NEW(strips, p->strips, "energies of strips");
    if (st == MP_OK) st = MP_NEW_RAW(products, mp_threads() * h->nb * MP_STRIP, "products");
    MP_GO(mp_comm_agree(p->comm, st));
    MP_GO(mp_stream_create(h, MP_UPPER_HALF, h->tiles - 1, -1, &stream));
    for (int64_t begin = 0; begin < p->order; begin += h->nb) {
        float *column;
        int64_t length;

        MP_GO(mp_stream_next(stream, &column, &length));
        halve_diagonal_tile(p->moment, column, length, begin);
        MP_GO(add_block(p, column, length, begin, x, products, strips));
    }
    MP_GO(mp_sum_strips(p, strips, energy));
out:
    mp_stream_free(stream);
    mp_free(products);
    mp_free(strips);
    return st;
}
