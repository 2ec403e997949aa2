/* Which ranks factorise which state: a cost model, and the schedule that it prefers.
 * Floor 9: pipeline. */
#ifndef MPRESS_PLAN_H
#define MPRESS_PLAN_H

#include "mpress/arch.h"
#include "mpress/dmat.h"

/* The factorisations of one state, in the form of the ScaLAPACK users' guide: arithmetic, words of the
 * panels, messages. */
typedef struct mp_plan_task {
    int64_t order;   /* of the Hessian */
    double work;     /* flop in double precision */
    double messages; /* steps in which all ranks of a grid wait for each other */
    int exact;       /* a grid of one row up to MP_EXACT_ORDER: the bits then follow from n alone */
} mp_plan_task;

/* A Cholesky factor of order n. */
mp_plan_task mp_plan_cholesky(int64_t n);

/* Adds factors of one linear map: products with the Hessian, and an eigenproblem of its smaller side, whose
 * reduction is bound by memory and counts twice. */
void mp_plan_add_lowrank(mp_plan_task *task, int64_t d_out, int64_t d_in, int64_t rank);

/* What factorising a state of a block takes: a Cholesky factor of its moment or, where `ranks` [n_linears]
 * is not NULL, an eigenproblem for each linear map that is not skipped. */
mp_plan_task mp_plan_state(const mp_arch *arch, int state, const int *skip, const int64_t *ranks);

double mp_plan_seconds(const mp_plan_task *task, const mp_grid *grid);

/* A grid for each task: side by side where the model says that it gains, in turn on all ranks where not.
 * Local: the same on all ranks. */
mp_status mp_plan_grids(const mp_plan_task *tasks, int count, int ranks, mp_grid *grids);

/* A host of a job of `size` ranks. */
typedef struct mp_plan_host {
    int size, ranks, sharing; /* ranks on it, and how many of them share what a node has once */
    double memory, room;      /* bytes that are free, and of them that ranks can share */
} mp_plan_host;

/* How many blocks' states should be solved together: enough for several tasks a rank, as many as half of
 * the free memory of a host holds (weights, Hessians), at most `most`.  Local. */
int mp_plan_batch_of(const mp_arch *arch, const mp_plan_host *host, int64_t most);

/* The same for the fullest of all hosts of a job.  Collective. */
mp_status mp_plan_batch(const mp_comm *comm, const mp_arch *arch, int64_t most, int *batch);

#endif
