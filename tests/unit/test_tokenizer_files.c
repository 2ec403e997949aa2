#include "tokenizer_helpers.h"

/* Directories: the real tokenizers of the reference material, and vocab.json with merges.txt. */

TestSuite(tokenizer_files, .timeout = 120);

/* Criterion itself tells of a skipped test only when it is verbose; a warning of its own would count as
 * a failure. */
static void skip(const char *missing)
{
    fprintf(stderr, "skipped: %s is absent\n", missing);
    cr_skip_test("skipped: %s is absent", missing);
}

static const char separator[] = "\n__ggml_vocab_test__\n";

/* One case and its line of ids; both move on.  Returns 0 behind the last case. */
static int next_case(char **cases, char **lines, char **text, char **ids)
{
    char *end = strstr(*cases, separator), *line_end = strchr(*lines, '\n');

    if (end == NULL || line_end == NULL) return 0;
    *end = '\0';
    *line_end = '\0';
    *text = *cases;
    *ids = *lines + strspn(*lines, " ");
    *cases = end + strlen(separator);
    *lines = line_end + 1;
    return 1;
}

static void expect_vectors(const char *name)
{
    mp_tokenizer *tokenizer = NULL;
    char dir[256], *inputs, *outputs, *cases, *lines, *text, *ids;
    size_t length;
    int count = 0;

    snprintf(dir, sizeof dir, MPRESS_SHARED "/tokenizers/%s", name);
    if (!mp_path_exists(path_in(dir, "vectors.inp"))) skip(dir);
    EXPECT_OK(mp_tokenizer_load(dir, &tokenizer));
    EXPECT_OK(mp_file_read(path_in(dir, "vectors.inp"), 1 << 20, &inputs, &length));
    EXPECT_OK(mp_file_read(path_in(dir, "vectors.out"), 1 << 20, &outputs, &length));
    cases = inputs;
    lines = outputs;
    for (; next_case(&cases, &lines, &text, &ids); count++) expect_ids(tokenizer, text, ids);
    cr_assert_eq(count, 46, "%s: %d cases", name, count);
    cr_assert_eq(*lines, '\0', "%s: more lines of ids than cases", name);
    mp_free(inputs);
    mp_free(outputs);
    mp_tokenizer_free(tokenizer);
    EXPECT_NO_LEAKS();
}

Test(tokenizer_files, the_vectors_of_gpt2_hold)
{
    expect_vectors("gpt2");
}

Test(tokenizer_files, the_vectors_of_llama2_hold)
{
    expect_vectors("llama2");
}

Test(tokenizer_files, the_vectors_of_llama3_hold)
{
    expect_vectors("llama3");
}

Test(tokenizer_files, the_vectors_of_phi3_hold)
{
    expect_vectors("phi3");
}

Test(tokenizer_files, the_vectors_of_qwen3_hold)
{
    expect_vectors("qwen3");
}

/* TinyLlama's file comes without vectors; these are the reference's ids. */
Test(tokenizer_files, tinyllama_prepends_its_mark_at_the_first_place_only)
{
    mp_tokenizer *tokenizer = NULL;

    if (!mp_path_exists(MPRESS_SHARED "/tokenizers/tinyllama/tokenizer.json"))
        skip(MPRESS_SHARED "/tokenizers/tinyllama");
    EXPECT_OK(mp_tokenizer_load(MPRESS_SHARED "/tokenizers/tinyllama", &tokenizer));
    expect_ids(tokenizer, "Hello world<s>Hello</s> x\n", "15043 3186 1 10994 2 921 13");
    cr_assert_eq(mp_tokenizer_bos(tokenizer), 1);
    cr_assert_eq(mp_tokenizer_adds_bos(tokenizer), 1);
    cr_assert_eq(mp_tokenizer_size(tokenizer), 32000);
    mp_tokenizer_free(tokenizer);
    EXPECT_NO_LEAKS();
}

