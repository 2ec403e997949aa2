#include "tokenizer_internal.h"

#include <string.h>

/* The two built-in splits.  Source: openai/gpt-2, encoder.py; Qwen2's tokenization_qwen2.py. */
const char mp_gpt2_split[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char mp_qwen2_split[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
                              "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

mp_status mp_pretokenizer_add(mp_pretokenizer *pretokenizer, mp_stage_kind kind, const char *where,
                              mp_stage **stage)
{
    if (pretokenizer->count == MP_MAX_STEPS)
        return mp_fail(MP_ERR_FORMAT, "%s: more than %d pre_tokenizers", where, MP_MAX_STEPS);
    *stage = &pretokenizer->stages[pretokenizer->count++];
    (*stage)->kind = kind;
    (*stage)->behavior = MP_SPLIT_ISOLATED;
    return MP_OK;
}

void mp_pretokenizer_free(mp_pretokenizer *pretokenizer)
{
    for (int i = 0; i < pretokenizer->count; i++) {
        mp_pattern_free(pretokenizer->stages[i].pattern);
        mp_text_free(&pretokenizer->stages[i].replacement);
    }
    pretokenizer->count = 0;
}

static mp_status run_stage(mp_encoding *encoding, int index, const char *text, size_t length,
                           int first);

/* A text under the split of one stage, and the piece that is held back because what follows may
 * still be merged with it. */
typedef struct split {
    mp_encoding *encoding;
    const mp_stage *stage;
    int index; /* of the stage */
    int first; /* the text begins where the whole input begins */
    const char *text;
    size_t start, end;
    int held, held_match; /* whether [start, end) is held, and whether it ends with a delimiter */
} split;

/* Bytes to the alphabet of byte-level models, in which each of the 256 is a printable character:
 * 0x21 to 0x7E, 0xA1 to 0xAC and 0xAE to 0xFF stand for themselves, the others for 0x100 and up in
 * order (openai/gpt-2, encoder.py). */
static mp_status append_bytes(mp_text *out, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        uint32_t byte = (unsigned char)text[i];

        if (byte <= 0x20)
            byte += 0x100;
        else if (byte >= 0x7F && byte <= 0xA0)
            byte += 0x121 - 0x7F;
        else if (byte == 0xAD)
            byte = 0x143;
        MP_TRY(mp_text_append_code(out, byte));
    }
    return MP_OK;
}

static mp_status emit(split *s, size_t start, size_t end)
{
    mp_text *scratch = &s->encoding->piece[s->index];

    if (start == end) return MP_OK;
    if (s->stage->kind != MP_STAGE_BYTE_LEVEL)
        return run_stage(s->encoding, s->index + 1, s->text + start, end - start,
                         s->first && start == 0);
    mp_text_clear(scratch);
    MP_TRY(append_bytes(scratch, s->text + start, end - start));
    return run_stage(s->encoding, s->index + 1, scratch->bytes, scratch->length, 0);
}

/* Whether a part goes together with the held one. */
static int joins(const split *s, int is_match)
{
    switch (s->stage->behavior) {
    case MP_SPLIT_CONTIGUOUS:
        return is_match == s->held_match;
    case MP_SPLIT_MERGED_WITH_PREVIOUS:
        return is_match && !s->held_match;
    case MP_SPLIT_MERGED_WITH_NEXT:
        return !is_match && s->held_match;
    case MP_SPLIT_REMOVED:
    case MP_SPLIT_ISOLATED:
        break;
    }
    return 0;
}

static mp_status flush(split *s)
{
    int drop = s->held_match && s->stage->behavior == MP_SPLIT_REMOVED;

    if (!s->held) return MP_OK;
    s->held = 0;
    return drop ? MP_OK : emit(s, s->start, s->end);
}

/* The next part of the text, a delimiter (match) or what is between two of them. */
static mp_status part(split *s, size_t start, size_t end, int is_match)
{
    if (s->stage->invert) is_match = !is_match;
    if (s->held && joins(s, is_match)) {
        s->end = end;
    } else {
        MP_TRY(flush(s));
        s->held = 1;
        s->start = start;
        s->end = end;
    }
    s->held_match = is_match;
    return MP_OK;
}

static mp_status split_text(split *s, size_t length)
{
    mp_cursor cursor = {s->text, length, 0, -1};
    size_t start, end, done = 0;
    int found;

    if (s->stage->pattern == NULL) return emit(s, 0, length);
    for (;;) {
        MP_TRY(
            mp_pattern_next(s->stage->pattern, s->encoding->match, &cursor, &found, &start, &end));
        if (!found) break;
        if (start != done) MP_TRY(part(s, done, start, 0));
        MP_TRY(part(s, start, end, 1));
        done = end;
    }
    if (done != length) MP_TRY(part(s, done, length, 0));
    return flush(s);
}

static int wants_prefix(const mp_stage *stage, const mp_text *prefix, const char *text,
                        size_t length, int first)
{
    if (stage->prepend == MP_PREPEND_NEVER || (stage->prepend == MP_PREPEND_FIRST && !first))
        return 0;
    return length < prefix->length || memcmp(text, prefix->bytes, prefix->length) != 0;
}

/* The text with the replacement for each space and, where the scheme wants it, one in front. */
static mp_status metaspace(const mp_stage *stage, const char *text, size_t length, int first,
                           mp_text *out)
{
    const mp_text *mark = &stage->replacement;

    if (wants_prefix(stage, mark, text, length, first) && text[0] != ' ')
        MP_TRY(mp_text_append(out, mark->bytes, mark->length));
    for (size_t from = 0, at = 0; at < length; from = at) {
        while (at < length && text[at] != ' ') at++;
        MP_TRY(mp_text_append(out, text + from, at - from));
        for (; at < length && text[at] == ' '; at++)
            MP_TRY(mp_text_append(out, mark->bytes, mark->length));
    }
    return MP_OK;
}

/* The stage's own copy of the text, where it changes it; otherwise the text itself. */
static mp_status prepare(const mp_stage *stage, const char **text, size_t *length, int first,
                         mp_text *own)
{
    mp_text_clear(own);
    if (stage->kind == MP_STAGE_METASPACE) {
        MP_TRY(metaspace(stage, *text, *length, first, own));
    } else if (stage->kind == MP_STAGE_BYTE_LEVEL && stage->prepend && **text != ' ') {
        MP_TRY(mp_text_append(own, " ", 1));
        MP_TRY(mp_text_append(own, *text, *length));
    } else {
        return MP_OK;
    }
    *text = own->bytes;
    *length = own->length;
    return MP_OK;
}

static mp_status run_stage(mp_encoding *encoding, int index, const char *text, size_t length,
                           int first)
{
    const mp_pretokenizer *pretokenizer = &encoding->tokenizer->pretokenizer;
    split s = {.encoding = encoding, .index = index, .first = first};

    if (index == pretokenizer->count)
        return mp_bpe_encode(&encoding->tokenizer->bpe, &encoding->bpe, text, length,
                             &encoding->ids);
    s.stage = &pretokenizer->stages[index];
    MP_TRY(prepare(s.stage, &text, &length, first, &encoding->whole[index]));
    s.text = text;
    return split_text(&s, length);
}

mp_status mp_pretokenize(mp_encoding *encoding, const char *text, size_t length, int first)
{
    return length == 0 ? MP_OK : run_stage(encoding, 0, text, length, first);
}
