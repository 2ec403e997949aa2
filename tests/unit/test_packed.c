#include "helpers.h"

#include "mpress/linalg.h"
#include "mpress/linear.h"
#include "mpress/rng.h"
#include "mpress/tensor.h"

#include <math.h>

/* Codes of `bits` bits without an order in them; the largest and 0 are there. */
static void fill_codes(int bits, int64_t count, uint8_t *codes)
{
    for (int64_t i = 0; i < count; i++)
        codes[i] = (uint8_t)((i * 89 + i * i % 31 + bits) % (1 << bits));
    codes[0] = (uint8_t)((1 << bits) - 1);
    codes[count - 1] = count > 1 ? 0 : codes[0];
}

/* Bit k of a stream of words. */
static int bit_of(const uint32_t *words, int64_t k)
{
    return (int)(words[k / 32] >> k % 32 & 1);
}

/* The definition, bit by bit; what belongs to no code is zero. */
static void expect_stream(int bits, int64_t count, const uint8_t *codes, const uint32_t *words)
{
    int64_t all = 32 * mp_packed_words(bits, count);

    for (int64_t k = 0; k < all; k++) {
        int expected = k < count * bits ? codes[k / bits] >> k % bits & 1 : 0;

        cr_assert_eq(bit_of(words, k), expected, "%d bits, %lld codes, bit %lld", bits,
                     (long long)count, (long long)k);
    }
}

Test(packed, codes_are_a_stream_of_bits_and_come_back)
{
    static const int64_t counts[] = {1, 2, 5, 31, 32, 33, 63, 96, 100, 1000, 1024, 1037};
    static uint8_t codes[1040], back[1040];
    static uint32_t words[512];

    for (int bits = 2; bits <= 8; bits++)
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
            int64_t count = counts[c], size = mp_packed_words(bits, count);

            cr_assert_eq(size, (count * bits + 31) / 32);
            memset(words, 0x5a, sizeof words);
            memset(back, 0x77, sizeof back);
            fill_codes(bits, count, codes);
            mp_pack_codes(bits, count, codes, words);
            expect_stream(bits, count, codes, words);
            cr_assert_eq(words[size], 0x5a5a5a5a, "written beyond the end");
            mp_unpack_codes(bits, count, words, back);
            cr_assert_arr_eq(back, codes, (size_t)count);
            cr_assert_eq(back[count], 0x77, "written beyond the end");
        }
}

enum { ROWS = 5, MOST_COLUMNS = 2200 };

static uint32_t words[ROWS * MOST_COLUMNS];
static float scale[ROWS * MOST_COLUMNS], weight[ROWS * MOST_COLUMNS], back[ROWS * MOST_COLUMNS];
static uint8_t zero[ROWS * MOST_COLUMNS], codes[MOST_COLUMNS];

/* Scales of all sizes that the dtype has room for, exact in it, and zero points. */
static void fill_grids(const mp_packed *p, int64_t groups)
{
    mp_philox_normal(4, (uint64_t)p->quant.bits, 0, ROWS * groups, scale);
    for (int64_t i = 0; i < ROWS * groups; i++) {
        scale[i] = 0.01f + 0.1f * fabsf(scale[i]);
        zero[i] = (uint8_t)(i % (1 << p->quant.bits));
    }
    scale[0] = p->dtype == MP_F16 ? 0x1p-24f : 0x1p-126f; /* the smallest that there are */
    mp_round_f32(p->dtype, scale, ROWS * groups);
}

/* (u - z) s as the header defines it, not rounded to the dtype. */
static float expected_weight(const mp_packed *p, int64_t groups, int64_t row, int64_t j)
{
    int64_t at = row * groups + j / (p->columns / groups);
    int z = p->quant.symmetric ? 1 << (p->quant.bits - 1) : zero[at];

    return (float)((double)((int)codes[j] - z) * (double)scale[at]);
}

static void check_packed(const mp_packed *p)
{
    int64_t groups = mp_quant_groups(&p->quant, p->columns);

    fill_grids(p, groups);
    for (int64_t r = 0; r < ROWS; r++) {
        fill_codes(p->quant.bits, p->columns, codes);
        for (int64_t j = 0; j < p->columns; j++)
            weight[r * p->columns + j] = expected_weight(p, groups, r, j);
        cr_assert_eq(mp_packed_put(p, r, weight + r * p->columns), -1);
    }
    mp_round_f32(p->dtype, weight, ROWS * p->columns);
    mp_packed_weights(p, 0, ROWS, back);
    cr_assert(memcmp(back, weight, (size_t)(ROWS * p->columns) * sizeof *back) == 0,
              "%d bits, group %lld of %lld, %s", p->quant.bits, (long long)p->quant.group,
              (long long)p->columns, mp_dtype_name(p->dtype));
    mp_packed_weights(p, 2, 1, back);
    cr_assert(memcmp(back, weight + 2 * p->columns, (size_t)p->columns * sizeof *back) == 0);
}

