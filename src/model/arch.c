#include "mpress/arch.h"

#include "config.h"

#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"
#include "mpress/remote.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bounds that no model comes near (405B: width 53248, 126 blocks) and below which no product of two
 * sizes overflows anything: a config that lies must not fill memory. */
enum { MAX_WIDTH = 1 << 24, MAX_BLOCKS = 99999, MAX_HEAD_DIM = 1 << 14 };

/* What "sliding_window" means to a family. */
typedef enum window_rule {
    WINDOW_REFUSED,  /* it knows no window */
    WINDOW_SWITCHED, /* it counts only with use_sliding_window, which is refused */
    WINDOW_ALL       /* it holds for all blocks; null means none */
} window_rule;

/* The architectures: one row each.  Beside what a row says all are the Llama block of formats.md
 * section 2.2. */
typedef struct family {
    const char *name;   /* model_type */
    const char *source; /* the class of architectures[0] that the weights were saved from */
    int qkv_bias;
    int qk_norm;      /* a norm over each head of q and k, before the rotation */
    int64_t head_dim; /* where config.json gives none; 0: d_model / n_heads */
    window_rule window;
    int64_t default_window; /* where config.json does not have the key */
} family;

static const family families[] = {
    {"llama", "LlamaForCausalLM", 0, 0, 0, WINDOW_REFUSED, 0},
    {"mistral", "MistralForCausalLM", 0, 0, 0, WINDOW_ALL, 4096},
    {"qwen2", "Qwen2ForCausalLM", 1, 0, 0, WINDOW_SWITCHED, 0},
    {"qwen3", "Qwen3ForCausalLM", 0, 1, 128, WINDOW_SWITCHED, 0},
};

enum { FAMILY_COUNT = sizeof families / sizeof families[0] };

/* The family of "model_type"; *factored says whether it is the name that our own exports give to a
 * model with factored linear maps. */
static mp_status find_family(const json_t *config, const char *where, const family **found,
                             int *factored)
{
    const char *type;

    MP_TRY(mp_json_text(config, "model_type", where, &type));
    *factored = strncmp(type, MP_FACTORED_TYPE, strlen(MP_FACTORED_TYPE)) == 0;
    for (int i = 0; i < FAMILY_COUNT; i++)
        if (strcmp(families[i].name, type + (*factored ? strlen(MP_FACTORED_TYPE) : 0)) == 0) {
            *found = &families[i];
            return MP_OK;
        }
    return mp_fail(MP_ERR_FORMAT,
                   "%s: \"model_type\" is \"%.60s\", expected \"llama\", \"mistral\", \"qwen2\" or "
                   "\"qwen3\": no other architecture is supported",
                   where, type);
}

/* A model of the same type but another class has other tensors (a classifier, factored linears). */
static mp_status check_class(const json_t *config, const char *where, const family *f, int factored)
{
    const json_t *list = json_object_get(config, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    char expected[64];

    snprintf(expected, sizeof expected, "%s%s", factored ? MP_FACTORED_CLASS : "", f->source);
    if (list == NULL || json_is_null(list)) return MP_OK;
    if (json_array_size(list) == 1 && name != NULL && strcmp(name, expected) == 0) return MP_OK;
    return mp_fail(MP_ERR_FORMAT, "%s: \"architectures\" is [\"%.60s\"%s], expected [\"%s\"]",
                   where, name != NULL ? name : "", json_array_size(list) > 1 ? ", ..." : "",
                   expected);
}

/* "truncation_ranks" names linear maps of the architecture, each with a rank that its shape can
 * have.  Whether the tensors agree is for the one to say who opens them. */
static mp_status check_ranks(const json_t *config, const char *where, const mp_arch *a)
{
    json_t *ranks = json_object_get(config, "truncation_ranks"), *value;
    const char *name;

    if (json_object_size(ranks) == 0)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: \"truncation_ranks\" is missing or empty, expected the rank of every "
                       "factored linear map by its name",
                       where);
    json_object_foreach (ranks, name, value) {
        const mp_linear_row *row = mp_arch_find_linear(a, name);
        int64_t rank, limit;

        if (row == NULL)
            return mp_fail(MP_ERR_FORMAT,
                           "%s: \"truncation_ranks\" names \"%.200s\", which is no linear map of a "
                           "\"%s\" of %lld blocks",
                           where, name, a->family, (long long)a->n_blocks);
        MP_TRY(mp_json_int(ranks, name, where, &rank));
        limit = row->d_out < row->d_in ? row->d_out : row->d_in;
        if (rank < 1 || rank > limit)
            return mp_fail(MP_ERR_FORMAT,
                           "%s: \"truncation_ranks\" has rank %lld for \"%s\", expected 1 to %lld",
                           where, (long long)rank, name, (long long)limit);
    }
    return MP_OK;
}

