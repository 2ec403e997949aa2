#include "mpress/safetensors.h"

#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"

#include <string.h>

enum { LENGTH_WORD = 8, PADDING = 8 };

/* jansson fails only for lack of memory; its setters then take a NULL value as a failure, too. */
static mp_status no_memory(const char *name)
{
    return mp_fail(MP_ERR_NOMEM, "tensor \"%s\": its header entry: out of memory", name);
}

static mp_status entry_of(const mp_tensor_info *info, int64_t begin, int64_t end, json_t **entry)
{
    json_t *shape = json_array();

    for (int i = 0; i < info->ndim; i++)
        if (json_array_append_new(shape, json_integer(info->shape[i])) != 0) {
            json_decref(shape);
            return no_memory(info->name);
        }
    *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", mp_dtype_name(info->dtype), "shape", shape,
                       "data_offsets", (json_int_t)begin, (json_int_t)end);
    return *entry != NULL ? MP_OK : no_memory(info->name);
}

/* Adds tensor `info` at `begin` of the data. */
static mp_status add_entry(json_t *header, const mp_tensor_info *info, int64_t begin)
{
    json_t *entry = NULL;

    if (json_object_get(header, info->name) != NULL)
        return mp_fail(MP_ERR_INTERNAL, "tensor \"%s\": two of this name in one file", info->name);
    MP_TRY(entry_of(info, begin, begin + mp_tensor_bytes(info), &entry));
    return json_object_set_new(header, info->name, entry) == 0 ? MP_OK : no_memory(info->name);
}

/* Length word, JSON, spaces up to a multiple of 8. */
static mp_status frame(const char *json, char **header, size_t *length)
{
    size_t text = strlen(json), padded = (text + PADDING - 1) / PADDING * PADDING;

    MP_TRY(MP_NEW_RAW(*header, LENGTH_WORD + padded, "a safetensors header"));
    for (int i = 0; i < LENGTH_WORD; i++) (*header)[i] = (char)(padded >> 8 * i & 0xff);
    memcpy(*header + LENGTH_WORD, json, text);
    memset(*header + LENGTH_WORD + text, ' ', padded - text);
    *length = LENGTH_WORD + padded;
    return MP_OK;
}

mp_status mp_safetensors_header(const mp_tensor_info *infos, int64_t count, char **header,
                                size_t *length, int64_t *begin)
{
    mp_status st = MP_OK;
    json_t *object = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    char *json = NULL;
    int64_t at = 0;

    for (int64_t i = 0; i < count; i++) {
        begin[i] = at;
        MP_GO(add_entry(object, &infos[i], at));
        at += mp_tensor_bytes(&infos[i]);
    }
    begin[count] = at;
    MP_GO(mp_json_dump(object, 1, &json));
    MP_GO(frame(json, header, length));
    for (int64_t i = 0; i <= count; i++) begin[i] += (int64_t)*length;
out:
    json_decref(object);
    mp_free(json);
    return st;
}

mp_status mp_safetensors_write(const char *path, const mp_tensor_info *infos,
                               const void *const *data, int64_t count)
{
    mp_status st = MP_OK;
    char *header = NULL, *bytes = NULL;
    int64_t *begin = NULL;
    size_t length = 0;

    MP_GO(MP_NEW(begin, count + 1, path));
    MP_GO(mp_safetensors_header(infos, count, &header, &length, begin));
    MP_GO(MP_NEW_RAW(bytes, begin[count], path));
    memcpy(bytes, header, length);
    for (int64_t i = 0; i < count; i++)
        memcpy(bytes + begin[i], data[i], (size_t)mp_tensor_bytes(&infos[i]));
    MP_GO(mp_file_write(path, bytes, (size_t)begin[count]));
out:
    mp_free(begin);
    mp_free(header);
    mp_free(bytes);
    return st;
}
