/* What rank 0 reads for the others: small files, and the list of tensors of a model that the others
 * cannot see.  The tensors themselves go out in pieces (mpress/weights.h).
 * Floor 3: dist. */
#ifndef MPRESS_REMOTE_H
#define MPRESS_REMOTE_H

#include "mpress/comm.h"
#include "mpress/source.h"

#include <jansson.h>

/* What rank 0 has read, to be freed by mp_free, on all ranks, with a NUL behind it that *length does not
 * count on the others; `mine` is what became of the reading.  Collective; the status is agreed. */
mp_status mp_remote_bytes(const mp_comm *comm, mp_status mine, char **bytes, size_t *length);

/* A JSON file as mp_json_load reads it, of at most 16 MiB; `path` need not exist on other ranks than 0.
 * Ended by json_decref.  Collective; the status is agreed. */
mp_status mp_remote_json(const mp_comm *comm, const char *path, json_t **object);

/* A source that rank 0 has opened, and no other rank (*source is NULL there), becomes one of all ranks
 * that rank 0 alone can read: the others get its tensors' names, dtypes and shapes, and its path.
 * Collective; the status is agreed; on error *source is as it was. */
mp_status mp_remote_source(const mp_comm *comm, mp_source **source);

/* Which of `count` things of a source this rank is to read, where each is read once. */
void mp_remote_share(const mp_comm *comm, const mp_source *source, int64_t count, int64_t *begin,
                     int64_t *end);

#endif
