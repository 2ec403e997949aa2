#include "config.h"

#include "mpress/json.h"

#include <stdio.h>
#include <string.h>

int mp_config_given(const json_t *config, const char *key)
{
    const json_t *member = json_object_get(config, key);

    return member != NULL && !json_is_null(member);
}

mp_status mp_config_size(const json_t *config, const char *key, const char *where, int64_t limit,
                         int64_t *value)
{
    int64_t size;

    MP_TRY(mp_json_int(config, key, where, &size));
    if (size < 1 || size > limit)
        return mp_fail(MP_ERR_FORMAT, "%s: \"%s\" is %lld, expected 1 to %lld", where, key,
                       (long long)size, (long long)limit);
    *value = size;
    return MP_OK;
}

mp_status mp_config_opt_size(const json_t *config, const char *key, const char *where,
                             int64_t limit, int64_t *value)
{
    return mp_config_given(config, key) ? mp_config_size(config, key, where, limit, value) : MP_OK;
}

/* A member with any other value than the one expected changes the arithmetic. */
typedef enum expectation { EXPECT_NOTHING, EXPECT_FALSE, EXPECT_ONE, EXPECT_SILU } expectation;

static const struct {
    const char *key;
    expectation expected;
    const char *why;
} refusals[] = {
    {"quantization_config", EXPECT_NOTHING,
     "the weights are already quantised (of a run of mpress take OUT, not OUT/hf)"},
    {"hidden_act", EXPECT_SILU, "no other activation is supported"},
    {"attention_bias", EXPECT_FALSE, "biases of the attention's linears are not supported"},
    {"mlp_bias", EXPECT_FALSE, "biases of the feed-forward linears are not supported"},
    {"use_sliding_window", EXPECT_FALSE, "a window in some blocks only is not supported"},
    {"partial_rotary_factor", EXPECT_ONE, "partial rotation is not supported"},
    {"num_experts", EXPECT_NOTHING, "mixtures of experts are not supported"},
    {"num_local_experts", EXPECT_NOTHING, "mixtures of experts are not supported"},
    {"n_routed_experts", EXPECT_NOTHING, "mixtures of experts are not supported"},
};

static const char *expectation_text(expectation expected)
{
    static const char *const texts[] = {[EXPECT_NOTHING] = "no such key",
                                        [EXPECT_FALSE] = "false",
                                        [EXPECT_ONE] = "1",
                                        [EXPECT_SILU] = "\"silu\""};

    return texts[expected];
}

static int is_expected(const json_t *member, expectation expected)
{
    switch (expected) {
    case EXPECT_FALSE:
        return json_is_false(member);
    case EXPECT_ONE:
        return json_is_number(member) && json_number_value(member) == 1.0;
    case EXPECT_SILU:
        return json_is_string(member) && strcmp(json_string_value(member), "silu") == 0;
    case EXPECT_NOTHING:
    default:
        return 0;
    }
}

/* What is said of a value in a message: scalars as they are. */
static const char *describe(const json_t *member, char text[80])
{
    if (json_is_string(member))
        snprintf(text, 80, "\"%.60s\"", json_string_value(member));
    else if (json_is_integer(member))
        snprintf(text, 80, "%lld", (long long)json_integer_value(member));
    else if (json_is_real(member))
        snprintf(text, 80, "%g", json_real_value(member));
    else if (json_is_boolean(member))
        snprintf(text, 80, "%s", json_is_true(member) ? "true" : "false");
    else
        snprintf(text, 80, "%s", json_is_array(member) ? "a list" : "an object");
    return text;
}

mp_status mp_config_refuse(const json_t *config, const char *where)
{
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        const json_t *member = json_object_get(config, refusals[i].key);
        char text[80];

        if (member == NULL || json_is_null(member) || is_expected(member, refusals[i].expected))
            continue;
        return mp_fail(MP_ERR_FORMAT, "%s: \"%s\" is %s, expected %s: %s", where, refusals[i].key,
                       describe(member, text), expectation_text(refusals[i].expected),
                       refusals[i].why);
    }
    return MP_OK;
}

mp_status mp_config_check_layer_types(const json_t *config, const char *where, int64_t window)
{
    const char *expected = window > 0 ? "sliding_attention" : "full_attention";
    const json_t *types = json_object_get(config, "layer_types"), *type;
    size_t i;

    if (types == NULL || json_is_null(types)) return MP_OK;
    if (!json_is_array(types))
        return mp_fail(MP_ERR_FORMAT, "%s: \"layer_types\" is not a list", where);
    json_array_foreach (types, i, type) {
        char text[80];

        if (json_is_string(type) && strcmp(json_string_value(type), expected) == 0) continue;
        return mp_fail(MP_ERR_FORMAT,
                       "%s: \"layer_types\"[%zu] is %s, expected \"%s\" for all blocks", where, i,
                       describe(type, text), expected);
    }
    return MP_OK;
}

/* The object that holds the rope type, whichever its name; NULL if there is none. */
static mp_status rope_object(const json_t *config, const char *where, json_t **object,
                             const char **name)
{
    int old = mp_config_given(config, "rope_scaling");
    int new = mp_config_given(config, "rope_parameters");

    *object = NULL;
    if (old && new)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: \"rope_scaling\" and \"rope_parameters\" are both given, expected one",
                       where);
    *name = new ? "rope_parameters" : "rope_scaling";
    if (!old && !new) return MP_OK;
    *object = json_object_get(config, *name);
    return json_is_object(*object)
               ? MP_OK
               : mp_fail(MP_ERR_FORMAT, "%s: \"%s\" is not an object", where, *name);
}

