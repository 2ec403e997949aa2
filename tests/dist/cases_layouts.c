/* Quantised linear maps out, in the layouts of other programs. */
#include "checkpoint_fixture.h"
#include "memory_source.h"
#include "worker.h"

#include "../../src/checkpoint/formats.h"
#include "mpress/export.h"
#include "mpress/json.h"
#include "mpress/memory.h"
#include "mpress/safetensors.h"
#include "mpress/tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The written directory holds what the source looks like in the layout, read in other ranges, and is the one
 * that a single rank writes. */
static mp_status check_layout(const fixture *f, const mp_source *source, mp_export_format format)
{
    char ours[160], alone[160], command[512];
    mp_source *view = NULL, *written = NULL;
    mp_integer_maps maps = {.count = 0};
    mp_comm *one = NULL;
    mp_status st;

    snprintf(ours, sizeof ours, "%s/ours%d", f->scratch, (int)format);
    snprintf(alone, sizeof alone, "%s/alone%d", f->scratch, (int)format);
    MP_TRY(mp_export(f->comm, source, f->model, ours, format, 1)); /* a shard for each tensor */
    MP_TRY(fixture_alone(f->comm, &one));
    st = one != NULL ? mp_export(one, source, f->model, alone, format, 1) : MP_OK;
    mp_comm_free(one);
    MP_TRY(mp_comm_agree(f->comm, st));
    MP_GO(mp_integer_maps_find(source, &maps));
    MP_GO(mp_view_layout(source, &maps, mp_layout_of(format), &view));
    MP_GO(mp_safetensors_open(ours, &written));
    MP_GO(fixture_same(written, view));
    snprintf(command, sizeof command, "diff -r %s %s", ours, alone);
    if (f->comm->rank == 0 && system(command) != 0)
        st = mp_fail(MP_ERR_NUMERIC, "format %d depends on the number of ranks", (int)format);
out:
    mp_source_close(&view);
    mp_source_close(&written);
    mp_integer_maps_free(&maps);
    return mp_comm_agree(f->comm, st);
}

static mp_status layouts(const fixture *f)
{
    static const mp_export_format formats[] = {MP_EXPORT_COMPRESSED_TENSORS, MP_EXPORT_AWQ,
                                               MP_EXPORT_DENSE};
    mp_source *source = NULL;
    mp_status st = MP_OK;

    MP_TRY(memory_source_integers(&f->arch, MP_BF16, &(mp_quant){4, 16, 0}, &source));
    for (int i = 0; i < 3 && st == MP_OK; i++) st = check_layout(f, source, formats[i]);
    mp_source_close(&source);
    return st;
}

/* Codes that lie in two words, one scale for a row. */
static mp_status layout_of_3_bits(const fixture *f)
{
    mp_source *source = NULL;
    mp_status st;

    MP_TRY(memory_source_integers(&f->arch, MP_F16, &(mp_quant){3, 0, 1}, &source));
    st = check_layout(f, source, MP_EXPORT_AUTO);
    if (st == MP_OK) st = check_layout(f, source, MP_EXPORT_DENSE);
    mp_source_close(&source);
    return st;
}

static mp_status layouts_do_not_depend_on_ranks_and_ranges(const mp_comm *comm)
{
    MP_TRY(fixture_with(comm, layouts));
    return fixture_with(comm, layout_of_3_bits);
}

/* One and the same linear map of every block. */
static mp_status gptq_source(const mp_arch *arch, mp_source **source)
{
    char name[256];

    MP_TRY(memory_source_create(arch, MP_BF16, 5, source));
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        mp_arch_tensor_name(b, "self_attn.o_proj", name);
        MP_TRY(memory_source_quantise(*source, name, &(mp_quant){3, 32, 0}, (uint64_t)b));
    }
    return MP_OK;
}

