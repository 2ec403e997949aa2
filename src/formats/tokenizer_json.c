#include "tokenizer_internal.h"

#include "mpress/json.h"

#include <stdio.h>
#include <string.h>

/* tokenizer.json but for its model: components become steps, stages and added tokens, and every
 * component or setting that is not implemented is refused by name. */

enum { WHERE = 512, MAX_DEPTH = 8 };

static mp_status refuse_type(const char *type, const char *known, const char *where)
{
    return mp_fail(MP_ERR_FORMAT, "%s: type '%s' is not implemented (known: %s)", where, type,
                   known);
}

/* Calls `read` for each component of a Sequence. */
typedef mp_status (*component_reader)(mp_tokenizer *, const json_t *, const char *, int);

static mp_status read_sequence(mp_tokenizer *tokenizer, const json_t *sequence, const char *key,
                               const char *where, int depth, component_reader read)
{
    const json_t *parts = json_object_get(sequence, key);
    char names[64];

    snprintf(names, sizeof names, "|type|%s|", key);
    MP_TRY(mp_json_only(sequence, names, where));
    if (!json_is_array(parts))
        return mp_fail(MP_ERR_FORMAT, "%s: a Sequence without \"%s\" [...]", where, key);
    if (depth == MAX_DEPTH)
        return mp_fail(MP_ERR_FORMAT, "%s: more than %d Sequences in each other", where, MAX_DEPTH);
    for (size_t i = 0; i < json_array_size(parts); i++)
        MP_TRY(read(tokenizer, json_array_get(parts, i), where, depth + 1));
    return MP_OK;
}

static mp_status append_text(mp_text *text, const char *value)
{
    return mp_text_append(text, value, strlen(value));
}

/* A pattern is {"String": text} or {"Regex": expression}. */
static mp_status read_pattern(const json_t *object, const char *where, const char **text,
                              int *is_regex)
{
    const json_t *pattern = json_object_get(object, "pattern");

    *is_regex = json_object_get(pattern, "Regex") != NULL;
    if (json_object_size(pattern) != 1)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: expected \"pattern\" {\"String\": ...} or {\"Regex\": ...}", where);
    return mp_json_text(pattern, *is_regex ? "Regex" : "String", where, text);
}

static mp_status read_replace(mp_tokenizer *tokenizer, const json_t *object, const char *where)
{
    const char *pattern, *content;
    mp_normal_step *step;
    int is_regex;

    MP_TRY(mp_json_only(object, "|type|pattern|content|", where));
    MP_TRY(read_pattern(object, where, &pattern, &is_regex));
    MP_TRY(mp_json_text(object, "content", where, &content));
    if (is_regex)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: Replace of the expression '%s' is not implemented, only "
                       "of a String",
                       where, pattern);
    if (*pattern == '\0') return mp_fail(MP_ERR_FORMAT, "%s: Replace of an empty text", where);
    MP_TRY(mp_normalizer_add(&tokenizer->normalizer, MP_NORMAL_REPLACE, where, &step));
    MP_TRY(append_text(&step->pattern, pattern));
    return append_text(&step->content, content);
}

static mp_status read_normalizer(mp_tokenizer *tokenizer, const json_t *object, const char *where,
                                 int depth)
{
    const char *type, *text;
    mp_normal_step *step;

    MP_TRY(mp_json_text(object, "type", where, &type));
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(tokenizer, object, "normalizers", where, depth, read_normalizer);
    if (strcmp(type, "Replace") == 0) return read_replace(tokenizer, object, where);
    if (strcmp(type, "NFC") == 0) {
        MP_TRY(mp_json_only(object, "|type|", where));
        return mp_normalizer_add(&tokenizer->normalizer, MP_NORMAL_NFC, where, &step);
    }
    if (strcmp(type, "Prepend") != 0)
        return refuse_type(type, "Sequence, NFC, Prepend, Replace", where);
    MP_TRY(mp_json_only(object, "|type|prepend|", where));
    MP_TRY(mp_json_text(object, "prepend", where, &text));
    if (*text == '\0') return mp_fail(MP_ERR_FORMAT, "%s: Prepend of an empty text", where);
    MP_TRY(mp_normalizer_add(&tokenizer->normalizer, MP_NORMAL_PREPEND, where, &step));
    return append_text(&step->content, text);
}

