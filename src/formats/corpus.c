#include "mpress/corpus.h"

#include "windows.h"

#include "mpress/fileio.h"
#include "mpress/memory.h"

#include <stdint.h>
#include <string.h>

/* As GPTQ's and SparseGPT's data loaders. */
enum { DEFAULT_WINDOWS = 128, DEFAULT_SEQLEN = 2048 };

typedef enum file_kind { TOKEN_FILE, TEXT_FILE, DOCUMENTS_FILE } file_kind;

mp_status mp_bos_parse(const char *text, mp_bos *bos)
{
    static const char *const names[] = {"auto", "on", "off"};

    for (int i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0) {
            *bos = (mp_bos)i;
            return MP_OK;
        }
    return mp_fail(MP_ERR_ARG, "--bos %s: expected auto, on or off", text);
}

static mp_status kind_of(const char *path, file_kind *kind)
{
    static const char *const endings[] = {".safetensors", ".txt", ".jsonl"};
    size_t length = strlen(path);

    for (int i = 0; i < 3; i++) {
        size_t n = strlen(endings[i]);

        if (length >= n && strcmp(path + length - n, endings[i]) == 0) {
            *kind = (file_kind)i;
            return MP_OK;
        }
    }
    return mp_fail(MP_ERR_ARG, "%s: expected a file that ends in .safetensors, .txt or .jsonl",
                   path);
}

/* What is wanted, with the defaults filled in; `rows` and `row_length` of a token file [n, L], or
 * 0. */
static mp_status shape_of(const mp_corpus_request *request, int64_t rows, int64_t row_length,
                          mp_windows *shape)
{
    int64_t shortest = request->bos == MP_BOS_ON ? 2 : 1;

    if (request->nsamples < 0)
        return mp_fail(MP_ERR_ARG, "%s: %lld windows wanted, expected at least 1", request->path,
                       (long long)request->nsamples);
    shape->count = request->nsamples > 0 ? request->nsamples : rows > 0 ? rows : DEFAULT_WINDOWS;
    shape->seqlen = request->seqlen != 0 ? request->seqlen
                    : row_length > 0     ? row_length
                                         : DEFAULT_SEQLEN;
    if (shape->seqlen < shortest)
        return mp_fail(MP_ERR_ARG, "%s: windows of %lld tokens wanted, expected at least %lld",
                       request->path, (long long)shape->seqlen, (long long)shortest);
    return MP_OK;
}

/* Names a token by its place in the file it came from. */
static mp_status bad_id(const mp_corpus_request *request, const mp_token_stream *stream,
                        const mp_windows *windows, int64_t i, int64_t limit)
{
    int64_t window = i / windows->seqlen, position = windows->offset[window] + i % windows->seqlen;
    int64_t row = windows->document[window];
    const char *rows = "document";

    if (stream != NULL && stream->rows > 0) {
        int64_t length = stream->count / stream->rows;

        row = position / length;
        position %= length;
        rows = "tensor \"tokens\": row";
    }
    return mp_fail(MP_ERR_FORMAT,
                   "%s: %s %lld, position %lld: token id %d, expected 0 .. %lld (vocabulary %lld)",
                   request->path, rows, (long long)row, (long long)position, windows->tokens[i],
                   (long long)limit - 1, (long long)limit);
}

/* Ids outside the vocabulary would read beyond the embedding.  `stream` is NULL for documents. */
static mp_status check_ids(const mp_corpus_request *request, const mp_token_stream *stream,
                           const mp_windows *windows)
{
    int64_t limit = request->vocabulary > 0 ? request->vocabulary : (int64_t)INT32_MAX + 1;

    for (int64_t i = 0; i < windows->count * windows->seqlen; i++)
        if (windows->tokens[i] < 0 || windows->tokens[i] >= limit)
            return bad_id(request, stream, windows, i, limit);
    return MP_OK;
}

