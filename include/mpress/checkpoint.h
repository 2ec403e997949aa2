/* The parallel-HDF5 checkpoint: a directory that grows by one committed block at a time.
 * Floor 7: checkpoint.
 *
 *   OUT/model.h5          written once at the start: attributes `format`, `blocks` (their number)
 *                         and `run` (JSON), and one external link per block, dangling until the
 *                         block is there
 *   OUT/blocks/rest.h5    embedding, final norm, head and whatever else stands outside the blocks
 *   OUT/blocks/NNNNN.h5   one block: /self_attn.q_proj/weight, /self_attn.q_proj/mask, ...
 *   OUT/assets/           config.json, tokenizer and whatever else a loader wants, unchanged
 *   OUT/hidden/NNNNN.safetensors   hidden states after block NNNNN, [sequence][token][d_model], the
 *                         newest ones only and while the run is unfinished
 *   OUT/journal.jsonl     a block counts when it is named here, with the checksums of its file
 *   OUT/lock              held by the run at work in OUT
 *   OUT/calib.safetensors, OUT/log.jsonl, OUT/report.json, OUT/hf/   written by others
 *
 * In place of its weight a factored linear map has A [d_out, rank] and B [rank, d_in], and a quantised one
 * `packed` I32 [d_out, words] (packed.h), `scale` [d_out, groups] in the dtype of the weight and, where the
 * grid is asymmetric, `zero` U8 [d_out, groups]; attributes `bits`, `group` (columns that share a scale,
 * 0: the row) and `symmetric` of its group say what that means.
 *
 * Tensor "a.b.weight" lies at /a.b/weight of its file; in model.h5 a tensor's Hugging Face name is
 * its path with dots for slashes: /model.layers.3/self_attn.q_proj/weight (/model.layers.3 is the
 * link).  Its dtype is also an attribute, "BF16".  Data sets are contiguous and row-major, so that
 * the ranks write disjoint ranges of bytes and the data is the same whatever the number of ranks;
 * bf16 is a 16-bit float (sign 15, exponent 7..14, mantissa 0..6, bias 127), which h5py reads as it
 * stands.  A mask is U8 [d_out, ceil(d_in / 8)]: bit j % 8 (the low bit is 0) of byte j / 8 of row
 * i is 1 where weight i, j was removed.  /attn_in/in_sum2 and its like are what was measured at the states
 * of a block (mp_state_record).  Neither is part of the exported model.
 *
 * HDF5 is not thread-safe: all of this from the main thread only. */
#ifndef MPRESS_CHECKPOINT_H
#define MPRESS_CHECKPOINT_H

#include "mpress/arch.h"
#include "mpress/comm.h"
#include "mpress/hidden.h"
#include "mpress/quant.h"
#include "mpress/source.h"

#include <jansson.h>

enum { MP_CHECKPOINT_FORMAT = 1 };

/* Who reads a model that all ranks need: each of them its share; rank 0 alone, which sends it on; or
 * the former where all see the same files, and the latter where they do not. */
typedef enum mp_model_io { MP_MODEL_AUTO, MP_MODEL_SHARED, MP_MODEL_ROOT } mp_model_io;

typedef struct mp_checkpoint mp_checkpoint;

/* This rank's rows of one tensor of a block. */
typedef struct mp_slab {
    const char *name; /* in the block: "self_attn.q_proj.weight", "self_attn.q_proj.mask" */
    mp_dtype dtype;
    int ndim;                  /* 1 or 2 */
    int64_t shape[2];          /* of the whole tensor */
    int64_t first_row, n_rows; /* the ranks' ranges cut shape[0]; n_rows may be 0 */
    const void *data;          /* [n_rows, shape[1]] in dtype; borrowed */
} mp_slab;

/* What is kept with a linear map as attributes of its group: no times, so that the file's data does
 * not depend on when and where it was made. */
typedef struct mp_linear_record {
    const char *name;   /* "self_attn.q_proj" */
    const char *method; /* "sparsegpt", or "dense" where it was left alone */
    int64_t d_out, d_in, tokens, dead, retries, by_qr;
    int64_t rank;                              /* of the factors; 0 where the weight is none */
    mp_quant quant;                            /* of the integers; bits = 0 where it is none */
    double damping, rel_error, sparsity, kept; /* NaN where it does not apply */
} mp_linear_record;

/* What is kept with a state that was measured, as attributes of the group that has its in_sum2, F64
 * [width]: the sum of w_t x_t^2 of each channel. */
typedef struct mp_state_record {
    const char *name; /* "attn_in" */
    int64_t tokens, probes;
    double weight, effective_rank, distance, distance_error;
} mp_state_record;