static mp_status read_split(mp_tokenizer *tokenizer, const json_t *object, const char *where)
{
    static const char *const behaviors[] = {
        [MP_SPLIT_REMOVED] = "Removed",
        [MP_SPLIT_ISOLATED] = "Isolated",
        [MP_SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [MP_SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
        [MP_SPLIT_CONTIGUOUS] = "Contiguous",
    };
    const int count = sizeof behaviors / sizeof behaviors[0];
    const char *pattern, *behavior;
    mp_stage *stage;
    int is_regex, i = 0;

    MP_TRY(mp_json_only(object, "|type|pattern|behavior|invert|", where));
    MP_TRY(read_pattern(object, where, &pattern, &is_regex));
    MP_TRY(mp_json_text(object, "behavior", where, &behavior));
    while (i < count && strcmp(behavior, behaviors[i]) != 0) i++;
    if (i == count)
        return mp_fail(MP_ERR_FORMAT, "%s: Split with behavior '%s' is not implemented", where,
                       behavior);
    MP_TRY(mp_pretokenizer_add(&tokenizer->pretokenizer, MP_STAGE_SPLIT, where, &stage));
    stage->behavior = (mp_split_behavior)i;
    MP_TRY(mp_json_bool(object, "invert", where, &stage->invert));
    if (is_regex) return mp_pattern_regex(pattern, strlen(pattern), where, &stage->pattern);
    return mp_pattern_literal(pattern, strlen(pattern), where, &stage->pattern);
}

static mp_status read_byte_level(mp_tokenizer *tokenizer, const json_t *object, const char *where)
{
    int prefix = 0, regex = 1;
    mp_stage *stage;

    MP_TRY(mp_json_only(object, "|type|add_prefix_space|trim_offsets|use_regex|", where));
    MP_TRY(mp_json_bool(object, "add_prefix_space", where, &prefix));
    MP_TRY(mp_json_opt_bool(object, "use_regex", where, &regex));
    MP_TRY(mp_pretokenizer_add(&tokenizer->pretokenizer, MP_STAGE_BYTE_LEVEL, where, &stage));
    stage->prepend = prefix ? MP_PREPEND_ALWAYS : MP_PREPEND_NEVER;
    if (!regex) return MP_OK;
    return mp_pattern_regex(mp_gpt2_split, strlen(mp_gpt2_split), where, &stage->pattern);
}

/* Numbers as Rust's char::is_numeric has them, which is at Unicode 17: digits of Tolong Siki and
 * three of the Han script are newer than the expressions' Unicode 16. */
static mp_status read_digits(mp_tokenizer *tokenizer, const json_t *object, const char *where)
{
    static const char numeric[] = "[\\p{N}\\x{11DE0}-\\x{11DE9}\\x{16FF4}-\\x{16FF6}]";
    int individual = 0;
    mp_stage *stage;

    MP_TRY(mp_json_only(object, "|type|individual_digits|", where));
    MP_TRY(mp_json_bool(object, "individual_digits", where, &individual));
    MP_TRY(mp_pretokenizer_add(&tokenizer->pretokenizer, MP_STAGE_SPLIT, where, &stage));
    stage->behavior = individual ? MP_SPLIT_ISOLATED : MP_SPLIT_CONTIGUOUS;
    return mp_pattern_regex(numeric, sizeof numeric - 1, where, &stage->pattern);
}

/* Older files have add_prefix_space only, newer ones both; they may not contradict each other. */
static mp_status read_prepend_scheme(const json_t *object, const char *where, mp_prepend *prepend)
{
    static const char *const names[] = {
        [MP_PREPEND_NEVER] = "never", [MP_PREPEND_FIRST] = "first", [MP_PREPEND_ALWAYS] = "always"};
    const char *scheme = NULL;
    int prefix = 1, i = MP_PREPEND_NEVER;

    MP_TRY(mp_json_opt_bool(object, "add_prefix_space", where, &prefix));
    MP_TRY(mp_json_opt_text(object, "prepend_scheme", where, &scheme));
    if (scheme == NULL) scheme = prefix ? "always" : "never";
    while (i <= MP_PREPEND_ALWAYS && strcmp(scheme, names[i]) != 0) i++;
    if (i > MP_PREPEND_ALWAYS)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: Metaspace with prepend_scheme '%s', expected first, always or never",
                       where, scheme);
    if (!prefix && i != MP_PREPEND_NEVER)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: Metaspace with add_prefix_space false and prepend_scheme '%s'", where,
                       scheme);
    *prepend = (mp_prepend)i;
    return MP_OK;
}

