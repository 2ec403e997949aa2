#include "formats.h"

#include "mpress/memory.h"
#include "mpress/packed.h"
#include "mpress/remote.h"
#include "mpress/tensor.h"

#include <stdio.h>
#include <string.h>

enum { AT_ONCE = 1 << 20 }; /* scales that a check reads */

static void shape_of(mp_tensor_info *info, int ndim, int64_t rows, int64_t columns)
{
    info->ndim = ndim;
    info->shape[0] = rows;
    info->shape[1] = columns;
}

static void codes_shape(const mp_integers *map, mp_tensor_info *info)
{
    shape_of(info, 2, map->d_out, map->words);
}

static void scales_shape(const mp_integers *map, mp_tensor_info *info)
{
    shape_of(info, 2, map->d_out, map->groups);
}

static void pair_shape(const mp_integers *map, mp_tensor_info *info)
{
    (void)map;
    shape_of(info, 1, 2, 0);
}

static void zeros_down_shape(const mp_integers *map, mp_tensor_info *info)
{
    shape_of(info, 2, mp_packed_words(map->quant.bits, map->d_out), map->groups);
}

static void codes_across_shape(const mp_integers *map, mp_tensor_info *info)
{
    shape_of(info, 2, map->words, map->d_out);
}

static void zeros_across_shape(const mp_integers *map, mp_tensor_info *info)
{
    shape_of(info, 2, map->groups, mp_packed_words(map->quant.bits, map->d_out));
}

static void scales_across_shape(const mp_integers *map, mp_tensor_info *info)
{
    shape_of(info, 2, map->groups, map->d_out);
}

static void columns_shape(const mp_integers *map, mp_tensor_info *info)
{
    shape_of(info, 1, map->d_in, 0);
}

static void awq_codes_shape(const mp_integers *map, mp_tensor_info *info)
{
    shape_of(info, 2, map->d_in, map->d_out / 8);
}

static void weight_shape(const mp_integers *map, mp_tensor_info *info)
{
    shape_of(info, 2, map->d_out, map->d_in);
}

static const mp_layout_tensor dense_tensors[] = {
    {".weight", MP_DTYPE_COUNT, weight_shape, mp_repack_weights, 0}, {.ending = NULL}};

/* Source: the compressor "pack-quantized" of compressed-tensors.  Its codes are signed, and made unsigned by
 * 2^(bits - 1) before they are packed, which gives ours; so are its zero points. */
static const mp_layout_tensor compressed_tensors[] = {
    {".weight_packed", MP_I32, codes_shape, mp_repack_words, 0},
    {".weight_scale", MP_DTYPE_COUNT, scales_shape, mp_repack_scales, 0},
    {".weight_shape", MP_I64, pair_shape, mp_repack_shape, 0},
    {".weight_zero_point", MP_I32, zeros_down_shape, mp_repack_zeros_down, 1},
    {.ending = NULL}};

/* Source: what AutoGPTQ writes, "v1": zero points less one.  The codes of a column follow each other in its
 * bits as those of a row in ours: the words transposed, also of 3 bits. */
static const mp_layout_tensor gptq_tensors[] = {
    {".qweight", MP_I32, codes_across_shape, mp_repack_words_across, 0},
    {".qzeros", MP_I32, zeros_across_shape, mp_repack_gptq_zeros, 0},
    {".scales", MP_F16, scales_across_shape, mp_repack_f16_scales, 0},
    {".g_idx", MP_I32, columns_shape, mp_repack_group_index, 0},
    {.ending = NULL}};

/* Source: the "gemm" version of AutoAWQ. */
static const mp_layout_tensor awq_tensors[] = {
    {".qweight", MP_I32, awq_codes_shape, mp_repack_awq_codes, 0},
    {".qzeros", MP_I32, zeros_across_shape, mp_repack_awq_zeros, 0},
    {".scales", MP_F16, scales_across_shape, mp_repack_f16_scales, 0},
    {.ending = NULL}};

