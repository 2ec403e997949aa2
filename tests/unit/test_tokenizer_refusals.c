#include "tokenizer_helpers.h"

/* Every part of a tokenizer.json that is not implemented, or contradicts another, is refused with a
 * message that names it. */

TestSuite(tokenizer_refusals, .timeout = 60);

static void expect_refused(parts p, const char *message, const char *more)
{
    EXPECT_FAILURE(parse_json(tokenizer_json(p)), MP_ERR_FORMAT, "t.json", message, more);
}

#define SPLIT(pattern, behavior)                                                                   \
    "{\"type\": \"Split\", \"pattern\": " pattern ", \"behavior\": \"" behavior                    \
    "\", \"invert\": false}"

static void refuse_normalizer(const char *json, const char *message)
{
    expect_refused((parts){.normalizer = json}, "normalizer", message);
}

static void refuse_stage(const char *json, const char *message)
{
    expect_refused((parts){.pre_tokenizer = json}, "pre_tokenizer", message);
}

static void refuse_model(const char *settings, const char *message)
{
    expect_refused((parts){.model = settings}, "model", message);
}

static void refuse_added(const char *json, const char *message)
{
    expect_refused((parts){.added = json}, "added_tokens", message);
}

static void refuse_processor(const char *json, const char *message)
{
    expect_refused((parts){.post_processor = json}, "post_processor", message);
}

Test(tokenizer_refusals, the_parts_that_the_refusals_below_change_are_accepted)
{
    mp_tokenizer_free(make_tokenizer(
        (parts){.model = FALLBACK "\"dropout\": 0.0, \"continuing_subword_prefix\": \"\", "
                                  "\"end_of_word_suffix\": null, ",
                .normalizer = LLAMA2_NORMALIZER,
                .pre_tokenizer = SPLIT("{\"Regex\": \"a|b\"}", "Isolated"),
                .added = ADDED(1, "<s>", false, false, false, false),
                .post_processor = BOS_TEMPLATE}));
    EXPECT_NO_LEAKS();
}

Test(tokenizer_refusals, models_other_than_plain_bpe)
{
    EXPECT_FAILURE(parse_json("{}"), MP_ERR_FORMAT, "t.json: model", "missing");
    EXPECT_FAILURE(parse_json("{\"version\": \"2.0\"}"), MP_ERR_FORMAT, "version '2.0'");
    EXPECT_FAILURE(parse_json("{\"model\": {\"type\": \"Unigram\"}}"), MP_ERR_FORMAT,
                   "type 'Unigram' is not implemented");
    EXPECT_FAILURE(parse_json("{\"model\": {\"type\": \"BPE\", \"vocab\": {}}}"), MP_ERR_FORMAT,
                   "\"merges\" [...]");
    refuse_model("\"dropout\": 0.1, ", "dropout 0.1 is not implemented");
    refuse_model("\"continuing_subword_prefix\": \"##\", ", "continuing_subword_prefix '##'");
    refuse_model("\"end_of_word_suffix\": \"</w>\", ", "end_of_word_suffix '</w>'");
    refuse_model("\"fuse_unk\": 1, ", "\"fuse_unk\" is 1");
    refuse_model("\"word_split\": true, ", "\"word_split\" is not implemented");
    EXPECT_NO_LEAKS();
}

static void refuse_vocabulary(const char *vocab, const char *merges, const char *message)
{
    char json[512];

    snprintf(json, sizeof json, "{\"model\": {\"vocab\": %s, \"merges\": %s}}", vocab, merges);
    EXPECT_FAILURE(parse_json(json), MP_ERR_FORMAT, "t.json: model", message);
}

