#include "mpress/rng.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Made with CPython 3.11: random.seed(seed), then in this order 3 x getrandbits(32),
 * 5 x randint(0, 9), 2 x randint(0, 10**12), randint(-5, 5), randint(0, 2**62). */
static const struct {
    uint64_t seed;
    uint32_t words[3];
    int64_t digits[5], large[2], small, huge;
} python[] = {
    {0,
     {3626764237u, 1654615998u, 3255389356u},
     {6, 0, 4, 8, 7},
     {913899456057, 392888992260},
     4,
     2599495322613281050},
    {3,
     {1022050301u, 2545373330u, 2337446730u},
     {2, 5, 9, 7, 9},
     {666001375193, 996488968741},
     2,
     1768527152493174067},
    {42,
     {2746317213u, 478163327u, 107420369u},
     {4, 3, 3, 2, 1},
     {814655221101, 600832336208},
     -4,
     3891541965315671145},
    {233,
     {2931216007u, 3446561803u, 2698614761u},
     {2, 8, 3, 7, 8},
     {91072035661, 115247031643},
     -1,
     709548959800917941},
    {4294967296,
     {485306839u, 1508871100u, 1794561286u},
     {0, 0, 9, 5, 8},
     {498193550693, 150383977640},
     -4,
     3995202557356038156},
    {4294967301,
     {675479763u, 2085189291u, 1213270837u},
     {9, 0, 5, 2, 7},
     {389683729113, 832950035741},
     -2,
     1471338313233067832},
    {18446744073709551615u,
     {93740670u, 1068495656u, 1452108352u},
     {9, 3, 7, 9, 1},
     {991792005364, 843407212779},
     -5,
     1775948699226357584},
};

Test(rng, seeds_words_and_integers_are_those_of_cpython)
{
    for (size_t i = 0; i < sizeof python / sizeof *python; i++) {
        mp_mt19937 rng;

        mp_mt19937_seed(&rng, python[i].seed);
        for (int k = 0; k < 3; k++) cr_assert_eq(mp_mt19937_next(&rng), python[i].words[k]);
        for (int k = 0; k < 5; k++)
            cr_assert_eq(mp_mt19937_randint(&rng, 0, 9), python[i].digits[k]);
        for (int k = 0; k < 2; k++)
            cr_assert_eq(mp_mt19937_randint(&rng, 0, 1000000000000), python[i].large[k]);
        cr_assert_eq(mp_mt19937_randint(&rng, -5, 5), python[i].small);
        cr_assert_eq(mp_mt19937_randint(&rng, 0, (int64_t)1 << 62), python[i].huge);
    }
}

Test(rng, a_range_of_one_number_gives_that_number)
{
    mp_mt19937 rng;

    mp_mt19937_seed(&rng, 1);
    for (int i = 0; i < 700; i++) cr_assert_eq(mp_mt19937_randint(&rng, 17, 17), 17);
}

/* The known answers published with Random123 (kat_vectors, philox4x32 10). */
Test(rng, philox_gives_the_published_answers)
{
    static const uint32_t known[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d,
         0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
         0x94fdcceb, 0x5001e420, 0x24126ea1},
    };
    uint32_t out[4];

    for (int i = 0; i < 3; i++) {
        mp_philox(known[i] + 4, known[i], out);
        cr_assert_arr_eq(out, known[i] + 6, sizeof out);
    }
}

enum { DEVIATES = 200000 };

Test(rng, normal_deviates_have_the_moments_of_a_normal)
{
    float *x = malloc(DEVIATES * sizeof *x);
    double sum = 0.0, square = 0.0, fourth = 0.0, lagged = 0.0;

    mp_philox_normal(7, 3, 0, DEVIATES, x);
    for (int i = 0; i < DEVIATES; i++) {
        cr_assert(isfinite(x[i]));
        sum += x[i];
        square += (double)x[i] * x[i];
        fourth += pow(x[i], 4);
        lagged += i > 0 ? (double)x[i] * x[i - 1] : 0.0;
    }
    /* Five standard errors: 1, sqrt(2), sqrt(96) and 1 over sqrt(n). */
    cr_assert_lt(fabs(sum / DEVIATES), 5 * 1.0 / sqrt(DEVIATES));
    cr_assert_lt(fabs(square / DEVIATES - 1), 5 * 1.42 / sqrt(DEVIATES));
    cr_assert_lt(fabs(fourth / DEVIATES - 3), 5 * 9.80 / sqrt(DEVIATES));
    cr_assert_lt(fabs(lagged / DEVIATES), 5 * 1.0 / sqrt(DEVIATES));
    free(x);
}

Test(rng, normal_deviates_do_not_depend_on_how_the_range_is_cut)
{
    float whole[101], parts[101];

    mp_philox_normal(5, 1, 1000, 101, whole);
    for (int64_t at = 0, step = 1; at < 101; at += step, step = step % 7 + 1)
        mp_philox_normal(5, 1, 1000 + at, at + step > 101 ? 101 - at : step, parts + at);
    cr_assert_arr_eq(whole, parts, sizeof whole);
}

Test(rng, seed_stream_and_position_beyond_32_bits_all_count)
{
    float base[4], other[4];

    mp_philox_normal(5, 1, 0, 4, base);
    mp_philox_normal(5 + ((uint64_t)1 << 32), 1, 0, 4, other);
    cr_assert_arr_neq(base, other, sizeof base);
    mp_philox_normal(5, 1 + ((uint64_t)1 << 32), 0, 4, other);
    cr_assert_arr_neq(base, other, sizeof base);
    mp_philox_normal(5, 1, (int64_t)1 << 34, 4, other);
    cr_assert_arr_neq(base, other, sizeof base);
}