static mp_status take_rows(const mp_corpus_request *request, const mp_token_stream *stream,
                           mp_windows *windows)
{
    mp_windows shape = {0};
    int64_t length = stream->count / stream->rows;

    MP_TRY(shape_of(request, stream->rows, length, &shape));
    if (shape.count > stream->rows || shape.seqlen > length)
        return mp_fail(MP_ERR_ARG,
                       "%s: %lld windows of %lld tokens wanted, but it holds %lld of %lld",
                       request->path, (long long)shape.count, (long long)shape.seqlen,
                       (long long)stream->rows, (long long)length);
    MP_TRY(mp_windows_alloc(shape.count, shape.seqlen, windows));
    for (int64_t i = 0; i < shape.count; i++)
        MP_TRY(mp_windows_fill(windows, i, -1, stream, i * length));
    MP_TRY(check_ids(request, stream, windows));
    for (int64_t i = 0; i < shape.count; i++) {
        windows->document[i] = i;
        windows->offset[i] = 0;
    }
    return mp_windows_origins(stream, windows);
}

static mp_status calibrate_on_tokens(const mp_corpus_request *request, mp_windows *windows)
{
    mp_status st = MP_OK;
    mp_token_stream stream = {0};
    mp_windows shape = {0};

    MP_TRY(mp_token_stream_open(request->path, &stream));
    if (stream.rows > 0) {
        MP_GO(take_rows(request, &stream, windows));
    } else {
        MP_GO(shape_of(request, 0, 0, &shape));
        MP_GO(mp_windows_alloc(shape.count, shape.seqlen, windows));
        MP_GO(mp_sample_stream(request->path, request->seed, -1, &stream, windows));
        MP_GO(check_ids(request, &stream, windows));
    }
out:
    mp_token_stream_free(&stream);
    return st;
}

static mp_status read_text(const char *path, const mp_encoder *encoder, mp_token_stream *stream)
{
    mp_status st;
    char *text = NULL;
    size_t length = 0;

    MP_TRY(mp_file_read(path, SIZE_MAX / 2, &text, &length));
    st = mp_encoder_run(encoder, text, length, stream);
    mp_free(text);
    return st;
}

static mp_status calibrate_on_text(const mp_corpus_request *request, file_kind kind,
                                   mp_windows *windows)
{
    mp_status st = MP_OK;
    mp_encoder encoder = {0};
    mp_token_stream stream = {0};
    mp_windows shape = {0};

    MP_TRY(shape_of(request, 0, 0, &shape));
    MP_TRY(mp_encoder_open(request->model, request->bos, &encoder));
    MP_GO(mp_windows_alloc(shape.count, shape.seqlen, windows));
    if (kind == DOCUMENTS_FILE) {
        MP_GO(mp_sample_documents(request->path, request->seed, &encoder, windows));
    } else {
        MP_GO(read_text(request->path, &encoder, &stream));
        MP_GO(mp_sample_stream(request->path, request->seed, encoder.window_bos, &stream, windows));
    }
    MP_GO(check_ids(request, NULL, windows));
out:
    mp_token_stream_free(&stream);
    mp_encoder_close(&encoder);
    return st;
}

mp_status mp_corpus_calibration(const mp_corpus_request *request, mp_windows *windows)
{
    mp_windows made = {0};
    file_kind kind = TOKEN_FILE;
    mp_status st;

    MP_TRY(kind_of(request->path, &kind));
    st = kind == TOKEN_FILE ? calibrate_on_tokens(request, &made)
                            : calibrate_on_text(request, kind, &made);
    if (st == MP_OK)
        *windows = made;
    else
        mp_windows_free(&made);
    return st;
}

/* The documents joined by blank lines, as the perplexity protocols join WikiText's lines. */
static mp_status join_documents(const char *path, char **text, size_t *length)
{
    mp_status st = MP_OK;
    mp_jsonl *file = NULL;
    char *joined = NULL, *one = NULL;
    size_t at = 0, size;

    MP_TRY(mp_jsonl_open(path, &file));
    MP_GO(MP_NEW_RAW(joined, mp_jsonl_size(file), "the joined documents"));
    for (int64_t i = 0; i < mp_jsonl_count(file); i++) {
        MP_GO(mp_jsonl_text(file, i, &one, &size));
        if (i > 0) {
            memcpy(joined + at, "\n\n", 2);
            at += 2;
        }
        memcpy(joined + at, one, size);
        at += size;
        mp_free(one);
        one = NULL;
    }
    *text = joined;
    *length = at;
    joined = NULL;
out:
    mp_free(one);
    mp_free(joined);
    mp_jsonl_close(file);
    return st;
}

