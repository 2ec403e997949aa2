#include "mpress/tokenizer.h"

#include "tokenizer_internal.h"

#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"

#include <string.h>

static mp_status create(mp_tokenizer **tokenizer)
{
    MP_TRY(MP_NEW(*tokenizer, 1, "tokenizer"));
    (*tokenizer)->bos = -1;
    return MP_OK;
}

void mp_tokenizer_free(mp_tokenizer *tokenizer)
{
    if (tokenizer == NULL) return;
    mp_bpe_free(&tokenizer->bpe);
    mp_normalizer_free(&tokenizer->normalizer);
    mp_added_free(&tokenizer->added);
    mp_pretokenizer_free(&tokenizer->pretokenizer);
    mp_free(tokenizer);
}

int32_t mp_tokenizer_find(const mp_tokenizer *tokenizer, const char *text)
{
    int32_t id = mp_token_find(&tokenizer->added.ids, text, strlen(text));

    return id >= 0 ? id : mp_token_find(&tokenizer->bpe.tokens, text, strlen(text));
}

/* bos_token is a text, an object with the text, or null. */
static mp_status read_bos(const mp_tokenizer *tokenizer, const json_t *config, const char *where,
                          int32_t *bos)
{
    const json_t *token = json_object_get(config, "bos_token");
    const char *name = NULL;

    *bos = -1;
    if (json_is_object(token))
        MP_TRY(mp_json_text(token, "content", where, &name));
    else
        MP_TRY(mp_json_opt_text(config, "bos_token", where, &name));
    if (name == NULL) return MP_OK;
    *bos = mp_tokenizer_find(tokenizer, name);
    if (*bos < 0)
        return mp_fail(MP_ERR_FORMAT, "%s: bos_token '%s' is not in the vocabulary", where, name);
    return MP_OK;
}

mp_status mp_tokenizer_read_config(mp_tokenizer *tokenizer, const json_t *config, const char *where)
{
    int adds = tokenizer->adds_bos;
    int32_t bos;

    MP_TRY(read_bos(tokenizer, config, where, &bos));
    MP_TRY(mp_json_opt_bool(config, "add_bos_token", where, &adds));
    if (bos >= 0 && tokenizer->adds_bos && bos != tokenizer->bos)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: bos_token has id %d, but the template of tokenizer.json begins with %d",
                       where, bos, tokenizer->bos);
    if (bos >= 0) tokenizer->bos = bos;
    if (adds && tokenizer->bos < 0)
        return mp_fail(MP_ERR_FORMAT, "%s: add_bos_token is true, but there is no bos_token",
                       where);
    tokenizer->adds_bos = adds;
    return MP_OK;
}

mp_status mp_tokenizer_parse(const char *json, size_t length, const char *where,
                             mp_tokenizer **tokenizer)
{
    mp_tokenizer *made = NULL;
    json_t *root = NULL;
    mp_status st;

    MP_GO(create(&made));
    MP_GO(mp_json_parse(json, length, where, &root));
    MP_GO(mp_tokenizer_read_json(made, root, where));
    *tokenizer = made;
    made = NULL;
out:
    json_decref(root);
    mp_tokenizer_free(made);
    return st;
}

/* The files that a directory may hold. */
typedef struct paths {
    char *json, *vocab, *merges, *config;
} paths;

static void paths_free(paths *p)
{
    mp_free(p->json);
    mp_free(p->vocab);
    mp_free(p->merges);
    mp_free(p->config);
}

static mp_status paths_make(const char *dir, paths *p)
{
    MP_TRY(mp_path_join(dir, "tokenizer.json", &p->json));
    MP_TRY(mp_path_join(dir, "vocab.json", &p->vocab));
    MP_TRY(mp_path_join(dir, "merges.txt", &p->merges));
    return mp_path_join(dir, "tokenizer_config.json", &p->config);
}

static mp_status read_directory(mp_tokenizer *tokenizer, const char *dir, const paths *p,
                                const json_t *config)
{
    json_t *root = NULL;
    mp_status st;

    if (mp_path_exists(p->json)) {
        MP_TRY(mp_json_load(p->json, &root));
        st = mp_tokenizer_read_json(tokenizer, root, p->json);
        json_decref(root);
        return st;
    }
    if (mp_path_exists(p->vocab) && mp_path_exists(p->merges))
        return mp_tokenizer_read_files(tokenizer, dir, config, p->config);
    return mp_fail(MP_ERR_IO,
                   "%s: no tokenizer: neither tokenizer.json nor vocab.json with "
                   "merges.txt is there",
                   dir);
}