static const char *nothing_unfit(const mp_integers *map)
{
    (void)map;
    return NULL;
}

static const char *gptq_unfit(const mp_integers *map)
{
    int bits = map->quant.bits;

    if (bits != 2 && bits != 3 && bits != 4 && bits != 8) return "2, 3, 4 or 8 bits";
    return map->d_in % 32 == 0 && map->d_out % 32 == 0
               ? NULL
               : "input and output channels in multiples of 32";
}

static const char *awq_unfit(const mp_integers *map)
{
    if (map->quant.bits != 4) return "4 bits";
    return map->d_out % 8 == 0 ? NULL : "output channels in multiples of 8";
}

/* F16 has 11 bits of a number and 2^-24 for the smallest. */
static mp_status check_scales(const mp_source *source, const mp_integers *map)
{
    int64_t at_once = AT_ONCE / map->groups + 1, room = at_once * map->groups;
    float *scales = NULL, *rounded = NULL;
    mp_status st;

    MP_GO(MP_NEW_RAW(scales, room, "scales"));
    MP_GO(MP_NEW_RAW(rounded, room, "scales"));
    for (int64_t first = 0; first < map->d_out; first += at_once) {
        int64_t end = first + at_once < map->d_out ? first + at_once : map->d_out, i = 0;
        int64_t count = (end - first) * map->groups;

        MP_GO(mp_integers_scales(source, map, first, end, scales));
        memcpy(rounded, scales, (size_t)count * sizeof *scales);
        mp_round_f32(MP_F16, rounded, count);
        while (i < count && rounded[i] == scales[i]) i++;
        if (i == count) continue;
        st =
            mp_fail(MP_ERR_ARG,
                    "tensor \"%s.scale\": %.9g in row %lld, group %lld, is no number of F16, which "
                    "the format wants; expected --format compressed-tensors or dense",
                    map->name, (double)scales[i], (long long)(first + i / map->groups),
                    (long long)(i % map->groups));
        goto out;
    }
out:
    mp_free(scales);
    mp_free(rounded);
    return st;
}

/* Zero points are codes, and not below `least`. */
static mp_status check_zeros(const mp_source *source, const mp_integers *map, int least)
{
    int64_t count = map->d_out * map->groups, i = 0;
    const int top = (1 << map->quant.bits) - 1;
    uint8_t *zeros = NULL;

    if (map->zero < 0) return MP_OK;
    MP_TRY(mp_integers_zeros(source, map, &zeros));
    while (i < count && zeros[i] >= least && zeros[i] <= top) i++;
    mp_free(zeros);
    if (i == count) return MP_OK;
    return mp_fail(MP_ERR_ARG,
                   "tensor \"%s.zero\": %s in row %lld, group %lld; expected --format "
                   "compressed-tensors or dense",
                   map->name,
                   least > 0
                       ? "0, which this format (it keeps the zero point less one) cannot hold,"
                       : "no code of so many bits,",
                   (long long)(i / map->groups), (long long)(i % map->groups));
}

static mp_status check_plain(const mp_source *source, const mp_integers *map)
{
    return check_zeros(source, map, 0);
}

/* Loaders of v1 add one to whole words, so that a zero point of 0, kept as 2^bits - 1, would carry into the
 * next one. */
static mp_status check_gptq(const mp_source *source, const mp_integers *map)
{
    MP_TRY(check_scales(source, map));
    return check_zeros(source, map, 1);
}

static mp_status check_awq(const mp_source *source, const mp_integers *map)
{
    MP_TRY(check_scales(source, map));
    return check_zeros(source, map, 0);
}

/* "lm_head" and the dense maps. */
static json_t *with_head(const json_t *dense)
{
    json_t *all = json_pack("[s]", "lm_head");

    if (all == NULL || json_array_extend(all, (json_t *)dense) == 0) return all;
    json_decref(all);
    return NULL;
}

