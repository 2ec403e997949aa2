/* A model to read, whatever it is kept as. */
#include "mpress/checkpoint.h"

#include "factored.h"
#include "model_crc.h"
#include "mpress/fileio.h"
#include "mpress/memory.h"
#include "mpress/safetensors.h"

#include <stdio.h>
#include <string.h>

enum { CONFIG_LIMIT = 16 << 20, SAMPLE_BYTES = 4096 };

static mp_status open_directory(const char *path, mp_source **source)
{
    mp_source *opened = NULL;
    mp_status st;

    MP_TRY(mp_safetensors_open(path, &opened));
    st = mp_factored_open(path, &opened);
    if (st == MP_OK)
        *source = opened;
    else
        mp_source_close(&opened);
    return st;
}

mp_status mp_model_open(const char *path, mp_source **source, char **assets)
{
    char *place = NULL;
    mp_status st;

    if (!mp_path_is_directory(path))
        return mp_fail(MP_ERR_IO,
                       "%s: not a directory, expected a model (config.json and weights) or "
                       "a checkpoint",
                       path);
    if (mp_checkpoint_is(path)) {
        MP_TRY(mp_path_join(path, "assets", &place));
        st = mp_checkpoint_open(path, source);
    } else {
        MP_TRY(mp_strdup(path, &place));
        st = open_directory(path, source);
    }
    if (st == MP_OK)
        *assets = place;
    else
        mp_free(place);
    return st;
}

/* Name, dtype, shape and, if it is `read`, the first bytes of a tensor. */
static mp_status add_tensor(const mp_source *source, int64_t index, int read, uint32_t *crc)
{
    const mp_tensor_info *info = source->at(source->self, index);
    const char *dtype = mp_dtype_name(info->dtype);
    int64_t bytes = mp_tensor_bytes(info);
    char sample[SAMPLE_BYTES];

    if (bytes > SAMPLE_BYTES) bytes = SAMPLE_BYTES;
    *crc = mp_crc32c(*crc, info->name, strlen(info->name) + 1);
    *crc = mp_crc32c(*crc, dtype, strlen(dtype) + 1);
    *crc = mp_crc32c(*crc, info->shape, (size_t)info->ndim * sizeof info->shape[0]);
    if (!read) return MP_OK;
    MP_TRY(source->read(source->self, index, 0, bytes, sample));
    *crc = mp_crc32c(*crc, sample, (size_t)bytes);
    return MP_OK;
}

static mp_status add_config(const char *assets, uint32_t *crc)
{
    char *path = NULL, *text = NULL;
    size_t length = 0;
    mp_status st;

    MP_TRY(mp_path_join(assets, "config.json", &path));
    st = mp_file_read(path, CONFIG_LIMIT, &text, &length);
    if (st == MP_OK) *crc = mp_crc32c(0, text, length);
    mp_free(text);
    mp_free(path);
    return st;
}

mp_status mp_model_crc(const mp_source *source, const char *assets, int64_t step, uint32_t *crc)
{
    MP_TRY(add_config(assets, crc));
    for (int64_t i = 0; i < source->count; i++) MP_TRY(add_tensor(source, i, i % step == 0, crc));
    return MP_OK;
}

mp_status mp_model_identity(const mp_source *source, const char *assets, char identity[16])
{
    uint32_t crc = 0;

    MP_TRY(mp_model_crc(source, assets, 1, &crc));
    snprintf(identity, 16, "%08x", crc);
    return MP_OK;
}
