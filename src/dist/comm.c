#include "mpress/comm.h"

#include "mpress/fault.h"
#include "mpress/memory.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { PIECE = 1 << 28 }; /* bytes per message: the library counts with int (hpc: over 2 GiB) */

static int64_t bytes_moved, bytes_crossed;

int64_t mp_comm_bytes_moved(void)
{
    return bytes_moved;
}

int64_t mp_comm_bytes_crossed(void)
{
    return bytes_crossed;
}

void mp_comm_count_bytes(int64_t bytes, int64_t crossed)
{
    bytes_moved += bytes;
    bytes_crossed += crossed;
}

/* Broadcasts of much are handed on along a chain or a tree of neighbouring ranks: as often as neighbours are
 * on different nodes, a copy goes from one to another. */
void mp_comm_count_broadcast(const mp_comm *comm, int64_t bytes, int first, int count)
{
    int crossings = 0;

    for (int r = first + 1; r < first + count; r++)
        crossings += comm->node_of[r] != comm->node_of[r - 1];
    mp_comm_count_bytes(bytes * (count - 1), bytes * crossings);
}

mp_status mp_mpi_check(int code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;

    if (code == MPI_SUCCESS) return MP_OK;
    MPI_Error_string(code, text, &length);
    return mp_fail(MP_ERR_MPI, "MPI, %s: %s", what, text);
}

/* Numbers the nodes by their lowest rank; every rank learns the node of every rank. */
static mp_status number_nodes(mp_comm *c)
{
    int lowest = c->rank;

    MP_TRY(mp_comm_agree(c, MP_NEW(c->node_of, c->size, "table of nodes")));
    MP_TRY(mp_mpi_check(MPI_Bcast(&lowest, 1, MPI_INT, 0, c->node), "numbering nodes"));
    MP_TRY(mp_mpi_check(MPI_Allgather(&lowest, 1, MPI_INT, c->node_of, 1, MPI_INT, c->mpi),
                        "numbering nodes"));
    /* lowest[r] becomes an index: a rank that is its own lowest starts a node; the lowest rank of a
     * node comes before the others, so that its index is there when they look for it */
    for (int r = 0; r < c->size; r++)
        c->node_of[r] = c->node_of[r] == r ? c->node_count++ : c->node_of[c->node_of[r]];
    c->node_index = c->node_of[c->rank];
    return MP_OK;
}

/* The ranks of this machine: those of `like`, or those that can share memory. */
static mp_status find_host(mp_comm *c, const mp_comm *like)
{
    int rank, first;

    MP_TRY(mp_mpi_check(like != NULL ? MPI_Comm_dup(like->host, &c->host)
                                     : MPI_Comm_split_type(c->mpi, MPI_COMM_TYPE_SHARED, c->rank,
                                                           MPI_INFO_NULL, &c->host),
                        "finding the ranks of this host"));
    MPI_Comm_rank(c->host, &rank);
    MPI_Comm_size(c->host, &c->host_size);
    first = rank == 0;
    return mp_mpi_check(MPI_Allreduce(&first, &c->host_count, 1, MPI_INT, MPI_SUM, c->mpi),
                        "counting the hosts");
}

static mp_status fill(mp_comm *c, MPI_Comm world, const mp_comm *like, int apart)
{
    MP_TRY(mp_mpi_check(MPI_Comm_dup(world, &c->mpi), "duplicating the communicator"));
    MPI_Comm_set_errhandler(c->mpi, MPI_ERRORS_RETURN);
    MPI_Comm_rank(c->mpi, &c->rank);
    MPI_Comm_size(c->mpi, &c->size);
    MP_TRY(find_host(c, like));
    MP_TRY(mp_mpi_check(MPI_Comm_split(c->host, apart ? c->rank : 0, c->rank, &c->node),
                        "finding the ranks of this node"));
    MPI_Comm_rank(c->node, &c->node_rank);
    MPI_Comm_size(c->node, &c->node_size);
    MP_TRY(number_nodes(c));
    return mp_mpi_check(
        MPI_Comm_split(c->mpi, c->node_rank == 0 ? 0 : MPI_UNDEFINED, c->rank, &c->leaders),
        "finding the first rank of each node");
}

