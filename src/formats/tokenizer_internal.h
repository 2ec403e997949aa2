/* What the files of the tokenizer share; nobody else includes this.
 * Floor 1: formats.
 *
 * The road of a text, in the reference's order (Hugging Face tokenizers 0.23, Rust):
 *   bytes -> UTF-8 repaired (tokenizer_text.c)
 *         -> cut at the added tokens that match the text as it stands (tokenizer_added.c)
 *         -> each piece normalised (tokenizer_normalize.c), cut at the added tokens that match the
 *            normalised text
 *         -> each piece through the pre-tokenizer's stages (pretokenize.c), depth first, so that no
 *            list of words is ever built
 *         -> each word through the merges (bpe.c), ids appended.
 * `where` in all these functions names the file and the part of it, for messages. */
#ifndef MPRESS_TOKENIZER_INTERNAL_H
#define MPRESS_TOKENIZER_INTERNAL_H

#include "mpress/error.h"
#include "mpress/tokenizer.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes and characters: tokenizer_text.c. */

/* Bytes that grow; all zero is empty. */
typedef struct mp_text {
    char *bytes;
    size_t length, capacity;
} mp_text;

mp_status mp_text_append(mp_text *text, const char *bytes, size_t length);
mp_status mp_text_append_code(mp_text *text, uint32_t code); /* one character as UTF-8 */
void mp_text_clear(mp_text *text);                           /* keeps the memory */
void mp_text_free(mp_text *text);

/* Makes room for `needed` elements in an array of `*capacity` of which `used` are in use. */
mp_status mp_grow(void **array, int64_t used, int64_t needed, int64_t *capacity, size_t size,
                  const char *what);

/* The character at `text`, which is valid UTF-8 and not at its end; returns its bytes, 1 to 4. */
size_t mp_utf8_decode(const char *text, uint32_t *code);
size_t mp_utf8_encode(uint32_t code, char bytes[4]);

/* For "%.*s" in messages: the bytes of a text that are shown, at most 80, in whole characters. */
int mp_text_shown(const char *text, size_t length);

/* *copy = NULL if the text is valid UTF-8; otherwise a copy (mp_free) in which every maximal part
 * of a broken character is U+FFFD, as Python's errors="replace" does it. */
mp_status mp_utf8_repair(const char *text, size_t length, char **copy, size_t *copy_length);

/* Bytes of white space (Unicode's White_Space) at the start, and at the end, of valid UTF-8. */
size_t mp_utf8_leading_space(const char *text, size_t length);
size_t mp_utf8_trailing_space(const char *text, size_t length);

/* The two hash tables: bpe_table.c. */

typedef struct mp_token_entry {
    size_t offset; /* of its text in the arena */
    uint32_t length;
    int32_t id;
} mp_token_entry;

/* Token texts and their ids. */
typedef struct mp_token_table {
    mp_text arena;           /* all texts, one after another */
    mp_token_entry *entries; /* [count], in the order of insertion */
    int64_t *slots;          /* [mask + 1]: 1 + index of an entry, or 0 */
    int64_t count, capacity, mask;
} mp_token_table;

mp_status mp_token_table_init(mp_token_table *table, int64_t capacity);
void mp_token_table_free(mp_token_table *table);
int32_t mp_token_find(const mp_token_table *table, const char *text, size_t length); /* or -1 */
/* A text that is there already gets the new id.  At most `capacity` insertions. */
mp_status mp_token_insert(mp_token_table *table, const char *text, size_t length, int32_t id);

/* Pairs of 32-bit numbers and what belongs to them. */
typedef struct mp_pair_value {
    int32_t rank, id;
} mp_pair_value;

typedef struct mp_pair_slot {
    uint64_t key;
    mp_pair_value value; /* rank < 0: the slot is free */
} mp_pair_slot;

typedef struct mp_pair_table {
    mp_pair_slot *slots; /* [mask + 1] */
    int64_t count, capacity, mask;
} mp_pair_table;

