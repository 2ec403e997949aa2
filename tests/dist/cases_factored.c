/* Models with factored linear maps out to Hugging Face directories and back. */
#include "factored_fixture.h"
#include "worker.h"

#include "mpress/export.h"
#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"
#include "mpress/safetensors.h"
#include "mpress/tensor.h"

#include <stdio.h>
#include <string.h>

static mp_status same_file(const char *left, const char *right, const char *name)
{
    char *a = NULL, *b = NULL;
    size_t n = 0, m = 0;
    mp_status st;

    MP_GO(factored_read_file(left, name, &a, &n));
    MP_GO(factored_read_file(right, name, &b, &m));
    if (n != m || memcmp(a, b, n) != 0)
        st = mp_fail(MP_ERR_NUMERIC, "%s differs in %s and %s", name, left, right);
out:
    mp_free(a);
    mp_free(b);
    return st;
}

/* A tensor of `left` is one of `right` under another name, bit for bit. */
static mp_status same_data(const mp_source *left, const char *name, const mp_source *right,
                           const char *new_name)
{
    int64_t i = mp_source_find(left, name), k = mp_source_find(right, new_name), bytes;
    const mp_tensor_info *a, *b;
    char *x = NULL, *y = NULL;
    mp_status st;

    if (i < 0 || k < 0) return mp_fail(MP_ERR_NUMERIC, "no \"%s\" or \"%s\"", name, new_name);
    a = left->at(left->self, i);
    b = right->at(right->self, k);
    MP_EXPECT(a->dtype == b->dtype && a->ndim == b->ndim);
    for (int d = 0; d < a->ndim; d++) MP_EXPECT(a->shape[d] == b->shape[d]);
    bytes = mp_tensor_bytes(a);
    MP_GO(MP_NEW(x, bytes, "a tensor"));
    MP_GO(MP_NEW(y, bytes, "a tensor"));
    MP_GO(left->read(left->self, i, 0, bytes, x));
    MP_GO(right->read(right->self, k, 0, bytes, y));
    if (memcmp(x, y, (size_t)bytes) != 0) st = mp_fail(MP_ERR_NUMERIC, "%s differs", new_name);
out:
    mp_free(x);
    mp_free(y);
    return st;
}

static const char *ended(const char *name, const char *ending)
{
    static char text[2][256];
    static int turn;

    turn = !turn;
    snprintf(text[turn], sizeof text[turn], "%s%s", name, ending);
    return text[turn];
}

static int has_tensor(const mp_source *source, const char *name, const char *ending)
{
    return mp_source_find(source, ended(name, ending)) >= 0;
}

/* Every tensor of the layout, and no other. */
static mp_status check_layout(const mp_source *source, const mp_source *written)
{
    int biases = 0;

    MP_EXPECT(written->count == source->count);
    for (int i = 0; i < FACTORED; i++) {
        const char *name = factored[i].name;

        MP_TRY(same_data(source, ended(name, ".A"), written, ended(name, ".ALinear.weight")));
        MP_TRY(same_data(source, ended(name, ".B"), written, ended(name, ".BLinear.weight")));
        MP_EXPECT(!has_tensor(written, name, ".weight") && !has_tensor(written, name, ".bias"));
        if (!has_tensor(source, name, ".bias")) continue;
        biases++;
        MP_TRY(same_data(source, ended(name, ".bias"), written, ended(name, ".ALinear.bias")));
    }
    MP_EXPECT(biases == 2);
    MP_TRY(same_data(source, "model.layers.1.self_attn.q_proj.bias", written,
                     "model.layers.1.self_attn.q_proj.bias"));
    return same_data(source, "model.layers.2.mlp.up_proj.weight", written,
                     "model.layers.2.mlp.up_proj.weight");
}

static int has_text(const json_t *object, const char *key, const char *expected)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text != NULL && strcmp(text, expected) == 0;
}