/* "first" means the start of the whole text.  Behind what changes the characters there, the
 * reference counts more pieces than one as first, or none; nobody needs that. */
static mp_status check_first(const mp_tokenizer *tokenizer, const char *where)
{
    const mp_pretokenizer *pretokenizer = &tokenizer->pretokenizer;
    int changes = mp_normalizer_has(&tokenizer->normalizer, MP_NORMAL_PREPEND) ||
                  mp_normalizer_has(&tokenizer->normalizer, MP_NORMAL_REPLACE);

    for (int i = 0; i + 1 < pretokenizer->count; i++)
        changes |= pretokenizer->stages[i].kind != MP_STAGE_SPLIT;
    if (!changes) return MP_OK;
    return mp_fail(MP_ERR_FORMAT,
                   "%s: Metaspace with prepend_scheme 'first' behind a Prepend, a Replace, a "
                   "ByteLevel or another Metaspace is not implemented",
                   where);
}

static mp_status read_metaspace(mp_tokenizer *tokenizer, const json_t *object, const char *where)
{
    const char *replacement;
    mp_stage *stage;
    uint32_t code;
    int split = 1;

    MP_TRY(mp_json_only(object, "|type|replacement|add_prefix_space|prepend_scheme|split|str_rep|",
                        where));
    MP_TRY(mp_json_text(object, "replacement", where, &replacement));
    MP_TRY(mp_json_opt_bool(object, "split", where, &split));
    if (*replacement == '\0' || mp_utf8_decode(replacement, &code) != strlen(replacement))
        return mp_fail(MP_ERR_FORMAT, "%s: Metaspace with replacement '%s', expected one character",
                       where, replacement);
    MP_TRY(mp_pretokenizer_add(&tokenizer->pretokenizer, MP_STAGE_METASPACE, where, &stage));
    MP_TRY(read_prepend_scheme(object, where, &stage->prepend));
    if (stage->prepend == MP_PREPEND_FIRST) MP_TRY(check_first(tokenizer, where));
    stage->behavior = MP_SPLIT_MERGED_WITH_NEXT;
    MP_TRY(append_text(&stage->replacement, replacement));
    if (!split) return MP_OK;
    return mp_pattern_literal(replacement, strlen(replacement), where, &stage->pattern);
}

static mp_status read_stage(mp_tokenizer *tokenizer, const json_t *object, const char *where,
                            int depth)
{
    static const struct {
        const char *type;
        mp_status (*read)(mp_tokenizer *, const json_t *, const char *);
    } readers[] = {{"Split", read_split},
                   {"ByteLevel", read_byte_level},
                   {"Digits", read_digits},
                   {"Metaspace", read_metaspace}};
    const char *type;

    MP_TRY(mp_json_text(object, "type", where, &type));
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(tokenizer, object, "pretokenizers", where, depth, read_stage);
    for (size_t i = 0; i < sizeof readers / sizeof readers[0]; i++)
        if (strcmp(type, readers[i].type) == 0) return readers[i].read(tokenizer, object, where);
    return refuse_type(type, "Sequence, Split, ByteLevel, Digits, Metaspace", where);
}

