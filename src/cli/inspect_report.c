/* Collects what mpress inspect tells. */
#include "inspect_report.h"

#include "mpress/arch.h"
#include "mpress/checkpoint.h"
#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"
#include "mpress/safetensors.h"
#include "mpress/tokenizer.h"

#include <string.h>

enum { TOKENS_AT_ONCE = 1 << 16 };

static mp_status set(json_t *report, const char *key, json_t *value)
{
    if (value != NULL && json_object_set_new(report, key, value) == 0) return MP_OK;
    return mp_fail(MP_ERR_NOMEM, "the report of an inspection: out of memory");
}

static json_t *refusal(void)
{
    return json_pack("{s:s}", "refused", mp_error_message());
}

static json_t *describe_arch(const char *assets)
{
    mp_arch a;

    if (mp_arch_load(assets, &a) != MP_OK) return refusal();
    return json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:b, s:b, s:s, s:I}", "family",
        a.family, "blocks", (json_int_t)a.n_blocks, "d_model", (json_int_t)a.d_model, "d_ff",
        (json_int_t)a.d_ff, "heads", (json_int_t)a.n_heads, "kv_heads", (json_int_t)a.n_kv_heads,
        "head_dim", (json_int_t)a.head_dim, "vocabulary", (json_int_t)a.vocabulary, "positions",
        (json_int_t)a.max_positions, "window", (json_int_t)a.window, "rope_theta", a.rope.theta,
        "rope_llama3", a.rope.llama3, "tied_head", a.tied_head, "dtype", mp_dtype_name(a.dtype),
        "linear_parameters_per_block", (json_int_t)mp_arch_linear_parameters(&a));
}

/* {"count", "parameters", "bytes", "dtypes": {"BF16": tensors}} */
static json_t *describe_tensors(const mp_source *source)
{
    int64_t parameters = 0, bytes = 0, of[MP_DTYPE_COUNT] = {0};
    json_t *dtypes = json_object();

    for (int64_t i = 0; i < source->count; i++) {
        const mp_tensor_info *info = source->at(source->self, i);

        parameters += mp_tensor_elements(info);
        bytes += mp_tensor_bytes(info);
        of[info->dtype]++;
    }
    for (int d = 0; d < MP_DTYPE_COUNT; d++)
        if (of[d] > 0) json_object_set_new(dtypes, mp_dtype_name((mp_dtype)d), json_integer(of[d]));
    return json_pack("{s:I, s:I, s:I, s:o}", "count", (json_int_t)source->count, "parameters",
                     (json_int_t)parameters, "bytes", (json_int_t)bytes, "dtypes", dtypes);
}

static int has_file(const char *dir, const char *name)
{
    char *path = NULL;
    int there = mp_path_join(dir, name, &path) == MP_OK && mp_path_exists(path);

    mp_free(path);
    return there;
}

static json_t *describe_tokenizer(const char *assets)
{
    const char *file = has_file(assets, "tokenizer.json") ? "tokenizer.json"
                       : has_file(assets, "vocab.json")   ? "vocab.json + merges.txt"
                                                          : NULL;
    mp_tokenizer *tokenizer = NULL;
    json_t *found;

    if (file == NULL) return json_null();
    if (mp_tokenizer_load(assets, &tokenizer) != MP_OK) return refusal();
    found = json_pack("{s:s, s:i, s:i, s:b}", "file", file, "ids",
                      (int)mp_tokenizer_size(tokenizer), "bos", (int)mp_tokenizer_bos(tokenizer),
                      "adds_bos", mp_tokenizer_adds_bos(tokenizer));
    mp_tokenizer_free(tokenizer);
    return found;
}

static mp_status report_model(const char *path, json_t *report)
{
    mp_source *source = NULL;
    char *assets = NULL;
    char identity[16] = "";
    mp_status st;

    MP_TRY(mp_model_open(path, &source, &assets));
    MP_GO(mp_model_identity(source, assets, identity));
    MP_GO(set(report, "kind", json_string("model")));
    MP_GO(set(report, "identity", json_string(identity)));
    MP_GO(set(report, "architecture", describe_arch(assets)));
    MP_GO(set(report, "tensors", describe_tensors(source)));
    MP_GO(set(report, "tokenizer", describe_tokenizer(assets)));
out:
    mp_source_close(&source);
    mp_free(assets);
    return st;
}

