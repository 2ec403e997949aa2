/* Command lines as tables: one row per option, from which parsing, help, the manual and the record of
 * a run all come.
 * Floor 0: base. */
#ifndef MPRESS_OPTIONS_H
#define MPRESS_OPTIONS_H

#include "mpress/error.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum mp_option_type {
    MP_OPT_STRING, /* const char *: points into argv or at the default text */
    MP_OPT_INT,    /* int64_t */
    MP_OPT_DOUBLE, /* double */
    MP_OPT_FLAG    /* int: 0, or 1 if given; takes no value */
} mp_option_type;

enum { MP_OPT_IDENTITY = 1 }; /* the option changes the result: part of a run's identity */

/* `value` is the placeholder in the help, NULL for a flag.  The completion of a shell reads it, too:
 * FILE, DIR and PATH lie on disk, and "a|b", in lower case, are all values there are. */
typedef struct mp_option {
    const char *name; /* "--seqlen"; without dashes it is a positional argument, in table order */
    const char *value;
    const char *help;
    const char
        *fallback; /* the default as text; NULL: a string stays NULL, a positional is required,
                             a number is 0 */
    mp_option_type type;
    size_t offset; /* of the field in the configuration struct */
    unsigned flags;
} mp_option;

/* A sub-command: its words, its rows (ended by name == NULL). */
typedef struct mp_command_line {
    const char *command; /* "compress" */
    const char *summary; /* one line */
    const mp_option *rows;
} mp_command_line;

/* Fills `config` with the defaults, then with what argv says.  argv[0] is the first word after the
 * sub-command.  "--name value" and "--name=value" are both taken (a value that begins with "--"
 * needs the second form); an option given twice, an unknown option, a missing value, a number that
 * does not parse and a positional too many or too few are MP_ERR_ARG with a message that names the
 * option, the value and what was expected. */
mp_status mp_options_parse(const mp_command_line *line, int argc, char **argv, void *config);

/* The help text of one sub-command. */
void mp_options_help(const mp_command_line *line, FILE *to);

/* The same as a subsection of a man page (troff, macros of man(7)): synopsis, summary, a paragraph
 * for each row. */
void mp_options_manual(const mp_command_line *line, FILE *to);

/* The same for the completion of a shell: one line "[compress]='MODEL --calib=FILE --strict'" of a bash
 * array, a word for each row: positionals by name, options with the placeholder of their value. */
void mp_options_completion(const mp_command_line *line, FILE *to);

/* The effective value of one row as text, for reports and the record in a checkpoint. */
const char *mp_option_text(const mp_option *row, const void *config, char buffer[64]);

/* Strict numbers: the whole text must parse.  0 on success, -1 otherwise. */
int mp_parse_int(const char *text, int64_t *value);
int mp_parse_double(const char *text, double *value);

/* "12G", "1.5T", "512": bytes above 0, with a binary suffix K, M, G or T (1024, 1024^2, ...). */
int mp_parse_bytes(const char *text, int64_t *bytes);

#endif
