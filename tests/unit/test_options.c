#include "mpress/log.h"
#include "mpress/options.h"

#include "helpers.h"

#include <stddef.h>
#include <unistd.h>

typedef struct settings {
    const char *model, *calib;
    int64_t seqlen;
    double damp;
    int strict;
} settings;

static const mp_option rows[] = {
    {"MODEL", NULL, "the model", NULL, MP_OPT_STRING, offsetof(settings, model), 0},
    {"--calib", "FILE", "text", NULL, MP_OPT_STRING, offsetof(settings, calib), 0},
    {"--seqlen", "L", "tokens", "2048", MP_OPT_INT, offsetof(settings, seqlen), MP_OPT_IDENTITY},
    {"--damp", "D", "damping", "0.01", MP_OPT_DOUBLE, offsetof(settings, damp), MP_OPT_IDENTITY},
    {"--strict", NULL, "no fallback", NULL, MP_OPT_FLAG, offsetof(settings, strict), 0},
    {0}};
static const mp_command_line line = {"compress", "Compresses.", rows};

/* The words of one command line, parted by spaces. */
static mp_status parse(const char *words, settings *config)
{
    static char copy[512];
    char *argv[32];
    int argc = 0;

    snprintf(copy, sizeof copy, "%s", words);
    for (char *word = strtok(copy, " "); word != NULL; word = strtok(NULL, " "))
        argv[argc++] = word;
    return mp_options_parse(&line, argc, argv, config);
}

Test(options, defaults_are_filled_in_and_both_spellings_are_taken)
{
    settings s;

    EXPECT_OK(parse("m", &s));
    cr_assert_str_eq(s.model, "m");
    cr_assert(s.calib == NULL && s.seqlen == 2048 && s.damp == 0.01 && s.strict == 0);
    EXPECT_OK(parse("--seqlen 16 m --damp=1e-3 --strict --calib=--odd", &s));
    cr_assert_str_eq(s.calib, "--odd");
    cr_assert(s.seqlen == 16 && s.damp == 1e-3 && s.strict == 1);
    EXPECT_OK(parse("m --seqlen -5", &s));
    cr_assert_eq(s.seqlen, -5);
}

Test(options, each_mistake_is_named_with_its_option_and_value)
{
    settings s;

    EXPECT_FAILURE(parse("", &s), MP_ERR_ARG, "needs MODEL", "compress");
    EXPECT_FAILURE(parse("a b", &s), MP_ERR_ARG, "b:", "no further argument");
    EXPECT_FAILURE(parse("m --sqlen 5", &s), MP_ERR_ARG, "--sqlen", "unknown option", "--help");
    EXPECT_FAILURE(parse("m --seq=5", &s), MP_ERR_ARG, "--seq=5", "unknown option");
    EXPECT_FAILURE(parse("m -v", &s), MP_ERR_ARG, "-v", "unknown option");
    EXPECT_FAILURE(parse("m --seqlen", &s), MP_ERR_ARG, "--seqlen", "expected a value", "L");
    EXPECT_FAILURE(parse("m --calib --strict", &s), MP_ERR_ARG, "--calib", "expected a value");
    EXPECT_FAILURE(parse("m --seqlen 5 --seqlen 6", &s), MP_ERR_ARG, "--seqlen", "twice");
    EXPECT_FAILURE(parse("m --seqlen 5k", &s), MP_ERR_ARG, "--seqlen 5k", "whole number");
    EXPECT_FAILURE(parse("m --seqlen=", &s), MP_ERR_ARG, "--seqlen", "whole number");
    EXPECT_FAILURE(parse("m --damp 0.1x", &s), MP_ERR_ARG, "--damp 0.1x", "number");
    EXPECT_FAILURE(parse("m --strict=1", &s), MP_ERR_ARG, "--strict", "no value");
}

Test(options, numbers_are_whole_texts)
{
    int64_t integer = 0;
    double real = 0.0;

    cr_assert(mp_parse_int("-9223372036854775808", &integer) == 0 && integer == INT64_MIN);
    cr_assert_neq(mp_parse_int("9223372036854775808", &integer), 0);
    cr_assert_neq(mp_parse_int("", &integer), 0);
    cr_assert_neq(mp_parse_int(" 1", &integer), 0);
    cr_assert_neq(mp_parse_int("1.0", &integer), 0);
    cr_assert(mp_parse_double("-2.5e-3", &real) == 0 && real == -2.5e-3);
    cr_assert_neq(mp_parse_double("nan", &real), 0);
    cr_assert_neq(mp_parse_double("inf", &real), 0);
    cr_assert_neq(mp_parse_double("1e999", &real), 0);
    cr_assert_neq(mp_parse_double(" 1", &real), 0);
    cr_assert_neq(mp_parse_double("", &real), 0);
}

