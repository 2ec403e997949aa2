/* What a config.json becomes, and what is refused by name. */
#include "worker.h"

#include "memory_source.h"

#include "mpress/fileio.h"

#include <stdio.h>
#include <string.h>

static mp_status plain_llama_has_four_states_and_seven_linears(const mp_comm *comm)
{
    mp_arch a;

    (void)comm;
    MP_TRY(tiny_arch("llama", "\"num_key_value_heads\": null, \"head_dim\": null", &a));
    MP_EXPECT(strcmp(a.family, "llama") == 0);
    MP_EXPECT(a.n_kv_heads == 4 && a.head_dim == 12 && a.window == 0 && !a.tied_head);
    MP_EXPECT(a.rope.theta == 1e4 && !a.rope.llama3 && a.dtype == MP_F32);
    MP_EXPECT(a.n_states == 4 && a.n_linears == 7 && a.n_vectors == 2);
    MP_EXPECT(a.states[MP_ATTN_IN].normalised && a.states[MP_FFN_IN].normalised);
    MP_EXPECT(!a.states[MP_ATTN_OUT].normalised && !a.states[MP_FFN_MID].normalised);
    for (int i = 0; i < a.n_linears; i++) {
        const mp_state *s = &a.states[a.linears[i].state];

        MP_EXPECT(a.linears[i].d_in == s->width && !a.linears[i].has_bias);
        MP_EXPECT(i >= s->first_linear && i < s->first_linear + s->linear_count);
    }
    MP_EXPECT(mp_arch_linear_parameters(&a) == 4 * 48 * 48 + 3 * 48 * 80);
    MP_EXPECT(mp_arch_block_parameters(&a) == mp_arch_linear_parameters(&a) + 2 * 48);
    return MP_OK;
}

static mp_status families_differ_as_their_rows_say(const mp_comm *comm)
{
    mp_arch a;

    (void)comm;
    MP_TRY(tiny_arch("mistral", "\"head_dim\": 20, \"sliding_window\": 9", &a));
    MP_EXPECT(a.head_dim == 20 && a.window == 9 && a.linears[MP_O].d_in == 80);
    MP_TRY(tiny_arch("mistral", "\"sliding_window\": null", &a));
    MP_EXPECT(a.window == 0 && a.head_dim == 12);
    MP_TRY(tiny_arch("mistral", "", &a));
    MP_EXPECT(a.window == 4096);
    MP_TRY(tiny_arch("qwen2", "\"use_sliding_window\": false, \"sliding_window\": 5", &a));
    MP_EXPECT(a.window == 0 && a.linears[MP_Q].has_bias && a.linears[MP_K].has_bias);
    MP_EXPECT(a.linears[MP_V].has_bias && !a.linears[MP_O].has_bias);
    MP_EXPECT(mp_arch_block_parameters(&a) == mp_arch_linear_parameters(&a) + 2 * 48 + 48 + 2 * 24);
    MP_TRY(tiny_arch("qwen3", "", &a));
    MP_EXPECT(a.head_dim == 128 && a.n_vectors == 4 && a.vectors[MP_Q_NORM].size == 128);
    MP_EXPECT(strcmp(a.vectors[MP_K_NORM].name, "self_attn.k_norm.weight") == 0);
    return MP_OK;
}

static mp_status old_and_new_spellings_say_the_same(const mp_comm *comm)
{
    static const char *const spellings[] = {
        "\"rope_theta\": 5e5, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, "
        "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4, "
        "\"original_max_position_embeddings\": 8192}, \"torch_dtype\": \"bfloat16\"",
        "\"rope_theta\": 500000, \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, "
        "\"low_freq_factor\": 1, \"high_freq_factor\": 4, "
        "\"original_max_position_embeddings\": 8192}, \"torch_dtype\": \"bfloat16\"",
        "\"rope_parameters\": {\"rope_theta\": 5e5, \"rope_type\": \"llama3\", \"factor\": 8, "
        "\"low_freq_factor\": 1, \"high_freq_factor\": 4, "
        "\"original_max_position_embeddings\": 8192}, \"dtype\": \"bfloat16\"",
    };
    mp_arch a;

    (void)comm;
    for (size_t i = 0; i < sizeof spellings / sizeof spellings[0]; i++) {
        MP_TRY(tiny_arch("llama", spellings[i], &a));
        MP_EXPECT(a.rope.theta == 5e5 && a.rope.llama3 && a.rope.factor == 8.0);
        MP_EXPECT(a.rope.low_freq_factor == 1.0 && a.rope.high_freq_factor == 4.0);
        MP_EXPECT(a.rope.original_max_positions == 8192 && a.dtype == MP_BF16);
    }
    MP_TRY(tiny_arch("llama",
                     "\"rope_parameters\": {\"rope_theta\": 7.0, \"rope_type\": \"default\"}", &a));
    MP_EXPECT(a.rope.theta == 7.0 && !a.rope.llama3);
    MP_TRY(tiny_arch("llama", "\"rope_scaling\": null, \"torch_dtype\": \"float16\"", &a));
    MP_EXPECT(a.rope.theta == 1e4 && a.dtype == MP_F16);
    return MP_OK;
}

