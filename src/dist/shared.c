/* Memory shared by the ranks of a node, and what memory a job has used. */
#include "mpress/comm.h"

#include "mpress/fault.h"
#include "mpress/log.h"
#include "mpress/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

/* What the library takes for itself beside a window, and how many windows live at once at most. */
enum { SLACK = 1 << 20, WINDOWS = 3 };

static int64_t shared_now, shared_peak;

/* The whole segment belongs to rank 0 of the node; the others ask for its address. */
static mp_status attach(const mp_comm *comm, size_t bytes, mp_shared *s)
{
    MPI_Aint size;
    int unit;
    void *mine;

    MP_TRY(mp_mpi_check(MPI_Win_allocate_shared(comm->node_rank == 0 ? (MPI_Aint)bytes : 0, 1,
                                                MPI_INFO_NULL, comm->node, &mine, &s->window),
                        "allocating memory shared by the node"));
    MP_TRY(mp_mpi_check(MPI_Win_shared_query(s->window, 0, &size, &unit, &s->base),
                        "finding the memory shared by the node"));
    MP_TRY(mp_mpi_check(MPI_Win_lock_all(MPI_MODE_NOCHECK, s->window), "locking shared memory"));
    s->bytes = bytes;
    return MP_OK;
}

static void detach(mp_shared *s)
{
    MPI_Win_unlock_all(s->window);
    MPI_Win_free(&s->window);
}

double mp_shared_room(const mp_comm *comm)
{
    struct statvfs info;

    if (comm->node_size == 1 || statvfs("/dev/shm", &info) != 0) return INFINITY;
    return (double)info.f_bavail * (double)info.f_frsize;
}

/* Open MPI leaves a rank of the node waiting for ever where the file system of shared memory is too
 * small (4.1.4), so that is looked at before.  A node of one rank does not use it. */
static mp_status check_room(const mp_comm *comm, size_t bytes, const char *what)
{
    const double mib = 1.0 / (1 << 20), wanted = (double)bytes + SLACK;
    double room = mp_shared_room(comm);

    if (!mp_fault(MP_FAULT_SHARED) && (comm->node_rank != 0 || room >= wanted)) return MP_OK;
    return mp_fail(
        MP_ERR_NOFIT,
        "%s: %.1f MiB of memory shared by the ranks of a node, but /dev/shm has %.1f MiB left: "
        "expected a larger one (--shm-size of a container), or one rank per node",
        what, wanted * mib, room * mib);
}

/* What rank 0 logs where hosts keep copies. */
typedef struct shortage {
    int64_t hosts;
    char text[256]; /* of the lowest rank among them */
} shortage;

/* Whether the ranks of this host must keep copies, which is MP_ERR_NOFIT if they do not fit either. */
static mp_status look_at_host(const mp_comm *comm, size_t bytes, const char *what, int *apart,
                              shortage *s)
{
    const double mib = 1.0 / (1 << 20), wanted = (double)bytes + WINDOWS * SLACK;
    const double room = mp_shared_room(comm), copies = wanted * comm->host_size;
    const double memory = mp_memory_available();

    *apart = room < wanted || mp_fault(MP_FAULT_SHARED);
    if (!*apart) return MP_OK;
    snprintf(
        s->text, sizeof s->text,
        "%s: %.1f MiB of shared memory for the ranks of a host, but /dev/shm has %.1f MiB left",
        what, wanted * mib, room * mib);
    if (copies <= memory) return MP_OK;
    return mp_fail(
        MP_ERR_NOFIT,
        "%s, and copies for its %d ranks would take %.1f of the %.1f MiB of free memory: "
        "expected a larger /dev/shm (--shm-size of a container), or fewer ranks per host",
        s->text, comm->host_size, copies * mib, memory * mib);
}

/* Collective. */
static mp_status gather_shortage(const mp_comm *comm, int apart, shortage *s)
{
    int first = apart ? comm->rank : comm->size;

    s->hosts = apart && comm->node_rank == 0;
    MP_TRY(mp_comm_sum_int(comm, &s->hosts, 1));
    if (s->hosts == 0) return MP_OK;
    MP_TRY(mp_mpi_check(MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, comm->mpi),
                        "looking at shared memory"));
    return mp_comm_tell(comm, s->text, sizeof s->text, first);
}

