#include "tokenizer_internal.h"

#include "mpress/memory.h"

#include <string.h>

mp_status mp_grow(void **array, int64_t used, int64_t needed, int64_t *capacity, size_t size,
                  const char *what)
{
    int64_t wanted = *capacity + *capacity / 2 + 16;
    void *larger;

    if (needed <= *capacity) return MP_OK;
    if (wanted < needed) wanted = needed;
    MP_TRY(mp_alloc(&larger, wanted, size, 0, what));
    if (used > 0) memcpy(larger, *array, (size_t)used * size);
    mp_free(*array);
    *array = larger;
    *capacity = wanted;
    return MP_OK;
}

mp_status mp_text_append(mp_text *text, const char *bytes, size_t length)
{
    int64_t capacity = (int64_t)text->capacity;
    void *array = text->bytes;

    MP_TRY(mp_grow(&array, (int64_t)text->length, (int64_t)(text->length + length), &capacity, 1,
                   "text of the tokenizer"));
    text->bytes = array;
    text->capacity = (size_t)capacity;
    if (length > 0) memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
    return MP_OK;
}

mp_status mp_text_append_code(mp_text *text, uint32_t code)
{
    char bytes[4];

    return mp_text_append(text, bytes, mp_utf8_encode(code, bytes));
}

void mp_text_clear(mp_text *text)
{
    text->length = 0;
}

void mp_text_free(mp_text *text)
{
    mp_free(text->bytes);
    memset(text, 0, sizeof *text);
}

size_t mp_utf8_decode(const char *text, uint32_t *code)
{
    const unsigned char *b = (const unsigned char *)text;

    if (b[0] < 0x80) {
        *code = b[0];
        return 1;
    }
    if (b[0] < 0xE0) {
        *code = (uint32_t)(b[0] & 0x1F) << 6 | (b[1] & 0x3F);
        return 2;
    }
    if (b[0] < 0xF0) {
        *code = (uint32_t)(b[0] & 0x0F) << 12 | (uint32_t)(b[1] & 0x3F) << 6 | (b[2] & 0x3F);
        return 3;
    }
    *code = (uint32_t)(b[0] & 0x07) << 18 | (uint32_t)(b[1] & 0x3F) << 12 |
            (uint32_t)(b[2] & 0x3F) << 6 | (b[3] & 0x3F);
    return 4;
}

size_t mp_utf8_encode(uint32_t code, char bytes[4])
{
    if (code < 0x80) {
        bytes[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        bytes[0] = (char)(0xC0 | code >> 6);
        bytes[1] = (char)(0x80 | (code & 0x3F));
        return 2;
    }
    if (code < 0x10000) {
        bytes[0] = (char)(0xE0 | code >> 12);
        bytes[1] = (char)(0x80 | (code >> 6 & 0x3F));
        bytes[2] = (char)(0x80 | (code & 0x3F));
        return 3;
    }
    bytes[0] = (char)(0xF0 | code >> 18);
    bytes[1] = (char)(0x80 | (code >> 12 & 0x3F));
    bytes[2] = (char)(0x80 | (code >> 6 & 0x3F));
    bytes[3] = (char)(0x80 | (code & 0x3F));
    return 4;
}

int mp_text_shown(const char *text, size_t length)
{
    size_t shown = length < 80 ? length : 80;

    while (shown > 0 && shown < length && (text[shown] & 0xC0) == 0x80) shown--;
    return (int)shown;
}

/* Length of the character at `text`, or minus the length of the broken part there: the lead byte
 * and those of its continuation bytes that could still have become a character (Unicode 3.9,
 * "maximal subpart").  The second byte's range excludes overlong forms, surrogates and what is over
 * 10FFFF. */
static int sequence(const unsigned char *text, size_t length)
{
    unsigned char lead = text[0], low = 0x80, high = 0xBF;
    int need, have;

    if (lead < 0x80) return 1;
    if (lead < 0xC2 || lead > 0xF4) return -1;
    need = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    for (have = 1; have < need; have++) {
        if ((size_t)have == length || text[have] < low || text[have] > high) return -have;
        low = 0x80;
        high = 0xBF;
    }
    return need;
}

mp_status mp_utf8_repair(const char *text, size_t length, char **copy, size_t *copy_length)
{
    const unsigned char *bytes = (const unsigned char *)text;
    mp_text repaired = {0};
    size_t from = 0, at = 0;
    mp_status st = MP_OK;

    *copy = NULL;
    *copy_length = length;
    while (at < length) {
        int step = sequence(bytes + at, length - at);

        if (step < 0) {
            MP_GO(mp_text_append(&repaired, text + from, at - from));
            MP_GO(mp_text_append_code(&repaired, 0xFFFD));
            from = at + (size_t)-step;
        }
        at += (size_t)(step < 0 ? -step : step);
    }
    if (from == 0) return MP_OK;
    MP_GO(mp_text_append(&repaired, text + from, length - from));
    *copy = repaired.bytes;
    *copy_length = repaired.length;
    return MP_OK;
out:
    mp_text_free(&repaired);
    return st;
}

static int is_space(uint32_t code)
{
    return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
           code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

size_t mp_utf8_leading_space(const char *text, size_t length)
{
    size_t at = 0;

    while (at < length) {
        uint32_t code;
        size_t step = mp_utf8_decode(text + at, &code);

        if (!is_space(code)) break;
        at += step;
    }
    return at;
}

size_t mp_utf8_trailing_space(const char *text, size_t length)
{
    size_t at = length;

    while (at > 0) {
        size_t start = at - 1;
        uint32_t code;

        while ((text[start] & 0xC0) == 0x80) start--;
        mp_utf8_decode(text + start, &code);
        if (!is_space(code)) break;
        at = start;
    }
    return length - at;
}
