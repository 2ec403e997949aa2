#include "tokenizer_internal.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* The split expressions are written for Oniguruma (Ruby syntax).  What means the same in PCRE2 is
 * passed on; what has another meaning there (\s, \v, \uHHHH, x{1,3}+) is rewritten; what is neither
 * is refused by name, so that no expression can silently split differently. */

enum { MAX_SOURCE = 16384, MAX_DEPTH = 64, MAX_REPEAT = 1000 };

typedef struct group {
    int64_t start; /* in `out`; -1 for a look-around, which is not repeated */
    int caseless;
    int matches;  /* the branch at hand never matches the empty text */
    int is_empty; /* an earlier branch may */
} group;

typedef struct translator {
    const char *source, *where;
    size_t length, at;
    mp_text *out;
    mp_text tail; /* what a class gets at its end: the ranges of recent characters, seldom hit */
    group groups[MAX_DEPTH + 1]; /* [0] is the whole expression */
    int depth;
    int64_t atom;      /* where in `out` that begins which a quantifier would repeat; -1: nothing */
    int atom_is_empty; /* it may match nothing */
    int before;        /* whether its branch matches something without it */
    char previous;     /* in (?i:...): the letter before, 0 if none */
} translator;

/* One character, or one class of characters, of the source. */
typedef struct item {
    enum { ITEM_CODE, ITEM_SPACE, ITEM_CATEGORY } kind;
    int negated;
    uint32_t code;
    const char *name; /* of the category */
    size_t name_length;
} item;

static mp_status append(translator *t, const char *text)
{
    return mp_text_append(t->out, text, strlen(text));
}

static mp_status refuse(const translator *t, size_t at, const char *what)
{
    return mp_fail(MP_ERR_FORMAT,
                   "%s: the expression has %s at byte %zu ('%.*s'), which is not "
                   "implemented",
                   t->where, what, at, mp_text_shown(t->source + at, t->length - at),
                   t->source + at);
}

/* The next byte of the source, or 0 at its end. */
static char peek(const translator *t, size_t ahead)
{
    return t->at + ahead < t->length ? t->source[t->at + ahead] : '\0';
}

static int is_caseless(const translator *t)
{
    return t->groups[t->depth].caseless;
}

/* Notes the last element for a quantifier behind it; `start` < 0: it is not to be repeated. */
static void note_atom(translator *t, int64_t start, int is_empty)
{
    group *g = &t->groups[t->depth];

    t->atom = start;
    t->atom_is_empty = is_empty;
    t->before = g->matches;
    if (!is_empty) g->matches = 1;
}

static mp_status append_code(translator *t, uint32_t code)
{
    char text[16];

    if (code < 0x80 && isalnum((int)code))
        snprintf(text, sizeof text, "%c", (char)code);
    else
        snprintf(text, sizeof text, "\\x{%X}", code);
    return append(t, text);
}

/* Hexadecimal digits up to `most`; the value is over 10FFFF if there are none or too many. */
static uint32_t read_hex(translator *t, int most)
{
    uint32_t value = 0;
    int digits = 0;

    for (; digits < most && isxdigit((unsigned char)peek(t, 0)); digits++, t->at++) {
        char c = peek(t, 0);

        value = value << 4 | (uint32_t)(isdigit((unsigned char)c) ? c - '0' : (c | 32) - 'a' + 10);
    }
    return digits == 0 ? 0x110000 : value;
}

/* \xHH up to 7F (beyond that it is a byte, not a character), \x{H...} and \uHHHH. */
static mp_status read_numbered(translator *t, size_t start, uint32_t *code)
{
    int braces = peek(t, 1) == '{', is_u = peek(t, 0) == 'u';
    size_t digits;

    t->at += 1 + (size_t)braces;
    digits = t->at;
    *code = read_hex(t, braces ? 6 : is_u ? 4 : 2);
    if ((braces && (is_u || peek(t, 0) != '}')) || (is_u && t->at - digits != 4) ||
        (!braces && !is_u && *code > 0x7F) || *code > 0x10FFFF ||
        (*code >= 0xD800 && *code <= 0xDFFF))
        return refuse(t, start, "a character number");
    t->at += (size_t)braces;
    return MP_OK;
}

