/* Factors that do not fit, directories whose config lies, and products that take many blocks. */
#include "factored_fixture.h"
#include "memory_source.h"
#include "worker.h"

#include "../../src/checkpoint/product.h"
#include "mpress/export.h"
#include "mpress/json.h"
#include "mpress/memory.h"
#include "mpress/rng.h"
#include "mpress/tensor.h"

#include <stdio.h>
#include <string.h>

/* What is wrong with a source, and what is said of it. */
typedef struct spoiled {
    mp_status (*spoil)(mp_source *source);
    int dense;
    mp_status status;
    const char *words;
} spoiled;

static mp_status no_b(mp_source *source)
{
    memory_source_remove(source, "model.layers.0.mlp.up_proj.B");
    return MP_OK;
}

static mp_status no_a(mp_source *source)
{
    memory_source_remove(source, "model.layers.0.mlp.up_proj.A");
    return MP_OK;
}

static mp_status other_rank(mp_source *source)
{
    memory_source_tensor(source, "model.layers.0.mlp.up_proj.B")->info.shape[0] = 16;
    return MP_OK;
}

static mp_status other_dtype(mp_source *source)
{
    memory_source_tensor(source, "model.layers.0.mlp.up_proj.A")->info.dtype = MP_BF16;
    return MP_OK;
}

static mp_status dense_too(mp_source *source)
{
    memory_source_rename(source, "model.layers.0.mlp.gate_proj.weight",
                         "model.layers.0.mlp.up_proj.weight");
    return MP_OK;
}

static mp_status no_linear(mp_source *source)
{
    memory_source_rename(source, "model.layers.0.mlp.up_proj.A", "model.layers.0.mlp.wide.A");
    memory_source_rename(source, "model.layers.0.mlp.up_proj.B", "model.layers.0.mlp.wide.B");
    return MP_OK;
}

static mp_status other_shape(mp_source *source)
{
    memory_source_tensor(source, "model.layers.0.mlp.up_proj.A")->info.shape[0] = 79;
    return MP_OK;
}

static mp_status too_large(mp_source *source)
{
    memory_tensor *a = memory_source_tensor(source, "model.layers.0.mlp.up_proj.A");
    memory_tensor *b = memory_source_tensor(source, "model.layers.0.mlp.up_proj.B");
    const float large = 300.0f;

    mp_from_f32(MP_F16, &large, 1, (char *)a->data + (2 * 17 + 3) * 2);
    mp_from_f32(MP_F16, &large, 1, (char *)b->data + (3 * 48 + 7) * 2);
    return MP_OK;
}

static mp_status cannot_be_read(mp_source *source)
{
    memory_source_tensor(source, "model.layers.1.mlp.down_proj.B")->fails = 1;
    return MP_OK;
}

static const spoiled sources[] = {
    {no_b, 0, MP_ERR_FORMAT,
     "up_proj.A\" is there, but \"model.layers.0.mlp.up_proj.B\" is missing"},
    {no_a, 1, MP_ERR_FORMAT,
     "up_proj.B\" is there, but \"model.layers.0.mlp.up_proj.A\" is missing"},
    {other_rank, 0, MP_ERR_FORMAT, "do not make a product"},
    {other_dtype, 1, MP_ERR_FORMAT, "do not make a product"},
    {dense_too, 0, MP_ERR_FORMAT, "both \"model.layers.0.mlp.up_proj.weight\" and its factor"},
    {no_linear, 0, MP_ERR_FORMAT, "\"model.layers.0.mlp.wide\" is factored, but no linear map of"},
    {other_shape, 0, MP_ERR_FORMAT, "make 79 x 48, expected 80 x 48"},
    {too_large, 1, MP_ERR_NUMERIC, "is not finite as F16 in row 2, column 7"},
    {cannot_be_read, 0, MP_ERR_IO, "down_proj.B cannot be read"},
    {cannot_be_read, 1, MP_ERR_IO, "down_proj.B cannot be read"},
};

