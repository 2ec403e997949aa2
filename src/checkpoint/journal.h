/* journal.jsonl: what of a run is on the disk, whole.
 * Floor 7: checkpoint; for the files of src/checkpoint only.
 *
 *   {"program":"mpress","format":1,"event":"start"}
 *   {"event":"rest","file":"blocks/rest.h5","bytes":N}
 *   {"event":"block","block":0,"file":"blocks/00000.h5","bytes":N}
 *   {"event":"finish"}
 *
 * A later line about the same file replaces the earlier one; keys that are not known are ignored,
 * so that checksums and the id of a run find their place; a last line without a newline does not
 * count. */
#ifndef MPRESS_JOURNAL_H
#define MPRESS_JOURNAL_H

#include "mpress/error.h"

#include <stdint.h>

#define MP_BLOCK_FILE "blocks/%05lld.h5" /* with a long long */

/* Bytes of each file; -1 where it is not there (yet). */
typedef struct mp_journal {
    int64_t rest;
    int64_t *blocks; /* [n_blocks]; owned (mp_journal_free) */
    int64_t n_blocks;
    int finished;
} mp_journal;

/* Whether `dir` holds a journal of this program, or the beginning of one. */
int mp_journal_is_there(const char *dir);

/* Writers: rank 0 only; synced when they return. */
mp_status mp_journal_start(const char *dir);
mp_status mp_journal_rest(const char *dir, int64_t bytes);
mp_status mp_journal_block(const char *dir, int64_t block, int64_t bytes);
mp_status mp_journal_finish(const char *dir);

mp_status mp_journal_read(const char *dir, int64_t n_blocks, mp_journal *journal);
void mp_journal_free(mp_journal *journal);

/* "DIR/blocks/00017.h5", "DIR/blocks/rest.h5"; owned by the caller (mp_free). */
mp_status mp_block_path(const char *dir, int64_t block, char **path);
mp_status mp_rest_path(const char *dir, char **path);

#endif
