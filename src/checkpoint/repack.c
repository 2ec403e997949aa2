/* The integers of a linear map in the layouts of other programs, made as they are read (integers.h). */
#include "integers.h"

#include "mpress/memory.h"
#include "mpress/packed.h"
#include "mpress/tensor.h"

#include <string.h>

/* Read from the source at a time. */
enum { CHUNK_BYTES = 1 << 22 };

/* Position of nibble i of a word among its eight rows: AWQ's kernels unpack pairs. */
static const int awq_order[8] = {0, 2, 4, 6, 1, 3, 5, 7};

mp_status mp_repack_read(const mp_source *source, const mp_integers *map, mp_repack repack,
                         const mp_tensor_info *info, int64_t begin, int64_t length, void *to)
{
    const int64_t width = info->shape[0] > 0 ? mp_tensor_bytes(info) / info->shape[0] : 1;
    const int64_t bytes = mp_tensor_bytes(info), first = begin / width;
    const int64_t end = (begin + length + width - 1) / width;
    char *rows = NULL;
    mp_status st;

    if (begin < 0 || length < 0 || length > bytes || begin > bytes - length)
        return mp_fail(MP_ERR_INTERNAL, "%s: tensor \"%s\": %lld bytes at %lld, but it has %lld",
                       source->path, info->name, (long long)length, (long long)begin,
                       (long long)bytes);
    if (length == 0) return MP_OK;
    if (begin % width == 0 && length % width == 0) return repack(source, map, first, end, to);
    MP_TRY(MP_NEW_RAW(rows, (end - first) * width, "rows of a tensor"));
    st = repack(source, map, first, end, rows);
    if (st == MP_OK) memcpy(to, rows + begin - first * width, (size_t)length);
    mp_free(rows);
    return st;
}

static mp_status read_words(const mp_source *source, const mp_integers *map, int64_t first,
                            int64_t end, void *words)
{
    const int64_t width = map->words * (int64_t)sizeof(uint32_t);

    return source->read(source->self, map->packed, first * width, (end - first) * width, words);
}

mp_status mp_repack_words(const mp_source *source, const mp_integers *map, int64_t first,
                          int64_t end, void *rows)
{
    return read_words(source, map, first, end, rows);
}

mp_status mp_repack_scales(const mp_source *source, const mp_integers *map, int64_t first,
                           int64_t end, void *rows)
{
    const int64_t width = map->groups * (int64_t)mp_dtype_size(map->dtype);

    return source->read(source->self, map->scale, first * width, (end - first) * width, rows);
}

mp_status mp_repack_shape(const mp_source *source, const mp_integers *map, int64_t first,
                          int64_t end, void *rows)
{
    const int64_t shape[2] = {map->d_out, map->d_in};

    (void)source;
    memcpy(rows, shape + first, (size_t)(end - first) * sizeof *shape);
    return MP_OK;
}

mp_status mp_repack_group_index(const mp_source *source, const mp_integers *map, int64_t first,
                                int64_t end, void *rows)
{
    int32_t *index = rows;

    (void)source;
    for (int64_t j = first; j < end; j++)
        index[j - first] = (int32_t)(j / mp_quant_group(&map->quant, map->d_in));
    return MP_OK;
}

/* Rows of the packed codes that are read at a time: a multiple of 8. */
static int64_t chunk_rows(const mp_integers *map)
{
    int64_t rows = CHUNK_BYTES / (map->words * 4) / 8 * 8;

    return rows < 8 ? 8 : rows < map->d_out ? rows : map->d_out;
}

/* What becomes of rows [row, row + count) of the packed codes, [count][words], in rows [first, end) of the
 * tensor to make. */
typedef void (*take_rows)(const mp_integers *map, const uint32_t *words, int64_t row, int64_t count,
                          int64_t first, int64_t end, uint32_t *to);

/* All rows of the packed codes pass by: each has a column of the tensor to make. */
static mp_status pass_rows(const mp_source *source, const mp_integers *map, take_rows take,
                           int64_t first, int64_t end, void *to)
{
    const int64_t step = chunk_rows(map);
    uint32_t *words = NULL;
    mp_status st;

    MP_GO(MP_NEW_RAW(words, step * map->words, "packed codes"));
    for (int64_t row = 0; row < map->d_out; row += step) {
        int64_t next = row + step < map->d_out ? row + step : map->d_out;

        MP_GO(read_words(source, map, row, next, words));
        take(map, words, row, next - row, first, end, to);
    }
out:
    mp_free(words);
    return st;
}

static void take_transposed(const mp_integers *map, const uint32_t *words, int64_t row,
                            int64_t count, int64_t first, int64_t end, uint32_t *to)
{
#pragma omp parallel for
    for (int64_t w = first; w < end; w++)
        for (int64_t i = 0; i < count; i++)
            to[(w - first) * map->d_out + row + i] = words[i * map->words + w];
}

mp_status mp_repack_words_across(const mp_source *source, const mp_integers *map, int64_t first,
                                 int64_t end, void *rows)
{
    return pass_rows(source, map, take_transposed, first, end, rows);
}

static void take_awq(const mp_integers *map, const uint32_t *words, int64_t row, int64_t count,
                     int64_t first, int64_t end, uint32_t *to)
{
#pragma omp parallel for
    for (int64_t j = first; j < end; j++)
        for (int64_t i = 0; i + 8 <= count; i += 8) {
            const uint32_t *column = words + i * map->words + j / 8;
            uint32_t word = 0;

            for (int k = 0; k < 8; k++)
                word |= (column[awq_order[k] * map->words] >> (j % 8 * 4) & 15u) << (4 * k);
            to[((j - first) * map->d_out + row + i) / 8] = word;
        }
}

