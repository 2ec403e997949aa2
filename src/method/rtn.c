/* Round to nearest: every weight to the next number of its grid, the baseline of quantisation. */
#include "sweep.h"

static mp_status compress(const mp_method_options *options, const mp_outcome *outcome,
                          mp_problem *p)
{
    (void)outcome;
    MP_TRY(grids_fit(options, p));
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < p->strips; i++)
        for (int64_t j = 0; j < p->n; j++)
            grids_round(options, p, i, j, p->weight + (i * p->order + j) * MP_STRIP);
    return MP_OK;
}

const mp_method mp_method_rtn = {
    .name = "rtn",
    .words = "rounding to the nearest number of integer grids; needs no calibration",
    .source = "the baseline of Frantar et al., arXiv:2210.17323",
    .order = "block",
    .needs = 0,
    .quantises = MP_QUANTISES_ALWAYS,
    .fits = grids_divide,
    .prepare = NULL,
    .compress = compress,
};
