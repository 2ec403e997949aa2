#include "mpress/quant.h"

int64_t mp_quant_group(const mp_quant *quant, int64_t d_in)
{
    return quant->group > 0 ? quant->group : d_in;
}

int64_t mp_quant_groups(const mp_quant *quant, int64_t d_in)
{
    return d_in / mp_quant_group(quant, d_in);
}
