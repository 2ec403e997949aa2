/* Where the tensors of a checkpoint lie, and reading them by that.
 * Floor 7: checkpoint; for the files of src/checkpoint only. */
#ifndef MPRESS_READER_H
#define MPRESS_READER_H

#include "mpress/comm.h"
#include "mpress/source.h"

typedef struct mp_stored_file {
    char *path; /* NULL where the run has not got it; owned */
    int fd;     /* -1 until something is read */
    int64_t size;
} mp_stored_file;

typedef struct mp_stored_tensor {
    mp_tensor_info info; /* info.name is owned */
    int64_t file, offset;
} mp_stored_tensor;

/* The model; its blocks that are there; what was measured at the states of all blocks. */
typedef enum mp_content { MP_MODEL, MP_BLOCKS, MP_STATES } mp_content;

typedef struct mp_reader {
    char *dir;
    mp_content what;
    mp_stored_file *files; /* [n_files]: the blocks, then the rest */
    int64_t n_files;
    mp_stored_tensor *tensors; /* [room], in the order of names */
    int64_t count, room;
} mp_reader;

/* Opens every file with HDF5.  Not collective; ended by mp_reader_close (NULL is fine). */
mp_status mp_reader_open(const char *dir, mp_content what, mp_reader **reader);
void mp_reader_close(void *reader);

/* The same on all ranks of a job, all of which see `dir`: rank 0 asks HDF5 and tells the others, which open
 * a file when they first read of it, without HDF5.  Collective; the status is agreed. */
mp_status mp_reader_share(const mp_comm *comm, const char *dir, mp_content what,
                          mp_reader **reader);

/* A source that owns the reader; on error the caller still does. */
mp_status mp_reader_source(mp_reader *reader, mp_source **source);

#endif
