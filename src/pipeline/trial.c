/* One block of random weights and activations through the road of a run: for benchmarks, and for rates. */
#include "mpress/forecast.h"

#include "mpress/log.h"
#include "mpress/rng.h"
#include "mpress/tensor.h"

#include <math.h>

/* Random weights of one block, rounded to the dtype of the config, each rank of a node its rows. */
static mp_status random_block(const mp_comm *comm, const mp_arch *arch, mp_block *block)
{
    for (int i = 0; i < arch->n_linears; i++) {
        mp_linear *l = &block->linears[i];
        int64_t begin, end;
        float scale = 1.0f / sqrtf((float)l->d_in);

        mp_share(l->d_out, 1, comm->node_rank, comm->node_size, &begin, &end);
        l->dtype = arch->dtype;
        l->rank = l->a_stride = 0;
        for (int64_t r = begin; r < end; r++) {
            float *row = l->weight + r * l->d_in;

            mp_philox_normal(3 + (uint64_t)i, (uint64_t)r, 0, l->d_in, row);
            for (int64_t c = 0; c < l->d_in; c++) row[c] *= scale;
            mp_round_f32(l->dtype, row, l->d_in);
        }
    }
    for (int i = 0; i < arch->n_vectors && comm->node_rank == 0; i++) {
        float *norm = (float *)block->norms[arch->vectors[i].role];

        for (int64_t c = 0; c < arch->vectors[i].size; c++) norm[c] = 1.0f;
    }
    block->index = 0;
    return mp_shared_fence(comm, block->memory);
}

mp_status mp_trial_block(mp_runner *run, int is_last, double *seconds)
{
    mp_linear_result results[MP_MAX_LINEARS];
    int skip[MP_MAX_LINEARS] = {0};
    double start;

    MP_TRY(random_block(run->comm, run->arch, run->block));
    for (int64_t i = 0; run->hidden != NULL && i < run->hidden->local; i++)
        mp_philox_normal(11, (uint64_t)(i * run->comm->size + run->comm->rank), 0,
                         run->hidden->n_tokens * run->hidden->width,
                         mp_hidden_sequence(run->hidden, i));
    for (int i = 0; i < run->arch->n_linears; i++)
        skip[i] = run->method->factorise != NULL && run->ranks[i] == 0;
    run->clock = (mp_clock){.moved_before = mp_comm_bytes_moved()};
    MP_TRY(mp_mpi_check(MPI_Barrier(run->comm->mpi), "barrier"));
    start = mp_seconds();
    MP_TRY(mp_runner_block(run, skip, is_last, results));
    *seconds = mp_seconds() - start;
    return mp_comm_max(run->comm, seconds, 1);
}
