/* A compression method is one file and one row of the table in method.c.
 * Floor 6: method.
 *
 * A method works on one activation state at a time: the second moment of the state and all linear
 * maps that read it.  Its work has two steps, so that the states of a block can be factorised side by
 * side on groups of ranks, while the sweeps over rows use all ranks, one state after another. */
#ifndef MPRESS_METHOD_H
#define MPRESS_METHOD_H

#include "mpress/arch.h"
#include "mpress/drect.h"
#include "mpress/masks.h"
#include "mpress/quant.h"
#include "mpress/moment.h"

typedef struct mp_method_options {
    mp_pattern pattern;
    double damp;       /* added to the diagonal, as a share of its mean */
    int64_t blocksize; /* columns of a lazy update; also the tile of the second moments */
    int strict;        /* a fallback is an error */

    double alpha;     /* ASVD: exponent of the scaling */
    int scale_by_max; /* ASVD: by the largest |x| of a channel, not the mean */
    int whiten;       /* ASVD+: by Cholesky factor and SVD, as the paper defines it */
    int center;       /* ASVD+: linear maps with a bias on centred activations */

    mp_quant quant; /* the grid that weights are rounded to; bits = 0: none */
    int act_order;  /* columns by falling diagonal of H; groups stay where they are */
    int scale_by_search; /* scales by a search for the least weighted square error, not by the extremes */
} mp_method_options;

/* What happened to a state; the same on all ranks once the pipeline has agreed on it. */
typedef struct mp_outcome {
    double damping;  /* the share that was used; NaN where the method has none */
    int64_t retries; /* factorisations that failed before */
    int64_t by_qr;   /* of these, eigenproblems that QR iteration (p?syev) then solved */
    int64_t dead;    /* channels that no calibration token excites */
} mp_outcome;

/* This rank's rows of the linear maps of one state, in strips (masks.h) and transposed, so that loops
 * over rows run over neighbours. */
typedef struct mp_problem {
    const mp_comm *comm;
    const mp_moment *moment; /* NULL where nothing was calibrated */
    int64_t n;               /* d_in: columns that are there */
    int64_t order;  /* n rounded up to whole blocks: columns of the arrays, zero beyond n */
    int64_t strips; /* of all parts on this rank */
    int parts;
    mp_part part[MP_MAX_LINEARS];
    float *weight;     /* in/out [strips][order][MP_STRIP] */
    float *difference; /* scratch of the same shape for the method's use */
    int64_t groups;    /* scales of a row where the method quantises, else 0 */
    float *scale;      /* out [strips][groups][MP_STRIP] exact values of the part's dtype, > 0; */
    float *zero;  /* out, the same shape: the zero point, a code; the weights are (u - zero) scale,
                          not rounded to the dtype */
    double *loss; /* [strips] tr(D H D^T) of each strip, D = dense - new weights, H undamped, */
    int loss_is_known; /* where the method knows it without a product: then it sets this to 1 */
} mp_problem;

/* Fills strips and first_row .. first_strip of the parts whose name and d_out are set, and allocates
 * the arrays, zeroed.  Local; free with mp_problem_close. */
mp_status mp_problem_open(mp_problem *problem);
void mp_problem_close(mp_problem *problem);

/* The strip of a part that holds its `row`-th row on this rank: [order][MP_STRIP]. */
float *mp_problem_strip(const mp_problem *problem, float *array, int part, int64_t row);

/* Rows of a part in the strip that begins at `row`. */
int64_t mp_strip_rows(const mp_part *part, int64_t row);

/* The part that a strip belongs to. */
int mp_problem_part(const mp_problem *problem, int64_t strip);

/* Rows [row, row + count) of a part, count <= MP_STRIP, between a strip and row-major rows [count][n]. */
void mp_strip_from_rows(const float *rows, int64_t count, int64_t n, float *strip);
void mp_strip_to_rows(const float *strip, int64_t count, int64_t n, float *rows);

/* One linear map to be factored, W' = A B, and what came of it, on the grid of the state's moment. */
typedef struct mp_factors {
    const char *name;
    int64_t d_out, d_in;
    int64_t rank;        /* in: 1 .. min(d_out, d_in) */
    const float *weight; /* in: [d_out, d_in], dense, seen by every rank of the grid; borrowed */
    int centered;        /* in: the map has a bias, and the activations are to be centred */

    mp_drect *a,
        *b; /* out: [d_out, rank] and [rank, order], whose column r is channel order - 1 - r (as in
                         the moment, its padding first); column i of A belongs to row i of B */
    int rising;       /* out: the pair that keeps most energy is the last one, not the first */
    double *spectrum; /* out: [values] rising: what each pair can keep; their sum is all there is */
    int64_t values;   /* min(d_out, order) */
} mp_factors;

void mp_factors_free(mp_factors *factors);

/* Seconds this process has spent so far in low-rank factorisations, by what it did, and flop. */
typedef struct mp_lowrank_times {
    double gram, reduce, solve, back, factors, whiten;
    double gram_flop, reduce_flop, back_flop, factors_flop;
} mp_lowrank_times;
mp_lowrank_times mp_lowrank_clock(void);

