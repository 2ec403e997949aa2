#include <criterion/criterion.h>

#include "mpress/quant.h"
#include "mpress/rng.h"
#include "mpress/tensor.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { ROWS = 150, COLUMNS = 24 };

static const mp_dtype dtypes[] = {MP_F32, MP_F16, MP_BF16};

static float to_dtype(mp_dtype dtype, double x)
{
    float rounded = (float)x;

    mp_round_f32(dtype, &rounded, 1);
    return rounded;
}

/* Weights of a layer in `dtype`, [COLUMNS][ROWS]: row 3 is zero, row 4 has no negative one. */
static void make_weights(mp_dtype dtype, float *w)
{
    mp_philox_normal(1, (uint64_t)dtype, 0, ROWS * COLUMNS, w);
    for (int i = 0; i < ROWS * COLUMNS; i++) w[i] *= 0.02f;
    for (int j = 0; j < COLUMNS; j++) {
        w[j * ROWS + 3] = 0.0f;
        w[j * ROWS + 4] = fabsf(w[j * ROWS + 4]);
    }
    mp_round_f32(dtype, w, ROWS * COLUMNS);
}

/* The definitions of quant.h, one row at a time. */
static void expect_grid(const mp_quant *q, mp_dtype dtype, const float *w, int row, float scale,
                        float zero)
{
    double low = 0.0, high = 0.0, top = (1 << q->bits) - 1;

    for (int j = 0; j < COLUMNS; j++) {
        low = fmin(low, w[j * ROWS + row]);
        high = fmax(high, w[j * ROWS + row]);
    }
    if (low == 0.0 && high == 0.0) {
        cr_assert(scale == 1.0f && zero == (top + 1.0) / 2.0, "row %d: %g, %g", row, scale, zero);
        return;
    }
    if (q->symmetric) {
        cr_assert_eq(scale, to_dtype(dtype, fmax(-low, high) / (top / 2.0)), "row %d", row);
    } else {
        cr_assert_eq(scale, to_dtype(dtype, (high - low) / top), "row %d", row);
    }
    cr_assert_eq(zero, q->symmetric ? (top + 1.0) / 2.0 : fmin(rint(-low / scale), top));
}

Test(quant, grids_follow_from_the_extremes_and_are_exact_in_the_dtype)
{
    static float w[ROWS * COLUMNS], scale[ROWS], zero[ROWS];

    for (int d = 0; d < 3; d++) {
        make_weights(dtypes[d], w);
        for (int bits = 2; bits <= 8; bits++)
            for (int symmetric = 0; symmetric <= 1; symmetric++) {
                const mp_quant q = {bits, 0, symmetric};

                mp_quant_fit(&q, dtypes[d], ROWS, COLUMNS, w, scale, zero);
                for (int r = 0; r < ROWS; r++) expect_grid(&q, dtypes[d], w, r, scale[r], zero[r]);
            }
    }
}

/* The smallest weights there are: the scale would round to zero. */
Test(quant, a_scale_is_never_zero)
{
    const float tiny[] = {0x1p-24f, 0x1p-133f, 0x1p-149f};
    const mp_dtype of[] = {MP_F16, MP_BF16, MP_F32};
    const mp_quant q = {4, 0, 1};

    for (int i = 0; i < 3; i++) {
        float w[] = {0.0f, tiny[i], -tiny[i]}, scale, zero;

        mp_quant_fit(&q, of[i], 1, 3, w, &scale, &zero);
        cr_assert(scale > 0.0f && to_dtype(of[i], scale) == scale, "%s", mp_dtype_name(of[i]));
        mp_quant_round(&q, 1, &scale, &zero, &w[0]);
        cr_assert(w[0] == 0.0f && !signbit(w[0]));
    }
}

/* A group of zeros, as in a neuron that was pruned: a grid that the formats of all engines hold, which is to
 * say a scale of F16 and a zero point from 1 up. */
Test(quant, zeros_get_a_grid_that_every_format_holds)
{
    const mp_dtype of[] = {MP_F16, MP_BF16, MP_F32};

    for (int i = 0; i < 3; i++)
        for (int symmetric = 0; symmetric <= 1; symmetric++) {
            const mp_quant q = {4, 0, symmetric};
            const float w[] = {0.0f, -0.0f, 0.0f}, importance[] = {1.0f, 1.0f, 1.0f};
            float scale, zero;

            mp_quant_fit(&q, of[i], 1, 3, w, &scale, &zero);
            cr_assert(scale == 1.0f && zero == 8.0f, "scale %g, zero %g", (double)scale,
                      (double)zero);
            mp_quant_search(&q, of[i], 1, 3, w, importance, &scale, &zero);
            cr_assert(scale == 1.0f && zero == 8.0f, "scale %g, zero %g", (double)scale,
                      (double)zero);
        }
}

