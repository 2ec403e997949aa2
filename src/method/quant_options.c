/* What the command line says of integer grids, and which methods can do what it says (method.h). */
#include "mpress/method.h"

#include <stdio.h>
#include <string.h>

void mp_quant_options_complete(const mp_method *method, mp_quant_options *given)
{
    if (given->bits == 0 && method->quantises == MP_QUANTISES_ALWAYS) given->bits = 4;
    if (given->bits != 0 && given->group == NULL) given->group = "128";
}

static int quantises(const mp_method *method)
{
    return method->quantises != MP_QUANTISES_NEVER;
}

static int reorders(const mp_method *method)
{
    return method->reorders;
}

/* "gptq, rtn": the methods that can do it. */
static const char *names_of(int (*can)(const mp_method *), char text[128])
{
    const mp_method *method;

    text[0] = '\0';
    for (int i = 0; (method = mp_method_at(i)) != NULL; i++)
        if (can(method))
            snprintf(text + strlen(text), 128 - strlen(text), "%s%s", text[0] != '\0' ? ", " : "",
                     method->name);
    return text;
}

/* 0 or 1 for the first or the second of the words. */
static mp_status read_word(const char *option, const char *word, const char *first,
                           const char *second, int *value)
{
    *value = strcmp(word, second) == 0;
    if (*value || strcmp(word, first) == 0) return MP_OK;
    return mp_fail(MP_ERR_ARG, "%s %s: expected %s or %s", option, word, first, second);
}

/* Without bits nothing else may be said of grids. */
static mp_status expect_nothing(const mp_method *method, const mp_quant_options *given,
                                const mp_method_options *options)
{
    char able[128], what[128];

    if (given->group != NULL)
        snprintf(what, sizeof what, "--group-size %s", given->group);
    else if (given->asymmetric)
        snprintf(what, sizeof what, "--asym");
    else if (options->act_order)
        snprintf(what, sizeof what, "--act-order %s", given->order);
    else if (options->scale_by_search)
        snprintf(what, sizeof what, "--scale %s", given->scale);
    else
        return MP_OK;
    if (quantises(method)) return mp_fail(MP_ERR_ARG, "%s: says nothing without --bits", what);
    return mp_fail(MP_ERR_ARG, "%s: method %s does not quantise, expected one of %s", what,
                   method->name, names_of(quantises, able));
}

mp_status mp_quant_options_read(const mp_method *method, const mp_quant_options *given,
                                mp_method_options *options)
{
    char able[128];

    MP_TRY(read_word("--act-order", given->order, "none", "static", &options->act_order));
    MP_TRY(read_word("--scale", given->scale, "absmax", "mse", &options->scale_by_search));
    if (given->bits == 0) return expect_nothing(method, given, options);
    if (!quantises(method))
        return mp_fail(MP_ERR_ARG, "--bits %lld: method %s does not quantise, expected one of %s",
                       (long long)given->bits, method->name, names_of(quantises, able));
    if (options->act_order && !method->reorders)
        return mp_fail(MP_ERR_ARG,
                       "--act-order %s: method %s takes columns as they come, expected %s",
                       given->order, method->name, names_of(reorders, able));
    return mp_quant_read(given->bits, given->group, given->asymmetric, &options->quant);
}
