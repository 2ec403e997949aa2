/* A run's checkpoint as the files of src/checkpoint see it.
 * Floor 7: checkpoint; for the files of src/checkpoint only. */
#ifndef MPRESS_RUN_FILES_H
#define MPRESS_RUN_FILES_H

#include "journal.h"
#include "mpress/checkpoint.h"
#include "mpress/io.h"

struct mp_checkpoint {
    const mp_comm *comm;
    mp_io *io; /* the ranks that see the directory; owned */
    char *dir;
    int64_t n_blocks;
    mp_owner owner;       /* this process, as the one that writes */
    mp_journal journal;   /* what is there, whole; the same on all ranks */
    int lock;             /* on rank 0; -1 where there is none */
    int resumed;          /* an earlier run is continued */
    json_t *hidden;       /* hidden states that wait for their block's line in the journal; owned */
    int64_t hidden_after; /* and that block */
};

/* Takes `file` of the directory into the journal: reads it back, adds a line `event` with its checksums
 * and the members of `more` (consumed; NULL for none).  Collective; the status is agreed. */
mp_status mp_run_add_file(mp_checkpoint *run, const char *event, const char *file, json_t *more);

/* A line of the journal, on disk and in memory; `more` is consumed on all ranks, and is the same on
 * all.  Collective; agreed. */
mp_status mp_run_add(mp_checkpoint *run, const char *event, json_t *more);

/* resume.c: reads back all that the journal names, and strikes out what is damaged, naming it.
 * Collective; agreed. */
mp_status mp_run_verify(mp_checkpoint *run);

#endif
