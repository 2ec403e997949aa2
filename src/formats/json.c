#include "mpress/json.h"

#include "mpress/fileio.h"
#include "mpress/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The largest tokenizer.json in use is about 35 MB. */
enum { FILE_LIMIT = 256 << 20 };

/* The first number at or after `at` that is not inside a string, and its length; `end` if there is
 * none.  Works on any bytes: what is not JSON gives a nonsense token, and the parser says so. */
static const char *next_number(const char *at, const char *end, size_t *length)
{
    int in_string = 0;

    for (; at < end; at++) {
        if (in_string && *at == '\\')
            at += at + 1 < end;
        else if (*at == '"')
            in_string = !in_string;
        else if (!in_string && (*at == '-' || (*at >= '0' && *at <= '9')))
            break;
    }
    *length = 0;
    while (at + *length < end && strchr("+-.eE0123456789", at[*length]) != NULL &&
           at[*length] != '\0')
        ++*length;
    return at;
}

static int is_big_integer(const char *token, size_t length)
{
    char text[64];

    if (length < 19) return 0; /* 18 digits always fit */
    for (size_t i = 0; i < length; i++)
        if (strchr(".eE", token[i]) != NULL) return 0;
    if (length >= sizeof text) return 1;
    memcpy(text, token, length);
    text[length] = '\0';
    errno = 0;
    strtoll(text, NULL, 10);
    return errno == ERANGE;
}

/* A copy of the text in which integers beyond 64 bits are reals (".0" appended), because
 * tokenizer_config.json writes "no limit" as the integer 1000000000000000019884624838656. */
static mp_status widen_integers(const char *text, size_t length, char **widened, size_t *new_length)
{
    const char *end = text + length, *from = text, *token;
    size_t token_length, at = 0;

    /* The shortest such integer has 19 characters, and a separator follows. */
    MP_TRY(MP_NEW_RAW(*widened, length + length / 19 * 2 + 2, "JSON text"));
    for (;;) {
        token = next_number(from, end, &token_length);
        memcpy(*widened + at, from, (size_t)(token - from) + token_length);
        at += (size_t)(token - from) + token_length;
        if (token == end) break;
        if (is_big_integer(token, token_length)) {
            memcpy(*widened + at, ".0", 2);
            at += 2;
        }
        from = token + token_length;
    }
    *new_length = at;
    return MP_OK;
}

static mp_status not_json(const char *where, const json_error_t *error)
{
    if (error->line > 1)
        return mp_fail(MP_ERR_FORMAT, "%s: not valid JSON at line %d, column %d: %s", where,
                       error->line, error->column, error->text);
    return mp_fail(MP_ERR_FORMAT, "%s: not valid JSON at column %d: %s", where, error->column,
                   error->text);
}

mp_status mp_json_parse(const char *text, size_t length, const char *where, json_t **object)
{
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY;
    json_error_t error;
    json_t *value = json_loadb(text, length, flags, &error);

    if (value == NULL && json_error_code(&error) == json_error_numeric_overflow) {
        char *widened = NULL;
        size_t new_length = 0;

        MP_TRY(widen_integers(text, length, &widened, &new_length));
        value = json_loadb(widened, new_length, flags, &error);
        mp_free(widened);
    }
    if (value == NULL) return not_json(where, &error);
    if (!json_is_object(value)) {
        json_decref(value);
        return mp_fail(MP_ERR_FORMAT, "%s: the top value is not an object, expected {...}", where);
    }
    *object = value;
    return MP_OK;
}

mp_status mp_json_load(const char *path, json_t **object)
{
    char *text = NULL;
    size_t length = 0;
    mp_status st;

    MP_TRY(mp_file_read(path, FILE_LIMIT, &text, &length));
    st = mp_json_parse(text, length, path, object);
    mp_free(text);
    return st;
}

/* "missing", or the value as JSON, cut where it is long. */
static const char *describe(const json_t *value, char buffer[64])
{
    char *text;

    if (value == NULL) return "missing";
    text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    snprintf(buffer, 64, "%.40s%s", text != NULL ? text : "?",
             text != NULL && strlen(text) > 40 ? "..." : "");
    free(text);
    return buffer;
}