enum { MP_NEED_MOMENT = 1, MP_NEED_CHANNELS = 2 };

/* Whether a method rounds to integer grids. */
typedef enum mp_quantises {
    MP_QUANTISES_NEVER,
    MP_QUANTISES_IF_ASKED, /* beside what else it does, where the options have bits */
    MP_QUANTISES_ALWAYS
} mp_quantises;

typedef struct mp_method {
    const char *name;   /* as typed: "sparsegpt" */
    const char *words;  /* for the help, a few words */
    const char *source; /* the paper whose algorithm the file follows */
    const char *order;  /* of propagation, where the user names none */
    int64_t tile;       /* of the moments, where the method has its own; 0: --blocksize */
    unsigned needs;
    int prunes; /* by mp_method_options.pattern */
    mp_quantises quantises;
    int reorders; /* mp_method_options.act_order is defined */
    int whitens;  /* it knows the whole Hessian: mp_method_options.whiten and center are defined */
    double factor_flop,
        sweep_flop; /* for the clock: times n^3 (prepare), times n^2 per row (compress) */
    int streams;    /* how often `compress` has the factor streamed to all ranks */
    int knows_loss; /* it says what it has lost (mp_problem.loss), so that nobody need measure it; with
                       grids only where weights are not rounded to a narrower dtype afterwards */

    /* Whether the options fit a linear map of d_in columns; MP_ERR_ARG with the explanation. */
    mp_status (*fits)(const mp_method_options *options, const char *name, int64_t d_in);

    /* Works on the moment in place (a factorisation); NULL if there is nothing to do.  Collective over
     * the grid of the moment only; the others return at once. */
    mp_status (*prepare)(const mp_method_options *options, mp_moment *moment, mp_outcome *outcome);

    /* Replaces the weights.  Collective over problem->comm; rows are independent but for what the
     * method asks of all ranks; the caller agrees on the status.  NULL where the method factors
     * instead. */
    mp_status (*compress)(const mp_method_options *options, const mp_outcome *outcome,
                          mp_problem *problem);

    /* Factors the linear maps of a state in place of `prepare` and `compress`.  Collective over the grid
     * of the moment, whose lower triangle may be overwritten. */
    mp_status (*factorise)(const mp_method_options *options, mp_moment *moment, mp_factors *factors,
                           int count, mp_outcome *outcome);
} mp_method;

/* A `prepare`: H + damp mean(diag H) I = L L^T in the lower triangle, the mean over the
 * channels that are not dead, which is also what a dead one's diagonal is set to; with options->act_order that
 * of P H P^T, P the order of mp_moment_order.  Where that is not positive definite, once more with ten times
 * the damping, up to the mean itself; with `strict` not at all.  Errors: MP_ERR_NUMERIC. */
mp_status mp_factor_damped(const mp_method_options *options, mp_moment *moment,
                           mp_outcome *outcome);

/* What a damping of `share` adds to each element of the diagonal.  Local. */
mp_status mp_damping_amount(const mp_moment *moment, double share, double *amount);

/* What the command line says of integer grids, as text where it has words. */
typedef struct mp_quant_options {
    int64_t bits;      /* 0: what the method does without */
    const char *group; /* NULL: 128 */
    const char *order; /* "none", "static" */
    const char *scale; /* "absmax", "mse" */
    int asymmetric;
} mp_quant_options;

/* Sets what the user left open: 4 bits where the method always quantises, groups of 128. */
void mp_quant_options_complete(const mp_method *method, mp_quant_options *given);

/* To quant, act_order and scale_by_search of the options.  Errors: MP_ERR_ARG naming the option, and what
 * would work. */
mp_status mp_quant_options_read(const mp_method *method, const mp_quant_options *given,
                                mp_method_options *options);

/* What is said on the command line of damp and blocksize can be: MP_ERR_ARG naming the option. */
mp_status mp_method_options_check(const mp_method_options *options);

/* NULL if there is no such method. */
const mp_method *mp_method_find(const char *name);

/* The i-th row, NULL past the last. */
const mp_method *mp_method_at(int index);

extern const mp_method mp_method_sparsegpt, mp_method_wanda, mp_method_magnitude;
extern const mp_method mp_method_gptq, mp_method_rtn;
extern const mp_method mp_method_asvd_plus, mp_method_asvd;

/* tr(X H X^T) of each part, H undamped, X an array of the problem's shape (the dense weights, or what
 * was taken off them).  The same on all ranks, whatever their number.  Collective.  Uses the upper
 * triangle of the moment, which `prepare` leaves alone.
 * Cost: n^2 flop per row. */
mp_status mp_layer_energy(const mp_problem *problem, const float *x, double *energy);

/* Adds up what each strip of this rank says, in the order of the strips of all ranks: the sum of a part
 * does not depend on their number.  Collective. */
mp_status mp_sum_strips(const mp_problem *problem, const double *strip, double *sum);

#endif
