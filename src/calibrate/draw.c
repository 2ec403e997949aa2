#include "mpress/draw.h"

#include "mpress/log.h"

mp_status mp_draw_windows(const mp_comm *comm, const mp_corpus_request *request,
                          mp_status (*from)(const mp_corpus_request *, mp_windows *),
                          int64_t positions, mp_windows *windows)
{
    int64_t shape[2];

    MP_TRY(mp_comm_agree(comm, comm->rank == 0 ? from(request, windows) : MP_OK));
    shape[0] = windows->count;
    shape[1] = windows->seqlen;
    MP_TRY(mp_comm_tell(comm, shape, sizeof shape, 0));
    windows->count = shape[0];
    windows->seqlen = shape[1];
    if (positions > 0 && windows->seqlen > positions)
        mp_log(MP_LOG_WARNING,
               "%s: windows of %lld tokens are longer than the %lld positions of the model",
               request->path, (long long)windows->seqlen, (long long)positions);
    return MP_OK;
}