static mp_status check_config(const json_t *config)
{
    const json_t *ranks = json_object_get(config, "truncation_ranks");
    const json_t *map = json_object_get(config, "auto_map");
    const json_t *classes = json_object_get(config, "architectures");

    MP_EXPECT(has_text(config, "model_type", "mpress_factored_qwen2"));
    MP_EXPECT(json_array_size(classes) == 1);
    MP_EXPECT(strcmp(json_string_value(json_array_get(classes, 0)), "FactoredQwen2ForCausalLM") ==
              0);
    MP_EXPECT(has_text(map, "AutoConfig", "modeling_factored.FactoredQwen2Config"));
    MP_EXPECT(has_text(map, "AutoModelForCausalLM", "modeling_factored.FactoredQwen2ForCausalLM"));
    MP_EXPECT(json_object_size(ranks) == FACTORED);
    for (int i = 0; i < FACTORED; i++)
        MP_EXPECT(json_integer_value(json_object_get(ranks, factored[i].name)) == factored[i].rank);
    MP_EXPECT(json_array_size(json_object_get(config, "a key of another program")) == 2);
    MP_EXPECT(has_text(config, "torch_dtype", "bfloat16"));
    return MP_OK;
}

static mp_status check_module(const char *dir)
{
    char *text = NULL;
    size_t length = 0;
    mp_status st;

    MP_TRY(factored_read_file(dir, "modeling_factored.py", &text, &length));
    st = strstr(text, "class FactoredQwen2ForCausalLM(Qwen2ForCausalLM):") != NULL &&
                 strstr(text, "model_type = \"mpress_factored_qwen2\"") != NULL &&
                 strchr(text, '@') == NULL
             ? MP_OK
             : mp_fail(MP_ERR_NUMERIC, "modeling_factored.py: %s", text);
    mp_free(text);
    return st;
}

static mp_status check_directory(const char *dir, const mp_source *source)
{
    mp_source *written = NULL;
    json_t *config = NULL;
    char path[256];
    mp_status st;

    snprintf(path, sizeof path, "%s/config.json", dir);
    MP_GO(mp_safetensors_open(dir, &written));
    MP_GO(check_layout(source, written));
    MP_GO(mp_json_load(path, &config));
    MP_GO(check_config(config));
    MP_GO(check_module(dir));
out:
    json_decref(config);
    mp_source_close(&written);
    return st;
}

static mp_status factored_layout(const fixture *f, mp_source *source)
{
    MP_TRY(mp_export(f->comm, source, f->model, f->out, MP_EXPORT_AUTO, 0));
    MP_TRY(mp_comm_agree(f->comm, check_directory(f->out, source)));
    MP_TRY(same_file(f->model, f->out, "tokenizer.json"));
    return MP_OK;
}

static mp_status factors_are_exported_under_the_names_of_the_layout(const mp_comm *comm)
{
    return factored_with(comm, MP_BF16, factored_layout);
}

static mp_status read_back(const fixture *f, mp_source *source)
{
    mp_source *again = NULL;
    char *assets = NULL, other[160];
    mp_arch arch;
    mp_status st;

    snprintf(other, sizeof other, "%s/again", f->scratch);
    /* a shard for each tensor: a pair may be in two files */
    MP_TRY(mp_export(f->comm, source, f->model, f->out, MP_EXPORT_AUTO, 1));
    MP_TRY(mp_comm_agree(f->comm, mp_model_open(f->out, &again, &assets)));
    MP_GO(mp_comm_agree(f->comm, fixture_same(source, again)));
    MP_GO(mp_arch_load(f->out, &arch));
    if (strcmp(arch.family, "qwen2") != 0 || arch.n_blocks != 3)
        MP_GO(mp_fail(MP_ERR_NUMERIC, "a \"%s\" of %lld", arch.family, (long long)arch.n_blocks));
    MP_GO(mp_export(f->comm, again, assets, other, MP_EXPORT_AUTO, 1));
    MP_GO(same_file(f->out, other, "config.json"));
    MP_GO(same_file(f->out, other, "modeling_factored.py"));
    MP_GO(same_file(f->out, other, "model.safetensors.index.json"));
    MP_GO(same_file(f->out, other, "model-00003-of-00043.safetensors"));
out:
    mp_source_close(&again);
    mp_free(assets);
    return st;
}

static mp_status factored_directory_is_read_back_as_it_was(const mp_comm *comm)
{
    return factored_with(comm, MP_F16, read_back);
}

