/* Attention and the vector kernels against their definitions in double precision. */
#include "worker.h"

#include "memory_source.h"

#include "mpress/forward.h"
#include "mpress/kernels.h"
#include "mpress/memory.h"
#include "mpress/rng.h"

#include <math.h>
#include <string.h>

/* One head of one token in double precision, straight from the definition; out [head_dim]. */
static void naive_token(const mp_arch *a, int64_t t, int64_t head, const float *q, const float *k,
                        const float *v, double *weights, double *out)
{
    const int64_t d = a->head_dim, qs = a->n_heads * d, kvs = a->n_kv_heads * d;
    const int64_t column = head / (a->n_heads / a->n_kv_heads) * d;
    const int64_t first = a->window > 0 && t >= a->window ? t - a->window + 1 : 0;
    double largest = -INFINITY, sum = 0.0;

    for (int64_t s = first; s <= t; s++) {
        weights[s] = 0.0;
        for (int64_t i = 0; i < d; i++)
            weights[s] += (double)q[t * qs + head * d + i] * (double)k[s * kvs + column + i];
        weights[s] /= sqrt((double)d);
        largest = fmax(largest, weights[s]);
    }
    for (int64_t i = 0; i < d; i++) out[i] = 0.0;
    for (int64_t s = first; s <= t; s++) {
        double w = exp(weights[s] - largest);

        sum += w;
        for (int64_t i = 0; i < d; i++) out[i] += w * (double)v[s * kvs + column + i];
    }
    for (int64_t i = 0; i < d; i++) out[i] /= sum;
}

static mp_status compare_attention(const mp_arch *a, int64_t n, const float *q, const float *k,
                                   const float *v, const float *out)
{
    double *weights = NULL, *expected = NULL, worst = 0.0;
    mp_status st;

    MP_GO(MP_NEW(weights, n, "weights of attention"));
    MP_GO(MP_NEW(expected, a->head_dim, "expected"));
    for (int64_t t = 0; t < n; t++)
        for (int64_t h = 0; h < a->n_heads; h++) {
            const float *got = out + (t * a->n_heads + h) * a->head_dim;

            naive_token(a, t, h, q, k, v, weights, expected);
            for (int64_t i = 0; i < a->head_dim; i++) {
                double difference = fabs((double)got[i] - expected[i]);

                if (!(difference <= worst)) worst = difference;
            }
        }
    if (!(worst <= 1e-5)) /* single precision: values and scores reach 10 */
        st = mp_fail(MP_ERR_NUMERIC, "%lld tokens, head_dim %lld, window %lld: off by %.2e",
                     (long long)n, (long long)a->head_dim, (long long)a->window, worst);
out:
    mp_free(weights);
    mp_free(expected);
    return st;
}

static mp_status try_attention(const mp_arch *a, int64_t n)
{
    const int64_t q_size = n * a->n_heads * a->head_dim, kv_size = n * a->n_kv_heads * a->head_dim;
    float *q = NULL, *k, *v, *out;
    mp_status st;

    MP_TRY(MP_NEW(q, 2 * q_size + 2 * kv_size, "heads"));
    k = q + q_size;
    v = k + kv_size;
    out = v + kv_size;
    mp_philox_normal(11, (uint64_t)n, 0, q_size + 2 * kv_size, q);
    for (int64_t i = 0; i < q_size; i++) q[i] *= 2.0f; /* far from uniform weights */
    for (int64_t i = 0; i < q_size; i++) out[i] = NAN; /* nothing of it may survive */
    MP_GO(mp_attention(a, n, q, k, v, out));
    st = compare_attention(a, n, q, k, v, out);
out:
    mp_free(q);
    return st;
}

static mp_status attention_is_the_definition_for_every_length_and_window(const mp_comm *comm)
{
    static const int64_t lengths[] = {1, 2, 3, 127, 128, 129, 640, 1100};
    static const int64_t dims[] = {48, 64, 80, 128};
    static const int64_t windows[] = {0, 1, 5, 128, 200, 5000};
    int64_t number = 0;

    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 4; j++)
            for (int w = 0; w < 6; w++) {
                mp_arch a = {.n_heads = j == 1 ? 6 : 2, .n_kv_heads = 2, .head_dim = dims[j]};

                a.window = windows[w];
                if (i > 5 && (i + j + w) % 3 != 0) continue; /* a third of the long ones will do */
                if (number++ % comm->size == comm->rank) MP_TRY(try_attention(&a, lengths[i]));
            }
    return MP_OK;
}