Test(tokenizer_refusals, vocabularies_and_merges_that_do_not_fit)
{
    refuse_vocabulary("{\"a\": -1}", "[]", "token 'a' has id -1");
    refuse_vocabulary("{\"a\": 2147483647}", "[]", "id 2147483647");
    refuse_vocabulary("{\"a\": \"0\"}", "[]", "the id of token 'a' is no integer");
    refuse_vocabulary("{\"a\": 3, \"b\": 3}", "[]", "'a' and 'b' have the same id 3");
    refuse_vocabulary("{\"a\": 0, \"b\": 1}", "[\"a b\"]", "merge 0 needs the token 'ab'");
    refuse_vocabulary("{\"a\": 0}", "[[\"a\", \"b\"]]", "merge 0 needs the token 'b'");
    refuse_vocabulary("{\"a\": 0}", "[[\"a\"]]", "merge 0 is neither");
    refuse_vocabulary("{\"a\": 0}", "[7]", "merge 0 is neither");
    refuse_vocabulary("{\"a\": 0}", "[\"aa\"]", "merge 0 is 'aa'");
    refuse_vocabulary("{\"a\": 0, \" \": 1, \" a\": 2}", "[\"  a \"]", "merge 0 is '  a '");
    refuse_vocabulary("{\"\": 0, \"a\": 1}", "[\" a\"]", "merge 0 needs the token ''");
    EXPECT_NO_LEAKS();
}

/* As in the reference, this fails only where it matters. */
Test(tokenizer_refusals, an_unknown_token_outside_the_vocabulary_fails_when_a_text_needs_it)
{
    mp_tokenizer *tokenizer = make_tokenizer((parts){.model = "\"unk_token\": \"<none>\", "});
    int32_t *ids = NULL;
    int64_t count = 0;

    expect_ids(tokenizer, "ab", "264");
    EXPECT_FAILURE(mp_tokenizer_encode(tokenizer, "abz", 3, &ids, &count), MP_ERR_FORMAT,
                   "unk_token '<none>'", "'z'");
    cr_assert_null(ids);
    mp_tokenizer_free(tokenizer);
    EXPECT_NO_LEAKS();
}

Test(tokenizer_refusals, normalizers)
{
    refuse_normalizer("{\"type\": \"Lowercase\"}", "type 'Lowercase' is not implemented");
    refuse_normalizer("{\"type\": \"NFKC\"}", "type 'NFKC' is not implemented");
    refuse_normalizer("{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Strip\"}]}",
                      "'Strip'");
    refuse_normalizer("{\"type\": \"Sequence\"}", "\"normalizers\" [...]");
    refuse_normalizer("{\"type\": \"NFC\", \"quick\": true}", "\"quick\" is not implemented");
    refuse_normalizer("{\"type\": \"Prepend\", \"prepend\": \"\"}", "Prepend of an empty text");
    refuse_normalizer(
        "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \" +\"}, \"content\": \"\"}",
        "Replace of the expression ' +'");
    refuse_normalizer("{\"type\": \"Replace\", \"pattern\": {\"String\": \"\"}, \"content\": \"\"}",
                      "Replace of an empty text");
    refuse_normalizer("{\"type\": \"Replace\", \"pattern\": \" \", \"content\": \"\"}",
                      "\"pattern\"");
    refuse_normalizer("[]", "\"type\" is missing");
    EXPECT_NO_LEAKS();
}

Test(tokenizer_refusals, pre_tokenizers)
{
    refuse_stage("{\"type\": \"Whitespace\"}", "type 'Whitespace' is not implemented");
    refuse_stage("{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Punctuation\"}]}",
                 "'Punctuation'");
    refuse_stage(SPLIT("{\"Regex\": \"a\"}", "Swallowed"), "behavior 'Swallowed'");
    refuse_stage(SPLIT("{\"String\": \"\"}", "Isolated"), "an empty text to split at");
    refuse_stage(SPLIT("{\"Glob\": \"a\"}", "Isolated"), "\"String\" is missing");
    refuse_stage("{\"type\": \"ByteLevel\"}", "\"add_prefix_space\" is missing");
    refuse_stage("{\"type\": \"Digits\", \"individual_digits\": 1}", "\"individual_digits\" is 1");
    refuse_stage("{\"type\": \"Metaspace\", \"replacement\": \"__\"}", "replacement '__'");
    refuse_stage("{\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": \"last\"}",
                 "prepend_scheme 'last'");
    refuse_stage("{\"type\": \"Metaspace\", \"replacement\": \"_\", \"prepend_scheme\": \"first\", "
                 "\"add_prefix_space\": false}",
                 "add_prefix_space false");
    expect_refused((parts){.normalizer = LLAMA2_NORMALIZER,
                           .pre_tokenizer = "{\"type\": \"Metaspace\", \"replacement\": \"_\", "
                                            "\"prepend_scheme\": \"first\"}"},
                   "prepend_scheme 'first'", "not implemented");
    EXPECT_NO_LEAKS();
}

