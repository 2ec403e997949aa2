#include "mpress/options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int mp_parse_int(const char *text, int64_t *value)
{
    char *end;
    long long parsed;

    errno = 0;
    parsed = strtoll(text, &end, 10);
    if (errno != 0 || isspace((unsigned char)*text) || end == text || *end != '\0') return -1;
    *value = parsed;
    return 0;
}

int mp_parse_double(const char *text, double *value)
{
    char *end;
    double parsed;

    parsed = strtod(text, &end);
    if (isspace((unsigned char)*text) || end == text || *end != '\0' || !isfinite(parsed))
        return -1;
    *value = parsed;
    return 0;
}

int mp_parse_bytes(const char *text, int64_t *bytes)
{
    static const char suffixes[] = "KMGT";
    const size_t length = strlen(text);
    const char *suffix = length > 0 ? strchr(suffixes, text[length - 1]) : NULL;
    char number[32];
    double value;

    if (length == 0 || length >= sizeof number) return -1;
    memcpy(number, text, length + 1);
    if (suffix != NULL) number[length - 1] = '\0';
    if (mp_parse_double(number, &value) != 0) return -1;
    if (suffix != NULL) value = ldexp(value, 10 * (int)(suffix - suffixes + 1));
    if (!(value >= 1.0 && value < 9e18)) return -1;
    *bytes = (int64_t)value;
    return 0;
}

static int is_positional(const mp_option *row)
{
    return row->name[0] != '-';
}

static mp_status store(const mp_option *row, const char *text, void *config)
{
    char *field = (char *)config + row->offset;
    int64_t integer = 0;
    double real = 0.0;

    switch (row->type) {
    case MP_OPT_STRING:
        memcpy(field, &text, sizeof text);
        return MP_OK;
    case MP_OPT_INT:
        if (text != NULL && mp_parse_int(text, &integer) != 0)
            return mp_fail(MP_ERR_ARG, "%s %s: expected a whole number", row->name, text);
        memcpy(field, &integer, sizeof integer);
        return MP_OK;
    case MP_OPT_DOUBLE:
        if (text != NULL && mp_parse_double(text, &real) != 0)
            return mp_fail(MP_ERR_ARG, "%s %s: expected a number", row->name, text);
        memcpy(field, &real, sizeof real);
        return MP_OK;
    case MP_OPT_FLAG: {
        int given = text != NULL;

        memcpy(field, &given, sizeof given);
        return MP_OK;
    }
    }
    return mp_fail(MP_ERR_INTERNAL, "%s: option row without a type", row->name);
}

static int row_count(const mp_command_line *line)
{
    int count = 0;

    while (line->rows[count].name != NULL) count++;
    return count;
}

/* The row of "--name" or "--name=value"; -1 if there is none. */
static int find_row(const mp_command_line *line, const char *word)
{
    size_t length = strcspn(word, "=");

    for (int i = 0; line->rows[i].name != NULL; i++)
        if (strlen(line->rows[i].name) == length && strncmp(line->rows[i].name, word, length) == 0)
            return i;
    return -1;
}

static mp_status parse_option(const mp_command_line *line, int argc, char **argv, int *at,
                              unsigned char *given, void *config)
{
    const char *word = argv[*at];
    const char *equals = strchr(word, '=');
    int index = find_row(line, word);
    const mp_option *row;

    if (index < 0)
        return mp_fail(MP_ERR_ARG, "%s: unknown option of 'mpress %s' (see 'mpress %s --help')",
                       word, line->command, line->command);
    row = &line->rows[index];
    if (given[index]++) return mp_fail(MP_ERR_ARG, "%s: given twice", row->name);
    if (row->type == MP_OPT_FLAG) {
        if (equals != NULL) return mp_fail(MP_ERR_ARG, "%s: takes no value", row->name);
        return store(row, "", config);
    }
    if (equals != NULL) return store(row, equals + 1, config);
    if (*at + 1 >= argc || find_row(line, argv[*at + 1]) >= 0)
        return mp_fail(MP_ERR_ARG, "%s: expected a value (%s)", row->name, row->value);
    return store(row, argv[++*at], config);
}

static mp_status parse_positional(const mp_command_line *line, const char *word,
                                  unsigned char *given, void *config)
{
    for (int i = 0; line->rows[i].name != NULL; i++)
        if (is_positional(&line->rows[i]) && !given[i]) {
            given[i] = 1;
            return store(&line->rows[i], word, config);
        }
    return mp_fail(MP_ERR_ARG, "%s: 'mpress %s' takes no further argument", word, line->command);
}

mp_status mp_options_parse(const mp_command_line *line, int argc, char **argv, void *config)
{
    unsigned char given[64] = {0};
    int rows = row_count(line);

    if (rows > (int)sizeof given) return mp_fail(MP_ERR_INTERNAL, "too many option rows");
    for (int i = 0; i < rows; i++) MP_TRY(store(&line->rows[i], line->rows[i].fallback, config));
    for (int at = 0; at < argc; at++) {
        if (argv[at][0] == '-' && argv[at][1] != '\0')
            MP_TRY(parse_option(line, argc, argv, &at, given, config));
        else
            MP_TRY(parse_positional(line, argv[at], given, config));
    }
    for (int i = 0; i < rows; i++)
        if (is_positional(&line->rows[i]) && !given[i] && line->rows[i].fallback == NULL)
            return mp_fail(MP_ERR_ARG, "'mpress %s' needs %s (see 'mpress %s --help')",
                           line->command, line->rows[i].name, line->command);
    return MP_OK;
}

void mp_options_help(const mp_command_line *line, FILE *to)
{
    fprintf(to, "usage: mpress %s", line->command);
    for (const mp_option *row = line->rows; row->name != NULL; row++)
        if (is_positional(row)) fprintf(to, row->fallback == NULL ? " %s" : " [%s]", row->name);
    fprintf(to, " [options]\n\n%s\n\n", line->summary);
    for (const mp_option *row = line->rows; row->name != NULL; row++) {
        char left[64];

        snprintf(left, sizeof left, "%s%s%s", row->name, row->value != NULL ? " " : "",
                 row->value != NULL ? row->value : "");
        fprintf(to, strlen(left) <= 24 ? "  %-24s %s" : "  %s\n                           %s", left,
                row->help);
        if (row->fallback != NULL && !is_positional(row)) fprintf(to, " [%s]", row->fallback);
        fputc('\n', to);
    }
}

const char *mp_option_text(const mp_option *row, const void *config, char buffer[64])
{
    const char *field = (const char *)config + row->offset;
    const char *text;
    int64_t integer;
    double real;
    int flag;

    switch (row->type) {
    case MP_OPT_STRING:
        memcpy(&text, field, sizeof text);
        return text;
    case MP_OPT_INT:
        memcpy(&integer, field, sizeof integer);
        snprintf(buffer, 64, "%lld", (long long)integer);
        return buffer;
    case MP_OPT_DOUBLE:
        memcpy(&real, field, sizeof real);
        for (int digits = 15; digits <= 17; digits++) { /* the fewest that read back the same */
            snprintf(buffer, 64, "%.*g", digits, real);
            if (strtod(buffer, NULL) == real) break;
        }
        return buffer;
    case MP_OPT_FLAG:
        memcpy(&flag, field, sizeof flag);
        return flag ? "true" : "false";
    }
    return "";
}