mp_status mp_pair_table_init(mp_pair_table *table, int64_t capacity);
void mp_pair_table_free(mp_pair_table *table);
const mp_pair_value *mp_pair_find(const mp_pair_table *table, uint32_t left, uint32_t right);
/* A pair that is there already gets the new value.  At most `capacity` insertions. */
void mp_pair_insert(mp_pair_table *table, uint32_t left, uint32_t right, mp_pair_value value);

/* The model: bpe.c. */

enum { MP_BPE_DIRECT = 512 }; /* the byte-level alphabet ends at U+0143 */

typedef struct mp_bpe {
    mp_token_table tokens;
    mp_pair_table owners;  /* (id, 0) -> rank = index of the entry that has it */
    mp_pair_table merges;  /* (id, id) -> rank and the id of the merged token */
    mp_pair_table joins;   /* (last character, first character) of the two sides of any merge */
    int32_t max_id, ranks; /* largest id so far, merges so far */
    int32_t of_code[MP_BPE_DIRECT]; /* id of the one-character token, or -1 */
    int32_t of_byte[256];           /* id of "<0x..>", or -1 */
    char *unk;                      /* text of the unknown token, or NULL */
    int32_t unk_id;                 /* -1: not in the vocabulary */
    uint32_t unk_first, unk_last;   /* its first and last character */
    int fuse_unk, byte_fallback, ignore_merges;
} mp_bpe;

/* Ids that grow; all zero is empty. */
typedef struct mp_ids {
    int32_t *values;
    int64_t count, capacity;
} mp_ids;

mp_status mp_ids_push(mp_ids *ids, int32_t id);

typedef struct mp_symbol {
    int64_t previous, next; /* -1: none */
    int32_t id;
    int32_t alive; /* 0: merged into one before it */
} mp_symbol;

typedef struct mp_candidate {
    int64_t at; /* of the left symbol */
    int32_t rank, id;
} mp_candidate;

/* Scratch of one encoding; all zero is empty. */
typedef struct mp_bpe_work {
    mp_symbol *symbols;
    mp_candidate *heap; /* smallest (rank, at) first */
    int64_t count, capacity, heap_count, heap_capacity;
    uint32_t last; /* last character of the last symbol */
} mp_bpe_work;

mp_status mp_bpe_init(mp_bpe *bpe, int64_t tokens, int64_t merges);
void mp_bpe_free(mp_bpe *bpe);
mp_status mp_bpe_add_token(mp_bpe *bpe, const char *text, size_t length, int64_t id,
                           const char *where);
/* Merges in the order of their rank, after all tokens. */
mp_status mp_bpe_add_merge(mp_bpe *bpe, const char *left, size_t left_length, const char *right,
                           size_t right_length, const char *where);
/* A merge written as "left right"; lines that begin with "#version" are skipped.  Where a token
 * holds a space, as in copies of Llama 2's file in which U+00A0 became one, there must be exactly
 * one way to read the line (the reference refuses such files). */
mp_status mp_bpe_add_merge_line(mp_bpe *bpe, const char *line, size_t length, const char *where);
/* After all tokens: the direct tables, the unknown token (NULL: none). */
mp_status mp_bpe_finish(mp_bpe *bpe, const char *unk);
mp_status mp_bpe_encode(const mp_bpe *bpe, mp_bpe_work *work, const char *text, size_t length,
                        mp_ids *ids);
void mp_bpe_work_free(mp_bpe_work *work);

/* What splits a text: tokenizer_regex.c, tokenizer_unicode.c, tokenizer_pattern.c. */

/* Rewrites an expression of the reference's engine (Oniguruma, Ruby syntax, Unicode 16) for PCRE2
 * so that both match the same; what could differ is refused by name.  A zero byte follows `source`.
 */
mp_status mp_regex_translate(const char *source, size_t length, const char *where, mp_text *out);

/* The insides of PCRE2 classes: Unicode's White_Space, and all other characters. */
extern const char mp_class_space[];
extern const char mp_class_no_space[];

/* Appends the code points of a general category that are newer than Unicode 14, as ranges of a
 * PCRE2 class; 0 if there is no such category ("L", "Lu", "N", ...). */
mp_status mp_unicode_append_recent(mp_text *out, const char *category, size_t length, int *known);

typedef struct mp_pattern mp_pattern; /* immutable after creation */

