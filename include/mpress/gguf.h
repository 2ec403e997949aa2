/* GGUF files out: keys with values, and tensors in single precision, collected in memory.
 * Floor 1: formats.
 *
 * Version 3, little-endian: magic, version, counts, the keys, the list of tensors, then their data, each
 * at a multiple of 32 bytes (ggml, docs/gguf.md).  For small files: everything is held until it is written. */
#ifndef MPRESS_GGUF_H
#define MPRESS_GGUF_H

#include "mpress/error.h"

#include <stdint.h>

typedef struct mp_gguf mp_gguf;

mp_status mp_gguf_create(mp_gguf **gguf);
void mp_gguf_free(mp_gguf *gguf);

/* One key each; a name is not checked for being there already. */
mp_status mp_gguf_text(mp_gguf *gguf, const char *key, const char *value);
mp_status mp_gguf_texts(mp_gguf *gguf, const char *key, const char *const *values, int64_t count);
mp_status mp_gguf_u32(mp_gguf *gguf, const char *key, uint32_t value);

/* A tensor of one dimension, F32 [count]. */
mp_status mp_gguf_tensor(mp_gguf *gguf, const char *name, const float *values, int64_t count);

/* Writes the file as one step (mp_file_write). */
mp_status mp_gguf_write(const mp_gguf *gguf, const char *path);

#endif