/* \p{Lu}, \P{Lu} and \p{^Lu}; `at` is behind the letter. */
static mp_status read_category(translator *t, size_t start, item *it)
{
    const char *close = memchr(t->source + t->at, '}', t->length - t->at);
    mp_text none = {0};
    int known = 0;
    mp_status st;

    if (peek(t, 0) != '{' || close == NULL) return refuse(t, start, "a property without {}");
    t->at++;
    if (peek(t, 0) == '^') {
        it->negated = !it->negated;
        t->at++;
    }
    it->kind = ITEM_CATEGORY;
    it->name = t->source + t->at;
    it->name_length = (size_t)(close - it->name);
    t->at += it->name_length + 1;
    st = mp_unicode_append_recent(&none, it->name, it->name_length, &known);
    mp_text_free(&none);
    MP_TRY(st);
    return known ? MP_OK : refuse(t, start, "a property that is no general category");
}

static mp_status read_escape(translator *t, item *it)
{
    static const char controls[] = "\nn\rr\tt\ff\vv\aa\033e";
    size_t start = t->at++;
    char c = peek(t, 0);

    for (size_t i = 1; i < sizeof controls; i += 2)
        if (controls[i] == c && c != '\0') {
            it->code = (uint32_t)controls[i - 1];
            t->at++;
            return MP_OK;
        }
    if (c == 'x' || c == 'u') return read_numbered(t, start, &it->code);
    if (c != '\0' && strchr("sSdDpP", c) != NULL) {
        t->at++;
        it->negated = isupper((unsigned char)c) != 0;
        if (c == 'p' || c == 'P') return read_category(t, start, it);
        it->kind = c == 's' || c == 'S' ? ITEM_SPACE : ITEM_CATEGORY;
        it->name = "Nd";
        it->name_length = 2;
        return MP_OK;
    }
    if (t->at == t->length || isalnum((unsigned char)c)) return refuse(t, start, "an escape");
    t->at += mp_utf8_decode(t->source + t->at, &it->code);
    return MP_OK;
}

static mp_status read_item(translator *t, item *it)
{
    memset(it, 0, sizeof *it);
    if (peek(t, 0) == '\\') return read_escape(t, it);
    t->at += mp_utf8_decode(t->source + t->at, &it->code);
    return MP_OK;
}

/* The inside of a class for a set; a negated category cannot stand in a class, because PCRE2 would
 * count the recent characters in. */
static mp_status append_set(translator *t, const item *it, int negated)
{
    int known;

    if (it->kind == ITEM_SPACE) return append(t, negated ? mp_class_no_space : mp_class_space);
    MP_TRY(append(t, "\\p{"));
    MP_TRY(mp_text_append(t->out, it->name, it->name_length));
    MP_TRY(append(t, "}"));
    return mp_unicode_append_recent(&t->tail, it->name, it->name_length, &known);
}

static mp_status close_class(translator *t)
{
    MP_TRY(mp_text_append(t->out, t->tail.bytes, t->tail.length));
    mp_text_clear(&t->tail);
    return append(t, "]");
}

/* Oniguruma also folds pairs of letters into one character ("ss" and U+00DF, "st" and U+FB06),
 * which PCRE2 does not. */
static mp_status check_caseless(translator *t, size_t start, const item *it)
{
    static const char *const pairs[] = {"ss", "ff", "fi", "fl", "st"};
    char pair[3] = {t->previous, 0, 0};

    if (it->kind != ITEM_CODE || it->code >= 0x80)
        return refuse(t, start, "something else than ASCII text and | inside (?i:...)");
    pair[1] = (char)tolower((int)it->code);
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        if (strcmp(pair, pairs[i]) == 0)
            return refuse(t, start, "letters that fold into one character inside (?i:...)");
    t->previous = pair[1];
    return MP_OK;
}

static mp_status translate_item(translator *t)
{
    size_t start = t->at;
    item it;

    MP_TRY(read_item(t, &it));
    if (is_caseless(t)) MP_TRY(check_caseless(t, start, &it));
    note_atom(t, (int64_t)t->out->length, 0);
    if (it.kind == ITEM_CODE) return append_code(t, it.code);
    MP_TRY(append(t, it.negated ? "[^" : "["));
    MP_TRY(append_set(t, &it, 0));
    return close_class(t);
}