mp_status mp_pattern_regex(const char *source, size_t length, const char *where,
                           mp_pattern **pattern);
mp_status mp_pattern_literal(const char *text, size_t length, const char *where,
                             mp_pattern **pattern);
void mp_pattern_free(mp_pattern *pattern);

typedef struct mp_match_work mp_match_work; /* scratch of one encoding */

mp_status mp_match_work_create(mp_match_work **work);
void mp_match_work_free(mp_match_work *work);

/* Successive matches in a text; start with {text, length, 0, -1}. */
typedef struct mp_cursor {
    const char *text;
    size_t length;
    size_t position;  /* where the search goes on */
    int64_t last_end; /* end of the last match, -1: none yet */
} mp_cursor;

/* *found = 0 at the end. */
mp_status mp_pattern_next(const mp_pattern *pattern, mp_match_work *work, mp_cursor *cursor,
                          int *found, size_t *start, size_t *end);

/* Normalisers: tokenizer_normalize.c. */

typedef enum mp_normal_kind { MP_NORMAL_NFC, MP_NORMAL_PREPEND, MP_NORMAL_REPLACE } mp_normal_kind;

typedef struct mp_normal_step {
    mp_normal_kind kind;
    mp_text pattern, content; /* prepend: content; replace: pattern by content */
} mp_normal_step;

enum { MP_MAX_STEPS = 16 };

typedef struct mp_normalizer {
    mp_normal_step steps[MP_MAX_STEPS];
    int count;
} mp_normalizer;

mp_status mp_normalizer_add(mp_normalizer *normalizer, mp_normal_kind kind, const char *where,
                            mp_normal_step **step);
int mp_normalizer_has(const mp_normalizer *normalizer, mp_normal_kind kind);
void mp_normalizer_free(mp_normalizer *normalizer);

/* The normalised text, in one of the two scratch buffers, or `text` itself. */
mp_status mp_normalize(const mp_normalizer *normalizer, mp_text scratch[2], const char *text,
                       size_t length, const char **normal, size_t *normal_length);

/* Added tokens: tokenizer_added.c. */

typedef struct mp_added_token {
    mp_text text;    /* as the file has it */
    mp_text pattern; /* what is looked for: the text, normalised if the token asks for it */
    int32_t id;
    int single_word, lstrip, rstrip, normalized, special;
} mp_added_token;

typedef struct mp_added {
    mp_added_token *tokens; /* [count], sorted by mp_added_finish */
    int64_t count, capacity;
    mp_token_table ids; /* of the texts */
    int32_t max_id;
    int64_t first[2], end[2]; /* sorted: tokens of [0] the text as it stands, [1] the normalised */
    unsigned char starts[2][256]; /* 1 if a token begins with that byte */
    mp_pattern *word;             /* one character of a word; NULL: no token needs it */
} mp_added;

/* Room for `capacity` tokens. */
mp_status mp_added_init(mp_added *added, int64_t capacity);

/* Takes over the contents of `token` (its texts are freed on error).  The id must be the one the
 * reference gives: that of the vocabulary, otherwise the next free one. */
mp_status mp_added_add(mp_added *added, const mp_bpe *bpe, mp_added_token *token,
                       const char *where);
mp_status mp_added_finish(mp_added *added, const mp_normalizer *normalizer, const char *where);
void mp_added_free(mp_added *added);

/* The pieces of a text, in order: added tokens (id >= 0) and what is between them (id = -1). */
typedef struct mp_added_scan {
    const mp_added *added;
    mp_match_work *work;
    const char *text;
    size_t length;
    int which;           /* 0: tokens for the text as it stands, 1: for the normalised text */
    size_t search, done; /* where to look on, and the end of the last piece */
    size_t stripped_to;  /* end of the white space that the last rstrip token took */
    size_t held_end;     /* a token that waits behind the piece before it */
    int32_t held_id;     /* -1: none */
    int finished;
} mp_added_scan;

typedef struct mp_added_piece {
    size_t start, end;
    int32_t id;
} mp_added_piece;

void mp_added_scan_start(mp_added_scan *scan, const mp_added *added, int which, const char *text,
                         size_t length, mp_match_work *work);