static mp_status read_heads(const json_t *config, const char *where, const family *f, mp_arch *a)
{
    MP_TRY(mp_config_size(config, "num_attention_heads", where, MAX_WIDTH, &a->n_heads));
    a->n_kv_heads = a->n_heads;
    MP_TRY(mp_config_opt_size(config, "num_key_value_heads", where, a->n_heads, &a->n_kv_heads));
    if (a->n_heads % a->n_kv_heads != 0)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: \"num_attention_heads\" is %lld, expected a multiple of "
                       "\"num_key_value_heads\", %lld",
                       where, (long long)a->n_heads, (long long)a->n_kv_heads);
    a->head_dim = f->head_dim;
    MP_TRY(mp_config_opt_size(config, "head_dim", where, MAX_HEAD_DIM, &a->head_dim));
    if (a->head_dim == 0 && a->d_model % a->n_heads != 0)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: \"hidden_size\" is %lld, expected a multiple of "
                       "\"num_attention_heads\", %lld, or a \"head_dim\"",
                       where, (long long)a->d_model, (long long)a->n_heads);
    if (a->head_dim == 0) a->head_dim = a->d_model / a->n_heads;
    if (a->head_dim % 2 != 0 || a->head_dim > MAX_HEAD_DIM || a->n_heads > MAX_WIDTH / a->head_dim)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: %lld heads of %lld channels, expected an even number of channels up to "
                       "%d, and at most %d in all",
                       where, (long long)a->n_heads, (long long)a->head_dim, MAX_HEAD_DIM,
                       MAX_WIDTH);
    return MP_OK;
}

static mp_status read_window(const json_t *config, const char *where, const family *f, mp_arch *a)
{
    a->window = json_object_get(config, "sliding_window") == NULL ? f->default_window : 0;
    if (f->window == WINDOW_REFUSED && mp_config_given(config, "sliding_window"))
        return mp_fail(MP_ERR_FORMAT, "%s: \"sliding_window\" is given, expected none for \"%s\"",
                       where, f->name);
    if (f->window == WINDOW_ALL)
        MP_TRY(mp_config_opt_size(config, "sliding_window", where, INT32_MAX, &a->window));
    return mp_config_check_layer_types(config, where, a->window);
}

static mp_status read_sizes(const json_t *config, const char *where, const family *f, mp_arch *a)
{
    MP_TRY(mp_config_size(config, "hidden_size", where, MAX_WIDTH, &a->d_model));
    MP_TRY(mp_config_size(config, "intermediate_size", where, MAX_WIDTH, &a->d_ff));
    MP_TRY(mp_config_size(config, "num_hidden_layers", where, MAX_BLOCKS, &a->n_blocks));
    MP_TRY(mp_config_size(config, "vocab_size", where, INT32_MAX, &a->vocabulary));
    MP_TRY(mp_config_size(config, "max_position_embeddings", where, INT32_MAX, &a->max_positions));
    MP_TRY(read_heads(config, where, f, a));
    MP_TRY(mp_json_real(config, "rms_norm_eps", where, &a->norm_eps));
    if (!(a->norm_eps > 0.0 && a->norm_eps < 1.0))
        return mp_fail(MP_ERR_FORMAT, "%s: \"rms_norm_eps\" is %g, expected between 0 and 1", where,
                       a->norm_eps);
    return mp_json_opt_bool(config, "tie_word_embeddings", where, &a->tied_head);
}