/* One element of a class: a character, a range or a set. */
static mp_status class_element(translator *t, int is_first)
{
    size_t start = t->at;
    item it, end;

    if (peek(t, 0) == '[') return refuse(t, start, "a class inside a class");
    if (peek(t, 0) == '&' && peek(t, 1) == '&') return refuse(t, start, "an intersection");
    if (peek(t, 0) == '-' && !is_first && peek(t, 1) != ']')
        return refuse(t, start, "a '-' that is neither a range nor at the end of its class");
    MP_TRY(read_item(t, &it));
    if (it.kind != ITEM_CODE) {
        if (it.negated && it.kind == ITEM_CATEGORY)
            return refuse(t, start, "a negated property inside a class");
        return append_set(t, &it, it.negated);
    }
    MP_TRY(append_code(t, it.code));
    if (peek(t, 0) != '-' || peek(t, 1) == ']') return MP_OK;
    t->at++;
    if (t->at == t->length || peek(t, 0) == '[') return refuse(t, start, "an open range");
    MP_TRY(read_item(t, &end));
    if (end.kind != ITEM_CODE || end.code < it.code) return refuse(t, start, "an empty range");
    MP_TRY(append(t, "-"));
    return append_code(t, end.code);
}

static mp_status translate_class(translator *t)
{
    size_t start = t->at++, first;

    if (is_caseless(t)) return refuse(t, start, "a class inside (?i:...)");
    note_atom(t, (int64_t)t->out->length, 0);
    MP_TRY(append(t, "["));
    if (peek(t, 0) == '^') {
        MP_TRY(append(t, "^"));
        t->at++;
    }
    first = t->at;
    if (peek(t, 0) == ']') return refuse(t, start, "a ']' as the first of a class");
    while (t->at < t->length && peek(t, 0) != ']') MP_TRY(class_element(t, t->at == first));
    if (t->at == t->length) return refuse(t, start, "a class without end");
    t->at++;
    return close_class(t);
}

/* Capturing groups become plain ones: nobody asks what they caught. */
static mp_status open_group(translator *t)
{
    static const struct {
        const char *source, *target;
        int look_around, caseless;
    } kinds[] = {{"(?:", "(?:", 0, 0},   {"(?i:", "(?i:", 0, 1}, {"(?>", "(?>", 0, 0},
                 {"(?=", "(?=", 1, 0},   {"(?!", "(?!", 1, 0},   {"(?<=", "(?<=", 1, 0},
                 {"(?<!", "(?<!", 1, 0}, {"(?", NULL, 0, 0},     {"(", "(?:", 0, 0}};
    size_t start = t->at, i = 0;
    int caseless = is_caseless(t);

    if (t->depth == MAX_DEPTH) return refuse(t, start, "too many groups in groups");
    while (strncmp(t->source + start, kinds[i].source, strlen(kinds[i].source)) != 0) i++;
    if (kinds[i].target == NULL) return refuse(t, start, "an option or a kind of group");
    t->groups[++t->depth] = (group){
        .start = kinds[i].look_around ? -1 : (int64_t)t->out->length,
        .caseless = caseless || kinds[i].caseless,
    };
    t->at += strlen(kinds[i].source);
    t->atom = -1;
    return append(t, kinds[i].target);
}

static mp_status close_group(translator *t)
{
    const group *g = &t->groups[t->depth];

    if (t->depth == 0) return refuse(t, t->at, "a ')' without '('");
    t->depth--;
    note_atom(t, g->start, g->start < 0 || g->is_empty || !g->matches);
    t->at++;
    return append(t, ")");
}

static mp_status next_branch(translator *t)
{
    group *g = &t->groups[t->depth];

    g->is_empty |= !g->matches;
    g->matches = 0;
    t->at++;
    t->atom = -1;
    t->previous = '\0';
    return append(t, "|");
}

static int read_count(translator *t, long *count)
{
    int digits = 0;

    for (*count = 0; isdigit((unsigned char)peek(t, 0)) && digits < 6; digits++, t->at++)
        *count = *count * 10 + (peek(t, 0) - '0');
    return digits > 0;
}