/* Against the C library's fdiv and rint, with many quotients at a half and beyond the ends. */
Test(quant, rounds_to_nearest_with_halves_to_even)
{
    enum { COUNT = 4000 };
    static float w[COUNT], scale[COUNT], zero[COUNT], rounded[COUNT];

    for (int bits = 2; bits <= 8; bits++)
        for (int symmetric = 0; symmetric <= 1; symmetric++) {
            const mp_quant q = {bits, 0, symmetric};
            double top = (1 << bits) - 1;

            mp_philox_normal(7, (uint64_t)bits, 0, COUNT, scale);
            for (int i = 0; i < COUNT; i++) {
                int half = i % 701 - 350; /* twice the quotient: all up to beyond the ends */

                scale[i] = to_dtype(i % 2 ? MP_BF16 : MP_F32, 0.01 + fabs(0.1 * scale[i]));
                zero[i] = symmetric ? (float)(1 << (bits - 1)) : (float)(i % (1 << bits));
                w[i] = 0.5f * (float)half * scale[i];
                if (i % 5 == 1) w[i] = nextafterf(w[i], FLT_MAX);
                if (i % 5 == 2) w[i] = nextafterf(w[i], -FLT_MAX);
                if (i % 997 == 0) w[i] = i % 2 ? 1e30f : -1e30f;
            }
            memcpy(rounded, w, sizeof w);
            mp_quant_round(&q, COUNT, scale, zero, rounded);
            for (int i = 0; i < COUNT; i++) {
                double u = rint((double)w[i] / (double)scale[i]) + zero[i];
                float expected = (float)(fmax(0.0, fmin(u, top)) - zero[i]) * scale[i];

                cr_assert_eq(rounded[i], expected, "%d bits: %.9g / %.9g gives %.9g, not %.9g",
                             bits, w[i], scale[i], rounded[i], expected);
                cr_assert(rounded[i] != 0.0f || !signbit(rounded[i]), "negative zero");
            }
        }
}

Test(quant, the_extreme_of_a_group_is_a_tie)
{
    const mp_quant q = {4, 0, 1};
    float w[] = {-0.75f, 0.75f}, scale, zero;

    mp_quant_fit(&q, MP_BF16, 1, 2, w, &scale, &zero);
    cr_assert_eq(scale, to_dtype(MP_BF16, 0.1));
    w[0] = -7.5f * scale; /* exactly: 8 bits and 4 */
    mp_quant_round(&q, 1, &scale, &zero, &w[0]);
    cr_assert_eq(w[0], -8.0f * scale);
    w[1] = 2.5f * scale;
    mp_quant_round(&q, 1, &scale, &zero, &w[1]);
    cr_assert_eq(w[1], 2.0f * scale);
}

static double weighted_error(const mp_quant *q, const float *w, int row, const float *importance,
                             float scale, float zero)
{
    double sum = 0.0;

    for (int j = 0; j < COLUMNS; j++) {
        float rounded = w[j * ROWS + row];

        mp_quant_round(q, 1, &scale, &zero, &rounded);
        sum += (importance != NULL ? (double)importance[j] : 1.0) *
               pow((double)w[j * ROWS + row] - (double)rounded, 2.0);
    }
    return sum;
}

/* The least error that any of the 40 ranges of quant.h has, by trying them. */
static double least_error(const mp_quant *q, mp_dtype dtype, const float *w, int row,
                          const float *importance)
{
    double low = 0.0, high = 0.0, top = (1 << q->bits) - 1, least = INFINITY;

    for (int j = 0; j < COLUMNS; j++) {
        low = fmin(low, w[j * ROWS + row]);
        high = fmax(high, w[j * ROWS + row]);
    }
    for (int i = 0; i < 40; i++) {
        double share = 1.0 - 0.02 * i, range = q->symmetric ? 2.0 * fmax(-low, high) : high - low;
        float scale = to_dtype(dtype, share * range / top);
        float zero = q->symmetric ? (float)(1 << (q->bits - 1))
                                  : (float)fmin(rint(-share * low / scale), top);

        least = fmin(least, weighted_error(q, w, row, importance, scale, zero));
    }
    return least;
}

