#include <criterion/criterion.h>

#include "mpress/memory.h"
#include "mpress/tensor.h"

#include <math.h>
#include <string.h>

static uint32_t bits_of(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float decoded(mp_dtype dtype, uint16_t stored)
{
    float x;

    mp_to_f32(dtype, &stored, 1, &x);
    return x;
}

static uint16_t encoded(mp_dtype dtype, float x)
{
    uint16_t stored;

    mp_from_f32(dtype, &x, 1, &stored);
    return stored;
}

/* The value of a 16-bit number from the definition: sign, exponent, mantissa. */
static double value_of(uint16_t stored, int mantissa_bits, int bias)
{
    int exponent = (stored & 0x7fff) >> mantissa_bits;
    double mantissa = stored & ((1 << mantissa_bits) - 1);
    double sign = stored & 0x8000 ? -1.0 : 1.0;

    if (exponent == (0x7fff >> mantissa_bits)) return mantissa == 0.0 ? sign * INFINITY : NAN;
    if (exponent == 0) return sign * ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * ldexp(mantissa + ldexp(1.0, mantissa_bits), exponent - bias - mantissa_bits);
}

static void check_every_value(mp_dtype dtype, int mantissa_bits, int bias)
{
    for (int i = 0; i < 65536; i++) {
        double expected = value_of((uint16_t)i, mantissa_bits, bias);
        float x = decoded(dtype, (uint16_t)i);

        if (isnan(expected))
            cr_assert(isnan(x) && isnan(decoded(dtype, encoded(dtype, x))), "%04x", i);
        else
            cr_assert((double)x == expected && !signbit(x) == !(i & 0x8000), "%04x: %g, not %g", i,
                      x, expected);
        if (!isnan(expected)) cr_assert_eq(encoded(dtype, x), i == 0x8000 ? 0 : i, "%04x", i);
    }
}

Test(tensor, every_half_is_read_exactly_and_stored_again)
{
    check_every_value(MP_F16, 10, 15);
}

Test(tensor, every_bfloat16_is_read_exactly_and_stored_again)
{
    check_every_value(MP_BF16, 7, 127);
}

/* Between each number and the next: what lies below the middle goes down, above goes up, and the
 * middle goes to the even one. The middle has one bit more and is exact in single precision. */
static void check_rounding(mp_dtype dtype, int last_finite)
{
    for (int i = 0; i < last_finite; i++) {
        float low = decoded(dtype, (uint16_t)i), high = decoded(dtype, (uint16_t)(i + 1));
        float middle = (float)(((double)low + (double)high) / 2.0);
        int even = i % 2 == 0 ? i : i + 1;

        cr_assert_eq(encoded(dtype, middle), even, "%04x", i);
        cr_assert_eq(encoded(dtype, nextafterf(middle, 0.0f)), i, "%04x", i);
        cr_assert_eq(encoded(dtype, nextafterf(middle, INFINITY)), i + 1, "%04x", i);
        cr_assert_eq(encoded(dtype, -middle), even == 0 ? 0 : even | 0x8000, "%04x", i);
    }
}

Test(tensor, halves_are_rounded_to_nearest_ties_to_even)
{
    check_rounding(MP_F16, 0x7bff);
}

Test(tensor, bfloat16s_are_rounded_to_nearest_ties_to_even)
{
    check_rounding(MP_BF16, 0x7f7f);
}

Test(tensor, what_a_half_cannot_hold_becomes_infinite)
{
    cr_assert_eq(encoded(MP_F16, 65504.0f), 0x7bff);
    cr_assert_eq(encoded(MP_F16, nextafterf(65520.0f, 0.0f)), 0x7bff);
    cr_assert_eq(encoded(MP_F16, 65520.0f), 0x7c00);
    cr_assert_eq(encoded(MP_F16, -1e30f), 0xfc00);
    cr_assert_eq(encoded(MP_F16, -INFINITY), 0xfc00);
    cr_assert_eq(encoded(MP_BF16, 3.4e38f), 0x7f80);
}

Test(tensor, negative_zero_is_stored_as_plain_zero)
{
    float values[3] = {-0.0f, -1e-30f, -1.0f}, stored[3];

    mp_from_f32(MP_F32, values, 3, stored);
    cr_assert(bits_of(stored[0]) == 0 && stored[1] == -1e-30f && stored[2] == -1.0f);
    cr_assert(encoded(MP_BF16, -0.0f) == 0 && encoded(MP_F16, -0.0f) == 0);
    cr_assert_eq(encoded(MP_F16, -1e-30f), 0, "a negative number that rounds to zero");
    mp_round_f32(MP_F16, values, 3);
    cr_assert(bits_of(values[0]) == 0 && bits_of(values[1]) == 0 && values[2] == -1.0f);
}

/* Long enough for several chunks, threads and a rest. */
static void check_long_array(mp_dtype dtype)
{
    enum { COUNT = 300007 };
    float *values, *rounded, *back;
    uint16_t *stored;

    cr_assert_eq(MP_NEW(values, COUNT, "values"), MP_OK);
    cr_assert_eq(MP_NEW(rounded, COUNT, "rounded"), MP_OK);
    cr_assert_eq(MP_NEW(back, COUNT, "back"), MP_OK);
    cr_assert_eq(MP_NEW(stored, COUNT, "stored"), MP_OK);
    for (int i = 0; i < COUNT; i++) values[i] = (float)(i % 1999 - 1000) * 0.00137f;
    memcpy(rounded, values, COUNT * sizeof *values);
    mp_from_f32(dtype, values, COUNT, stored);
    mp_to_f32(dtype, stored, COUNT, back);
    mp_round_f32(dtype, rounded, COUNT);
    cr_assert_eq(memcmp(back, rounded, COUNT * sizeof *back), 0);
    for (int i = 0; i < COUNT; i++) cr_assert_eq(stored[i], encoded(dtype, values[i]), "%d", i);
    mp_free(values);
    mp_free(rounded);
    mp_free(back);
    mp_free(stored);
    cr_assert_eq(mp_memory_balance(), 0);
}

Test(tensor, long_arrays_are_converted_like_single_values)
{
    check_long_array(MP_F16);
    check_long_array(MP_BF16);
}

Test(tensor, the_first_value_that_is_not_finite_is_found)
{
    static float values[40000];

    cr_assert_eq(mp_first_nonfinite(values, 40000), -1);
    cr_assert_eq(mp_first_nonfinite(values, 0), -1);
    values[39999] = -INFINITY;
    cr_assert_eq(mp_first_nonfinite(values, 40000), 39999);
    values[16384] = NAN;
    cr_assert_eq(mp_first_nonfinite(values, 40000), 16384);
    values[7] = INFINITY;
    cr_assert_eq(mp_first_nonfinite(values, 40000), 7);
    cr_assert_eq(mp_first_nonfinite(values, 7), -1);
}