/* All values of a matrix. */
static mp_status load(const mp_source *source, const char *name, float **values)
{
    int64_t index = mp_source_find(source, name), count;
    const mp_tensor_info *info;
    void *stored = NULL;
    mp_status st;

    if (index < 0) return mp_fail(MP_ERR_NUMERIC, "no tensor \"%s\"", name);
    info = source->at(source->self, index);
    count = mp_tensor_elements(info);
    MP_GO(mp_alloc(&stored, mp_tensor_bytes(info), 1, 0, "values"));
    MP_GO(MP_NEW(*values, count, "values"));
    MP_GO(source->read(source->self, index, 0, mp_tensor_bytes(info), stored));
    mp_to_f32(info->dtype, stored, count, *values);
out:
    mp_free(stored);
    return st;
}

static mp_status check_product(const mp_source *source, const mp_source *written, int i)
{
    const char *name = factored[i].name;
    const mp_dtype dtype = source->at(source->self, 0)->dtype;
    float *a = NULL, *b = NULL, *product = NULL;
    const mp_tensor_info *info;
    mp_status st;

    MP_GO(load(source, ended(name, ".A"), &a));
    MP_GO(load(source, ended(name, ".B"), &b));
    MP_GO(load(written, ended(name, ".weight"), &product));
    info = written->at(written->self, mp_source_find(written, ended(name, ".weight")));
    if (info->dtype != dtype || info->ndim != 2 || info->shape[0] != factored[i].d_out ||
        info->shape[1] != factored[i].d_in)
        MP_GO(mp_fail(MP_ERR_NUMERIC, "%s: dtype or shape", name));
    st = factored_compare(a, b, product, factored[i].rank, factored[i].d_in, 0, factored[i].d_out,
                          dtype);
out:
    mp_free(a);
    mp_free(b);
    mp_free(product);
    return st;
}

static mp_status check_dense(const fixture *f, const char *dir, const mp_source *source)
{
    mp_source *written = NULL;
    mp_status st;

    MP_TRY(mp_safetensors_open(dir, &written));
    for (int i = 0; i < FACTORED; i++) MP_GO(check_product(source, written, i));
    if (written->count != source->count - FACTORED)
        MP_GO(mp_fail(MP_ERR_NUMERIC, "%lld tensors", (long long)written->count));
    MP_GO(same_data(source, "model.layers.0.self_attn.q_proj.bias", written,
                    "model.layers.0.self_attn.q_proj.bias"));
    MP_GO(same_data(source, MP_EMBED_NAME, written, MP_EMBED_NAME));
    st = same_file(f->model, dir, "config.json");
out:
    mp_source_close(&written);
    return st;
}

static mp_status dense_form(const fixture *f, mp_source *source)
{
    mp_model_size size;

    MP_TRY(mp_export(f->comm, source, f->model, f->out, MP_EXPORT_DENSE, 30000));
    MP_TRY(mp_comm_agree(f->comm, check_dense(f, f->out, source)));
    MP_EXPECT(!fixture_has(f->comm, f->out, "modeling_factored.py"));
    MP_TRY(mp_model_size_of(source, &size));
    MP_EXPECT(size.n_factored == FACTORED);
    /* 48*48 - 5*96, 80*48 - 17*128, 48*80 - 30*128 and 24*48 - 72 weights more */
    MP_EXPECT(size.dense - size.stored ==
              (1824 + 1664 + 0 + 1080) *
                  (int64_t)mp_dtype_size(source->at(source->self, 0)->dtype));
    return MP_OK;
}

static mp_status dense_export_is_the_product_of_the_factors(const mp_comm *comm)
{
    MP_TRY(factored_with(comm, MP_BF16, dense_form));
    MP_TRY(factored_with(comm, MP_F16, dense_form));
    return factored_with(comm, MP_F32, dense_form);
}

