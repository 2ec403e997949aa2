#include "mpress/kernels.h"

#include "mpress/simd.h"

#include <math.h>
#include <string.h>

/* Partial sums: the width of an AVX-512 register in single precision. */
enum { LANES = 16 };

/* exp without a branch, so that loops over it become vector code.
 *
 * x = n ln 2 + r with n the nearest integer, so |r| <= ln 2 / 2.  Adding 1.5 * 2^23 leaves n in the
 * low bits of the sum: subtracting it again gives n as a number, shifting the bits into the
 * exponent gives 2^n.  ln 2 is split in two, the first part short enough that n times it is exact.
 * exp(r) = 1 + r + r^2 P(r); P is the minimax polynomial of degree 4 for the relative error (Remez
 * exchange; 3e-9 before its coefficients and the arithmetic are rounded).  Measured over every
 * seventh float of [-87, 88]: relative error at most 8.3e-8, with and without fused products. */
static inline float exp_of(float x)
{
    const float magic = 0x1.8p23f;
    float low = x < -87.0f ? -87.0f : x, bounded = low > 88.0f ? 88.0f : low;
    float shifted = bounded * 0x1.715476p0f + magic, n = shifted - magic;
    float r = bounded - n * 0x1.62e4p-1f - n * 0x1.7f7d1cp-20f;
    float p = 0x1.6a2434p-10f, power;
    uint32_t bits;

    p = p * r + 0x1.1239e2p-7f;
    p = p * r + 0x1.5558f2p-5f;
    p = p * r + 0x1.555492p-3f;
    p = p * r + 0x1.fffffcp-2f;
    p = 1.0f + (r + r * r * p);
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3f800000u;
    memcpy(&power, &bits, sizeof power);
    return x < -87.0f ? 0.0f : p * power;
}

MP_SIMD_CLONES static void exp_each(int64_t count, float *x)
{
    for (int64_t i = 0; i < count; i++) x[i] = exp_of(x[i]);
}

MP_SIMD_CLONES static double sum_of_squares(int64_t count, const float *x)
{
    double lanes[LANES] = {0.0}, sum = 0.0;
    int64_t i;

    for (i = 0; i + LANES <= count; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] += (double)x[i + j] * (double)x[i + j];
    for (; i < count; i++) lanes[i % LANES] += (double)x[i] * (double)x[i];
    for (int j = 0; j < LANES; j++) sum += lanes[j];
    return sum;
}

MP_SIMD_CLONES static void scale_by_weight(int64_t count, float factor, const float *x,
                                           const float *restrict weight, float *out)
{
    for (int64_t i = 0; i < count; i++) out[i] = x[i] * factor * weight[i];
}

void mp_kernel_rms_norm(int64_t width, double eps, const float *x, const float *weight, float *out)
{
    double mean = sum_of_squares(width, x) / (double)width;

    scale_by_weight(width, (float)(1.0 / sqrt(mean + eps)), x, weight, out);
}

static inline void rotate_halves(int64_t half, const float *restrict cosines,
                                 const float *restrict sines, float *restrict first,
                                 float *restrict second)
{
    for (int64_t i = 0; i < half; i++) {
        float a = first[i], b = second[i];

        first[i] = a * cosines[i] - b * sines[i];
        second[i] = b * cosines[i] + a * sines[i];
    }
}

MP_SIMD_CLONES static void rotate_heads(int64_t n_heads, int64_t head_dim, const float *cosines,
                                        const float *sines, float *heads)
{
    const int64_t half = head_dim / 2;

    for (int64_t h = 0; h < n_heads; h++)
        rotate_halves(half, cosines, sines, heads + h * head_dim, heads + h * head_dim + half);
}

MP_SIMD_CLONES static void silu_mul(int64_t count, const float *restrict gate, float *restrict up)
{
    for (int64_t i = 0; i < count; i++) up[i] *= gate[i] / (1.0f + exp_of(-gate[i]));
}

MP_SIMD_CLONES static float largest_of(int64_t count, const float *x)
{
    float lanes[LANES], largest = -INFINITY;
    int64_t i;

    for (int j = 0; j < LANES; j++) lanes[j] = -INFINITY;
    for (i = 0; i + LANES <= count; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] = lanes[j] < x[i + j] ? x[i + j] : lanes[j];
    for (; i < count; i++) largest = largest < x[i] ? x[i] : largest;
    for (int j = 0; j < LANES; j++) largest = largest < lanes[j] ? lanes[j] : largest;
    return largest;
}

MP_SIMD_CLONES static float exp_and_sum(int64_t count, float shift, float *x)
{
    float lanes[LANES] = {0.0f}, sum = 0.0f;
    int64_t i;

    for (i = 0; i + LANES <= count; i += LANES)
        for (int j = 0; j < LANES; j++) {
            x[i + j] = exp_of(x[i + j] - shift);
            lanes[j] += x[i + j];
        }
    for (; i < count; i++) {
        x[i] = exp_of(x[i] - shift);
        lanes[i % LANES] += x[i];
    }
    for (int j = 0; j < LANES; j++) sum += lanes[j];
    return sum;
}

MP_SIMD_CLONES static void scale_by(int64_t count, float factor, float *x)
{
    for (int64_t i = 0; i < count; i++) x[i] *= factor;
}

void mp_kernel_exp(int64_t count, float *x)
{
    exp_each(count, x);
}

void mp_kernel_rotate(int64_t n_heads, int64_t head_dim, const float *cosines, const float *sines,
                      float *heads)
{
    rotate_heads(n_heads, head_dim, cosines, sines, heads);
}

void mp_kernel_silu_mul(int64_t count, const float *gate, float *up)
{
    silu_mul(count, gate, up);
}

float mp_kernel_max(int64_t count, const float *x)
{
    return largest_of(count, x);
}

float mp_kernel_exp_sum(int64_t count, float shift, float *x)
{
    return exp_and_sum(count, shift, x);
}

void mp_kernel_scale(int64_t count, float factor, float *x)
{
    scale_by(count, factor, x);
}
