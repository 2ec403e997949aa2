#include "mpress/forward.h"

#include "mpress/kernels.h"
#include "mpress/linear.h"
#include "mpress/memory.h"

#include <math.h>

/* The feed-forward part runs over this many tokens at a time, so that its widest buffers do not
 * grow with the sequence; fewer would cost rate (measured: 512 tokens 95%, 1024 99%). */
enum { TILE = 1024 };

struct mp_forward {
    const mp_arch *arch; /* borrowed */
    int64_t max_tokens;
    float *cosines, *sines; /* [max_tokens, head_dim / 2] of the rotary angles */
    float *scratch;         /* q, k, v of all tokens, or the gate of a tile */
    float *states;          /* of mp_forward_block alone, made at its first call */
};

/* Angle per position of each pair of channels, in double.  Source of the scaling: formats.md 2.3.
 */
static double rope_frequency(const mp_rope *rope, int64_t pair, int64_t head_dim)
{
    const double f = pow(rope->theta, -2.0 * (double)pair / (double)head_dim);
    const double wavelength = 2.0 * acos(-1.0) / f, old = (double)rope->original_max_positions;
    double share;

    if (!rope->llama3 || wavelength < old / rope->high_freq_factor) return f;
    if (wavelength > old / rope->low_freq_factor) return f / rope->factor;
    share = (old / wavelength - rope->low_freq_factor) /
            (rope->high_freq_factor - rope->low_freq_factor);
    return (1.0 - share) * f / rope->factor + share * f;
}

static void fill_rotation(mp_forward *f)
{
    const int64_t half = f->arch->head_dim / 2;

    for (int64_t i = 0; i < half; i++) {
        double frequency = rope_frequency(&f->arch->rope, i, f->arch->head_dim);

        for (int64_t t = 0; t < f->max_tokens; t++) {
            f->cosines[t * half + i] = (float)cos((double)t * frequency);
            f->sines[t * half + i] = (float)sin((double)t * frequency);
        }
    }
}

static int64_t tile_of(int64_t n_tokens)
{
    return n_tokens < TILE ? n_tokens : TILE;
}

static int64_t table_floats(const mp_arch *arch, int64_t max_tokens)
{
    return max_tokens * (arch->head_dim / 2);
}

static int64_t scratch_floats(const mp_arch *arch, int64_t max_tokens)
{
    const int64_t qkv = max_tokens * (arch->n_heads + 2 * arch->n_kv_heads) * arch->head_dim;
    const int64_t gate = tile_of(max_tokens) * arch->d_ff;

    return qkv > gate ? qkv : gate;
}

static int64_t states_floats(const mp_arch *arch, int64_t max_tokens)
{
    return max_tokens * (arch->d_model + arch->states[MP_ATTN_OUT].width) +
           tile_of(max_tokens) * arch->d_ff;
}

int64_t mp_forward_bytes(const mp_arch *arch, int64_t max_tokens, int whole_blocks)
{
    int64_t floats = 2 * table_floats(arch, max_tokens) + scratch_floats(arch, max_tokens);

    if (whole_blocks) floats += states_floats(arch, max_tokens);
    return (int64_t)sizeof(mp_forward) + floats * (int64_t)sizeof(float);
}

mp_status mp_forward_create(const mp_arch *arch, int64_t max_tokens, mp_forward **forward)
{
    const int64_t table = table_floats(arch, max_tokens);
    mp_forward *f = NULL;
    mp_status st;

    MP_TRY(MP_NEW(f, 1, "forward pass"));
    f->arch = arch;
    f->max_tokens = max_tokens;
    MP_GO(MP_NEW_RAW(f->cosines, table, "rotary angles"));
    MP_GO(MP_NEW_RAW(f->sines, table, "rotary angles"));
    MP_GO(MP_NEW_RAW(f->scratch, scratch_floats(arch, max_tokens), "scratch of the forward pass"));
    fill_rotation(f);
    *forward = f;
    f = NULL;
out:
    mp_forward_free(f);
    return st;
}

void mp_forward_free(mp_forward *forward)
{
    if (forward == NULL) return;
    mp_free(forward->cosines);
    mp_free(forward->sines);
    mp_free(forward->scratch);
    mp_free(forward->states);
    mp_free(forward);
}

