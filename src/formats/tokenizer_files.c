#include "tokenizer_internal.h"

#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* vocab.json and merges.txt: the vocabulary is there, the rest follows from the name of a class in
 * tokenizer_config.json, as in transformers. */

enum { MERGES_LIMIT = 256 << 20 };

static const char end_of_text[] = "<|endoftext|>";

typedef struct family {
    const char *class_name;
    const char *split; /* NULL: the one that is built into the ByteLevel stage */
    int nfc;
    const char *bos; /* where tokenizer_config.json names none; NULL: none */
} family;

/* The default of each class, transformers' tokenization_gpt2.py and tokenization_qwen2.py. */
static const family families[] = {
    {"GPT2Tokenizer", NULL, 0, end_of_text},
    {"GPT2TokenizerFast", NULL, 0, end_of_text},
    {"Qwen2Tokenizer", mp_qwen2_split, 1, NULL},
    {"Qwen2TokenizerFast", mp_qwen2_split, 1, NULL},
};

static mp_status find_family(const json_t *config, const char *where, const family **found)
{
    const char *name = "GPT2Tokenizer";

    MP_TRY(mp_json_opt_text(config, "tokenizer_class", where, &name));
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        if (strcmp(name, families[i].class_name) == 0) {
            *found = &families[i];
            return MP_OK;
        }
    return mp_fail(MP_ERR_FORMAT,
                   "%s: tokenizer_class '%s' is not implemented for vocab.json and merges.txt "
                   "(known: GPT2Tokenizer, Qwen2Tokenizer); a tokenizer.json would be read",
                   where, name);
}

static mp_status read_merges(mp_bpe *bpe, const char *text, size_t length, const char *where)
{
    const char *end = text + length, *line = text;

    while (line < end) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        size_t line_length = (size_t)((stop != NULL ? stop : end) - line);
        size_t content =
            line_length > 0 && line[line_length - 1] == '\r' ? line_length - 1 : line_length;

        if (content > 0) MP_TRY(mp_bpe_add_merge_line(bpe, line, content, where));
        line += line_length + 1;
    }
    return MP_OK;
}

/* A rough upper bound of the number of merges: lines. */
static int64_t count_lines(const char *text, size_t length)
{
    int64_t lines = 1;

    for (size_t i = 0; i < length; i++) lines += text[i] == '\n';
    return lines;
}

static mp_status check_utf8(const char *text, size_t length, const char *where)
{
    char *repaired;
    size_t repaired_length;

    MP_TRY(mp_utf8_repair(text, length, &repaired, &repaired_length));
    if (repaired == NULL) return MP_OK;
    mp_free(repaired);
    return mp_fail(MP_ERR_FORMAT, "%s: not valid UTF-8", where);
}

static mp_status read_model_files(mp_bpe *bpe, const char *dir)
{
    char *vocab_path = NULL, *merges_path = NULL, *merges = NULL;
    json_t *vocab = NULL;
    size_t length;
    mp_status st;

    MP_GO(mp_path_join(dir, "vocab.json", &vocab_path));
    MP_GO(mp_path_join(dir, "merges.txt", &merges_path));
    MP_GO(mp_json_load(vocab_path, &vocab));
    MP_GO(mp_file_read(merges_path, MERGES_LIMIT, &merges, &length));
    MP_GO(check_utf8(merges, length, merges_path));
    MP_GO(mp_bpe_init(bpe, (int64_t)json_object_size(vocab), count_lines(merges, length)));
    MP_GO(mp_tokenizer_read_vocab(bpe, vocab, vocab_path));
    MP_GO(read_merges(bpe, merges, length, merges_path));
    MP_GO(mp_bpe_finish(bpe, NULL));
out:
    mp_free(vocab_path);
    mp_free(merges_path);
    mp_free(merges);
    json_decref(vocab);
    return st;
}

static mp_status set_up_split(mp_tokenizer *tokenizer, const family *kind, const json_t *config,
                              const char *where)
{
    const char *split = kind->split != NULL ? kind->split : mp_gpt2_split;
    mp_normal_step *step;
    mp_stage *stage;
    int prefix = 0;

    MP_TRY(mp_json_opt_bool(config, "add_prefix_space", where, &prefix));
    if (prefix && kind->split != NULL)
        return mp_fail(MP_ERR_FORMAT, "%s: add_prefix_space true is not implemented for %s", where,
                       kind->class_name);
    if (kind->nfc) MP_TRY(mp_normalizer_add(&tokenizer->normalizer, MP_NORMAL_NFC, where, &step));
    MP_TRY(mp_pretokenizer_add(&tokenizer->pretokenizer, MP_STAGE_BYTE_LEVEL, where, &stage));
    stage->prepend = prefix ? MP_PREPEND_ALWAYS : MP_PREPEND_NEVER;
    return mp_pattern_regex(split, strlen(split), where, &stage->pattern);
}

/* An added token before it is added: the flags are those of tokenizer_config.json (borrowed), or
 * NULL for a token that only added_tokens.json has. */
typedef struct listed {
    int64_t id;
    const char *content;
    const json_t *flags;
} listed;

typedef struct listing {
    listed *tokens;
    int64_t count, capacity;
} listing;

