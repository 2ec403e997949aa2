/* What a run will take before it is started: bytes, memory, flop, and from measured rates the time.
 * Floor 9: pipeline.
 *
 * Messages are counted by the code that sends them, run dry for every rank (comm.h), and exchanges of tiles
 * by who has which, so that their bytes are exact at any number of ranks; those inside ScaLAPACK (states
 * wider than MP_EXACT_ORDER on several ranks, eigenproblems) and reductions of a few numbers are not among
 * them, as in the report of a run.  All ranks are taken to see the model and OUT; time and messages of an
 * evaluation, and a search for ranks, come on top. */
#ifndef MPRESS_FORECAST_H
#define MPRESS_FORECAST_H

#include "mpress/block_run.h"

/* What HDF5 and MPI-IO keep once they have written a file (measured: 5 to 8 MiB a rank): a part of what a
 * rank has whatever the model. */
enum { MP_FILE_LIBRARIES = 6 << 20 };

/* Saving hidden states may take so much of the time of the blocks between two of them, in hundredths. */
enum { MP_SAVE_PERCENT = 5 };

/* A run that is thought of. */
typedef struct mp_forecast_job {
    const mp_arch *arch;
    const mp_method *method;
    const mp_method_options *options;
    mp_order order;
    int64_t windows, seqlen; /* calibration; no windows: none */
    int64_t eval_windows, eval_seqlen;
    int64_t ranks[MP_MAX_LINEARS]; /* of the factors, where the method factors */
    int size, per_node;            /* ranks, and how many of them share a node */
    int batch;                     /* blocks whose weights are held at once */
    int exports;                   /* OUT/hf is written */
} mp_forecast_job;

/* Bytes that one rank has at its worst moment, by what they are; `weights` are those of the node that it
 * shares. */
typedef struct mp_forecast_memory {
    int64_t weights;    /* per node: blocks in single precision, or a panel of the head */
    int64_t hidden;     /* hidden states, and in linear order the states kept between maps */
    int64_t moments;    /* tiles of the second moments */
    int64_t rows;       /* weights under work, before and after */
    int64_t buffers;    /* states of one window, forward pass, panels, messages */
    int64_t evaluation; /* of windows, when nothing of the above is there */
    int64_t base;       /* of the program before it has a model */
    int64_t rank;       /* what of them is there at once, but for `weights` */
} mp_forecast_memory;

typedef struct mp_forecast {
    double work
        [MP_PHASE_COUNT]; /* of the busiest rank: flop, or bytes where a phase computes nothing */
    int64_t moved[MP_PHASE_COUNT];      /* bytes that all ranks send */
    int64_t crossed[MP_PHASE_COUNT];    /* of them from one node into another */
    int64_t files;                      /* that are written and made to last */
    int64_t read_bytes;                 /* of the model */
    int64_t checkpoint_bytes, hf_bytes; /* kept on disk */
    int64_t hidden_bytes; /* of hidden states, as often as they are written while the run lasts */
    mp_forecast_memory memory; /* of the rank that needs most */
    int64_t node_bytes;        /* of the node that needs most */
} mp_forecast;

/* Work, messages and files.  Local; the same on all ranks.
 * Cost: ranks^2, and ranks times the tile columns of a block's moments; a second for a thousand ranks of a 70B
 * model. */
mp_status mp_forecast_run(const mp_forecast_job *job, mp_forecast *forecast);

/* Memory alone: forecast->memory and node_bytes.  `base` is what a rank has before it has a model.  Local;
 * nothing is allocated.  Errors: MP_ERR_NOFIT where a matrix of a rank is too large for its libraries. */
mp_status mp_forecast_memory_of(const mp_forecast_job *job, int64_t base, mp_forecast *forecast);

/* The same of one rank, with its own base.  Local. */
mp_status mp_forecast_memory_at(const mp_forecast_job *job, int64_t base, int rank,
                                mp_forecast_memory *memory);

/* The least number of nodes, of job->per_node ranks each, on which no rank needs more than `limit` bytes
 * with its share of the node's weights; 0 where mp_forecast_most_nodes do not do.
 * Cost: for each number of nodes that is tried the ranks at which a row of a grid begins. */
mp_status mp_forecast_nodes(const mp_forecast_job *job, int64_t base, int64_t limit, int *nodes);

/* 4096 nodes, or fewer with a million ranks. */
int mp_forecast_most_nodes(const mp_forecast_job *job);

/* What a rank needs on any number of nodes: the program, buffers, its share of the node's weights. */
int64_t mp_forecast_floor(const mp_forecast_job *job, int64_t base);

/* Blocks that compress solves side by side where nothing is said: in dense order of a method that factors
 * as many as half of `free` bytes of a host holds (mp_plan_batch_of), and a rank with `limit` bytes, where
 * that is not 0; else one.  Local. */
mp_status mp_forecast_batch(const mp_forecast_job *job, int64_t base, int64_t limit, double free,
                            int *batch);

/* What a rank needs with its share of what the node holds once. */
int64_t mp_forecast_rank_bytes(const mp_forecast_job *job, const mp_forecast *forecast);

/* What --mem-per-rank says, in bytes; 0 for NULL.  Errors: MP_ERR_ARG. */
mp_status mp_forecast_limit(const char *text, int64_t *limit);

/* MP_ERR_NOFIT where a rank needs more than `limit` bytes, which are called `what`: the message says for
 * what, and how many nodes would do. */
mp_status mp_forecast_refuse(const mp_forecast_job *job, const mp_forecast *forecast, int64_t limit,
                             const char *what);

/* MP_ERR_NOFIT where the ranks of a host together need more than the `free` bytes of it beyond what each has
 * already, `base` or less, whatever becomes of each.  What a rank counts as free is that of its host.
 * Collective; agreed. */
mp_status mp_forecast_refuse_hosts(const mp_comm *comm, const mp_forecast_job *job, int64_t base,
                                   double free);

/* What one rank gets done per second, phase by phase, in the units of mp_forecast.work. */
typedef struct mp_rates {
    double rate[MP_PHASE_COUNT];
    double gemm;  /* flop/s in single precision, of one rank */
    double net;   /* bytes/s into and out of a node */
    double disk;  /* bytes/s of one rank: written, synced, read back */
    double sync;  /* seconds to make a small file last */
    double start; /* seconds of every run, whatever the model */
    int64_t base; /* bytes of a rank before it has a model */
} mp_rates;

/* Rates on the spot: one block of the job's shape (halved until it takes seconds) goes through the job's
 * method on the ranks of `comm`, and a file of 64 MiB is written below `dir`.  Fields of *rates that are
 * not 0 are given by the user and kept; with a given GEMM rate nothing is computed, and the phases are
 * typical shares of it.  The same on all ranks.  Collective; the status is agreed. */
mp_status mp_rates_measure(const mp_comm *comm, const mp_forecast_job *job, const char *dir,
                           mp_rates *rates);

/* How often hidden states are saved on the way, as --save-hidden auto would have it by these rates. */
int64_t mp_forecast_saves(const mp_forecast_job *job, const mp_forecast *forecast,
                          const mp_rates *rates);

/* Seconds of each phase; returns their sum. */
double mp_forecast_seconds(const mp_forecast_job *job, const mp_forecast *forecast,
                           const mp_rates *rates, double seconds[MP_PHASE_COUNT]);

/* trial.c: one block of random weights in runner->block and random hidden states, compressed once; the
 * clock is that of this block alone.  *seconds: of the slowest rank.  Collective; agreed. */
mp_status mp_trial_block(mp_runner *runner, int is_last, double *seconds);

#endif
