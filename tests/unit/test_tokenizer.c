#include "mpress/json.h"

#include "tokenizer_helpers.h"

/* Ids in these tests come from Python's tokenizers 0.23.3, or follow from the vocabulary by hand.
 */

TestSuite(tokenizer, .timeout = 120);

static const char byte_level[] =
    "{\"model\": {\"vocab\": {\"\u0120\": 0, \"a\": 1, \"b\": 2, \"\u00c3\": 3, \"\u00a9\": 4, "
    "\"\u0120a\": 5, \"ab\": 6, \"\u00c3\u00a9\": 7}, \"merges\": [[\"\u0120\", \"a\"], "
    "[\"a\", \"b\"], [\"\u00c3\", \"\u00a9\"]]}, \"pre_tokenizer\": {\"type\": \"ByteLevel\", "
    "\"add_prefix_space\": false, \"trim_offsets\": true}}";

static mp_tokenizer *load(const char *dir)
{
    mp_tokenizer *tokenizer = NULL;

    EXPECT_OK(mp_tokenizer_load(dir, &tokenizer));
    return tokenizer;
}

/* "1 2 3" from a JSON array. */
static char *ids_text(const json_t *ids)
{
    char *text = calloc(json_array_size(ids) * 12 + 1, 1), *at = text;

    for (size_t i = 0; i < json_array_size(ids); i++)
        at += sprintf(at, i > 0 ? " %lld" : "%lld",
                      (long long)json_integer_value(json_array_get(ids, i)));
    return text;
}

/* Each text of a case against its ids; returns how many texts there were. */
static size_t replay(const mp_tokenizer *tokenizer, const json_t *made, const char *name)
{
    const json_t *texts = json_object_get(made, "texts"), *ids = json_object_get(made, "ids");

    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *text = json_array_get(texts, i);
        char *expected = ids_text(json_array_get(ids, i));

        expect_bytes(tokenizer, json_string_value(text), json_string_length(text), expected, name);
        free(expected);
    }
    return json_array_size(texts);
}

static json_t *reference_cases(void)
{
    json_t *root = NULL;

    EXPECT_OK(mp_json_load(MPRESS_DATA "/reference/tokenizer_cases.json", &root));
    return root;
}

Test(tokenizer, small_tokenizers_of_every_feature_give_the_ids_of_the_reference)
{
    json_t *root = reference_cases(), *cases = json_object_get(root, "cases");
    size_t texts = 0;

    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *made = json_array_get(cases, i);
        const char *name = json_string_value(json_object_get(made, "name"));
        mp_tokenizer *tokenizer = NULL;
        char *json = NULL;

        EXPECT_OK(mp_json_dump(json_object_get(made, "tokenizer"), 1, &json));
        EXPECT_OK(mp_tokenizer_parse(json, strlen(json), name, &tokenizer));
        texts += replay(tokenizer, made, name);
        mp_tokenizer_free(tokenizer);
        mp_free(json);
    }
    json_decref(root);
    cr_assert_gt(texts, 500);
    EXPECT_NO_LEAKS();
}

Test(tokenizer, wikillama_gives_the_ids_of_the_reference)
{
    json_t *root = reference_cases();
    mp_tokenizer *tokenizer = load(MPRESS_DATA "/wikillama-5m");

    cr_assert_gt(replay(tokenizer, json_object_get(root, "wikillama-5m"), "wikillama"), 40);
    cr_assert_eq(mp_tokenizer_bos(tokenizer), 4094);
    cr_assert_eq(mp_tokenizer_adds_bos(tokenizer), 1);
    cr_assert_eq(mp_tokenizer_size(tokenizer), 4096);
    mp_tokenizer_free(tokenizer);
    json_decref(root);
    EXPECT_NO_LEAKS();
}

Test(tokenizer, characters_outside_the_vocabulary_become_bytes)
{
    mp_tokenizer *tokenizer =
        make_tokenizer((parts){.normalizer = LLAMA2_NORMALIZER, .model = FALLBACK});

    expect_ids(tokenizer, "", "");
    expect_ids(tokenizer, "ab a", "265 263");
    expect_ids(tokenizer, "a\u00e9", "263 198 172");
    expect_ids(tokenizer, "\n", "259 13");
    expect_bytes(tokenizer, "a\0b", 3, "263 3 261", "a zero byte");
    cr_assert_eq(mp_tokenizer_bos(tokenizer), -1);
    cr_assert_eq(mp_tokenizer_adds_bos(tokenizer), 0);
    cr_assert_eq(mp_tokenizer_size(tokenizer), 266);
    mp_tokenizer_free(tokenizer);
    EXPECT_NO_LEAKS();
}