static mp_status gptq_list(const char *dir)
{
    json_t *config = NULL, *list;
    char path[256];
    const char *name = NULL;

    snprintf(path, sizeof path, "%s/config.json", dir);
    MP_TRY(mp_json_load(path, &config));
    list = json_object_get(json_object_get(config, "quantization_config"),
                           "modules_in_block_to_quantize");
    if (json_array_size(list) == 1 && json_array_size(json_array_get(list, 0)) == 1)
        name = json_string_value(json_array_get(json_array_get(list, 0), 0));
    if (name == NULL || strcmp(name, "self_attn.o_proj") != 0) {
        json_decref(config);
        return mp_fail(MP_ERR_NUMERIC, "%s: modules_in_block_to_quantize", path);
    }
    json_decref(config);
    return MP_OK;
}

static mp_status gptq(const fixture *f)
{
    mp_source *source = NULL;
    char dir[160];
    mp_arch arch;
    mp_status st;

    MP_TRY(tiny_arch("qwen2", "\"hidden_size\": 64, \"num_hidden_layers\": 3", &arch));
    MP_TRY(gptq_source(&arch, &source));
    MP_GO(check_layout(f, source, MP_EXPORT_GPTQ));
    snprintf(dir, sizeof dir, "%s/ours%d", f->scratch, (int)MP_EXPORT_GPTQ);
    st = mp_comm_agree(f->comm, gptq_list(dir));
out:
    mp_source_close(&source);
    return st;
}

static mp_status gptq_names_the_maps_of_a_block(const mp_comm *comm)
{
    return fixture_with(comm, gptq);
}

static memory_tensor *gate(mp_source *source, const char *ending)
{
    char name[256];

    snprintf(name, sizeof name, "model.layers.0.mlp.gate_proj%s", ending);
    return memory_source_tensor(source, name);
}

static void no_scale(mp_source *s)
{
    memory_source_remove(s, "model.layers.0.mlp.gate_proj.scale");
}

static void other_groups(mp_source *s)
{
    gate(s, ".scale")->info.shape[1]++;
}

static void nothing(mp_source *s)
{
    (void)s;
}

static void small_scale(mp_source *s)
{
    const float small = 0x1.02p-20f;

    mp_from_f32(MP_BF16, &small, 1, (uint16_t *)gate(s, ".scale")->data + 4 * 7 + 2);
}

static void zero_point_0(mp_source *s)
{
    ((uint8_t *)gate(s, ".zero")->data)[4 * 5 + 1] = 0;
}

static void zero_point_16(mp_source *s)
{
    ((uint8_t *)gate(s, ".zero")->data)[4 * 5 + 1] = 16;
}

static void other_grid(mp_source *s)
{
    (void)memory_source_quantise(s, "model.layers.1.mlp.up_proj", &(mp_quant){5, 16, 0}, 1);
}

static void factors_too(mp_source *s)
{
    (void)memory_source_factor(s, "model.layers.1.mlp.up_proj", 3, 1);
}

static void cannot_be_read(mp_source *s)
{
    gate(s, ".packed")->fails = 1;
}

/* What cannot be written, and what is said of it; the model is as wide as GPTQ wants it. */
static const struct refusal {
    mp_quant quant; /* bits = 0: the model is dense */
    void (*spoil)(mp_source *source);
    mp_export_format format;
    mp_status status;
    const char *words;
} refusals[] = {
    {{5, 16, 1},
     nothing,
     MP_EXPORT_GPTQ,
     MP_ERR_ARG,
     "takes 2, 3, 4 or 8 bits, and model.layers.0.mlp.down_proj has 5 bits"},
    {{5, 16, 1},
     nothing,
     MP_EXPORT_GPTQ,
     MP_ERR_ARG,
     "expected --format compressed-tensors or dense"},
    {{8, 16, 1},
     nothing,
     MP_EXPORT_AWQ,
     MP_ERR_ARG,
     "expected --format compressed-tensors or gptq or dense"},
    {{4, 16, 0},
     small_scale,
     MP_EXPORT_GPTQ,
     MP_ERR_ARG,
     "gate_proj.scale\": 9.61124897e-07 in row 7, group 2, is no number of F16"},
    {{4, 16, 0}, small_scale, MP_EXPORT_AWQ, MP_ERR_ARG, "is no number of F16"},
    {{4, 16, 0}, zero_point_0, MP_EXPORT_GPTQ, MP_ERR_ARG, "gate_proj.zero\": 0, which"},
    {{4, 16, 0}, zero_point_16, MP_EXPORT_AUTO, MP_ERR_ARG, "no code of so many bits, in row 5"},
    {{4, 16, 0}, nothing, MP_EXPORT_GPTQ, MP_ERR_ARG, "is dense, and in other blocks"},
    {{4, 16, 0}, other_grid, MP_EXPORT_AUTO, MP_ERR_FORMAT, "are on different grids"},
    {{4, 16, 0}, factors_too, MP_EXPORT_AUTO, MP_ERR_FORMAT, "there is no format for both"},
    {{4, 16, 0}, no_scale, MP_EXPORT_DENSE, MP_ERR_FORMAT, "gate_proj.scale"},
    {{4, 16, 0}, other_groups, MP_EXPORT_DENSE, MP_ERR_FORMAT, "gate_proj.scale"},
    {{4, 16, 0}, cannot_be_read, MP_EXPORT_AWQ, MP_ERR_IO, "gate_proj.packed cannot be read"},
    {{0, 0, 0}, nothing, MP_EXPORT_AWQ, MP_ERR_ARG, "--format awq: memory holds no integers"},
};