/* What becomes of an earlier run in the directory. */
typedef enum mp_start {
    MP_START_NEW,       /* it is refused */
    MP_START_OVERWRITE, /* it is removed */
    MP_START_RESUME,    /* it is continued, if it is the same one */
    MP_START_REQUIRE    /* the same, and there must be one */
} mp_start;

/* Starts a run in `dir`: creates it, copies the assets of `model_dir`, writes model.h5 and rest.h5
 * (read from `source` in parallel).  `run` is the record of the run (options, model identity), an
 * object; its member "identity" says which runs are the same.  Tensors of the source that the
 * architecture does not name are carried along in rest.h5.
 *
 * One that is resumed is read back first, by all ranks together; what does not fit its checksum is
 * named in the log, does not count any more, and is made again: blocks by the caller, the others
 * here.
 *
 * A `dir` that is neither absent nor empty is MP_ERR_FORMAT where MP_START_NEW, or where it holds a run
 * of another identity (the message has the difference).  MP_START_OVERWRITE removes what a run of
 * mpress put there (also blocks/, assets/ and hf/ whole) and nothing else; a directory that no run of
 * mpress made is refused even then, and a model inside of it is MP_ERR_ARG.  A directory that
 * another run holds at this moment is MP_ERR_FORMAT.  On error nothing is left in `dir`, or a run that
 * was there is as it was.  `comm` is borrowed as long as the checkpoint.
 * Collective; the status is agreed.
 * Memory: 64 MiB per rank. */
mp_status mp_checkpoint_create(const mp_comm *comm, const char *dir, const char *model_dir,
                               const mp_arch *arch, const mp_source *source, const json_t *run,
                               mp_start start, mp_checkpoint **checkpoint);

/* The finished run of the same identity that `dir` holds, to ask what of it is there; *checkpoint is NULL where
 * it holds anything else, or nothing.  Nothing is written, locked or read back, and nothing can be put.
 * Collective; the status is agreed. */
mp_status mp_checkpoint_find_finished(const mp_comm *comm, const char *dir, const mp_arch *arch,
                                      const json_t *run, mp_checkpoint **checkpoint);

/* Who can read what the run has written: MP_MODEL_SHARED, or MP_MODEL_ROOT where some ranks do not see
 * the directory.  Those are served by the others, here and below, in pieces of 16 MiB. */
mp_model_io mp_checkpoint_io(const mp_checkpoint *checkpoint);

/* Whether an earlier run is continued; what of it is there, whole.  `file` is relative to the directory:
 * "calib.safetensors"; of a `folder`, "hf", all files have to be.  Local; the same on all ranks. */
int mp_checkpoint_resumed(const mp_checkpoint *checkpoint);
int mp_checkpoint_has(const mp_checkpoint *checkpoint, const char *file);
int mp_checkpoint_has_folder(const mp_checkpoint *checkpoint, const char *folder);
int mp_checkpoint_has_block(const mp_checkpoint *checkpoint, int64_t block);

/* MP_ERR_IO where another run has taken the directory over: to be asked before a file of it is replaced.
 * Rank 0 only, MP_OK on the others; not collective. */
mp_status mp_checkpoint_check_owner(const mp_checkpoint *checkpoint);

/* Takes files that others have written into the journal, with checksums of what is read back; of a folder all
 * files, and then that these are all.
 * Collective; the status is agreed. */
mp_status mp_checkpoint_add_file(mp_checkpoint *checkpoint, const char *file);
mp_status mp_checkpoint_add_folder(mp_checkpoint *checkpoint, const char *folder);

/* Keeps what a resumed run would otherwise have to find again; `value` is consumed and must be the same
 * on all ranks.  Collective; the status is agreed. */
mp_status mp_checkpoint_note(mp_checkpoint *checkpoint, const char *name, json_t *value);

/* What was noted; NULL where nothing was.  Borrowed. */
const json_t *mp_checkpoint_noted(const mp_checkpoint *checkpoint, const char *name);

/* Writes the hidden states after block `index`, in global order, so that any number of ranks can read
 * them; they count from when that block is put, after others that were made with it, and then replace
 * those there were.
 * `dtype` is MP_F32 or MP_BF16.  Collective; the status is agreed. */
mp_status mp_checkpoint_put_hidden(mp_checkpoint *checkpoint, int64_t index, mp_dtype dtype,
                                   const mp_hidden *hidden);

/* The block after which hidden states are there, -1 for none; and these states. */
int64_t mp_checkpoint_hidden_block(const mp_checkpoint *checkpoint);
mp_status mp_checkpoint_get_hidden(const mp_checkpoint *checkpoint, mp_hidden *hidden);

/* Writes and commits block `index`: temporary name, space reserved, parallel write (at most 1 GiB
 * per rank and call), flush, close, sync, rename, directory sync, read back, journal line.  The slabs must be
 * given in the same order on all ranks and cover every tensor of the block; the records are those
 * of rank 0.  On error the block is not there and no temporary file is left, and the earlier blocks
 * are intact.
 * Errors: MP_ERR_IO; MP_ERR_DIVERGED where the ranks' slabs do not fit together.
 * Collective; the status is agreed. */
