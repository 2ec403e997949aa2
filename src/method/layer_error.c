/* What a compression costs a layer on its calibration data: tr(D H D^T) against tr(W H W^T). */
#include "mpress/method.h"

#include "mpress/linalg.h"
#include "mpress/memory.h"
#include "mpress/simd.h"

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

/* One block of columns B: with G = X[:, B and after] H[B and after, B] (half of the diagonal tile),
 * tr(X H X^T) is twice the sum of X_B . G over the blocks.  W = W' + D needs no product of its own. */
static void add_block(const mp_problem *p, int64_t begin, int64_t nb, const float *g_new,
                      const float *g_diff, double *energy, double *loss)
{
    for (int i = 0; i < p->parts; i++)
        for (int64_t c = 0; c < nb; c++) {
            int64_t at = (begin + c) * p->ld + p->part[i].first, g = c * p->ld + p->part[i].first;
            int64_t rows = p->part[i].count;
            double dd = dot(p->difference + at, g_diff + g, rows);

            loss[i] += 2.0 * dd;
            energy[i] += 2.0 * (dd + dot(p->difference + at, g_new + g, rows) +
                                dot(p->weight + at, g_diff + g, rows) +
                                dot(p->weight + at, g_new + g, rows));
        }
}

mp_status mp_layer_error(const mp_problem *p, double *energy, double *loss)
{
    const mp_dmat *h = p->moment->matrix;
    int64_t nb = h->nb, ld = p->ld, length;
    mp_stream *stream = NULL;
    float *products = NULL; /* [2][nb][ld]: of the new weights, of the difference */
    float *column;
    mp_status st;

    for (int i = 0; i < p->parts; i++) energy[i] = loss[i] = 0.0;
    st = MP_NEW_RAW(products, 2 * nb * ld, "products with a Hessian");
    st = mp_comm_agree(p->comm, st);
    if (st == MP_OK) st = mp_stream_create(h, MP_UPPER_HALF, h->tiles - 1, -1, &stream);
    for (int64_t begin = 0; begin < p->order && st == MP_OK; begin += nb) {
        float *g_diff = products + nb * ld;

        MP_GO(mp_stream_next(stream, &column, &length));
        halve_diagonal_tile(p->moment, column, length, begin);
        MP_GO(mp_sgemm(0, 0, nb, ld, length, 1.0f, column, length, p->weight + begin * ld, ld, 0.0f,
                       products, ld));
        MP_GO(mp_sgemm(0, 0, nb, ld, length, 1.0f, column, length, p->difference + begin * ld, ld,
                       0.0f, g_diff, ld));
        add_block(p, begin, nb, products, g_diff, energy, loss);
    }
    if (st == MP_OK) st = mp_comm_sum(p->comm, energy, p->parts);
    if (st == MP_OK) st = mp_comm_sum(p->comm, loss, p->parts);
out:
    mp_stream_free(stream);
    mp_free(products);
    return st;
}
