#include "tokenizer_internal.h"

#include "mpress/memory.h"

#include <stdio.h>
#include <string.h>

/* Byte-pair encoding as in Sennrich et al., arXiv:1508.07909, with the details of the reference's
 * model: the pair of the lowest rank is merged first, the leftmost of equal ones. */

mp_status mp_ids_push(mp_ids *ids, int32_t id)
{
    void *array = ids->values;

    MP_TRY(mp_grow(&array, ids->count, ids->count + 1, &ids->capacity, sizeof *ids->values,
                   "token ids"));
    ids->values = array;
    ids->values[ids->count++] = id;
    return MP_OK;
}

mp_status mp_bpe_init(mp_bpe *bpe, int64_t tokens, int64_t merges)
{
    bpe->max_id = -1;
    bpe->unk_id = -1;
    MP_TRY(mp_token_table_init(&bpe->tokens, tokens));
    MP_TRY(mp_pair_table_init(&bpe->owners, tokens));
    MP_TRY(mp_pair_table_init(&bpe->merges, merges));
    return mp_pair_table_init(&bpe->joins, merges);
}

void mp_bpe_free(mp_bpe *bpe)
{
    mp_token_table_free(&bpe->tokens);
    mp_pair_table_free(&bpe->owners);
    mp_pair_table_free(&bpe->merges);
    mp_pair_table_free(&bpe->joins);
    mp_free(bpe->unk);
    bpe->unk = NULL;
}

/* Two texts with one id are refused: mp_bpe_encode may cut a word (see add_symbol) only if an id
 * has one text. */
mp_status mp_bpe_add_token(mp_bpe *bpe, const char *text, size_t length, int64_t id,
                           const char *where)
{
    const mp_pair_value *owner;

    if (id < 0 || id >= INT32_MAX)
        return mp_fail(MP_ERR_FORMAT, "%s: token '%.*s' has id %lld, expected 0 to %d", where,
                       mp_text_shown(text, length), text, (long long)id, INT32_MAX - 1);
    owner = mp_pair_find(&bpe->owners, (uint32_t)id, 0);
    if (owner != NULL) {
        const mp_token_entry *other = &bpe->tokens.entries[owner->rank];
        const char *other_text = bpe->tokens.arena.bytes + other->offset;

        return mp_fail(MP_ERR_FORMAT, "%s: tokens '%.*s' and '%.*s' have the same id %lld", where,
                       mp_text_shown(other_text, other->length), other_text,
                       mp_text_shown(text, length), text, (long long)id);
    }
    mp_pair_insert(&bpe->owners, (uint32_t)id, 0, (mp_pair_value){(int32_t)bpe->tokens.count, 0});
    MP_TRY(mp_token_insert(&bpe->tokens, text, length, (int32_t)id));
    if (id > bpe->max_id) bpe->max_id = (int32_t)id;
    return MP_OK;
}

static uint32_t first_code(const char *text)
{
    uint32_t code;

    mp_utf8_decode(text, &code);
    return code;
}

static uint32_t last_code(const char *text, size_t length)
{
    size_t start = length - 1;

    while ((text[start] & 0xC0) == 0x80) start--;
    return first_code(text + start);
}

static mp_status find_part(const mp_bpe *bpe, const char *part, size_t length, const char *where,
                           int32_t *id)
{
    *id = length > 0 ? mp_token_find(&bpe->tokens, part, length) : -1;
    if (*id < 0)
        return mp_fail(MP_ERR_FORMAT, "%s: merge %d needs the token '%.*s', not in the vocabulary",
                       where, bpe->ranks, mp_text_shown(part, length), part);
    return MP_OK;
}

mp_status mp_bpe_add_merge(mp_bpe *bpe, const char *left, size_t left_length, const char *right,
                           size_t right_length, const char *where)
{
    mp_text whole = {0};
    int32_t left_id, right_id, id;
    mp_status st;

    MP_GO(find_part(bpe, left, left_length, where, &left_id));
    MP_GO(find_part(bpe, right, right_length, where, &right_id));
    MP_GO(mp_text_append(&whole, left, left_length));
    MP_GO(mp_text_append(&whole, right, right_length));
    MP_GO(find_part(bpe, whole.bytes, whole.length, where, &id));
    mp_pair_insert(&bpe->merges, (uint32_t)left_id, (uint32_t)right_id,
                   (mp_pair_value){bpe->ranks++, id});
    mp_pair_insert(&bpe->joins, last_code(left, left_length), first_code(right),
                   (mp_pair_value){0, 0});
out:
    mp_text_free(&whole);
    return st;
}

/* Whether the line, cut at its space `at`, is two tokens that make a third one. */
static int is_merge(const mp_bpe *bpe, const char *line, size_t length, size_t at, mp_text *whole)
{
    const mp_token_table *tokens = &bpe->tokens;

    mp_text_clear(whole);
    return at > 0 && at + 1 < length && mp_token_find(tokens, line, at) >= 0 &&
           mp_token_find(tokens, line + at + 1, length - at - 1) >= 0 &&
           mp_text_append(whole, line, at) == MP_OK &&
           mp_text_append(whole, line + at + 1, length - at - 1) == MP_OK &&
           mp_token_find(tokens, whole->bytes, whole->length) >= 0;
}

