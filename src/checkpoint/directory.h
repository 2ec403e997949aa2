/* The directory of a run: whose it is, making it, taking it away.
 * Floor 7: checkpoint; for the files of src/checkpoint only.  Rank 0 only. */
#ifndef MPRESS_DIRECTORY_H
#define MPRESS_DIRECTORY_H

#include "mpress/error.h"

/* Makes `dir` ready for a new run: it, blocks/ and a journal that says so.
 *
 *   reads      in   [n_reads] directories that the run will read; one inside `dir` is refused
 *                   when it would be removed
 *   overwrite  in   what an earlier run left is removed first
 *
 *   made       out  the directory was not there before
 *
 * Errors: MP_ERR_FORMAT where it holds something (and `overwrite` is not set, or no run of this
 * program made it), MP_ERR_ARG, MP_ERR_IO. */
mp_status mp_directory_take(const char *dir, const char *const *reads, int n_reads, int overwrite,
                            int *made);

/* Removes what a run of this program puts into its directory and nothing else. */
mp_status mp_directory_clear(const char *dir);

/* After an error in starting a run: clears the directory, and removes it if the run had made it. */
void mp_directory_give_back(const char *dir, int made);

#endif
