#include "mpress/corpus.h"

#include "mpress/safetensors.h"

#include "helpers.h"

#define MODEL MPRESS_DATA "/wikillama-5m"
#define CALIB MODEL "/sample-calib.jsonl"
#define EVAL MODEL "/sample-eval.jsonl"

enum { MODEL_BOS = 4094 };

/* Draws and tokens made with CPython 3.11's random and Hugging Face's tokenizers 0.23.3; the sum is
 * the CRC-32C of the tokens as little-endian 32-bit integers.  A path "text" means the bytes of
 * sample-calib.jsonl under the name of a .txt file. */
static const struct known {
    const char *path;
    int evaluation;
    uint64_t seed;
    int64_t nsamples, seqlen;
    mp_bos bos;
    int64_t count;
    int64_t first[3][2]; /* document and offset of the first three windows */
    int64_t last[2];
    uint32_t crc;
} known[] = {
    {CALIB, 0, 0, 6, 256, MP_BOS_AUTO, 6, {{5, 1}, {36, 0}, {63, 1}}, {28, 0}, 0x97dbe526},
    {CALIB, 0, 42, 6, 256, MP_BOS_OFF, 6, {{14, 0}, {31, 0}, {28, 1}}, {8, 0}, 0x4e3e7174},
    {CALIB, 0, 4294967301, 4, 256, MP_BOS_ON, 4, {{63, 0}, {31, 0}, {14, 0}}, {31, 0}, 0xc33cb3d8},
    {EVAL, 0, 3, 4, 256, MP_BOS_AUTO, 4, {{94, 1}, {3, 3}, {66, 0}}, {59, 0}, 0x65a676ca},
    {CALIB,
     0,
     233,
     0,
     64,
     MP_BOS_AUTO,
     128,
     {{22, 134}, {29, 123}, {26, 21}},
     {37, 105},
     0x515b5b9f},
    {"text",
     0,
     0,
     5,
     128,
     MP_BOS_AUTO,
     5,
     {{0, 12623}, {0, 13781}, {0, 1326}},
     {0, 16753},
     0x47a5cd25},
    {"text", 0, 42, 5, 0, MP_BOS_OFF, 5, {{0, 10476}, {0, 1824}, {0, 409}}, {0, 4506}, 0x041cd8ac},
    {"text",
     0,
     3,
     128,
     128,
     MP_BOS_ON,
     128,
     {{0, 7797}, {0, 4273}, {0, 12122}},
     {0, 12096},
     0x36b49042},
    {EVAL, 1, 0, 0, 512, MP_BOS_AUTO, 79, {{0, 0}, {0, 512}, {0, 1024}}, {0, 39936}, 0x9ba9c686},
    {EVAL, 1, 0, 5, 512, MP_BOS_AUTO, 5, {{0, 0}, {0, 512}, {0, 1024}}, {0, 2048}, 0x31ae2771},
    {"text", 1, 0, 0, 64, MP_BOS_ON, 283, {{0, 0}, {0, 63}, {0, 126}}, {0, 17766}, 0x479eb642},
    {"text", 1, 0, 0, 64, MP_BOS_OFF, 279, {{0, 0}, {0, 64}, {0, 128}}, {0, 17792}, 0xdcb2597c},
    {"text", 1, 0, 0, 100, MP_BOS_AUTO, 178, {{0, 0}, {0, 100}, {0, 200}}, {0, 17700}, 0x3367859b},
};

