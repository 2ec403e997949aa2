/* Text and token files to windows of tokens.
 * Floor 1: formats. */
#ifndef MPRESS_CORPUS_H
#define MPRESS_CORPUS_H

#include "mpress/error.h"
#include "mpress/tokenizer.h"

#include <stdint.h>

/* Whether a BOS is put in front: where the tokenizer adds it; on the first token of each window;
 * never.  Token files are never changed. */
typedef enum mp_bos { MP_BOS_AUTO, MP_BOS_ON, MP_BOS_OFF } mp_bos;

mp_status mp_bos_parse(const char *text, mp_bos *bos);

typedef struct mp_windows {
    int64_t count, seqlen;
    int32_t *tokens;   /* [count, seqlen]; owned */
    int64_t *document; /* [count] document each window is from (0: a stream; a row's own); owned */
    int64_t *offset;   /* [count] token offset in its document or stream; owned */
} mp_windows;

void mp_windows_free(mp_windows *windows);

typedef struct mp_corpus_request {
    const char *path;   /* .safetensors (tensor `tokens`, I32), .txt or .jsonl (key text) */
    const char *model;  /* directory of the tokenizer; read only where text needs it */
    int64_t nsamples;   /* windows wanted; 0 = the default (tokens [n, L]: all; else 128) */
    int64_t seqlen;     /* tokens per window; 0 = the default (tokens [n, L]: L; else 2048) */
    int64_t vocabulary; /* ids must be below it; 0 = not known: only negative ids are refused */
    uint64_t seed;
    mp_bos bos;
} mp_corpus_request;

/* Calibration windows, L = seqlen.
 *   tokens [n, L']: the first nsamples rows, the first seqlen tokens of each.
 *   tokens [N], .txt: one stream; starts randint(0, N-L-1) as CPython's random.seed(seed).
 *   .jsonl: randint(0, docs-1) until a document is longer than L, then randint(0, len-L-1); one
 *     stream of random numbers (algorithms: GPTQ's and SparseGPT's data loaders).
 * BOS auto is counted in N and len.  BOS on draws as BOS off does, from N and len without a BOS;
 * the window then is the BOS and the L-1 tokens at the start drawn.
 * Only documents that are drawn are tokenised, each once as long as 64 MiB hold their tokens.
 *
 * Errors: MP_ERR_FORMAT (65) where no document or stream is long enough, ids are outside the
 * vocabulary, a line is no JSON (its number is named); MP_ERR_ARG (64) for nsamples or seqlen a
 * file of windows cannot give, BOS on where the tokenizer has none, and other file names. */
mp_status mp_corpus_calibration(const mp_corpus_request *request, mp_windows *windows);

/* Evaluation windows: disjoint, in order, the tail dropped, at most nsamples of them (0 = all).
 * .txt as it stands; the documents of a jsonl are joined by blank lines; tokens [n, L'] and [N] are
 * read as one stream of n * L' tokens (rows of exactly seqlen are then the windows themselves).
 * BOS auto: once at the start of the stream; on: first token of each window, before L-1 tokens of
 * text.  Errors as above; seqlen must be at least 2. */
mp_status mp_corpus_evaluation(const mp_corpus_request *request, mp_windows *windows);

/* All tokens of a .txt or .jsonl file as one stream, as mp_corpus_evaluation reads it (BOS on: once
 * at the start).  Of the request path, model and bos count.  *tokens is owned by the caller
 * (mp_free). */
mp_status mp_corpus_stream(const mp_corpus_request *request, int32_t **tokens, int64_t *count);

/* Keeps windows as a token file that mp_corpus_calibration takes again, document and offset
 * included: tensors `tokens` I32 [count, seqlen], `document` and `offset` I64 [count]. */
mp_status mp_windows_write(const char *path, const mp_windows *windows);

/* CRC-32C of the token data: the same tokens in windows of another length have the same, so that who compares
 * windows compares their number and length, too. */
uint32_t mp_windows_crc32c(const mp_windows *windows);

#endif
