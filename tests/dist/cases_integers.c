/* Quantised linear maps into the memory of every node. */
#include "memory_source.h"
#include "worker.h"

#include "mpress/memory.h"
#include "mpress/packed.h"
#include "mpress/remote.h"
#include "mpress/tensor.h"
#include "mpress/weights.h"

#include <stdio.h>
#include <string.h>

/* Element [row, column] of a stored matrix. */
static double number_at(mp_source *source, const char *linear, const char *ending, int64_t row,
                        int64_t column)
{
    char name[512];
    const memory_tensor *t;
    float value = 0.0f;
    int64_t at;

    snprintf(name, sizeof name, "%s%s", linear, ending);
    t = memory_source_tensor(source, name);
    at = row * t->info.shape[1] + column;
    if (t->info.dtype == MP_U8) return ((const uint8_t *)t->data)[at];
    mp_to_f32(t->info.dtype, (const char *)t->data + (size_t)at * mp_dtype_size(t->info.dtype), 1,
              &value);
    return value;
}

/* A weight from its bits, one after the other. */
static float weight_at(mp_source *source, const char *linear, const mp_quant *quant, mp_dtype dtype,
                       int64_t row, int64_t column)
{
    char name[512];
    const memory_tensor *t;
    const uint32_t *words;
    int64_t group, u = 0;
    float weight;
    double z = 1 << (quant->bits - 1);

    snprintf(name, sizeof name, "%s.packed", linear);
    t = memory_source_tensor(source, name);
    words = (const uint32_t *)t->data + row * t->info.shape[1];
    for (int64_t k = 0; k < quant->bits; k++) {
        int64_t bit = column * quant->bits + k;

        u |= (int64_t)(words[bit / 32] >> bit % 32 & 1) << k;
    }
    group = column / (quant->group > 0 ? quant->group : t->info.columns);
    if (!quant->symmetric) z = number_at(source, linear, ".zero", row, group);
    weight = (float)(((double)u - z) * number_at(source, linear, ".scale", row, group));
    mp_round_f32(dtype, &weight, 1);
    return weight;
}

static mp_status check_linear(mp_source *source, const mp_linear *l, const char *linear,
                              const mp_quant *quant)
{
    float *weights = NULL;
    mp_status st;

    MP_EXPECT(l->packed.quant.bits == quant->bits && l->packed.quant.group == quant->group &&
              l->packed.quant.symmetric == quant->symmetric && l->rank == 0);
    MP_GO(MP_NEW(weights, l->d_out * l->d_in, "weights"));
    mp_packed_weights(&l->packed, 0, l->d_out, weights);
    for (int64_t i = 0; i < l->d_out * l->d_in && st == MP_OK; i++)
        if (weights[i] != weight_at(source, linear, quant, l->dtype, i / l->d_in, i % l->d_in))
            st = mp_fail(MP_ERR_NUMERIC, "%s: weight %lld is %g", linear, (long long)i, weights[i]);
out:
    mp_free(weights);
    return st;
}

/* `source` is what the ranks read; `whole` is on all of them. */
static mp_status check_blocks(const mp_comm *comm, const mp_arch *arch, const mp_source *source,
                              mp_source *whole, const mp_quant *quant)
{
    mp_block *block = NULL;
    mp_status st;

    MP_TRY(mp_comm_agree(comm, mp_weights_check(arch, source)));
    MP_TRY(mp_block_create(comm, arch, &block));
    for (int64_t b = 0; b < 3; b++) { /* block 0 twice: what the dense one has left is no matter */
        MP_GO(mp_block_load(block, comm, source, b % 2));
        st = MP_OK;
        for (int i = 0; i < arch->n_linears && st == MP_OK; i++) {
            char name[256];

            mp_arch_tensor_name(b % 2, arch->linears[i].name, name);
            if (b % 2 == 0)
                st = check_linear(whole, &block->linears[i], name, quant);
            else if (block->linears[i].packed.quant.bits != 0)
                st = mp_fail(MP_ERR_NUMERIC, "%s is dense", name);
        }
        MP_GO(mp_comm_agree(comm, st));
    }
out:
    mp_block_free(block);
    return st;
}

static mp_status load(const mp_comm *comm, const mp_quant *quant, mp_dtype dtype,
                      mp_readers readers)
{
    mp_source *whole = NULL, *source = NULL;
    mp_arch arch;
    mp_status st;

    MP_GO(tiny_arch("qwen2", "", &arch));
    MP_GO(memory_source_integers(&arch, dtype, quant, &whole));
    if (readers == MP_READ_BY_ALL || comm->rank == 0)
        MP_GO(memory_source_integers(&arch, dtype, quant, &source));
    if (readers == MP_READ_BY_ROOT) MP_GO(mp_remote_source(comm, &source));
    st = check_blocks(comm, &arch, source, whole, quant);
out:
    mp_source_close(&whole);
    mp_source_close(&source);
    return st;
}

