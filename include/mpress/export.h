/* Hugging Face directories out: a checkpoint as safetensors, and random models of a given shape.
 * Floor 7: checkpoint. */
#ifndef MPRESS_EXPORT_H
#define MPRESS_EXPORT_H

#include "mpress/arch.h"
#include "mpress/checkpoint.h"
#include "mpress/comm.h"
#include "mpress/source.h"

/* In which format linear maps that are not dense are written. */
typedef enum mp_export_format {
    MP_EXPORT_AUTO, /* integers as compressed-tensors, factors as factors */
    MP_EXPORT_COMPRESSED_TENSORS,
    MP_EXPORT_GPTQ,
    MP_EXPORT_AWQ,
    MP_EXPORT_DENSE /* weights that any loader takes */
} mp_export_format;

/* "auto", "dense", "compressed-tensors", "gptq", "awq"; MP_ERR_ARG. */
mp_status mp_export_format_parse(const char *text, mp_export_format *format);

/* Who loads what an export in this format is: "vLLM, ..."; AUTO: of integers. */
const char *mp_export_loaders(mp_export_format format);

/* Writes all tensors of `source` (same shapes, dtypes) to `dir`: shards of at most `shard_bytes` of
 * data (0 = 5 GB) filled side by side by the ranks that see `dir`, an index where there is more than one shard,
 * and every file of `assets` that is not weights.  Tensors fill the shards in the order of names;
 * inside a shard the wider types come first.  Made under "<dir>.tmp-export", synced and renamed
 * (what a killed export left there is removed); an existing `dir` that is not empty is MP_ERR_ARG.
 *
 * Linear maps that the source has as factors (X.A and X.B for X.weight) are written
 *   - as X.ALinear.weight and X.BLinear.weight, their bias as X.ALinear.bias.  config.json keeps
 *     what it has; "truncation_ranks" is added, and "model_type", "architectures" and "auto_map"
 *     lead to modeling_factored.py beside it: transformers loads it with trust_remote_code, and
 *     refuses it without.  mp_model_open takes it as well;
 *   - or, with MP_EXPORT_DENSE, multiplied out in single precision and rounded to their dtype: an
 *     ordinary model, which loads anywhere and is as large as the one that was factored.
 * Those that it has as integers (X.packed, X.scale, X.zero) become, with the same values,
 *   - compressed-tensors, pack-quantized: X.weight_packed, X.weight_scale, X.weight_shape and, if
 *     asymmetric, X.weight_zero_point;
 *   - GPTQ ("v1") of 2, 3, 4 or 8 bits: X.qweight, X.qzeros, X.scales, X.g_idx, or AWQ ("gemm") of 4 bits
 *     without the last; scales are F16, and must be exact in it;
 *   - or X.weight, dequantised.
 * config.json gets its "quantization_config", which also names the linear maps that are dense.
 * Dense models are written as they are, with AUTO and DENSE.  The files do not depend on the number of
 * ranks.
 *
 * Collective; the status is agreed; nothing is left under either name on error.
 * Memory: 64 MiB per rank; 192 MiB where factors are multiplied.
 * Errors beside those of files: MP_ERR_ARG where the format cannot hold what the source has, naming
 * formats that can; MP_ERR_FORMAT for factors that do not fit together or are no linear
 * map of the model, MP_ERR_NUMERIC where a product is not finite in its dtype. */
mp_status mp_export(const mp_comm *comm, const mp_source *source, const char *assets,
                    const char *dir, mp_export_format format, int64_t shard_bytes);

/* mp_export of a run's own model into its hf/, in place of what an earlier run left there, and into the
 * journal, if the directory is still the run's. */
mp_status mp_checkpoint_export(mp_checkpoint *checkpoint, const mp_source *source,
                               const char *assets);

/* What the tensors of a model take, in bytes. */
typedef struct mp_model_size {
    int64_t n_factored;  /* linear maps that are factors */
    int64_t n_quantised; /* linear maps that are integers */
    int64_t stored;      /* as they are: an export with MP_EXPORT_AUTO, about */
    int64_t dense;       /* with all weights dense: an export with MP_EXPORT_DENSE */
} mp_model_size;

/* Not collective.  Errors: MP_ERR_FORMAT as above. */
mp_status mp_model_size_of(const mp_source *source, mp_model_size *size);

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
