/* Which linear maps of which blocks are compressed. */
#include "run.h"

#include "mpress/options.h"

#include <stdio.h>
#include <string.h>

static mp_status parse_blocks(selection *s, const char *text, int64_t n_blocks)
{
    char first[32] = "";
    const char *colon = strchr(text, ':');

    if (colon != NULL && colon - text < (int)sizeof first)
        memcpy(first, text, (size_t)(colon - text));
    if (colon == NULL || (first[0] != '\0' && mp_parse_int(first, &s->first_block) != 0) ||
        (colon[1] != '\0' && mp_parse_int(colon + 1, &s->end_block) != 0) || s->first_block < 0 ||
        s->end_block > n_blocks || s->first_block >= s->end_block)
        return mp_fail(MP_ERR_ARG,
                       "--blocks %s: expected A:B with 0 <= A < B <= %lld (blocks A to B - 1)",
                       text, (long long)n_blocks);
    return MP_OK;
}

mp_status selection_open(selection *s, const mp_job *job, int64_t n_blocks)
{
    int error;

    s->first_block = 0;
    s->end_block = n_blocks;
    if (job->blocks != NULL) MP_TRY(parse_blocks(s, job->blocks, n_blocks));
    if (job->skip == NULL) return MP_OK;
    error = regcomp(&s->pattern, job->skip, REG_EXTENDED | REG_NOSUB);
    if (error != 0) {
        char text[128];

        regerror(error, &s->pattern, text, sizeof text);
        return mp_fail(MP_ERR_ARG, "--skip %s: not a regular expression: %s", job->skip, text);
    }
    s->has_pattern = 1;
    return MP_OK;
}

void selection_close(selection *s)
{
    if (s->has_pattern) regfree(&s->pattern);
    s->has_pattern = 0;
}

mp_status selection_check(const selection *s, const mp_job *job, const mp_arch *arch)
{
    if (!s->has_pattern) return MP_OK;
    for (int64_t b = s->first_block; b < s->end_block; b++)
        for (int i = 0; i < arch->n_linears; i++) {
            char name[256];

            mp_arch_tensor_name(b, arch->linears[i].name, name);
            if (regexec(&s->pattern, name, 0, NULL, 0) == 0) return MP_OK;
        }
    return mp_fail(MP_ERR_ARG,
                   "--skip %s: matches no linear map, expected part of a name such as "
                   "model.layers.%lld.%s",
                   job->skip, (long long)s->first_block, arch->linears[0].name);
}

int selection_of_block(const selection *s, const mp_arch *arch, int64_t block, int *skip)
{
    int left = 0;

    for (int i = 0; i < arch->n_linears; i++) {
        char name[256];

        mp_arch_tensor_name(block, arch->linears[i].name, name);
        skip[i] = block < s->first_block || block >= s->end_block ||
                  (s->has_pattern && regexec(&s->pattern, name, 0, NULL, 0) == 0);
        left += !skip[i];
    }
    return left;
}
