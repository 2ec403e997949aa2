/* GPTQ: Frantar, Ashkboos, Hoefler & Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative
 * Pre-trained Transformers", arXiv:2210.17323; the sweep of sweep.c, in which every column is rounded to
 * its grid.  Grids are fitted on the dense weights
 * before anything moves them ("static groups" there), so that columns can be taken in another order
 * ("act-order") and yet a loader needs no index. */
#include "sweep.h"

#include "mpress/memory.h"

#include <string.h>

/* The columns of one strip to the places of the sweep, or back to those of their channels; `spare` is a
 * strip, too. */
static void permute_strip(const mp_problem *p, const int64_t *channel, int back, float *strip,
                          float *spare)
{
    const size_t column = MP_STRIP * sizeof *strip;

    memcpy(spare, strip, (size_t)p->n * column);
    for (int64_t k = 0; k < p->n; k++) {
        int64_t to = back ? channel[k] : k, from = back ? k : channel[k];

        memcpy(strip + to * MP_STRIP, spare + from * MP_STRIP, column);
    }
}

static void permute(const mp_problem *p, const int64_t *channel, int back)
{
    if (channel == NULL) return;
#pragma omp parallel for
    for (int64_t i = 0; i < p->strips; i++)
        permute_strip(p, channel, back, p->weight + i * p->order * MP_STRIP,
                      p->difference + i * p->order * MP_STRIP);
}

static mp_status compress(const mp_method_options *options, const mp_outcome *outcome,
                          mp_problem *p)
{
    static const sweep_masks none = {.step = 0};
    int64_t *channel = NULL;
    mp_status st;

    st = grids_fit(options, p);
    if (st == MP_OK && options->act_order) {
        st = MP_NEW_RAW(channel, p->order, "an order of columns");
        if (st == MP_OK) st = mp_moment_order(p->moment, channel);
    }
    MP_GO(mp_comm_agree(p->comm, st));
    permute(p, channel, 0);
    MP_GO(sweep_columns(&none, options, outcome, channel, p));
    permute(p, channel, 1);
    p->loss_is_known = grids_are_exact(p);
out:
    mp_free(channel);
    return st;
}

const mp_method mp_method_gptq = {
    .name = "gptq",
    .words = "rounding to integer grids with second-order updates of the columns not yet rounded",
    .source = "Frantar et al., arXiv:2210.17323",
    .order = "block",
    .needs = MP_NEED_MOMENT,
    .quantises = MP_QUANTISES_ALWAYS,
    .reorders = 1,
    .factor_flop = 1.0 / 3.0,
    .sweep_flop = 1.0,
    .streams = 1,
    .knows_loss = 1,
    .fits = grids_divide,
    .prepare = mp_factor_damped,
    .compress = compress,
};