/* The least that old and new readers take: the arguments refuse keys that they do not know. */
static json_t *compressed_tensors_config(const mp_layout_facts *f)
{
    json_t *weights = json_pack("{s:i, s:s, s:b, s:s, s:b}", "num_bits", f->quant.bits, "type",
                                "int", "symmetric", f->quant.symmetric, "strategy",
                                f->quant.group > 0 ? "group" : "channel", "dynamic", 0);

    if (f->quant.group > 0)
        json_object_set_new(weights, "group_size", json_integer((json_int_t)f->quant.group));
    return json_pack("{s:s, s:s, s:s, s:o, s:n, s:{s:{s:[s], s:o, s:n, s:n}}}", "quant_method",
                     "compressed-tensors", "format", "pack-quantized", "quantization_status",
                     "compressed", "ignore", with_head(f->dense), "kv_cache_scheme",
                     "config_groups", "group_0", "targets", "Linear", "weights", weights,
                     "input_activations", "output_activations");
}

static json_int_t group_or_row(const mp_quant *quant)
{
    return quant->group > 0 ? (json_int_t)quant->group : -1;
}

/* A list of names inside of a block says which maps are quantised: the same ones in each. */
static mp_status check_gptq_dense(const mp_layout_facts *f)
{
    size_t i;
    const json_t *dense, *inside;

    json_array_foreach (f->dense, i, dense) {
        const char *name = json_string_value(dense);
        size_t k;

        json_array_foreach (f->inside, k, inside) {
            size_t length = strlen(name), tail = json_string_length(inside);

            if (length > tail && strcmp(name + length - tail, json_string_value(inside)) == 0)
                return mp_fail(MP_ERR_ARG,
                               "--format gptq: \"%s\" is dense, and in other blocks it is "
                               "quantised, which the format cannot say; expected --format "
                               "compressed-tensors or dense",
                               name);
        }
    }
    return MP_OK;
}

static json_t *gptq_config(const mp_layout_facts *f)
{
    json_t *config =
        json_pack("{s:s, s:i, s:I, s:b, s:b, s:b, s:s}", "quant_method", "gptq", "bits",
                  f->quant.bits, "group_size", group_or_row(&f->quant), "sym", f->quant.symmetric,
                  "desc_act", 0, "lm_head", 0, "checkpoint_format", "gptq");

    if (json_array_size(f->dense) > 0)
        json_object_set_new(config, "modules_in_block_to_quantize", json_pack("[O]", f->inside));
    return config;
}

static json_t *awq_config(const mp_layout_facts *f)
{
    return json_pack("{s:s, s:i, s:I, s:b, s:s, s:o}", "quant_method", "awq", "bits", f->quant.bits,
                     "group_size", group_or_row(&f->quant), "zero_point", 1, "version", "gemm",
                     "modules_to_not_convert", with_head(f->dense));
}

static const mp_layout layouts[] = {
    [MP_EXPORT_AUTO] = {.name = NULL},
    [MP_EXPORT_DENSE] = {.name = "dense",
                         .loaders = "any loader",
                         .tensors = dense_tensors,
                         .unfit = nothing_unfit},
    [MP_EXPORT_COMPRESSED_TENSORS] = {.name = "compressed-tensors",
                                      .loaders =
                                          "vLLM and SGLang (4 and 8 bits), and transformers with "
                                          "the package compressed-tensors",
                                      .tensors = compressed_tensors,
                                      .unfit = nothing_unfit,
                                      .check = check_plain,
                                      .config = compressed_tensors_config},
    [MP_EXPORT_GPTQ] = {.name = "gptq",
                        .loaders = "vLLM, SGLang, and transformers with optimum and gptqmodel",
                        .tensors = gptq_tensors,
                        .unfit = gptq_unfit,
                        .check = check_gptq,
                        .check_dense = check_gptq_dense,
                        .config = gptq_config,
                        .file = "quantize_config.json"},
    [MP_EXPORT_AWQ] = {.name = "awq",
                       .loaders = "vLLM, SGLang, and transformers with gptqmodel",
                       .tensors = awq_tensors,
                       .unfit = awq_unfit,
                       .check = check_awq,
                       .config = awq_config},
};

