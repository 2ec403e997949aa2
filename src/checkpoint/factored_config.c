/* What a factored export has beside its weights: config.json and the modelling file. */
#include "factored.h"

#include "hf.h"
#include "modeling_factored.h" /* generated from modeling_factored.py.in: its text */
#include "mpress/export.h"
#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"

#include <stdio.h>
#include <string.h>

#define MODULE "modeling_factored"
#define RANKS "truncation_ranks"

/* What `auto_map` says of our module, and how the classes of it end. */
static const struct {
    const char *key, *ending;
} automatic[] = {{"AutoConfig", "Config"}, {"AutoModelForCausalLM", "ForCausalLM"}};

enum { AUTOMATIC_COUNT = sizeof automatic / sizeof automatic[0] };

static mp_status no_memory(void)
{
    return mp_fail(MP_ERR_NOMEM, "a config.json: out of memory");
}

/* config.json of a directory; *config stays NULL where there is none. */
static mp_status load_config(const char *dir, char **path, json_t **config)
{
    MP_TRY(mp_path_join(dir, "config.json", path));
    return mp_path_exists(*path) ? mp_json_load(*path, config) : MP_OK;
}

static int is_factored(const json_t *config)
{
    const char *type = json_string_value(json_object_get(config, "model_type"));

    return type != NULL && strncmp(type, MP_FACTORED_TYPE, strlen(MP_FACTORED_TYPE)) == 0;
}

/* A name among the ranks that no pair has. */
static mp_status report_stranger(json_t *ranks, const mp_pairs *pairs, const mp_source *source)
{
    const char *name;
    json_t *value;

    json_object_foreach (ranks, name, value) {
        int64_t i = 0;

        while (i < pairs->count && strcmp(pairs->pair[i].name, name) != 0) i++;
        if (i == pairs->count) break;
    }
    return mp_fail(MP_ERR_FORMAT,
                   "%s: tensor \"%.200s.ALinear.weight\" is missing: \"" RANKS "\" in config.json "
                   "names it",
                   source->path, name);
}

static mp_status check_ranks(const json_t *config, const char *where, const mp_pairs *pairs,
                             const mp_source *source)
{
    json_t *ranks = json_object_get(config, RANKS);

    for (int64_t i = 0; i < pairs->count; i++) {
        const mp_pair *pair = &pairs->pair[i];
        const json_t *rank = json_object_get(ranks, pair->name);

        if (json_is_integer(rank) && json_integer_value(rank) == pair->rank) continue;
        return mp_fail(MP_ERR_FORMAT,
                       "%s: \"" RANKS
                       "\" has %s rank for \"%s\", expected that of its tensors, %lld",
                       where, rank == NULL ? "no" : "another", pair->name, (long long)pair->rank);
    }
    return json_object_size(ranks) == (size_t)pairs->count ? MP_OK
                                                           : report_stranger(ranks, pairs, source);
}

mp_status mp_factored_open(const char *dir, mp_source **source)
{
    mp_pairs pairs = {.count = 0};
    mp_source *view = NULL;
    json_t *config = NULL;
    char *path = NULL;
    mp_status st;

    MP_GO(load_config(dir, &path, &config));
    if (!is_factored(config)) goto out;
    MP_GO(mp_pairs_find(*source, MP_NAMES_DIRECTORY, &pairs));
    MP_GO(check_ranks(config, path, &pairs, *source));
    MP_GO(mp_view_own(*source, &pairs, &view));
    *source = view;
out:
    mp_pairs_free(&pairs);
    json_decref(config);
    mp_free(path);
    return st;
}

/* "Llama" of "LlamaForCausalLM". */
static void model_of(const mp_arch *arch, char model[64])
{
    snprintf(model, 64, "%.*s", (int)(strlen(arch->class_name) - strlen("ForCausalLM")),
             arch->class_name);
}

/* `text` with `value` for every `word`; owned by the caller. */
static mp_status replace(const char *text, const char *word, const char *value, char **replaced)
{
    const size_t length = strlen(word), new_length = strlen(value);
    size_t count = 0;
    const char *next;
    char *to;

    for (next = text; (next = strstr(next, word)) != NULL; next += length) count++;
    MP_TRY(MP_NEW_RAW(*replaced, strlen(text) + count * new_length + 1, "a modelling file"));
    to = *replaced;
    while ((next = strstr(text, word)) != NULL) {
        to = mempcpy(to, text, (size_t)(next - text));
        to = mempcpy(to, value, new_length);
        text = next + length;
    }
    strcpy(to, text);
    return MP_OK;
}

