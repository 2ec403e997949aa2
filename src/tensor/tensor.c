#include "mpress/tensor.h"

#include "mpress/simd.h"

#include <string.h>

/* Long arrays are cut into chunks for the threads; a chunk is also the unit of the search for a
 * non-finite value.  64 KiB of single precision: half of a usual L2 cache with its source. */
enum { CHUNK = 1 << 14, ROUND_CHUNK = 1024 };

static uint32_t bits_of(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

static float from_bf16(uint16_t b)
{
    return float_of((uint32_t)b << 16);
}

/* The 15 bits of magnitude, moved to where single precision has them, read as a number that is
 * 2^112 too small (the exponents' biases are 15 and 127); the product makes up for it, and
 * normalises subnormals on the way.  Only infinity and NaN need their exponent set. */
static float from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, moved = (uint32_t)(h & 0x7fffu) << 13;
    uint32_t finite = bits_of(float_of(moved) * 0x1p112f);

    return float_of(sign | ((h & 0x7c00u) == 0x7c00u ? moved | 0x7f800000u : finite));
}

/* Half of the last kept bit is added, less one unit if that bit is 0: ties go to even. */
static uint16_t to_bf16(float x)
{
    uint32_t bits = bits_of(x), rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uint32_t value = (bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded;

    return (uint16_t)((value & 0x7fffu) == 0u ? 0u : value);
}

/* Below 2^-14 a half counts in units of 2^-24, which is the last bit of a single-precision number
 * in [0.5, 1): adding 0.5 rounds to that unit, ties to even.  From 65520 on the carry gives
 * infinity. */
static uint16_t to_f16(float x)
{
    uint32_t bits = bits_of(x), size = bits & 0x7fffffffu, sign = (bits >> 16) & 0x8000u;
    uint32_t normal = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
    uint32_t small = bits_of(float_of(size) + 0.5f) - 0x3f000000u;
    uint32_t value = size < 0x38800000u ? small : normal;

    value = size >= 0x47800000u ? (size > 0x7f800000u ? 0x7e00u : 0x7c00u) : value;
    return (uint16_t)(value == 0u ? 0u : value | sign);
}

static uint32_t to_f32(float x)
{
    uint32_t bits = bits_of(x);

    return bits == 0x80000000u ? 0u : bits;
}

/* One vectorisable loop per direction and dtype. */
#define DECODE(name, type, convert)                                                                \
    MP_SIMD_CLONES static void name(const void *from, int64_t count, float *restrict to)           \
    {                                                                                              \
        const type *restrict values = from;                                                        \
                                                                                                   \
        for (int64_t i = 0; i < count; i++) to[i] = convert(values[i]);                            \
    }
#define ENCODE(name, type, convert)                                                                \
    MP_SIMD_CLONES static void name(const float *restrict from, int64_t count, void *to)           \
    {                                                                                              \
        type *restrict values = to;                                                                \
                                                                                                   \
        for (int64_t i = 0; i < count; i++) values[i] = convert(from[i]);                          \
    }

DECODE(decode_f32, float, (float))
DECODE(decode_f16, uint16_t, from_f16)
DECODE(decode_bf16, uint16_t, from_bf16)
ENCODE(encode_f32, uint32_t, to_f32)
ENCODE(encode_f16, uint16_t, to_f16)
ENCODE(encode_bf16, uint16_t, to_bf16)

static void decode(mp_dtype dtype, const void *from, int64_t count, float *to)
{
    if (dtype == MP_F16)
        decode_f16(from, count, to);
    else if (dtype == MP_BF16)
        decode_bf16(from, count, to);
    else
        decode_f32(from, count, to);
}

static void encode(mp_dtype dtype, const float *from, int64_t count, void *to)
{
    if (dtype == MP_F16)
        encode_f16(from, count, to);
    else if (dtype == MP_BF16)
        encode_bf16(from, count, to);
    else
        encode_f32(from, count, to);
}

static int64_t chunk_length(int64_t begin, int64_t count, int64_t chunk)
{
    return begin + chunk < count ? chunk : count - begin;
}

void mp_to_f32(mp_dtype dtype, const void *from, int64_t count, float *to)
{
    const char *bytes = from;

#pragma omp parallel for schedule(static) if (count > 4 * CHUNK)
    for (int64_t i = 0; i < count; i += CHUNK)
        decode(dtype, bytes + (size_t)i * mp_dtype_size(dtype), chunk_length(i, count, CHUNK),
               to + i);
}

void mp_from_f32(mp_dtype dtype, const float *from, int64_t count, void *to)
{
    char *bytes = to;

#pragma omp parallel for schedule(static) if (count > 4 * CHUNK)
    for (int64_t i = 0; i < count; i += CHUNK)
        encode(dtype, from + i, chunk_length(i, count, CHUNK),
               bytes + (size_t)i * mp_dtype_size(dtype));
}

/* There and back through a few KiB on the stack. */
void mp_round_f32(mp_dtype dtype, float *values, int64_t count)
{
#pragma omp parallel for schedule(static) if (count > 4 * CHUNK)
    for (int64_t i = 0; i < count; i += ROUND_CHUNK) {
        int64_t length = chunk_length(i, count, ROUND_CHUNK);
        uint32_t stored[ROUND_CHUNK];

        encode(dtype, values + i, length, stored);
        decode(dtype, stored, length, values + i);
    }
}

/* Whether any exponent is all ones. */
MP_SIMD_CLONES static int has_nonfinite(const float *values, int64_t count)
{
    uint32_t found = 0;

    for (int64_t i = 0; i < count; i++)
        found |= (uint32_t)((bits_of(values[i]) & 0x7f800000u) == 0x7f800000u);
    return found != 0;
}

int64_t mp_first_nonfinite(const float *values, int64_t count)
{
    int64_t first = -1;

    for (int64_t i = 0; i < count && first < 0; i += CHUNK) {
        int64_t length = chunk_length(i, count, CHUNK);

        if (!has_nonfinite(values + i, length)) continue;
        for (first = i; (bits_of(values[first]) & 0x7f800000u) != 0x7f800000u;) first++;
    }
    return first;
}
