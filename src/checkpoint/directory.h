/* The directory of a run: whose it is, making it, taking it away.
 * Floor 7: checkpoint; for the files of src/checkpoint only.  Rank 0 only. */
#ifndef MPRESS_DIRECTORY_H
#define MPRESS_DIRECTORY_H

#include "journal.h"
#include "mpress/checkpoint.h"

typedef struct mp_claim {
    int made;    /* the directory was not there before */
    int resumed; /* it holds a run to continue; otherwise a new one has begun */
    int lock;    /* held; mp_lock_release */
} mp_claim;

/* Makes the owner's directory ready: locked, with blocks/ and a journal that says whose it is.
 *
 *   reads     in   [n_reads] directories that the run will read; one inside the directory is refused when
 *                  it would be removed
 *   start     in   what to do with what an earlier run left
 *   identity  in   of the run; only a run of the same is continued.  NULL is equal to NULL
 *
 * A run that was killed before its first block's file could be written is begun again.
 *
 * Errors: MP_ERR_FORMAT where the directory holds something else, with the difference; where another
 * run is at work in it; or where no run of this program made it.  MP_ERR_ARG, MP_ERR_IO. */
mp_status mp_directory_claim(const mp_owner *owner, const char *const *reads, int n_reads,
                             mp_start start, const json_t *identity, mp_claim *claim);

/* After an error `st` in starting a run: removes what the run has put there, and the directory if the run had
 * made it.  One that is resumed is left as it is, and so is one that another run has begun in the
 * meantime. */
void mp_directory_give_back(const mp_owner *owner, const mp_claim *claim, mp_status st);

#endif