Test(tokenizer, broken_utf8_is_replaced_part_by_part_as_in_python)
{
    static const struct {
        const char *broken, *repaired;
    } cases[] = {
        {"a\xff", "a\uFFFD"},
        {"\xe2\x82z", "\uFFFDz"},                         /* two bytes of three: one part */
        {"\xe2\x28\xa1", "\uFFFD(\uFFFD"},                /* the second byte is none */
        {"\xed\xa0\x80", "\uFFFD\uFFFD\uFFFD"},           /* a surrogate */
        {"\xc0\x80", "\uFFFD\uFFFD"},                     /* an overlong zero */
        {"\xf0\x80\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"}, /* overlong */
        {"\xf4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"}, /* beyond U+10FFFF */
        {"\xf0\x9f\x92", "\uFFFD"},                       /* the text ends inside */
        {"b\x80\x80", "b\uFFFD\uFFFD"},
    };
    mp_tokenizer *tokenizer = make_tokenizer((parts){.model = FALLBACK});

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char expected[128], *at = expected;

        for (const char *c = cases[i].repaired; *c != '\0'; c++)
            at += sprintf(at, at > expected ? " %d" : "%d",
                          *c == 'a'   ? 260
                          : *c == 'b' ? 261
                                      : (unsigned char)*c + 3);
        expect_ids(tokenizer, cases[i].broken, expected);
    }
    mp_tokenizer_free(tokenizer);
    EXPECT_NO_LEAKS();
}

Test(tokenizer, added_tokens_take_the_white_space_that_they_ask_for)
{
    mp_tokenizer *tokenizer =
        make_tokenizer((parts){.model = FALLBACK,
                               .added = ADDED(1, "<s>", false, true, true, false) ", " ADDED(
                                   2, "</s>", false, false, true, false)});

    expect_ids(tokenizer, "a \u00a0<s>\n\u3000b", "260 1 261");
    expect_ids(tokenizer, "a </s> b", "260 35 2 261");
    expect_ids(tokenizer, "a</s> <s> b", "260 2 1 261");
    expect_ids(tokenizer, "<s", "63 118");
    mp_tokenizer_free(tokenizer);
    EXPECT_NO_LEAKS();
}

Test(tokenizer, a_single_word_is_not_found_inside_a_word)
{
    mp_tokenizer *tokenizer = make_tokenizer(
        (parts){.model = FALLBACK, .added = ADDED(264, "ab", true, false, false, false)});

    expect_ids(tokenizer, "ab", "264");
    expect_ids(tokenizer, "cab abc", "262 264 35 264 262"); /* the merge makes the same token */
    mp_tokenizer_free(tokenizer);
    tokenizer = make_tokenizer(
        (parts){.model = FALLBACK, .added = ADDED(266, "bb", true, false, false, false)});
    expect_ids(tokenizer, "bb.bb", "266 49 266");
    expect_ids(tokenizer, "abb bba \u00e9bb", "264 261 35 261 261 260 35 198 172 261 261");
    mp_tokenizer_free(tokenizer);
    EXPECT_NO_LEAKS();
}

Test(tokenizer, a_normalised_added_token_is_found_after_the_normalizer)
{
    mp_tokenizer *tokenizer =
        make_tokenizer((parts){.model = FALLBACK,
                               .normalizer = LLAMA2_NORMALIZER,
                               .added = ADDED(2, "</s>", false, false, false, true)});

    expect_ids(tokenizer, "</s>a", "2 260"); /* looked for as U+2581 and </s> */
    expect_ids(tokenizer, "a</s>", "263 63 50 118 65");
    mp_tokenizer_free(tokenizer);
    EXPECT_NO_LEAKS();
}

Test(tokenizer, characters_that_no_token_covers_are_dropped_without_an_unknown_token)
{
    mp_tokenizer *tokenizer = NULL;

    EXPECT_OK(mp_tokenizer_parse(byte_level, strlen(byte_level), "t.json", &tokenizer));
    expect_ids(tokenizer, "ab ab\u00e9zz a", "6 5 2 7 5");
    mp_tokenizer_free(tokenizer);
    EXPECT_NO_LEAKS();
}