mp_status mp_added_next(mp_added_scan *scan, int *found, mp_added_piece *piece);

/* Pre-tokenizers: pretokenize.c. */

typedef enum mp_split_behavior {
    MP_SPLIT_REMOVED,
    MP_SPLIT_ISOLATED,
    MP_SPLIT_MERGED_WITH_PREVIOUS,
    MP_SPLIT_MERGED_WITH_NEXT,
    MP_SPLIT_CONTIGUOUS
} mp_split_behavior;

typedef enum mp_stage_kind {
    MP_STAGE_SPLIT,
    MP_STAGE_BYTE_LEVEL,
    MP_STAGE_METASPACE
} mp_stage_kind;
typedef enum mp_prepend { MP_PREPEND_NEVER, MP_PREPEND_FIRST, MP_PREPEND_ALWAYS } mp_prepend;

typedef struct mp_stage {
    mp_stage_kind kind;
    mp_pattern *pattern; /* where to split; NULL: nowhere */
    mp_split_behavior behavior;
    int invert;          /* what does not match is the delimiter */
    mp_prepend prepend;  /* byte level: a space; metaspace: the replacement */
    mp_text replacement; /* metaspace: what stands for a space */
} mp_stage;

typedef struct mp_pretokenizer {
    mp_stage stages[MP_MAX_STEPS];
    int count;
} mp_pretokenizer;

mp_status mp_pretokenizer_add(mp_pretokenizer *pretokenizer, mp_stage_kind kind, const char *where,
                              mp_stage **stage);
void mp_pretokenizer_free(mp_pretokenizer *pretokenizer);

/* The split of GPT-2, and of Qwen2. */
extern const char mp_gpt2_split[];
extern const char mp_qwen2_split[];

/* Everything that one call of mp_tokenizer_encode changes. */
typedef struct mp_encoding {
    const mp_tokenizer *tokenizer;
    mp_match_work *match;
    mp_bpe_work bpe;
    mp_text normal[2];
    mp_text whole[MP_MAX_STEPS], piece[MP_MAX_STEPS]; /* of each stage */
    mp_ids ids;
} mp_encoding;

/* Sends a normalised text through all stages and the model.  `first`: it begins where the text
 * given to mp_tokenizer_encode begins. */
mp_status mp_pretokenize(mp_encoding *encoding, const char *text, size_t length, int first);

/* Loading: tokenizer.c, tokenizer_json.c, tokenizer_model.c, tokenizer_files.c. */

struct mp_tokenizer {
    mp_bpe bpe;
    mp_normalizer normalizer;
    mp_added added;
    mp_pretokenizer pretokenizer;
    int32_t bos; /* -1: none */
    int adds_bos;
};

/* A tokenizer.json, into an all-zero tokenizer (freed by the caller, also on error). */
mp_status mp_tokenizer_read_json(mp_tokenizer *tokenizer, const json_t *root, const char *path);
mp_status mp_tokenizer_read_model(mp_bpe *bpe, const json_t *model, const char *where);
mp_status mp_tokenizer_read_vocab(mp_bpe *bpe, const json_t *vocab, const char *where);

/* vocab.json and merges.txt with what stands beside them, `config` (NULL: none) included. */
mp_status mp_tokenizer_read_files(mp_tokenizer *tokenizer, const char *dir, const json_t *config,
                                  const char *config_path);

/* One added token with its flags, as in tokenizer.json and tokenizer_config.json. */
mp_status mp_tokenizer_read_added(mp_tokenizer *tokenizer, const json_t *object, int64_t id,
                                  const char *where);

/* bos_token and add_bos_token of a tokenizer_config.json, over what tokenizer.json says. */
mp_status mp_tokenizer_read_config(mp_tokenizer *tokenizer, const json_t *config,
                                   const char *where);

/* The id of an added token or of a token of the model, or -1. */
int32_t mp_tokenizer_find(const mp_tokenizer *tokenizer, const char *text);

/* Refuses by name the members of a component that `known` ("|type|pattern|") does not list. */
mp_status mp_json_only(const json_t *object, const char *known, const char *where);

/* A required member that is true or false. */
mp_status mp_json_bool(const json_t *object, const char *key, const char *where, int *value);

#endif
