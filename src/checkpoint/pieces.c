#include "pieces.h"

void mp_pieces_cut(const mp_tensor_info *info, mp_pieces *pieces)
{
    int64_t outer = 1, length;

    *pieces = (mp_pieces){.step = mp_tensor_bytes(info), .steps = 1, .runs = 1};
    pieces->count = pieces->step > 0;
    if (info->ndim == 0 || pieces->count == 0) return;
    /* no size is zero from here on */
    pieces->step /= info->shape[0];
    while (pieces->step > MP_PIECE_BYTES) {
        outer *= info->shape[pieces->axis++];
        pieces->step /= info->shape[pieces->axis];
    }
    length = info->shape[pieces->axis];
    pieces->steps = MP_PIECE_BYTES / pieces->step;
    pieces->runs = (length + pieces->steps - 1) / pieces->steps;
    pieces->count = outer * pieces->runs;
}

void mp_pieces_at(const mp_tensor_info *info, const mp_pieces *pieces, int64_t index,
                  mp_piece *piece)
{
    int64_t outer = index / pieces->runs, from = index % pieces->runs * pieces->steps, length;

    *piece = (mp_piece){.begin = 0, .length = pieces->step};
    if (info->ndim == 0) return;
    length = info->shape[pieces->axis];
    piece->begin = (outer * length + from) * pieces->step;
    for (int i = info->ndim - 1; i > pieces->axis; i--) piece->extent[i] = info->shape[i];
    piece->first[pieces->axis] = from;
    piece->extent[pieces->axis] = length - from < pieces->steps ? length - from : pieces->steps;
    piece->length = piece->extent[pieces->axis] * pieces->step;
    for (int i = pieces->axis - 1; i >= 0; i--) {
        piece->first[i] = outer % info->shape[i];
        piece->extent[i] = 1;
        outer /= info->shape[i];
    }
}
