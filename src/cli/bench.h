/* What the benchmarks share: a best of several runs, and its report.
 * Floor 10: cli. */
#ifndef MPRESS_BENCH_H
#define MPRESS_BENCH_H

#include "mpress/clock.h"
#include "mpress/method.h"

typedef struct bench_config {
    const char *what, *method, *pattern, *config, *propagate, *svd;
    int64_t d_in, d_out, tokens, seqlen, blocksize, repeat;
    double damp, ratio;
    mp_quant_options quant;
    int json;
} bench_config;

/* The best run so far. */
typedef struct best {
    double seconds;
    mp_clock clock;
} best;

/* Ends one run: the slowest rank counts.  Collective. */
mp_status bench_keep_best(const mp_comm *comm, double seconds, const mp_clock *clock, best *b);

mp_status bench_barrier(const mp_comm *comm);

/* Prints the best run beside the GEMM rates of the same minute.  Collective. */
mp_status bench_report(const mp_comm *comm, const bench_config *config, const best *b);

/* bench_layer.c: one linear map with its Hessian given, pruned or factored; bench_block.c: one block. */
mp_status bench_solve(const mp_comm *comm, const bench_config *config, const mp_method *method,
                      const mp_method_options *options);
mp_status bench_lowrank(const mp_comm *comm, const bench_config *config, const mp_method *method,
                        const mp_method_options *options);
mp_status bench_block(const mp_comm *comm, const bench_config *config, const mp_method *method,
                      const mp_method_options *options);

#endif