static mp_status create(MPI_Comm world, const mp_comm *like, int apart, mp_comm **comm)
{
    mp_comm *c = NULL;
    int rank, size;
    mp_status st;

    MPI_Comm_rank(world, &rank);
    MPI_Comm_size(world, &size);
    st = MP_NEW(c, 1, "communicator");
    if (st == MP_OK) c->mpi = c->host = c->node = c->leaders = MPI_COMM_NULL;
    MP_GO(mp_agree_over(world, rank, size, st));
    MP_GO(fill(c, world, like, apart));
    *comm = c;
    c = NULL;
out:
    mp_comm_free(c);
    return st;
}

mp_status mp_comm_create(MPI_Comm world, mp_comm **comm)
{
    return create(world, NULL, 0, comm);
}

mp_status mp_comm_apart(const mp_comm *comm, int apart, mp_comm **made)
{
    return create(comm->mpi, comm, apart, made);
}

void mp_comm_free(mp_comm *comm)
{
    if (comm == NULL) return;
    if (comm->leaders != MPI_COMM_NULL) MPI_Comm_free(&comm->leaders);
    if (comm->node != MPI_COMM_NULL) MPI_Comm_free(&comm->node);
    if (comm->host != MPI_COMM_NULL) MPI_Comm_free(&comm->host);
    if (comm->mpi != MPI_COMM_NULL) MPI_Comm_free(&comm->mpi);
    mp_free(comm->node_of);
    mp_free(comm);
}

mp_status mp_agree_over(MPI_Comm mpi, int rank, int size, mp_status mine)
{
    /* the minimum of "my rank if I failed, else size" is the lowest failing rank */
    char text[1024] = "";
    int first, verdict;

    if (mp_fault(MP_FAULT_AGREE) && mine == MP_OK)
        mine = mp_fail(MP_ERR_IO, "a failure of rank %d, made on purpose", rank);
    first = mine == MP_OK ? size : rank;
    verdict = (int)mine;
    MP_TRY(mp_mpi_check(MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, mpi),
                        "agreeing on a status"));
    if (first == size) return MP_OK;
    if (rank == first) snprintf(text, sizeof text, "%s", mp_error_message());
    MP_TRY(mp_mpi_check(MPI_Bcast(&verdict, 1, MPI_INT, first, mpi), "agreeing on a status"));
    MP_TRY(
        mp_mpi_check(MPI_Bcast(text, sizeof text, MPI_CHAR, first, mpi), "agreeing on a status"));
    if (rank == first) return mine;
    return mp_fail((mp_status)verdict, "%s", text);
}

mp_status mp_comm_agree(const mp_comm *comm, mp_status mine)
{
    if (mp_comm_is_dry(comm)) return mine;
    return mp_agree_over(comm->mpi, comm->rank, comm->size, mine);
}

mp_status mp_comm_arm_fault(const mp_comm *comm)
{
    mp_fault_plan plan = {.nth = 0};

    MP_TRY(mp_comm_agree(comm, comm->rank == 0 ? mp_fault_read(comm->size, &plan) : MP_OK));
    MP_TRY(mp_comm_tell(comm, &plan, sizeof plan, 0));
    if (plan.nth > 0) mp_fault_arm(&plan, comm->rank);
    return MP_OK;
}

mp_status mp_comm_same(const mp_comm *comm, int64_t value, const char *what)
{
    int64_t ends[2] = {value, -value};

    MP_TRY(
        mp_mpi_check(MPI_Allreduce(MPI_IN_PLACE, ends, 2, MPI_INT64_T, MPI_MAX, comm->mpi), what));
    if (ends[0] == -ends[1]) return MP_OK;
    return mp_fail(MP_ERR_DIVERGED, "%s differs between ranks: from %lld to %lld", what,
                   (long long)-ends[1], (long long)ends[0]);
}

