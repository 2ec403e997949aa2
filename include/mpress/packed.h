/* Codes of integer grids (quant.h) packed into 32-bit words, and back to weights.
 * Floor 2: tensor.
 *
 * A row of codes is a stream of bits, low ones first: code i is bits [i b, i b + b) of it, and word w bits
 * [32 w, 32 w + 32), so that for 3, 5, 6 and 7 bits a code may lie in two words, and 32 codes are b words.
 * That is how compressed-tensors packs a row ("pack-quantized"), and GPTQ a column. */
#ifndef MPRESS_PACKED_H
#define MPRESS_PACKED_H

#include "mpress/quant.h"

/* Rows of weights as codes with their grids. */
typedef struct mp_packed {
    mp_quant quant; /* bits = 0: there is nothing */
    int64_t columns;
    mp_dtype dtype;  /* that the weights are rounded to */
    uint32_t *words; /* [rows][mp_packed_words(bits, columns)] */
    float *scale;    /* [rows][groups] exact values of dtype */
    uint8_t *zero;   /* [rows][groups] codes; NULL where the grid is symmetric */
} mp_packed;

/* Words of `count` codes. */
int64_t mp_packed_words(int bits, int64_t count);

/* The bits of the last word that belong to no code become zero.  Local. */
void mp_pack_codes(int bits, int64_t count, const uint8_t *codes, uint32_t *words);
void mp_unpack_codes(int bits, int64_t count, const uint32_t *words, uint8_t *codes);

/* Rows [first, first + count) as weights, rows [count][columns]: (u - z) s rounded to the dtype, zeros +0.0.
 * Threads over rows.  Local. */
void mp_packed_weights(const mp_packed *packed, int64_t first, int64_t count, float *rows);

/* The codes of row `row`, whose scales and zero points are there, from weights [columns] on its grid, (u - z) s
 * in single precision: not yet rounded to the dtype, where neighbouring codes may meet.  Returns the first
 * column whose weight is not what a code says, -1 for none.  Local. */
int64_t mp_packed_put(const mp_packed *packed, int64_t row, const float *weight);

#endif
