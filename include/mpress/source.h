/* Where tensors come from: a table of functions that a safetensors directory and a checkpoint fill,
 * so that the model does not care what it is read from.
 * Floor 1: formats. */
#ifndef MPRESS_SOURCE_H
#define MPRESS_SOURCE_H

#include "mpress/dtype.h"
#include "mpress/error.h"

#include <stdint.h>

enum { MP_MAX_DIMS = 8 };

typedef struct mp_tensor_info {
    const char *name; /* "model.layers.0.self_attn.q_proj.weight"; borrowed from the source */
    mp_dtype dtype;
    int ndim;
    int64_t shape[MP_MAX_DIMS];

    /* packed codes (mpress/packed.h) of a linear map: what their shape does not tell; else bits = 0 */
    int bits;
    int64_t columns, group; /* codes of a row; columns that share a scale, 0: all */
} mp_tensor_info;

/* Elements (1 for a scalar), and bytes. The source has checked that both fit int64_t. */
int64_t mp_tensor_elements(const mp_tensor_info *info);
int64_t mp_tensor_bytes(const mp_tensor_info *info);

/* Which of the ranks that hold a source of the same model can read it: every one of them, or rank 0
 * alone, and the others know the list of tensors (mpress/remote.h). */
typedef enum mp_readers { MP_READ_BY_ALL, MP_READ_BY_ROOT } mp_readers;

/* Not collective: every rank has its own source and reads what it wants, if it can. */
typedef struct mp_source {
    void *self;
    const char *path;   /* the directory, for messages; borrowed, as long as the source */
    int64_t count;      /* number of tensors */
    mp_readers readers; /* the same on all ranks */

    /* The i-th tensor, in the order of names (strcmp). */
    const mp_tensor_info *(*at)(void *self, int64_t index);

    /* `length` bytes of tensor i from byte `begin` of its row-major data. */
    mp_status (*read)(void *self, int64_t index, int64_t begin, int64_t length, void *to);

    /* A hint that the tensor will be read soon; may do nothing. */
    void (*prefetch)(void *self, int64_t index);

    void (*close)(void *self);
} mp_source;

/* The index of a tensor by name (binary search); -1 if there is none. */
int64_t mp_source_find(const mp_source *source, const char *name);

/* Frees the source and sets *source to NULL; NULL inside is fine. */
void mp_source_close(mp_source **source);

#endif
