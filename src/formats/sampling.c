#include "windows.h"

#include "mpress/memory.h"
#include "mpress/rng.h"

#include <string.h>

/* Documents drawn are kept, for they may be drawn again: up to 64 MiB of tokens. */
enum { KEPT_TOKENS = 16 << 20 };

mp_status mp_encoder_open(const char *model, mp_bos bos, mp_encoder *encoder)
{
    mp_encoder made = {.stream_bos = -1, .window_bos = -1};
    int32_t id;

    if (model == NULL) return mp_fail(MP_ERR_ARG, "text needs the directory of a tokenizer");
    MP_TRY(mp_tokenizer_load(model, &made.tokenizer));
    id = mp_tokenizer_bos(made.tokenizer);
    if (bos == MP_BOS_AUTO && mp_tokenizer_adds_bos(made.tokenizer)) made.stream_bos = id;
    if (bos == MP_BOS_ON) made.window_bos = id;
    if (bos == MP_BOS_ON && id < 0) {
        mp_encoder_close(&made);
        return mp_fail(MP_ERR_ARG, "--bos on: the tokenizer in %s names no BOS token", model);
    }
    *encoder = made;
    return MP_OK;
}

void mp_encoder_close(mp_encoder *encoder)
{
    mp_tokenizer_free(encoder->tokenizer);
    encoder->tokenizer = NULL;
}

mp_status mp_encoder_run(const mp_encoder *encoder, const char *text, size_t length,
                         mp_token_stream *stream)
{
    mp_status st = MP_OK;
    int32_t *ids = NULL, *longer = NULL;
    int64_t count = 0;

    MP_GO(mp_tokenizer_encode(encoder->tokenizer, text, length, &ids, &count));
    if (encoder->stream_bos >= 0) {
        MP_GO(MP_NEW_RAW(longer, count + 1, "tokens"));
        longer[0] = encoder->stream_bos;
        memcpy(longer + 1, ids, (size_t)count * sizeof *ids);
        mp_free(ids);
        ids = longer;
        count++;
    }
    *stream = (mp_token_stream){.ids = ids, .count = count};
    ids = NULL;
out:
    mp_free(ids);
    return st;
}

/* One window from one stream or document of more than seqlen tokens.  The upper bound leaves out
 * the very last start, as the reference's does. */
static mp_status draw_window(mp_mt19937 *rng, int32_t bos, const mp_token_stream *stream,
                             mp_windows *windows, int64_t i)
{
    int64_t start = mp_mt19937_randint(rng, 0, stream->count - windows->seqlen - 1);

    return mp_windows_fill(windows, i, bos, stream, start);
}

mp_status mp_sample_stream(const char *path, uint64_t seed, int32_t window_bos,
                           const mp_token_stream *stream, mp_windows *windows)
{
    mp_mt19937 rng;

    if (stream->count <= windows->seqlen)
        return mp_fail(MP_ERR_FORMAT, "%s: %lld tokens, expected more than a window of %lld", path,
                       (long long)stream->count, (long long)windows->seqlen);
    mp_mt19937_seed(&rng, seed);
    for (int64_t i = 0; i < windows->count; i++)
        MP_TRY(draw_window(&rng, window_bos, stream, windows, i));
    return MP_OK;
}

/* What is known of the documents while windows are drawn. */
typedef struct sampler {
    const char *path;
    const mp_encoder *encoder;
    mp_jsonl *file;
    int32_t *known; /* [documents] 0: nothing; TOO_SHORT; else its place in `kept`, from 1 */
    int64_t short_count, longest;
    mp_token_stream *kept; /* [kept_count] documents that are long enough */
    int32_t kept_count;
    int64_t kept_tokens;
    mp_token_stream current; /* the document read last, if it is not kept */
} sampler;

enum { TOO_SHORT = -1 };

static void sampler_free(sampler *s)
{
    for (int32_t i = 0; i < s->kept_count; i++) mp_token_stream_free(&s->kept[i]);
    mp_free(s->kept);
    mp_free(s->known);
    mp_token_stream_free(&s->current);
    mp_jsonl_close(s->file);
}

static mp_status tokenize_document(const sampler *s, int64_t document, mp_token_stream *tokens)
{
    mp_status st;
    char *text = NULL;
    size_t length;

    MP_TRY(mp_jsonl_text(s->file, document, &text, &length));
    st = mp_encoder_run(s->encoder, text, length, tokens);
    mp_free(text);
    return st;
}

/* Moves the current document to those that are kept. */
static const mp_token_stream *keep(sampler *s, int64_t document)
{
    s->kept[s->kept_count] = s->current;
    s->kept_tokens += s->current.count;
    s->current = (mp_token_stream){0};
    s->known[document] = ++s->kept_count;
    return &s->kept[s->kept_count - 1];
}

/* The tokens of a document, or NULL where it is no longer than a window. */
static mp_status look_up(sampler *s, int64_t document, int64_t seqlen,
                         const mp_token_stream **tokens)
{
    int32_t known = s->known[document];

    *tokens = known > 0 ? &s->kept[known - 1] : NULL;
    if (known != 0) return MP_OK;
    mp_token_stream_free(&s->current);
    MP_TRY(tokenize_document(s, document, &s->current));
    if (s->current.count > s->longest) s->longest = s->current.count;
    if (s->current.count <= seqlen) {
        s->known[document] = TOO_SHORT;
        s->short_count++;
    } else if (s->kept_tokens + s->current.count <= KEPT_TOKENS) {
        *tokens = keep(s, document);
    } else {
        *tokens = &s->current;
    }
    return MP_OK;
}

/* Draws documents until one is long enough.  The reference would never end where none is. */
static mp_status draw_document(sampler *s, mp_mt19937 *rng, int64_t seqlen, int64_t *document,
                               const mp_token_stream **tokens)
{
    int64_t documents = mp_jsonl_count(s->file);

    do {
        if (s->short_count == documents)
            return mp_fail(
                MP_ERR_FORMAT,
                "%s: the longest of its %lld documents has %lld tokens, expected more than "
                "a window of %lld",
                s->path, (long long)documents, (long long)s->longest, (long long)seqlen);
        *document = mp_mt19937_randint(rng, 0, documents - 1);
        MP_TRY(look_up(s, *document, seqlen, tokens));
    } while (*tokens == NULL);
    return MP_OK;
}

mp_status mp_sample_documents(const char *path, uint64_t seed, const mp_encoder *encoder,
                              mp_windows *windows)
{
    mp_status st = MP_OK;
    sampler s = {.path = path, .encoder = encoder};
    mp_mt19937 rng;

    MP_GO(mp_jsonl_open(path, &s.file));
    MP_GO(MP_NEW(s.known, mp_jsonl_count(s.file), "what is known of documents"));
    MP_GO(MP_NEW(s.kept, windows->count, "documents drawn"));
    mp_mt19937_seed(&rng, seed);
    for (int64_t i = 0; i < windows->count; i++) {
        const mp_token_stream *tokens = NULL;

        MP_GO(draw_document(&s, &rng, windows->seqlen, &windows->document[i], &tokens));
        MP_GO(draw_window(&rng, encoder->window_bos, tokens, windows, i));
    }
out:
    sampler_free(&s);
    return st;
}