static const char vocab[] =
    "{\"\u0120\": 0, \"a\": 1, \"b\": 2, \"\u0120a\": 3, \"ab\": 4, \"<|endoftext|>\": 5, "
    "\"1\": 6, \"11\": 7, \"\u00c3\": 8, \"\u00a9\": 9, \"e\": 10}";
static const char merges[] = "#version: 0.2\n\u0120 a\na b\n1 1\n";

/* A directory with these files (NULL: without). */
static char *make_directory(const char *merges_text, const char *config, const char *added)
{
    char *dir = scratch_make();

    write_text(path_in(dir, "vocab.json"), vocab);
    write_text(path_in(dir, "merges.txt"), merges_text);
    if (config != NULL) write_text(path_in(dir, "tokenizer_config.json"), config);
    if (added != NULL) write_text(path_in(dir, "added_tokens.json"), added);
    return dir;
}

static mp_tokenizer *load_files(const char *merges_text, const char *config, const char *added)
{
    char *dir = make_directory(merges_text, config, added);
    mp_tokenizer *tokenizer = NULL;

    EXPECT_OK(mp_tokenizer_load(dir, &tokenizer));
    scratch_remove(dir);
    return tokenizer;
}

Test(tokenizer_files, without_a_class_the_split_is_that_of_gpt2)
{
    mp_tokenizer *tokenizer = load_files(merges, NULL, NULL);

    expect_ids(tokenizer, " ab ab<|endoftext|> a11", "3 2 3 2 5 3 7");
    expect_ids(tokenizer, "e\u0301", "10"); /* no normaliser: U+0301 is dropped */
    cr_assert_eq(mp_tokenizer_bos(tokenizer), 5);
    cr_assert_eq(mp_tokenizer_adds_bos(tokenizer), 0);
    mp_tokenizer_free(tokenizer);
    EXPECT_NO_LEAKS();
}

Test(tokenizer_files, merges_may_end_in_cr_lf_and_have_blank_lines)
{
    mp_tokenizer *tokenizer = load_files("\u0120 a\r\n\r\na b\r\n\r\n1 1", NULL, NULL);

    expect_ids(tokenizer, " ab ab11", "3 2 3 2 7");
    mp_tokenizer_free(tokenizer);
    EXPECT_NO_LEAKS();
}

Test(tokenizer_files, gpt2_honours_its_prefix_space_and_a_bos_of_none)
{
    mp_tokenizer *tokenizer =
        load_files(merges,
                   "{\"tokenizer_class\": \"GPT2TokenizerFast\", \"add_prefix_space\": true, "
                   "\"bos_token\": null}",
                   NULL);

    expect_ids(tokenizer, "ab<|endoftext|>ab", "3 2 5 3 2");
    cr_assert_eq(mp_tokenizer_bos(tokenizer), -1);
    mp_tokenizer_free(tokenizer);
    EXPECT_NO_LEAKS();
}

Test(tokenizer_files, qwen2_splits_digits_and_composes)
{
    static const char *const classes[] = {"Qwen2Tokenizer", "Qwen2TokenizerFast"};

    for (int i = 0; i < 2; i++) {
        char config[64];
        mp_tokenizer *tokenizer;

        snprintf(config, sizeof config, "{\"tokenizer_class\": \"%s\"}", classes[i]);
        tokenizer = load_files(merges, config, NULL);
        expect_ids(tokenizer, "a11 e\u0301", "1 6 6 0 8 9");
        cr_assert_eq(mp_tokenizer_bos(tokenizer), -1);
        mp_tokenizer_free(tokenizer);
    }
    EXPECT_NO_LEAKS();
}

Test(tokenizer_files, added_tokens_come_from_both_files_with_the_flags_of_the_config)
{
    mp_tokenizer *tokenizer = load_files(
        merges,
        "{\"added_tokens_decoder\": {\"12\": {\"content\": \"<y>\", \"lstrip\": true, \"rstrip\": "
        "false, \"single_word\": false, \"normalized\": false, \"special\": true}}, "
        "\"bos_token\": \"<y>\", \"add_bos_token\": true, "
        "\"model_max_length\": 1000000000000000019884624838656}",
        "{\"<y>\": 12, \"<x>\": 11}");

    expect_ids(tokenizer, "a <x> <y>a", "1 0 11 12 1");
    cr_assert_eq(mp_tokenizer_size(tokenizer), 13);
    cr_assert_eq(mp_tokenizer_bos(tokenizer), 12);
    cr_assert_eq(mp_tokenizer_adds_bos(tokenizer), 1);
    mp_tokenizer_free(tokenizer);
    EXPECT_NO_LEAKS();
}

