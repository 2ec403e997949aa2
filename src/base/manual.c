/* Option rows as troff, and as the table that a shell completes from. */
#include "mpress/options.h"

#include <string.h>

/* One character of running text.  Plain ones stand for themselves; these would be commands, or come
 * out as typographic signs that cannot be pasted into a shell. */
static void put_character(char c, FILE *to)
{
    static const struct {
        char plain;
        const char *troff;
    } special[] = {{'\\', "\\e"}, {'\'', "\\(aq"}, {'`', "\\(ga"}, {'^', "\\(ha"}, {'~', "\\(ti"}};

    for (size_t i = 0; i < sizeof special / sizeof special[0]; i++)
        if (special[i].plain == c) {
            fputs(special[i].troff, to);
            return;
        }
    fputc(c, to);
}

/* Running text within a line.  A dash that begins a word is an option's, or a sign, and must come out
 * as it is typed; those inside of words are hyphens. */
static void put_text(const char *text, FILE *to)
{
    char before = ' ';

    if (*text == '.') fputs("\\&", to);
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '-' && (before == ' ' || before == '-' || before == '('))
            fputs("\\-", to);
        else
            put_character(*c, to);
        before = *c;
    }
}

/* Names are typed: every dash of them is one. */
static void put_name(const char *name, FILE *to)
{
    for (const char *c = name; *c != '\0'; c++)
        if (*c == '-')
            fputs("\\-", to);
        else
            put_character(*c, to);
}

static void put_row(const mp_option *row, FILE *to)
{
    int positional = row->name[0] != '-';

    fprintf(to, ".TP\n%s", positional ? "\\fI" : "\\fB");
    put_name(row->name, to);
    fputs("\\fR", to);
    if (row->value != NULL) {
        fputs(" \\fI", to);
        put_name(row->value, to);
        fputs("\\fR", to);
    }
    fputc('\n', to);
    put_text(row->help, to);
    if (row->fallback != NULL && !positional) {
        fputs(" [", to);
        put_name(row->fallback, to);
        fputc(']', to);
    }
    fputc('\n', to);
}

void mp_options_manual(const mp_command_line *line, FILE *to)
{
    fprintf(to, ".SS %s\n.B mpress %s\n", line->command, line->command);
    for (const mp_option *row = line->rows; row->name != NULL; row++)
        if (row->name[0] != '-') {
            fputs(row->fallback == NULL ? "\\fI" : "[\\fI", to);
            put_name(row->name, to);
            fputs(row->fallback == NULL ? "\\fR\n" : "\\fR]\n", to);
        }
    fputs("[\\fIoptions\\fR]\n.PP\n", to);
    put_text(line->summary, to);
    fputc('\n', to);
    for (const mp_option *row = line->rows; row->name != NULL; row++) put_row(row, to);
}

void mp_options_completion(const mp_command_line *line, FILE *to)
{
    fprintf(to, "    [%s]='", line->command);
    for (const mp_option *row = line->rows; row->name != NULL; row++)
        fprintf(to, "%s%s%s%s", row == line->rows ? "" : " ", row->name,
                row->value != NULL ? "=" : "", row->value != NULL ? row->value : "");
    fputs("'\n", to);
}
