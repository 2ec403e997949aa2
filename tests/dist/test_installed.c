/* What an installation has beside the program: the man page and the completion of bash. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include "launch.h"

#include <ctype.h>

/* The subsection of a command in the page as troff; NULL if it has none.  Its end is cut off. */
static char *section_of(char *page, const char *command)
{
    char head[96], *begin, *end;

    snprintf(head, sizeof head, "\n.SS %s\n", command);
    begin = strstr(page, head);
    if (begin == NULL) return NULL;
    begin += strlen(head);
    end = strstr(begin, "\n.S");
    if (end != NULL) *end = '\0';
    return begin;
}

/* The words of a command in the completion, with a space before and after each. */
static void words_of(const char *script, const char *command, char *words, size_t size)
{
    char head[96];
    const char *begin;

    snprintf(head, sizeof head, "\n    [%s]='", command);
    begin = strstr(script, head);
    cr_assert_not_null(begin, "the completion has no %s:\n%s", command, script);
    begin += strlen(head);
    snprintf(words, size, " %.*s ", (int)strcspn(begin, "'"), begin);
}

/* One row as the help names it stands in both. */
static void expect_row(const char *name, const char *section, const char *words)
{
    char paragraph[160] = ".TP\n\\f", word[160];
    size_t n = strlen(paragraph);

    paragraph[n++] = name[0] == '-' ? 'B' : 'I';
    for (const char *c = name; *c != '\0'; c++) {
        if (*c == '-') paragraph[n++] = '\\';
        paragraph[n++] = *c;
    }
    memcpy(paragraph + n, "\\fR", 4);
    cr_expect_not_null(strstr(section, paragraph), "%s is not in the page:\n%s", name, section);
    snprintf(word, sizeof word, " %s=", name);
    if (strstr(words, word) != NULL) return;
    snprintf(word, sizeof word, " %s ", name);
    cr_expect_not_null(strstr(words, word), "%s is not in the completion:\n%s", name, words);
}

/* The names of a help text one after the other: the first word of each line that begins with two
 * spaces and a word.  `*at` is where to go on; 0 at the end. */
static int next_name(const char **at, char name[64])
{
    while ((*at = strstr(*at, "\n  ")) != NULL) {
        *at += 3;
        if (!isspace((unsigned char)**at) && sscanf(*at, "%63s", name) == 1) return 1;
    }
    return 0;
}

Test(installed, page_and_completion_have_every_row_of_every_command, .timeout = 300)
{
    static struct outcome page, script, program, help;
    static char copy[sizeof page.text], words[4096];
    char arguments[128], command[64], name[64];
    const char *at, *row, *section;
    int commands = 0, rows = 0;

    expect_success(&page, 0, "--man");
    expect_success(&script, 0, "--bash-completion");
    expect_success(&program, 0, "--help 2>/dev/null");
    for (at = program.text; next_name(&at, command); commands++) {
        strcpy(copy, page.text);
        section = section_of(copy, command);
        cr_assert_not_null(section, "the page has no %s", command);
        words_of(script.text, command, words, sizeof words);
        snprintf(arguments, sizeof arguments, "%s --help 2>/dev/null", command);
        expect_success(&help, 0, arguments);
        for (row = help.text; next_name(&row, name); rows++) expect_row(name, section, words);
    }
    cr_expect(commands >= 7 && rows >= 60, "%d commands with %d rows", commands, rows);
}

Test(installed, page_tells_what_is_not_in_the_tables, .timeout = 60)
{
    static const char *const words[] = {
        "\n.TH MPRESS 1 ", "\n.B 0\n",   "\n.B 64\n",       "\n.B 65\n",  "\n.B 70\n",
        "\n.B 74\n",       "\n.B 75\n",  ".SH SIGNALS",     ".B SIGUSR1", "OUT/stop",
        "OMP_NUM_THREADS", "OUT/hf/",    "OUT/report.json", "OUT/blocks", "journal.jsonl",
        ".SH EXAMPLES",    "mpirun \\-n"};
    static struct outcome o;

    run_shell(&o, "echo && " PROGRAM " --man");
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        cr_expect_not_null(strstr(o.text, words[i]), "no \"%s\" in\n%s", words[i], o.text);
    cr_expect_null(strchr(o.text, '@'), "a marker was left: %s", strchr(o.text, '@'));
    run_shell(&o, "command -v groff");
    if (o.code != 0) {
        fprintf(stderr, "skipped: groff is not there\n");
        return;
    }
    run_shell(&o, PROGRAM " --man | groff -man -ww -Tutf8 -z");
    cr_expect(o.code == 0 && o.text[0] == '\0', "groff complains: %s", o.text);
}

Test(installed, a_full_disk_is_an_error, .timeout = 60)
{
    static struct outcome o;

    run_shell(&o, PROGRAM " --man 2>&1 >/dev/full");
    cr_expect_eq(o.code, 74, "%d: %s", o.code, o.text);
    cr_expect_not_null(strstr(o.text, "standard output"), "%s", o.text);
}

/* A line as it is typed, parted as bash parts it, and what the last word may become. */
struct typed {
    char words[96], becomes[96];
};

ParameterizedTestParameters(installed, bash_completes)
{
    static struct typed all[] = {
        {"comp", "compress"},
        {"compress --met", "--method"},
        {"compress --method s", "sparsegpt"},
        {"compress --rank-policy = sp", "spectrum"},
        {"compress --strict --ev", "--eval --eval-seqlen"},
        {"compress --calib conf", "config.json"},
        {"eval --data = tok", "tokenizer.json"},
        {"eval --data =", "config.json model.safetensors sample-calib.jsonl sample-eval.jsonl "
                          "tokenizer.json"},
        {"eval --seqlen 4 --data = a conf", "config.json"},
        {"compress --seqlen conf", ""},
        {"compress model out conf", ""},
        {"bench --json s", "solve"},
        {"bench solve s", ""},
        {"nonsense --", ""},
    };

    return cr_make_param_array(struct typed, all, sizeof all / sizeof all[0]);
}

ParameterizedTest(struct typed *t, installed, bash_completes, .timeout = 60)
{
    static struct outcome o;
    char command[1024];

    snprintf(command, sizeof command,
             "cd " MPRESS_DATA "/wikillama-5m && bash -c 'set -u; . <(%s --bash-completion); "
             "COMP_WORDS=(mpress %s) COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _mpress 2>&1; "
             "printf \"%%s\\n\" \"${COMPREPLY[@]}\" | sort | xargs echo'",
             PROGRAM, t->words);
    run_shell(&o, command);
    o.text[strcspn(o.text, "\n")] = '\0';
    cr_expect_str_eq(o.text, t->becomes, "mpress %s", t->words);
}

Test(installed, an_installation_has_program_page_and_completion, .timeout = 60)
{
    char scratch[64];

    places_make(scratch);
    expect_true(CMAKE " --install " BUILD " --prefix $S >/dev/null");
    expect_true("$S/bin/mpress --man | cmp - $S/share/man/man1/mpress.1");
    expect_true("$S/bin/mpress --bash-completion | "
                "cmp - $S/share/bash-completion/completions/mpress");
    scratch_remove(scratch);
}
