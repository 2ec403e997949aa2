/* What the tests of the tokenizer share.
 * Floor: tests. */
#ifndef MPRESS_TESTS_TOKENIZER_HELPERS_H
#define MPRESS_TESTS_TOKENIZER_HELPERS_H

#include "mpress/tokenizer.h"

#include "helpers.h"

/* The ids of `length` bytes must be those in `expected`, as "1 2 3"; `name` tells which text. */
static inline void expect_bytes(const mp_tokenizer *tokenizer, const char *text, size_t length,
                                const char *expected, const char *name)
{
    size_t room, at = 0;
    int32_t *ids = NULL;
    int64_t count = 0;
    char *got;

    EXPECT_OK(mp_tokenizer_encode(tokenizer, text, length, &ids, &count));
    room = (size_t)count * 12 + 1;
    got = calloc(room, 1);
    for (int64_t i = 0; i < count; i++)
        at += (size_t)snprintf(got + at, room - at, i > 0 ? " %d" : "%d", ids[i]);
    cr_expect_str_eq(got, expected, "%s: got [%s], expected [%s]", name, got, expected);
    free(got);
    mp_free(ids);
}

static inline void expect_ids(const mp_tokenizer *tokenizer, const char *text, const char *expected)
{
    expect_bytes(tokenizer, text, strlen(text), expected, text);
}

/* A tokenizer.json with these members (NULL: none) beside a small byte-fallback vocabulary, in
 * which ids 3 to 258 are bytes; returned in one of two buffers that take turns. */
typedef struct parts {
    const char *added, *normalizer, *pre_tokenizer, *post_processor;
    const char *model; /* settings of the model, with a comma at the end */
} parts;

static inline const char *tokenizer_json(parts p)
{
    static char buffers[2][16384];
    static int turn;
    char *json = buffers[turn++ % 2], *end = json + sizeof buffers[0];
    char *at = json;

    at += snprintf(at, (size_t)(end - at),
                   "{\"version\": \"1.0\", \"added_tokens\": [%s], \"normalizer\": %s, "
                   "\"pre_tokenizer\": %s, \"post_processor\": %s, \"model\": {\"type\": \"BPE\", "
                   "%s\"vocab\": {\"<unk>\": 0, \"<s>\": 1, \"</s>\": 2",
                   p.added != NULL ? p.added : "", p.normalizer != NULL ? p.normalizer : "null",
                   p.pre_tokenizer != NULL ? p.pre_tokenizer : "null",
                   p.post_processor != NULL ? p.post_processor : "null",
                   p.model != NULL ? p.model : "");
    for (int byte = 0; byte < 256; byte++)
        at += snprintf(at, (size_t)(end - at), ", \"<0x%02X>\": %d", byte, byte + 3);
    snprintf(
        at, (size_t)(end - at),
        ", \"\u2581\": 259, \"a\": 260, \"b\": 261, \"c\": 262, \"\u2581a\": 263, \"ab\": 264, "
        "\"\u2581ab\": 265}, \"merges\": [\"\u2581 a\", \"\u2581a b\", \"a b\"]}}");
    return json;
}

static inline mp_status parse_json(const char *json)
{
    mp_tokenizer *tokenizer = NULL;
    mp_status st = mp_tokenizer_parse(json, strlen(json), "t.json", &tokenizer);

    mp_tokenizer_free(tokenizer);
    return st;
}

static inline mp_tokenizer *make_tokenizer(parts p)
{
    const char *json = tokenizer_json(p);
    mp_tokenizer *tokenizer = NULL;

    EXPECT_OK(mp_tokenizer_parse(json, strlen(json), "t.json", &tokenizer));
    return tokenizer;
}

#define FALLBACK "\"byte_fallback\": true, \"unk_token\": \"<unk>\", "
#define LLAMA2_NORMALIZER                                                                          \
    "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": "             \
    "\"\u2581\"}, "                                                                                \
    "{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\u2581\"}]}"
/* An added token: id, text and flags (true or false). */
#define ADDED(id, content, single_word, lstrip, rstrip, normalized)                                \
    "{\"id\": " #id ", \"content\": \"" content "\", \"single_word\": " #single_word               \
    ", \"lstrip\": " #lstrip ", \"rstrip\": " #rstrip ", \"normalized\": " #normalized             \
    ", \"special\": true}"
#define BOS_TEMPLATE                                                                               \
    "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<s>\", "        \
    "\"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], \"pair\": [], "           \
    "\"special_tokens\": {\"<s>\": {\"id\": \"<s>\", \"ids\": [1], \"tokens\": [\"<s>\"]}}}"

#endif