static void expect_refused(mp_status status, const char *merges_text, const char *config,
                           const char *added, const char *message, const char *more)
{
    char *dir = make_directory(merges_text, config, added);
    mp_tokenizer *tokenizer = NULL;

    EXPECT_FAILURE(mp_tokenizer_load(dir, &tokenizer), status, message, more);
    cr_assert_null(tokenizer);
    scratch_remove(dir);
}

Test(tokenizer_files, what_does_not_fit_in_them_is_refused_by_name)
{
    const mp_status bad = MP_ERR_FORMAT;

    expect_refused(bad, merges, "{\"tokenizer_class\": \"LlamaTokenizer\"}", NULL,
                   "tokenizer_config.json", "'LlamaTokenizer' is not implemented");
    expect_refused(bad, merges, "{\"tokenizer_class\": 7}", NULL, "tokenizer_class", "7");
    expect_refused(bad, merges,
                   "{\"tokenizer_class\": \"Qwen2Tokenizer\", \"add_prefix_space\": true}", NULL,
                   "add_prefix_space", "Qwen2Tokenizer");
    expect_refused(bad, "a q\n", NULL, NULL, "merges.txt", "'q', not in the vocabulary");
    expect_refused(bad, "a\n", NULL, NULL, "merge 0 is 'a'", "two tokens");
    expect_refused(bad, "a b\na \n", NULL, NULL, "merge 1", "''");
    expect_refused(bad, "a \xff\n", NULL, NULL, "merges.txt", "not valid UTF-8");
    expect_refused(bad, merges, NULL, "{\"<x>\": 12}", "'<x>' has id 12", "gives it 11");
    expect_refused(bad, merges, NULL, "{\"<x>\": 1.5}", "added_tokens.json", "no integer");
    expect_refused(bad, merges, NULL, "{\"<x>\": 11, \"<y>\": 11}", "'<y>'", "'<x>' has 11");
    expect_refused(bad, merges, "{\"added_tokens_decoder\": {\"1x\": {\"content\": \"a\"}}}", NULL,
                   "added_tokens_decoder", "'1x' is no id");
    expect_refused(bad, merges, "{\"added_tokens_decoder\": {\"11\": {\"content\": \"x\"}}}", NULL,
                   "tokenizer_config.json", "\"single_word\" is missing");
    expect_refused(bad, merges, "{\"bos_token\": \"<q>\"}", NULL, "bos_token '<q>'",
                   "not in the vocabulary");
    expect_refused(bad, merges, "{\"bos_token\": null, \"add_bos_token\": true}", NULL,
                   "add_bos_token is true", "no bos_token");
    EXPECT_NO_LEAKS();
}

Test(tokenizer_files, a_directory_without_a_tokenizer_is_named_with_what_was_looked_for)
{
    char *dir = scratch_make();
    mp_tokenizer *tokenizer = NULL;

    EXPECT_FAILURE(mp_tokenizer_load(dir, &tokenizer), MP_ERR_IO, dir, "tokenizer.json",
                   "vocab.json with merges.txt");
    write_text(path_in(dir, "vocab.json"), vocab); /* without merges.txt it is no tokenizer */
    EXPECT_FAILURE(mp_tokenizer_load(dir, &tokenizer), MP_ERR_IO, dir, "merges.txt");
    write_text(path_in(dir, "tokenizer.json"), "{\"model\": ");
    EXPECT_FAILURE(mp_tokenizer_load(dir, &tokenizer), MP_ERR_FORMAT, "tokenizer.json",
                   "not valid JSON");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}
