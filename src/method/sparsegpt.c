/* SparseGPT: Frantar & Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
 * One-Shot", arXiv:2301.00774; threshold and dead columns as in its released code.  This file chooses
 * what goes; sweep.c does the rest.  With bits, what stays is rounded to integer grids in the same
 * sweep (section 3.4 of the paper), by masks of the weights that are not rounded yet. */
#include "sweep.h"

#include "mpress/memory.h"
#include "mpress/simd.h"

static mp_status fits(const mp_method_options *options, const char *name, int64_t d_in)
{
    if (options->quant.bits > 0) MP_TRY(mp_quant_fits(&options->quant, name, d_in));
    return mp_pattern_fits(&options->pattern, name, d_in, options->blocksize);
}

/* (w / U_jj)^2 of columns of a strip; u is at the first of them on the diagonal. */
MP_SIMD_CLONES
static void score_columns(const float *w, int64_t columns, const float *u, int64_t nb, float *score)
{
    for (int64_t c = 0; c < columns; c++) {
        float inverse = 1.0f / u[c * nb + c];

        for (int r = 0; r < MP_STRIP; r++) {
            float scaled = w[c * MP_STRIP + r] * inverse;

            score[c * MP_STRIP + r] = scaled * scaled;
        }
    }
}

MP_SIMD_CLONES
static void prune_up_to(const float *score, int64_t count, float threshold, unsigned char *prune)
{
    for (int64_t r = 0; r < count; r++) prune[r] = score[r] <= threshold;
}

/* n:m groups are chosen when the sweep reaches them, with the weights as they are then. */
static void choose_group(const sweep *s, int64_t strip, int64_t at, int64_t count, const float *w,
                         float *scratch, unsigned char *prune)
{
    (void)strip;
    score_columns(w + at * MP_STRIP, count, s->u + at * s->nb + at, s->nb, scratch);
    mp_select_n_of_m(scratch, s->options->pattern.n, count, prune + at * MP_STRIP);
}

/* Unstructured masks: by one threshold for each linear map and block. */
typedef struct thresholds {
    float *score; /* [strips][nb][MP_STRIP] (w / U_jj)^2 */
    float value[MP_MAX_LINEARS];
} thresholds;

static void score_strip(const sweep *s, int64_t strip, const float *w)
{
    const thresholds *t = s->masks->self;

    score_columns(w, s->columns, s->u, s->nb, t->score + strip * s->nb * MP_STRIP);
}

/* One threshold per linear map over all rows of all ranks and the columns of this block: the score of
 * rank int(rows * columns * s), and all up to it go (so that ties may prune more). */
static mp_status find_thresholds(const sweep *s)
{
    thresholds *t = s->masks->self;
    mp_problem *p = s->problem;
    int64_t k[MP_MAX_LINEARS], smaller[MP_MAX_LINEARS];

    for (int i = 0; i < p->parts; i++)
        k[i] = (int64_t)((double)(p->part[i].d_out * s->columns) * s->options->pattern.sparsity);
    return mp_select_kth(p->comm, t->score, s->columns, s->nb, p->part, p->parts, k, t->value,
                         smaller);
}

static void choose_up_to(const sweep *s, int64_t strip, int64_t at, int64_t count, const float *w,
                         float *scratch, unsigned char *prune)
{
    const thresholds *t = s->masks->self;
    int64_t first = at * MP_STRIP;

    (void)w, (void)scratch;
    prune_up_to(t->score + strip * s->nb * MP_STRIP + first, count * MP_STRIP,
                t->value[mp_problem_part(s->problem, strip)], prune + first);
}

static mp_status compress(const mp_method_options *options, const mp_outcome *outcome,
                          mp_problem *p)
{
    thresholds t = {.score = NULL};
    const sweep_masks groups = {.step = options->pattern.m, .choose = choose_group};
    const sweep_masks pooled = {
        .choose = choose_up_to, .look = score_strip, .settle = find_thresholds, .self = &t};
    const int is_pooled = options->pattern.m == 0;
    mp_status st = MP_OK;

    p->loss_is_known = options->quant.bits == 0 || grids_are_exact(p);
    if (is_pooled)
        st = MP_NEW(t.score, p->strips * options->blocksize * MP_STRIP, "scores of a block");
    if (st == MP_OK && options->quant.bits > 0) st = grids_fit(options, p);
    MP_GO(mp_comm_agree(p->comm, st));
    MP_GO(sweep_columns(is_pooled ? &pooled : &groups, options, outcome, NULL, p));
out:
    mp_free(t.score);
    return st;
}

const mp_method mp_method_sparsegpt = {
    .name = "sparsegpt",
    .words = "one-shot pruning with second-order updates of the weights that stay",
    .source = "Frantar & Alistarh, arXiv:2301.00774",
    .order = "block",
    .needs = MP_NEED_MOMENT,
    .prunes = 1,
    .quantises = MP_QUANTISES_IF_ASKED,
    .factor_flop = 1.0 / 3.0,
    .sweep_flop = 1.0,
    .streams = 1,
    .knows_loss = 1,
    .fits = fits,
    .prepare = mp_factor_damped,
    .compress = compress,
};
