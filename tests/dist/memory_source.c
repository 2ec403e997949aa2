#include "memory_source.h"

#include "mpress/json.h"
#include "mpress/memory.h"
#include "mpress/packed.h"
#include "mpress/rng.h"
#include "mpress/tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TENSORS = 128 };

typedef struct memory_source {
    memory_tensor *tensors[MAX_TENSORS]; /* in the order of names */
    mp_source *source;
} memory_source;

static const mp_tensor_info *source_at(void *self, int64_t index)
{
    return &((memory_source *)self)->tensors[index]->info;
}

static mp_status source_read(void *self, int64_t index, int64_t begin, int64_t length, void *to)
{
    const memory_tensor *t = ((memory_source *)self)->tensors[index];

    if (t->fails) return mp_fail(MP_ERR_IO, "memory: %s cannot be read", t->name);
    if (begin < 0 || length < 0 || begin + length > mp_tensor_bytes(&t->info))
        return mp_fail(MP_ERR_INTERNAL, "memory: %s: read beyond its end", t->name);
    memcpy(to, (const char *)t->data + begin, (size_t)length);
    return MP_OK;
}

static void source_prefetch(void *self, int64_t index)
{
    ((memory_source *)self)->tensors[index]->hints++;
}

static void tensor_free(memory_tensor *t)
{
    mp_free(t->data);
    mp_free(t);
}

static void source_close(void *self)
{
    memory_source *m = self;

    for (int64_t i = 0; i < m->source->count; i++) tensor_free(m->tensors[i]);
    mp_free(m);
}

static mp_status add_tensor(memory_source *m, const char *name, mp_dtype dtype, int64_t rows,
                            int64_t columns)
{
    memory_tensor *t = NULL;

    if (m->source->count == MAX_TENSORS) return mp_fail(MP_ERR_INTERNAL, "too many tensors");
    MP_TRY(MP_NEW(t, 1, "tensor in memory"));
    m->tensors[m->source->count++] = t;
    snprintf(t->name, sizeof t->name, "%s", name);
    t->info = (mp_tensor_info){.name = t->name, .dtype = dtype, .ndim = columns > 0 ? 2 : 1};
    t->info.shape[0] = rows;
    t->info.shape[1] = columns;
    return mp_alloc(&t->data, mp_tensor_bytes(&t->info), 1, 1, "tensor in memory");
}

static mp_status add_block(memory_source *m, const mp_arch *arch, mp_dtype dtype, int64_t block)
{
    char suffix[128], name[256];

    for (int i = 0; i < arch->n_linears; i++) {
        const mp_linear_row *row = &arch->linears[i];

        snprintf(suffix, sizeof suffix, "%s.weight", row->name);
        mp_arch_tensor_name(block, suffix, name);
        MP_TRY(add_tensor(m, name, dtype, row->d_out, row->d_in));
        if (!row->has_bias) continue;
        snprintf(suffix, sizeof suffix, "%s.bias", row->name);
        mp_arch_tensor_name(block, suffix, name);
        MP_TRY(add_tensor(m, name, dtype, row->d_out, 0));
    }
    for (int i = 0; i < arch->n_vectors; i++) {
        mp_arch_tensor_name(block, arch->vectors[i].name, name);
        MP_TRY(add_tensor(m, name, dtype, arch->vectors[i].size, 0));
    }
    return MP_OK;
}

static int by_name(const void *left, const void *right)
{
    return strcmp((*(memory_tensor *const *)left)->name, (*(memory_tensor *const *)right)->name);
}

static mp_status fill(memory_tensor *t, uint64_t seed, uint64_t stream)
{
    const int64_t count = mp_tensor_elements(&t->info);
    float *values = NULL;

    MP_TRY(MP_NEW(values, count, "random weights"));
    mp_philox_normal(seed, stream, 0, count, values);
    for (int64_t i = 0; i < count; i++)
        values[i] = 0.05f * values[i] + (strstr(t->name, "norm") != NULL ? 1.0f : 0.0f);
    mp_from_f32(t->info.dtype, values, count, t->data);
    mp_free(values);
    return MP_OK;
}