mp_status mp_bpe_add_merge_line(mp_bpe *bpe, const char *line, size_t length, const char *where)
{
    size_t cut = 0;
    int spaces = 0, ways = 0;
    mp_text whole = {0};

    if (length >= 8 && memcmp(line, "#version", 8) == 0) return MP_OK;
    for (size_t at = 0; at < length; at++) spaces += line[at] == ' ';
    for (size_t at = 0; at < length; at++) {
        if (line[at] != ' ') continue;
        if (spaces > 1 && !is_merge(bpe, line, length, at, &whole)) continue;
        cut = at;
        ways++;
    }
    mp_text_free(&whole);
    if (ways == 1) return mp_bpe_add_merge(bpe, line, cut, line + cut + 1, length - cut - 1, where);
    return mp_fail(MP_ERR_FORMAT, "%s: merge %d is '%.*s', expected two tokens and a space between",
                   where, bpe->ranks, mp_text_shown(line, length), line);
}

mp_status mp_bpe_finish(mp_bpe *bpe, const char *unk)
{
    char text[8];

    for (uint32_t code = 0; code < MP_BPE_DIRECT; code++)
        bpe->of_code[code] = mp_token_find(&bpe->tokens, text, mp_utf8_encode(code, text));
    for (unsigned byte = 0; byte < 256; byte++) {
        snprintf(text, sizeof text, "<0x%02X>", byte);
        bpe->of_byte[byte] = mp_token_find(&bpe->tokens, text, 6);
    }
    if (unk == NULL) return MP_OK;
    MP_TRY(mp_strdup(unk, &bpe->unk));
    bpe->unk_id = mp_token_find(&bpe->tokens, unk, strlen(unk));
    bpe->unk_first = first_code(unk);
    bpe->unk_last = unk[0] != '\0' ? last_code(unk, strlen(unk)) : 0;
    return MP_OK;
}

