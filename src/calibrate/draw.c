#include "mpress/draw.h"

mp_status mp_draw_windows(const mp_comm *comm, const mp_corpus_request *request,
                          mp_status (*from)(const mp_corpus_request *, mp_windows *),
                          mp_windows *windows)
{
    int64_t shape[2];

    MP_TRY(mp_comm_agree(comm, comm->rank == 0 ? from(request, windows) : MP_OK));
    shape[0] = windows->count;
    shape[1] = windows->seqlen;
    MP_TRY(mp_comm_bcast(comm, shape, sizeof shape, 0));
    windows->count = shape[0];
    windows->seqlen = shape[1];
    return MP_OK;
}
