/* Tensors cut into pieces that fit a buffer, so that copying a model takes constant memory.
 * Floor 7: checkpoint; for the files of src/checkpoint only. */
#ifndef MPRESS_PIECES_H
#define MPRESS_PIECES_H

#include "mpress/source.h"

enum { MP_PIECE_BYTES = 1 << 26 };

/* How a tensor is cut: along the first dimension `axis` of which one step fits a piece. */
typedef struct mp_pieces {
    int axis;
    int64_t count; /* pieces of the tensor; 0 if it is empty */
    int64_t step;  /* bytes of one step along the axis */
    int64_t steps; /* in a piece; the last one of a row of pieces may have less */
    int64_t runs;  /* pieces that follow each other along the axis */
} mp_pieces;

/* Bytes [begin, begin + length) of the row-major data: the box of `extent` elements from
 * `first`. */
typedef struct mp_piece {
    int64_t begin, length;
    int64_t first[MP_MAX_DIMS], extent[MP_MAX_DIMS];
} mp_piece;

/* The cut follows from the shape alone. */
void mp_pieces_cut(const mp_tensor_info *info, mp_pieces *pieces);
void mp_pieces_at(const mp_tensor_info *info, const mp_pieces *pieces, int64_t index,
                  mp_piece *piece);

#endif
