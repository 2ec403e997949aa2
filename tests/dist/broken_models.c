#include "broken_models.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char SOUND[] = MPRESS_DATA "/wikillama-5m";

/* A model in parts that can be changed. */
typedef struct model {
    json_t *config, *header; /* of config.json and of model.safetensors */
    unsigned char *data;     /* behind the header */
    size_t size;
    int has_tokenizer;
    uint64_t claimed_length; /* of the header; 0: the true one */
} model;

static FILE *open_file(const char *dir, const char *name, const char *mode)
{
    char path[512];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    file = fopen(path, mode);
    cr_assert_not_null(file, "%s", path);
    return file;
}

static void write_bytes(FILE *file, const void *bytes, size_t size)
{
    cr_assert_eq(fwrite(bytes, 1, size, file), size);
}

static void put_length(FILE *file, uint64_t length)
{
    unsigned char word[8];

    for (int i = 0; i < 8; i++) word[i] = (unsigned char)(length >> 8 * i);
    write_bytes(file, word, sizeof word);
}

static void load(model *m)
{
    FILE *file = open_file(SOUND, "config.json", "rb");
    unsigned char word[8];
    uint64_t length = 0;
    char *text;
    long end;

    *m = (model){.has_tokenizer = 1};
    m->config = json_loadf(file, 0, NULL);
    fclose(file);
    file = open_file(SOUND, "model.safetensors", "rb");
    cr_assert_eq(fread(word, 1, sizeof word, file), sizeof word);
    for (int i = 7; i >= 0; i--) length = length << 8 | word[i];
    text = malloc(length);
    cr_assert_eq(fread(text, 1, length, file), length);
    m->header = json_loadb(text, length, 0, NULL);
    free(text);
    fseek(file, 0, SEEK_END);
    end = ftell(file);
    m->size = (size_t)end - 8 - length;
    m->data = malloc(m->size);
    fseek(file, (long)(8 + length), SEEK_SET);
    cr_assert_eq(fread(m->data, 1, m->size, file), m->size);
    fclose(file);
    cr_assert(m->config != NULL && m->header != NULL);
}

static void write_safetensors(const char *dir, const char *name, const json_t *header,
                              uint64_t claimed, const void *data, size_t size)
{
    FILE *file = open_file(dir, name, "wb");
    char *text = json_dumps(header, JSON_COMPACT);

    put_length(file, claimed > 0 ? claimed : strlen(text));
    write_bytes(file, text, strlen(text));
    write_bytes(file, data, size);
    free(text);
    cr_assert_eq(fclose(file), 0);
}

/* Everything but the weights, to scratch/model; returns that directory. */
static const char *save_companions(const model *m, const char *scratch)
{
    static char dir[256];
    char command[1024];

    snprintf(dir, sizeof dir, "%s/model", scratch);
    cr_assert_eq(mkdir(dir, 0777), 0);
    snprintf(command, sizeof command, "%s/config.json", dir);
    cr_assert_eq(json_dump_file(m->config, command, JSON_INDENT(1)), 0);
    snprintf(command, sizeof command, "cp %s/tokenizer.json %s", SOUND, dir);
    if (m->has_tokenizer) cr_assert_eq(system(command), 0);
    return dir;
}

static void release(model *m)
{
    json_decref(m->config);
    json_decref(m->header);
    free(m->data);
}

static void save(model *m, const char *scratch)
{
    const char *dir = save_companions(m, scratch);

    write_safetensors(dir, "model.safetensors", m->header, m->claimed_length, m->data, m->size);
    release(m);
}

static json_t *entry_of(const model *m, const char *name)
{
    json_t *entry = json_object_get(m->header, name);

    cr_assert_not_null(entry, "%s", name);
    return entry;
}

static json_int_t offset_of(const model *m, const char *name, size_t which)
{
    return json_integer_value(
        json_array_get(json_object_get(entry_of(m, name), "data_offsets"), which));
}

static void set_offset(const model *m, const char *name, size_t which, json_int_t value)
{
    json_array_set_new(json_object_get(entry_of(m, name), "data_offsets"), which,
                       json_integer(value));
}

static void set_shape(const model *m, const char *name, json_int_t rows, json_int_t columns)
{
    json_object_set_new(entry_of(m, name), "shape", json_pack("[I, I]", rows, columns));
}

/* The tensors that begin before the middle of the data and those behind it as two shards, with an
 * index; returns the directory. */
static const char *save_in_two(model *m, const char *scratch)
{
    static const char *const names[2] = {"model-00001-of-00002.safetensors",
                                         "model-00002-of-00002.safetensors"};
    const char *dir = save_companions(m, scratch);
    json_t *headers[2] = {json_object(), json_object()}, *map = json_object(), *entry, *index;
    json_int_t middle = offset_of(m, BROKEN_TENSOR, 0);
    const char *name;
    char path[512];

    json_object_foreach (m->header, name, entry) {
        int second;

        if (strcmp(name, "__metadata__") == 0) continue;
        second = offset_of(m, name, 0) >= middle;
        for (size_t i = 0; i < 2 && second; i++)
            set_offset(m, name, i, offset_of(m, name, i) - middle);
        json_object_set(headers[second], name, entry);
        json_object_set_new(map, name, json_string(names[second]));
    }
    write_safetensors(dir, names[0], headers[0], 0, m->data, (size_t)middle);
    write_safetensors(dir, names[1], headers[1], 0, m->data + middle, m->size - (size_t)middle);
    index = json_pack("{s:o}", "weight_map", map);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    cr_assert_eq(json_dump_file(index, path, 0), 0);
    json_decref(index);
    json_decref(headers[0]);
    json_decref(headers[1]);
    release(m);
    return dir;
}

