#include "safetensors_file.h"

#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The limit of the reference implementation (its MAX_HEADER_SIZE): no real header is near it. */
enum { HEADER_LIMIT = 100000000, LENGTH_WORD = 8 };

#define DTYPE_WORD_(id, text, bytes) " " text
#define KNOWN_DTYPES MP_DTYPE_LIST(DTYPE_WORD_)

void mp_stored_tensors_free(mp_stored_tensor *tensors, int64_t count)
{
    for (int64_t i = 0; tensors != NULL && i < count; i++) mp_free((char *)tensors[i].info.name);
    mp_free(tensors);
}

void mp_safetensors_file_close(mp_safetensors_file *file)
{
    mp_stored_tensors_free(file->tensors, file->count);
    if (file->fd >= 0) close(file->fd);
    mp_free(file->path);
    *file = (mp_safetensors_file){.fd = -1};
}

static mp_status parse_shape(const json_t *entry, const char *where, mp_tensor_info *info)
{
    const json_t *shape = json_object_get(entry, "shape");
    int64_t bytes = (int64_t)mp_dtype_size(info->dtype);

    if (!json_is_array(shape))
        return mp_fail(MP_ERR_FORMAT, "%s: \"shape\" is no list, expected the dimensions", where);
    if (json_array_size(shape) > MP_MAX_DIMS)
        return mp_fail(MP_ERR_FORMAT, "%s: %zu dimensions, expected at most %d", where,
                       json_array_size(shape), MP_MAX_DIMS);
    info->ndim = (int)json_array_size(shape);
    for (int i = 0; i < info->ndim; i++) {
        const json_t *size = json_array_get(shape, (size_t)i);

        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return mp_fail(MP_ERR_FORMAT, "%s: dimension %d is not a whole number >= 0", where, i);
        info->shape[i] = json_integer_value(size);
        if (__builtin_mul_overflow(bytes, info->shape[i], &bytes))
            return mp_fail(MP_ERR_FORMAT, "%s: the size overflows at dimension %d (%lld)", where, i,
                           (long long)info->shape[i]);
    }
    return MP_OK;
}

static mp_status parse_offsets(const json_t *entry, const char *where,
                               const mp_safetensors_file *file, mp_stored_tensor *out)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    int64_t bytes = mp_tensor_bytes(&out->info);

    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return mp_fail(MP_ERR_FORMAT, "%s: \"data_offsets\" are not two integers", where);
    out->begin = json_integer_value(begin);
    out->end = json_integer_value(end);
    if (out->begin < 0 || out->end < out->begin || out->end > file->size)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: data_offsets [%lld, %lld], expected within the %lld bytes of "
                       "data in the file",
                       where, (long long)out->begin, (long long)out->end, (long long)file->size);
    if (out->end - out->begin != bytes)
        return mp_fail(
            MP_ERR_FORMAT,
            "%s: data_offsets [%lld, %lld] hold %lld bytes, expected %lld from dtype and "
            "shape",
            where, (long long)out->begin, (long long)out->end, (long long)(out->end - out->begin),
            (long long)bytes);
    return MP_OK;
}

static mp_status parse_tensor(const char *name, const json_t *entry,
                              const mp_safetensors_file *file, mp_stored_tensor *out)
{
    const char *dtype = NULL;
    char where[768];

    snprintf(where, sizeof where, "%s: tensor \"%.200s\"", file->path, name);
    if (!json_is_object(entry))
        return mp_fail(MP_ERR_FORMAT, "%s: expected an object of dtype, shape, data_offsets",
                       where);
    MP_TRY(mp_json_text(entry, "dtype", where, &dtype));
    out->info.dtype = mp_dtype_from_name(dtype);
    if (out->info.dtype == MP_DTYPE_COUNT)
        return mp_fail(MP_ERR_FORMAT, "%s: dtype \"%.40s\", expected one of" KNOWN_DTYPES, where,
                       dtype);
    MP_TRY(parse_shape(entry, where, &out->info));
    MP_TRY(parse_offsets(entry, where, file, out));
    return mp_strdup(name, (char **)&out->info.name);
}

