#include "mpress/json.h"

#include "helpers.h"

static json_t *parsed(const char *text)
{
    json_t *object = NULL;

    EXPECT_OK(mp_json_parse(text, strlen(text), "a.json", &object));
    return object;
}

static mp_status parse(const char *text)
{
    json_t *object = NULL;
    mp_status st = mp_json_parse(text, strlen(text), "a.json", &object);

    json_decref(object);
    return st;
}

Test(json, members_of_each_type_are_read)
{
    json_t *object = parsed("{\"i\": -7, \"r\": 0.5, \"w\": 3, \"t\": \"x\", \"b\": true}");
    int64_t integer = 0;
    double real = 0.0, whole = 0.0;
    const char *text = NULL;
    int truth = 0;

    EXPECT_OK(mp_json_int(object, "i", "a.json", &integer));
    EXPECT_OK(mp_json_real(object, "r", "a.json", &real));
    EXPECT_OK(mp_json_real(object, "w", "a.json", &whole));
    EXPECT_OK(mp_json_text(object, "t", "a.json", &text));
    EXPECT_OK(mp_json_opt_bool(object, "b", "a.json", &truth));
    cr_assert_eq(integer, -7);
    cr_assert_eq(real, 0.5);
    cr_assert_eq(whole, 3.0);
    cr_assert_str_eq(text, "x");
    cr_assert_eq(truth, 1);
    json_decref(object);
    EXPECT_NO_LEAKS();
}

Test(json, a_member_that_is_missing_or_of_another_type_is_named_with_its_value)
{
    json_t *object =
        parsed("{\"i\": \"seven\", \"r\": [1,2], \"t\": 5, \"n\": null, \"nul\": \"a\\u0000b\"}");
    int64_t integer = 0;
    double real = 0.0;
    const char *text = NULL;

    EXPECT_FAILURE(mp_json_int(object, "k", "a.json", &integer), MP_ERR_FORMAT, "a.json", "\"k\"",
                   "missing", "integer");
    EXPECT_FAILURE(mp_json_int(object, "i", "a.json", &integer), MP_ERR_FORMAT, "a.json", "\"i\"",
                   "\"seven\"", "integer");
    EXPECT_FAILURE(mp_json_int(object, "n", "a.json", &integer), MP_ERR_FORMAT, "\"n\"", "null");
    EXPECT_FAILURE(mp_json_real(object, "r", "a.json", &real), MP_ERR_FORMAT, "\"r\"", "[1,2]",
                   "number");
    EXPECT_FAILURE(mp_json_text(object, "t", "a.json", &text), MP_ERR_FORMAT, "\"t\"", "is 5",
                   "string");
    EXPECT_FAILURE(mp_json_text(object, "nul", "a.json", &text), MP_ERR_FORMAT, "\"nul\"",
                   "without NUL");
    json_decref(object);
}

Test(json, an_optional_member_keeps_its_default_when_absent_or_null_but_must_fit_when_given)
{
    json_t *object = parsed("{\"null\": null, \"bad\": {}}");
    int64_t integer = 4;
    double real = 0.25;
    const char *text = "kept";
    int truth = 1;

    EXPECT_OK(mp_json_opt_int(object, "absent", "a.json", &integer));
    EXPECT_OK(mp_json_opt_int(object, "null", "a.json", &integer));
    EXPECT_OK(mp_json_opt_real(object, "null", "a.json", &real));
    EXPECT_OK(mp_json_opt_text(object, "null", "a.json", &text));
    EXPECT_OK(mp_json_opt_bool(object, "null", "a.json", &truth));
    cr_assert(integer == 4 && real == 0.25 && truth == 1);
    cr_assert_str_eq(text, "kept");
    EXPECT_FAILURE(mp_json_opt_int(object, "bad", "a.json", &integer), MP_ERR_FORMAT, "{}");
    EXPECT_FAILURE(mp_json_opt_real(object, "bad", "a.json", &real), MP_ERR_FORMAT, "\"bad\"");
    EXPECT_FAILURE(mp_json_opt_text(object, "bad", "a.json", &text), MP_ERR_FORMAT, "\"bad\"");
    EXPECT_FAILURE(mp_json_opt_bool(object, "bad", "a.json", &truth), MP_ERR_FORMAT,
                   "true or false");
    json_decref(object);
}

