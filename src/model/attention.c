#include "mpress/forward.h"

#include "mpress/kernels.h"
#include "mpress/linalg.h"
#include "mpress/memory.h"

#include <math.h>
#include <omp.h>

/* Tiles of queries and keys.  Products of this size run at more than 90% of the best rate
 * (measured, head_dim 128), and the scores, 256 KiB, stay in a second-level cache. */
enum { QUERIES = 128, KEYS = 512 };

typedef struct problem {
    int64_t n_tokens, head_dim, window;
    int64_t q_stride, kv_stride; /* floats between tokens */
    int64_t group;               /* heads of q per head of k and v */
    float scale;
    const float *q, *k, *v;
    float *out;
} problem;

/* What a thread needs beside the output. */
typedef struct scratch {
    float scores[QUERIES * KEYS]; /* [queries, keys of the tile] */
    float largest[QUERIES];       /* score so far */
    float sum[QUERIES];           /* of exp(score - largest) so far */
} scratch;

/* Turns one row of scores, of the keys from `key` on, into weights relative to the largest score so
 * far; what is already in `out` (of earlier tiles) is scaled down where that one has grown. */
static void weigh_row(const problem *p, int64_t token, int64_t key, int64_t n, float *row,
                      float *largest, float *sum, float *out)
{
    int64_t from = p->window > 0 ? token - p->window + 1 - key : 0, to = token + 1 - key;
    float top, shrink;

    if (from < 0) from = 0;
    if (to > n) to = n;
    if (to <= from) { /* the token sees nothing of this tile */
        for (int64_t i = 0; i < n; i++) row[i] = 0.0f;
        return;
    }
    for (int64_t i = 0; i < from; i++) row[i] = -INFINITY;
    for (int64_t i = to; i < n; i++) row[i] = -INFINITY;
    top = mp_kernel_max(to - from, row + from);
    if (top > *largest) {
        shrink = *largest - top;
        mp_kernel_exp(1, &shrink);
        if (*sum != 0.0f) mp_kernel_scale(p->head_dim, shrink, out);
        *sum *= shrink;
        *largest = top;
    }
    *sum += mp_kernel_exp_sum(n, *largest, row);
}

/* Head `head` of the queries first .. first + count - 1 against all keys they see.  Tiles above the
 * diagonal or before the window are never touched. */
static mp_status attend_tile(const problem *p, int64_t head, int64_t first, int64_t count,
                             scratch *s)
{
    const int64_t column = head / p->group * p->head_dim, end = first + count;
    const int64_t begin = p->window > 0 && first >= p->window ? first - p->window + 1 : 0;
    const float *q = p->q + first * p->q_stride + head * p->head_dim;
    float *out = p->out + first * p->q_stride + head * p->head_dim;

    for (int64_t i = 0; i < count; i++) {
        s->largest[i] = -INFINITY;
        s->sum[i] = 0.0f;
    }
    for (int64_t key = begin; key < end; key += KEYS) {
        int64_t n = end - key < KEYS ? end - key : KEYS;

        MP_TRY(mp_sgemm(0, 1, count, n, p->head_dim, p->scale, q, p->q_stride,
                        p->k + key * p->kv_stride + column, p->kv_stride, 0.0f, s->scores, n));
        for (int64_t i = 0; i < count; i++)
            weigh_row(p, first + i, key, n, s->scores + i * n, &s->largest[i], &s->sum[i],
                      out + i * p->q_stride);
        MP_TRY(mp_sgemm(0, 0, count, p->head_dim, n, 1.0f, s->scores, n,
                        p->v + key * p->kv_stride + column, p->kv_stride, key > begin ? 1.0f : 0.0f,
                        out, p->q_stride));
    }
    for (int64_t i = 0; i < count; i++)
        mp_kernel_scale(p->head_dim, 1.0f / s->sum[i], out + i * p->q_stride);
    return MP_OK;
}

/* Every (tile of queries, head) is one task, the longest first; inside a parallel region BLAS runs
 * on one thread.  A message is of its thread, so a failure gets one of its own. */
static mp_status attend_all(const problem *p, int64_t n_heads, scratch *scratches)
{
    const int64_t tiles = (p->n_tokens + QUERIES - 1) / QUERIES;
    int failed = 0;

#pragma omp parallel for schedule(dynamic) reduction(max : failed)
    for (int64_t task = 0; task < tiles * n_heads; task++) {
        int64_t first = (tiles - 1 - task / n_heads) * QUERIES;
        int64_t count = p->n_tokens - first < QUERIES ? p->n_tokens - first : QUERIES;
        mp_status st =
            attend_tile(p, task % n_heads, first, count, &scratches[omp_get_thread_num()]);

        if ((int)st > failed) failed = (int)st;
    }
    if (failed == MP_OK) return MP_OK;
    return mp_fail((mp_status)failed, "attention of %lld tokens in %lld heads failed",
                   (long long)p->n_tokens, (long long)n_heads);
}

mp_status mp_attention(const mp_arch *arch, int64_t n_tokens, const float *q, const float *k,
                       const float *v, float *out)
{
    const problem p = {.n_tokens = n_tokens,
                       .head_dim = arch->head_dim,
                       .window = arch->window,
                       .q_stride = arch->n_heads * arch->head_dim,
                       .kv_stride = arch->n_kv_heads * arch->head_dim,
                       .group = arch->n_heads / arch->n_kv_heads,
                       .scale = (float)(1.0 / sqrt((double)arch->head_dim)),
                       .q = q,
                       .k = k,
                       .v = v,
                       .out = out};
    scratch *scratches = NULL;
    mp_status st;

    MP_TRY(MP_NEW_RAW(scratches, omp_get_max_threads(), "scores of attention"));
    st = attend_all(&p, arch->n_heads, scratches);
    mp_free(scratches);
    return st;
}
