/* Random models of a given shape, for benchmarks. */
#include "mpress/export.h"

#include "hf.h"
#include "mpress/fileio.h"
#include "mpress/memory.h"
#include "mpress/remote.h"
#include "mpress/rng.h"
#include "mpress/tensor.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    CHUNK = 1 << 16,       /* elements made at a time */
    STREAMS_PER_BLOCK = 64 /* a block's tensors do not change with the number of blocks */
};

typedef struct random_tensor {
    mp_tensor_info info; /* info.name points to `name` of this very struct */
    char name[256];
    uint64_t stream;
    float scale; /* standard deviation; 0: all ones */
} random_tensor;

typedef struct random_model {
    random_tensor *tensors; /* [count] in the order of names */
    int64_t count;
    uint64_t seed;
    mp_dtype dtype;
} random_model;

static void add(random_model *m, const char *name, int64_t rows, int64_t columns, uint64_t stream)
{
    random_tensor *t = &m->tensors[m->count++];

    snprintf(t->name, sizeof t->name, "%s", name);
    t->info = (mp_tensor_info){.dtype = m->dtype, .ndim = columns > 0 ? 2 : 1};
    t->info.shape[0] = rows;
    t->info.shape[1] = columns;
    t->stream = stream;
    t->scale = columns > 0 ? (float)(1.0 / sqrt((double)columns)) : 0.0f;
}

static void add_block(random_model *m, const mp_arch *arch, int64_t block)
{
    uint64_t stream = (uint64_t)(block + 1) * STREAMS_PER_BLOCK;
    char name[256], suffix[160];

    for (int i = 0; i < arch->n_linears; i++) {
        const mp_linear_row *row = &arch->linears[i];

        snprintf(suffix, sizeof suffix, "%s.weight", row->name);
        mp_arch_tensor_name(block, suffix, name);
        add(m, name, row->d_out, row->d_in, stream++);
        if (!row->has_bias) continue;
        snprintf(suffix, sizeof suffix, "%s.bias", row->name);
        mp_arch_tensor_name(block, suffix, name);
        add(m, name, row->d_out, 0, stream++);
        m->tensors[m->count - 1].scale = (float)(1.0 / sqrt((double)row->d_in));
    }
    for (int i = 0; i < arch->n_vectors; i++) {
        mp_arch_tensor_name(block, arch->vectors[i].name, name);
        add(m, name, arch->vectors[i].size, 0, stream++);
    }
}

static int by_name(const void *left, const void *right)
{
    return strcmp(((const random_tensor *)left)->name, ((const random_tensor *)right)->name);
}

static const mp_tensor_info *random_at(void *self, int64_t index)
{
    const random_model *m = self;

    return &m->tensors[index].info;
}

static mp_status random_read(void *self, int64_t index, int64_t begin, int64_t length, void *to)
{
    const random_model *m = self;
    const random_tensor *t = &m->tensors[index];
    const int64_t size = (int64_t)mp_dtype_size(m->dtype);
    char *bytes = to;
    float *values = NULL;

    if (begin % size != 0 || length % size != 0)
        return mp_fail(MP_ERR_INTERNAL, "%s: half an element was asked for", t->name);
    MP_TRY(MP_NEW_RAW(values, CHUNK, "random weights"));
    for (int64_t at = begin / size, end = (begin + length) / size; at < end; at += CHUNK) {
        int64_t count = end - at < CHUNK ? end - at : CHUNK;

        mp_philox_normal(m->seed, t->stream, at, count, values);
        for (int64_t i = 0; i < count; i++)
            values[i] = t->scale > 0.0f ? values[i] * t->scale : 1.0f;
        mp_from_f32(m->dtype, values, count, bytes + at * size - begin);
    }
    mp_free(values);
    return MP_OK;
}

static mp_status list_tensors(const mp_arch *arch, random_model *m)
{
    MP_TRY(MP_NEW(m->tensors, 3 + arch->n_blocks * (2 * MP_MAX_LINEARS + MP_MAX_VECTORS),
                  "the list of tensors"));
    add(m, MP_EMBED_NAME, arch->vocabulary, arch->d_model, 0);
    add(m, MP_NORM_NAME, arch->d_model, 0, 1);
    if (!arch->tied_head) add(m, MP_HEAD_NAME, arch->vocabulary, arch->d_model, 2);
    for (int64_t b = 0; b < arch->n_blocks; b++) add_block(m, arch, b);
    qsort(m->tensors, (size_t)m->count, sizeof *m->tensors, by_name);
    for (int64_t i = 0; i < m->count; i++) m->tensors[i].info.name = m->tensors[i].name;
    return MP_OK;
}

/* Some configs list a type for each block: the list is repeated or cut to the new number. */
static int fit_layer_types(json_t *config, int64_t n_blocks)
{
    json_t *types = json_object_get(config, "layer_types"), *fitted;
    int failed = 0;

    if (json_array_size(types) == 0) return 0;
    fitted = json_array();
    for (int64_t b = 0; b < n_blocks; b++)
        failed |=
            json_array_append(fitted, json_array_get(types, (size_t)b % json_array_size(types)));
    return failed | json_object_set_new(config, "layer_types", fitted);
}

static mp_status set_blocks(const char *path, int64_t n_blocks, json_t *config, mp_arch *arch)
{
    if (json_object_set_new(config, "num_hidden_layers", json_integer(n_blocks)) != 0 ||
        fit_layer_types(config, n_blocks) != 0)
        return mp_fail(MP_ERR_NOMEM, "%s: out of memory", path);
    return mp_arch_parse(config, path, arch);
}

/* The one companion of a random model is its config. */
static mp_status write_config(const char *dir, const void *config)
{
    return mp_config_write(dir, config);
}

mp_status mp_synth(const mp_comm *comm, const char *config, const char *dir, int64_t n_blocks,
                   uint64_t seed)
{
    random_model m = {.seed = seed};
    json_t *parsed = NULL;
    mp_arch arch;
    mp_status st;

    MP_GO(mp_remote_json(comm, config, &parsed));
    st = set_blocks(config, n_blocks, parsed, &arch);
    if (st == MP_OK) {
        m.dtype = arch.dtype;
        st = list_tensors(&arch, &m);
    }
    MP_GO(mp_comm_agree(comm, st));
    {
        const mp_source source = {
            .self = &m, .path = config, .count = m.count, .at = random_at, .read = random_read};

        MP_GO(mp_hf_write(comm, &source, write_config, parsed, dir, 0, NULL));
    }
out:
    json_decref(parsed);
    mp_free(m.tensors);
    return st;
}