static void expect_known(const struct known *k, const char *path)
{
    const mp_corpus_request request = {.path = path,
                                       .model = MODEL,
                                       .nsamples = k->nsamples,
                                       .seqlen = k->seqlen,
                                       .vocabulary = 4096,
                                       .seed = k->seed,
                                       .bos = k->bos};
    mp_windows w = {0};
    int row = (int)(k - known);

    EXPECT_OK(k->evaluation ? mp_corpus_evaluation(&request, &w)
                            : mp_corpus_calibration(&request, &w));
    cr_assert_eq(w.count, k->count, "row %d", row);
    cr_assert_eq(w.seqlen, k->seqlen > 0 ? k->seqlen : 2048, "row %d", row);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(w.document[i], k->first[i][0], "row %d", row);
        cr_assert_eq(w.offset[i], k->first[i][1], "row %d", row);
    }
    cr_assert_eq(w.document[w.count - 1], k->last[0], "row %d", row);
    cr_assert_eq(w.offset[w.count - 1], k->last[1], "row %d", row);
    for (int64_t i = 0; k->bos == MP_BOS_ON && i < w.count; i++)
        cr_assert_eq(w.tokens[i * w.seqlen], MODEL_BOS, "row %d", row);
    cr_assert_eq(mp_windows_crc32c(&w), k->crc, "row %d: %x", row, mp_windows_crc32c(&w));
    mp_windows_free(&w);
}