static int before(const mp_candidate *a, const mp_candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

/* There is room: merge_symbols() has made it. */
static void heap_push(mp_bpe_work *work, mp_candidate item)
{
    int64_t child = work->heap_count++;

    while (child > 0) {
        int64_t parent = (child - 1) / 2;

        if (!before(&item, &work->heap[parent])) break;
        work->heap[child] = work->heap[parent];
        child = parent;
    }
    work->heap[child] = item;
}

static mp_candidate heap_pop(mp_bpe_work *work)
{
    mp_candidate top = work->heap[0], item = work->heap[--work->heap_count];
    int64_t hole = 0, child = 1;

    while (child < work->heap_count) {
        if (child + 1 < work->heap_count && before(&work->heap[child + 1], &work->heap[child]))
            child++;
        if (!before(&work->heap[child], &item)) break;
        work->heap[hole] = work->heap[child];
        hole = child;
        child = 2 * hole + 1;
    }
    work->heap[hole] = item;
    return top;
}

static const mp_pair_value *merge_at(const mp_bpe *bpe, const mp_bpe_work *work, int64_t at)
{
    const mp_symbol *symbol = &work->symbols[at];

    if (symbol->next < 0) return NULL;
    return mp_pair_find(&bpe->merges, (uint32_t)symbol->id,
                        (uint32_t)work->symbols[symbol->next].id);
}

static void consider(const mp_bpe *bpe, mp_bpe_work *work, int64_t at)
{
    const mp_pair_value *merge = at >= 0 ? merge_at(bpe, work, at) : NULL;

    if (merge != NULL) heap_push(work, (mp_candidate){at, merge->rank, merge->id});
}

/* A candidate is stale if its left symbol is gone or its pair now makes another token. */
static void apply(const mp_bpe *bpe, mp_bpe_work *work, mp_candidate candidate)
{
    mp_symbol *left = &work->symbols[candidate.at], *right;
    const mp_pair_value *merge = left->alive ? merge_at(bpe, work, candidate.at) : NULL;

    if (merge == NULL || merge->id != candidate.id) return;
    right = &work->symbols[left->next];
    left->id = candidate.id;
    left->next = right->next;
    right->alive = 0;
    if (left->next >= 0) work->symbols[left->next].previous = candidate.at;
    consider(bpe, work, left->previous);
    consider(bpe, work, candidate.at);
}

/* Merges the collected symbols, appends their ids, and leaves none.  O(n log n): a merge takes one
 * candidate from the heap and adds at most two, so that it never holds more than 2 n. */
static mp_status merge_symbols(const mp_bpe *bpe, mp_bpe_work *work, mp_ids *ids)
{
    void *heap = work->heap;

    MP_TRY(mp_grow(&heap, 0, 2 * work->count, &work->heap_capacity, sizeof *work->heap,
                   "candidates for merging"));
    work->heap = heap;
    work->heap_count = 0;
    for (int64_t i = 0; i + 1 < work->count; i++) consider(bpe, work, i);
    while (work->heap_count > 0) apply(bpe, work, heap_pop(work));
    for (int64_t i = 0; i < work->count; i++)
        if (work->symbols[i].alive) MP_TRY(mp_ids_push(ids, work->symbols[i].id));
    work->count = 0;
    return MP_OK;
}

/* Appends a symbol whose text begins with `first` and ends with `last`.
 *
 * A token's text is the concatenation of its parts, so a merge across two symbols needs a rule
 * whose left side ends, and whose right side begins, with the characters that meet there.  Where no
 * rule has that pair the word is cut: both sides then merge by themselves, with the same result.
 * This keeps a sentencepiece-like model, for which a whole book is one word, in small memory. */
static mp_status add_symbol(const mp_bpe *bpe, mp_bpe_work *work, int32_t id, uint32_t first,
                            uint32_t last, mp_ids *ids)
{
    void *symbols = work->symbols;
    int64_t at;

    if (work->count > 0 && mp_pair_find(&bpe->joins, work->last, first) == NULL)
        MP_TRY(merge_symbols(bpe, work, ids));
    MP_TRY(mp_grow(&symbols, work->count, work->count + 1, &work->capacity, sizeof *work->symbols,
                   "symbols of a word"));
    work->symbols = symbols;
    at = work->count++;
    work->symbols[at] = (struct mp_symbol){at - 1, -1, id, 1};
    if (at > 0) work->symbols[at - 1].next = at;
    work->last = last;
    return MP_OK;
}

static mp_status add_unk(const mp_bpe *bpe, mp_bpe_work *work, mp_ids *ids)
{
    return add_symbol(bpe, work, bpe->unk_id, bpe->unk_first, bpe->unk_last, ids);
}

/* Adds the byte tokens of a character; *done = 0 if the vocabulary lacks one of them. */
static mp_status add_bytes(const mp_bpe *bpe, mp_bpe_work *work, const char *text, size_t length,
                           mp_ids *ids, int *done)
{
    const unsigned char *bytes = (const unsigned char *)text;

    *done = 0;
    for (size_t i = 0; i < length; i++)
        if (bpe->of_byte[bytes[i]] < 0) return MP_OK;
    for (size_t i = 0; i < length; i++)
        MP_TRY(add_symbol(bpe, work, bpe->of_byte[bytes[i]], '<', '>', ids));
    *done = 1;
    return MP_OK;
}

/* A character that is no token.  `*waiting` is an unknown token that is not added yet, so that the
 * next one can be fused with it; byte tokens overtake it, as in the reference.  Without an unknown
 * token the character is dropped, as in the reference. */
static mp_status add_unknown(const mp_bpe *bpe, mp_bpe_work *work, const char *text, size_t length,
                             int *waiting, mp_ids *ids)
{
    int done = 0;

    if (bpe->byte_fallback) MP_TRY(add_bytes(bpe, work, text, length, ids, &done));
    if (done || bpe->unk == NULL) return MP_OK;
    if (bpe->unk_id < 0)
        return mp_fail(MP_ERR_FORMAT,
                       "the tokenizer's unk_token '%s' is not in its vocabulary, but the text has "
                       "'%.*s', which needs it",
                       bpe->unk, mp_text_shown(text, length), text);
    if (*waiting && !bpe->fuse_unk) MP_TRY(add_unk(bpe, work, ids));
    *waiting = 1;
    return MP_OK;
}

mp_status mp_bpe_encode(const mp_bpe *bpe, mp_bpe_work *work, const char *text, size_t length,
                        mp_ids *ids)
{
    int32_t whole = bpe->ignore_merges ? mp_token_find(&bpe->tokens, text, length) : -1;
    int waiting = 0;

    if (whole >= 0) return mp_ids_push(ids, whole);
    work->count = 0;
    for (size_t at = 0, step; at < length; at += step) {
        uint32_t code;
        int32_t id;

        step = mp_utf8_decode(text + at, &code);
        id = code < MP_BPE_DIRECT ? bpe->of_code[code]
                                  : mp_token_find(&bpe->tokens, text + at, step);
        if (id < 0) {
            MP_TRY(add_unknown(bpe, work, text + at, step, &waiting, ids));
            continue;
        }
        if (waiting) MP_TRY(add_unk(bpe, work, ids));
        waiting = 0;
        MP_TRY(add_symbol(bpe, work, id, code, code, ids));
    }
    if (waiting) MP_TRY(add_unk(bpe, work, ids));
    return merge_symbols(bpe, work, ids);
}

void mp_bpe_work_free(mp_bpe_work *work)
{
    mp_free(work->symbols);
    mp_free(work->heap);
    memset(work, 0, sizeof *work);
}
