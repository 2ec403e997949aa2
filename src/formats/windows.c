#include "windows.h"

#include "mpress/fileio.h"
#include "mpress/memory.h"
#include "mpress/safetensors.h"

#include <string.h>

void mp_windows_free(mp_windows *windows)
{
    mp_free(windows->tokens);
    mp_free(windows->document);
    mp_free(windows->offset);
    *windows = (mp_windows){0};
}

mp_status mp_windows_alloc(int64_t count, int64_t seqlen, mp_windows *windows)
{
    mp_status st = MP_OK;
    mp_windows made = {.count = count, .seqlen = seqlen};
    int64_t tokens;

    if (__builtin_mul_overflow(count, seqlen, &tokens))
        return mp_fail(MP_ERR_ARG, "%lld windows of %lld tokens: too many", (long long)count,
                       (long long)seqlen);
    MP_GO(MP_NEW_RAW(made.tokens, tokens, "token windows"));
    MP_GO(MP_NEW(made.document, count, "token windows"));
    MP_GO(MP_NEW(made.offset, count, "token windows"));
    *windows = made;
    made = (mp_windows){0};
out:
    mp_windows_free(&made);
    return st;
}

void mp_token_stream_free(mp_token_stream *stream)
{
    mp_free(stream->ids);
    mp_source_close(&stream->file);
    *stream = (mp_token_stream){0};
}

mp_status mp_token_stream_open(const char *path, mp_token_stream *stream)
{
    mp_token_stream made = {0};
    const mp_tensor_info *info;
    mp_status st;

    MP_TRY(mp_safetensors_open(path, &made.file));
    made.tensor = mp_source_find(made.file, "tokens");
    if (made.tensor < 0)
        MP_GO(mp_fail(MP_ERR_FORMAT, "%s: tensor \"tokens\" is missing, expected I32 [n, L] or [N]",
                      path));
    info = made.file->at(made.file->self, made.tensor);
    if (info->dtype != MP_I32 || info->ndim < 1 || info->ndim > 2)
        MP_GO(mp_fail(MP_ERR_FORMAT,
                      "%s: tensor \"tokens\" is %s with %d dimensions, expected I32 "
                      "[n, L] or [N]",
                      path, mp_dtype_name(info->dtype), info->ndim));
    made.count = mp_tensor_elements(info);
    made.rows = info->ndim == 2 ? info->shape[0] : 0;
    if (made.count == 0) MP_GO(mp_fail(MP_ERR_FORMAT, "%s: tensor \"tokens\" is empty", path));
    *stream = made;
    made = (mp_token_stream){0};
    st = MP_OK;
out:
    mp_token_stream_free(&made);
    return st;
}

mp_status mp_windows_fill(mp_windows *windows, int64_t i, int32_t bos,
                          const mp_token_stream *stream, int64_t start)
{
    int32_t *to = windows->tokens + i * windows->seqlen;
    int64_t length = windows->seqlen;

    windows->offset[i] = start;
    if (bos >= 0) {
        *to++ = bos;
        length--;
    }
    if (stream->ids != NULL) {
        memcpy(to, stream->ids + start, (size_t)length * sizeof *to);
        return MP_OK;
    }
    return stream->file->read(stream->file->self, stream->tensor, start * (int64_t)sizeof *to,
                              length * (int64_t)sizeof *to, to);
}

/* The first `count` numbers of an I64 vector, if the file has it. */
static mp_status read_numbers(const mp_source *file, const char *name, int64_t rows, int64_t count,
                              int64_t *to)
{
    int64_t tensor = mp_source_find(file, name);
    const mp_tensor_info *info;

    if (tensor < 0) return MP_OK;
    info = file->at(file->self, tensor);
    if (info->dtype != MP_I64 || info->ndim != 1 || info->shape[0] != rows)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: tensor \"%s\" is %s with %lld elements, expected I64 [%lld]",
                       file->path, name, mp_dtype_name(info->dtype),
                       (long long)mp_tensor_elements(info), (long long)rows);
    return file->read(file->self, tensor, 0, count * (int64_t)sizeof *to, to);
}

mp_status mp_windows_origins(const mp_token_stream *stream, mp_windows *windows)
{
    MP_TRY(read_numbers(stream->file, "document", stream->rows, windows->count, windows->document));
    return read_numbers(stream->file, "offset", stream->rows, windows->count, windows->offset);
}

/* The 64-bit tensors come first, so that all data is aligned to its type. */
mp_status mp_windows_write(const char *path, const mp_windows *windows)
{
    const mp_tensor_info infos[] = {
        {.name = "document", .dtype = MP_I64, .ndim = 1, .shape = {windows->count}},
        {.name = "offset", .dtype = MP_I64, .ndim = 1, .shape = {windows->count}},
        {.name = "tokens", .dtype = MP_I32, .ndim = 2, .shape = {windows->count, windows->seqlen}},
    };
    const void *const data[] = {windows->document, windows->offset, windows->tokens};

    return mp_safetensors_write(path, infos, data, 3);
}

uint32_t mp_windows_crc32c(const mp_windows *windows)
{
    return mp_crc32c(0, windows->tokens,
                     (size_t)(windows->count * windows->seqlen) * sizeof *windows->tokens);
}
