#include "mpress/safetensors.h"

#include "helpers.h"

#include <fcntl.h>
#include <glob.h>
#include <unistd.h>

/* A file with this header and `size` bytes of data 0, 1, 2, ... */
static void write_file(const char *path, const char *header, size_t size)
{
    size_t length = strlen(header), total = 8 + length + size;
    unsigned char *bytes = malloc(total);

    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(length >> 8 * i);
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < size; i++) bytes[8 + length + i] = (unsigned char)i;
    write_bytes(path, bytes, total);
    free(bytes);
}

static mp_status open_path(const char *path)
{
    mp_source *source = NULL;
    mp_status st = mp_safetensors_open(path, &source);

    mp_source_close(&source);
    return st;
}

static const char TWO[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                          "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                          "\"a\":{\"dtype\":\"BF16\",\"shape\":[],\"data_offsets\":[24,26]},"
                          "\"e\":{\"dtype\":\"I8\",\"shape\":[0,5],\"data_offsets\":[24,24]}}";

Test(safetensors, a_file_offers_its_tensors_in_the_order_of_names)
{
    const char *dir = scratch_make(), *path = path_in(dir, "x.safetensors");
    mp_source *source = NULL;
    const mp_tensor_info *info;
    unsigned char bytes[24];

    write_file(path, TWO, 26);
    EXPECT_OK(mp_safetensors_open(path, &source));
    cr_assert_eq(source->count, 3);
    cr_assert_str_eq(source->path, path);
    cr_assert_eq(mp_source_find(source, "a"), 0);
    cr_assert_eq(mp_source_find(source, "b"), 1);
    cr_assert_eq(mp_source_find(source, "e"), 2);
    cr_assert_eq(mp_source_find(source, "__metadata__"), -1);
    info = source->at(source->self, 1);
    cr_assert(info->dtype == MP_F32 && info->ndim == 2 && info->shape[0] == 2 &&
              info->shape[1] == 3);
    cr_assert_eq(mp_tensor_bytes(info), 24);
    cr_assert_eq(mp_tensor_elements(source->at(source->self, 0)), 1);
    cr_assert_eq(mp_tensor_elements(source->at(source->self, 2)), 0);
    source->prefetch(source->self, 1);
    EXPECT_OK(source->read(source->self, 1, 0, 24, bytes));
    for (int i = 0; i < 24; i++) cr_assert_eq(bytes[i], i);
    EXPECT_OK(source->read(source->self, 0, 0, 2, bytes));
    cr_assert(bytes[0] == 24 && bytes[1] == 25);
    EXPECT_OK(source->read(source->self, 1, 5, 3, bytes));
    cr_assert(bytes[0] == 5 && bytes[2] == 7);
    mp_source_close(&source);
    cr_assert_null(source);
    mp_source_close(&source);
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(safetensors, reads_outside_a_tensor_are_refused)
{
    const char *dir = scratch_make(), *path = path_in(dir, "x.safetensors");
    mp_source *source = NULL;
    char bytes[32];

    write_file(path, TWO, 26);
    EXPECT_OK(mp_safetensors_open(path, &source));
    EXPECT_FAILURE(source->read(source->self, 1, 0, 25, bytes), MP_ERR_INTERNAL, "\"b\"", "25",
                   "24");
    EXPECT_FAILURE(source->read(source->self, 1, 20, 5, bytes), MP_ERR_INTERNAL, "\"b\"");
    EXPECT_FAILURE(source->read(source->self, 1, -1, 2, bytes), MP_ERR_INTERNAL, "\"b\"");
    EXPECT_FAILURE(source->read(source->self, 1, INT64_MAX, INT64_MAX, bytes), MP_ERR_INTERNAL,
                   "\"b\"");
    EXPECT_FAILURE(source->read(source->self, 3, 0, 1, bytes), MP_ERR_INTERNAL, "tensor 3 of 3");
    EXPECT_FAILURE(source->read(source->self, -1, 0, 1, bytes), MP_ERR_INTERNAL, "tensor -1");
    mp_source_close(&source);
    scratch_remove(dir);
}

Test(safetensors, a_file_cut_short_after_opening_is_an_error_and_not_zeros)
{
    const char *dir = scratch_make(), *path = path_in(dir, "x.safetensors");
    mp_source *source = NULL;
    char bytes[32];

    write_file(path, TWO, 26);
    EXPECT_OK(mp_safetensors_open(path, &source));
    cr_assert_eq(truncate(path, (off_t)(8 + strlen(TWO) + 10)), 0);
    EXPECT_FAILURE(source->read(source->self, 1, 0, 24, bytes), MP_ERR_FORMAT, "x.safetensors",
                   "ends 14 bytes before");
    mp_source_close(&source);
    scratch_remove(dir);
}

#define ENTRY(dtype, shape, offsets)                                                               \
    "{\"t\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static const struct {
    const char *header;
    size_t size; /* bytes of data */
    const char *message[3];
} lies[] = {
    {"{", 0, {"not valid JSON"}},
    {"[]", 0, {"not an object"}},
    {"{\"t\":1}", 0, {"\"t\"", "expected an object"}},
    {"{\"t\":{}}", 0, {"tensor \"t\"", "\"dtype\"", "missing"}},
    {ENTRY("F4", "[2]", "[0,1]"), 1, {"tensor \"t\"", "dtype \"F4\"", "BF16"}},
    {ENTRY("F32", "3", "[0,12]"), 12, {"tensor \"t\"", "\"shape\" is no list"}},
    {ENTRY("F32", "[-3]", "[0,12]"), 12, {"tensor \"t\"", "dimension 0", ">= 0"}},
    {ENTRY("F32", "[1,1.5]", "[0,4]"), 4, {"tensor \"t\"", "dimension 1", "whole number"}},
    {ENTRY("F32", "[1,\"2\"]", "[0,8]"), 8, {"dimension 1"}},
    {ENTRY("F32", "[1,1,1,1,1,1,1,1,3]", "[0,12]"), 12, {"9 dimensions", "at most 8"}},
    {ENTRY("F32", "[4611686018427387904]", "[0,0]"), 0, {"overflows", "4611686018427387904"}},
    {ENTRY("I8", "[4294967296,4294967296]", "[0,0]"), 0, {"tensor \"t\"", "overflows"}},
    {ENTRY("I8", "[4294967296,4294967296,0]", "[0,0]"), 0, {"overflows at dimension 1"}},
    {ENTRY("I8", "[1e30]", "[0,0]"), 0, {"dimension 0"}},
    {ENTRY("F32", "[3]", "[0]"), 12, {"data_offsets", "two integers"}},
    {ENTRY("F32", "[3]", "[0,12,12]"), 12, {"data_offsets", "two integers"}},
    {ENTRY("F32", "[3]", "[0,12.0]"), 12, {"data_offsets", "two integers"}},
    {ENTRY("F32", "[3]", "{}"), 12, {"data_offsets"}},
    {ENTRY("F32", "[3]", "[-4,8]"), 12, {"[-4, 8]", "within the 12 bytes"}},
    {ENTRY("F32", "[3]", "[12,0]"), 12, {"[12, 0]", "within"}},
    {ENTRY("F32", "[3]", "[0,12]"), 11, {"[0, 12]", "within the 11 bytes"}},
    {ENTRY("F32", "[3]", "[9223372036854775800,9223372036854775807]"), 12, {"within"}},
    {ENTRY("F32", "[3]", "[0,16]"), 16, {"hold 16 bytes", "expected 12"}},
    {ENTRY("F32", "[3]", "[4,16]"), 16, {"\"t\"", "begins at 4, expected 0", "hole"}},
    {ENTRY("F32", "[3]", "[0,12]"), 13, {"cover 12 bytes", "holds 13"}},
    {"{}", 1, {"cover 0 bytes", "holds 1"}},
    {"{\"t\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"u\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[2,6]}}",
     6,
     {"\"u\"", "begins at 2, expected 4", "overlaps"}},
    {"{\"t\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]},"
     "\"t\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
     1,
     {"duplicate", "\"t\""}},
    {"{\"__metadata__\":3}", 0, {"__metadata__", "not an object"}},
    {"{\"__metadata__\":{\"format\":3}}", 0, {"__metadata__", "\"format\"", "not a string"}},
};

