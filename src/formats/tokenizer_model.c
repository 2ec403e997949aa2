#include "tokenizer_internal.h"

#include "mpress/json.h"

#include <stdio.h>
#include <string.h>

/* The "model" of a tokenizer.json. */

mp_status mp_json_only(const json_t *object, const char *known, const char *where)
{
    const char *key;
    json_t *value;
    char name[64];

    json_object_foreach ((json_t *)object, key, value) {
        snprintf(name, sizeof name, "|%s|", key);
        if (strlen(key) + 2 >= sizeof name || strstr(known, name) == NULL)
            return mp_fail(MP_ERR_FORMAT, "%s: the setting \"%s\" is not implemented", where, key);
    }
    return MP_OK;
}

mp_status mp_json_bool(const json_t *object, const char *key, const char *where, int *value)
{
    if (json_object_get(object, key) == NULL)
        return mp_fail(MP_ERR_FORMAT, "%s: \"%s\" is missing, expected true or false", where, key);
    return mp_json_opt_bool(object, key, where, value);
}

mp_status mp_tokenizer_read_vocab(mp_bpe *bpe, const json_t *vocab, const char *where)
{
    const char *text;
    json_t *id;

    json_object_foreach ((json_t *)vocab, text, id) {
        if (!json_is_integer(id))
            return mp_fail(MP_ERR_FORMAT, "%s: the id of token '%s' is no integer", where, text);
        MP_TRY(mp_bpe_add_token(bpe, text, strlen(text), json_integer_value(id), where));
    }
    return MP_OK;
}

/* A merge is "left right" in older files and ["left", "right"] in newer ones. */
static mp_status read_merge(mp_bpe *bpe, const json_t *merge, const char *where)
{
    const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);

    if (json_is_string(merge))
        return mp_bpe_add_merge_line(bpe, json_string_value(merge), json_string_length(merge),
                                     where);
    if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right))
        return mp_fail(MP_ERR_FORMAT, "%s: merge %d is neither \"a b\" nor [\"a\", \"b\"]", where,
                       bpe->ranks);
    return mp_bpe_add_merge(bpe, json_string_value(left), json_string_length(left),
                            json_string_value(right), json_string_length(right), where);
}

/* Settings that only training uses, or that no model of ours has. */
static mp_status check_settings(const json_t *model, const char *where)
{
    const char *type = "BPE", *prefix = "", *suffix = "";
    double dropout = 0;

    MP_TRY(mp_json_opt_text(model, "type", where, &type));
    if (strcmp(type, "BPE") != 0)
        return mp_fail(MP_ERR_FORMAT, "%s: type '%s' is not implemented, expected BPE", where,
                       type);
    MP_TRY(mp_json_only(model,
                        "|type|dropout|unk_token|continuing_subword_prefix|end_of_word_suffix"
                        "|fuse_unk|byte_fallback|ignore_merges|vocab|merges|",
                        where));
    MP_TRY(mp_json_opt_real(model, "dropout", where, &dropout));
    MP_TRY(mp_json_opt_text(model, "continuing_subword_prefix", where, &prefix));
    MP_TRY(mp_json_opt_text(model, "end_of_word_suffix", where, &suffix));
    if (dropout != 0)
        return mp_fail(MP_ERR_FORMAT, "%s: dropout %g is not implemented, expected none", where,
                       dropout);
    if (*prefix != '\0')
        return mp_fail(MP_ERR_FORMAT, "%s: continuing_subword_prefix '%s' is not implemented",
                       where, prefix);
    if (*suffix != '\0')
        return mp_fail(MP_ERR_FORMAT, "%s: end_of_word_suffix '%s' is not implemented", where,
                       suffix);
    return MP_OK;
}

mp_status mp_tokenizer_read_model(mp_bpe *bpe, const json_t *model, const char *where)
{
    const json_t *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges");
    const char *unk = NULL;

    if (!json_is_object(model)) return mp_fail(MP_ERR_FORMAT, "%s: missing or no object", where);
    MP_TRY(check_settings(model, where));
    if (!json_is_object(vocab) || !json_is_array(merges))
        return mp_fail(MP_ERR_FORMAT, "%s: expected \"vocab\" {...} and \"merges\" [...]", where);
    MP_TRY(mp_json_opt_bool(model, "fuse_unk", where, &bpe->fuse_unk));
    MP_TRY(mp_json_opt_bool(model, "byte_fallback", where, &bpe->byte_fallback));
    MP_TRY(mp_json_opt_bool(model, "ignore_merges", where, &bpe->ignore_merges));
    MP_TRY(mp_json_opt_text(model, "unk_token", where, &unk));
    MP_TRY(mp_bpe_init(bpe, (int64_t)json_object_size(vocab), (int64_t)json_array_size(merges)));
    MP_TRY(mp_tokenizer_read_vocab(bpe, vocab, where));
    for (size_t i = 0; i < json_array_size(merges); i++)
        MP_TRY(read_merge(bpe, json_array_get(merges, i), where));
    return mp_bpe_finish(bpe, unk);
}
