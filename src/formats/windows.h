/* What the files of the corpus module share: streams of tokens, and windows cut from them.
 * Floor 1: formats. */
#ifndef MPRESS_WINDOWS_H
#define MPRESS_WINDOWS_H

#include "mpress/corpus.h"
#include "mpress/jsonl.h"
#include "mpress/source.h"

#include <stdint.h>

/* Tokens in memory, or tensor `tensor` of a token file that is read window by window. */
typedef struct mp_token_stream {
    int32_t *ids; /* [count]; owned; NULL: in the file */
    mp_source *file;
    int64_t tensor;
    int64_t count;
    int64_t rows; /* of a token file [rows, count / rows]; 0 for one stream */
} mp_token_stream;

void mp_token_stream_free(mp_token_stream *stream);

/* Opens a token file: `tokens`, I32, [n, L] or [N]. */
mp_status mp_token_stream_open(const char *path, mp_token_stream *stream);

/* Room for `count` windows; document and offset are zero, tokens are not set. */
mp_status mp_windows_alloc(int64_t count, int64_t seqlen, mp_windows *windows);

/* Window i := tokens start, start + 1, ... of the stream, after `bos` if that is not -1. */
mp_status mp_windows_fill(mp_windows *windows, int64_t i, int32_t bos,
                          const mp_token_stream *stream, int64_t start);

/* Where the file has them, document and offset of each window as mp_windows_write kept them. */
mp_status mp_windows_origins(const mp_token_stream *stream, mp_windows *windows);

/* How text becomes tokens. */
typedef struct mp_encoder {
    mp_tokenizer *tokenizer; /* owned */
    int32_t stream_bos;      /* in front of a stream or document, or -1 */
    int32_t window_bos;      /* in front of each window, or -1 */
} mp_encoder;

mp_status mp_encoder_open(const char *model, mp_bos bos, mp_encoder *encoder);
void mp_encoder_close(mp_encoder *encoder);
mp_status mp_encoder_run(const mp_encoder *encoder, const char *text, size_t length,
                         mp_token_stream *stream);

/* Fills all windows from places drawn as CPython's `random` does; see corpus.h for the protocol.
 * `path` is for messages: MP_ERR_FORMAT where no document is long enough. */
mp_status mp_sample_stream(const char *path, uint64_t seed, int32_t window_bos,
                           const mp_token_stream *stream, mp_windows *windows);
mp_status mp_sample_documents(const char *path, uint64_t seed, const mp_encoder *encoder,
                              mp_windows *windows);

#endif