Test(json, what_is_no_object_is_refused_with_the_place)
{
    EXPECT_FAILURE(parse(""), MP_ERR_FORMAT, "a.json", "not valid JSON");
    EXPECT_FAILURE(parse("[1]"), MP_ERR_FORMAT, "a.json", "not an object");
    EXPECT_FAILURE(parse("17"), MP_ERR_FORMAT, "not an object");
    EXPECT_FAILURE(parse("{\"a\": 1,}"), MP_ERR_FORMAT, "column 9");
    EXPECT_FAILURE(parse("{\n\"a\": tru\n}"), MP_ERR_FORMAT, "line 2");
    EXPECT_FAILURE(parse("{} x"), MP_ERR_FORMAT, "end of file expected");
    EXPECT_FAILURE(parse("{\"a\": 1, \"a\": 2}"), MP_ERR_FORMAT, "duplicate", "\"a\"");
    EXPECT_FAILURE(parse("{\"a\": \"\xff\"}"), MP_ERR_FORMAT, "decode byte 0xff");
    EXPECT_FAILURE(parse("{\"a\": 1e999}"), MP_ERR_FORMAT, "overflow");
    EXPECT_NO_LEAKS();
}

/* Llama 2's tokenizer_config.json has this limit; the digits in the string must stay as they are.
 */
Test(json, integers_beyond_64_bits_become_reals_and_others_stay_exact)
{
    json_t *object = parsed("{\"limit\": 1000000000000000019884624838656, \"min\": "
                            "-99999999999999999999, \"top\": 9223372036854775807, "
                            "\"text\": \"\\\"1000000000000000019884624838656\"}");
    double limit = 0.0, min = 0.0;
    int64_t top = 0;
    const char *text = NULL;

    EXPECT_OK(mp_json_real(object, "limit", "a.json", &limit));
    EXPECT_OK(mp_json_real(object, "min", "a.json", &min));
    EXPECT_OK(mp_json_int(object, "top", "a.json", &top));
    EXPECT_OK(mp_json_text(object, "text", "a.json", &text));
    cr_assert_eq(limit, 1e30);
    cr_assert_eq(min, -1e20);
    cr_assert_eq(top, INT64_MAX);
    cr_assert_str_eq(text, "\"1000000000000000019884624838656");
    EXPECT_FAILURE(mp_json_int(object, "limit", "a.json", &top), MP_ERR_FORMAT, "64-bit integer");
    json_decref(object);
    EXPECT_NO_LEAKS();
}

static void expect_dump(const char *text, int compact, const char *expected)
{
    json_t *object = parsed(text);
    char *dumped = NULL;

    EXPECT_OK(mp_json_dump(object, compact, &dumped));
    cr_assert_str_eq(dumped, expected);
    mp_free(dumped);
    json_decref(object);
}

Test(json, values_are_written_in_order_with_the_fewest_digits)
{
    expect_dump(
        "{\"b\": 0.1, \"a\": [1e-05, 100.0, 1e22, -0.0, 7], \"s\": \"0.10000000000000001\"}", 1,
        "{\"b\":0.1,\"a\":[1e-05,100.0,1e22,-0.0,7],\"s\":\"0.10000000000000001\"}");
    expect_dump("{\"third\": 0.33333333333333331, \"next\": 0.30000000000000004}", 1,
                "{\"third\":0.3333333333333333,\"next\":0.30000000000000004}");
    expect_dump("{\"x\": {\"y\": 1}}", 0, "{\n  \"x\": {\n    \"y\": 1\n  }\n}");
    EXPECT_NO_LEAKS();
}

Test(json, a_file_is_loaded_and_one_that_is_not_there_is_an_input_output_error)
{
    const char *dir = scratch_make(), *path = path_in(dir, "config.json");
    json_t *object = NULL;
    int64_t value = 0;

    write_text(path, "{\"hidden_size\": 256}\n");
    EXPECT_OK(mp_json_load(path, &object));
    EXPECT_OK(mp_json_int(object, "hidden_size", path, &value));
    cr_assert_eq(value, 256);
    json_decref(object);
    EXPECT_FAILURE(mp_json_load(path_in(dir, "none.json"), &object), MP_ERR_IO, "none.json",
                   "No such file");
    EXPECT_FAILURE(mp_json_load(dir, &object), MP_ERR_IO, dir, "regular file");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}