mp_status mp_shared_plan(const mp_comm *comm, size_t bytes, const char *what, mp_comm **apart)
{
    shortage s = {.hosts = 0};
    int mine = 0;
    mp_status st = MP_OK;

    /* one rank looks, so that those of a host cannot see different figures */
    if (comm->node_rank == 0) st = look_at_host(comm, bytes, what, &mine, &s);
    MP_TRY(mp_comm_agree(comm, st));
    MP_TRY(mp_mpi_check(MPI_Bcast(&mine, 1, MPI_INT, 0, comm->node), "looking at shared memory"));
    MP_TRY(gather_shortage(comm, mine, &s));
    if (s.hosts == 0) return MP_OK;
    MP_TRY(mp_comm_apart(comm, mine, apart));
    mp_log(MP_LOG_WARNING, "%s: every rank keeps a copy of its own there (on %lld of %d hosts)",
           s.text, (long long)s.hosts, comm->host_count);
    return MP_OK;
}

/* The pages are taken now, each rank its share: the room that is left for the next segment is then what
 * the file system says, and a page that cannot be had is no signal in the middle of the work. */
static mp_status touch(const mp_comm *comm, const mp_shared *s)
{
    int64_t begin, end;

    mp_share((int64_t)s->bytes, 4096, comm->node_rank, comm->node_size, &begin, &end);
    memset((char *)s->base + begin, 0, (size_t)(end - begin));
    return mp_mpi_check(MPI_Barrier(comm->node), "waiting for shared memory");
}

mp_status mp_shared_create(const mp_comm *comm, size_t bytes, const char *what, mp_shared **shared)
{
    mp_shared *s = NULL;
    mp_status st = check_room(comm, bytes, what);

    if (st == MP_OK) st = MP_NEW(s, 1, what);
    st = mp_comm_agree(comm, st);
    if (st != MP_OK) {
        mp_free(s);
        return st;
    }
    s->window = MPI_WIN_NULL;
    st = attach(comm, bytes > 0 ? bytes : 1, s);
    if (st == MP_OK) st = touch(comm, s);
    if (st != MP_OK)
        st = mp_fail(
            st, "%s, %.1f MiB for this node: %s (is the shared memory of the node large enough?)",
            what, (double)bytes / (1 << 20), mp_error_message());
    st = mp_comm_agree(comm, st);
    if (st != MP_OK) {
        if (st != MP_ERR_MPI) detach(s); /* otherwise some ranks may not have it */
        mp_free(s);
        return st;
    }
    shared_now += (int64_t)bytes;
    if (shared_now > shared_peak) shared_peak = shared_now;
    *shared = s;
    return MP_OK;
}

void mp_shared_free(mp_shared *shared)
{
    if (shared == NULL) return;
    shared_now -= (int64_t)shared->bytes;
    detach(shared);
    mp_free(shared);
}

mp_status mp_shared_fence(const mp_comm *comm, const mp_shared *shared)
{
    MP_TRY(mp_mpi_check(MPI_Win_sync(shared->window), "synchronising shared memory"));
    MP_TRY(mp_mpi_check(MPI_Barrier(comm->node), "barrier of the node"));
    return mp_mpi_check(MPI_Win_sync(shared->window), "synchronising shared memory");
}

int64_t mp_shared_peak(void)
{
    return shared_peak;
}

/* The kernel counts a shared page in every process that touched it: all but one per node go off. */
mp_status mp_comm_peak_bytes(const mp_comm *comm, int64_t *job, int64_t *largest_host)
{
    int64_t mine = mp_memory_peak() - (comm->node_rank == 0 ? 0 : shared_peak);
    int64_t sums[2];

    if (mine < 0) mine = 0;
    MP_TRY(mp_mpi_check(MPI_Allreduce(&mine, &sums[0], 1, MPI_INT64_T, MPI_SUM, comm->mpi),
                        "peak memory"));
    MP_TRY(mp_mpi_check(MPI_Allreduce(&mine, &sums[1], 1, MPI_INT64_T, MPI_SUM, comm->host),
                        "peak memory"));
    MP_TRY(mp_mpi_check(MPI_Allreduce(MPI_IN_PLACE, &sums[1], 1, MPI_INT64_T, MPI_MAX, comm->mpi),
                        "peak memory"));
    *job = sums[0];
    *largest_host = sums[1];
    return MP_OK;
}