/* Cuts the last `bytes` of a file off. */
static void cut(const char *dir, const char *name, long bytes)
{
    char path[512];
    struct stat info;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    cr_assert_eq(stat(path, &info), 0, "%s", path);
    cr_assert_eq(truncate(path, info.st_size - bytes), 0);
}

void sound_model(const char *scratch)
{
    model m;

    load(&m);
    save(&m, scratch);
}

void missing_shard(const char *scratch)
{
    model m;
    char path[512];

    load(&m);
    snprintf(path, sizeof path, "%s/model-00002-of-00002.safetensors", save_in_two(&m, scratch));
    cr_assert_eq(unlink(path), 0);
}

void truncated_shard(const char *scratch)
{
    model m;

    load(&m);
    cut(save_in_two(&m, scratch), "model-00002-of-00002.safetensors", 1000);
}

void truncated_model(const char *scratch)
{
    model m;

    load(&m);
    m.size -= 1000;
    save(&m, scratch);
}

void offsets_beyond_the_file(const char *scratch)
{
    model m;

    load(&m);
    set_offset(&m, BROKEN_TENSOR, 1, INT64_C(1) << 62);
    save(&m, scratch);
}

void offsets_that_overlap(const char *scratch)
{
    model m;

    load(&m);
    for (size_t i = 0; i < 2; i++)
        set_offset(&m, BROKEN_TENSOR, i, offset_of(&m, BROKEN_TENSOR, i) - 512);
    save(&m, scratch);
}

void offsets_of_another_size(const char *scratch)
{
    model m;

    load(&m);
    set_offset(&m, BROKEN_TENSOR, 1, offset_of(&m, BROKEN_TENSOR, 1) + 64);
    save(&m, scratch);
}

void shape_that_overflows(const char *scratch)
{
    model m;

    load(&m);
    set_shape(&m, BROKEN_TENSOR, INT64_C(1) << 40, INT64_C(1) << 40);
    save(&m, scratch);
}

void header_length_that_overflows(const char *scratch)
{
    model m;

    load(&m);
    m.claimed_length = UINT64_MAX - 7; /* plus the eight bytes of the length itself: 0 */
    save(&m, scratch);
}

void header_longer_than_the_file(const char *scratch)
{
    model m;

    load(&m);
    m.claimed_length = 99999999;
    save(&m, scratch);
}

static void set_config(const char *scratch, const char *key, json_t *value)
{
    model m;

    load(&m);
    json_object_set_new(m.config, key, value);
    save(&m, scratch);
}

void unknown_architecture(const char *scratch)
{
    set_config(scratch, "model_type", json_string("gpt_neox"));
}

void unknown_dtype_in_config(const char *scratch)
{
    set_config(scratch, "torch_dtype", json_string("float8_e4m3fn"));
}

void quantised_input(const char *scratch)
{
    set_config(scratch, "quantization_config",
               json_pack("{s:s, s:i}", "quant_method", "gptq", "bits", 4));
}

static void set_dtype(const char *scratch, const char *dtype)
{
    model m;

    load(&m);
    json_object_set_new(entry_of(&m, BROKEN_TENSOR), "dtype", json_string(dtype));
    save(&m, scratch);
}

void unknown_dtype_of_a_tensor(const char *scratch)
{
    set_dtype(scratch, "F4");
}

void integer_weights(const char *scratch)
{
    set_dtype(scratch, "I16");
}

void missing_tensor(const char *scratch)
{
    model m;

    load(&m);
    /* under a name that is allowed, so that nothing else is wrong */
    json_object_set(m.header, "lm_head.weight", entry_of(&m, BROKEN_TENSOR));
    json_object_del(m.header, BROKEN_TENSOR);
    save(&m, scratch);
}

void wrong_shape(const char *scratch)
{
    model m;

    load(&m);
    set_shape(&m, BROKEN_TENSOR, 128, 512);
    save(&m, scratch);
}

void unexpected_tensor(const char *scratch)
{
    model m;
    json_int_t end;

    load(&m);
    end = (json_int_t)m.size;
    json_object_set_new(
        m.header, "model.layers.3.self_attn.q_proj.bias",
        json_pack("{s:s, s:[i], s:[I, I]}", "dtype", "BF16", "shape", 0, "data_offsets", end, end));
    save(&m, scratch);
}

void no_tokenizer(const char *scratch)
{
    model m;

    load(&m);
    m.has_tokenizer = 0;
    save(&m, scratch);
}

/* Element `index` of a bfloat16 tensor. */
static void set_element(const char *scratch, const char *name, size_t index, uint16_t bits)
{
    unsigned char *at;
    model m;

    load(&m);
    at = m.data + offset_of(&m, name, 0) + 2 * index;
    at[0] = (unsigned char)(bits & 0xff);
    at[1] = (unsigned char)(bits >> 8);
    save(&m, scratch);
}

void nan_in_a_linear(const char *scratch)
{
    set_element(scratch, BROKEN_TENSOR, 2 * 256 + 5, 0x7fc0); /* row 2, column 5 */
}

void nan_in_the_embedding(const char *scratch)
{
    set_element(scratch, "model.embed_tokens.weight", 4095 * 256 + 7, 0x7fc0); /* the last row */
}

void infinity_in_the_final_norm(const char *scratch)
{
    set_element(scratch, "model.norm.weight", 5, 0x7f80);
}

void weight_that_overflows(const char *scratch)
{
    set_element(scratch, "model.layers.3.input_layernorm.weight", 5, 0x7f7f); /* 3.4e38 */
}

void unfinished_config(const char *scratch)
{
    model m;
    char dir[256];

    load(&m);
    save(&m, scratch);
    snprintf(dir, sizeof dir, "%s/model", scratch);
    cut(dir, "config.json", 100);
}
