/* The sub-commands of mpress: each one file, one row in main.c.
 * Floor 10: cli. */
#ifndef MPRESS_COMMANDS_H
#define MPRESS_COMMANDS_H

#include "mpress/comm.h"
#include "mpress/options.h"

/* Runs with the words after the sub-command; collective over the job; the status is the same on all
 * ranks (main prints its message once and turns it into the exit code). */
typedef struct mp_command {
    const mp_command_line *line;
    mp_status (*run)(const mp_comm *comm, int argc, char **argv);
} mp_command;

extern const mp_command command_compress, command_eval, command_export, command_inspect,
    command_tokenize, command_synth, command_bench, command_plan;

/* Parses on every rank (argv is the same everywhere). */
mp_status command_parse(const mp_command *command, int argc, char **argv, void *config);

#endif