mp_status mp_repack_awq_codes(const mp_source *source, const mp_integers *map, int64_t first,
                              int64_t end, void *rows)
{
    return pass_rows(source, map, take_awq, first, end, rows);
}

/* The zero points of one group, less `less`, of all rows in the order [order], packed. */
static void pack_zeros(const mp_integers *map, const uint8_t *zeros, int64_t group,
                       const int order[8], int less, uint8_t *column, uint32_t *words)
{
    for (int64_t i = 0; i < map->d_out; i++) {
        int64_t row = order != NULL ? i / 8 * 8 + order[i % 8] : i;

        column[i] = (uint8_t)(zeros[row * map->groups + group] - less);
    }
    mp_pack_codes(map->quant.bits, map->d_out, column, words);
}

/* Groups [first, end), each a row of words packed along d_out. */
static mp_status zeros_across(const mp_source *source, const mp_integers *map, const int order[8],
                              int less, int64_t first, int64_t end, uint32_t *to)
{
    const int64_t words = mp_packed_words(map->quant.bits, map->d_out);
    uint8_t *zeros = NULL, *column = NULL;
    mp_status st;

    MP_GO(mp_integers_zeros(source, map, &zeros));
    MP_GO(MP_NEW_RAW(column, map->d_out, "zero points"));
    for (int64_t g = first; g < end; g++)
        pack_zeros(map, zeros, g, order, less, column, to + (g - first) * words);
out:
    mp_free(zeros);
    mp_free(column);
    return st;
}

mp_status mp_repack_gptq_zeros(const mp_source *source, const mp_integers *map, int64_t first,
                               int64_t end, void *rows)
{
    return zeros_across(source, map, NULL, 1, first, end, rows);
}

mp_status mp_repack_awq_zeros(const mp_source *source, const mp_integers *map, int64_t first,
                              int64_t end, void *rows)
{
    return zeros_across(source, map, awq_order, 0, first, end, rows);
}

mp_status mp_repack_zeros_down(const mp_source *source, const mp_integers *map, int64_t first,
                               int64_t end, void *rows)
{
    const int64_t words = mp_packed_words(map->quant.bits, map->d_out);
    uint32_t *across = NULL, *to = rows;
    mp_status st;

    MP_GO(MP_NEW_RAW(across, map->groups * words, "packed zero points"));
    MP_GO(zeros_across(source, map, NULL, 0, 0, map->groups, across));
    for (int64_t w = first; w < end; w++)
        for (int64_t g = 0; g < map->groups; g++)
            to[(w - first) * map->groups + g] = across[g * words + w];
out:
    mp_free(across);
    return st;
}

mp_status mp_repack_f16_scales(const mp_source *source, const mp_integers *map, int64_t first,
                               int64_t end, void *rows)
{
    float *scales = NULL, *row = NULL;
    uint16_t *to = rows;
    mp_status st;

    MP_GO(MP_NEW_RAW(scales, map->d_out * map->groups, "scales"));
    MP_GO(MP_NEW_RAW(row, map->d_out, "scales"));
    MP_GO(mp_integers_scales(source, map, 0, map->d_out, scales));
    for (int64_t g = first; g < end; g++) {
        for (int64_t i = 0; i < map->d_out; i++) row[i] = scales[i * map->groups + g];
        mp_from_f32(MP_F16, row, map->d_out, to + (g - first) * map->d_out);
    }
out:
    mp_free(scales);
    mp_free(row);
    return st;
}

/* At most a chunk of rows of weights. */
static mp_status make_weights(const mp_source *source, const mp_integers *map, int64_t first,
                              int64_t count, uint32_t *words, float *scales, uint8_t *zeros,
                              float *weights)
{
    const mp_packed packed = {.quant = map->quant,
                              .columns = map->d_in,
                              .dtype = map->dtype,
                              .words = words,
                              .scale = scales,
                              .zero = map->zero < 0 ? NULL : zeros};

    MP_TRY(read_words(source, map, first, first + count, words));
    MP_TRY(mp_integers_scales(source, map, first, count, scales));
    if (map->zero >= 0)
        MP_TRY(
            source->read(source->self, map->zero, first * map->groups, count * map->groups, zeros));
    mp_packed_weights(&packed, 0, count, weights);
    return MP_OK;
}

mp_status mp_repack_weights(const mp_source *source, const mp_integers *map, int64_t first,
                            int64_t end, void *rows)
{
    const int64_t step = CHUNK_BYTES / (map->d_in * 4) > 0 ? CHUNK_BYTES / (map->d_in * 4) : 1;
    const int64_t width = map->d_in * (int64_t)mp_dtype_size(map->dtype);
    float *weights = NULL, *scales = NULL;
    uint32_t *words = NULL;
    uint8_t *zeros = NULL;
    mp_status st;

    MP_GO(MP_NEW_RAW(words, step * map->words, "packed codes"));
    MP_GO(MP_NEW_RAW(scales, step * map->groups, "scales"));
    MP_GO(MP_NEW_RAW(zeros, step * map->groups, "zero points"));
    MP_GO(MP_NEW_RAW(weights, step * map->d_in, "weights"));
    for (int64_t row = first; row < end; row += step) {
        int64_t count = end - row < step ? end - row : step;

        MP_GO(make_weights(source, map, row, count, words, scales, zeros, weights));
        mp_from_f32(map->dtype, weights, count * map->d_in, (char *)rows + (row - first) * width);
    }
out:
    mp_free(words);
    mp_free(scales);
    mp_free(zeros);
    mp_free(weights);
    return st;
}