Test(corpus, windows_are_those_that_python_draws)
{
    const char *dir = scratch_make(), *text = path_in(dir, "calib.txt");

    EXPECT_OK(mp_file_copy(CALIB, text));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        expect_known(&known[i], strcmp(known[i].path, "text") == 0 ? text : known[i].path);
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

/* Calibration on `path` with the model of the repository. */
static mp_status calibrate(const char *path, int64_t nsamples, int64_t seqlen)
{
    const mp_corpus_request request = {
        .path = path, .model = MODEL, .nsamples = nsamples, .seqlen = seqlen, .vocabulary = 4096};
    mp_windows w = {0};
    mp_status st = mp_corpus_calibration(&request, &w);

    cr_assert(st == MP_OK || w.tokens == NULL, "a failure left windows behind");
    mp_windows_free(&w);
    return st;
}

static mp_status evaluate(const char *path, int64_t nsamples, int64_t seqlen)
{
    const mp_corpus_request request = {
        .path = path, .model = MODEL, .nsamples = nsamples, .seqlen = seqlen, .vocabulary = 4096};
    mp_windows w = {0};
    mp_status st = mp_corpus_evaluation(&request, &w);

    cr_assert(st == MP_OK || w.tokens == NULL, "a failure left windows behind");
    mp_windows_free(&w);
    return st;
}

/* The reference would draw forever. The longest of the 160 texts has 261 tokens with its BOS. */
Test(corpus, documents_that_are_all_too_short_end_in_an_error, .timeout = 60)
{
    EXPECT_FAILURE(calibrate(EVAL, 4, 512), MP_ERR_FORMAT, EVAL, "160 documents", "261 tokens",
                   "window of 512");
    EXPECT_FAILURE(calibrate(EVAL, 4, 261), MP_ERR_FORMAT, "window of 261");
    EXPECT_OK(calibrate(EVAL, 4, 260));
    EXPECT_NO_LEAKS();
}

Test(corpus, a_stream_must_be_longer_than_a_window_and_an_evaluation_as_long)
{
    const char *dir = scratch_make(), *path = path_in(dir, "a.txt");

    write_text(path, "a"); /* two tokens: the BOS and the letter */
    EXPECT_FAILURE(calibrate(path, 1, 2), MP_ERR_FORMAT, "a.txt", "2 tokens", "window of 2");
    EXPECT_OK(calibrate(path, 1, 1));
    EXPECT_FAILURE(evaluate(path, 0, 3), MP_ERR_FORMAT, "a.txt", "2 tokens", "window of 3");
    EXPECT_OK(evaluate(path, 0, 2));
    write_text(path, "");
    EXPECT_FAILURE(calibrate(path, 1, 8), MP_ERR_FORMAT, "a.txt", "1 tokens");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(corpus, requests_that_make_no_sense_are_usage_errors)
{
    mp_corpus_request request = {.path = CALIB, .nsamples = 1, .seqlen = 16};
    mp_windows w = {0};
    mp_bos bos;

    EXPECT_FAILURE(calibrate("a.csv", 1, 8), MP_ERR_ARG, "a.csv", ".safetensors, .txt or .jsonl");
    EXPECT_FAILURE(calibrate(CALIB, -1, 8), MP_ERR_ARG, "-1 windows", "at least 1");
    EXPECT_FAILURE(calibrate(CALIB, 1, -8), MP_ERR_ARG, "-8 tokens", "at least 1");
    EXPECT_FAILURE(evaluate(CALIB, 1, 1), MP_ERR_ARG, "1 token", "at least 2");
    EXPECT_FAILURE(calibrate(CALIB, INT64_MAX / 2, 8), MP_ERR_ARG, "too many");
    EXPECT_FAILURE(calibrate("none.jsonl", 1, 8), MP_ERR_IO, "none.jsonl", "No such file");
    EXPECT_FAILURE(mp_corpus_calibration(&request, &w), MP_ERR_ARG, "tokenizer");
    request.model = "/nowhere";
    EXPECT_FAILURE(mp_corpus_calibration(&request, &w), MP_ERR_IO, "/nowhere");
    request = (mp_corpus_request){.path = CALIB, .model = MODEL, .seqlen = 1, .bos = MP_BOS_ON};
    EXPECT_FAILURE(mp_corpus_calibration(&request, &w), MP_ERR_ARG, "at least 2");
    EXPECT_OK(mp_bos_parse("on", &bos));
    cr_assert_eq(bos, MP_BOS_ON);
    EXPECT_FAILURE(mp_bos_parse("yes", &bos), MP_ERR_ARG, "--bos yes", "auto, on or off");
    EXPECT_NO_LEAKS();
}

Test(corpus, a_tokenizer_without_bos_cannot_put_one_in_front)
{
    mp_corpus_request request = {.path = CALIB, .nsamples = 1, .seqlen = 16, .bos = MP_BOS_ON};
    const char *dir = scratch_make();
    mp_windows w = {0};

    write_text(path_in(dir, "vocab.json"), "{\"a\": 0, \"b\": 1, \"ab\": 2}");
    write_text(path_in(dir, "merges.txt"), "#version: 0.2\na b\n");
    request.model = dir;
    EXPECT_FAILURE(mp_corpus_calibration(&request, &w), MP_ERR_ARG, "--bos on", dir, "no BOS");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

/* A token file [rows, length] (rows = 0: a stream) whose token at flat place i is i + 10. */
static const char *token_file(const char *dir, int64_t rows, int64_t length)
{
    const char *path = path_in(dir, "t.safetensors");
    int64_t count = rows > 0 ? rows * length : length;
    int32_t *tokens = malloc((size_t)count * sizeof *tokens);
    mp_tensor_info info = {.name = "tokens", .dtype = MP_I32, .ndim = 1, .shape = {count}};
    const void *data[1];

    if (rows > 0)
        info =
            (mp_tensor_info){.name = "tokens", .dtype = MP_I32, .ndim = 2, .shape = {rows, length}};
    for (int64_t i = 0; i < count; i++) tokens[i] = (int32_t)i + 10;
    data[0] = tokens;
    EXPECT_OK(mp_safetensors_write(path, &info, data, 1));
    free(tokens);
    return path;
}

Test(corpus, rows_of_a_token_file_are_the_windows_and_seqlen_takes_prefixes)
{
    const char *dir = scratch_make();
    mp_corpus_request request = {.path = token_file(dir, 5, 7), .bos = MP_BOS_ON};
    mp_windows w = {0};

    EXPECT_OK(mp_corpus_calibration(&request, &w));
    cr_assert(w.count == 5 && w.seqlen == 7);
    for (int i = 0; i < 35; i++) cr_assert_eq(w.tokens[i], i + 10);
    cr_assert(w.document[3] == 3 && w.offset[3] == 0);
    mp_windows_free(&w);
    request.nsamples = 3;
    request.seqlen = 4;
    EXPECT_OK(mp_corpus_calibration(&request, &w));
    cr_assert(w.count == 3 && w.seqlen == 4);
    for (int i = 0; i < 12; i++) cr_assert_eq(w.tokens[i], i / 4 * 7 + i % 4 + 10);
    mp_windows_free(&w);
    EXPECT_FAILURE(calibrate(request.path, 6, 7), MP_ERR_ARG, "6 windows of 7", "holds 5 of 7");
    EXPECT_FAILURE(calibrate(request.path, 5, 8), MP_ERR_ARG, "5 windows of 8", "holds 5 of 7");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

/* random.seed(42): [random.randint(0, 100 - 10 - 1) for _ in range(4)] */
Test(corpus, a_token_stream_is_sampled_like_a_text)
{
    static const int64_t starts[] = {81, 14, 3, 35};
    const char *dir = scratch_make();
    const mp_corpus_request request = {
        .path = token_file(dir, 0, 100), .nsamples = 4, .seqlen = 10, .seed = 42};
    mp_windows w = {0};

    EXPECT_OK(mp_corpus_calibration(&request, &w));
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(w.offset[i], starts[i]);
        for (int j = 0; j < 10; j++) cr_assert_eq(w.tokens[10 * i + j], starts[i] + j + 10);
    }
    mp_windows_free(&w);
    EXPECT_FAILURE(calibrate(request.path, 1, 100), MP_ERR_FORMAT, "100 tokens", "window of 100");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(corpus, evaluation_reads_the_rows_of_a_token_file_as_one_stream)
{
    const char *dir = scratch_make();
    mp_corpus_request request = {.path = token_file(dir, 5, 7)};
    mp_windows w = {0};

    EXPECT_OK(mp_corpus_evaluation(&request, &w));
    cr_assert(w.count == 5 && w.seqlen == 7);
    mp_windows_free(&w);
    request.nsamples = 4;
    EXPECT_OK(mp_corpus_evaluation(&request, &w));
    cr_assert_eq(w.count, 4);
    mp_windows_free(&w);
    request.nsamples = 0;
    request.seqlen = 8;
    EXPECT_OK(mp_corpus_evaluation(&request, &w));
    cr_assert(w.count == 4 && w.seqlen == 8);
    for (int i = 0; i < 32; i++) cr_assert_eq(w.tokens[i], i + 10);
    mp_windows_free(&w);
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(corpus, an_id_outside_the_vocabulary_is_named_with_its_place)
{
    const char *dir = scratch_make();
    mp_corpus_request request = {.path = token_file(dir, 5, 7), .vocabulary = 33};
    mp_windows w = {0};

    EXPECT_FAILURE(mp_corpus_calibration(&request, &w), MP_ERR_FORMAT, "t.safetensors",
                   "tensor \"tokens\"", "row 3, position 2:", "id 33", "0 .. 32", "vocabulary 33");
    request.seqlen = 6;
    EXPECT_FAILURE(mp_corpus_evaluation(&request, &w), MP_ERR_FORMAT,
                   "row 3, position 2:", "id 33");
    request.seqlen = 2; /* these prefixes end before the id that is out of range */
    request.nsamples = 4;
    EXPECT_OK(mp_corpus_calibration(&request, &w));
    mp_windows_free(&w);
    request = (mp_corpus_request){.path = CALIB, .model = MODEL, .seqlen = 64, .vocabulary = 100};
    EXPECT_FAILURE(mp_corpus_calibration(&request, &w), MP_ERR_FORMAT, "sample-calib.jsonl",
                   "document", "position", "vocabulary 100");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

static void write_tokens(const char *path, const mp_tensor_info *info, const void *data)
{
    const void *const all[] = {data};

    EXPECT_OK(mp_safetensors_write(path, info, all, 1));
}

Test(corpus, a_token_file_of_another_kind_is_refused)
{
    const char *dir = scratch_make(), *path = path_in(dir, "t.safetensors");
    const int64_t zeros[8] = {0};
    const int32_t negative[2] = {3, -1};

    write_tokens(path,
                 &(mp_tensor_info){.name = "tokens", .dtype = MP_I64, .ndim = 2, .shape = {2, 4}},
                 zeros);
    EXPECT_FAILURE(calibrate(path, 0, 0), MP_ERR_FORMAT, "\"tokens\" is I64", "I32");
    write_tokens(
        path, &(mp_tensor_info){.name = "tokens", .dtype = MP_I32, .ndim = 3, .shape = {2, 2, 2}},
        zeros);
    EXPECT_FAILURE(calibrate(path, 0, 0), MP_ERR_FORMAT, "3 dimensions", "[n, L] or [N]");
    write_tokens(path,
                 &(mp_tensor_info){.name = "tokens", .dtype = MP_I32, .ndim = 2, .shape = {0, 4}},
                 zeros);
    EXPECT_FAILURE(calibrate(path, 0, 0), MP_ERR_FORMAT, "\"tokens\" is empty");
    write_tokens(
        path, &(mp_tensor_info){.name = "ids", .dtype = MP_I32, .ndim = 2, .shape = {2, 4}}, zeros);
    EXPECT_FAILURE(calibrate(path, 0, 0), MP_ERR_FORMAT, "\"tokens\" is missing");
    write_tokens(path,
                 &(mp_tensor_info){.name = "tokens", .dtype = MP_I32, .ndim = 2, .shape = {1, 2}},
                 negative);
    EXPECT_FAILURE(calibrate(path, 0, 0), MP_ERR_FORMAT, "row 0, position 1", "id -1");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(corpus, windows_that_were_kept_come_back_with_their_origins)
{
    const char *dir = scratch_make(), *path = path_in(dir, "calib.safetensors");
    mp_corpus_request request = {
        .path = CALIB, .model = MODEL, .nsamples = 6, .seqlen = 65, .vocabulary = 4096};
    mp_windows drawn = {0}, back = {0};

    EXPECT_OK(mp_corpus_calibration(&request, &drawn));
    EXPECT_OK(mp_windows_write(path, &drawn));
    request = (mp_corpus_request){.path = path, .vocabulary = 4096};
    EXPECT_OK(mp_corpus_calibration(&request, &back));
    cr_assert(back.count == 6 && back.seqlen == 65);
    cr_assert_eq(mp_windows_crc32c(&back), mp_windows_crc32c(&drawn));
    cr_assert_arr_eq(back.tokens, drawn.tokens, 6 * 65 * sizeof *back.tokens);
    cr_assert_arr_eq(back.document, drawn.document, 6 * sizeof *back.document);
    cr_assert_arr_eq(back.offset, drawn.offset, 6 * sizeof *back.offset);
    mp_windows_free(&drawn);
    mp_windows_free(&back);
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(corpus, origins_that_do_not_fit_the_rows_are_refused)
{
    const char *dir = scratch_make(), *path = path_in(dir, "t.safetensors");
    const mp_tensor_info infos[] = {
        {.name = "document", .dtype = MP_I64, .ndim = 1, .shape = {3}},
        {.name = "tokens", .dtype = MP_I32, .ndim = 2, .shape = {2, 4}}};
    const int64_t numbers[4] = {0};
    const void *const data[] = {numbers, numbers};

    EXPECT_OK(mp_safetensors_write(path, infos, data, 2));
    EXPECT_FAILURE(calibrate(path, 0, 0), MP_ERR_FORMAT, "\"document\"", "3 elements", "I64 [2]");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(corpus, a_whole_file_is_one_stream_with_one_bos_at_most)
{
    const char *dir = scratch_make(), *path = path_in(dir, "a.jsonl"),
               *joined = path_in(dir, "a.txt");
    mp_corpus_request request = {.path = path, .model = MODEL, .bos = MP_BOS_ON};
    int32_t *tokens = NULL, *other = NULL;
    int64_t count = 0, others = 0;

    write_text(path, "{\"text\": \"one two\"}\n\n{\"text\": \"three\"}");
    write_text(joined, "one two\n\nthree");
    EXPECT_OK(mp_corpus_stream(&request, &tokens, &count));
    cr_assert_eq(tokens[0], MODEL_BOS);
    request.path = joined;
    request.bos = MP_BOS_OFF;
    EXPECT_OK(mp_corpus_stream(&request, &other, &others));
    cr_assert_eq(others, count - 1);
    cr_assert_arr_eq(other, tokens + 1, (size_t)others * sizeof *tokens);
    mp_free(tokens);
    mp_free(other);
    request.path = token_file(dir, 1, 4);
    EXPECT_FAILURE(mp_corpus_stream(&request, &tokens, &count), MP_ERR_ARG, "tokens already");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}
