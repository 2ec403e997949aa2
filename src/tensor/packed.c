#include "mpress/packed.h"

#include "mpress/simd.h"
#include "mpress/tensor.h"

#include <math.h>
#include <string.h>

/* 32 codes are as many words as a code has bits; so many are unpacked at a time. */
enum { RUN = 32, CHUNK = 32 * RUN };

int64_t mp_packed_words(int bits, int64_t count)
{
    return (count * bits + 31) / 32;
}

void mp_pack_codes(int bits, int64_t count, const uint8_t *codes, uint32_t *words)
{
    uint64_t window = 0;
    int filled = 0;

    for (int64_t i = 0; i < count; i++) {
        window |= (uint64_t)codes[i] << filled;
        filled += bits;
        if (filled < 32) continue;
        *words++ = (uint32_t)window;
        window >>= 32;
        filled -= 32;
    }
    if (filled > 0) *words = (uint32_t)window;
}

/* One run: with a constant number of bits every shift is one, too. */
static inline void unpack_run(const int bits, const uint32_t *words, uint8_t *codes)
{
    const uint32_t mask = (1u << bits) - 1;

    for (int i = 0; i < RUN; i++) {
        const int word = i * bits / 32, shift = i * bits % 32;
        uint32_t code = words[word] >> shift;

        if (shift + bits > 32) code |= words[word + 1] << (32 - shift);
        codes[i] = (uint8_t)(code & mask);
    }
}

#define UNPACK(bits)                                                                               \
    MP_SIMD_CLONES static void unpack_##bits(int64_t runs, const uint32_t *words, uint8_t *codes)  \
    {                                                                                              \
        for (int64_t r = 0; r < runs; r++) unpack_run(bits, words + r * bits, codes + r * RUN);    \
    }

UNPACK(2)
UNPACK(3)
UNPACK(4)
UNPACK(5)
UNPACK(6)
UNPACK(7)
UNPACK(8)

static void (*const unpack[])(int64_t runs, const uint32_t *words, uint8_t *codes) = {
    NULL, NULL, unpack_2, unpack_3, unpack_4, unpack_5, unpack_6, unpack_7, unpack_8};

void mp_unpack_codes(int bits, int64_t count, const uint32_t *words, uint8_t *codes)
{
    int64_t runs = count / RUN, left = count % RUN;
    uint32_t last[8] = {0};
    uint8_t tail[RUN];

    unpack[bits](runs, words, codes);
    if (left == 0) return;
    memcpy(last, words + runs * bits, (size_t)mp_packed_words(bits, left) * sizeof *words);
    unpack[bits](1, last, tail);
    memcpy(codes + runs * RUN, tail, (size_t)left);
}

MP_SIMD_CLONES
static void scale_codes(int64_t count, const uint8_t *restrict codes, int zero, float scale,
                        float *restrict weight)
{
    for (int64_t i = 0; i < count; i++) weight[i] = (float)((int)codes[i] - zero) * scale;
}

static int zero_of(const mp_packed *p, int64_t at)
{
    return p->zero != NULL ? p->zero[at] : 1 << (p->quant.bits - 1);
}

/* Columns [begin, end) of a row, a group at a time; codes and weights from column `begin` on. */
static void scale_columns(const mp_packed *p, int64_t row, int64_t begin, int64_t end,
                          const uint8_t *codes, float *weight)
{
    int64_t group = mp_quant_group(&p->quant, p->columns), groups = p->columns / group;

    for (int64_t at = begin, next; at < end; at = next) {
        int64_t g = at / group;

        next = (g + 1) * group < end ? (g + 1) * group : end;
        scale_codes(next - at, codes + at - begin, zero_of(p, row * groups + g),
                    p->scale[row * groups + g], weight + at - begin);
    }
}

static void row_weights(const mp_packed *p, int64_t row, float *weight)
{
    const uint32_t *words = p->words + row * mp_packed_words(p->quant.bits, p->columns);
    uint8_t codes[CHUNK];

    for (int64_t begin = 0; begin < p->columns; begin += CHUNK) {
        int64_t end = begin + CHUNK < p->columns ? begin + CHUNK : p->columns;

        mp_unpack_codes(p->quant.bits, end - begin, words + begin / RUN * p->quant.bits, codes);
        scale_columns(p, row, begin, end, codes, weight + begin);
    }
    mp_round_f32(p->dtype, weight, p->columns);
}

void mp_packed_weights(const mp_packed *packed, int64_t first, int64_t count, float *rows)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < count; i++) row_weights(packed, first + i, rows + i * packed->columns);
}

/* The codes of columns [begin, end). */
static void find_codes(const mp_packed *p, int64_t row, int64_t begin, int64_t end,
                       const float *weight, uint8_t *codes)
{
    int64_t group = mp_quant_group(&p->quant, p->columns), groups = p->columns / group;
    const double top = (1 << p->quant.bits) - 1;

    for (int64_t j = begin; j < end; j++) {
        int64_t at = row * groups + j / group;
        double u = rint((double)weight[j] / (double)p->scale[at]) + zero_of(p, at);

        codes[j - begin] = (uint8_t)(u > top ? top : u > 0.0 ? u : 0.0);
    }
}

int64_t mp_packed_put(const mp_packed *p, int64_t row, const float *weight)
{
    uint32_t *words = p->words + row * mp_packed_words(p->quant.bits, p->columns);

    for (int64_t begin = 0; begin < p->columns; begin += CHUNK) {
        int64_t end = begin + CHUNK < p->columns ? begin + CHUNK : p->columns;
        uint8_t codes[CHUNK];
        float back[CHUNK];

        find_codes(p, row, begin, end, weight, codes);
        mp_pack_codes(p->quant.bits, end - begin, codes, words + begin / RUN * p->quant.bits);
        scale_columns(p, row, begin, end, codes, back);
        for (int64_t j = begin; j < end; j++)
            if (back[j - begin] != weight[j]) return j;
    }
    return -1;
}
