/* The weights of one block, once per node, read in parallel; and the embedding and head by rows.
 * Floor 4: model. */
#ifndef MPRESS_WEIGHTS_H
#define MPRESS_WEIGHTS_H

#include "mpress/arch.h"
#include "mpress/comm.h"
#include "mpress/linear.h"
#include "mpress/source.h"

typedef struct mp_block {
    const mp_arch *arch; /* borrowed */
    int64_t index;       /* of the block whose weights are loaded, -1 before the first */
    mp_linear linears[MP_MAX_LINEARS];
    const float
        *norms[MP_MAX_VECTORS]; /* by role: MP_ATTN_NORM, ...; NULL if the family has none */
    mp_dtype norm_dtypes[MP_MAX_VECTORS]; /* by role, as stored */
    mp_shared *memory; /* all of the above, in single precision or as packed integers */
} mp_block;

/* Room for one block, in memory the node shares.  Collective. */
mp_status mp_block_create(const mp_comm *comm, const mp_arch *arch, mp_block **block);
void mp_block_free(mp_block *block);

/* What mp_block_create shares, in bytes. */
size_t mp_block_bytes(const mp_arch *arch);

/* What the name of a linear map's weight ends with, in whatever storage it has; ends with NULL. */
extern const char *const mp_weight_endings[];

/* Every tensor that the architecture names is there with its shape and a dtype of F32, F16 or BF16 (for
 * a linear map's weight, a pair of factors may stand: <name>.A [d_out, rank] and <name>.B [rank, d_in]; or
 * integers: <name>.packed, <name>.scale and perhaps <name>.zero, as in checkpoint.h): checked for all blocks, embedding, norm and head before anything is computed.  A tensor that the
 * architecture does not name is refused, too: nobody would read it.  Allowed are the head of a tied
 * model (the embedding is used) and stored rotary frequencies.  Not collective.
 * Errors: MP_ERR_FORMAT naming path, tensor, value and expectation. */
mp_status mp_weights_check(const mp_arch *arch, const mp_source *source);

/* Reads block `index` from `source`, as mp_weights_publish does.
 * A NaN or infinity in a weight is MP_ERR_FORMAT naming tensor, row and column.  Collective; the
 * status is agreed.  Ends with a fence: all ranks of the node may read. */
mp_status mp_block_load(mp_block *block, const mp_comm *comm, const mp_source *source,
                        int64_t index);

/* Tells the source that block `index` will be read next (no-op past the last). */
void mp_block_prefetch(const mp_arch *arch, const mp_comm *comm, const mp_source *source,
                       int64_t index);

/* Rows `first` .. `first + count - 1` of a matrix in single precision, or rows ids[0..count) of it;
 * a vector is a matrix of one column.  Not collective: only on a rank that can read.
 * Errors: MP_ERR_FORMAT: no such tensor or row, a value that is not finite. */
mp_status mp_weights_rows(const mp_source *source, const char *name, int64_t first, int64_t count,
                          float *rows);
mp_status mp_weights_gather(const mp_source *source, const char *name, const int32_t *ids,
                            int64_t count, float *rows);

/* Rows `first` .. `first + count - 1` of a matrix to `rows`, in memory that each node shares: in single
 * precision, or as they are where the dtype is that of no weight (packed integers).  Every rank of a node reads its share; or, where rank 0 alone reads, it sends them to the first
 * rank of each node in pieces of 4 MiB, in the dtype they are stored in.  Whoever reads them waits for a
 * fence first.  Collective.  Errors as above: this rank's own, to be agreed on, where all read; agreed
 * where rank 0 alone does.  Cost there: (nodes - 1) times the stored bytes. */
mp_status mp_weights_publish(const mp_comm *comm, const mp_source *source, const char *name,
                             int64_t first, int64_t count, void *rows);

#endif
