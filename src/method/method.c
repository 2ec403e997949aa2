#include "mpress/method.h"

#include <string.h>

/* One row per method. */
static const mp_method *const methods[] = {
    &mp_method_sparsegpt, &mp_method_wanda,     &mp_method_magnitude, &mp_method_gptq,
    &mp_method_rtn,       &mp_method_asvd_plus, &mp_method_asvd,
};

const mp_method *mp_method_at(int index)
{
    int count = (int)(sizeof methods / sizeof methods[0]);

    return index >= 0 && index < count ? methods[index] : NULL;
}

const mp_method *mp_method_find(const char *name)
{
    const mp_method *method;

    for (int i = 0; (method = mp_method_at(i)) != NULL; i++)
        if (strcmp(method->name, name) == 0) return method;
    return NULL;
}

mp_status mp_method_options_check(const mp_method_options *options)
{
    if (!(options->damp >= 0.0 && options->damp <= 1.0))
        return mp_fail(MP_ERR_ARG, "--damp %g: expected a share from 0 to 1", options->damp);
    if (options->blocksize < 16 || options->blocksize > 1024)
        return mp_fail(MP_ERR_ARG, "--blocksize %lld: expected 16 to 1024",
                       (long long)options->blocksize);
    return MP_OK;
}