static mp_status write_module(const char *dir, const mp_arch *arch)
{
    char model[64], type[64], *named = NULL, *text = NULL, *path = NULL;
    mp_status st;

    model_of(arch, model);
    snprintf(type, sizeof type, "%s%s", MP_FACTORED_TYPE, arch->family);
    MP_GO(replace(modeling_factored, "@MODEL@", model, &named));
    MP_GO(replace(named, "@TYPE@", type, &text));
    MP_GO(mp_path_join(dir, MODULE ".py", &path));
    MP_GO(mp_file_write(path, text, strlen(text)));
out:
    mp_free(named);
    mp_free(text);
    mp_free(path);
    return st;
}

/* config["architectures"] = [<prefix><class>], config["model_type"] = <prefix><family>. */
static int set_type(json_t *config, const mp_arch *arch, const char *type, const char *class_name)
{
    return json_object_set_new(config, "architectures",
                               json_pack("[s+]", class_name, arch->class_name)) |
           json_object_set_new(config, "model_type", json_pack("s+", type, arch->family));
}

/* The keys of a factored export; those of `auto_map` that we do not own stay. */
static mp_status set_factored(json_t *config, const mp_arch *arch, const mp_pairs *pairs)
{
    json_t *map = json_object_get(config, "auto_map"), *ranks = json_object();
    char model[64], class_name[160];
    int failed = set_type(config, arch, MP_FACTORED_TYPE, MP_FACTORED_CLASS);

    if (!json_is_object(map)) {
        failed |= json_object_set_new(config, "auto_map", json_object());
        map = json_object_get(config, "auto_map");
    }
    model_of(arch, model);
    for (int i = 0; i < AUTOMATIC_COUNT; i++) {
        snprintf(class_name, sizeof class_name, "%s.%s%s%s", MODULE, MP_FACTORED_CLASS, model,
                 automatic[i].ending);
        failed |= json_object_set_new(map, automatic[i].key, json_string(class_name));
    }
    for (int64_t i = 0; i < pairs->count; i++)
        failed |= json_object_set_new(ranks, pairs->pair[i].name,
                                      json_integer((json_int_t)pairs->pair[i].rank));
    failed |= json_object_set_new(config, RANKS, ranks);
    return failed ? no_memory() : MP_OK;
}

mp_status mp_factored_assets(const char *assets, const mp_pairs *pairs, const char *dir)
{
    json_t *config = NULL;
    char *path = NULL;
    mp_arch arch;
    mp_status st;

    MP_TRY(mp_assets_copy(assets, dir));
    MP_GO(mp_path_join(assets, "config.json", &path));
    MP_GO(mp_json_load(path, &config));
    MP_GO(mp_arch_parse(config, path, &arch));
    MP_GO(mp_pairs_check(pairs, &arch, assets));
    MP_GO(set_factored(config, &arch, pairs));
    MP_GO(mp_config_write(dir, config));
    MP_GO(write_module(dir, &arch));
out:
    json_decref(config);
    mp_free(path);
    return st;
}

/* Takes the keys of a factored export out of its config. */
static mp_status set_dense(json_t *config, const mp_arch *arch)
{
    json_t *map = json_object_get(config, "auto_map");
    int failed = set_type(config, arch, "", "");

    for (int i = 0; i < AUTOMATIC_COUNT; i++) json_object_del(map, automatic[i].key);
    if (json_object_size(map) == 0) json_object_del(config, "auto_map");
    json_object_del(config, RANKS);
    return failed ? no_memory() : MP_OK;
}

/* The factored export in `dir`, copied from `assets`, becomes that of a dense model. */
static mp_status make_dense(json_t *config, const char *where, const char *dir)
{
    char *module = NULL;
    mp_arch arch;
    mp_status st;

    MP_TRY(mp_arch_parse(config, where, &arch));
    MP_TRY(set_dense(config, &arch));
    MP_TRY(mp_config_write(dir, config));
    MP_TRY(mp_path_join(dir, MODULE ".py", &module));
    st = mp_path_remove(module);
    mp_free(module);
    return st;
}

mp_status mp_dense_assets(const char *assets, const char *dir)
{
    json_t *config = NULL;
    char *path = NULL;
    mp_status st;

    MP_TRY(mp_assets_copy(assets, dir));
    st = load_config(assets, &path, &config);
    if (st == MP_OK && is_factored(config)) st = make_dense(config, path, dir);
    json_decref(config);
    mp_free(path);
    return st;
}