/* {n}, {n,} (high = -1) and {n,m}. */
static mp_status interval(translator *t, long *low, long *high)
{
    size_t start = t->at++;
    char text[48];

    if (!read_count(t, low)) return refuse(t, start, "a '{' that begins no repetition");
    *high = *low;
    if (peek(t, 0) == ',') {
        t->at++;
        if (!read_count(t, high)) *high = -1;
    }
    if (peek(t, 0) != '}') return refuse(t, start, "a '{' that begins no repetition");
    if (*low > MAX_REPEAT || *high > MAX_REPEAT || (*high >= 0 && *high < *low))
        return refuse(t, start, "a repetition with such bounds");
    t->at++;
    if (*high < 0)
        snprintf(text, sizeof text, "{%ld,}", *low);
    else
        snprintf(text, sizeof text, "{%ld,%ld}", *low, *high);
    return append(t, text);
}

/* How often the atom is repeated; high = -1: without end. */
static mp_status repetition(translator *t, long *low, long *high)
{
    char c = peek(t, 0);

    if (c == '{') return interval(t, low, high);
    *low = c == '+';
    *high = c == '?' ? 1 : -1;
    t->at++;
    return mp_text_append(t->out, &c, 1);
}

/* x{1,3}+ repeats the repetition in Ruby syntax; in PCRE2 it would be possessive. */
static mp_status repeat_again(translator *t)
{
    size_t atom = (size_t)t->atom, tail = t->out->length - atom;

    MP_TRY(append(t, "(?:"));
    memmove(t->out->bytes + atom + 3, t->out->bytes + atom, tail);
    memcpy(t->out->bytes + atom, "(?:", 3);
    return append(t, ")+");
}

/* The engines differ in when they leave a loop over what matches nothing, so there must be none. */
static mp_status quantifier(translator *t)
{
    size_t start = t->at;
    int is_interval = peek(t, 0) == '{', again;
    long low = 0, high = 0;

    if (t->atom < 0) return refuse(t, start, "a quantifier with nothing to repeat");
    if (is_caseless(t)) return refuse(t, start, "a quantifier inside (?i:...)");
    MP_TRY(repetition(t, &low, &high));
    again = is_interval && peek(t, 0) == '+';
    if ((t->atom_is_empty && high != 1) || (again && (t->atom_is_empty || low == 0)))
        return refuse(t, start, "a repetition of what may match nothing");
    if (low == 0) t->groups[t->depth].matches = t->before;
    if (peek(t, 0) == '?' && is_interval && low == high)
        return refuse(t, start, "a lazy repetition of fixed length");
    if (again)
        MP_TRY(repeat_again(t));
    else if (peek(t, 0) == '?' || peek(t, 0) == '+')
        MP_TRY(mp_text_append(t->out, t->source + t->at, 1));
    t->at += peek(t, 0) == '?' || peek(t, 0) == '+';
    t->atom = -1;
    return MP_OK;
}

static mp_status translate_next(translator *t)
{
    switch (peek(t, 0)) {
    case '(':
        return open_group(t);
    case ')':
        return close_group(t);
    case '[':
        return translate_class(t);
    case '*':
    case '+':
    case '?':
    case '{':
        return quantifier(t);
    case '^':
    case '$':
        return refuse(t, t->at, "an anchor");
    case '|':
        return next_branch(t);
    case '.':
        note_atom(t, (int64_t)t->out->length, 0);
        t->at++;
        t->previous = '\0';
        return append(t, ".");
    default:
        return translate_item(t);
    }
}

mp_status mp_regex_translate(const char *source, size_t length, const char *where, mp_text *out)
{
    translator t = {.source = source, .where = where, .length = length, .out = out, .atom = -1};
    mp_status st = MP_OK;

    if (length == 0 || length > MAX_SOURCE || memchr(source, '\0', length) != NULL)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: an expression of %zu bytes, expected 1 to %d without a zero byte",
                       where, length, MAX_SOURCE);
    while (t.at < length && st == MP_OK) st = translate_next(&t);
    if (st == MP_OK && t.depth > 0) st = refuse(&t, length, "a '(' without ')'");
    mp_text_free(&t.tail);
    return st;
}
