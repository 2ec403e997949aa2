/* Where the time of a run goes: seconds and flop per phase.
 * Floor 9: pipeline. */
#ifndef MPRESS_CLOCK_H
#define MPRESS_CLOCK_H

#include "mpress/comm.h"

/* phase, name in the report, precision of its arithmetic ("" where it has none) */
#define MP_PHASE_LIST(X)                                                                           \
    X(MP_PHASE_START, "start", "")                                                                 \
    X(MP_PHASE_READ, "read", "")                                                                   \
    X(MP_PHASE_EMBED, "embed", "")                                                                 \
    X(MP_PHASE_FORWARD, "forward", "fp32")                                                         \
    X(MP_PHASE_MOMENT, "syrk", "fp32")                                                             \
    X(MP_PHASE_MERGE, "merge", "fp64")                                                             \
    X(MP_PHASE_COLLECT, "collect", "")                                                             \
    X(MP_PHASE_FACTOR, "factor", "fp64")                                                           \
    X(MP_PHASE_GRAM, "gram", "fp64")                                                               \
    X(MP_PHASE_REDUCE, "tridiagonal", "fp64")                                                      \
    X(MP_PHASE_EIGEN, "eigen", "fp64")                                                             \
    X(MP_PHASE_BACK, "back", "fp64")                                                               \
    X(MP_PHASE_FACTORS, "factors", "fp64")                                                         \
    X(MP_PHASE_WHITEN, "whiten", "fp64")                                                           \
    X(MP_PHASE_IDLE, "idle", "")                                                                   \
    X(MP_PHASE_SWEEP, "sweep", "fp32")                                                             \
    X(MP_PHASE_ERROR, "measure", "fp32")                                                           \
    X(MP_PHASE_PUBLISH, "publish", "")                                                             \
    X(MP_PHASE_WRITE, "write", "")                                                                 \
    X(MP_PHASE_EXPORT, "export", "")                                                               \
    X(MP_PHASE_EVAL, "eval", "")

#define MP_PHASE_ENUM_(id, name, precision) id,
typedef enum mp_phase { MP_PHASE_LIST(MP_PHASE_ENUM_) MP_PHASE_COUNT } mp_phase;
#undef MP_PHASE_ENUM_

typedef struct mp_clock {
    double seconds[MP_PHASE_COUNT];
    double flop[MP_PHASE_COUNT];   /* of this rank */
    int64_t moved[MP_PHASE_COUNT]; /* bytes that it has sent (comm.h) */
    int64_t moved_before;          /* by the end of the last lap */
} mp_clock;

const char *mp_phase_name(mp_phase phase);
const char *mp_phase_precision(mp_phase phase);

/* Adds the seconds since *mark, `flop`, and the bytes sent since the last lap to a phase, and moves *mark to
 * now. */
void mp_clock_lap(mp_clock *clock, mp_phase phase, double flop, double *mark);

/* Over all ranks: seconds min, mean and max of each phase, flop and bytes added up.  Collective. */
typedef struct mp_clock_summary {
    double min[MP_PHASE_COUNT], mean[MP_PHASE_COUNT], max[MP_PHASE_COUNT], flop[MP_PHASE_COUNT];
    int64_t moved[MP_PHASE_COUNT];
} mp_clock_summary;
mp_status mp_clock_gather(const mp_comm *comm, const mp_clock *clock, mp_clock_summary *summary);

#endif
