/* What the two ways of compressing a state share: by rows (solve.c) and factoring (lowrank.c).
 * Floor 9: pipeline. */
#ifndef MPRESS_SOLVE_H
#define MPRESS_SOLVE_H

#include "mpress/block_run.h"
#include "mpress/forecast.h"

/* The linear maps of a state that are not skipped as the parts of a problem, their rows loaded;
 * linear[p]: which linear map of the architecture part p is.  Local; mp_problem_close whatever it says. */
mp_status solve_open(const mp_runner *runner, int state, const mp_moment *moment, const int *skip,
                     mp_problem *problem, int *linear);

/* Row `row` of this rank's rows of a part, in the weights that the node shares. */
float *solve_node_row(const mp_runner *runner, const mp_problem *problem, int part, int linear,
                      int64_t row);

/* Each rank's rows of a linear map's weights [d_out, n] to the other nodes.  On a communicator that is dry
 * `weight` may be NULL.  Collective over the first ranks of the nodes, the others return. */
mp_status solve_share_rows(const mp_comm *comm, int64_t d_out, int64_t n, float *weight);

/* lowrank.c: `count` numbers of factors, each of which one node has and the others have as zero, to all
 * nodes; as above. */
mp_status lowrank_share_factors(const mp_comm *comm, float *values, int64_t count);

/* packing.c: each rank's rows of a linear map as integers to the other nodes; as above, with no memory behind
 * `packed` where the communicator is dry. */
mp_status packing_share_rows(const mp_comm *comm, int64_t d_out, const mp_packed *packed);

/* packing.c: the rows of all ranks, which are on the grids of the problem, to every node as integers in
 * place of the weights; the problem's differences are used up.  Collective; the status is agreed. */
mp_status packing_publish(mp_runner *runner, const int *linear, const mp_problem *problem);

/* lowrank.c: the factors of one state's linear maps on the grid of its moment.  Collective over that
 * grid.  factors: [MP_MAX_LINEARS], by linear map. */
mp_status lowrank_factorise(mp_runner *runner, int state, mp_moment *moment, const int *skip,
                            mp_factors *factors, mp_outcome *outcome);

/* lowrank.c: the spectra that were found, to all ranks: item->spectra.  Collective. */
mp_status lowrank_share_spectra(mp_runner *runner, int state, const mp_moment *moment,
                                const mp_batch_item *item, const mp_factors *factors);

/* lowrank.c: from there to every node, rounded, and measured.  Collective. */
mp_status lowrank_publish(mp_runner *runner, int state, const mp_moment *moment,
                          const mp_outcome *outcome, const int *skip, mp_factors *factors,
                          mp_linear_result *results);

/* forecast.c: [count][n_states] the grid on which each state of `count` blocks is factorised: planned
 * together, or in linear order one by one.  Local. */
mp_status forecast_grids(const mp_forecast_job *job, int count, mp_grid *grids);

/* forecast.c: the order of the moment of a state, whole tiles. */
int64_t forecast_order(const mp_forecast_job *job, int state);

#endif