static mp_status check_metadata(json_t *metadata, const char *path)
{
    const char *key;
    json_t *value;

    if (!json_is_object(metadata))
        return mp_fail(MP_ERR_FORMAT, "%s: \"__metadata__\" is not an object", path);
    json_object_foreach (metadata, key, value) {
        if (!json_is_string(value))
            return mp_fail(MP_ERR_FORMAT, "%s: \"__metadata__\": \"%.200s\" is not a string", path,
                           key);
    }
    return MP_OK;
}

/* An empty tensor comes before the one that begins at the same place. */
static int by_place(const void *left, const void *right)
{
    const mp_stored_tensor *a = left, *b = right;

    if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
    return (a->end > b->end) - (a->end < b->end);
}

/* The data must be covered once, without holes: what hides in a hole would be lost on the way. */
static mp_status check_layout(const mp_safetensors_file *file)
{
    int64_t covered = 0;

    qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, by_place);
    for (int64_t i = 0; i < file->count; i++) {
        const mp_stored_tensor *t = &file->tensors[i];

        if (t->begin != covered)
            return mp_fail(MP_ERR_FORMAT,
                           "%s: tensor \"%.200s\": data begins at %lld, expected %lld (%s)",
                           file->path, t->info.name, (long long)t->begin, (long long)covered,
                           t->begin < covered ? "it overlaps another tensor" : "a hole before it");
        covered = t->end;
    }
    if (covered != file->size)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: the tensors cover %lld bytes of data, but the file holds %lld",
                       file->path, (long long)covered, (long long)file->size);
    return MP_OK;
}

static mp_status parse_header(json_t *header, mp_safetensors_file *file)
{
    const char *name;
    json_t *entry;

    MP_TRY(MP_NEW(file->tensors, json_object_size(header), "a safetensors header"));
    json_object_foreach (header, name, entry) {
        if (strcmp(name, "__metadata__") == 0) {
            MP_TRY(check_metadata(entry, file->path));
            continue;
        }
        MP_TRY(parse_tensor(name, entry, file, &file->tensors[file->count]));
        file->count++;
    }
    return check_layout(file);
}

/* The header's length, checked against the file. */
static mp_status read_length(mp_safetensors_file *file, int64_t size, int64_t *length)
{
    unsigned char word[LENGTH_WORD];
    uint64_t value = 0;

    if (size < LENGTH_WORD)
        return mp_fail(MP_ERR_FORMAT, "%s: %lld bytes, expected a safetensors header", file->path,
                       (long long)size);
    MP_TRY(mp_file_pread(file->fd, file->path, word, sizeof word, 0));
    for (int i = LENGTH_WORD - 1; i >= 0; i--) value = value << 8 | word[i];
    if (value > HEADER_LIMIT)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: a header of %llu bytes, expected at most %d: not a safetensors file",
                       file->path, (unsigned long long)value, HEADER_LIMIT);
    if ((int64_t)value > size - LENGTH_WORD)
        return mp_fail(MP_ERR_FORMAT, "%s: a header of %llu bytes, but the file has only %lld",
                       file->path, (unsigned long long)value, (long long)size);
    *length = (int64_t)value;
    return MP_OK;
}

static mp_status open_file(mp_safetensors_file *file, int64_t *file_size)
{
    struct stat info;

    MP_TRY(mp_file_open(file->path, O_RDONLY, &file->fd));
    if (fstat(file->fd, &info) != 0)
        return mp_fail(MP_ERR_IO, "%s: opening failed: %s", file->path, strerror(errno));
    if (!S_ISREG(info.st_mode)) return mp_fail(MP_ERR_IO, "%s: not a regular file", file->path);
    *file_size = info.st_size;
    return MP_OK;
}

mp_status mp_safetensors_file_open(mp_safetensors_file *file)
{
    mp_status st = MP_OK;
    char *text = NULL;
    json_t *header = NULL;
    int64_t size = 0, length = 0;

    MP_TRY(open_file(file, &size));
    MP_TRY(read_length(file, size, &length));
    file->data = LENGTH_WORD + length;
    file->size = size - file->data;
    MP_GO(MP_NEW_RAW(text, length + 1, "a safetensors header"));
    MP_GO(mp_file_pread(file->fd, file->path, text, (size_t)length, LENGTH_WORD));
    MP_GO(mp_json_parse(text, (size_t)length, file->path, &header));
    MP_GO(parse_header(header, file));
out:
    json_decref(header);
    mp_free(text);
    return st;
}
