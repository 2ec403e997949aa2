/* What every command does first: threads, and a look at what it stands on.
 * Floor 10: cli. */
#ifndef MPRESS_STARTUP_H
#define MPRESS_STARTUP_H

#include "mpress/comm.h"

/* Lets the C library keep what buffers of up to 32 MiB give back, instead of asking the kernel for zeroed
 * pages at every product (measured: a tenth of the time). */
void startup_memory(void);

/* Threads of this rank: OMP_NUM_THREADS if it is set, otherwise the cores this rank may run on, shared
 * out among the ranks of the node that may run on the same.  Collective over the node. */
void startup_threads(const mp_comm *comm);

/* Whether something makes this job slow in silence: MPI over TCP between hosts, the reference BLAS.
 * A line for each, and how many.  Collective. */
int startup_warnings(const mp_comm *comm, const char *lines[2]);

/* Says on stderr what the job runs on (ranks, nodes, threads), and the warnings.  Collective. */
void startup_banner(const mp_comm *comm);

#endif
