/* Hugging Face directories out: a checkpoint as safetensors, and random models of a given shape.
 * Floor 7: checkpoint. */
#ifndef MPRESS_EXPORT_H
#define MPRESS_EXPORT_H

#include "mpress/arch.h"
#include "mpress/comm.h"
#include "mpress/source.h"

/* Writes all tensors of `source` (same names, shapes, dtypes) to `dir`: shards of at most
 * `shard_bytes` of data (0 = 5 GB) filled by all ranks side by side, an index where there is more
 * than one shard, and every file of `assets` that is not weights.  Tensors fill the shards in the
 * order of names; inside a shard the wider types come first.  Made under "<dir>.tmp-export", synced
 * and renamed (what a killed export left there is removed); an existing `dir` that is not empty is
 * MP_ERR_ARG.
 * Collective; the status is agreed; nothing is left under either name on error.
 * Memory: 64 MiB per rank. */
mp_status mp_export(const mp_comm *comm, const mp_source *source, const char *assets,
                    const char *dir, int64_t shard_bytes);

/* Copies the files of a model directory that are neither weights nor their index (config,
 * tokenizer, chat template, *.py ...), unchanged; no directories, no dot files; links are followed.
 * Not collective. */
mp_status mp_assets_copy(const char *from, const char *to);

/* A model of the shape of `config` (path of a config.json) with `n_blocks` blocks and random
 * weights, N(0, 1/d_in) for the linear maps and their biases, N(0, 1/d_model) for embedding and
 * head, ones for the norms, in the dtype of the config; counter-based, so that it does not depend
 * on the number of ranks, nor a block on how many there are.  `dir` as in mp_export; beside the
 * weights it gets the config with its num_hidden_layers (and layer_types) set.
 * Collective; the status is agreed. */
mp_status mp_synth(const mp_comm *comm, const char *config, const char *dir, int64_t n_blocks,
                   uint64_t seed);

#endif