static mp_status bcast_pieces(MPI_Comm comm, void *buffer, size_t bytes, int root)
{
    char *at = buffer;

    while (bytes > 0) {
        int piece = bytes < PIECE ? (int)bytes : PIECE;

        MP_TRY(mp_mpi_check(MPI_Bcast(at, piece, MPI_BYTE, root, comm), "broadcast"));
        at += piece;
        bytes -= (size_t)piece;
    }
    return MP_OK;
}

mp_status mp_comm_bcast(const mp_comm *comm, void *buffer, size_t bytes, int root)
{
    if (comm->rank == root) mp_comm_count_broadcast(comm, (int64_t)bytes, 0, comm->size);
    return mp_comm_tell(comm, buffer, bytes, root);
}

mp_status mp_comm_tell(const mp_comm *comm, void *buffer, size_t bytes, int root)
{
    if (mp_comm_is_dry(comm)) return MP_OK;
    return bcast_pieces(comm->mpi, buffer, bytes, root);
}

mp_status mp_comm_bcast_nodes(const mp_comm *comm, void *buffer, size_t bytes, int node)
{
    int64_t copies = (int64_t)bytes * (comm->node_count - 1);

    if (comm->node_index == node) mp_comm_count_bytes(copies, copies);
    if (mp_comm_is_dry(comm)) return MP_OK;
    return bcast_pieces(comm->leaders, buffer, bytes, node);
}

mp_status mp_comm_send(const mp_comm *comm, const void *buffer, size_t bytes, int to)
{
    const char *at = buffer;

    mp_comm_count_bytes((int64_t)bytes, comm->node_of[to] != comm->node_index ? (int64_t)bytes : 0);
    if (mp_comm_is_dry(comm)) return MP_OK;
    while (bytes > 0) {
        int piece = bytes < PIECE ? (int)bytes : PIECE;

        MP_TRY(mp_mpi_check(MPI_Send(at, piece, MPI_BYTE, to, 0, comm->mpi), "send"));
        at += piece;
        bytes -= (size_t)piece;
    }
    return MP_OK;
}

mp_status mp_comm_receive(const mp_comm *comm, void *buffer, size_t bytes, int from)
{
    if (mp_comm_is_dry(comm)) return MP_OK;
    char *at = buffer;

    while (bytes > 0) {
        int piece = bytes < PIECE ? (int)bytes : PIECE;

        MP_TRY(mp_mpi_check(MPI_Recv(at, piece, MPI_BYTE, from, 0, comm->mpi, MPI_STATUS_IGNORE),
                            "receive"));
        at += piece;
        bytes -= (size_t)piece;
    }
    return MP_OK;
}

mp_status mp_comm_sum(const mp_comm *comm, double *values, int count)
{
    if (mp_comm_is_dry(comm)) return MP_OK;
    return mp_mpi_check(MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_SUM, comm->mpi),
                        "sum over ranks");
}

mp_status mp_comm_max(const mp_comm *comm, double *values, int count)
{
    if (mp_comm_is_dry(comm)) return MP_OK;
    return mp_mpi_check(MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_MAX, comm->mpi),
                        "maximum over ranks");
}

mp_status mp_comm_min(const mp_comm *comm, double *values, int count)
{
    if (mp_comm_is_dry(comm)) return MP_OK;
    return mp_mpi_check(MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_MIN, comm->mpi),
                        "minimum over ranks");
}

mp_status mp_comm_sum_host(const mp_comm *comm, double *values, int count)
{
    return mp_mpi_check(MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_SUM, comm->host),
                        "sum over the ranks of a host");
}

