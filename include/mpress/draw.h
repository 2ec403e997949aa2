/* Windows of tokens for a whole job: drawn where the files are read, their shape known to all.
 * Floor 5: calibrate. */
#ifndef MPRESS_DRAW_H
#define MPRESS_DRAW_H

#include "mpress/comm.h"
#include "mpress/corpus.h"

/* Rank 0 calls `from` (mp_corpus_calibration or mp_corpus_evaluation) and keeps the tokens; the others
 * get count and seqlen.  Windows longer than the `positions` of the model are warned of (0: it has no
 * limit).  Collective; the status is agreed. */
mp_status mp_draw_windows(const mp_comm *comm, const mp_corpus_request *request,
                          mp_status (*from)(const mp_corpus_request *, mp_windows *),
                          int64_t positions, mp_windows *windows);

#endif
