/* What rank 0 has read, told to all ranks.
 * Floor 7: checkpoint; for the files of src/checkpoint only. */
#ifndef MPRESS_SHARE_H
#define MPRESS_SHARE_H

#include "journal.h"
#include "mpress/comm.h"

/* Rank 0's value on all ranks; *value is replaced on the others.  Collective; the status is agreed. */
mp_status mp_share_json(const mp_comm *comm, json_t **value);

/* The journal of `dir` as rank 0 reads it.  Collective; the status is agreed. */
mp_status mp_journal_share(const mp_comm *comm, const char *dir, mp_journal *journal);

#endif
