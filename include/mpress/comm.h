/* The ranks of a job, who shares a node with whom, and how they agree on errors.
 * Floor 3: dist. */
#ifndef MPRESS_COMM_H
#define MPRESS_COMM_H

#include "mpress/error.h"

#include <mpi.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mp_comm {
    MPI_Comm mpi; /* our own duplicate; errors are returned, not fatal */
    int rank, size;

    MPI_Comm host; /* the ranks on the same machine */
    int host_size, host_count;

    MPI_Comm node; /* the ranks that share memory with this one: those of its host, as a rule */
    int node_rank, node_size;
    int node_index, node_count; /* nodes are numbered by their lowest rank */
    MPI_Comm leaders;           /* node_rank 0 of every node, in the order of node_index;
                                   MPI_COMM_NULL on the others */
    int *node_of;               /* [size] node_index of each rank */
} mp_comm;

/* Collective over `world`.  Errors: MP_ERR_MPI, MP_ERR_NOMEM. */
mp_status mp_comm_create(MPI_Comm world, mp_comm **comm);
void mp_comm_free(mp_comm *comm);

/* Another one of the same ranks on the same hosts, in which each rank of a host is a node of its own if
 * these ranks say so: what nodes hold once is then there once per rank.  Collective. */
mp_status mp_comm_apart(const mp_comm *comm, int apart, mp_comm **made);

/* Rank `rank` of a job of `size` ranks, `per_node` of them on each node, that does not run: what it would
 * send is counted as if it did (mp_comm_bytes_moved) and goes nowhere, sums over the ranks are this rank's
 * own, and matrices have no elements.  For the parts of the road whose messages do not depend on data, so
 * that a forecast counts bytes by the code that moves them.  Local. */
mp_status mp_comm_create_dry(int rank, int size, int per_node, mp_comm **comm);
int mp_comm_is_dry(const mp_comm *comm);

/* The same job from another of its ranks.  Local. */
void mp_comm_set_dry_rank(mp_comm *comm, int rank);

/* After a step that can fail on some ranks only: the same status on all ranks, and on all of them the
 * message of the lowest rank that failed.  Collective; one small allreduce where all is well. */
mp_status mp_comm_agree(const mp_comm *comm, mp_status mine);

/* The same over the `size` ranks of another communicator, of which this one is `rank`. */
mp_status mp_agree_over(MPI_Comm mpi, int rank, int size, mp_status mine);

/* Arms what MPRESS_FAULT says on rank 0 (fault.h).  Collective; agreed.  Errors: MP_ERR_ARG. */
mp_status mp_comm_arm_fault(const mp_comm *comm);

/* MP_ERR_DIVERGED unless `value` is the same on all ranks.  Collective. */
mp_status mp_comm_same(const mp_comm *comm, int64_t value, const char *what);

/* MP_OK, or MP_ERR_MPI with the library's own text and `what`. */
mp_status mp_mpi_check(int code, const char *what);

/* `bytes` from `root` to all, in pieces an int can count.  Collective. */
mp_status mp_comm_bcast(const mp_comm *comm, void *buffer, size_t bytes, int root);

/* The same for what ranks tell each other to stay together: not counted among the bytes moved, whose number
 * then follows from model, windows and ranks alone. */
mp_status mp_comm_tell(const mp_comm *comm, void *buffer, size_t bytes, int root);

/* The same among the first ranks of the nodes, from the one of node `node`; others do not call it. */
mp_status mp_comm_bcast_nodes(const mp_comm *comm, void *buffer, size_t bytes, int node);

/* One message of any length from one rank to another, in pieces; both sides name the same length. */
mp_status mp_comm_send(const mp_comm *comm, const void *buffer, size_t bytes, int to);
mp_status mp_comm_receive(const mp_comm *comm, void *buffer, size_t bytes, int from);

/* Sums in place over all ranks.  The order is the library's: only for counters and timings, never for
 * a result (results are added in an order of their own).  Collective. */
mp_status mp_comm_sum(const mp_comm *comm, double *values, int count);
mp_status mp_comm_max(const mp_comm *comm, double *values, int count);
mp_status mp_comm_min(const mp_comm *comm, double *values, int count);
mp_status mp_comm_sum_int(const mp_comm *comm, int64_t *values, int count);

