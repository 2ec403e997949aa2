#include "tokenizer_internal.h"

#include "mpress/memory.h"

#include <stdlib.h>
#include <string.h>

/* Added tokens are looked for in the whole text before anything else happens to it: the longest one
 * at the leftmost place, twice, once in the text as it stands and once in each normalised piece of
 * what is left.  Both sets are sorted, so that a prefix narrows a range, as in a trie. */

/* A character of a word, as Rust's \w has it: letters, marks, digits, connectors, the circled
 * letters that count as alphabetic, and the two joiners. */
static const char word_class[] =
    "[\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200C}\\x{200D}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}"
    "\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}]";

static void token_free(mp_added_token *token)
{
    mp_text_free(&token->text);
    mp_text_free(&token->pattern);
}

mp_status mp_added_init(mp_added *added, int64_t capacity)
{
    added->max_id = -1;
    added->capacity = capacity;
    MP_TRY(mp_token_table_init(&added->ids, capacity));
    return MP_NEW(added->tokens, capacity, "added tokens");
}

/* The id that the reference gives to a token: that of the vocabulary if it is there, otherwise one
 * more than the largest of the added ones, but no less than the number of tokens of the model. */
static int32_t expected_id(const mp_added *added, const mp_bpe *bpe, const mp_added_token *token)
{
    int32_t id = mp_token_find(&bpe->tokens, token->text.bytes, token->text.length);

    if (id >= 0) return id;
    return added->max_id >= bpe->tokens.count ? added->max_id + 1 : (int32_t)bpe->tokens.count;
}

static mp_status check_new(const mp_added *added, const mp_bpe *bpe, const mp_added_token *token,
                           const char *where)
{
    int32_t expected;

    if (token->text.length == 0) return mp_fail(MP_ERR_FORMAT, "%s: an empty added token", where);
    if (mp_token_find(&added->ids, token->text.bytes, token->text.length) >= 0)
        return mp_fail(MP_ERR_FORMAT, "%s: added token '%.*s' is there twice", where,
                       mp_text_shown(token->text.bytes, token->text.length), token->text.bytes);
    expected = expected_id(added, bpe, token);
    if (token->id != expected)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: added token '%.*s' has id %d, but the reference gives it %d (%s)",
                       where, mp_text_shown(token->text.bytes, token->text.length),
                       token->text.bytes, token->id, expected,
                       mp_token_find(&bpe->tokens, token->text.bytes, token->text.length) >= 0
                           ? "its id in the vocabulary"
                           : "the next free id");
    return MP_OK;
}

mp_status mp_added_add(mp_added *added, const mp_bpe *bpe, mp_added_token *token, const char *where)
{
    mp_status st;

    MP_GO(check_new(added, bpe, token, where));
    MP_GO(mp_token_insert(&added->ids, token->text.bytes, token->text.length, token->id));
    if (token->id > added->max_id) added->max_id = token->id;
    added->tokens[added->count++] = *token;
    memset(token, 0, sizeof *token);
out:
    token_free(token);
    return st;
}

static int by_pattern(const void *left, const void *right)
{
    const mp_added_token *a = left, *b = right;
    size_t common = a->pattern.length < b->pattern.length ? a->pattern.length : b->pattern.length;
    int order = memcmp(a->pattern.bytes, b->pattern.bytes, common);

    if (a->normalized != b->normalized) return a->normalized - b->normalized;
    if (order != 0) return order;
    return (a->pattern.length > b->pattern.length) - (a->pattern.length < b->pattern.length);
}

static mp_status make_pattern(mp_added_token *token, const mp_normalizer *normalizer,
                              const char *where)
{
    const char *pattern = token->text.bytes;
    size_t length = token->text.length;
    mp_text scratch[2] = {{0}, {0}};
    mp_status st = MP_OK;

    if (token->normalized)
        MP_GO(mp_normalize(normalizer, scratch, pattern, length, &pattern, &length));
    if (length == 0)
        MP_GO(mp_fail(MP_ERR_FORMAT, "%s: nothing is left of added token '%.*s' by the normalizer",
                      where, mp_text_shown(token->text.bytes, token->text.length),
                      token->text.bytes));
    MP_GO(mp_text_append(&token->pattern, pattern, length));
out:
    mp_text_free(&scratch[0]);
    mp_text_free(&scratch[1]);
    return st;
}

static mp_status check_sorted(const mp_added *added, const char *where)
{
    for (int64_t i = 1; i < added->count; i++) {
        const mp_added_token *a = &added->tokens[i - 1], *b = &added->tokens[i];

        if (by_pattern(a, b) == 0)
            return mp_fail(MP_ERR_FORMAT,
                           "%s: added tokens '%.*s' and '%.*s' are the same after the normalizer",
                           where, mp_text_shown(a->text.bytes, a->text.length), a->text.bytes,
                           mp_text_shown(b->text.bytes, b->text.length), b->text.bytes);
    }
    return MP_OK;
}

mp_status mp_added_finish(mp_added *added, const mp_normalizer *normalizer, const char *where)
{
    int needs_words = 0;

    for (int64_t i = 0; i < added->count; i++) {
        MP_TRY(make_pattern(&added->tokens[i], normalizer, where));
        needs_words |= added->tokens[i].single_word;
    }
    if (added->count > 0)
        qsort(added->tokens, (size_t)added->count, sizeof *added->tokens, by_pattern);
    MP_TRY(check_sorted(added, where));
    while (added->end[0] < added->count && !added->tokens[added->end[0]].normalized)
        added->end[0]++;
    added->first[1] = added->end[0];
    added->end[1] = added->count;
    for (int64_t i = 0; i < added->count; i++) {
        const mp_added_token *token = &added->tokens[i];

        added->starts[token->normalized][(unsigned char)token->pattern.bytes[0]] = 1;
    }
    if (needs_words)
        MP_TRY(mp_pattern_regex(word_class, sizeof word_class - 1, where, &added->word));
    return MP_OK;
}

