/* Models with quantised linear maps: which ones, and how their integers look in other formats.
 * Floor 7: checkpoint; for the files of src/checkpoint only. */
#ifndef MPRESS_INTEGERS_H
#define MPRESS_INTEGERS_H

#include "mpress/quant.h"
#include "mpress/source.h"

/* A quantised linear map: indices of its tensors in the source. */
typedef struct mp_integers {
    char *name;                  /* X of X.packed; owned */
    int64_t packed, scale, zero; /* zero is -1 where the grid is symmetric */
    int64_t d_out, d_in, words, groups;
    mp_quant quant;
    mp_dtype dtype; /* of the scales, and of the weights that they make */
} mp_integers;

typedef struct mp_integer_maps {
    mp_integers *map; /* [count] in the order of names; owned (mp_integer_maps_free) */
    int64_t count;
} mp_integer_maps;

/* The quantised linear maps of a source, which may have none.
 * Errors: MP_ERR_FORMAT for tensors that do not fit together. */
mp_status mp_integer_maps_find(const mp_source *source, mp_integer_maps *maps);
void mp_integer_maps_free(mp_integer_maps *maps);

/* Rows [first, end) of a tensor made of the integers of a map, row-major; a vector has rows of one
 * element. */
typedef mp_status (*mp_repack)(const mp_source *source, const mp_integers *map, int64_t first,
                               int64_t end, void *rows);

/* Bytes [begin, begin + length) of such a tensor; ask for whole rows where it matters. */
mp_status mp_repack_read(const mp_source *source, const mp_integers *map, mp_repack repack,
                         const mp_tensor_info *info, int64_t begin, int64_t length, void *to);

/* What repacks read at a time takes at most 16 MiB beside the scales or the zero points of one map.
 *
 *   words          the packed codes, the scales: as they are
 *   shape          I64 [2]: d_out, d_in
 *   zeros_down     I32 [ceil(d_out bits / 32), groups]: zero points packed along d_out
 *   words_across   I32 [words, d_out]: the packed codes transposed
 *   gptq_zeros     I32 [groups, d_out bits / 32]: zero points less one, packed along d_out
 *   f16_scales     F16 [groups, d_out]
 *   group_index    I32 [d_in]: the group of each column
 *   awq_codes      I32 [d_in, d_out / 8]: codes of 4 bits, eight rows in a word, in AWQ's order
 *   awq_zeros      I32 [groups, d_out / 8]: zero points in the same order
 *   weights        [d_out, d_in] in the dtype of the scales */
mp_status mp_repack_words(const mp_source *source, const mp_integers *map, int64_t first,
                          int64_t end, void *rows);
mp_status mp_repack_scales(const mp_source *source, const mp_integers *map, int64_t first,
                           int64_t end, void *rows);
mp_status mp_repack_shape(const mp_source *source, const mp_integers *map, int64_t first,
                          int64_t end, void *rows);
mp_status mp_repack_zeros_down(const mp_source *source, const mp_integers *map, int64_t first,
                               int64_t end, void *rows);
mp_status mp_repack_words_across(const mp_source *source, const mp_integers *map, int64_t first,
                                 int64_t end, void *rows);
mp_status mp_repack_gptq_zeros(const mp_source *source, const mp_integers *map, int64_t first,
                               int64_t end, void *rows);
mp_status mp_repack_f16_scales(const mp_source *source, const mp_integers *map, int64_t first,
                               int64_t end, void *rows);
mp_status mp_repack_group_index(const mp_source *source, const mp_integers *map, int64_t first,
                                int64_t end, void *rows);
mp_status mp_repack_awq_codes(const mp_source *source, const mp_integers *map, int64_t first,
                              int64_t end, void *rows);
mp_status mp_repack_awq_zeros(const mp_source *source, const mp_integers *map, int64_t first,
                              int64_t end, void *rows);
mp_status mp_repack_weights(const mp_source *source, const mp_integers *map, int64_t first,
                            int64_t end, void *rows);

/* The zero points of a map, [d_out, groups]; 2^(bits - 1) everywhere where it is symmetric.  Owned by the
 * caller. */
mp_status mp_integers_zeros(const mp_source *source, const mp_integers *map, uint8_t **zeros);

/* Rows [first, first + count) of its scales in single precision. */
mp_status mp_integers_scales(const mp_source *source, const mp_integers *map, int64_t first,
                             int64_t count, float *scales);

#endif