static mp_status read_documents(const char *path, const mp_encoder *encoder,
                                mp_token_stream *stream)
{
    mp_status st;
    char *text = NULL;
    size_t length = 0;

    MP_TRY(join_documents(path, &text, &length));
    st = mp_encoder_run(encoder, text, length, stream);
    mp_free(text);
    return st;
}

/* A file of text as one stream. */
static mp_status encode_file(const char *path, file_kind kind, const mp_encoder *encoder,
                             mp_token_stream *stream)
{
    return kind == TEXT_FILE ? read_text(path, encoder, stream)
                             : read_documents(path, encoder, stream);
}

/* The whole file as one stream; *window_bos is -1 unless each window begins with one. */
static mp_status open_stream(const mp_corpus_request *request, mp_token_stream *stream,
                             int32_t *window_bos)
{
    mp_status st;
    mp_encoder encoder = {0};
    file_kind kind = TOKEN_FILE;

    *window_bos = -1;
    MP_TRY(kind_of(request->path, &kind));
    if (kind == TOKEN_FILE) return mp_token_stream_open(request->path, stream);
    MP_TRY(mp_encoder_open(request->model, request->bos, &encoder));
    *window_bos = encoder.window_bos;
    st = encode_file(request->path, kind, &encoder, stream);
    mp_encoder_close(&encoder);
    return st;
}

mp_status mp_corpus_stream(const mp_corpus_request *request, int32_t **tokens, int64_t *count)
{
    mp_status st;
    mp_encoder encoder = {0};
    mp_token_stream stream = {0};
    file_kind kind = TOKEN_FILE;

    MP_TRY(kind_of(request->path, &kind));
    if (kind == TOKEN_FILE)
        return mp_fail(MP_ERR_ARG, "%s: holds tokens already, expected .txt or .jsonl",
                       request->path);
    MP_TRY(mp_encoder_open(request->model, request->bos, &encoder));
    if (request->bos == MP_BOS_ON) encoder.stream_bos = encoder.window_bos;
    st = encode_file(request->path, kind, &encoder, &stream);
    mp_encoder_close(&encoder);
    if (st != MP_OK) return st;
    *tokens = stream.ids;
    *count = stream.count;
    return MP_OK;
}

/* Disjoint windows in order; with a BOS in front each takes one token of text less. */
static mp_status cut(const mp_corpus_request *request, const mp_token_stream *stream,
                     int32_t window_bos, mp_windows *windows)
{
    int64_t length, step, count;
    mp_windows shape = {0};

    MP_TRY(shape_of(request, 0, stream->rows > 0 ? stream->count / stream->rows : 0, &shape));
    length = shape.seqlen;
    if (length < 2)
        return mp_fail(MP_ERR_ARG, "%s: windows of %lld token predict nothing, expected at least 2",
                       request->path, (long long)length);
    step = window_bos >= 0 ? length - 1 : length;
    count = stream->count / step;
    if (count == 0)
        return mp_fail(MP_ERR_FORMAT, "%s: %lld tokens, expected at least a window of %lld",
                       request->path, (long long)stream->count, (long long)length);
    if (request->nsamples > 0 && count > request->nsamples) count = request->nsamples;
    MP_TRY(mp_windows_alloc(count, length, windows));
    for (int64_t i = 0; i < count; i++)
        MP_TRY(mp_windows_fill(windows, i, window_bos, stream, i * step));
    return check_ids(request, stream, windows);
}

mp_status mp_corpus_evaluation(const mp_corpus_request *request, mp_windows *windows)
{
    mp_status st;
    mp_token_stream stream = {0};
    mp_windows made = {0};
    int32_t window_bos = -1;

    MP_TRY(open_stream(request, &stream, &window_bos));
    st = cut(request, &stream, window_bos, &made);
    mp_token_stream_free(&stream);
    if (st == MP_OK)
        *windows = made;
    else
        mp_windows_free(&made);
    return st;
}