void mp_rms_norm(int64_t n_tokens, int64_t width, double eps, const float *x, const float *weight,
                 float *out)
{
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < n_tokens; t++)
        mp_kernel_rms_norm(width, eps, x + t * width, weight, out + t * width);
}

mp_status mp_forward_norm(const mp_block *block, int state, int64_t n_tokens, const float *hidden,
                          float *out)
{
    const mp_arch *arch = block->arch;

    if (state != MP_ATTN_IN && state != MP_FFN_IN)
        return mp_fail(MP_ERR_INTERNAL, "state %d is not the output of a norm", state);
    mp_rms_norm(n_tokens, arch->d_model, arch->norm_eps, hidden,
                block->norms[state == MP_ATTN_IN ? MP_ATTN_NORM : MP_FFN_NORM], out);
    return MP_OK;
}

/* Heads of one token: their norm, where the family has one, then the rotation. */
static void position_heads(const mp_forward *f, int64_t token, int64_t n_heads, const float *weight,
                           float *heads)
{
    const int64_t dim = f->arch->head_dim, half = dim / 2;

    for (int64_t h = 0; weight != NULL && h < n_heads; h++)
        mp_kernel_rms_norm(dim, f->arch->norm_eps, heads + h * dim, weight, heads + h * dim);
    mp_kernel_rotate(n_heads, dim, f->cosines + token * half, f->sines + token * half, heads);
}

/* previous [n_tokens, d_model] -> out [n_tokens, n_heads * head_dim]. */
static mp_status attend(mp_forward *f, const mp_block *block, int64_t n_tokens,
                        const float *previous, float *out)
{
    const mp_arch *arch = f->arch;
    const int64_t q_width = arch->n_heads * arch->head_dim;
    const int64_t kv_width = arch->n_kv_heads * arch->head_dim;
    float *q = f->scratch, *k = q + n_tokens * q_width, *v = k + n_tokens * kv_width;

    MP_TRY(mp_linear_apply(&block->linears[MP_Q], n_tokens, previous, q));
    MP_TRY(mp_linear_apply(&block->linears[MP_K], n_tokens, previous, k));
    MP_TRY(mp_linear_apply(&block->linears[MP_V], n_tokens, previous, v));
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < n_tokens; t++) {
        position_heads(f, t, arch->n_heads, block->norms[MP_Q_NORM], q + t * q_width);
        position_heads(f, t, arch->n_kv_heads, block->norms[MP_K_NORM], k + t * kv_width);
    }
    return mp_attention(arch, n_tokens, q, k, v, out);
}

/* One tile: previous [n, d_model] -> out [n, d_ff] = silu(gate(previous)) * up(previous). */
static mp_status gate_tile(mp_forward *f, const mp_block *block, int64_t n, const float *previous,
                           float *out)
{
    const int64_t width = f->arch->d_ff;
    float *gate = f->scratch;

    MP_TRY(mp_linear_apply(&block->linears[MP_GATE], n, previous, gate));
    MP_TRY(mp_linear_apply(&block->linears[MP_UP], n, previous, out));
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < n; t++) mp_kernel_silu_mul(width, gate + t * width, out + t * width);
    return MP_OK;
}

/* Tiles of nearly equal length: number i begins at n_tokens i / tiles.  mp_forward_block, _state
 * and _finish all cut here, so that they give the same bits. */
static int64_t tile_count(int64_t n_tokens)
{
    return (n_tokens + TILE - 1) / TILE;
}

static mp_status gate_all(mp_forward *f, const mp_block *block, int64_t n_tokens,
                          const float *previous, float *out)
{
    const int64_t tiles = tile_count(n_tokens);

    for (int64_t i = 0; i < tiles; i++) {
        int64_t begin = n_tokens * i / tiles, end = n_tokens * (i + 1) / tiles;

        MP_TRY(gate_tile(f, block, end - begin, previous + begin * f->arch->d_model,
                         out + begin * f->arch->d_ff));
    }
    return MP_OK;
}

