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

/* What a pass over the blocks adds up, per strip of all parts and ranks: [2][all strips], of which each
 * rank fills its own.  Added in the order of the strips at the end, so that the sums do not depend on
 * the ranks. */
typedef struct sums {
    double *energy, *loss;
    int64_t count;
    int64_t first[MP_MAX_LINEARS]; /* where the strips of a part start */
} sums;

static mp_status sums_open(sums *s, const mp_problem *p)
{
    s->count = 0;
    for (int i = 0; i < p->parts; i++) {
        s->first[i] = s->count;
        s->count += (p->part[i].d_out + MP_STRIP - 1) / MP_STRIP;
    }
    MP_TRY(MP_NEW(s->energy, 2 * s->count, "sums of errors"));
    s->loss = s->energy + s->count;
    return MP_OK;
}

static mp_status sums_finish(const sums *s, const mp_problem *p, double *energy, double *loss)
{
    MP_TRY(mp_comm_sum(p->comm, s->energy, (int)(2 * s->count)));
    for (int i = 0; i < p->parts; i++) {
        energy[i] = loss[i] = 0.0;
        for (int64_t k = s->first[i]; k < (i + 1 < p->parts ? s->first[i + 1] : s->count); k++) {
            energy[i] += 2.0 * s->energy[k];
            loss[i] += 2.0 * s->loss[k];
        }
    }
    return MP_OK;
}

/* One strip and one block of columns B: with G = X[:, B and after] H[B and after, B] (half of the
 * diagonal tile), tr(X H X^T) is twice the sum of X_B . G.  W = W' + D needs no product of its own. */
static mp_status add_strip(const mp_dmat *h, const float *column, int64_t length, const float *weight,
                           const float *difference, float *product, double *energy, double *loss)
{
    int64_t size = h->nb * MP_STRIP;
    double dd, dw;

    MP_TRY(mp_sgemm(0, 0, h->nb, MP_STRIP, length, 1.0f, column, length, difference, MP_STRIP, 0.0f,
                    product, MP_STRIP));
    dd = dot(difference, product, size);
    dw = dot(weight, product, size);
    MP_TRY(mp_sgemm(0, 0, h->nb, MP_STRIP, length, 1.0f, column, length, weight, MP_STRIP, 0.0f,
                    product, MP_STRIP));
    *loss += dd;
    *energy += dd + dw + dot(difference, product, size) + dot(weight, product, size);
    return MP_OK;
}

static mp_status add_block(const mp_problem *p, const float *column, int64_t length, int64_t begin,
                           sums *s)
{
    int failed = 0;

#pragma omp parallel reduction(| : failed)
    {
        float *product = NULL;

        failed = MP_NEW_RAW(product, p->moment->matrix->nb * MP_STRIP, "a product") != MP_OK;
        for (int i = 0; i < p->parts; i++) {
#pragma omp for schedule(dynamic)
            for (int64_t row = 0; row < p->part[i].rows; row += MP_STRIP) {
                int64_t k = s->first[i] + (p->part[i].first_row + row) / MP_STRIP;

                if (failed) continue;
                failed |= add_strip(p->moment->matrix, column, length,
                                    mp_problem_strip(p, p->weight, i, row) + begin * MP_STRIP,
                                    mp_problem_strip(p, p->difference, i, row) + begin * MP_STRIP,
                                    product, &s->energy[k], &s->loss[k]) != MP_OK;
            }
        }
        mp_free(product);
    }
    return failed ? mp_fail(MP_ERR_NOMEM, "no memory to measure the error of a layer") : MP_OK;
}

mp_status mp_layer_error(const mp_problem *p, double *energy, double *loss)
{
    const mp_dmat *h = p->moment->matrix;
    mp_stream *stream = NULL;
    sums s = {NULL};
    mp_status st;

    st = mp_comm_agree(p->comm, sums_open(&s, p));
    if (st == MP_OK) st = mp_stream_create(h, MP_UPPER_HALF, h->tiles - 1, -1, &stream);
    for (int64_t begin = 0; begin < p->order && st == MP_OK; begin += h->nb) {
        float *column;
        int64_t length;

        MP_GO(mp_stream_next(stream, &column, &length));
        halve_diagonal_tile(p->moment, column, length, begin);
        MP_GO(add_block(p, column, length, begin, &s));
    }
    if (st == MP_OK) st = sums_finish(&s, p, energy, loss);
out:
    mp_stream_free(stream);
    mp_free(s.energy);
    return st;
}