Test(quant, the_search_finds_the_least_weighted_error)
{
    static float w[ROWS * COLUMNS], scale[ROWS], zero[ROWS], widest[ROWS], zeros[ROWS];
    float importance[COLUMNS];
    int better = 0;

    make_weights(MP_BF16, w);
    for (int j = 0; j < COLUMNS; j++) importance[j] = j % 7 == 0 ? 0.0f : 1e8f * (float)(j * j);
    for (int bits = 2; bits <= 8; bits += 2)
        for (int symmetric = 0; symmetric <= 1; symmetric++)
            for (int weighted = 0; weighted <= 1; weighted++) {
                const mp_quant q = {bits, 0, symmetric};
                const float *by = weighted ? importance : NULL;

                mp_quant_fit(&q, MP_BF16, ROWS, COLUMNS, w, widest, zeros);
                mp_quant_search(&q, MP_BF16, ROWS, COLUMNS, w, by, scale, zero);
                for (int r = 0; r < ROWS; r++) {
                    double found = weighted_error(&q, w, r, by, scale[r], zero[r]);

                    if (r == 3) continue; /* zeros */
                    cr_assert(found <= 1.0001 * least_error(&q, MP_BF16, w, r, by), "row %d", r);
                    better += found < 0.99 * weighted_error(&q, w, r, by, widest[r], zeros[r]);
                }
                cr_assert(scale[3] > 0.0f);
            }
    cr_assert_gt(better, 1000);
}

/* Channels that nothing excites have no say; of equal grids the widest is taken. */
Test(quant, of_equal_grids_the_widest_is_taken)
{
    static float w[ROWS * COLUMNS], scale[ROWS], zero[ROWS], widest[ROWS], zeros[ROWS];
    const float dead[COLUMNS] = {0.0f};
    const mp_quant q = {3, 0, 0};

    make_weights(MP_F16, w);
    mp_quant_fit(&q, MP_F16, ROWS, COLUMNS, w, widest, zeros);
    mp_quant_search(&q, MP_F16, ROWS, COLUMNS, w, dead, scale, zero);
    cr_assert_arr_eq(scale, widest, sizeof scale);
    cr_assert_arr_eq(zero, zeros, sizeof zero);
}

Test(quant, bits_and_groups_out_of_range_are_refused_with_what_would_do)
{
    mp_quant q;

    cr_assert_eq(mp_quant_read(4, "128", 0, &q), MP_OK);
    cr_assert(q.bits == 4 && q.group == 128 && q.symmetric);
    cr_assert_eq(mp_quant_read(8, "channel", 1, &q), MP_OK);
    cr_assert(q.bits == 8 && q.group == 0 && !q.symmetric);
    cr_assert(mp_quant_group(&q, 704) == 704 && mp_quant_groups(&q, 704) == 1);
    cr_assert_eq(mp_quant_read(1, "128", 0, &q), MP_ERR_ARG);
    cr_assert_eq(mp_quant_read(9, "128", 0, &q), MP_ERR_ARG);
    cr_assert_not_null(strstr(mp_error_message(), "--bits 9: expected 2 to 8"));
    cr_assert_eq(mp_quant_read(4, "1", 0, &q), MP_ERR_ARG);
    cr_assert_eq(mp_quant_read(4, "-128", 0, &q), MP_ERR_ARG);
    cr_assert_eq(mp_quant_read(4, "row", 0, &q), MP_ERR_ARG);
    cr_assert_not_null(strstr(mp_error_message(), "--group-size row"));
    cr_assert_eq(mp_quant_read(4, "64", 0, &q), MP_OK);
    cr_assert_eq(mp_quant_fits(&q, "mlp.down_proj", 704), MP_OK);
    cr_assert_eq(mp_quant_groups(&q, 704), 11);
    q.group = 128;
    cr_assert_eq(mp_quant_fits(&q, "mlp.down_proj", 704), MP_ERR_ARG);
    cr_assert_not_null(strstr(mp_error_message(), "704 input channels of mlp.down_proj"));
    cr_assert_not_null(strstr(mp_error_message(), "expected 16, 32, 64, or channel"));
}
