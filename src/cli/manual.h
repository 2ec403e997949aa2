/* What the program writes about itself for others to read: its man page and a shell's completion.
 * Floor 10: cli. */
#ifndef MPRESS_MANUAL_H
#define MPRESS_MANUAL_H

#include "commands.h"

#include <stdio.h>

/* Whether manual_print takes this word: "--man" (mpress.1) or "--bash-completion" (a script). */
int manual_knows(const char *word);

/* Writes that page, with the rows of the n commands where its template wants them.  Local, and without
 * MPI: a build runs it on hosts where no job could start.  MP_ERR_IO if `to` cannot be written. */
mp_status manual_print(const char *word, const mp_command *const *commands, int n, FILE *to);

#endif
