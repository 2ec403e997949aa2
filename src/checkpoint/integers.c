/* Which linear maps of a source are quantised. */
#include "integers.h"

#include "mpress/memory.h"
#include "mpress/packed.h"
#include "mpress/tensor.h"

#include <stdio.h>
#include <string.h>

static const char packed_ending[] = ".packed";

/* Tensor X<ending> of the map, with this shape; -1 where there is none. */
static mp_status find(const mp_source *source, const mp_integers *map, const char *ending,
                      int64_t *index)
{
    const mp_tensor_info *info;
    char name[512];

    snprintf(name, sizeof name, "%s%s", map->name, ending);
    *index = mp_source_find(source, name);
    if (*index < 0) return MP_OK;
    info = source->at(source->self, *index);
    if (info->ndim == 2 && info->shape[0] == map->d_out && info->shape[1] == map->groups)
        return MP_OK;
    return mp_fail(MP_ERR_FORMAT,
                   "%s: tensor \"%s\": a shape that does not fit \"%s%s\", expected [%lld, %lld]",
                   source->path, name, map->name, packed_ending, (long long)map->d_out,
                   (long long)map->groups);
}

/* Fills the map whose packed codes are known. */
static mp_status complete(const mp_source *source, mp_integers *map)
{
    const mp_tensor_info *info = source->at(source->self, map->packed);

    map->quant = (mp_quant){info->bits, info->group, 1};
    map->d_out = info->ndim == 2 ? info->shape[0] : 0;
    map->d_in = info->columns;
    map->words = mp_packed_words(info->bits, info->columns);
    map->groups = mp_quant_groups(&map->quant, map->d_in);
    if (map->d_out < 1 || info->shape[1] != map->words || info->dtype != MP_I32)
        return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%s\": expected I32 [d_out, %lld]", source->path,
                       info->name, (long long)map->words);
    MP_TRY(find(source, map, ".scale", &map->scale));
    MP_TRY(find(source, map, ".zero", &map->zero));
    map->quant.symmetric = map->zero < 0;
    if (map->scale < 0 || !mp_dtype_is_weight(source->at(source->self, map->scale)->dtype) ||
        (map->zero >= 0 && source->at(source->self, map->zero)->dtype != MP_U8))
        return mp_fail(MP_ERR_FORMAT,
                       "%s: tensor \"%s\" is there, but not \"%s.scale\" of F32, F16 or BF16, or "
                       "\"%s.zero\" is not U8",
                       source->path, info->name, map->name, map->name);
    map->dtype = source->at(source->self, map->scale)->dtype;
    return MP_OK;
}

/* X of X.packed; owned by the caller. */
static mp_status stem_of(const mp_source *source, const char *name, char **stem)
{
    size_t length = strlen(name), tail = sizeof packed_ending - 1;

    if (length <= tail || length > 400 || strcmp(name + length - tail, packed_ending) != 0)
        return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%.400s\": packed, but not named X%s",
                       source->path, name, packed_ending);
    MP_TRY(mp_strdup(name, stem));
    (*stem)[length - tail] = '\0';
    return MP_OK;
}

mp_status mp_integer_maps_find(const mp_source *source, mp_integer_maps *maps)
{
    mp_status st;

    *maps = (mp_integer_maps){.count = 0};
    MP_GO(MP_NEW(maps->map, source->count, "the list of quantised linear maps"));
    for (int64_t i = 0; i < source->count; i++) {
        const mp_tensor_info *info = source->at(source->self, i);
        mp_integers *map = &maps->map[maps->count];

        if (info->bits == 0) continue;
        MP_GO(stem_of(source, info->name, &map->name));
        maps->count++;
        map->packed = i;
        MP_GO(complete(source, map));
    }
out:
    if (st != MP_OK) mp_integer_maps_free(maps);
    return st;
}

void mp_integer_maps_free(mp_integer_maps *maps)
{
    for (int64_t i = 0; i < maps->count; i++) mp_free(maps->map[i].name);
    mp_free(maps->map);
    *maps = (mp_integer_maps){.count = 0};
}

mp_status mp_integers_zeros(const mp_source *source, const mp_integers *map, uint8_t **zeros)
{
    int64_t count = map->d_out * map->groups;
    uint8_t *made = NULL;
    mp_status st = MP_OK;

    MP_TRY(MP_NEW_RAW(made, count, "zero points"));
    if (map->zero < 0)
        memset(made, 1 << (map->quant.bits - 1), (size_t)count);
    else
        st = source->read(source->self, map->zero, 0, count, made);
    if (st == MP_OK)
        *zeros = made;
    else
        mp_free(made);
    return st;
}

mp_status mp_integers_scales(const mp_source *source, const mp_integers *map, int64_t first,
                             int64_t count, float *scales)
{
    const int64_t width = map->groups * (int64_t)mp_dtype_size(map->dtype);
    void *stored = NULL;
    mp_status st;

    MP_TRY(mp_alloc(&stored, count * width, 1, 0, "scales"));
    st = source->read(source->self, map->scale, first * width, count * width, stored);
    if (st == MP_OK) mp_to_f32(map->dtype, stored, count * map->groups, scales);
    mp_free(stored);
    return st;
}
