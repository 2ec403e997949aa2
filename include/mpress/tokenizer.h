/* Text to token ids, as Hugging Face's fast tokenizers do it, for byte-pair encodings.
 * Floor 1: formats.
 *
 * Two families: byte-level BPE (GPT-2, Llama 3, Qwen) with a split expression, and the
 * sentencepiece-like BPE with byte fallback (Llama 2, Mistral, Phi-3).  What a tokenizer.json asks
 * for and this file does not implement is MP_ERR_FORMAT by name, never ignored.  Only "truncation",
 * "padding" and "decoder" are not looked at: they do not concern the ids of a whole text
 * (transformers resets the first two at each call).  Ids are those of Python's tokenizers 0.23.
 *
 * A tokenizer does not change after loading: any number of threads may encode with it. */
#ifndef MPRESS_TOKENIZER_H
#define MPRESS_TOKENIZER_H

#include "mpress/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct mp_tokenizer mp_tokenizer;

/* Reads `dir`/tokenizer.json, or vocab.json + merges.txt (+ added_tokens.json,
 * tokenizer_config.json; the split and the normaliser follow tokenizer_class: none or GPT2Tokenizer
 * = GPT-2's split, Qwen2Tokenizer = Qwen's split and NFC; any other class is refused by name).
 * Neither there: MP_ERR_IO naming what was looked for. */
mp_status mp_tokenizer_load(const char *dir, mp_tokenizer **tokenizer);

/* The same from the bytes of a tokenizer.json; `where` names them in messages. */
mp_status mp_tokenizer_parse(const char *json, size_t length, const char *where,
                             mp_tokenizer **tokenizer);

void mp_tokenizer_free(mp_tokenizer *tokenizer);

/* Token ids of `length` bytes of UTF-8, without any BOS or template.  Added tokens in the text
 * become their id, as in the reference.  Invalid UTF-8 is replaced by U+FFFD, as Python's
 * errors="replace" does it.  *ids is owned by the caller (mp_free).
 *
 * Cost     O(length log length) at 5 to 15 MB/s; beside the ids, memory for copies of the text.
 * Errors   MP_ERR_FORMAT (a split expression that explodes, an unknown token that is needed but not
 *          in the vocabulary), MP_ERR_NOMEM; the outputs are then unchanged. */
mp_status mp_tokenizer_encode(const mp_tokenizer *tokenizer, const char *text, size_t length,
                              int32_t **ids, int64_t *count);

/* The BOS id, or -1 if the tokenizer names none; and whether it adds it by default (post-processor
 * template of tokenizer.json that begins with a special token, or add_bos_token in
 * tokenizer_config.json, which wins). */
int32_t mp_tokenizer_bos(const mp_tokenizer *tokenizer);
int mp_tokenizer_adds_bos(const mp_tokenizer *tokenizer);

/* 1 + the largest id. */
int32_t mp_tokenizer_size(const mp_tokenizer *tokenizer);

#endif
