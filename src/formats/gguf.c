#include "mpress/gguf.h"

#include "mpress/fileio.h"
#include "mpress/memory.h"

#include <string.h>

enum { ALIGNMENT = 32, VERSION = 3 };

/* Types of values and of tensors, as the format numbers them. */
enum { VALUE_U32 = 4, VALUE_TEXT = 8, VALUE_ARRAY = 9, TENSOR_F32 = 0 };

/* Bytes that grow. */
typedef struct bytes {
    char *data;
    size_t used, room;
} bytes;

struct mp_gguf {
    bytes keys, tensors, data; /* each as it will stand in the file */
    uint64_t n_keys, n_tensors;
};

static mp_status put(bytes *to, const void *from, size_t count)
{
    char *larger = NULL;

    if (to->used + count > to->room) {
        size_t room = 2 * (to->used + count);

        MP_TRY(MP_NEW(larger, room, "a GGUF file"));
        if (to->used > 0) memcpy(larger, to->data, to->used);
        mp_free(to->data);
        to->data = larger;
        to->room = room;
    }
    if (count > 0) memcpy(to->data + to->used, from, count);
    to->used += count;
    return MP_OK;
}

static mp_status put_u32(bytes *to, uint32_t value)
{
    return put(to, &value, sizeof value);
}

static mp_status put_u64(bytes *to, uint64_t value)
{
    return put(to, &value, sizeof value);
}

static mp_status put_text(bytes *to, const char *text)
{
    MP_TRY(put_u64(to, strlen(text)));
    return put(to, text, strlen(text));
}

/* Zeros up to the next place where data may begin. */
static mp_status pad(bytes *to)
{
    static const char zeros[ALIGNMENT] = {0};

    return put(to, zeros, (ALIGNMENT - to->used % ALIGNMENT) % ALIGNMENT);
}

mp_status mp_gguf_create(mp_gguf **gguf)
{
    return MP_NEW(*gguf, 1, "a GGUF file");
}

void mp_gguf_free(mp_gguf *gguf)
{
    if (gguf == NULL) return;
    mp_free(gguf->keys.data);
    mp_free(gguf->tensors.data);
    mp_free(gguf->data.data);
    mp_free(gguf);
}

static mp_status put_key(mp_gguf *g, const char *key, uint32_t type)
{
    g->n_keys++;
    MP_TRY(put_text(&g->keys, key));
    return put_u32(&g->keys, type);
}

mp_status mp_gguf_text(mp_gguf *g, const char *key, const char *value)
{
    MP_TRY(put_key(g, key, VALUE_TEXT));
    return put_text(&g->keys, value);
}

mp_status mp_gguf_texts(mp_gguf *g, const char *key, const char *const *values, int64_t count)
{
    MP_TRY(put_key(g, key, VALUE_ARRAY));
    MP_TRY(put_u32(&g->keys, VALUE_TEXT));
    MP_TRY(put_u64(&g->keys, (uint64_t)count));
    for (int64_t i = 0; i < count; i++) MP_TRY(put_text(&g->keys, values[i]));
    return MP_OK;
}

mp_status mp_gguf_u32(mp_gguf *g, const char *key, uint32_t value)
{
    MP_TRY(put_key(g, key, VALUE_U32));
    return put_u32(&g->keys, value);
}

mp_status mp_gguf_tensor(mp_gguf *g, const char *name, const float *values, int64_t count)
{
    g->n_tensors++;
    MP_TRY(pad(&g->data));
    MP_TRY(put_text(&g->tensors, name));
    MP_TRY(put_u32(&g->tensors, 1)); /* dimensions */
    MP_TRY(put_u64(&g->tensors, (uint64_t)count));
    MP_TRY(put_u32(&g->tensors, TENSOR_F32));
    MP_TRY(put_u64(&g->tensors, g->data.used));
    return put(&g->data, values, (size_t)count * sizeof *values);
}

mp_status mp_gguf_write(const mp_gguf *g, const char *path)
{
    bytes file = {NULL, 0, 0};
    mp_status st;

    MP_GO(put(&file, "GGUF", 4));
    MP_GO(put_u32(&file, VERSION));
    MP_GO(put_u64(&file, g->n_tensors));
    MP_GO(put_u64(&file, g->n_keys));
    MP_GO(put(&file, g->keys.data, g->keys.used));
    MP_GO(put(&file, g->tensors.data, g->tensors.used));
    MP_GO(pad(&file));
    MP_GO(put(&file, g->data.data, g->data.used));
    MP_GO(pad(&file));
    MP_GO(mp_file_write(path, file.data, file.used));
out:
    mp_free(file.data);
    return st;
}