static mp_status refused_source(const fixture *f, const spoiled *s)
{
    mp_source *source = NULL;
    mp_status st = factored_source(f, MP_F16, &source);

    if (st == MP_OK) st = s->spoil(source);
    if (st == MP_OK)
        st = fixture_expect(f->comm,
                            mp_export(f->comm, source, f->model, f->out,
                                      s->dense ? MP_EXPORT_DENSE : MP_EXPORT_AUTO, 0),
                            s->status, s->words);
    mp_source_close(&source);
    MP_TRY(mp_comm_agree(f->comm, st));
    MP_EXPECT(!fixture_has(f->comm, f->scratch, "out"));
    MP_EXPECT(!fixture_has(f->comm, f->scratch, "out.tmp-export"));
    return MP_OK;
}

static mp_status refused_sources(const fixture *f)
{
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++)
        MP_TRY(refused_source(f, &sources[i]));
    return MP_OK;
}

static mp_status factors_that_do_not_fit_are_refused(const mp_comm *comm)
{
    return fixture_with(comm, refused_sources);
}

/* Opens a model and reads its architecture, as every command does. */
static mp_status open_model(const char *dir)
{
    mp_source *source = NULL;
    char *assets = NULL;
    mp_arch arch;
    mp_status st;

    MP_TRY(mp_model_open(dir, &source, &assets));
    st = mp_arch_load(assets, &arch);
    mp_source_close(&source);
    mp_free(assets);
    return st;
}

/* Changes of config.json: `key` of `ranks` (or of the config, NULL) becomes `value`, or goes. */
static const struct {
    int in_ranks;
    const char *key, *value, *words;
} configs[] = {
    {0, "truncation_ranks", NULL, "\"truncation_ranks\" has no rank for \"model.layers.0.mlp.up"},
    {0, "truncation_ranks", "[3]", "\"truncation_ranks\" has no rank for"},
    {1, "model.layers.1.mlp.down_proj", NULL, "has no rank for \"model.layers.1.mlp.down_proj\""},
    {1, "model.layers.1.mlp.down_proj", "[29]", "has another rank for \"model.layers.1.mlp.down"},
    {1, "model.layers.1.mlp.down_proj", "[30.0]", "has another rank for \"model.layers.1.mlp.dow"},
    {1, "model.layers.1.mlp.up_proj", "[9]",
     "\"model.layers.1.mlp.up_proj.ALinear.weight\" is miss"},
    {0, "architectures", "[[\"Qwen2ForCausalLM\"]]", "expected [\"FactoredQwen2ForCausalLM\"]"},
    {0, "model_type", "[\"mpress_factored_opt\"]", "\"model_type\" is \"mpress_factored_opt\""},
    {0, "model_type", "[\"qwen2\"]", "expected [\"Qwen2ForCausalLM\"]"},
};

static mp_status spoil_config(const char *text, size_t length, size_t change, char **spoilt)
{
    json_t *config = NULL, *value = NULL, *object;
    mp_status st;

    MP_TRY(mp_json_parse(text, length, "config.json", &config));
    object = configs[change].in_ranks ? json_object_get(config, "truncation_ranks") : config;
    if (configs[change].value != NULL) {
        value = json_loads(configs[change].value, 0, NULL);
        json_object_set(object, configs[change].key, json_array_get(value, 0));
    } else {
        json_object_del(object, configs[change].key);
    }
    st = mp_json_dump(config, 0, spoilt);
    json_decref(value);
    json_decref(config);
    return st;
}

