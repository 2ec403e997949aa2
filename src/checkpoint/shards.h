/* Which tensor goes into which safetensors file, and where.
 * Floor 7: checkpoint; for the files of src/checkpoint only. */
#ifndef MPRESS_SHARDS_H
#define MPRESS_SHARDS_H

#include "mpress/source.h"

typedef struct mp_shard {
    char name[64];        /* "model-00001-of-00003.safetensors" */
    int64_t first, count; /* its tensors: order[first] .. order[first + count - 1] */
    char *header;         /* with its length word; owned */
    size_t header_length;
    int64_t size; /* of the file */
} mp_shard;

/* Follows from the source and the limit alone, so that every rank makes the same plan. */
typedef struct mp_shards {
    mp_shard *shard; /* [count] */
    int64_t count;
    int64_t *order; /* [tensors] index of the tensor in the source */
    int64_t *begin; /* [tensors] where order[i]'s data begins in its file */
    int64_t tensors;
    int64_t total; /* bytes of all tensors */
} mp_shards;

/* Tensors fill the shards in the order of names, at most `limit` bytes of data each (a larger
 * tensor has one of its own); inside a shard the wider types come first, then names, as the
 * reference writer has it, so that all data is aligned to its type. */
mp_status mp_shards_plan(const mp_source *source, int64_t limit, mp_shards *shards);
void mp_shards_free(mp_shards *shards);

/* The text of model.safetensors.index.json; owned by the caller (mp_free). */
mp_status mp_shards_index(const mp_shards *shards, const mp_source *source, char **text);

#endif