Test(safetensors, headers_that_lie_are_refused_by_file_tensor_and_value)
{
    const char *dir = scratch_make(), *path = path_in(dir, "lie.safetensors");

    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        write_file(path, lies[i].header, lies[i].size);
        cr_assert_eq(open_path(path), MP_ERR_FORMAT, "%s is taken", lies[i].header);
        cr_assert_not_null(strstr(mp_error_message(), "lie.safetensors"), "%s", mp_error_message());
        for (int k = 0; k < 3 && lies[i].message[k] != NULL; k++)
            cr_assert_not_null(strstr(mp_error_message(), lies[i].message[k]),
                               "%s: \"%s\" lacks \"%s\"", lies[i].header, mp_error_message(),
                               lies[i].message[k]);
    }
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(safetensors, a_newline_in_a_name_does_not_split_the_message)
{
    const char *dir = scratch_make(), *path = path_in(dir, "x.safetensors");

    write_file(path, "{\"a\\nb\":{\"dtype\":\"X\"}}", 0);
    EXPECT_FAILURE(open_path(path), MP_ERR_FORMAT, "\"a?b\"");
    cr_assert_null(strchr(mp_error_message(), '\n'));
    scratch_remove(dir);
}

Test(safetensors, header_lengths_are_checked_against_limit_and_file)
{
    const char *dir = scratch_make(), *path = path_in(dir, "x.safetensors");

    write_bytes(path, "\7\0\0", 3);
    EXPECT_FAILURE(open_path(path), MP_ERR_FORMAT, "3 bytes", "header");
    write_bytes(path, "\3\0\0\0\0\0\0\0{}", 10);
    EXPECT_FAILURE(open_path(path), MP_ERR_FORMAT, "header of 3 bytes", "only 10");
    write_bytes(path, "\0\0\0\0\0\0\0\200{}", 10);
    EXPECT_FAILURE(open_path(path), MP_ERR_FORMAT, "header of 9223372036854775808 bytes",
                   "at most 100000000");
    write_bytes(path, "", 0);
    EXPECT_FAILURE(open_path(path), MP_ERR_FORMAT, "0 bytes");
    EXPECT_FAILURE(open_path(path_in(dir, "none")), MP_ERR_IO, "none", "No such file");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

static const char PART_A[] = "{\"a\":{\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[0,2]},"
                             "\"extra\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[2,3]}}";
static const char PART_B[] = "{\"b\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]}}";

/* A directory with shards A (a, extra) and B (b), and this index. */
static const char *sharded(const char *index)
{
    const char *dir = scratch_make();

    write_file(path_in(dir, "A.safetensors"), PART_A, 3);
    write_file(path_in(dir, "B.safetensors"), PART_B, 4);
    write_text(path_in(dir, "model.safetensors.index.json"), index);
    return dir;
}

static const char GOOD_INDEX[] =
    "{\"weight_map\":{\"b\":\"B.safetensors\",\"a\":\"A.safetensors\"}}";

Test(safetensors, an_index_decides_which_tensors_there_are)
{
    const char *dir = sharded(GOOD_INDEX);
    mp_source *source = NULL;
    char bytes[4];

    EXPECT_OK(mp_safetensors_open(dir, &source));
    cr_assert_eq(source->count, 2);
    cr_assert_eq(mp_source_find(source, "extra"), -1);
    cr_assert_eq(mp_source_find(source, "b"), 1);
    EXPECT_OK(source->read(source->self, 1, 2, 2, bytes));
    cr_assert(bytes[0] == 2 && bytes[1] == 3);
    mp_source_close(&source);
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(safetensors, of_two_tensors_of_one_name_the_index_chooses)
{
    static const char both[] = "{\"b\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[1,5]},"
                               "\"a\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}";
    /* b is in A, in B that is opened first, in B that is opened second. */
    const char *maps[] = {"{\"weight_map\":{\"b\":\"A.safetensors\",\"a\":\"A.safetensors\"}}",
                          "{\"weight_map\":{\"b\":\"B.safetensors\",\"a\":\"A.safetensors\"}}",
                          "{\"weight_map\":{\"a\":\"A.safetensors\",\"b\":\"B.safetensors\"}}"};

    for (int i = 0; i < 3; i++) {
        const char *dir = sharded(maps[i]);
        mp_source *source = NULL;
        char byte = 0;

        write_file(path_in(dir, "A.safetensors"), both, 5);
        EXPECT_OK(mp_safetensors_open(dir, &source));
        cr_assert_eq(source->count, 2);
        EXPECT_OK(source->read(source->self, 1, 0, 1, &byte));
        cr_assert_eq(byte, i == 0); /* b begins at 1 in A, at 0 in B */
        mp_source_close(&source);
        scratch_remove(dir);
    }
    EXPECT_NO_LEAKS();
}

Test(safetensors, model_safetensors_comes_before_an_index)
{
    const char *dir = sharded(GOOD_INDEX);
    mp_source *source = NULL;

    write_file(path_in(dir, "model.safetensors"), TWO, 26);
    EXPECT_OK(mp_safetensors_open(dir, &source));
    cr_assert_eq(source->count, 3);
    mp_source_close(&source);
    scratch_remove(dir);
}

static void expect_bad_index(const char *index, const char *part, const char *other)
{
    const char *dir = sharded(index);

    EXPECT_FAILURE(open_path(dir), MP_ERR_FORMAT, "model.safetensors.index.json", part, other);
    scratch_remove(dir);
}

Test(safetensors, an_index_that_does_not_fit_its_shards_is_refused)
{
    expect_bad_index("{\"weight_map\":{\"b\":\"A.safetensors\"}}", "\"b\"", "A.safetensors");
    expect_bad_index("{\"weight_map\":{\"a\":\"A.safetensors\",\"z\":\"B.safetensors\"}}", "\"z\"",
                     "not there");
    expect_bad_index("{\"weight_map\":{\"a\":\"../A.safetensors\"}}", "\"../A.safetensors\"",
                     "same directory");
    expect_bad_index("{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "\"/etc/passwd\"", "\"a\"");
    expect_bad_index("{\"weight_map\":{\"a\":\"..\"}}", "\"..\"", "\"a\"");
    expect_bad_index("{\"weight_map\":{\"a\":\"\"}}", "mapped to \"\"", "\"a\"");
    expect_bad_index("{\"weight_map\":{\"a\":7}}", "not a string", "\"a\"");
    expect_bad_index("{\"weight_map\":{\"a\":\"A.safetensors\\u0000x\"}}", "\"a\"", "file");
    expect_bad_index("{\"weight_map\":{}}", "weight_map", "{name: file}");
    expect_bad_index("{\"weight_map\":[]}", "weight_map", "{name: file}");
    expect_bad_index("{}", "weight_map", "{name: file}");
    expect_bad_index("{", "not valid JSON", "column");
    EXPECT_NO_LEAKS();
}

Test(safetensors, a_missing_or_truncated_shard_is_named)
{
    const char *dir = sharded(GOOD_INDEX);

    cr_assert_eq(truncate(path_in(dir, "A.safetensors"), (off_t)(8 + sizeof PART_A)), 0);
    EXPECT_FAILURE(open_path(dir), MP_ERR_FORMAT, "A.safetensors", "within the 1 bytes");
    cr_assert_eq(unlink(path_in(dir, "A.safetensors")), 0);
    EXPECT_FAILURE(open_path(dir), MP_ERR_IO, "A.safetensors", "No such file");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(safetensors, a_directory_without_weights_says_what_was_looked_for)
{
    const char *dir = scratch_make();

    EXPECT_FAILURE(open_path(dir), MP_ERR_IO, dir, "model.safetensors", "index.json");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(safetensors, descriptors_are_closed_with_the_source_and_after_errors)
{
    const char *good = sharded(GOOD_INDEX);
    int before = open("/dev/null", O_RDONLY), after;

    close(before);
    EXPECT_OK(open_path(good));
    write_text(path_in(good, "model.safetensors.index.json"),
               "{\"weight_map\":{\"b\":\"A.safetensors\"}}");
    cr_assert_eq(open_path(good), MP_ERR_FORMAT);
    after = open("/dev/null", O_RDONLY);
    close(after);
    cr_assert_eq(before, after);
    scratch_remove(good);
}

/* Python's safetensors 0.8.0 reads a file with this header: names, shapes, types and values. */
Test(safetensors, a_header_is_padded_to_eight_bytes_and_says_where_each_tensor_is)
{
    const mp_tensor_info infos[] = {
        {.name = "w", .dtype = MP_F32, .ndim = 2, .shape = {2, 3}},
        {.name = "n\"\303\244", .dtype = MP_BF16, .ndim = 1, .shape = {5}},
        {.name = "s", .dtype = MP_U8},
    };
    static const char json[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                               "\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                               "\"n\\\"\303\244\":{\"dtype\":\"BF16\",\"shape\":[5],"
                               "\"data_offsets\":[24,34]},"
                               "\"s\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[34,35]}}";
    char *header = NULL;
    size_t length = 0;
    int64_t begin[4];

    EXPECT_OK(mp_safetensors_header(infos, 3, &header, &length, begin));
    cr_assert_eq(length % 8, 0);
    cr_assert_eq(length, 8 + (sizeof json - 1 + 7) / 8 * 8);
    cr_assert_eq((unsigned char)header[0] + 256 * (unsigned char)header[1], (int)length - 8);
    for (int i = 2; i < 8; i++) cr_assert_eq(header[i], 0);
    cr_assert_eq(memcmp(header + 8, json, sizeof json - 1), 0, "%.*s", (int)length - 8, header + 8);
    for (size_t i = 8 + sizeof json - 1; i < length; i++) cr_assert_eq(header[i], ' ');
    cr_assert(begin[0] == (int64_t)length && begin[1] == begin[0] + 24 &&
              begin[2] == begin[1] + 10 && begin[3] == begin[2] + 1);
    mp_free(header);
    EXPECT_NO_LEAKS();
}

Test(safetensors, two_tensors_of_one_name_are_not_written)
{
    const mp_tensor_info twice[] = {{.name = "s", .dtype = MP_U8}, {.name = "s", .dtype = MP_U8}};
    char *header = NULL;
    size_t length;
    int64_t begin[3];

    EXPECT_FAILURE(mp_safetensors_header(twice, 2, &header, &length, begin), MP_ERR_INTERNAL,
                   "\"s\"", "two of this name");
    EXPECT_NO_LEAKS();
}

Test(safetensors, what_is_written_is_read_again)
{
    const char *dir = scratch_make(), *path = path_in(dir, "x.safetensors");
    const int64_t numbers[] = {1, -2, 3};
    const int32_t tokens[] = {7, 8, 9, 10};
    const mp_tensor_info infos[] = {
        {.name = "numbers", .dtype = MP_I64, .ndim = 1, .shape = {3}},
        {.name = "tokens", .dtype = MP_I32, .ndim = 2, .shape = {2, 2}}};
    const void *const data[] = {numbers, tokens};
    mp_source *source = NULL;
    int32_t back[4];
    int64_t wide[3];

    EXPECT_OK(mp_safetensors_write(path, infos, data, 2));
    EXPECT_OK(mp_safetensors_open(path, &source));
    EXPECT_OK(source->read(source->self, mp_source_find(source, "tokens"), 0, sizeof back, back));
    EXPECT_OK(source->read(source->self, mp_source_find(source, "numbers"), 0, sizeof wide, wide));
    cr_assert_arr_eq(back, tokens, sizeof back);
    cr_assert_arr_eq(wide, numbers, sizeof wide);
    mp_source_close(&source);
    EXPECT_FAILURE(mp_safetensors_write(path_in(dir, "no/x"), infos, data, 2), MP_ERR_IO, "no/x");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(safetensors, the_model_in_the_repository_opens_as_directory_and_as_file)
{
    mp_source *source = NULL;
    const mp_tensor_info *info;

    EXPECT_OK(mp_safetensors_open(MPRESS_DATA "/wikillama-5m", &source));
    cr_assert_eq(source->count, 56);
    info = source->at(source->self, mp_source_find(source, "model.embed_tokens.weight"));
    cr_assert(info->dtype == MP_BF16 && info->shape[0] == 4096 && info->shape[1] == 256);
    mp_source_close(&source);
    EXPECT_OK(open_path(MPRESS_DATA "/wikillama-5m/model.safetensors"));
    EXPECT_NO_LEAKS();
}

Test(safetensors, all_reference_files_open)
{
    glob_t found;

    if (glob(MPRESS_SHARED "/golden/*/*.safetensors", 0, NULL, &found) != 0) {
        fprintf(stderr, "skipped: no " MPRESS_SHARED "/golden\n");
        cr_skip("skipped: no " MPRESS_SHARED "/golden");
    }
    for (size_t i = 0; i < found.gl_pathc; i++) EXPECT_OK(open_path(found.gl_pathv[i]));
    cr_assert_geq(found.gl_pathc, 10);
    globfree(&found);
    EXPECT_NO_LEAKS();
}