Test(tokenizer, a_merge_may_hold_a_space_where_it_reads_one_way_only)
{
    static const char json[] =
        "{\"model\": {\"vocab\": {\" \": 0, \"  \": 1, \"a\": 2, \"a \": 3}, "
        "\"merges\": [\"   \", \"a  \"]}}"; /* " "+" " and "a"+" " */
    mp_tokenizer *tokenizer = NULL;

    EXPECT_OK(mp_tokenizer_parse(json, strlen(json), "t.json", &tokenizer));
    expect_ids(tokenizer, "  a a  ", "1 3 2 1");
    mp_tokenizer_free(tokenizer);
    EXPECT_NO_LEAKS();
}

/* What is quadratic in any step would take hours. */
Test(tokenizer, a_megabyte_without_any_place_to_cut_takes_seconds, .timeout = 120)
{
    static const char *const units[] = {"a", "ab", " ",   "\n",   "\u00e9",
                                        "1", "!",  " \t", "\xff", "<"};
    const size_t size = 1 << 20;
    mp_tokenizer *small =
        make_tokenizer((parts){.normalizer = LLAMA2_NORMALIZER, .model = FALLBACK});
    mp_tokenizer *wiki = load(MPRESS_DATA "/wikillama-5m");
    char *text = malloc(size);

    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        int32_t *ids = NULL;
        int64_t count = 0;

        for (size_t at = 0; at < size; at++) text[at] = units[i][at % strlen(units[i])];
        EXPECT_OK(mp_tokenizer_encode(small, text, size, &ids, &count));
        mp_free(ids);
        cr_assert_gt(count, (int64_t)size / 4);
        EXPECT_OK(mp_tokenizer_encode(wiki, text, size, &ids, &count));
        mp_free(ids);
        cr_assert_gt(count, 1000);
    }
    free(text);
    mp_tokenizer_free(small);
    mp_tokenizer_free(wiki);
    EXPECT_NO_LEAKS();
}

Test(tokenizer, the_first_token_of_the_template_is_the_bos)
{
    mp_tokenizer *tokenizer = make_tokenizer((parts){.post_processor = BOS_TEMPLATE});

    cr_assert_eq(mp_tokenizer_bos(tokenizer), 1);
    cr_assert_eq(mp_tokenizer_adds_bos(tokenizer), 1);
    expect_ids(tokenizer, "a", "260"); /* nobody adds it here */
    mp_tokenizer_free(tokenizer);
    tokenizer = make_tokenizer(
        (parts){.post_processor = "{\"type\": \"Sequence\", \"processors\": [{\"type\": "
                                  "\"ByteLevel\", \"trim_offsets\": true}, " BOS_TEMPLATE "]}"});
    cr_assert_eq(mp_tokenizer_bos(tokenizer), 1);
    mp_tokenizer_free(tokenizer);
    EXPECT_NO_LEAKS();
}

/* tokenizer.json with a template or not, beside a tokenizer_config.json. */
static void expect_bos(const char *post_processor, const char *config, int32_t bos, int adds)
{
    char *dir = scratch_make();
    mp_tokenizer *tokenizer;

    write_text(path_in(dir, "tokenizer.json"),
               tokenizer_json((parts){.post_processor = post_processor}));
    write_text(path_in(dir, "tokenizer_config.json"), config);
    tokenizer = load(dir);
    cr_expect_eq(mp_tokenizer_bos(tokenizer), bos, "%s", config);
    cr_expect_eq(mp_tokenizer_adds_bos(tokenizer), adds, "%s", config);
    mp_tokenizer_free(tokenizer);
    scratch_remove(dir);
}

Test(tokenizer, tokenizer_config_names_the_bos_and_decides_whether_it_is_added)
{
    expect_bos(NULL, "{}", -1, 0);
    expect_bos(NULL, "{\"bos_token\": null}", -1, 0);
    expect_bos(NULL, "{\"bos_token\": \"<s>\"}", 1, 0);
    expect_bos(NULL, "{\"bos_token\": {\"content\": \"</s>\"}, \"add_bos_token\": true}", 2, 1);
    expect_bos(BOS_TEMPLATE, "{\"bos_token\": \"<s>\"}", 1, 1);
    expect_bos(BOS_TEMPLATE, "{\"add_bos_token\": false}", 1, 0);
    EXPECT_NO_LEAKS();
}