/* Adds to the list; a token that is there already must be the same. */
static mp_status list_token(listing *list, int64_t id, const char *content, const json_t *flags,
                            const char *where)
{
    void *tokens = list->tokens;

    for (int64_t i = 0; i < list->count; i++) {
        int same_id = list->tokens[i].id == id;
        int same_text = strcmp(list->tokens[i].content, content) == 0;

        if (same_id && same_text) return MP_OK;
        if (same_id || same_text)
            return mp_fail(MP_ERR_FORMAT, "%s: added token '%s' has id %lld, but '%s' has %lld",
                           where, content, (long long)id, list->tokens[i].content,
                           (long long)list->tokens[i].id);
    }
    MP_TRY(mp_grow(&tokens, list->count, list->count + 1, &list->capacity, sizeof *list->tokens,
                   "added tokens"));
    list->tokens = tokens;
    list->tokens[list->count++] = (listed){id, content, flags};
    return MP_OK;
}

/* added_tokens_decoder of tokenizer_config.json: {"151643": {"content": ..., flags}}. */
static mp_status list_decoder(listing *list, const json_t *config, const char *where)
{
    json_t *decoder = json_object_get(config, "added_tokens_decoder"), *flags;
    const char *key, *content;

    json_object_foreach (decoder, key, flags) {
        char *end;
        long long id = strtoll(key, &end, 10);

        if (*key == '\0' || *end != '\0')
            return mp_fail(MP_ERR_FORMAT, "%s: added_tokens_decoder: '%s' is no id", where, key);
        MP_TRY(mp_json_text(flags, "content", where, &content));
        MP_TRY(list_token(list, id, content, flags, where));
    }
    return MP_OK;
}

/* added_tokens.json: {"<|im_end|>": 151645}. */
static mp_status list_added(listing *list, const json_t *added, const char *where)
{
    const char *content;
    json_t *id;

    json_object_foreach ((json_t *)added, content, id) {
        if (!json_is_integer(id))
            return mp_fail(MP_ERR_FORMAT, "%s: the id of '%s' is no integer", where, content);
        MP_TRY(list_token(list, json_integer_value(id), content, NULL, where));
    }
    return MP_OK;
}

/* Whether tokenizer_config.json names a token as a special one. */
static int is_special(const json_t *config, const char *content)
{
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    const json_t *others = json_object_get(config, "additional_special_tokens"), *value;

    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        value = json_object_get(config, keys[i]);
        if (json_is_object(value)) value = json_object_get(value, "content");
        if (json_is_string(value) && strcmp(json_string_value(value), content) == 0) return 1;
    }
    for (size_t i = 0; i < json_array_size(others); i++) {
        value = json_array_get(others, i);
        if (json_is_string(value) && strcmp(json_string_value(value), content) == 0) return 1;
    }
    return strcmp(content, end_of_text) == 0;
}

static int by_id(const void *left, const void *right)
{
    const listed *a = left, *b = right;

    return (a->id > b->id) - (a->id < b->id);
}

/* A token that only added_tokens.json knows is plain, and normalised unless it is special. */
static mp_status add_listed(mp_tokenizer *tokenizer, const listed *token, const json_t *config,
                            const char *where)
{
    mp_added_token plain = {.id = token->id >= 0 && token->id < INT32_MAX ? (int32_t)token->id : -1,
                            .normalized = !is_special(config, token->content)};

    if (token->flags != NULL)
        return mp_tokenizer_read_added(tokenizer, token->flags, token->id, where);
    MP_TRY(mp_text_append(&plain.text, token->content, strlen(token->content)));
    return mp_added_add(&tokenizer->added, &tokenizer->bpe, &plain, where);
}

static mp_status add_all(mp_tokenizer *tokenizer, listing *list, const json_t *config,
                         const char *where)
{
    if (list->count > 0) qsort(list->tokens, (size_t)list->count, sizeof *list->tokens, by_id);
    MP_TRY(mp_added_init(&tokenizer->added, list->count));
    for (int64_t i = 0; i < list->count; i++)
        MP_TRY(add_listed(tokenizer, &list->tokens[i], config, where));
    return mp_added_finish(&tokenizer->added, &tokenizer->normalizer, where);
}

/* The added tokens of both files, and the end of text, which both families have as a special token
 * even where no file says so. */
static mp_status read_added(mp_tokenizer *tokenizer, const char *dir, const json_t *config,
                            const char *where)
{
    int32_t end = mp_token_find(&tokenizer->bpe.tokens, end_of_text, strlen(end_of_text));
    char *path = NULL;
    json_t *added = NULL;
    listing list = {0};
    mp_status st;

    MP_GO(mp_path_join(dir, "added_tokens.json", &path));
    if (mp_path_exists(path)) MP_GO(mp_json_load(path, &added));
    MP_GO(list_decoder(&list, config, where));
    MP_GO(list_added(&list, added, path));
    if (end >= 0) MP_GO(list_token(&list, end, end_of_text, NULL, where));
    MP_GO(add_all(tokenizer, &list, config, where));
out:
    mp_free(path);
    mp_free(list.tokens);
    json_decref(added);
    return st;
}

mp_status mp_tokenizer_read_files(mp_tokenizer *tokenizer, const char *dir, const json_t *config,
                                  const char *config_path)
{
    const family *kind = NULL;

    MP_TRY(find_family(config, config_path, &kind));
    MP_TRY(read_model_files(&tokenizer->bpe, dir));
    MP_TRY(set_up_split(tokenizer, kind, config, config_path));
    MP_TRY(read_added(tokenizer, dir, config, config_path));
    if (kind->bos != NULL && json_object_get(config, "bos_token") == NULL)
        tokenizer->bos = mp_tokenizer_find(tokenizer, kind->bos);
    return MP_OK;
}