static mp_status integers_are_loaded_as_they_are_stored(const mp_comm *comm)
{
    mp_comm *apart = NULL;
    mp_status st;

    MP_TRY(mp_comm_apart(comm, 1, &apart));
    for (int bits = 2; bits <= 8; bits++) {
        const mp_quant quant = {bits, bits % 3 == 0 ? 0 : 16, bits % 2};

        MP_GO(load(comm, &quant, bits < 5 ? MP_BF16 : MP_F32, MP_READ_BY_ALL));
        MP_GO(load(apart, &quant, MP_F16, MP_READ_BY_ROOT));
    }
out:
    mp_comm_free(apart);
    return st;
}

static memory_tensor *gate(mp_source *source, const char *ending)
{
    char name[256];

    snprintf(name, sizeof name, "model.layers.0.mlp.gate_proj%s", ending);
    return memory_source_tensor(source, name);
}

static void other_words(mp_source *s)
{
    gate(s, ".packed")->info.shape[1]--;
}

static void other_columns(mp_source *s)
{
    gate(s, ".packed")->info.columns = 47;
}

static void no_bits(mp_source *s)
{
    gate(s, ".packed")->info.bits = 0;
}

static void other_type(mp_source *s)
{
    gate(s, ".packed")->info.dtype = MP_U32;
}

static void no_scale(mp_source *s)
{
    memory_source_remove(s, "model.layers.0.mlp.gate_proj.scale");
}

static void other_groups(mp_source *s)
{
    gate(s, ".scale")->info.shape[1]++;
}

static void integer_scale(mp_source *s)
{
    gate(s, ".scale")->info.dtype = MP_I16;
}

static void wide_zero(mp_source *s)
{
    gate(s, ".zero")->info.dtype = MP_I32;
}

static void dense_too(mp_source *s)
{
    memory_source_rename(s, "model.layers.1.mlp.gate_proj.weight",
                         "model.layers.0.mlp.gate_proj.weight");
}

static void zero_alone(mp_source *s)
{
    memory_source_rename(s, "model.layers.0.mlp.gate_proj.zero", "model.layers.1.mlp.up_proj.zero");
}

static mp_status integers_that_do_not_fit_are_named(const mp_comm *comm)
{
    static const struct {
        void (*spoil)(mp_source *source);
        const char *words;
    } rows[] = {
        {other_words, "gate_proj.packed\" has shape [80, 5], expected [80, 6]"},
        {other_columns, "gate_proj.packed\": integers of 47 columns and 4 bits, expected 48"},
        {no_bits, "gate_proj.packed\": integers of 48 columns and 0 bits"},
        {other_type, "gate_proj.packed\" has dtype U32, expected I32"},
        {no_scale, "gate_proj.scale\" is missing, expected shape [80, 3]"},
        {other_groups, "gate_proj.scale\" has shape [80, 4], expected [80, 3]"},
        {integer_scale, "gate_proj.scale\" has dtype I16, expected F32, F16 or BF16"},
        {wide_zero, "gate_proj.zero\" has dtype I32, expected U8"},
        {dense_too, "model.layers.1.mlp.gate_proj.weight\" is missing"},
        {zero_alone, "model.layers.1.mlp.up_proj.zero\" is not one of a \"qwen2\""},
    };
    mp_arch arch;

    (void)comm;
    MP_TRY(tiny_arch("qwen2", "", &arch));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mp_source *source = NULL;
        mp_status st;

        MP_TRY(memory_source_integers(&arch, MP_BF16, &(mp_quant){4, 16, 0}, &source));
        rows[i].spoil(source);
        st = mp_weights_check(&arch, source);
        mp_source_close(&source);
        MP_EXPECT(st == MP_ERR_FORMAT);
        if (strstr(mp_error_message(), rows[i].words) == NULL)
            return mp_fail(MP_ERR_NUMERIC, "expected \"%s\" in: %s", rows[i].words,
                           mp_error_message());
    }
    return MP_OK;
}

const mp_case cases_integers[] = {
    {"integers_are_loaded_as_they_are_stored", integers_are_loaded_as_they_are_stored},
    {"integers_that_do_not_fit_are_named", integers_that_do_not_fit_are_named},
    {NULL, NULL},
};
