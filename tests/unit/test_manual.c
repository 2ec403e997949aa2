/* Option rows as a man page and as what a shell completes from. */
#include "mpress/options.h"

#include "helpers.h"

static const mp_option rows[] = {
    {"MODEL", NULL, ".hidden or 'quoted'", NULL, MP_OPT_STRING, 0, 0},
    {"DIR", NULL, "optional", "here", MP_OPT_STRING, 0, 0},
    {"--bos", "auto|on|off", "low-rank: see --eval (-1 is \\none)", "auto", MP_OPT_STRING, 0, 0},
    {"--no-export", NULL, "a flag^~`", NULL, MP_OPT_FLAG, 0, 0},
    {0}};
static const mp_command_line line = {"compress", "Compresses.", rows};

/* What one of the two writes; borrowed until the next call. */
static const char *written(void (*write)(const mp_command_line *, FILE *))
{
    static char text[4096];
    FILE *to = fmemopen(text, sizeof text, "w");

    write(&line, to);
    fclose(to);
    return text;
}

Test(manual, rows_become_paragraphs_that_can_be_pasted_into_a_shell)
{
    const char *page = written(mp_options_manual);

    cr_assert_str_eq(page, ".SS compress\n.B mpress compress\n\\fIMODEL\\fR\n[\\fIDIR\\fR]\n"
                           "[\\fIoptions\\fR]\n.PP\nCompresses.\n"
                           ".TP\n\\fIMODEL\\fR\n\\&.hidden or \\(aqquoted\\(aq\n"
                           ".TP\n\\fIDIR\\fR\noptional\n"
                           ".TP\n\\fB\\-\\-bos\\fR \\fIauto|on|off\\fR\n"
                           "low-rank: see \\-\\-eval (\\-1 is \\enone) [auto]\n"
                           ".TP\n\\fB\\-\\-no\\-export\\fR\na flag\\(ha\\(ti\\(ga\n");
}

Test(manual, rows_become_one_line_for_the_completion)
{
    cr_assert_str_eq(written(mp_options_completion),
                     "    [compress]='MODEL DIR --bos=auto|on|off --no-export'\n");
}
