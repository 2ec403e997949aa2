/* A small model of many dtypes in a directory, and its way through a checkpoint. */
#ifndef MPRESS_TESTS_CHECKPOINT_FIXTURE_H
#define MPRESS_TESTS_CHECKPOINT_FIXTURE_H

#include "mpress/arch.h"
#include "mpress/checkpoint.h"
#include "mpress/comm.h"
#include "mpress/source.h"

typedef struct fixture {
    const mp_comm *comm;
    char scratch[64]; /* a directory of this case, seen by all ranks */
    char model[96];   /* scratch/model: config.json, model.safetensors and other files */
    char out[96];     /* scratch/out: not there yet */
    mp_arch arch;     /* 3 blocks, biases, k and v smaller than q */
    mp_source *source;
} fixture;

/* Collective.  The data of the tensors are random bits, NaN and infinity among them. */
mp_status fixture_create(const mp_comm *comm, fixture *f);

/* Removes the scratch directory.  Collective. */
void fixture_free(fixture *f);

/* Runs `body` on a fixture of its own.  Collective; the status is agreed. */
mp_status fixture_with(const mp_comm *comm, mp_status (*body)(const fixture *));

/* The blocks of the model as they are, each rank its rows: an equal share of some tensors, all or
 * no row of others.  One linear map of each block gets a mask and a record.  Collective. */
mp_status fixture_put_block(const fixture *f, mp_checkpoint *checkpoint, int64_t block);

/* A whole run on `comm`, which may be another than f->comm, into `out`; finished. */
mp_status fixture_run(const fixture *f, const mp_comm *comm, const char *out, int overwrite);

/* MP_OK if both sources have the same tensors, bit for bit. */
mp_status fixture_same(const mp_source *left, const mp_source *right);

/* MP_OK if `st` is `expected` and the message contains `words`; the same on all ranks is checked.
 * Collective. */
mp_status fixture_expect(const mp_comm *comm, mp_status st, mp_status expected, const char *words);

/* Writes a small file on rank 0, then all ranks go on.  Collective. */
mp_status fixture_file(const mp_comm *comm, const char *dir, const char *name, const char *text);

/* Whether "dir/name" is there; the same answer on all ranks.  Collective. */
int fixture_has(const mp_comm *comm, const char *dir, const char *name);

/* Whether a file under a temporary name is in the blocks of a run.  Collective. */
int fixture_has_unfinished(const mp_comm *comm, const char *out);

/* From now on no file of this rank may grow beyond `bytes` (-1: no limit): a full disk that only
 * one rank sees. */
void fixture_limit_files(int64_t bytes);

/* A communicator of rank 0 alone, NULL on the other ranks.  Collective. */
mp_status fixture_alone(const mp_comm *comm, mp_comm **alone);

/* The source of a checkpoint on this rank against the model it was made from. */
mp_status fixture_same_as_model(const fixture *f, const char *out);

#endif