/* The tensors of a checkpoint that has all its blocks; null for another. */
static mp_status report_contents(const char *path, json_t *report)
{
    mp_source *source = NULL;
    json_t *tensors;

    if (json_array_size(json_object_get(report, "done")) <
        (size_t)json_integer_value(json_object_get(report, "blocks")))
        return set(report, "tensors", json_null());
    MP_TRY(mp_checkpoint_open(path, &source));
    tensors = describe_tensors(source);
    mp_source_close(&source);
    return set(report, "tensors", tensors);
}

static mp_status report_checkpoint(const char *path, json_t *report)
{
    json_t *description = NULL;
    char *assets = NULL;
    mp_status st;

    MP_TRY(mp_checkpoint_describe(path, &description));
    MP_GO(set(report, "kind", json_string("checkpoint")));
    if (json_object_update(report, description) != 0)
        MP_GO(mp_fail(MP_ERR_NOMEM, "the report of an inspection: out of memory"));
    MP_GO(mp_path_join(path, "assets", &assets));
    MP_GO(set(report, "architecture", describe_arch(assets)));
    MP_GO(report_contents(path, report));
    MP_GO(set(report, "tokenizer", describe_tokenizer(assets)));
out:
    json_decref(description);
    mp_free(assets);
    return st;
}

/* The lowest and the highest id of a tensor of tokens. */
static mp_status read_range(const mp_source *source, int64_t index, int64_t count, int32_t *lowest,
                            int32_t *highest)
{
    int32_t *ids = NULL;
    mp_status st = MP_OK;

    MP_TRY(MP_NEW_RAW(ids, TOKENS_AT_ONCE, "token ids"));
    for (int64_t at = 0; at < count; at += TOKENS_AT_ONCE) {
        int64_t n = count - at < TOKENS_AT_ONCE ? count - at : TOKENS_AT_ONCE;

        MP_GO(source->read(source->self, index, at * 4, n * 4, ids));
        if (at == 0) *lowest = *highest = ids[0];
        for (int64_t i = 0; i < n; i++) {
            if (ids[i] < *lowest) *lowest = ids[i];
            if (ids[i] > *highest) *highest = ids[i];
        }
    }
out:
    mp_free(ids);
    return st;
}

static mp_status report_tokens(const mp_source *source, int64_t index, json_t *report)
{
    const mp_tensor_info *info = source->at(source->self, index);
    int64_t count = mp_tensor_elements(info);
    int32_t lowest = 0, highest = 0;

    MP_TRY(read_range(source, index, count, &lowest, &highest));
    MP_TRY(set(report, "kind", json_string("tokens")));
    return set(report, "tokens",
               json_pack("{s:I, s:I, s:i, s:i}", "windows",
                         (json_int_t)(info->ndim == 2 ? info->shape[0] : 0), "seqlen",
                         (json_int_t)(info->ndim == 2 ? info->shape[1] : count), "lowest",
                         (int)lowest, "highest", (int)highest));
}

static mp_status report_file(const char *path, json_t *report)
{
    mp_source *source = NULL;
    const mp_tensor_info *info;
    int64_t index;
    mp_status st;

    MP_TRY(mp_safetensors_open(path, &source));
    MP_GO(set(report, "kind", json_string("safetensors")));
    MP_GO(set(report, "tensors", describe_tensors(source)));
    index = mp_source_find(source, "tokens");
    info = index >= 0 ? source->at(source->self, index) : NULL;
    if (info != NULL && info->dtype == MP_I32 && (info->ndim == 1 || info->ndim == 2))
        MP_GO(report_tokens(source, index, report));
out:
    mp_source_close(&source);
    return st;
}

/* Files of a checkpoint are looked at through its directory. */
static int is_hdf5(const char *path)
{
    const size_t length = strlen(path);

    return length > 3 && strcmp(path + length - 3, ".h5") == 0;
}

mp_status inspect_report(const char *path, json_t **report)
{
    json_t *made = json_object();
    mp_status st;

    MP_GO(set(made, "path", json_string(path)));
    if (!mp_path_exists(path))
        st = mp_fail(MP_ERR_IO, "%s: not there", path);
    else if (is_hdf5(path))
        st = mp_fail(MP_ERR_ARG,
                     "%s: an HDF5 file, expected the directory OUT of the checkpoint it belongs "
                     "to (h5py and h5dump read the file itself)",
                     path);
    else if (!mp_path_is_directory(path))
        st = report_file(path, made);
    else if (mp_checkpoint_is(path))
        st = report_checkpoint(path, made);
    else
        st = report_model(path, made);
out:
    if (st == MP_OK)
        *report = made;
    else
        json_decref(made);
    return st;
}