/* A change to a valid config, and the words its refusal must contain. */
typedef struct refusal {
    const char *family, *change, *words;
} refusal;

static mp_status expect_refused(const refusal *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        mp_arch a = {.family = NULL};
        mp_status st = tiny_arch(rows[i].family, rows[i].change, &a);

        if (st != MP_ERR_FORMAT)
            return mp_fail(MP_ERR_NUMERIC, "status %d for %s", (int)st, rows[i].change);
        if (strstr(mp_error_message(), rows[i].words) == NULL ||
            strstr(mp_error_message(), "tiny/config.json") == NULL)
            return mp_fail(MP_ERR_NUMERIC, "expected \"%s\" in: %s", rows[i].words,
                           mp_error_message());
        MP_EXPECT(a.family == NULL);
    }
    return MP_OK;
}

static mp_status what_no_row_covers_is_refused_by_name(const mp_comm *comm)
{
    static const refusal rows[] = {
        {"phi3", "", "\"phi3\""},
        {"llama", "\"architectures\": [\"LlamaForSequenceClassification\"]",
         "LlamaForSequenceClassification"},
        {"llama", "\"architectures\": [\"MistralForCausalLM\"]", "MistralForCausalLM"},
        {"llama", "\"hidden_act\": \"gelu\"", "\"gelu\""},
        {"llama", "\"attention_bias\": true", "attention_bias"},
        {"qwen3", "\"attention_bias\": true", "attention_bias"},
        {"llama", "\"mlp_bias\": true", "mlp_bias"},
        {"llama", "\"quantization_config\": {\"quant_method\": \"gptq\"}", "already quantised"},
        {"llama", "\"partial_rotary_factor\": 0.5", "partial_rotary_factor\" is 0.5"},
        {"llama", "\"num_local_experts\": 8", "num_local_experts"},
        {"qwen3", "\"num_experts\": 128", "num_experts"},
        {"qwen2", "\"use_sliding_window\": true", "use_sliding_window"},
        {"qwen2", "\"layer_types\": [\"full_attention\", \"sliding_attention\"]",
         "\"layer_types\"[1]"},
        {"llama", "\"sliding_window\": 4096", "sliding_window"},
        {"llama", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}", "\"linear\""},
        {"llama", "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}", "\"dynamic\""},
        {"qwen2", "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4}", "\"yarn\""},
        {"llama", "\"rope_scaling\": {\"rope_type\": \"longrope\"}", "\"longrope\""},
        {"llama", "\"rope_scaling\": {\"type\": \"default\", \"mrope_section\": [1]}",
         "mrope_section"},
        {"llama", "\"rope_scaling\": {}, \"rope_parameters\": {}", "both given"},
        {"llama", "\"rope_parameters\": {\"full_attention\": {}}", "full_attention"},
        {"llama", "\"rope_theta\": 1e4, \"rope_parameters\": {\"rope_theta\": 1e6}", "rope_theta"},
        {"llama", "\"rope_parameters\": {\"partial_rotary_factor\": 0.25}",
         "partial_rotary_factor"},
        {"llama", "\"dtype\": \"float64\"", "\"float64\""},
    };

    (void)comm;
    return expect_refused(rows, sizeof rows / sizeof rows[0]);
}

