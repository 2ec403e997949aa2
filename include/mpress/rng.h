/* Random numbers others can reproduce: CPython's generator, and a counter-based one for weights.
 * Floor 1: formats. */
#ifndef MPRESS_RNG_H
#define MPRESS_RNG_H

#include <stdint.h>

/* MT19937 seeded and drawn as CPython's `random` module does it. */
typedef struct mp_mt19937 {
    uint32_t state[624];
    int index;
} mp_mt19937;

/* random.seed(seed) for a non-negative integer: init_by_array with the seed's 32-bit words. */
void mp_mt19937_seed(mp_mt19937 *rng, uint64_t seed);
uint32_t mp_mt19937_next(mp_mt19937 *rng);

/* random.randint(low, high), both inclusive; needs low <= high and high - low < 2^63. */
int64_t mp_mt19937_randint(mp_mt19937 *rng, int64_t low, int64_t high);

/* Philox4x32-10 (Salmon et al., SC11): the result depends on key and counter alone, so any rank can
 * make any element. */
void mp_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]);

/* `count` normal deviates of stream (seed, stream), elements first .. first + count - 1: the same
 * numbers however the range is cut. */
void mp_philox_normal(uint64_t seed, uint64_t stream, int64_t first, int64_t count, float *out);

#endif