/* The same over the ranks of this host.  Collective over the host. */
mp_status mp_comm_sum_host(const mp_comm *comm, double *values, int count);
mp_status mp_comm_min_host(const mp_comm *comm, double *values, int count);

/* Who sends how much to whom in an exchange between all ranks: [size] counts and starts, in elements. */
typedef struct mp_exchange {
    int *send_counts, *send_starts, *receive_counts, *receive_starts;
    int64_t send_total, receive_total;
} mp_exchange;

/* Zeroed counts; then the caller sets the counts and calls mp_exchange_ready, which makes the starts
 * (MP_ERR_NOFIT where the library's int cannot count an element). */
mp_status mp_exchange_create(const mp_comm *comm, mp_exchange **exchange);
mp_status mp_exchange_ready(const mp_comm *comm, mp_exchange *exchange);
void mp_exchange_free(mp_exchange *exchange);

/* Bytes that the counts and starts of `ranks` ranks take. */
int64_t mp_exchange_bytes(int ranks);

/* The exchange itself, of elements of `type`.  Collective. */
mp_status mp_comm_exchange(const mp_comm *comm, const mp_exchange *exchange, MPI_Datatype type,
                           const void *send, void *receive);

/* Bytes of data this rank has sent so far through the functions of this floor (a broadcast counts at its
 * root, times the receivers).  Reductions and what ScaLAPACK sends are not among them. */
int64_t mp_comm_bytes_moved(void);

/* Of them, those that went from one node into another: of a broadcast one copy for each node, as the ranks
 * hand it on in their order. */
int64_t mp_comm_bytes_crossed(void);

void mp_comm_count_bytes(int64_t bytes, int64_t crossed);

/* `bytes` from one of the ranks [first, first + count) to the others, both counts. */
void mp_comm_count_broadcast(const mp_comm *comm, int64_t bytes, int first, int count);

/* [begin, end) of `count` items cut into `parts` contiguous shares of whole `unit`s, the first shares
 * one unit longer where it does not divide; the last share ends at count. */
void mp_share(int64_t count, int64_t unit, int64_t part, int64_t parts, int64_t *begin,
              int64_t *end);

/* The same over all ranks, of `rank` and those after it on its node: one piece, which can go in one message.
 * Returns the first rank behind them. */
int mp_share_of_node(const mp_comm *comm, int64_t count, int64_t unit, int rank, int64_t *begin,
                     int64_t *end);

/* Memory that the ranks of a node share: one copy per node.  Zeroed.  Collective over the node (call
 * it on all ranks of the job).  Errors: MP_ERR_MPI where the node cannot give it. */
typedef struct mp_shared {
    void *base; /* the same memory on all ranks of the node */
    size_t bytes;
    MPI_Win window;
} mp_shared;

mp_status mp_shared_create(const mp_comm *comm, size_t bytes, const char *what, mp_shared **shared);
void mp_shared_free(mp_shared *shared);

/* Bytes that this node has left for it; infinite where it is of one rank, or does not say.  Local. */
double mp_shared_room(const mp_comm *comm);

/* To be asked before the first of it is made: whether every host can share `bytes` among its ranks, the
 * most that will be alive at once.  *apart stays NULL if so; otherwise it is a communicator (owned) to go
 * on with, in which the ranks of the hosts that cannot are nodes of their own, and that is logged.
 * Errors: MP_ERR_NOFIT where a host has not the memory for a copy per rank either.  Collective; agreed. */
mp_status mp_shared_plan(const mp_comm *comm, size_t bytes, const char *what, mp_comm **apart);

/* What the ranks of this node wrote before is seen by all of them after.  Collective over the node. */
mp_status mp_shared_fence(const mp_comm *comm, const mp_shared *shared);

/* Largest sum of shared windows that were alive at once, bytes per node. */
int64_t mp_shared_peak(void);

/* Sum over ranks of the peak resident memory, of the job and of the host that has most; a node's shared
 * windows are counted once.  Collective. */
mp_status mp_comm_peak_bytes(const mp_comm *comm, int64_t *job, int64_t *largest_host);

#endif
