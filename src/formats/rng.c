#include "mpress/rng.h"

#include <math.h>

/* MT19937: Matsumoto and Nishimura, ACM TOMACS 8 (1998); seeding as in their init_by_array. */
enum { N = 624, M = 397 };

static void seed_word(mp_mt19937 *rng, uint32_t seed)
{
    rng->state[0] = seed;
    for (uint32_t i = 1; i < N; i++) {
        uint32_t last = rng->state[i - 1];

        rng->state[i] = 1812433253u * (last ^ last >> 30) + i;
    }
    rng->index = N;
}

/* Walks over the state, 1 .. N-1 and round again; state[0] follows the last word. */
static uint32_t next_place(uint32_t *state, uint32_t i)
{
    if (++i < N) return i;
    state[0] = state[N - 1];
    return 1;
}

void mp_mt19937_seed(mp_mt19937 *rng, uint64_t seed)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t words = key[1] != 0 ? 2 : 1, *s = rng->state, i = 1;

    seed_word(rng, 19650218u);
    for (uint32_t k = 0; k < N; k++) {
        s[i] = (s[i] ^ (s[i - 1] ^ s[i - 1] >> 30) * 1664525u) + key[k % words] + k % words;
        i = next_place(s, i);
    }
    for (uint32_t k = 0; k < N - 1; k++) {
        s[i] = (s[i] ^ (s[i - 1] ^ s[i - 1] >> 30) * 1566083941u) - i;
        i = next_place(s, i);
    }
    s[0] = 0x80000000u;
}

static void refill(mp_mt19937 *rng)
{
    uint32_t *s = rng->state;

    for (int i = 0; i < N; i++) {
        uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % N] & 0x7fffffffu);

        s[i] = s[(i + M) % N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    rng->index = 0;
}

uint32_t mp_mt19937_next(mp_mt19937 *rng)
{
    uint32_t y;

    if (rng->index >= N) refill(rng);
    y = rng->state[rng->index++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

/* CPython's getrandbits for 1 <= bits <= 64: low word first, the last one shifted down. */
static uint64_t random_bits(mp_mt19937 *rng, int bits)
{
    uint64_t low;

    if (bits <= 32) return mp_mt19937_next(rng) >> (32 - bits);
    low = mp_mt19937_next(rng);
    return low | (uint64_t)(mp_mt19937_next(rng) >> (64 - bits)) << 32;
}

int64_t mp_mt19937_randint(mp_mt19937 *rng, int64_t low, int64_t high)
{
    uint64_t count = (uint64_t)high - (uint64_t)low + 1, drawn;
    int bits = 64 - __builtin_clzll(count);

    do drawn = random_bits(rng, bits);
    while (drawn >= count);
    return (int64_t)((uint64_t)low + drawn);
}

/* Multipliers and key increments of Random123 (Salmon et al., SC11, section 3.3). */
void mp_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4])
{
    uint32_t k0 = key[0], k1 = key[1];
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];

    for (int round = 0; round < 10; round++) {
        uint64_t left = (uint64_t)0xd2511f53u * c0, right = (uint64_t)0xcd9e8d57u * c2;

        c0 = (uint32_t)(right >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)right;
        c2 = (uint32_t)(left >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)left;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Two uniform words to two normal deviates (Box and Muller); 24 bits fill a float, and the half
 * keeps the logarithm's argument above zero. */
static void normal_pair(uint32_t a, uint32_t b, float out[2])
{
    const float unit = 0x1p-24f, two_pi = 6.28318530717958647692f;
    float radius = sqrtf(-2.0f * logf(((float)(a >> 8) + 0.5f) * unit));
    float angle = two_pi * ((float)(b >> 8) * unit);

    out[0] = radius * cosf(angle);
    out[1] = radius * sinf(angle);
}

void mp_philox_normal(uint64_t seed, uint64_t stream, int64_t first, int64_t count, float *out)
{
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    int64_t end = first + count;

    /* Deviates come in groups of four, and only those asked for are kept. */
    for (int64_t group = first / 4; 4 * group < end; group++) {
        const uint32_t counter[4] = {(uint32_t)group, (uint32_t)(group >> 32), (uint32_t)stream,
                                     (uint32_t)(stream >> 32)};
        uint32_t words[4];
        float normal[4];

        mp_philox(key, counter, words);
        normal_pair(words[0], words[1], normal);
        normal_pair(words[2], words[3], normal + 2);
        for (int64_t i = 0; i < 4; i++)
            if (4 * group + i >= first && 4 * group + i < end)
                out[4 * group + i - first] = normal[i];
    }
}
