/* A model for all ranks: read by every one of them, or by rank 0 for the others. */
#include "mpress/checkpoint.h"

#include "model_crc.h"
#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/remote.h"

#include <stdio.h>
#include <string.h>

enum { SAMPLES = 16 }; /* tensors of which every rank reads some bytes */

mp_status mp_model_io_parse(const char *text, mp_model_io *io)
{
    static const char *const names[] = {"auto", "shared", "root"};

    for (int i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0) {
            *io = (mp_model_io)i;
            return MP_OK;
        }
    return mp_fail(MP_ERR_ARG, "--model-io %s: expected auto, shared or root", text);
}

/* What this rank sees of the model. */
typedef struct view {
    mp_source *source;
    char *assets;
    uint32_t crc;
} view;

static void view_close(view *v)
{
    mp_source_close(&v->source);
    mp_free(v->assets);
    v->assets = NULL;
}

static mp_status look(const char *path, view *v)
{
    mp_status st;

    MP_TRY(mp_model_open(path, &v->source, &v->assets));
    st = mp_model_crc(v->source, v->assets, (v->source->count + SAMPLES - 1) / SAMPLES, &v->crc);
    if (st != MP_OK) view_close(v);
    return st;
}

/* The ranks that do not see what rank 0 sees. */
typedef struct blind {
    int64_t count;
    char reason[512]; /* of the lowest of them */
} blind;

/* *mine is what became of looking, and then also of comparing. */
static mp_status compare(const mp_comm *comm, const char *path, const view *v, mp_status *mine,
                         blind *b)
{
    uint32_t root = v->crc;
    int first;

    MP_TRY(mp_comm_tell(comm, &root, sizeof root, 0));
    if (*mine == MP_OK && v->crc != root)
        *mine = mp_fail(MP_ERR_FORMAT, "%s: other files than rank 0 sees", path);
    b->count = *mine != MP_OK;
    MP_TRY(mp_comm_sum_int(comm, &b->count, 1));
    if (b->count == 0) return MP_OK;
    first = *mine != MP_OK ? comm->rank : comm->size;
    MP_TRY(mp_mpi_check(MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, comm->mpi),
                        "looking at a model"));
    if (comm->rank == first)
        snprintf(b->reason, sizeof b->reason, "rank %d: %.480s", first, mp_error_message());
    return mp_comm_tell(comm, b->reason, sizeof b->reason, first);
}

static mp_status leave_to_root(const mp_comm *comm, const char *path, view *v)
{
    mp_status st = MP_OK;

    if (comm->rank != 0) {
        view_close(v);
        st = mp_strdup(path, &v->assets);
    }
    MP_TRY(mp_comm_agree(comm, st));
    return mp_remote_source(comm, &v->source);
}

static void say(const mp_comm *comm, const char *path, mp_model_io io, const blind *b)
{
    if (b->count > 0)
        mp_log(MP_LOG_WARNING,
               "%s: rank 0 reads it and sends it on, because %lld of %d ranks do not see it (%s)",
               path, (long long)b->count, comm->size, b->reason);
    else if (io == MP_MODEL_ROOT && comm->size > 1)
        mp_log(MP_LOG_INFO, "%s: rank 0 reads it and sends it on", path);
    else if (comm->host_count > 1)
        mp_log(MP_LOG_INFO, "%s: every rank reads its part, for all see the same files", path);
}

mp_status mp_model_share(const mp_comm *comm, const char *path, mp_model_io io, mp_source **source,
                         char **assets)
{
    view v = {.source = NULL};
    blind b = {.count = 0};
    mp_status st, mine = MP_OK;

    if (comm->rank == 0 || io != MP_MODEL_ROOT) mine = look(path, &v);
    MP_GO(mp_comm_agree(comm, comm->rank == 0 ? mine : MP_OK));
    if (io != MP_MODEL_ROOT) MP_GO(compare(comm, path, &v, &mine, &b));
    if (io == MP_MODEL_SHARED) MP_GO(mp_comm_agree(comm, mine));
    if (io == MP_MODEL_ROOT || b.count > 0) MP_GO(leave_to_root(comm, path, &v));
    say(comm, path, io, &b);
    *source = v.source;
    *assets = v.assets;
    v = (view){.source = NULL};
out:
    view_close(&v);
    return st;
}
