/* One safetensors file: its header, checked.  For safetensors.c only.
 * Floor 1: formats. */
#ifndef MPRESS_SAFETENSORS_FILE_H
#define MPRESS_SAFETENSORS_FILE_H

#include "mpress/error.h"
#include "mpress/source.h"

#include <stdint.h>

typedef struct mp_stored_tensor {
    mp_tensor_info info; /* info.name is owned */
    int64_t begin, end;  /* bytes, counted from the end of the header */
    int64_t shard;       /* which of several files holds it */
    int listed;          /* the index of the directory names it */
} mp_stored_tensor;

typedef struct mp_safetensors_file {
    char *path;                /* owned */
    int fd;                    /* -1: not open */
    int64_t data;              /* offset in the file where the data begins */
    int64_t size;              /* bytes of data */
    mp_stored_tensor *tensors; /* [count], in the order of their data; owned */
    int64_t count;
} mp_safetensors_file;

/* Opens file->path, reads the header and checks all of it: length, JSON, metadata, and for each
 * tensor dtype, shape, offsets; the data must be covered exactly once. Errors: MP_ERR_IO,
 * MP_ERR_FORMAT; the file must be closed after an error, too. */
mp_status mp_safetensors_file_open(mp_safetensors_file *file);

void mp_safetensors_file_close(mp_safetensors_file *file);

/* Frees the list with its names; NULL is fine. */
void mp_stored_tensors_free(mp_stored_tensor *tensors, int64_t count);

#endif
