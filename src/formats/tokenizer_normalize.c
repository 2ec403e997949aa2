#include "tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Characters that the reference's NFC takes as letters of their own, because its tables are those
 * of Unicode 9.0: marks that came later neither move nor compose there, and neither do later
 * letters. Found by asking the reference about each mark that has a combining class in Unicode 15;
 * the ranges hold what Unicode 16 added too (0897, 105D2.., 10D69.., 11382.., 1611E.., 16D63..,
 * 1E5EE..). */
static const struct {
    uint32_t first, last;
} inert[] = {
    {0x07FD, 0x07FD},   {0x0897, 0x089F},   {0x08CA, 0x08D3},   {0x09FE, 0x09FE},
    {0x0C3C, 0x0C3C},   {0x0D3B, 0x0D3C},   {0x0EBA, 0x0EBA},   {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x105D2, 0x105DA},
    {0x10D24, 0x10D27}, {0x10D69, 0x10D6D}, {0x10EAB, 0x10EAC}, {0x10EFC, 0x10EFF},
    {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B},
    {0x11382, 0x113D0}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11938},
    {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34},
    {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45},
    {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x1611E, 0x1612F}, {0x16D63, 0x16D6A},
    {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
    {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF},
};

static int is_inert(uint32_t code)
{
    size_t low = 0, high = sizeof inert / sizeof inert[0];

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (code > inert[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < sizeof inert / sizeof inert[0] && code >= inert[low].first;
}

/* Composes a piece that begins where nothing before it can join. */
static mp_status compose(const char *text, size_t length, mp_text *out)
{
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t got;
    mp_status st;

    if (length == 0) return MP_OK;
    got = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, &composed,
                       UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (got < 0)
        return mp_fail(got == UTF8PROC_ERROR_NOMEM ? MP_ERR_NOMEM : MP_ERR_INTERNAL,
                       "composing %zu bytes of text (NFC): %s", length, utf8proc_errmsg(got));
    st = mp_text_append(out, (const char *)composed, (size_t)got);
    free(composed);
    return st;
}

/* NFC.  The text is cut before each ASCII character, which never joins what is before it, and
 * around the inert ones; pieces of one ASCII character are copied with their run. */
static mp_status normalize_nfc(const char *text, size_t length, mp_text *out)
{
    size_t from = 0, at = 0;

    while (at < length) {
        size_t run = at, step = 1;
        uint32_t code = 0;

        while (run < length && (unsigned char)text[run] < 0x80) run++;
        if (run > at) {
            /* The last ASCII character may take a mark: it begins the next piece. */
            MP_TRY(compose(text + from, at - from, out));
            MP_TRY(mp_text_append(out, text + at, run - 1 - at));
            from = run - 1;
            at = run;
            continue;
        }
        step = mp_utf8_decode(text + at, &code);
        if (is_inert(code)) {
            MP_TRY(compose(text + from, at - from, out));
            MP_TRY(mp_text_append(out, text + at, step));
            from = at + step;
        }
        at += step;
    }
    return compose(text + from, length - from, out);
}

static mp_status replace(const mp_normal_step *step, const char *text, size_t length, mp_text *out)
{
    const char *end = text + length, *match;

    while (text < end && (match = memmem(text, (size_t)(end - text), step->pattern.bytes,
                                         step->pattern.length)) != NULL) {
        MP_TRY(mp_text_append(out, text, (size_t)(match - text)));
        MP_TRY(mp_text_append(out, step->content.bytes, step->content.length));
        text = match + step->pattern.length;
    }
    return mp_text_append(out, text, (size_t)(end - text));
}

static mp_status apply(const mp_normal_step *step, const char *text, size_t length, mp_text *out)
{
    switch (step->kind) {
    case MP_NORMAL_NFC:
        return normalize_nfc(text, length, out);
    case MP_NORMAL_REPLACE:
        return replace(step, text, length, out);
    case MP_NORMAL_PREPEND:
        if (length == 0) return MP_OK;
        MP_TRY(mp_text_append(out, step->content.bytes, step->content.length));
        return mp_text_append(out, text, length);
    }
    return mp_fail(MP_ERR_INTERNAL, "a normaliser of kind %d", (int)step->kind);
}

mp_status mp_normalize(const mp_normalizer *normalizer, mp_text scratch[2], const char *text,
                       size_t length, const char **normal, size_t *normal_length)
{
    for (int i = 0; i < normalizer->count; i++) {
        mp_text *out = &scratch[i % 2];

        mp_text_clear(out);
        MP_TRY(apply(&normalizer->steps[i], text, length, out));
        text = out->length > 0 ? out->bytes : "";
        length = out->length;
    }
    *normal = text;
    *normal_length = length;
    return MP_OK;
}

mp_status mp_normalizer_add(mp_normalizer *normalizer, mp_normal_kind kind, const char *where,
                            mp_normal_step **step)
{
    if (normalizer->count == MP_MAX_STEPS)
        return mp_fail(MP_ERR_FORMAT, "%s: more than %d normalizers", where, MP_MAX_STEPS);
    *step = &normalizer->steps[normalizer->count++];
    (*step)->kind = kind;
    return MP_OK;
}

int mp_normalizer_has(const mp_normalizer *normalizer, mp_normal_kind kind)
{
    for (int i = 0; i < normalizer->count; i++)
        if (normalizer->steps[i].kind == kind) return 1;
    return 0;
}

void mp_normalizer_free(mp_normalizer *normalizer)
{
    for (int i = 0; i < normalizer->count; i++) {
        mp_text_free(&normalizer->steps[i].pattern);
        mp_text_free(&normalizer->steps[i].content);
    }
    normalizer->count = 0;
}