Test(packed, weights_on_a_grid_are_kept_to_the_last_bit)
{
    static const int64_t shapes[][2] = {{64, 16}, {96, 0}, {99, 33}, {2112, 44}, {1037, 0}};
    static const mp_dtype dtypes[] = {MP_F32, MP_F16, MP_BF16};

    for (int bits = 2; bits <= 8; bits++)
        for (int i = 0; i < 5 * 3 * 2; i++) {
            const mp_packed p = {.quant = {bits, shapes[i % 5][1], i / 15},
                                 .columns = shapes[i % 5][0],
                                 .dtype = dtypes[i / 5 % 3],
                                 .words = words,
                                 .scale = scale,
                                 .zero = i / 15 ? NULL : zero};

            check_packed(&p);
        }
}

Test(packed, a_weight_that_is_on_no_grid_is_found)
{
    const mp_packed p = {
        .quant = {4, 0, 1}, .columns = 100, .dtype = MP_BF16, .words = words, .scale = scale};

    scale[0] = 0.5f;
    for (int j = 0; j < 100; j++) weight[j] = 0.5f * (float)(j % 16 - 8);
    cr_assert_eq(mp_packed_put(&p, 0, weight), -1);
    weight[77] = 0.625f;
    cr_assert_eq(mp_packed_put(&p, 0, weight), 77);
    weight[50] = 4.0f; /* one code too far */
    cr_assert_eq(mp_packed_put(&p, 0, weight), 50);
    weight[3] = NAN;
    cr_assert_eq(mp_packed_put(&p, 0, weight), 3);
}

/* A map of integers in the memory of its weights, and the same weights dense. */
static mp_linear make_linear(const mp_quant *quant, int64_t d_out, int64_t d_in, float *dense)
{
    int64_t groups = mp_quant_groups(quant, d_in);
    mp_linear l = {.d_out = d_out, .d_in = d_in, .dtype = MP_BF16};

    cr_assert_eq(MP_NEW(l.weight, d_out * d_in, "weights"), MP_OK);
    EXPECT_OK(mp_linear_set_packed(&l, quant));
    for (int64_t i = 0; i < d_out * groups; i++) {
        l.packed.scale[i] = 0.001f * (float)(1 + i % 17);
        if (l.packed.zero != NULL) l.packed.zero[i] = (uint8_t)(i % (1 << quant->bits));
    }
    mp_round_f32(l.dtype, l.packed.scale, d_out * groups);
    for (int64_t i = 0; i < d_out * mp_packed_words(quant->bits, d_in); i++)
        l.packed.words[i] = (uint32_t)i * 2654435761u;
    mp_packed_weights(&l.packed, 0, d_out, dense);
    return l;
}

/* As the dense product: to the last bit where the rows are one panel (linear.h), else to rounding. */
static void check_product(const mp_quant *quant, int64_t d_out, int64_t d_in, int one_panel)
{
    enum { TOKENS = 7 };
    float *dense = NULL, *x = NULL, *y = NULL, *z = NULL;
    mp_linear l, plain;

    EXPECT_OK(MP_NEW(dense, d_out * d_in, "weights"));
    EXPECT_OK(MP_NEW(x, TOKENS * d_in, "x"));
    EXPECT_OK(MP_NEW(y, TOKENS * d_out, "y"));
    EXPECT_OK(MP_NEW(z, TOKENS * d_out, "z"));
    l = make_linear(quant, d_out, d_in, dense);
    l.bias = dense; /* any numbers */
    plain = (mp_linear){.d_out = d_out, .d_in = d_in, .weight = dense, .bias = dense};
    mp_philox_normal(9, 0, 0, TOKENS * d_in, x);
    EXPECT_OK(mp_linear_apply(&l, TOKENS, x, y));
    EXPECT_OK(mp_linear_apply(&plain, TOKENS, x, z));
    EXPECT_OK(mp_linear_add(&l, TOKENS, x, y));
    EXPECT_OK(mp_linear_add(&plain, TOKENS, x, z));
    for (int64_t i = 0; i < TOKENS * d_out; i++)
        cr_assert(one_panel ? y[i] == z[i] : fabsf(y[i] - z[i]) <= 1e-5f * (1.0f + fabsf(z[i])),
                  "%lld x %lld, element %lld: %.9g, not %.9g", (long long)d_out, (long long)d_in,
                  (long long)i, y[i], z[i]);
    mp_free(l.weight);
    mp_free(dense);
    mp_free(x);
    mp_free(y);
    mp_free(z);
}

Test(packed, a_linear_map_of_integers_computes_as_a_dense_one)
{
    check_product(&(mp_quant){4, 32, 1}, 70, 96, 1);
    check_product(&(mp_quant){3, 0, 0}, 129, 50, 1);
    check_product(&(mp_quant){8, 2, 0}, 33, 34, 1);
    check_product(&(mp_quant){2, 16, 0}, 2048, 64, 1);
    check_product(&(mp_quant){5, 64, 1}, 4100, 64, 0);
    EXPECT_NO_LEAKS();
}

Test(packed, integers_that_take_more_room_than_weights_are_refused)
{
    float two[2] = {0};
    mp_linear l = {.d_out = 1, .d_in = 2, .dtype = MP_F32, .weight = two};

    EXPECT_FAILURE(mp_linear_set_packed(&l, &(mp_quant){8, 2, 0}), MP_ERR_NOFIT, "1 x 2 weights");
    cr_assert_eq(l.packed.quant.bits, 0);
}