static mp_status refused(const fixture *f, const mp_arch *arch, const struct refusal *r)
{
    mp_source *source = NULL;
    mp_status st = memory_source_create(arch, MP_BF16, 5, &source);

    if (st == MP_OK && r->quant.bits > 0)
        st = memory_source_quantise_block(source, arch, &r->quant);
    if (st == MP_OK) {
        r->spoil(source);
        st = fixture_expect(f->comm, mp_export(f->comm, source, f->model, f->out, r->format, 0),
                            r->status, r->words);
    }
    mp_source_close(&source);
    MP_TRY(mp_comm_agree(f->comm, st));
    MP_EXPECT(!fixture_has(f->comm, f->scratch, "out"));
    MP_EXPECT(!fixture_has(f->comm, f->scratch, "out.tmp-export"));
    return MP_OK;
}

static mp_status refuse(const fixture *f)
{
    mp_arch arch;

    MP_TRY(tiny_arch("qwen2", "\"hidden_size\": 64, \"intermediate_size\": 96, \"head_dim\": 32",
                     &arch));
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++)
        MP_TRY(refused(f, &arch, &refusals[i]));
    return MP_OK;
}

static mp_status what_a_format_cannot_hold_is_refused(const mp_comm *comm)
{
    return fixture_with(comm, refuse);
}

static mp_status size_says_what_integers_save(const mp_comm *comm)
{
    mp_source *source = NULL;
    mp_model_size size;
    int64_t weights = 0, codes = 0, groups = 0;
    mp_arch arch;
    mp_status st;

    (void)comm;
    MP_TRY(tiny_arch("qwen2", "", &arch));
    for (int i = 0; i < arch.n_linears; i++) {
        weights += arch.linears[i].d_out * arch.linears[i].d_in;
        codes += arch.linears[i].d_out * ((arch.linears[i].d_in * 3 + 31) / 32);
        groups += arch.linears[i].d_out * (arch.linears[i].d_in / 16);
    }
    MP_TRY(memory_source_integers(&arch, MP_BF16, &(mp_quant){3, 16, 0}, &source));
    st = mp_model_size_of(source, &size);
    mp_source_close(&source);
    MP_TRY(st);
    MP_EXPECT(size.n_quantised == arch.n_linears && size.n_factored == 0);
    MP_EXPECT(size.dense - size.stored == 2 * weights - 4 * codes - 3 * groups);
    return MP_OK;
}

const mp_case cases_layouts[] = {
    {"layouts_do_not_depend_on_ranks_and_ranges", layouts_do_not_depend_on_ranks_and_ranges},
    {"gptq_names_the_maps_of_a_block", gptq_names_the_maps_of_a_block},
    {"what_a_format_cannot_hold_is_refused", what_a_format_cannot_hold_is_refused},
    {"size_says_what_integers_save", size_says_what_integers_save},
    {NULL, NULL},
};