static mp_status add_all(memory_source *m, const mp_arch *arch, mp_dtype dtype, uint64_t seed)
{
    MP_TRY(add_tensor(m, MP_EMBED_NAME, dtype, arch->vocabulary, arch->d_model));
    MP_TRY(add_tensor(m, MP_NORM_NAME, dtype, arch->d_model, 0));
    if (!arch->tied_head)
        MP_TRY(add_tensor(m, MP_HEAD_NAME, dtype, arch->vocabulary, arch->d_model));
    for (int64_t b = 0; b < arch->n_blocks; b++) MP_TRY(add_block(m, arch, dtype, b));
    qsort(m->tensors, (size_t)m->source->count, sizeof m->tensors[0], by_name);
    for (int64_t i = 0; i < m->source->count; i++) MP_TRY(fill(m->tensors[i], seed, (uint64_t)i));
    return MP_OK;
}

mp_status memory_source_create(const mp_arch *arch, mp_dtype dtype, uint64_t seed,
                               mp_source **source)
{
    memory_source *m = NULL;
    mp_source *s = NULL;
    mp_status st;

    MP_TRY(MP_NEW(s, 1, "source in memory"));
    st = MP_NEW(m, 1, "source in memory");
    if (st != MP_OK) {
        mp_free(s);
        return st;
    }
    *s = (mp_source){.self = m,
                     .path = "memory",
                     .at = source_at,
                     .read = source_read,
                     .prefetch = source_prefetch,
                     .close = source_close};
    m->source = s;
    st = add_all(m, arch, dtype, seed);
    if (st == MP_OK)
        *source = s;
    else
        mp_source_close(&s);
    return st;
}

mp_status memory_source_factor(mp_source *source, const char *linear, int64_t rank, uint64_t seed)
{
    memory_source *m = source->self;
    char name[256];
    memory_tensor *t;
    int64_t d_out, d_in;
    mp_dtype dtype;

    snprintf(name, sizeof name, "%s.weight", linear);
    t = memory_source_tensor(source, name);
    if (t == NULL) return mp_fail(MP_ERR_INTERNAL, "memory: no %s", name);
    d_out = t->info.shape[0];
    d_in = t->info.shape[1];
    dtype = t->info.dtype;
    memory_source_remove(source, name);
    snprintf(name, sizeof name, "%s.A", linear);
    MP_TRY(add_tensor(m, name, dtype, d_out, rank));
    MP_TRY(fill(m->tensors[source->count - 1], seed, 0));
    snprintf(name, sizeof name, "%s.B", linear);
    MP_TRY(add_tensor(m, name, dtype, rank, d_in));
    MP_TRY(fill(m->tensors[source->count - 1], seed, 1));
    qsort(m->tensors, (size_t)source->count, sizeof m->tensors[0], by_name);
    return MP_OK;
}

/* Scales as of weights of a usual size, all numbers of F16. */
static mp_status fill_scales(memory_tensor *t, uint64_t seed)
{
    const int64_t count = mp_tensor_elements(&t->info);
    float *values = NULL;

    MP_TRY(MP_NEW(values, count, "random scales"));
    mp_philox_normal(seed, 0, 0, count, values);
    for (int64_t i = 0; i < count; i++) values[i] = 0.002f * (1.0f + values[i] * values[i]);
    mp_round_f32(MP_F16, values, count);
    mp_round_f32(MP_BF16, values, count); /* of that size it is one of F16 again */
    mp_from_f32(t->info.dtype, values, count, t->data);
    mp_free(values);
    return MP_OK;
}

static mp_status fill_codes(memory_tensor *t, uint64_t seed)
{
    const int64_t rows = t->info.shape[0], columns = t->info.columns;
    const int64_t words = t->info.shape[1];
    uint8_t *codes = NULL;

    MP_TRY(MP_NEW(codes, columns, "random codes"));
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t j = 0; j < columns; j++)
            codes[j] = (uint8_t)((uint64_t)(r * 37 + j * 11 + j * j % 29) + seed) &
                       (uint8_t)((1 << t->info.bits) - 1);
        mp_pack_codes(t->info.bits, columns, codes, (uint32_t *)t->data + r * words);
    }
    mp_free(codes);
    return MP_OK;
}

/* One more, which takes the place that its name has. */
static mp_status add_named(memory_source *m, const char *linear, const char *ending, mp_dtype dtype,
                           int64_t rows, int64_t columns, memory_tensor **t)
{
    char name[256];

    snprintf(name, sizeof name, "%s%s", linear, ending);
    MP_TRY(add_tensor(m, name, dtype, rows, columns));
    *t = m->tensors[m->source->count - 1];
    return MP_OK;
}

