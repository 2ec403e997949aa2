#include "mpress/linear.h"

#include "mpress/linalg.h"
#include "mpress/memory.h"

#include <string.h>

/* Rows that are made of integers at a time: enough tiles for the threads of a product (linalg.c), a multiple
 * of its tiles, and 128 MiB at most. */
enum { PANEL_ROWS = 2048, PANEL_STEP = 256, PANEL_NUMBERS = 1 << 25 };

float *mp_linear_a(const mp_linear *linear)
{
    return linear->weight;
}

float *mp_linear_b(const mp_linear *linear)
{
    return linear->weight + linear->d_out * linear->a_stride;
}

mp_status mp_linear_set_packed(mp_linear *linear, const mp_quant *quant)
{
    const int64_t groups = mp_quant_groups(quant, linear->d_in);
    const int64_t words = mp_packed_words(quant->bits, linear->d_in);
    const int64_t scales = linear->d_out * groups, zeros = quant->symmetric ? 0 : scales;
    const int64_t bytes = 4 * (scales + linear->d_out * words) + zeros;
    uint32_t *codes = (uint32_t *)linear->weight + scales;

    if (bytes > 4 * linear->d_out * linear->d_in)
        return mp_fail(MP_ERR_NOFIT, "%lld x %lld weights take less room than their integers",
                       (long long)linear->d_out, (long long)linear->d_in);
    linear->packed =
        (mp_packed){.quant = *quant,
                    .columns = linear->d_in,
                    .dtype = linear->dtype,
                    .words = codes,
                    .scale = linear->weight,
                    .zero = zeros > 0 ? (uint8_t *)(codes + linear->d_out * words) : NULL};
    return MP_OK;
}

int64_t mp_linear_parameters(int64_t d_out, int64_t d_in, int64_t rank)
{
    return rank > 0 ? rank * (d_out + d_in) : d_out * d_in;
}

/* y = (x B^T) A^T + beta y. */
static mp_status apply_factors(const mp_linear *l, int64_t n_tokens, const float *x, float beta,
                               float *y)
{
    float *latent = NULL;
    mp_status st;

    MP_GO(MP_NEW_RAW(latent, n_tokens * l->rank, "latent activations"));
    MP_GO(mp_sgemm(0, 1, n_tokens, l->rank, l->d_in, 1.0f, x, l->d_in, mp_linear_b(l), l->d_in,
                   0.0f, latent, l->rank));
    st = mp_sgemm(0, 1, n_tokens, l->d_out, l->rank, 1.0f, latent, l->rank, mp_linear_a(l),
                  l->a_stride, beta, y, l->d_out);
out:
    mp_free(latent);
    return st;
}

static int64_t panel_rows(int64_t d_in)
{
    int64_t rows = PANEL_NUMBERS / d_in / PANEL_STEP * PANEL_STEP;

    return rows > PANEL_ROWS ? PANEL_ROWS : rows > PANEL_STEP ? rows : PANEL_STEP;
}

/* A panel of rows of W after the other. */
static mp_status apply_packed(const mp_linear *l, int64_t n_tokens, const float *x, float beta,
                              float *y)
{
    const int64_t panel = panel_rows(l->d_in) < l->d_out ? panel_rows(l->d_in) : l->d_out;
    float *rows = NULL;
    mp_status st;

    MP_GO(MP_NEW_RAW(rows, panel * l->d_in, "a panel of weights"));
    for (int64_t first = 0; first < l->d_out; first += panel) {
        int64_t count = l->d_out - first < panel ? l->d_out - first : panel;

        mp_packed_weights(&l->packed, first, count, rows);
        MP_GO(mp_sgemm(0, 1, n_tokens, count, l->d_in, 1.0f, x, l->d_in, rows, l->d_in, beta,
                       y + first, l->d_out));
    }
out:
    mp_free(rows);
    return st;
}

/* The bias is written first and the product added to it, so that y is passed over only once more. */
static mp_status apply(const mp_linear *linear, int64_t n_tokens, const float *x, float beta,
                       float *y)
{
    if (linear->rank > 0) return apply_factors(linear, n_tokens, x, beta, y);
    if (linear->packed.quant.bits > 0) return apply_packed(linear, n_tokens, x, beta, y);
    return mp_sgemm(0, 1, n_tokens, linear->d_out, linear->d_in, 1.0f, x, linear->d_in,
                    linear->weight, linear->d_in, beta, y, linear->d_out);
}

mp_status mp_linear_apply(const mp_linear *linear, int64_t n_tokens, const float *x, float *y)
{
    if (linear->bias == NULL) return apply(linear, n_tokens, x, 0.0f, y);
    for (int64_t t = 0; t < n_tokens; t++)
        memcpy(y + t * linear->d_out, linear->bias, (size_t)linear->d_out * sizeof *y);
    return apply(linear, n_tokens, x, 1.0f, y);
}

mp_status mp_linear_add(const mp_linear *linear, int64_t n_tokens, const float *x, float *y)
{
    if (linear->bias != NULL)
        for (int64_t t = 0; t < n_tokens; t++)
            for (int64_t i = 0; i < linear->d_out; i++) y[t * linear->d_out + i] += linear->bias[i];
    return apply(linear, n_tokens, x, 1.0f, y);
}
