/* What stands outside the blocks: embedding, final norm, head, and whatever else a model carries.
 * Floor 7: checkpoint; for the files of src/checkpoint only. */
#ifndef MPRESS_REST_H
#define MPRESS_REST_H

#include "journal.h"
#include "mpress/arch.h"
#include "mpress/io.h"
#include "mpress/source.h"

/* A tensor of `source` that no block of `arch` names, by its index. */
typedef struct mp_rest {
    int64_t *index; /* [count], ascending; owned (mp_free) */
    int64_t count;
} mp_rest;

/* Local; the same on all ranks. */
mp_status mp_rest_list(const mp_arch *arch, const mp_source *source, mp_rest *rest);

/* Copies those tensors to the HDF5 file `path`: the ranks that can do both read pieces of at most
 * 64 MiB in turn and write them.  Collective; the status is agreed. */
mp_status mp_rest_write(const mp_io *io, const mp_owner *owner, const char *path,
                        const mp_source *source, const mp_rest *rest);

#endif
