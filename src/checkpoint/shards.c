#include "shards.h"

#include "mpress/json.h"
#include "mpress/memory.h"
#include "mpress/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const mp_tensor_info *tensor_at(const mp_source *source, int64_t index)
{
    return source->at(source->self, index);
}

void mp_shards_free(mp_shards *shards)
{
    for (int64_t s = 0; shards->shard != NULL && s < shards->count; s++)
        mp_free(shards->shard[s].header);
    mp_free(shards->shard);
    mp_free(shards->order);
    mp_free(shards->begin);
    *shards = (mp_shards){0};
}

/* Cuts the list of tensors into runs. */
static void fill_shards(const mp_source *source, int64_t limit, mp_shards *p)
{
    int64_t filled = 0;

    p->count = 1;
    for (int64_t i = 0; i < p->tensors; i++) {
        int64_t bytes = mp_tensor_bytes(tensor_at(source, i));
        mp_shard *last = &p->shard[p->count - 1];

        if (last->count > 0 && bytes > limit - filled) {
            last = &p->shard[p->count++];
            last->first = i;
            filled = 0;
        }
        p->order[i] = i;
        last->count++;
        filled += bytes;
        p->total += bytes;
    }
}

static void name_shards(mp_shards *p)
{
    for (int64_t s = 0; s < p->count; s++) {
        mp_shard *shard = &p->shard[s];

        if (p->count == 1)
            snprintf(shard->name, sizeof shard->name, "model.safetensors");
        else
            snprintf(shard->name, sizeof shard->name, "model-%05lld-of-%05lld.safetensors",
                     (long long)s + 1, (long long)p->count);
    }
}

/* A tensor to sort: the index is its place in the order of names. */
typedef struct sorted {
    size_t width;
    int64_t index;
} sorted;

static int by_width_and_name(const void *left, const void *right)
{
    const sorted *a = left, *b = right;

    if (a->width != b->width) return a->width > b->width ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

static mp_status sort_shard(const mp_source *source, const mp_shard *shard, int64_t *order)
{
    sorted *list = NULL;

    MP_TRY(MP_NEW(list, shard->count, "the tensors of a shard"));
    for (int64_t i = 0; i < shard->count; i++)
        list[i] = (sorted){mp_dtype_size(tensor_at(source, order[i])->dtype), order[i]};
    qsort(list, (size_t)shard->count, sizeof *list, by_width_and_name);
    for (int64_t i = 0; i < shard->count; i++) order[i] = list[i].index;
    mp_free(list);
    return MP_OK;
}

/* The header of a shard, and with it the places of its tensors. */
static mp_status make_header(const mp_source *source, mp_shard *shard, const int64_t *order,
                             int64_t *begin)
{
    mp_tensor_info *infos = NULL;
    int64_t *places = NULL;
    mp_status st;

    MP_GO(MP_NEW(infos, shard->count, "the header of a shard"));
    MP_GO(MP_NEW(places, shard->count + 1, "the header of a shard"));
    for (int64_t i = 0; i < shard->count; i++) infos[i] = *tensor_at(source, order[i]);
    MP_GO(
        mp_safetensors_header(infos, shard->count, &shard->header, &shard->header_length, places));
    memcpy(begin, places, (size_t)shard->count * sizeof *begin);
    shard->size = places[shard->count];
out:
    mp_free(infos);
    mp_free(places);
    return st;
}

mp_status mp_shards_plan(const mp_source *source, int64_t limit, mp_shards *shards)
{
    mp_shards p = {.tensors = source->count};
    mp_status st;

    MP_GO(MP_NEW(p.shard, source->count + 1, "the list of shards"));
    MP_GO(MP_NEW(p.order, source->count, "the list of shards"));
    MP_GO(MP_NEW(p.begin, source->count, "the list of shards"));
    fill_shards(source, limit, &p);
    name_shards(&p);
    for (int64_t s = 0; s < p.count; s++) {
        int64_t first = p.shard[s].first;

        MP_GO(sort_shard(source, &p.shard[s], p.order + first));
        MP_GO(make_header(source, &p.shard[s], p.order + first, p.begin + first));
    }
    *shards = p;
    p = (mp_shards){0};
out:
    mp_shards_free(&p);
    return st;
}

mp_status mp_shards_index(const mp_shards *shards, const mp_source *source, char **text)
{
    json_t *map = json_object(), *index = json_object();
    int failed = 0;
    mp_status st;

    for (int64_t s = 0; s < shards->count; s++) {
        const mp_shard *shard = &shards->shard[s];

        for (int64_t i = shard->first; i < shard->first + shard->count; i++)
            failed |= json_object_set_new(map, tensor_at(source, shards->order[i])->name,
                                          json_string(shard->name));
    }
    failed |= json_object_set_new(index, "metadata",
                                  json_pack("{s:I}", "total_size", (json_int_t)shards->total));
    failed |= json_object_set_new(index, "weight_map", map);
    st = failed ? mp_fail(MP_ERR_NOMEM, "the index of the shards: out of memory")
                : mp_json_dump(index, 0, text);
    json_decref(index);
    return st;
}