/* The special token that a template puts before the text: the BOS. */
static mp_status read_template(mp_tokenizer *tokenizer, const json_t *object, const char *where)
{
    const json_t *single = json_object_get(object, "single");
    const json_t *first = json_object_get(json_array_get(single, 0), "SpecialToken");
    const json_t *second = json_object_get(json_array_get(single, 1), "SpecialToken");
    const json_t *ids;
    const char *name;

    if (!json_is_array(single))
        return mp_fail(MP_ERR_FORMAT, "%s: a template without \"single\" [...]", where);
    if (first == NULL) return MP_OK;
    MP_TRY(mp_json_text(first, "id", where, &name));
    if (second != NULL || tokenizer->adds_bos)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: more than one special token before the text (the first is '%s') is not "
                       "implemented",
                       where, name);
    ids = json_object_get(json_object_get(json_object_get(object, "special_tokens"), name), "ids");
    tokenizer->bos = mp_tokenizer_find(tokenizer, name);
    if (json_array_size(ids) != 1 || tokenizer->bos < 0 ||
        !json_is_integer(json_array_get(ids, 0)) ||
        json_integer_value(json_array_get(ids, 0)) != tokenizer->bos)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: the ids of special token '%s' are not [%d], its id in "
                       "the vocabulary",
                       where, name, tokenizer->bos);
    tokenizer->adds_bos = 1;
    return MP_OK;
}

/* Only what stands before the text is of interest: nothing else is ever added. */
static mp_status read_processor(mp_tokenizer *tokenizer, const json_t *object, const char *where,
                                int depth)
{
    const char *type;

    MP_TRY(mp_json_text(object, "type", where, &type));
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(tokenizer, object, "processors", where, depth, read_processor);
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(tokenizer, object, where);
    if (strcmp(type, "ByteLevel") == 0) return MP_OK;
    return refuse_type(type, "Sequence, TemplateProcessing, ByteLevel", where);
}

mp_status mp_tokenizer_read_added(mp_tokenizer *tokenizer, const json_t *object, int64_t id,
                                  const char *where)
{
    mp_added_token token = {.id = id >= 0 && id < INT32_MAX ? (int32_t)id : -1};
    const char *content;

    MP_TRY(mp_json_text(object, "content", where, &content));
    MP_TRY(mp_json_bool(object, "single_word", where, &token.single_word));
    MP_TRY(mp_json_bool(object, "lstrip", where, &token.lstrip));
    MP_TRY(mp_json_bool(object, "rstrip", where, &token.rstrip));
    MP_TRY(mp_json_bool(object, "normalized", where, &token.normalized));
    MP_TRY(append_text(&token.text, content));
    return mp_added_add(&tokenizer->added, &tokenizer->bpe, &token, where);
}

static mp_status read_added_tokens(mp_tokenizer *tokenizer, const json_t *list, const char *where)
{
    if (list != NULL && !json_is_null(list) && !json_is_array(list))
        return mp_fail(MP_ERR_FORMAT, "%s: expected [...]", where);
    MP_TRY(mp_added_init(&tokenizer->added, (int64_t)json_array_size(list)));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *token = json_array_get(list, i);
        int64_t id;

        MP_TRY(mp_json_int(token, "id", where, &id));
        MP_TRY(mp_tokenizer_read_added(tokenizer, token, id, where));
    }
    return mp_added_finish(&tokenizer->added, &tokenizer->normalizer, where);
}

/* An optional component of the file. */
static mp_status read_component(mp_tokenizer *tokenizer, const json_t *root, const char *key,
                                const char *path, component_reader read)
{
    const json_t *component = json_object_get(root, key);
    char where[WHERE];

    if (component == NULL || json_is_null(component)) return MP_OK;
    snprintf(where, sizeof where, "%s: %s", path, key);
    return read(tokenizer, component, where, 0);
}

mp_status mp_tokenizer_read_json(mp_tokenizer *tokenizer, const json_t *root, const char *path)
{
    const char *version = "1.0";
    char where[WHERE];

    MP_TRY(mp_json_opt_text(root, "version", path, &version));
    if (strcmp(version, "1.0") != 0)
        return mp_fail(MP_ERR_FORMAT, "%s: version '%s' is not implemented, expected 1.0", path,
                       version);
    snprintf(where, sizeof where, "%s: model", path);
    MP_TRY(mp_tokenizer_read_model(&tokenizer->bpe, json_object_get(root, "model"), where));
    MP_TRY(read_component(tokenizer, root, "normalizer", path, read_normalizer));
    snprintf(where, sizeof where, "%s: added_tokens", path);
    MP_TRY(read_added_tokens(tokenizer, json_object_get(root, "added_tokens"), where));
    MP_TRY(read_component(tokenizer, root, "pre_tokenizer", path, read_stage));
    return read_component(tokenizer, root, "post_processor", path, read_processor);
}
