/* journal.jsonl: what of a run is on the disk, whole.
 * Floor 7: checkpoint; for the files of src/checkpoint only.
 *
 *   {"event":"start","program":"mpress","format":1,"run":ID,"identity":{..},"crc":..}
 *   {"event":"file","run":ID,"file":"blocks/rest.h5","bytes":N,"crc32c":[..],"crc":..}
 *   {"event":"block","run":ID,"block":0,"file":"blocks/00000.h5","bytes":N,"crc32c":[..],
 *    "hidden":{"file":"hidden/00000.safetensors","bytes":N,"crc32c":[..]},"crc":..}
 *   {"event":"folder","run":ID,"folder":"hf","crc":..}
 *   {"event":"fact","run":ID,"name":"ranks","value":..,"crc":..}
 *   {"event":"resume","run":ID,..}   {"event":"lost","run":ID,"file":..,..}   {"event":"finish",..}
 *
 * "crc32c" of a file is a list, one checksum for each segment (segments.h).  "crc", the last member
 * of every line, is that of the line before it: a line that does not fit its own, and a last one
 * without a newline, do not count.  A later line about a file replaces the earlier one.  "hidden" stands in
 * the line of the block after which the states are, the last of those that were made together, and its
 * file's number is that block's.  "folder" comes after the lines of all its files: without it the folder is
 * made again, because a kill may have left files of it that no line names.  Journals from before there
 * were such lines are read like that of a run that was killed there.  "run" is
 * who wrote the line: once another has resumed the run, lines of the one before count no more, so
 * that a process that was thought dead changes nothing.  Keys that are not known are ignored. */
#ifndef MPRESS_JOURNAL_H
#define MPRESS_JOURNAL_H

#include "mpress/error.h"

#include <jansson.h>
#include <stdint.h>

#define MP_BLOCK_FILE "blocks/%05lld.h5"           /* with a long long */
#define MP_HIDDEN_FILE "hidden/%05lld.safetensors" /* the states after this block */

enum { MP_RUN_ID = 20, MP_JOURNAL_LIMIT = 1 << 30 };

/* Who writes to a directory: the run's id is in the names of unfinished files and in every line. */
typedef struct mp_owner {
    const char *dir;
    char run[MP_RUN_ID]; /* 16 hexadecimal digits */
} mp_owner;

typedef struct mp_journal {
    json_t *files;       /* {"blocks/00000.h5": {"bytes": N, "crc32c": [..]}}; owned */
    json_t *folders;     /* {"hf": true}: all files of it are among `files`; owned */
    json_t *facts;       /* {"ranks": ..}; owned */
    json_t *identity;    /* of the run; owned */
    int64_t hidden;      /* the block after which hidden states are there; -1 for none */
    char run[MP_RUN_ID]; /* who wrote last */
    int finished;
    int64_t bad_line; /* the first that does not fit its checksum, counted from 1; 0 for none */
    size_t length;    /* bytes up to the last whole line */
} mp_journal;

/* Whether `dir` holds a journal of this program. */
mp_status mp_journal_is_there(const char *dir, int *there);

/* Writers: rank 0 only; synced when they return.  `more` holds the other members of the line (NULL for
 * none); borrowed. */
mp_status mp_journal_start(const mp_owner *owner, const json_t *identity);
mp_status mp_journal_add(const mp_owner *owner, const char *event, json_t *more);

/* A journal that another run left becomes the owner's: cut after its last whole line, and a line
 * "resume". */
mp_status mp_journal_resume(const mp_owner *owner, const mp_journal *journal);

/* MP_ERR_IO where another run has taken the directory over since.  Rank 0 only. */
mp_status mp_journal_check_owner(const mp_owner *owner);

/* After a failure `st`, whose message stays: whether what the owner has put there may be removed.  Rank 0
 * only. */
int mp_journal_is_owners(const mp_owner *owner, mp_status st);

/* MP_ERR_FORMAT where the first line is damaged. */
mp_status mp_journal_read(const char *dir, mp_journal *journal);
mp_status mp_journal_parse(const char *path, const char *text, size_t length, mp_journal *journal);
void mp_journal_free(mp_journal *journal);

/* What a line means, in memory: the line that mp_journal_add has written, or the other ranks' copy. */
mp_status mp_journal_take(mp_journal *journal, const char *event, json_t *line, const char *where);

/* Bytes of a file that is there, whole; -1 where it is not. */
int64_t mp_journal_bytes(const mp_journal *journal, const char *file);
int64_t mp_journal_block(const mp_journal *journal, int64_t block);

/* "DIR/journal.jsonl", "DIR/blocks/00017.h5", "DIR/blocks/rest.h5"; owned by the caller (mp_free). */
mp_status mp_journal_path(const char *dir, char **path);
mp_status mp_block_path(const char *dir, int64_t block, char **path);
mp_status mp_rest_path(const char *dir, char **path);

#define MP_REST_FILE "blocks/rest.h5"

#endif