static mp_status refused_directories(const fixture *f, mp_source *source)
{
    char *text = NULL, *spoilt = NULL;
    size_t length = 0;
    mp_status st;

    MP_TRY(mp_export(f->comm, source, f->model, f->out, MP_EXPORT_AUTO, 0));
    MP_TRY(factored_read_file(f->out, "config.json", &text, &length));
    for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++) {
        MP_GO(mp_comm_agree(f->comm, spoil_config(text, length, i, &spoilt)));
        MP_GO(fixture_file(f->comm, f->out, "config.json", spoilt));
        MP_GO(fixture_expect(f->comm, open_model(f->out), MP_ERR_FORMAT, configs[i].words));
        mp_free(spoilt);
        spoilt = NULL;
    }
    MP_GO(fixture_file(f->comm, f->out, "config.json", text));
    MP_GO(mp_comm_agree(f->comm, open_model(f->out)));
out:
    mp_free(text);
    mp_free(spoilt);
    return st;
}

static mp_status factored_directory_whose_config_does_not_fit_is_refused(const mp_comm *comm)
{
    return factored_with(comm, MP_F32, refused_directories);
}

/* Ranks that no model of this shape has. */
static mp_status factored_config_with_wrong_ranks_is_refused(const mp_comm *comm)
{
    static const struct {
        const char *ranks, *words;
    } cases[] = {
        {"{}", "\"truncation_ranks\" is missing or empty"},
        {"null", "\"truncation_ranks\" is missing or empty"},
        {"{\"model.layers.2.mlp.up_proj\": 3}", "no linear map of a \"mistral\" of 2 blocks"},
        {"{\"model.layers.01.mlp.up_proj\": 3}", "names \"model.layers.01.mlp.up_proj\""},
        {"{\"model.layers.1.mlp.up\": 3}", "names \"model.layers.1.mlp.up\""},
        {"{\"lm_head\": 3}", "names \"lm_head\""},
        {"{\"model.layers.1.mlp.up_proj\": 0}", "has rank 0 for \"model.layers.1.mlp.up_proj\""},
        {"{\"model.layers.1.mlp.up_proj\": 49}", "expected 1 to 48"},
        {"{\"model.layers.1.mlp.up_proj\": \"all\"}", "\"model.layers.1.mlp.up_proj\" is"},
    };
    static const char type[] = "\"model_type\": \"mpress_factored_mistral\", \"architectures\": "
                               "[\"FactoredMistralForCausalLM\"], \"truncation_ranks\": ";
    mp_arch arch;
    char extra[512];

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(extra, sizeof extra, "%s%s", type, cases[i].ranks);
        MP_TRY(fixture_expect(comm, tiny_arch("mistral", extra, &arch), MP_ERR_FORMAT,
                              cases[i].words));
    }
    snprintf(extra, sizeof extra, "%s{\"model.layers.1.mlp.up_proj\": 48}", type);
    MP_TRY(tiny_arch("mistral", extra, &arch));
    MP_EXPECT(strcmp(arch.family, "mistral") == 0 && arch.window == 4096);
    return MP_OK;
}

/* Two factors as a source. */
typedef struct two {
    mp_tensor_info info[2];
    float *values[2];
    void *stored[2];
} two;

static const mp_tensor_info *two_at(void *self, int64_t index)
{
    return &((two *)self)->info[index];
}

static mp_status two_read(void *self, int64_t index, int64_t begin, int64_t length, void *to)
{
    memcpy(to, (const char *)((two *)self)->stored[index] + begin, (size_t)length);
    return MP_OK;
}

static mp_status two_make(two *t, int64_t d_out, int64_t rank, int64_t d_in)
{
    t->info[0] = (mp_tensor_info){.name = "A", .dtype = MP_F32, .ndim = 2, .shape = {d_out, rank}};
    t->info[1] = (mp_tensor_info){.name = "B", .dtype = MP_F32, .ndim = 2, .shape = {rank, d_in}};
    for (int i = 0; i < 2; i++) {
        int64_t count = mp_tensor_elements(&t->info[i]);

        MP_TRY(MP_NEW(t->values[i], count, "a factor"));
        MP_TRY(mp_alloc(&t->stored[i], 4 * count, 1, 0, "a factor"));
        mp_philox_normal(3, (uint64_t)i, 0, count, t->values[i]);
        mp_from_f32(MP_F32, t->values[i], count, t->stored[i]);
    }
    return MP_OK;
}

