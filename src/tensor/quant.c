#include "mpress/quant.h"

#include "mpress/options.h"
#include "mpress/simd.h"
#include "mpress/tensor.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    ROWS = 128
}; /* that are fitted at once: what a loop over them needs lies in the first cache */

mp_status mp_quant_read(int64_t bits, const char *group, int asymmetric, mp_quant *quant)
{
    *quant = (mp_quant){.symmetric = !asymmetric};
    if (bits < 2 || bits > 8)
        return mp_fail(MP_ERR_ARG, "--bits %lld: expected 2 to 8", (long long)bits);
    quant->bits = (int)bits;
    if (strcmp(group, "channel") == 0) return MP_OK;
    if (mp_parse_int(group, &quant->group) != 0 || quant->group < 2)
        return mp_fail(MP_ERR_ARG,
                       "--group-size %s: expected the number of columns that share a scale, 2 or "
                       "more, or channel",
                       group);
    return MP_OK;
}

const char *mp_quant_words(const mp_quant *quant, char text[64])
{
    const char *kind = quant->symmetric ? "symmetric" : "asymmetric";

    if (quant->group == 0)
        snprintf(text, 64, "%d bits, %s, by channel", quant->bits, kind);
    else
        snprintf(text, 64, "%d bits, %s, groups of %lld", quant->bits, kind,
                 (long long)quant->group);
    return text;
}

mp_status mp_quant_fits(const mp_quant *quant, const char *name, int64_t d_in)
{
    char sizes[256] = "";

    if (quant->group == 0 || d_in % quant->group == 0) return MP_OK;
    for (int64_t size = d_in % 16 == 0 ? 16 : 2; size <= d_in && d_in % size == 0; size *= 2)
        snprintf(sizes + strlen(sizes), sizeof sizes - strlen(sizes), "%lld, ", (long long)size);
    return mp_fail(MP_ERR_ARG,
                   "--group-size %lld does not divide the %lld input channels of %s: expected %sor "
                   "channel",
                   (long long)quant->group, (long long)d_in, name,
                   sizes[0] != '\0' ? sizes : "another divisor ");
}

int64_t mp_quant_group(const mp_quant *quant, int64_t d_in)
{
    return quant->group > 0 ? quant->group : d_in;
}

int64_t mp_quant_groups(const mp_quant *quant, int64_t d_in)
{
    return d_in / mp_quant_group(quant, d_in);
}

/* The largest code. */
static int top_code(const mp_quant *quant)
{
    return (1 << quant->bits) - 1;
}

/* Processors may take subnormal numbers of single precision and of bf16 for zero; those of F16 are normal
 * numbers in single precision. */
static float smallest_scale(mp_dtype dtype)
{
    return dtype == MP_F16 ? 0x1p-24f : 0x1p-126f;
}

/* The range of each row over the columns, widened to hold 0. */
MP_SIMD_CLONES
static void find_extremes(const float *weight, int64_t stride, int64_t columns, int64_t rows,
                          float *restrict low, float *restrict high)
{
    for (int64_t r = 0; r < rows; r++) low[r] = high[r] = 0.0f;
    for (int64_t j = 0; j < columns; j++)
        for (int64_t r = 0; r < rows; r++) {
            float w = weight[j * stride + r];

            low[r] = w < low[r] ? w : low[r];
            high[r] = w > high[r] ? w : high[r];
        }
}

/* Grids over the ranges times `share`. */
static void grids_of(const mp_quant *quant, mp_dtype dtype, int64_t rows, const float *low,
                     const float *high, double share, float *scale, float *zero)
{
    const double top = top_code(quant);
    const float smallest = smallest_scale(dtype);

    for (int64_t r = 0; r < rows; r++) {
        double range = quant->symmetric ? 2.0 * fmax((double)high[r], -(double)low[r])
                                        : (double)high[r] - (double)low[r];

        scale[r] = (float)(share * range / top);
    }
    mp_round_f32(dtype, scale, rows);
    for (int64_t r = 0; r < rows; r++) {
        zero[r] = (float)(1 << (quant->bits - 1));
        if (low[r] == high[r]) { /* all zeros: every grid does, this one in every format */
            scale[r] = 1.0f;
            continue;
        }
        scale[r] = scale[r] < smallest ? smallest : scale[r];
        if (!quant->symmetric)
            zero[r] = (float)fmin(rint(-share * (double)low[r] / (double)scale[r]), top);
    }
}