Test(tokenizer_refusals, sequences_that_are_too_deep_or_too_long)
{
    char json[4096], *at = json;

    for (int i = 0; i < 12; i++) at += sprintf(at, "{\"type\": \"Sequence\", \"normalizers\": [");
    at += sprintf(at, "{\"type\": \"NFC\"}");
    for (int i = 0; i < 12; i++) at += sprintf(at, "]}");
    refuse_normalizer(json, "more than 8 Sequences in each other");
    at = json + sprintf(json, "{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}");
    for (int i = 0; i < 16; i++) at += sprintf(at, ", {\"type\": \"NFC\"}");
    sprintf(at, "]}");
    refuse_normalizer(json, "more than 16 normalizers");
    EXPECT_NO_LEAKS();
}

Test(tokenizer_refusals, expressions_that_could_mean_another_thing_in_pcre2)
{
    static const struct {
        const char *expression, *message;
    } cases[] = {
        {"", "an expression of 0 bytes"},
        {"a\\\\w+", "an escape at byte 1"},
        {"\\\\bword", "an escape at byte 0"},
        {"\\\\1", "an escape"},
        {"^a", "an anchor at byte 0"},
        {"a$", "an anchor at byte 1"},
        {"(?<name>a)", "a kind of group"},
        {"(?i)a", "an option"},
        {"(?m:.)", "an option"},
        {"(a", "a '(' without ')'"},
        {"a)", "a ')' without '('"},
        {"*a", "nothing to repeat"},
        {"a**", "nothing to repeat"},
        {"(?=a)*", "nothing to repeat"},
        {"(?:a?)*", "a repetition of what may match nothing"},
        {"(?:ab|a*|c){2}", "a repetition of what may match nothing"},
        {"(?:(?!a)|b)+", "a repetition of what may match nothing"},
        {"a{0,2}+", "a repetition of what may match nothing"},
        {"a{2}?", "a lazy repetition of fixed length"},
        {"a{,2}", "a '{' that begins no repetition"},
        {"a{2,1}", "such bounds"},
        {"a{2000}", "such bounds"},
        {"[a[b]]", "a class inside a class"},
        {"[a&&b]", "an intersection"},
        {"[]a]", "a ']' as the first"},
        {"[a", "a class without end"},
        {"[b-a]", "an empty range"},
        {"[a-\\\\s]", "an empty range"},
        {"[\\\\s-a]", "a '-'"},
        {"[\\\\P{L}]", "a negated property inside a class"},
        {"\\\\p{Han}", "no general category"},
        {"\\\\p{C}", "no general category"},
        {"\\\\pL", "a property without {}"},
        {"\\\\x{110000}", "a character number"},
        {"\\\\uD800", "a character number"},
        {"\\\\u12", "a character number"},
        {"\\\\xE9", "a character number"},
        {"(?i:ss)", "fold into one character"},
        {"(?i:sT)", "fold into one character"},
        {"(?i:[a])", "a class inside (?i:...)"},
        {"(?i:\u00e9)", "ASCII"},
        {"(?i:a+)", "a quantifier inside (?i:...)"},
        {"(?<=a+)b", "does not compile"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char json[256];

        snprintf(json, sizeof json, SPLIT("{\"Regex\": \"%s\"}", "Isolated"), cases[i].expression);
        refuse_stage(json, cases[i].message);
    }
    EXPECT_NO_LEAKS();
}

Test(tokenizer_refusals, an_expression_that_explodes_ends_with_a_message)
{
    mp_tokenizer *tokenizer = make_tokenizer((parts){
        .pre_tokenizer = SPLIT("{\"Regex\": \"(?:(?:a|ab)(?:b|c|bc|abc)?)+z\"}", "Isolated")});
    char text[400];
    int32_t *ids = NULL;
    int64_t count = 0;

    for (size_t i = 0; i < sizeof text; i++) text[i] = "abc"[i % 3];
    EXPECT_FAILURE(mp_tokenizer_encode(tokenizer, text, sizeof text, &ids, &count), MP_ERR_FORMAT,
                   "split expression fails at byte 0 of 400", "limit");
    mp_tokenizer_free(tokenizer);
    EXPECT_NO_LEAKS();
}

Test(tokenizer_refusals, added_tokens)
{
    refuse_added(ADDED(7, "<s>", false, false, false, false),
                 "'<s>' has id 7, but the reference gives it 1");
    refuse_added(ADDED(300, "<x>", false, false, false, false), "gives it 266 (the next free id)");
    refuse_added(ADDED(-1, "<x>", false, false, false, false), "id -1");
    refuse_added(ADDED(266, "", false, false, false, false), "an empty added token");
    refuse_added(ADDED(266, "<x>", false, false, false, false) ", " ADDED(267, "<x>", false, false,
                                                                          true, false),
                 "'<x>' is there twice");
    refuse_added("{\"id\": 266, \"content\": \"<x>\"}", "\"single_word\" is missing");
    refuse_added("{\"content\": \"<x>\"}", "\"id\" is missing");
    refuse_added("7", "\"id\" is missing");
    expect_refused((parts){.normalizer =
                               "{\"type\": \"Replace\", \"pattern\": {\"String\": \"x\"}, "
                               "\"content\": \"\"}",
                           .added = ADDED(266, "xx", false, false, false, true)},
                   "nothing is left of added token 'xx'", "normalizer");
    expect_refused((parts){.normalizer = "{\"type\": \"NFC\"}",
                           .added = ADDED(266, "\u00e9", false, false, false, true) ", " ADDED(
                               267, "e\u0301", false, false, false, true)},
                   "are the same after the normalizer", "added tokens");
    EXPECT_NO_LEAKS();
}

Test(tokenizer_refusals, post_processors)
{
    refuse_processor("{\"type\": \"BertProcessing\"}", "type 'BertProcessing' is not implemented");
    refuse_processor("{\"type\": \"TemplateProcessing\"}", "\"single\" [...]");
    refuse_processor("{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
                     "\"<s>\"}}, {\"SpecialToken\": {\"id\": \"</s>\"}}]}",
                     "more than one special token before the text (the first is '<s>')");
    refuse_processor("{\"type\": \"Sequence\", \"processors\": [" BOS_TEMPLATE ", " BOS_TEMPLATE
                     "]}",
                     "more than one special token");
    refuse_processor("{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
                     "\"<s>\"}}], \"special_tokens\": {\"<s>\": {\"ids\": [5]}}}",
                     "special token '<s>' are not [1]");
    EXPECT_NO_LEAKS();
}

Test(tokenizer_refusals, a_config_that_contradicts_the_template)
{
    char *dir = scratch_make();
    mp_tokenizer *tokenizer = NULL;

    write_text(path_in(dir, "tokenizer.json"),
               tokenizer_json((parts){.post_processor = BOS_TEMPLATE}));
    write_text(path_in(dir, "tokenizer_config.json"), "{\"bos_token\": \"</s>\"}");
    EXPECT_FAILURE(mp_tokenizer_load(dir, &tokenizer), MP_ERR_FORMAT, "tokenizer_config.json",
                   "bos_token has id 2", "begins with 1");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}
