/* One block of the model: propagate, measure, compress, round, publish.
 * Floor 9: pipeline. */
#ifndef MPRESS_BLOCK_RUN_H
#define MPRESS_BLOCK_RUN_H

#include "mpress/clock.h"
#include "mpress/forward.h"
#include "mpress/hidden.h"
#include "mpress/method.h"
#include "mpress/token_weights.h"
#include "mpress/weights.h"

/* What the statistics of a linear map are measured on (design: propagation order):
 *   block   the current block dense, the earlier ones compressed; then its outputs again
 *   linear  state by state, the earlier linear maps of the block already compressed
 *   dense   the dense model */
typedef enum mp_order { MP_ORDER_BLOCK, MP_ORDER_LINEAR, MP_ORDER_DENSE } mp_order;

mp_status mp_order_parse(const char *text, mp_order *order);

/* Whether so many blocks may be solved side by side; 0 or 1 always.  Errors: MP_ERR_ARG. */
mp_status mp_batch_check(const mp_method *method, mp_order order, int64_t batch);

/* What became of a linear map. */
typedef struct mp_linear_result {
    int compressed;   /* 0: left dense */
    double rel_error; /* tr(D H D^T) / tr(W H W^T); NaN where nothing was calibrated */
    double sparsity;  /* share of exact zeros in the stored weight; 0 for factors */
    int64_t rank;     /* of the factors, 0 where the weight is none */
    mp_quant quant;   /* of the integers, bits = 0 where it is none */
    double kept; /* share of the energy that the factors keep, before rounding; NaN for others */
    mp_outcome outcome;
    int64_t tokens; /* that its statistics counted */
    mp_grid grid;   /* the ranks that factorised its state */
} mp_linear_result;

/* What was measured at a state. */
typedef struct mp_state_result {
    int64_t tokens; /* that counted, of all windows; 0: nothing was measured */
    double weight;  /* the sum of their weights */
    mp_moment_summary summary;
    double *
        squares; /* [width] sum of w_t x_t^2, on all ranks; owned by whoever asked for it; or NULL */
} mp_state_result;

enum { MP_MAX_BATCH = 64 };

/* Everything that stays the same from block to block. */
typedef struct mp_runner {
    const mp_comm *comm;
    const mp_arch *arch;
    const mp_method *method;
    mp_method_options options;
    mp_length_policy lengths;
    mp_order order;
    const int64_t *ranks; /* [n_linears] of the block at hand, where the method factors; borrowed */
    int64_t retries;      /* out: factorisations that were tried again, of all blocks so far */
    int spectra_only;     /* the items' spectra are wanted, and the weights left as they are */
    mp_hidden *hidden;    /* NULL where nothing is calibrated; borrowed */
    mp_dtype hidden_dtype; /* that hidden states are rounded to between blocks: MP_F32 or MP_BF16 */
    int batch;             /* blocks whose weights are held at once; 1 if not set */
    mp_block *blocks[MP_MAX_BATCH]; /* [batch], owned */
    mp_block *block;                /* the one at hand, of these */
    mp_forward *forward;
    mp_moment_scratch *scratch;
    float *weights; /* [n_tokens] token weights of one sequence */
    mp_clock clock;
} mp_runner;

/* Room for the run.  The plain fields (comm .. hidden) must be set.  Collective; agreed. */
mp_status mp_runner_open(mp_runner *runner);

/* Gives all of it back but the clock; may be called twice. */
void mp_runner_close(mp_runner *runner);

/* Compresses the loaded block in runner->block and propagates runner->hidden through it.
 *
 *   skip      in   [n_linears] 1: leave this one dense
 *   is_last   in   nobody needs the hidden states after this block
 *   results   out  [n_linears]
 *
 * Afterwards the block holds the compressed weights, rounded to their stored dtype or as integers, on every
 * node.
 * Collective; the status is agreed. */
mp_status mp_runner_block(mp_runner *runner, const int *skip, int is_last,
                          mp_linear_result *results);

/* The hidden states through the block in runner->block as it stands: what becomes of them in a block that
 * an earlier run has compressed.  Collective; the status is agreed. */
mp_status mp_runner_replay(mp_runner *runner);

/* One block of a batch. */
typedef struct mp_batch_item {
    mp_block *block;      /* loaded; one of runner->blocks */
    const int *skip;      /* [n_linears] 1: leave this one dense */
    const int64_t *ranks; /* [n_linears] where the method factors */
    double **spectra;     /* out [n_linears] each [min(d_out, d_in)], falling, where spectra_only */
    int is_last;          /* nobody needs the hidden states after this block */
    mp_linear_result *results; /* out [n_linears] */
    mp_state_result *states;   /* out [n_states], zeroed before; NULL: not wanted */
} mp_batch_item;

/* mp_runner_block for consecutive blocks.  More than one only in dense order, where there is no chain
 * between them: all are measured, then all their states are solved side by side on groups of ranks.
 * Collective; the status is agreed. */
mp_status mp_runner_batch(mp_runner *runner, const mp_batch_item *items, int count);

/* The part of mp_runner_block that compresses the linear maps of one state, its moment prepared
 * (NULL where nothing was calibrated).  Collective. */
mp_status mp_runner_solve(mp_runner *runner, int state, const mp_moment *moment,
                          const mp_outcome *outcome, const int *skip, mp_linear_result *results);

/* Adds what the clock of low-rank factorisations has counted since `before` to the phases. */
void mp_clock_lowrank(mp_clock *clock, const mp_lowrank_times *before);

/* This rank's rows of a linear map: the same ones in the sweep and in the checkpoint. */
void mp_runner_rows(const mp_runner *runner, int linear, int64_t *begin, int64_t *end);

#endif
