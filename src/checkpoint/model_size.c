/* What the tensors of a model take. */
#include "mpress/export.h"

#include "factored.h"
#include "integers.h"

static int64_t bytes_of(const mp_source *source, int64_t index)
{
    return index >= 0 ? mp_tensor_bytes(source->at(source->self, index)) : 0;
}

/* What dense weights take more than factors. */
static mp_status add_pairs(const mp_source *source, mp_model_size *size)
{
    mp_pairs pairs;

    MP_TRY(mp_pairs_find(source, MP_NAMES_OWN, &pairs));
    size->n_factored = pairs.count;
    for (int64_t i = 0; i < pairs.count; i++) {
        const mp_pair *pair = &pairs.pair[i];
        int64_t more = pair->d_out * pair->d_in - pair->rank * (pair->d_out + pair->d_in);

        size->dense += more * (int64_t)mp_dtype_size(source->at(source->self, pair->a)->dtype);
    }
    mp_pairs_free(&pairs);
    return MP_OK;
}

/* And than integers. */
static mp_status add_maps(const mp_source *source, mp_model_size *size)
{
    mp_integer_maps maps;

    MP_TRY(mp_integer_maps_find(source, &maps));
    size->n_quantised = maps.count;
    for (int64_t i = 0; i < maps.count; i++) {
        const mp_integers *map = &maps.map[i];

        size->dense += map->d_out * map->d_in * (int64_t)mp_dtype_size(map->dtype);
        size->dense -= bytes_of(source, map->packed) + bytes_of(source, map->scale) +
                       bytes_of(source, map->zero);
    }
    mp_integer_maps_free(&maps);
    return MP_OK;
}

mp_status mp_model_size_of(const mp_source *source, mp_model_size *size)
{
    *size = (mp_model_size){.stored = 0};
    for (int64_t i = 0; i < source->count; i++) size->stored += bytes_of(source, i);
    size->dense = size->stored;
    MP_TRY(add_pairs(source, size));
    return add_maps(source, size);
}