mp_status memory_source_quantise(mp_source *source, const char *linear, const mp_quant *quant,
                                 uint64_t seed)
{
    memory_source *m = source->self;
    char name[256];
    memory_tensor *t;
    int64_t d_out, d_in;
    mp_dtype dtype;

    snprintf(name, sizeof name, "%s.weight", linear);
    t = memory_source_tensor(source, name);
    if (t == NULL) return mp_fail(MP_ERR_INTERNAL, "memory: no %s", name);
    d_out = t->info.shape[0];
    d_in = t->info.shape[1];
    dtype = t->info.dtype;
    memory_source_remove(source, name);
    MP_TRY(add_named(m, linear, ".packed", MP_I32, d_out, mp_packed_words(quant->bits, d_in), &t));
    t->info.bits = quant->bits;
    t->info.columns = d_in;
    t->info.group = quant->group;
    MP_TRY(fill_codes(t, seed));
    MP_TRY(add_named(m, linear, ".scale", dtype, d_out, mp_quant_groups(quant, d_in), &t));
    MP_TRY(fill_scales(t, seed));
    if (!quant->symmetric) {
        MP_TRY(add_named(m, linear, ".zero", MP_U8, d_out, mp_quant_groups(quant, d_in), &t));
        for (int64_t i = 0; i < mp_tensor_elements(&t->info); i++)
            ((uint8_t *)t->data)[i] =
                (uint8_t)(1 + (i * 5 + (int64_t)seed) % ((1 << quant->bits) - 1));
    }
    qsort(m->tensors, (size_t)source->count, sizeof m->tensors[0], by_name);
    return MP_OK;
}

mp_status memory_source_quantise_block(mp_source *source, const mp_arch *arch,
                                       const mp_quant *quant)
{
    char name[256];

    for (int i = 0; i < arch->n_linears; i++) {
        mp_arch_tensor_name(0, arch->linears[i].name, name);
        MP_TRY(memory_source_quantise(source, name, quant, (uint64_t)i));
    }
    return MP_OK;
}

mp_status memory_source_integers(const mp_arch *arch, mp_dtype dtype, const mp_quant *quant,
                                 mp_source **source)
{
    mp_status st = memory_source_create(arch, dtype, 5, source);

    if (st == MP_OK) st = memory_source_quantise_block(*source, arch, quant);
    if (st != MP_OK) mp_source_close(source);
    return st;
}

memory_tensor *memory_source_tensor(mp_source *source, const char *name)
{
    int64_t index = mp_source_find(source, name);

    return index < 0 ? NULL : ((memory_source *)source->self)->tensors[index];
}

void memory_source_remove(mp_source *source, const char *name)
{
    memory_source *m = source->self;
    int64_t index = mp_source_find(source, name);

    if (index < 0) return;
    tensor_free(m->tensors[index]);
    source->count--;
    memmove(&m->tensors[index], &m->tensors[index + 1],
            (size_t)(source->count - index) * sizeof m->tensors[0]);
}

void memory_source_rename(mp_source *source, const char *name, const char *new_name)
{
    memory_source *m = source->self;
    memory_tensor *t = memory_source_tensor(source, name);

    if (t == NULL) return;
    snprintf(t->name, sizeof t->name, "%s", new_name);
    qsort(m->tensors, (size_t)source->count, sizeof m->tensors[0], by_name);
}

mp_status tiny_arch(const char *family, const char *extra, mp_arch *arch)
{
    static const struct {
        const char *family, *source;
    } classes[] = {{"llama", "LlamaForCausalLM"},
                   {"mistral", "MistralForCausalLM"},
                   {"qwen2", "Qwen2ForCausalLM"},
                   {"qwen3", "Qwen3ForCausalLM"}};
    json_t *config = NULL, *changes = NULL;
    char text[1024];
    mp_status st;
    size_t i = 0;

    while (i < 3 && strcmp(classes[i].family, family) != 0) i++;
    snprintf(text, sizeof text,
             "{\"model_type\": \"%s\", \"architectures\": [\"%s\"], \"hidden_size\": 48, "
             "\"intermediate_size\": 80, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
             "\"num_key_value_heads\": 2, \"vocab_size\": 67, \"rms_norm_eps\": 1e-5, "
             "\"hidden_act\": \"silu\", \"max_position_embeddings\": 512}",
             family, classes[i].source);
    MP_TRY(mp_json_parse(text, strlen(text), "tiny", &config));
    snprintf(text, sizeof text, "{%s}", extra);
    MP_GO(mp_json_parse(text, strlen(text), "changes", &changes));
    json_object_update(config, changes);
    st = mp_arch_parse(config, "tiny/config.json", arch);
out:
    json_decref(config);
    json_decref(changes);
    return st;
}