enum { LAYOUTS = sizeof layouts / sizeof layouts[0] };

const mp_layout *mp_layout_of(mp_export_format format)
{
    return &layouts[format == MP_EXPORT_AUTO ? MP_EXPORT_COMPRESSED_TENSORS : format];
}

const char *mp_export_loaders(mp_export_format format)
{
    return mp_layout_of(format)->loaders;
}

mp_status mp_export_format_parse(const char *text, mp_export_format *format)
{
    if (strcmp(text, "auto") == 0) {
        *format = MP_EXPORT_AUTO;
        return MP_OK;
    }
    for (int i = 0; i < LAYOUTS; i++)
        if (layouts[i].name != NULL && strcmp(text, layouts[i].name) == 0) {
            *format = (mp_export_format)i;
            return MP_OK;
        }
    return mp_fail(MP_ERR_ARG, "--format %s: expected auto, compressed-tensors, gptq, awq or dense",
                   text);
}

static const char *unfit_of_all(const mp_layout *layout, const mp_integer_maps *maps,
                                const mp_integers **which)
{
    for (int64_t i = 0; i < maps->count; i++) {
        const char *words = layout->unfit(&maps->map[i]);

        *which = &maps->map[i];
        if (words != NULL) return words;
    }
    return NULL;
}

/* The settings, without a look at any number; the formats that do are named. */
static mp_status check_settings(const mp_layout *layout, const mp_integer_maps *maps)
{
    const mp_integers *which, *other;
    const char *words = unfit_of_all(layout, maps, &which);
    char fitting[128] = "";

    if (words == NULL) return MP_OK;
    for (int i = 0; i < LAYOUTS; i++)
        if (layouts[i].name != NULL && unfit_of_all(&layouts[i], maps, &other) == NULL)
            snprintf(fitting + strlen(fitting), sizeof fitting - strlen(fitting), "%s%s",
                     fitting[0] != '\0' ? " or " : "", layouts[i].name);
    return mp_fail(MP_ERR_ARG,
                   "--format %s takes %s, and %s has %d bits, %lld output and %lld input channels; "
                   "expected --format %s",
                   layout->name, words, which->name, which->quant.bits, (long long)which->d_out,
                   (long long)which->d_in, fitting);
}

/* One config speaks for all maps. */
static mp_status check_same(const mp_source *source, const mp_integer_maps *maps)
{
    for (int64_t i = 1; i < maps->count; i++) {
        const mp_quant *a = &maps->map[0].quant, *b = &maps->map[i].quant;

        if (a->bits != b->bits || a->group != b->group || a->symmetric != b->symmetric)
            return mp_fail(MP_ERR_FORMAT,
                           "%s: \"%s\" and \"%s\" are on different grids, expected the same bits, "
                           "group and symmetry",
                           source->path, maps->map[0].name, maps->map[i].name);
    }
    return MP_OK;
}

static mp_status check_numbers(const mp_comm *comm, const mp_layout *layout,
                               const mp_source *source, const mp_integer_maps *maps)
{
    int64_t begin, end;

    mp_remote_share(comm, source, maps->count, &begin, &end);
    for (int64_t i = begin; i < end && layout->check != NULL; i++)
        MP_TRY(layout->check(source, &maps->map[i]));
    return MP_OK;
}

mp_status mp_layout_check(const mp_comm *comm, const mp_layout *layout, const mp_source *source,
                          const mp_integer_maps *maps)
{
    mp_status st = check_same(source, maps);

    if (st == MP_OK) st = check_settings(layout, maps);
    MP_TRY(mp_comm_agree(comm, st));
    return mp_comm_agree(comm, check_numbers(comm, layout, source, maps));
}