static int64_t rows_from(int64_t first, int64_t rows)
{
    return rows - first < ROWS ? rows - first : ROWS;
}

void mp_quant_fit(const mp_quant *quant, mp_dtype dtype, int64_t rows, int64_t columns,
                  const float *weight, float *scale, float *zero)
{
    float low[ROWS], high[ROWS];

    for (int64_t first = 0; first < rows; first += ROWS) {
        find_extremes(weight + first, rows, columns, rows_from(first, rows), low, high);
        grids_of(quant, dtype, rows_from(first, rows), low, high, 1.0, scale + first, zero + first);
    }
}

/* The weighted square error of each row.  A product by the inverse may take a weight that lies between two
 * codes to the other one of them, which has the same error; adding and taking off 1.5 * 2^23 rounds to a
 * whole number. */
MP_SIMD_CLONES
static void find_errors(const float *weight, int64_t stride, int64_t columns, int64_t rows,
                        const float *importance, const float *restrict scale,
                        const float *restrict zero, float top, float *restrict error)
{
    const float whole = 0x1.8p23f;
    float inverse[ROWS], low[ROWS], high[ROWS];

    for (int64_t r = 0; r < rows; r++) {
        inverse[r] = 1.0f / scale[r];
        low[r] = -zero[r];
        high[r] = top - zero[r];
        error[r] = 0.0f;
    }
    for (int64_t j = 0; j < columns; j++) {
        float factor = importance != NULL ? importance[j] : 1.0f;

        for (int64_t r = 0; r < rows; r++) {
            float w = weight[j * stride + r], q = w * inverse[r], d;

            q = q < low[r] ? low[r] : q;
            q = q > high[r] ? high[r] : q;
            d = w - (q + whole - whole) * scale[r];
            error[r] += factor * d * d;
        }
    }
}

void mp_quant_search(const mp_quant *quant, mp_dtype dtype, int64_t rows, int64_t columns,
                     const float *weight, const float *importance, float *scale, float *zero)
{
    enum { CANDIDATES = 40 };
    float low[ROWS], high[ROWS], try_scale[ROWS], try_zero[ROWS], error[ROWS], least[ROWS];

    for (int64_t first = 0; first < rows; first += ROWS) {
        int64_t count = rows_from(first, rows);

        find_extremes(weight + first, rows, columns, count, low, high);
        for (int i = 0; i < CANDIDATES; i++) {
            grids_of(quant, dtype, count, low, high, 1.0 - 0.02 * i, try_scale, try_zero);
            find_errors(weight + first, rows, columns, count, importance, try_scale, try_zero,
                        (float)top_code(quant), error);
            for (int64_t r = 0; r < count; r++) {
                if (i > 0 && !(error[r] < least[r])) continue;
                least[r] = error[r];
                scale[first + r] = try_scale[r];
                zero[first + r] = try_zero[r];
            }
        }
    }
}

/* A quotient in double is at a half only where that of the exact numbers is: of two numbers of 24 bits it
 * differs from a half of up to 9 bits by 2^-34 of it or more.  Clamped before it is rounded, so that
 * adding and taking off 1.5 * 2^52 rounds whatever it was. */
MP_SIMD_CLONES
static void round_rows(int64_t rows, const float *restrict scale, const float *restrict zero,
                       double top, float *restrict weight)
{
    const double whole = 0x1.8p52;

    for (int64_t r = 0; r < rows; r++) {
        double low = -(double)zero[r], high = top - (double)zero[r];
        double q = (double)weight[r] / (double)scale[r];

        q = q < low ? low : q;
        q = q > high ? high : q;
        weight[r] = (float)(q + whole - whole) * scale[r];
    }
}

void mp_quant_round(const mp_quant *quant, int64_t rows, const float *scale, const float *zero,
                    float *weight)
{
    round_rows(rows, scale, zero, (double)top_code(quant), weight);
}