void mp_added_free(mp_added *added)
{
    for (int64_t i = 0; i < added->count; i++) token_free(&added->tokens[i]);
    mp_free(added->tokens);
    mp_token_table_free(&added->ids);
    mp_pattern_free(added->word);
    memset(added, 0, sizeof *added);
}

/* The first token of [low, high) whose byte at `depth` is not below `byte`; all of them share what
 * is before, and the one that ends there, if any, is the first. */
static int64_t lower_bound(const mp_added *added, int64_t low, int64_t high, size_t depth, int byte)
{
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        const mp_text *pattern = &added->tokens[middle].pattern;
        int there = depth < pattern->length ? (unsigned char)pattern->bytes[depth] : -1;

        if (there < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token at the start of the text, or NULL. */
static const mp_added_token *longest(const mp_added *added, int which, const char *text,
                                     size_t length)
{
    int64_t low = added->first[which], high = added->end[which];
    const mp_added_token *best = NULL;

    for (size_t depth = 0; low < high; depth++) {
        int byte = depth < length ? (unsigned char)text[depth] : 256;

        if (added->tokens[low].pattern.length == depth) best = &added->tokens[low];
        low = lower_bound(added, low, high, depth, byte);
        high = lower_bound(added, low, high, depth, byte + 1);
    }
    return best;
}

void mp_added_scan_start(mp_added_scan *scan, const mp_added *added, int which, const char *text,
                         size_t length, mp_match_work *work)
{
    memset(scan, 0, sizeof *scan);
    scan->added = added;
    scan->work = work;
    scan->text = text;
    scan->length = length;
    scan->which = which;
    scan->held_id = -1;
}

/* Whether the one character of `length` bytes at `text` belongs to a word. */
static mp_status in_word(const mp_added_scan *scan, const char *text, size_t length, int *is_word)
{
    mp_cursor cursor = {text, length, 0, -1};
    size_t start, end;

    return mp_pattern_next(scan->added->word, scan->work, &cursor, is_word, &start, &end);
}

/* Whether the match [start, end) stands between characters that belong to no word. */
static mp_status stands_alone(const mp_added_scan *scan, size_t start, size_t end, int *alone)
{
    int before = 0, after = 0;
    size_t from = start;
    uint32_t code;

    if (start > 0) {
        do from--;
        while ((scan->text[from] & 0xC0) == 0x80);
        MP_TRY(in_word(scan, scan->text + from, start - from, &before));
    }
    if (end < scan->length)
        MP_TRY(in_word(scan, scan->text + end, mp_utf8_decode(scan->text + end, &code), &after));
    *alone = !before && !after;
    return MP_OK;
}

/* The white space that a match takes along.  What it takes on the left ends where the piece before
 * it ends, which may be behind the match, if that piece took the same space on its right. */
static void strip(mp_added_scan *scan, const mp_added_token *token, mp_added_piece *match)
{
    if (token->lstrip && match->start > scan->done)
        match->start -= mp_utf8_trailing_space(scan->text + scan->done, match->start - scan->done);
    else if (token->lstrip)
        match->start = scan->done;
    if (!token->rstrip) return;
    if (match->end > scan->stripped_to)
        scan->stripped_to =
            match->end + mp_utf8_leading_space(scan->text + match->end, scan->length - match->end);
    match->end = scan->stripped_to;
}

/* The next match that counts.  A token that begins inside the space that the last one took is a
 * match all the same, as in the reference. */
static mp_status next_match(mp_added_scan *scan, int *found, mp_added_piece *match)
{
    const unsigned char *starts = scan->added->starts[scan->which];
    const mp_added_token *token;
    int alone = 0;

    while (!alone) {
        *found = 0;
        for (token = NULL; token == NULL && scan->search < scan->length; scan->search++)
            if (starts[(unsigned char)scan->text[scan->search]])
                token = longest(scan->added, scan->which, scan->text + scan->search,
                                scan->length - scan->search);
        if (token == NULL) return MP_OK;
        *found = 1;
        match->id = token->id;
        match->start = scan->search - 1;
        match->end = match->start + token->pattern.length;
        scan->search = match->end;
        alone = 1;
        if (token->single_word) MP_TRY(stands_alone(scan, match->start, match->end, &alone));
    }
    strip(scan, token, match);
    return MP_OK;
}

mp_status mp_added_next(mp_added_scan *scan, int *found, mp_added_piece *piece)
{
    size_t done;

    *found = 1;
    if (scan->held_id >= 0) {
        *piece = (mp_added_piece){scan->done, scan->held_end, scan->held_id};
        scan->done = scan->held_end;
        scan->held_id = -1;
        return MP_OK;
    }
    /* A match of which nothing is left is none, but the text goes on behind it. */
    for (;;) {
        done = scan->done;
        MP_TRY(next_match(scan, found, piece));
        if (!*found || piece->start < piece->end) break;
        scan->done = piece->end;
    }
    if (*found && done < piece->start) {
        scan->held_id = piece->id;
        scan->held_end = piece->end;
        scan->done = piece->start;
        *piece = (mp_added_piece){done, piece->start, -1};
    } else if (*found) {
        scan->done = piece->end;
    } else if (done != scan->length && !scan->finished) {
        *found = 1;
        scan->finished = 1;
        *piece = (mp_added_piece){done, scan->length, -1};
    }
    return MP_OK;
}