mp_status mp_comm_min_host(const mp_comm *comm, double *values, int count)
{
    return mp_mpi_check(MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_DOUBLE, MPI_MIN, comm->host),
                        "minimum over the ranks of a host");
}

mp_status mp_comm_sum_int(const mp_comm *comm, int64_t *values, int count)
{
    if (mp_comm_is_dry(comm)) return MP_OK;
    return mp_mpi_check(MPI_Allreduce(MPI_IN_PLACE, values, count, MPI_INT64_T, MPI_SUM, comm->mpi),
                        "sum over ranks");
}

mp_status mp_exchange_create(const mp_comm *comm, mp_exchange **exchange)
{
    mp_exchange *e = NULL;
    mp_status st;

    MP_TRY(MP_NEW(e, 1, "plan of an exchange"));
    MP_GO(MP_NEW(e->send_counts, 4 * (int64_t)comm->size, "counts of an exchange"));
    e->send_starts = e->send_counts + comm->size;
    e->receive_counts = e->send_starts + comm->size;
    e->receive_starts = e->receive_counts + comm->size;
    *exchange = e;
    return MP_OK;
out:
    mp_free(e);
    return st;
}

int64_t mp_exchange_bytes(int ranks)
{
    return (int64_t)sizeof(mp_exchange) + 4 * (int64_t)ranks * (int64_t)sizeof(int);
}

void mp_exchange_free(mp_exchange *exchange)
{
    if (exchange == NULL) return;
    mp_free(exchange->send_counts);
    mp_free(exchange);
}

static mp_status starts_of(const mp_comm *comm, const int *counts, int *starts, int64_t *total)
{
    *total = 0;
    for (int r = 0; r < comm->size; r++) {
        starts[r] = (int)*total;
        *total += counts[r];
        if (*total > INT_MAX)
            return mp_fail(MP_ERR_NOFIT, "an exchange of over %d elements on one rank", INT_MAX);
    }
    return MP_OK;
}

mp_status mp_exchange_ready(const mp_comm *comm, mp_exchange *e)
{
    MP_TRY(starts_of(comm, e->send_counts, e->send_starts, &e->send_total));
    return starts_of(comm, e->receive_counts, e->receive_starts, &e->receive_total);
}

mp_status mp_comm_exchange(const mp_comm *comm, const mp_exchange *e, MPI_Datatype type,
                           const void *send, void *receive)
{
    int64_t crossed = 0;
    int bytes;

    MPI_Type_size(type, &bytes);
    for (int r = 0; r < comm->size; r++)
        if (comm->node_of[r] != comm->node_index) crossed += e->send_counts[r];
    mp_comm_count_bytes((e->send_total - e->send_counts[comm->rank]) * (int64_t)bytes,
                        crossed * (int64_t)bytes);
    if (mp_comm_is_dry(comm)) return MP_OK;
    return mp_mpi_check(MPI_Alltoallv(send, e->send_counts, e->send_starts, type, receive,
                                      e->receive_counts, e->receive_starts, type, comm->mpi),
                        "exchange between ranks");
}

void mp_share(int64_t count, int64_t unit, int64_t part, int64_t parts, int64_t *begin,
              int64_t *end)
{
    int64_t units = (count + unit - 1) / unit;
    int64_t each = units / parts, longer = units % parts;
    int64_t first = part * each + (part < longer ? part : longer);
    int64_t last = first + each + (part < longer ? 1 : 0);

    *begin = first * unit < count ? first * unit : count;
    *end = last * unit < count ? last * unit : count;
}

int mp_share_of_node(const mp_comm *comm, int64_t count, int64_t unit, int rank, int64_t *begin,
                     int64_t *end)
{
    int64_t begin_of_last;
    int next = rank + 1;

    while (next < comm->size && comm->node_of[next] == comm->node_of[rank]) next++;
    mp_share(count, unit, rank, comm->size, begin, end);
    mp_share(count, unit, next - 1, comm->size, &begin_of_last, end);
    return next;
}
