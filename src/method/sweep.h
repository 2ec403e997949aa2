/* The sweep over columns that SparseGPT and GPTQ share: each column in turn gets its new weights, and what
 * that changes moves the columns behind it (sweep.c).  The methods differ in what a column may become.
 * Floor 6: method. */
#ifndef MPRESS_SWEEP_H
#define MPRESS_SWEEP_H

#include "mpress/method.h"

typedef struct sweep sweep;

/* Which weights a sweep prunes.  Those that stay are rounded to the grids of the problem where the options
 * have bits; a pruned one is exactly zero, which is on every grid. */
typedef struct sweep_masks {
    /* Columns whose mask is decided at once, when the sweep reaches them: a divisor of those of a block;
     * 0: all of a block. */
    int64_t step;

    /* Columns [at, at + count) of a strip in the block at hand: prune = 1 for those that go.
     * w, scratch, prune: [nb][MP_STRIP].  NULL: nothing is pruned. */
    void (*choose)(const sweep *s, int64_t strip, int64_t at, int64_t count, const float *w,
                   float *scratch, unsigned char *prune);

    /* NULL; or where the masks of a block depend on all rows: `look` sees each strip as the sweep enters
     * the block, then `settle`, collective, finds out what `choose` must know. */
    void (*look)(const sweep *s, int64_t strip, const float *w);
    mp_status (*settle)(const sweep *s);
    void *self; /* of these functions */
} sweep_masks;

/* What the sweep over one block of columns works with. */
struct sweep {
    const mp_method_options *options;
    const sweep_masks *masks;
    mp_problem *problem;
    const int64_t *channel; /* [order] that each column belongs to; NULL: its own */
    unsigned char *dead;    /* [order] 1 for columns that no token excites, in the sweep's order */
    int64_t nb;             /* columns of a block */
    int64_t begin;          /* the first column of this one */
    int64_t columns;        /* of this one that are there: fewer than nb at the end */
    const float *factor;    /* [nb][length]: factor[c][i] = R[i][begin + c] */
    int64_t length;
    float *u;        /* [nb][nb] U_BB, upper, row-major */
    double *inverse; /* [nb][nb] the same in double */
    double damped;   /* what the damping added to the diagonal of H */

    /* a strip each for every thread, [threads][nb][MP_STRIP] */
    float *gathered; /* D[:, before B] R[before B, B], transposed; scratch after */
    unsigned char *prune;
};

/* Sweeps over all columns of the problem, whose moment holds the factor in its lower triangle.
 * channel: as in the struct, where the factor is that of the permuted H; the strips must be permuted, too.
 * Sets the losses of the strips, as the new weights stand, before they are rounded to their dtype, and
 * leaves the difference to the old weights in problem->difference.  Collective; the status is not agreed. */
mp_status sweep_columns(const sweep_masks *masks, const mp_method_options *options,
                        const mp_outcome *outcome, const int64_t *channel, mp_problem *problem);

/* grids.c: `fits` of a method that always quantises.  Local. */
mp_status grids_divide(const mp_method_options *options, const char *name, int64_t d_in);

/* grids.c: fits problem->scale and zero to the weights as they are.  Local. */
mp_status grids_fit(const mp_method_options *options, mp_problem *problem);

/* grids.c: `column` [MP_STRIP] of a strip, which belongs to `channel`, to its grids.  Local. */
void grids_round(const mp_method_options *options, const mp_problem *problem, int64_t strip,
                 int64_t channel, float *column);

/* grids.c: whether numbers of the grids are stored as they are.  A product of a code and a scale of 16 bits is
 * rounded once more after the sweep, which of eight-bit codes adds a good part to a loss as small as theirs:
 * the sweep then does not know it. */
int grids_are_exact(const mp_problem *problem);

#endif