/* Every key must be one that the type uses: a key nobody reads would change the model in silence.
 */
static mp_status check_rope_keys(json_t *rope, const char *where, const char *name, int llama3)
{
    static const char *const known[] = {"rope_type",        "type",
                                        "rope_theta",       "partial_rotary_factor",
                                        "factor",           "low_freq_factor",
                                        "high_freq_factor", "original_max_position_embeddings"};
    const size_t count = llama3 ? 8 : 4;
    const char *key;
    json_t *value;

    json_object_foreach (rope, key, value) {
        size_t i = 0;

        while (i < count && strcmp(key, known[i]) != 0) i++;
        if (i == count && !json_is_null(value))
            return mp_fail(MP_ERR_FORMAT,
                           "%s: \"%s\" has a key \"%.100s\" that rope type \"%s\" does not use",
                           where, name, key, llama3 ? "llama3" : "default");
    }
    return MP_OK;
}

/* The new key, the old key, or "default". */
static mp_status rope_type(const json_t *object, const char *where, const char *name, int *llama3)
{
    const char *type = NULL, *old = NULL;

    MP_TRY(mp_json_opt_text(object, "rope_type", where, &type));
    MP_TRY(mp_json_opt_text(object, "type", where, &old));
    if (type != NULL && old != NULL && strcmp(type, old) != 0)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: \"%s\" has \"rope_type\" \"%.60s\" and \"type\" \"%.60s\"", where, name,
                       type, old);
    if (type == NULL) type = old != NULL ? old : "default";
    *llama3 = strcmp(type, "llama3") == 0;
    if (*llama3 || strcmp(type, "default") == 0) return MP_OK;
    return mp_fail(MP_ERR_FORMAT,
                   "%s: \"%s\" is of type \"%.60s\", expected \"default\" or \"llama3\": no other "
                   "rotary embedding is supported",
                   where, name, type);
}

static mp_status read_llama3(const json_t *object, const char *where, mp_rope *rope)
{
    MP_TRY(mp_json_real(object, "factor", where, &rope->factor));
    MP_TRY(mp_json_real(object, "low_freq_factor", where, &rope->low_freq_factor));
    MP_TRY(mp_json_real(object, "high_freq_factor", where, &rope->high_freq_factor));
    MP_TRY(mp_config_size(object, "original_max_position_embeddings", where, INT32_MAX,
                          &rope->original_max_positions));
    if (!(rope->factor >= 1.0 && rope->low_freq_factor > 0.0 &&
          rope->high_freq_factor > rope->low_freq_factor))
        return mp_fail(
            MP_ERR_FORMAT,
            "%s: rope type \"llama3\" has factor %g, low_freq_factor %g, high_freq_factor "
            "%g, expected factor >= 1 and 0 < low < high",
            where, rope->factor, rope->low_freq_factor, rope->high_freq_factor);
    return MP_OK;
}

/* The object's own rope_theta and partial_rotary_factor; the first may also stand `outside`. */
static mp_status read_rope_object(json_t *object, const char *where, const char *name, int outside,
                                  mp_rope *rope)
{
    double theta = rope->theta, share = 1.0;

    MP_TRY(rope_type(object, where, name, &rope->llama3));
    MP_TRY(check_rope_keys(object, where, name, rope->llama3));
    MP_TRY(mp_json_opt_real(object, "rope_theta", where, &theta));
    MP_TRY(mp_json_opt_real(object, "partial_rotary_factor", where, &share));
    if (share != 1.0)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: \"partial_rotary_factor\" is %g, expected 1: partial rotation is not "
                       "supported",
                       where, share);
    if (outside && theta != rope->theta)
        return mp_fail(MP_ERR_FORMAT, "%s: \"rope_theta\" is %g, but %g in \"%s\"", where,
                       rope->theta, theta, name);
    rope->theta = theta;
    return rope->llama3 ? read_llama3(object, where, rope) : MP_OK;
}

mp_status mp_config_rope(const json_t *config, const char *where, mp_rope *rope)
{
    json_t *object;
    const char *name;
    mp_rope read = {.theta = 1e4}; /* the default of every family of the table */

    MP_TRY(mp_json_opt_real(config, "rope_theta", where, &read.theta));
    MP_TRY(rope_object(config, where, &object, &name));
    if (object != NULL)
        MP_TRY(read_rope_object(object, where, name, mp_config_given(config, "rope_theta"), &read));
    if (!(read.theta >= 1.0))
        return mp_fail(MP_ERR_FORMAT, "%s: \"rope_theta\" is %g, expected at least 1", where,
                       read.theta);
    *rope = read;
    return MP_OK;
}

mp_status mp_config_dtype(const json_t *config, const char *where, mp_dtype *dtype)
{
    static const struct {
        const char *name;
        mp_dtype dtype;
    } names[] = {{"bfloat16", MP_BF16}, {"float16", MP_F16}, {"float32", MP_F32}};
    const char *key = mp_config_given(config, "dtype") ? "dtype" : "torch_dtype", *text = NULL;

    MP_TRY(mp_json_opt_text(config, key, where, &text));
    *dtype = MP_F32;
    if (text == NULL) return MP_OK;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(text, names[i].name) == 0) {
            *dtype = names[i].dtype;
            return MP_OK;
        }
    return mp_fail(MP_ERR_FORMAT,
                   "%s: \"%s\" is \"%.60s\", expected \"bfloat16\", \"float16\" or \"float32\"",
                   where, key, text);
}
