/* A job that does not run, of which only the messages are counted (comm.h). */
#include "mpress/comm.h"

#include "mpress/memory.h"

void mp_comm_set_dry_rank(mp_comm *c, int rank)
{
    const int *node = c->node_of;
    int first = rank, end = rank + 1;

    while (first > 0 && node[first - 1] == node[rank]) first--;
    while (end < c->size && node[end] == node[rank]) end++;
    c->rank = rank;
    c->host_size = c->node_size = end - first;
    c->node_rank = rank - first;
    c->node_index = node[rank];
}

mp_status mp_comm_create_dry(int rank, int size, int per_node, mp_comm **comm)
{
    mp_comm *c = NULL;
    mp_status st;

    MP_GO(MP_NEW(c, 1, "communicator"));
    c->mpi = c->host = c->node = c->leaders = MPI_COMM_NULL;
    c->size = size;
    c->host_count = c->node_count = (size + per_node - 1) / per_node;
    MP_GO(MP_NEW(c->node_of, size, "table of nodes"));
    for (int r = 0; r < size; r++) c->node_of[r] = r / per_node;
    mp_comm_set_dry_rank(c, rank);
    *comm = c;
    c = NULL;
out:
    mp_comm_free(c);
    return st;
}

int mp_comm_is_dry(const mp_comm *comm)
{
    return comm->mpi == MPI_COMM_NULL;
}