/* The block as tables: four states, seven linears grouped by state, two or four norms. */
static void fill_tables(const family *f, mp_arch *a)
{
    const int64_t q = a->n_heads * a->head_dim, kv = a->n_kv_heads * a->head_dim;
    const mp_state states[] = {
        [MP_ATTN_IN] = {"attn_in", a->d_model, 1, MP_Q, 3},
        [MP_ATTN_OUT] = {"attn_out", q, 0, MP_O, 1},
        [MP_FFN_IN] = {"ffn_in", a->d_model, 1, MP_GATE, 2},
        [MP_FFN_MID] = {"ffn_mid", a->d_ff, 0, MP_DOWN, 1},
    };
    const mp_linear_row linears[] = {
        [MP_Q] = {"self_attn.q_proj", q, a->d_model, MP_ATTN_IN, f->qkv_bias, "attn_q"},
        [MP_K] = {"self_attn.k_proj", kv, a->d_model, MP_ATTN_IN, f->qkv_bias, "attn_k"},
        [MP_V] = {"self_attn.v_proj", kv, a->d_model, MP_ATTN_IN, f->qkv_bias, "attn_v"},
        [MP_O] = {"self_attn.o_proj", a->d_model, q, MP_ATTN_OUT, 0, "attn_output"},
        [MP_GATE] = {"mlp.gate_proj", a->d_ff, a->d_model, MP_FFN_IN, 0, "ffn_gate"},
        [MP_UP] = {"mlp.up_proj", a->d_ff, a->d_model, MP_FFN_IN, 0, "ffn_up"},
        [MP_DOWN] = {"mlp.down_proj", a->d_model, a->d_ff, MP_FFN_MID, 0, "ffn_down"},
    };
    const mp_vector_row vectors[] = {
        {"input_layernorm.weight", a->d_model, MP_ATTN_NORM},
        {"post_attention_layernorm.weight", a->d_model, MP_FFN_NORM},
        {"self_attn.q_norm.weight", a->head_dim, MP_Q_NORM},
        {"self_attn.k_norm.weight", a->head_dim, MP_K_NORM},
    };

    a->n_states = MP_MAX_STATES;
    a->n_linears = MP_MAX_LINEARS;
    a->n_vectors = f->qk_norm ? 4 : 2;
    memcpy(a->states, states, sizeof states);
    memcpy(a->linears, linears, sizeof linears);
    memcpy(a->vectors, vectors, (size_t)a->n_vectors * sizeof vectors[0]);
}

mp_status mp_arch_parse(const json_t *config, const char *where, mp_arch *arch)
{
    const family *f = NULL;
    mp_arch a = {0};
    int factored = 0;

    MP_TRY(find_family(config, where, &f, &factored));
    MP_TRY(check_class(config, where, f, factored));
    MP_TRY(mp_config_refuse(config, where));
    MP_TRY(read_sizes(config, where, f, &a));
    MP_TRY(read_window(config, where, f, &a));
    MP_TRY(mp_config_rope(config, where, &a.rope));
    MP_TRY(mp_config_dtype(config, where, &a.dtype));
    a.family = f->name;
    a.class_name = f->source;
    fill_tables(f, &a);
    if (factored) MP_TRY(check_ranks(config, where, &a));
    *arch = a;
    return MP_OK;
}

static mp_status config_path(const char *path, char **file)
{
    return mp_path_is_directory(path) ? mp_path_join(path, "config.json", file)
                                      : mp_strdup(path, file);
}

mp_status mp_arch_load(const char *path, mp_arch *arch)
{
    json_t *config = NULL;
    char *file = NULL;
    mp_status st;

    MP_TRY(config_path(path, &file));
    MP_GO(mp_json_load(file, &config));
    st = mp_arch_parse(config, file, arch);
out:
    json_decref(config);
    mp_free(file);
    return st;
}

mp_status mp_arch_share(const mp_comm *comm, const char *path, mp_arch *arch)
{
    json_t *config = NULL;
    char *file = NULL;
    mp_status st;

    MP_GO(mp_comm_agree(comm, config_path(path, &file)));
    MP_GO(mp_remote_json(comm, file, &config));
    st = mp_comm_agree(comm, mp_arch_parse(config, file, arch));
out:
    json_decref(config);
    mp_free(file);
    return st;
}

void mp_arch_tensor_name(int64_t block, const char *suffix, char buffer[256])
{
    snprintf(buffer, 256, "model.layers.%lld.%s", (long long)block, suffix);
}

const mp_linear_row *mp_arch_find_linear(const mp_arch *arch, const char *name)
{
    static const char prefix[] = "model.layers.";
    long long block = -1;

    if (strncmp(name, prefix, sizeof prefix - 1) == 0)
        block = strtoll(name + sizeof prefix - 1, NULL, 10);
    if (block < 0 || block >= arch->n_blocks) return NULL;
    for (int i = 0; i < arch->n_linears; i++) {
        char full[256];

        /* comparing the whole name refuses what strtoll would take beside: "+1", "01" */
        mp_arch_tensor_name(block, arch->linears[i].name, full);
        if (strcmp(full, name) == 0) return &arch->linears[i];
    }
    return NULL;
}

int64_t mp_arch_linear_parameters(const mp_arch *arch)
{
    int64_t count = 0;

    for (int i = 0; i < arch->n_linears; i++)
        count += arch->linears[i].d_out * arch->linears[i].d_in;
    return count;
}

int64_t mp_arch_block_parameters(const mp_arch *arch)
{
    int64_t count = mp_arch_linear_parameters(arch);

    for (int i = 0; i < arch->n_linears; i++)
        if (arch->linears[i].has_bias) count += arch->linears[i].d_out;
    for (int i = 0; i < arch->n_vectors; i++) count += arch->vectors[i].size;
    return count;
}