static mp_status exp_is_right_to_2e_7_and_at_the_ends(const mp_comm *comm)
{
    float ends[6] = {-INFINITY, -87.5f, 0.0f, NAN, 89.0f, -1e30f};
    float x[37]; /* whole vectors and a rest */

    (void)comm;
    for (double start = -87.0; start < 87.9; start += 0.0137) {
        for (int i = 0; i < 37; i++) x[i] = (float)(start + i * 0.00037);
        mp_kernel_exp(37, x);
        for (int i = 0; i < 37; i++) {
            double expected = exp((double)(float)(start + i * 0.00037));

            MP_EXPECT(fabs((double)x[i] - expected) <= 2e-7 * expected);
        }
    }
    mp_kernel_exp(6, ends);
    MP_EXPECT(ends[0] == 0.0f && ends[1] == 0.0f && ends[2] == 1.0f && ends[5] == 0.0f);
    MP_EXPECT(isnan(ends[3]) && ends[4] > 1e38f && isfinite(ends[4]));
    return MP_OK;
}

static mp_status kernels_are_their_formulas(const mp_comm *comm)
{
    enum { N = 83 };
    float x[N], gate[N], up[N], y[N], sum;
    double mean = 0.0, total = 0.0;

    (void)comm;
    mp_philox_normal(1, 1, 0, N, x);
    mp_philox_normal(1, 2, 0, N, gate);
    mp_philox_normal(1, 3, 0, N, up);
    for (int i = 0; i < N; i++) mean += (double)x[i] * (double)x[i] / N;
    mp_kernel_rms_norm(N, 1e-2, x, gate, y);
    for (int i = 0; i < N; i++)
        MP_EXPECT(fabs((double)y[i] - (double)x[i] / sqrt(mean + 1e-2) * (double)gate[i]) < 1e-6);
    memcpy(y, up, sizeof y);
    for (int i = 0; i < N; i++) gate[i] *= 20.0f;
    mp_kernel_silu_mul(N, gate, y);
    for (int i = 0; i < N; i++) {
        double expected = (double)gate[i] / (1.0 + exp(-(double)gate[i])) * (double)up[i];

        MP_EXPECT(fabs((double)y[i] - expected) <= 1e-6 * fabs(expected) + 1e-37);
    }
    memcpy(y, x, sizeof y);
    y[N - 1] = 4.0f;
    MP_EXPECT(mp_kernel_max(N, y) == 4.0f && mp_kernel_max(0, y) == -INFINITY);
    sum = mp_kernel_exp_sum(N, 4.0f, y);
    for (int i = 0; i < N; i++) total += (double)y[i];
    MP_EXPECT(y[N - 1] == 1.0f && fabs((double)sum - total) < 1e-5);
    return MP_OK;
}

static mp_status flops_count_what_is_visible(const mp_comm *comm)
{
    double linears, attention;
    mp_arch a;

    (void)comm;
    MP_TRY(tiny_arch("mistral", "\"sliding_window\": 3", &a));
    mp_forward_flops(&a, 5, &linears, &attention);
    MP_EXPECT(linears == 10.0 * (double)mp_arch_linear_parameters(&a));
    MP_EXPECT(attention == 4.0 * (1 + 2 + 3 + 3 + 3) * 48.0);
    mp_forward_flops(&a, 2, &linears, &attention);
    MP_EXPECT(attention == 4.0 * (1 + 2) * 48.0);
    return MP_OK;
}

const mp_case cases_kernels[] = {
    {"attention_is_the_definition_for_every_length_and_window",
     attention_is_the_definition_for_every_length_and_window},
    {"exp_is_right_to_2e_7_and_at_the_ends", exp_is_right_to_2e_7_and_at_the_ends},
    {"kernels_are_their_formulas", kernels_are_their_formulas},
    {"flops_count_what_is_visible", flops_count_what_is_visible},
    {NULL, NULL},
};