static mp_status check_length(const mp_forward *f, int64_t n_tokens)
{
    if (n_tokens >= 0 && n_tokens <= f->max_tokens) return MP_OK;
    return mp_fail(MP_ERR_INTERNAL, "a sequence of %lld tokens, expected up to %lld",
                   (long long)n_tokens, (long long)f->max_tokens);
}

mp_status mp_forward_state(mp_forward *forward, const mp_block *block, int state, int64_t n_tokens,
                           float *hidden, const float *previous, float *out)
{
    MP_TRY(check_length(forward, n_tokens));
    switch (state) {
    case MP_ATTN_IN:
        return mp_forward_norm(block, state, n_tokens, hidden, out);
    case MP_ATTN_OUT:
        return attend(forward, block, n_tokens, previous, out);
    case MP_FFN_IN:
        MP_TRY(mp_linear_add(&block->linears[MP_O], n_tokens, previous, hidden));
        return mp_forward_norm(block, state, n_tokens, hidden, out);
    case MP_FFN_MID:
        return gate_all(forward, block, n_tokens, previous, out);
    default:
        return mp_fail(MP_ERR_INTERNAL, "state %d, expected 0 to %d", state, MP_FFN_MID);
    }
}

mp_status mp_forward_finish(mp_forward *forward, const mp_block *block, int64_t n_tokens,
                            float *hidden, const float *last)
{
    const mp_arch *arch = forward->arch;
    const int64_t tiles = tile_count(n_tokens);

    MP_TRY(check_length(forward, n_tokens));
    for (int64_t i = 0; i < tiles; i++) {
        int64_t begin = n_tokens * i / tiles, end = n_tokens * (i + 1) / tiles;

        MP_TRY(mp_linear_add(&block->linears[MP_DOWN], end - begin, last + begin * arch->d_ff,
                             hidden + begin * arch->d_model));
    }
    return MP_OK;
}

/* The feed-forward part from its normalised input, a tile at a time; `middle` is [tile, d_ff]. */
static mp_status feed_forward(mp_forward *f, const mp_block *block, int64_t n_tokens,
                              const float *input, float *middle, float *hidden)
{
    const int64_t tiles = tile_count(n_tokens), width = f->arch->d_model;

    for (int64_t i = 0; i < tiles; i++) {
        int64_t begin = n_tokens * i / tiles, end = n_tokens * (i + 1) / tiles;

        MP_TRY(gate_tile(f, block, end - begin, input + begin * width, middle));
        MP_TRY(
            mp_linear_add(&block->linears[MP_DOWN], end - begin, middle, hidden + begin * width));
    }
    return MP_OK;
}

mp_status mp_forward_block(mp_forward *forward, const mp_block *block, int64_t n_tokens,
                           float *hidden)
{
    const mp_arch *arch = forward->arch;
    const int64_t max = forward->max_tokens, heads = arch->states[MP_ATTN_OUT].width;
    float *normalised, *attention, *middle;

    if (forward->states == NULL)
        MP_TRY(MP_NEW_RAW(forward->states, states_floats(arch, max), "states of a block"));
    normalised = forward->states;
    attention = normalised + max * arch->d_model;
    middle = attention + max * heads;
    MP_TRY(mp_forward_state(forward, block, MP_ATTN_IN, n_tokens, hidden, NULL, normalised));
    MP_TRY(mp_forward_state(forward, block, MP_ATTN_OUT, n_tokens, hidden, normalised, attention));
    MP_TRY(mp_forward_state(forward, block, MP_FFN_IN, n_tokens, hidden, attention, normalised));
    return feed_forward(forward, block, n_tokens, normalised, middle, hidden);
}

void mp_forward_flops(const mp_arch *arch, int64_t n_tokens, double *linears, double *attention)
{
    const double window =
        arch->window > 0 && arch->window < n_tokens ? (double)arch->window : (double)n_tokens;
    /* pairs of a token and one it sees: the first `window` tokens see 1, 2, ..., window */
    const double pairs = window * (window + 1.0) / 2.0 + ((double)n_tokens - window) * window;

    *linears = 2.0 * (double)n_tokens * (double)mp_arch_linear_parameters(arch);
    *attention = 4.0 * pairs * (double)(arch->n_heads * arch->head_dim);
}