mp_status mp_checkpoint_put_block(mp_checkpoint *checkpoint, int64_t index, const mp_slab *slabs,
                                  int n_slabs, const mp_linear_record *records, int n_records,
                                  const mp_state_record *states, int n_states);

/* The journal's last line: the run is complete.  Hidden states are removed.  Collective; agreed. */
mp_status mp_checkpoint_finish(mp_checkpoint *checkpoint);

void mp_checkpoint_free(mp_checkpoint *checkpoint);

/* Whether `path` is a checkpoint directory (has model.h5 and a journal). */
int mp_checkpoint_is(const char *path);

/* A checkpoint with all its blocks as a source of the tensors of the model, under their Hugging
 * Face names (the masks are left out).  Opens blocks/ *.h5 directly, without MPI-IO; not
 * collective.
 * Errors: MP_ERR_FORMAT for an unfinished run (which block is missing), a file that has not the
 * size the journal says, another format number. */
mp_status mp_checkpoint_open(const char *dir, mp_source **source);

/* The same for an unfinished one: the blocks that are there.  Other files are not looked at. */
mp_status mp_checkpoint_open_blocks(const char *dir, mp_source **source);

/* What was measured at the states of all blocks, as a source: "model.layers.3.attn_in.in_sum2", F64 [width].
 * Not collective.  Errors as mp_checkpoint_open, and MP_ERR_FORMAT where nothing was measured. */
mp_status mp_checkpoint_open_states(const char *dir, mp_source **source);

/* mp_checkpoint_open_blocks and mp_checkpoint_open for all ranks of the run.  One of them opens the files
 * with HDF5 and tells the others where the tensors lie.  Collective; the status is agreed. */
mp_status mp_checkpoint_share_blocks(const mp_checkpoint *checkpoint, mp_source **source);
mp_status mp_checkpoint_share_model(const mp_checkpoint *checkpoint, mp_source **source);

/* What a checkpoint says of itself, finished or not; ended by json_decref; not collective.
 *   {"format", "blocks": how many the model has, "done": [0, 1, ...], "finished", "run",
 *    "linears": [{"block", "name", "method", "d_out", "d_in", "tokens", "dead", "retries",
 *                 "damping", "rel_error", "sparsity", "rank", "kept", and of integers
 *                 "bits", "group", "symmetric"}], null where a number does not apply,
 *    "states": [{"block", "name", "tokens", "weight", "effective_rank", "distance", "distance_error",
 *                "probes"}]} */
mp_status mp_checkpoint_describe(const char *dir, json_t **description);

/* Reads back all that the journal of a run names, finished or not, and compares checksums: {"files", "bytes",
 * "damaged": [{"file", "damage"}], "bad_journal_line": 0 where there is none, "finished"}; ended by
 * json_decref, on all ranks.  Collective; the status is agreed. */
mp_status mp_checkpoint_verify(const mp_comm *comm, const char *dir, json_t **report);

/* MP_ERR_FORMAT where `path` is a checkpoint and a file that the model is read from is damaged; a Hugging
 * Face directory has no checksums.  Reads all of it.  Collective; the status is agreed. */
mp_status mp_model_verify(const mp_comm *comm, const char *path);

/* A model to read, whatever it is: a Hugging Face directory or a checkpoint.  `assets` is where its
 * config.json and tokenizer are; owned by the caller (mp_free).  A factored directory (export.h) has
 * the names of a checkpoint, X.A and X.B.  Not collective. */
mp_status mp_model_open(const char *path, mp_source **source, char **assets);

/* "auto", "shared", "root"; MP_ERR_ARG. */
mp_status mp_model_io_parse(const char *text, mp_model_io *io);

/* mp_model_open for all ranks.  The files are the same where config.json, the list of tensors and the
 * first bytes of some of them are; with MP_MODEL_SHARED anything else is an error, that of the
 * lowest rank that does not see them.  What was found is logged where there is more than one node.
 * `assets` is of use on rank 0; on the others it may not be there.  Collective; the status is
 * agreed. */
mp_status mp_model_share(const mp_comm *comm, const char *path, mp_model_io io, mp_source **source,
                         char **assets);

/* Identity of a model as 8 hexadecimal digits: CRC-32C over config.json and over name, dtype, shape
 * and the first 4 KiB of every tensor, in the order of names (so that the same weights in other
 * shards are the same model, and another training of the same shape is not).  Not collective: one
 * read per tensor, so let one rank do it where there are many. */
mp_status mp_model_identity(const mp_source *source, const char *assets, char identity[16]);

#endif