/* The product as a whole against a direct one in some rows, then ranges that begin and end anywhere
 * against the whole. */
static mp_status check_blocks(const two *t, const mp_source *source, const int64_t rows[4])
{
    const int64_t d_out = t->info[0].shape[0], rank = t->info[0].shape[1],
                  d_in = t->info[1].shape[1];
    const mp_tensor_info info = {.name = "W", .dtype = MP_F32, .ndim = 2, .shape = {d_out, d_in}};
    const int64_t bytes = mp_tensor_bytes(&info);
    char *whole = NULL, *part = NULL;
    float *values = NULL;
    mp_status st;

    MP_GO(MP_NEW(whole, bytes, "a product"));
    MP_GO(MP_NEW(part, bytes, "a product"));
    MP_GO(MP_NEW(values, d_out * d_in, "a product"));
    MP_GO(mp_product_read(source, 0, 1, &info, 0, bytes, whole));
    mp_to_f32(MP_F32, whole, d_out * d_in, values);
    for (int i = 0; i < 4; i++) {
        int64_t begin = rows[i] * d_in * 4 - 3, length = i % 2 == 0 ? 4 * d_in + 8 : bytes / 3;

        if (begin < 0) begin = 0;
        if (length > bytes - begin) length = bytes - begin;
        MP_GO(factored_compare(t->values[0], t->values[1], values, rank, d_in, rows[i], 1, MP_F32));
        MP_GO(mp_product_read(source, 0, 1, &info, begin, length, part));
        if (memcmp(whole + begin, part, (size_t)length) != 0)
            MP_GO(mp_fail(MP_ERR_NUMERIC, "%lld bytes at %lld differ", (long long)length,
                          (long long)begin));
    }
    if (mp_product_read(source, 0, 1, &info, bytes - 1, 2, part) != MP_ERR_INTERNAL)
        st = mp_fail(MP_ERR_NUMERIC, "a range beyond the end was read");
out:
    mp_free(whole);
    mp_free(part);
    mp_free(values);
    return st;
}

static mp_status check_large(int64_t d_out, int64_t rank, int64_t d_in, const int64_t rows[4])
{
    two t = {.values = {NULL}};
    const mp_source source = {
        .self = &t, .path = "two factors", .count = 2, .at = two_at, .read = two_read};
    mp_status st = two_make(&t, d_out, rank, d_in);

    if (st == MP_OK) st = check_blocks(&t, &source, rows);
    for (int i = 0; i < 2; i++) {
        mp_free(t.values[i]);
        mp_free(t.stored[i]);
    }
    return st;
}

/* 2048 rows of 4096 make a block, 4096 a piece of an export, and 2048 rows of B are in memory. */
static mp_status product_is_the_same_in_whatever_ranges_it_is_read(const mp_comm *comm)
{
    static const int64_t tall[4] = {0, 2047, 2048, 4096}, deep[4] = {0, 1, 30, 39};
    mp_status st = MP_OK;

    if (comm->rank == 0) {
        st = check_large(4200, 2, 4096, tall);
        if (st == MP_OK) st = check_large(40, 2100, 4096, deep);
    }
    return mp_comm_agree(comm, st);
}

const mp_case cases_factored_bounds[] = {
    {"factors_that_do_not_fit_are_refused", factors_that_do_not_fit_are_refused},
    {"factored_directory_whose_config_does_not_fit_is_refused",
     factored_directory_whose_config_does_not_fit_is_refused},
    {"factored_config_with_wrong_ranks_is_refused", factored_config_with_wrong_ranks_is_refused},
    {"product_is_the_same_in_whatever_ranges_it_is_read",
     product_is_the_same_in_whatever_ranges_it_is_read},
    {NULL, NULL},
};