Test(options, values_become_text_and_the_help_names_every_row)
{
    const settings s = {.model = "m", .seqlen = 16, .damp = 0.1, .strict = 1};
    char buffer[64], *help = NULL;
    size_t length = 0;
    FILE *to = open_memstream(&help, &length);

    cr_assert_str_eq(mp_option_text(&rows[0], &s, buffer), "m");
    cr_assert_null(mp_option_text(&rows[1], &s, buffer));
    cr_assert_str_eq(mp_option_text(&rows[2], &s, buffer), "16");
    cr_assert_str_eq(mp_option_text(&rows[3], &s, buffer), "0.1");
    cr_assert_str_eq(mp_option_text(&rows[4], &s, buffer), "true");
    mp_options_help(&line, to);
    fclose(to);
    for (const mp_option *row = rows; row->name != NULL; row++)
        cr_assert_not_null(strstr(help, row->name), "%s", help);
    cr_assert_not_null(strstr(help, "[2048]"));
    cr_assert_not_null(strstr(help, "usage: mpress compress MODEL [options]"));
    free(help);
}

/* What the calls of a test wrote to stderr. */
static const char *stderr_of(void (*calls)(void))
{
    static char text[1024];
    FILE *file = tmpfile();
    int saved = dup(STDERR_FILENO);
    size_t length;

    dup2(fileno(file), STDERR_FILENO);
    calls();
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(saved);
    rewind(file);
    length = fread(text, 1, sizeof text - 1, file);
    text[length] = '\0';
    fclose(file);
    return text;
}

static void log_three_lines(void)
{
    mp_log(MP_LOG_WARNING, "retry %d", 2);
    mp_log(MP_LOG_INFO, "block 1");
    mp_log(MP_LOG_DEBUG, "object");
    mp_progress(1.0, 2.0, "block");
}

Test(log, levels_and_ranks_choose_what_is_printed)
{
    mp_log_setup(MP_LOG_INFO, 0);
    cr_assert_str_eq(stderr_of(log_three_lines), "mpress: warning: retry 2\nmpress: block 1\n");
    mp_log_setup(MP_LOG_ERROR, 0);
    cr_assert_str_eq(stderr_of(log_three_lines), "");
    mp_log_setup(MP_LOG_DEBUG, 1);
    cr_assert_str_eq(stderr_of(log_three_lines), "");
}

Test(log, durations_are_for_people)
{
    char buffer[32];

    cr_assert_str_eq(mp_duration(12.34, buffer), "12.3s");
    cr_assert_str_eq(mp_duration(59.96, buffer), "1m00s");
    cr_assert_str_eq(mp_duration(200.0, buffer), "3m20s");
    cr_assert_str_eq(mp_duration(3599.6, buffer), "1h00m");
    cr_assert_str_eq(mp_duration(3720.0, buffer), "1h02m");
}

Test(log, sizes_are_in_the_unit_that_shows_them)
{
    char buffer[32];

    cr_assert_str_eq(mp_memory_text(0, buffer), "0 B");
    cr_assert_str_eq(mp_memory_text(1023, buffer), "1023 B");
    cr_assert_str_eq(mp_memory_text(1024, buffer), "1.00 KiB");
    cr_assert_str_eq(mp_memory_text((1 << 20) - 1, buffer), "1.00 MiB"); /* not 1024.00 KiB */
    cr_assert_str_eq(mp_memory_text(12LL << 30, buffer), "12.00 GiB");
    cr_assert_str_eq(mp_memory_text(INT64_MAX, buffer), "8388608.00 TiB");
    cr_assert_str_eq(mp_traffic_text(999, buffer), "999 B");
    cr_assert_str_eq(mp_traffic_text(20769355000000, buffer), "20.77 TB");
}

Test(options, bytes_have_binary_suffixes)
{
    static const char *const bad[] = {"", "G", "0", "-1G", "12GB", "1e30T", "nan", " 12", "12 "};
    int64_t bytes;

    cr_expect(mp_parse_bytes("512", &bytes) == 0 && bytes == 512);
    cr_expect(mp_parse_bytes("12G", &bytes) == 0 && bytes == INT64_C(12) << 30);
    cr_expect(mp_parse_bytes("1.5T", &bytes) == 0 && bytes == INT64_C(3) << 39);
    cr_expect(mp_parse_bytes("2K", &bytes) == 0 && bytes == 2048);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_expect(mp_parse_bytes(bad[i], &bytes) != 0, "\"%s\"", bad[i]);
}