static mp_status missing_and_impossible_values_are_named(const mp_comm *comm)
{
    static const refusal rows[] = {
        {"llama", "\"model_type\": null", "model_type"},
        {"llama", "\"hidden_size\": null", "hidden_size"},
        {"llama", "\"rms_norm_eps\": null", "rms_norm_eps"},
        {"llama", "\"rms_norm_eps\": -1e-5", "rms_norm_eps"},
        {"llama", "\"vocab_size\": \"many\"", "vocab_size"},
        {"llama", "\"hidden_size\": 0", "hidden_size"},
        {"llama", "\"intermediate_size\": -4", "\"intermediate_size\" is -4"},
        {"llama", "\"intermediate_size\": 9223372036854775807", "intermediate_size"},
        {"llama", "\"hidden_size\": 1e300", "hidden_size"},
        {"llama", "\"num_hidden_layers\": 1000000000", "num_hidden_layers"},
        {"llama", "\"num_attention_heads\": 5", "num_attention_heads"},
        {"llama", "\"num_key_value_heads\": 3", "num_key_value_heads"},
        {"llama", "\"num_key_value_heads\": 8", "num_key_value_heads"},
        {"llama", "\"hidden_size\": 50", "hidden_size"},
        {"llama", "\"head_dim\": 7", "7 channels"},
        {"llama", "\"head_dim\": 16384, \"num_attention_heads\": 16777216", "16777216 heads"},
        {"llama", "\"max_position_embeddings\": 0", "max_position_embeddings"},
        {"llama", "\"rope_theta\": -2", "rope_theta"},
        {"llama", "\"rope_theta\": 0", "rope_theta"},
        {"llama", "\"tie_word_embeddings\": 1", "tie_word_embeddings"},
        {"mistral", "\"sliding_window\": 0", "sliding_window"},
        {"llama", "\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8}", "low_freq_factor"},
        {"llama", "\"rope_scaling\": [1]", "rope_scaling"},
        {"llama",
         "\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
         "\"high_freq_factor\": 4, \"original_max_position_embeddings\": 8192}",
         "high_freq_factor"},
    };

    (void)comm;
    return expect_refused(rows, sizeof rows / sizeof rows[0]);
}

static mp_status configs_of_real_models_are_read_or_refused(const mp_comm *comm)
{
    static const struct {
        const char *name, *words; /* words of the refusal, or NULL */
    } rows[] = {{"llama-2-7b", NULL},     {"llama-2-70b", NULL},        {"llama-3-8b", NULL},
                {"llama-3.1-405b", NULL}, {"llama-3.2-3b", NULL},       {"mistral-7b-v0.3", NULL},
                {"qwen2.5-7b", NULL},     {"qwen3-8b", NULL},           {"tinyllama-1.1b", NULL},
                {"phi-3.5-mini", "phi3"}, {"gemma-3-1b", "gemma3_text"}};

    (void)comm;
    if (!mp_path_is_directory(MPRESS_SHARED "/configs"))
        return mp_case_skip(MPRESS_SHARED "/configs is not here");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char path[1024];
        mp_arch a;
        mp_status st;

        snprintf(path, sizeof path, "%s/configs/%s", MPRESS_SHARED, rows[i].name);
        st = mp_arch_load(path, &a);
        if (rows[i].words == NULL) MP_TRY(st);
        MP_EXPECT((st == MP_OK) == (rows[i].words == NULL));
        if (st != MP_OK) MP_EXPECT(strstr(mp_error_message(), rows[i].words) != NULL);
        if (i == 0) MP_EXPECT(mp_arch_linear_parameters(&a) == 4 * 4096 * 4096 + 3 * 4096 * 11008);
        if (i == 3) MP_EXPECT(a.rope.llama3 && a.rope.factor == 8.0 && a.n_blocks == 126);
    }
    return MP_OK;
}

static mp_status a_missing_config_is_an_io_error_with_its_path(const mp_comm *comm)
{
    mp_arch a;

    (void)comm;
    MP_EXPECT(mp_arch_load(MPRESS_DATA "/no-such-model.json", &a) == MP_ERR_IO);
    MP_EXPECT(strstr(mp_error_message(), "no-such-model.json") != NULL);
    return MP_OK;
}

const mp_case cases_arch[] = {
    {"plain_llama_has_four_states_and_seven_linears",
     plain_llama_has_four_states_and_seven_linears},
    {"families_differ_as_their_rows_say", families_differ_as_their_rows_say},
    {"old_and_new_spellings_say_the_same", old_and_new_spellings_say_the_same},
    {"what_no_row_covers_is_refused_by_name", what_no_row_covers_is_refused_by_name},
    {"missing_and_impossible_values_are_named", missing_and_impossible_values_are_named},
    {"configs_of_real_models_are_read_or_refused", configs_of_real_models_are_read_or_refused},
    {"a_missing_config_is_an_io_error_with_its_path",
     a_missing_config_is_an_io_error_with_its_path},
    {NULL, NULL},
};
