#include "mpress/clock.h"

#include "mpress/log.h"

#include <string.h>

static const struct {
    const char *name, *precision;
} phases[MP_PHASE_COUNT] = {
#define MP_PHASE_ROW_(id, text, digits) [id] = {text, digits},
    MP_PHASE_LIST(MP_PHASE_ROW_)
#undef MP_PHASE_ROW_
};

const char *mp_phase_name(mp_phase phase)
{
    return phases[phase].name;
}

const char *mp_phase_precision(mp_phase phase)
{
    return phases[phase].precision;
}

void mp_clock_lap(mp_clock *clock, mp_phase phase, double flop, double *mark)
{
    const int64_t moved = mp_comm_bytes_moved();

    mp_lap(mark, &clock->seconds[phase]);
    clock->flop[phase] += flop;
    clock->moved[phase] += moved - clock->moved_before;
    clock->moved_before = moved;
}

mp_status mp_clock_gather(const mp_comm *comm, const mp_clock *clock, mp_clock_summary *summary)
{
    memcpy(summary->min, clock->seconds, sizeof summary->min);
    memcpy(summary->max, clock->seconds, sizeof summary->max);
    memcpy(summary->mean, clock->seconds, sizeof summary->mean);
    memcpy(summary->flop, clock->flop, sizeof summary->flop);
    MP_TRY(mp_comm_min(comm, summary->min, MP_PHASE_COUNT));
    MP_TRY(mp_comm_max(comm, summary->max, MP_PHASE_COUNT));
    MP_TRY(mp_comm_sum(comm, summary->mean, MP_PHASE_COUNT));
    for (int i = 0; i < MP_PHASE_COUNT; i++) summary->mean[i] /= comm->size;
    memcpy(summary->moved, clock->moved, sizeof summary->moved);
    MP_TRY(mp_comm_sum_int(comm, summary->moved, MP_PHASE_COUNT));
    return mp_comm_sum(comm, summary->flop, MP_PHASE_COUNT);
}
