/* What an export of integers has beside its weights (formats.h). */
#include "formats.h"

#include "hf.h"
#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"

#include <stdlib.h>
#include <string.h>

static mp_status no_memory(void)
{
    return mp_fail(MP_ERR_NOMEM, "the config of an export: out of memory");
}

/* What follows "model.layers.N." in a name; NULL for a name outside the blocks. */
static const char *inside_of(const char *name)
{
    static const char layers[] = "model.layers.";
    char *rest;

    if (strncmp(name, layers, sizeof layers - 1) != 0) return NULL;
    (void)strtoll(name + sizeof layers - 1, &rest, 10);
    return *rest == '.' ? rest + 1 : NULL;
}

/* A matrix of a block is the weight of a linear map. */
static int is_dense_linear(const mp_tensor_info *info)
{
    static const char ending[] = ".weight";
    size_t length = strlen(info->name), tail = sizeof ending - 1;

    return info->ndim == 2 && inside_of(info->name) != NULL && length > tail &&
           strcmp(info->name + length - tail, ending) == 0;
}

static mp_status list_dense(const mp_source *source, json_t *dense)
{
    for (int64_t i = 0; i < source->count; i++) {
        const mp_tensor_info *info = source->at(source->self, i);

        if (is_dense_linear(info) &&
            json_array_append_new(
                dense, json_stringn(info->name, strlen(info->name) - strlen(".weight"))) != 0)
            return no_memory();
    }
    return MP_OK;
}

/* Each name once. */
static mp_status list_inside(const mp_integer_maps *maps, json_t *inside)
{
    for (int64_t i = 0; i < maps->count; i++) {
        const char *name = inside_of(maps->map[i].name);
        size_t k = 0;

        if (name == NULL)
            return mp_fail(MP_ERR_FORMAT, "\"%s\" is quantised, but in no block",
                           maps->map[i].name);
        while (k < json_array_size(inside) &&
               strcmp(json_string_value(json_array_get(inside, k)), name) != 0)
            k++;
        if (k == json_array_size(inside) && json_array_append_new(inside, json_string(name)) != 0)
            return no_memory();
    }
    return MP_OK;
}

static mp_status find_facts(const mp_source *source, const mp_integer_maps *maps,
                            mp_layout_facts *facts)
{
    *facts = (mp_layout_facts){
        .quant = maps->map[0].quant, .dense = json_array(), .inside = json_array()};
    if (facts->dense == NULL || facts->inside == NULL) return no_memory();
    MP_TRY(list_dense(source, facts->dense));
    return list_inside(maps, facts->inside);
}

static mp_status write_configs(const mp_layout *layout, const json_t *quantization,
                               const char *assets, const char *dir)
{
    json_t *config = NULL;
    char *path = NULL, *text = NULL;
    mp_status st;

    MP_GO(mp_path_join(assets, "config.json", &path));
    MP_GO(mp_json_load(path, &config));
    if (json_object_set(config, "quantization_config", (json_t *)quantization) != 0)
        MP_GO(no_memory());
    MP_GO(mp_config_write(dir, config));
    if (layout->file == NULL) goto out;
    mp_free(path);
    path = NULL;
    MP_GO(mp_path_join(dir, layout->file, &path));
    MP_GO(mp_json_dump(quantization, 0, &text));
    MP_GO(mp_file_write(path, text, strlen(text)));
out:
    json_decref(config);
    mp_free(path);
    mp_free(text);
    return st;
}

mp_status mp_layout_assets(const mp_layout *layout, const mp_source *source,
                           const mp_integer_maps *maps, const char *assets, const char *dir)
{
    mp_layout_facts facts = {.dense = NULL};
    json_t *quantization = NULL;
    mp_status st;

    MP_TRY(mp_assets_copy(assets, dir));
    if (layout->config == NULL) return MP_OK;
    MP_GO(find_facts(source, maps, &facts));
    if (layout->check_dense != NULL) MP_GO(layout->check_dense(&facts));
    quantization = layout->config(&facts);
    st = quantization != NULL ? write_configs(layout, quantization, assets, dir) : no_memory();
out:
    json_decref(quantization);
    json_decref(facts.dense);
    json_decref(facts.inside);
    return st;
}
