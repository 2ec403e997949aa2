/* A job that does not run, of which only the messages are counted (comm.h). */
#include "mpress/comm.h"

#include "mpress/memory.h"

mp_status mp_comm_create_dry(int rank, int size, int per_node, mp_comm **comm)
{
    const int first = rank / per_node * per_node;
    mp_comm *c = NULL;
    mp_status st;

    MP_GO(MP_NEW(c, 1, "communicator"));
    c->mpi = c->host = c->node = c->leaders = MPI_COMM_NULL;
    c->rank = rank;
    c->size = size;
    c->host_size = c->node_size = size - first < per_node ? size - first : per_node;
    c->host_count = c->node_count = (size + per_node - 1) / per_node;
    c->node_rank = rank - first;
    c->node_index = rank / per_node;
    MP_GO(MP_NEW(c->node_of, size, "table of nodes"));
    for (int r = 0; r < size; r++) c->node_of[r] = r / per_node;
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