/* The config of a factored directory becomes that of the model it was made from. */
static mp_status dense_from_factored(const fixture *f, mp_source *source)
{
    char *assets = NULL, dense[160], direct[160];
    mp_source *again = NULL;
    json_t *left = NULL, *right = NULL;
    mp_status st;

    snprintf(dense, sizeof dense, "%s/dense", f->scratch);
    snprintf(direct, sizeof direct, "%s/direct", f->scratch);
    MP_TRY(mp_export(f->comm, source, f->model, f->out, MP_EXPORT_AUTO, 0));
    MP_TRY(mp_export(f->comm, source, f->model, direct, MP_EXPORT_DENSE, 0));
    MP_TRY(mp_comm_agree(f->comm, mp_model_open(f->out, &again, &assets)));
    MP_GO(mp_export(f->comm, again, assets, dense, MP_EXPORT_DENSE, 0));
    MP_GO(same_file(dense, direct, "model.safetensors"));
    snprintf(dense, sizeof dense, "%s/dense/config.json", f->scratch);
    snprintf(direct, sizeof direct, "%s/direct/config.json", f->scratch);
    MP_GO(mp_json_load(dense, &left));
    MP_GO(mp_json_load(direct, &right));
    if (!json_equal(left, right)) MP_GO(mp_fail(MP_ERR_NUMERIC, "%s is another", dense));
    snprintf(dense, sizeof dense, "%s/dense", f->scratch);
    if (fixture_has(f->comm, dense, "modeling_factored.py"))
        st = mp_fail(MP_ERR_NUMERIC, "modeling_factored.py is in a dense export");
out:
    json_decref(left);
    json_decref(right);
    mp_source_close(&again);
    mp_free(assets);
    return mp_comm_agree(f->comm, st);
}

static mp_status dense_export_of_a_factored_directory_is_an_ordinary_model(const mp_comm *comm)
{
    return factored_with(comm, MP_BF16, dense_from_factored);
}

static mp_status same_as_alone(const fixture *f, const mp_source *source, mp_export_format format)
{
    char ours[160], alone[160];
    mp_comm *one = NULL;
    mp_status st;

    snprintf(ours, sizeof ours, "%s/ours%d", f->scratch, (int)format);
    snprintf(alone, sizeof alone, "%s/alone%d", f->scratch, (int)format);
    MP_TRY(mp_export(f->comm, source, f->model, ours, format, 0));
    MP_TRY(fixture_alone(f->comm, &one));
    st = one != NULL ? mp_export(one, source, f->model, alone, format, 0) : MP_OK;
    mp_comm_free(one);
    MP_TRY(mp_comm_agree(f->comm, st));
    MP_TRY(same_file(ours, alone, "model.safetensors"));
    MP_TRY(same_file(ours, alone, "config.json"));
    return format == MP_EXPORT_DENSE ? MP_OK : same_file(ours, alone, "modeling_factored.py");
}

static mp_status both_forms_alone(const fixture *f, mp_source *source)
{
    MP_TRY(same_as_alone(f, source, MP_EXPORT_AUTO));
    return same_as_alone(f, source, MP_EXPORT_DENSE);
}

static mp_status factored_export_does_not_depend_on_the_ranks(const mp_comm *comm)
{
    return factored_with(comm, MP_BF16, both_forms_alone);
}

static mp_status dense_source(const fixture *f)
{
    char dir[160];

    snprintf(dir, sizeof dir, "%s/dense", f->scratch);
    MP_TRY(mp_export(f->comm, f->source, f->model, f->out, MP_EXPORT_AUTO, 0));
    MP_TRY(mp_export(f->comm, f->source, f->model, dir, MP_EXPORT_DENSE, 0));
    MP_TRY(same_file(f->model, f->out, "config.json"));
    MP_TRY(same_file(f->model, dir, "config.json"));
    MP_TRY(same_file(f->model, f->out, "model.safetensors"));
    MP_EXPECT(!fixture_has(f->comm, dir, "modeling_factored.py"));
    return same_file(f->model, dir, "model.safetensors");
}

static mp_status dense_model_is_exported_as_it_is(const mp_comm *comm)
{
    return fixture_with(comm, dense_source);
}

const mp_case cases_factored[] = {
    {"factors_are_exported_under_the_names_of_the_layout",
     factors_are_exported_under_the_names_of_the_layout},
    {"factored_directory_is_read_back_as_it_was", factored_directory_is_read_back_as_it_was},
    {"dense_export_is_the_product_of_the_factors", dense_export_is_the_product_of_the_factors},
    {"dense_export_of_a_factored_directory_is_an_ordinary_model",
     dense_export_of_a_factored_directory_is_an_ordinary_model},
    {"factored_export_does_not_depend_on_the_ranks", factored_export_does_not_depend_on_the_ranks},
    {"dense_model_is_exported_as_it_is", dense_model_is_exported_as_it_is},
    {NULL, NULL},
};