mp_status mp_tokenizer_load(const char *dir, mp_tokenizer **tokenizer)
{
    mp_tokenizer *made = NULL;
    json_t *config = NULL;
    paths p = {0};
    mp_status st;

    MP_GO(create(&made));
    MP_GO(paths_make(dir, &p));
    if (mp_path_exists(p.config)) MP_GO(mp_json_load(p.config, &config));
    MP_GO(read_directory(made, dir, &p, config));
    if (config != NULL) MP_GO(mp_tokenizer_read_config(made, config, p.config));
    *tokenizer = made;
    made = NULL;
out:
    paths_free(&p);
    json_decref(config);
    mp_tokenizer_free(made);
    return st;
}

/* A piece of the input between two added tokens. */
static mp_status encode_piece(mp_encoding *encoding, const char *text, size_t length, int first)
{
    const mp_tokenizer *tokenizer = encoding->tokenizer;
    mp_added_scan scan;
    mp_added_piece piece;
    int found;

    MP_TRY(mp_normalize(&tokenizer->normalizer, encoding->normal, text, length, &text, &length));
    mp_added_scan_start(&scan, &tokenizer->added, 1, text, length, encoding->match);
    for (;;) {
        MP_TRY(mp_added_next(&scan, &found, &piece));
        if (!found) return MP_OK;
        if (piece.id >= 0)
            MP_TRY(mp_ids_push(&encoding->ids, piece.id));
        else
            MP_TRY(mp_pretokenize(encoding, text + piece.start, piece.end - piece.start,
                                  first && piece.start == 0));
    }
}

static mp_status encode_text(mp_encoding *encoding, const char *text, size_t length)
{
    mp_added_scan scan;
    mp_added_piece piece;
    int found;

    mp_added_scan_start(&scan, &encoding->tokenizer->added, 0, text, length, encoding->match);
    for (;;) {
        MP_TRY(mp_added_next(&scan, &found, &piece));
        if (!found) return MP_OK;
        if (piece.id >= 0)
            MP_TRY(mp_ids_push(&encoding->ids, piece.id));
        else
            MP_TRY(encode_piece(encoding, text + piece.start, piece.end - piece.start,
                                piece.start == 0));
    }
}

static void encoding_free(mp_encoding *encoding)
{
    mp_match_work_free(encoding->match);
    mp_bpe_work_free(&encoding->bpe);
    for (int i = 0; i < 2; i++) mp_text_free(&encoding->normal[i]);
    for (int i = 0; i < MP_MAX_STEPS; i++) {
        mp_text_free(&encoding->whole[i]);
        mp_text_free(&encoding->piece[i]);
    }
    mp_free(encoding->ids.values);
}

mp_status mp_tokenizer_encode(const mp_tokenizer *tokenizer, const char *text, size_t length,
                              int32_t **ids, int64_t *count)
{
    mp_encoding encoding = {.tokenizer = tokenizer};
    char *repaired = NULL;
    mp_status st;

    MP_GO(mp_match_work_create(&encoding.match));
    MP_GO(mp_utf8_repair(text, length, &repaired, &length));
    MP_GO(encode_text(&encoding, repaired != NULL ? repaired : text, length));
    /* A text without tokens still gives an array that can be freed. */
    if (encoding.ids.values == NULL) MP_GO(MP_NEW_RAW(encoding.ids.values, 0, "token ids"));
    *ids = encoding.ids.values;
    *count = encoding.ids.count;
    encoding.ids.values = NULL;
out:
    mp_free(repaired);
    encoding_free(&encoding);
    return st;
}

int32_t mp_tokenizer_bos(const mp_tokenizer *tokenizer)
{
    return tokenizer->bos;
}

int mp_tokenizer_adds_bos(const mp_tokenizer *tokenizer)
{
    return tokenizer->adds_bos;
}

int32_t mp_tokenizer_size(const mp_tokenizer *tokenizer)
{
    int32_t model = tokenizer->bpe.max_id, added = tokenizer->added.max_id;

    return 1 + (model > added ? model : added);
}
