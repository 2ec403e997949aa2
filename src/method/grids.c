/* The integer grids of a state's linear maps, strip by strip. */
#include "sweep.h"

#include "mpress/memory.h"

mp_status grids_divide(const mp_method_options *options, const char *name, int64_t d_in)
{
    return mp_quant_fits(&options->quant, name, d_in);
}

/* The diagonal of H in single precision; all NULL where nothing was calibrated. */
static mp_status find_importance(const mp_problem *p, float **importance)
{
    double *squares = NULL;
    mp_status st;

    *importance = NULL;
    if (p->moment == NULL) return MP_OK;
    MP_GO(MP_NEW_RAW(squares, p->n, "channel norms"));
    MP_GO(MP_NEW_RAW(*importance, p->n, "the importance of channels"));
    mp_moment_channels(p->moment, squares);
    for (int64_t j = 0; j < p->n; j++) (*importance)[j] = (float)squares[j];
out:
    mp_free(squares);
    return st;
}

/* The groups of one strip, in the order of the channels. */
static void fit_strip(const mp_method_options *options, const mp_problem *p, int64_t strip,
                      const float *importance)
{
    int64_t columns = mp_quant_group(&options->quant, p->n);
    mp_dtype dtype = p->part[mp_problem_part(p, strip)].dtype;

    for (int64_t g = 0; g < p->groups; g++) {
        const float *w = p->weight + (strip * p->order + g * columns) * MP_STRIP;
        int64_t at = (strip * p->groups + g) * MP_STRIP;

        if (options->scale_by_search)
            mp_quant_search(&options->quant, dtype, MP_STRIP, columns, w,
                            importance != NULL ? importance + g * columns : NULL, p->scale + at,
                            p->zero + at);
        else
            mp_quant_fit(&options->quant, dtype, MP_STRIP, columns, w, p->scale + at, p->zero + at);
    }
}

mp_status grids_fit(const mp_method_options *options, mp_problem *p)
{
    float *importance = NULL;

    if (options->scale_by_search) MP_TRY(find_importance(p, &importance));
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < p->strips; i++) fit_strip(options, p, i, importance);
    mp_free(importance);
    return MP_OK;
}

void grids_round(const mp_method_options *options, const mp_problem *p, int64_t strip,
                 int64_t channel, float *column)
{
    int64_t g = channel / mp_quant_group(&options->quant, p->n);
    int64_t at = (strip * p->groups + g) * MP_STRIP;

    mp_quant_round(&options->quant, MP_STRIP, p->scale + at, p->zero + at, column);
}

int grids_are_exact(const mp_problem *p)
{
    for (int i = 0; i < p->parts; i++)
        if (p->part[i].dtype != MP_F32) return 0;
    return 1;
}