static mp_status unexpected(const json_t *object, const char *key, const char *where,
                            const char *expected)
{
    char buffer[64];

    return mp_fail(MP_ERR_FORMAT, "%s: \"%s\" is %s, expected %s", where, key,
                   describe(json_object_get(object, key), buffer), expected);
}

mp_status mp_json_int(const json_t *object, const char *key, const char *where, int64_t *value)
{
    const json_t *member = json_object_get(object, key);

    if (!json_is_integer(member)) return unexpected(object, key, where, "a 64-bit integer");
    *value = json_integer_value(member);
    return MP_OK;
}

mp_status mp_json_real(const json_t *object, const char *key, const char *where, double *value)
{
    const json_t *member = json_object_get(object, key);

    if (!json_is_number(member)) return unexpected(object, key, where, "a number");
    *value = json_number_value(member);
    return MP_OK;
}

mp_status mp_json_text(const json_t *object, const char *key, const char *where, const char **value)
{
    const json_t *member = json_object_get(object, key);

    /* A NUL inside would cut the text short without a word. */
    if (!json_is_string(member) || strlen(json_string_value(member)) != json_string_length(member))
        return unexpected(object, key, where, "a string without NUL");
    *value = json_string_value(member);
    return MP_OK;
}

static mp_status json_bool(const json_t *object, const char *key, const char *where, int *value)
{
    const json_t *member = json_object_get(object, key);

    if (!json_is_boolean(member)) return unexpected(object, key, where, "true or false");
    *value = json_is_true(member);
    return MP_OK;
}

static int is_given(const json_t *object, const char *key)
{
    const json_t *member = json_object_get(object, key);

    return member != NULL && !json_is_null(member);
}

mp_status mp_json_opt_int(const json_t *object, const char *key, const char *where, int64_t *value)
{
    return is_given(object, key) ? mp_json_int(object, key, where, value) : MP_OK;
}

mp_status mp_json_opt_real(const json_t *object, const char *key, const char *where, double *value)
{
    return is_given(object, key) ? mp_json_real(object, key, where, value) : MP_OK;
}

mp_status mp_json_opt_bool(const json_t *object, const char *key, const char *where, int *value)
{
    return is_given(object, key) ? json_bool(object, key, where, value) : MP_OK;
}

mp_status mp_json_opt_text(const json_t *object, const char *key, const char *where,
                           const char **value)
{
    return is_given(object, key) ? mp_json_text(object, key, where, value) : MP_OK;
}

/* The fewest digits that read back as the same double, into `text`; returns their number. */
static size_t shortest_real(const char *token, size_t length, char text[64])
{
    char old[64];
    double value;

    if (length >= sizeof old) return length;
    memcpy(old, token, length);
    old[length] = '\0';
    value = strtod(old, NULL);
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, 64, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    if (strpbrk(text, ".e") == NULL) strcat(text, ".0"); /* it must stay a real */
    return strlen(text);
}

/* jansson writes 17 digits, so that 0.1 becomes 0.10000000000000001; shortens in place. */
static void shorten_reals(char *text)
{
    const char *end = text + strlen(text), *from = text;
    char *to = text;

    for (;;) {
        size_t length, shorter;
        const char *token = next_number(from, end, &length);
        char real[64];

        memmove(to, from, (size_t)(token - from));
        to += token - from;
        if (token == end) break;
        shorter = memchr(token, '.', length) != NULL ? shortest_real(token, length, real) : length;
        memmove(to, shorter < length ? real : token, shorter < length ? shorter : length);
        to += shorter < length ? shorter : length;
        from = token + length;
    }
    *to = '\0';
}

mp_status mp_json_dump(const json_t *value, int compact, char **text)
{
    char *dumped = json_dumps(value, JSON_ENCODE_ANY | (compact ? JSON_COMPACT : JSON_INDENT(2)));
    mp_status st;

    if (dumped == NULL)
        return mp_fail(MP_ERR_NOMEM, "a JSON value could not be written: out of memory");
    shorten_reals(dumped);
    st = mp_strdup(dumped, text);
    free(dumped);
    return st;
}
