#include "commands.h"

#include "mpress/corpus.h"
#include "mpress/fileio.h"
#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/safetensors.h"
#include "mpress/tokenizer.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct tokenize_config {
    const char *model, *data, *out, *separator, *bos;
    int from_stdin;
} tokenize_config;

#define AT(field) offsetof(tokenize_config, field)

static const mp_option rows[] = {
    {"MODEL", NULL, "directory with a tokenizer", NULL, MP_OPT_STRING, AT(model), 0},
    {"--data", "FILE", ".txt or .jsonl (key text, documents joined by blank lines)", NULL,
     MP_OPT_STRING, AT(data), 0},
    {"--out", "FILE", "token file to write: tensor tokens, one stream", NULL, MP_OPT_STRING,
     AT(out), 0},
    {"--stdin", NULL, "print one line of ids for each case on standard input", NULL, MP_OPT_FLAG,
     AT(from_stdin), 0},
    {"--separator", "LINE",
     "cases end with this line (and the newline before it); else each line is one", NULL,
     MP_OPT_STRING, AT(separator), 0},
    {"--bos", "auto|on|off",
     "auto: where the tokenizer adds it, never to a case of --stdin; on: at the start", "auto",
     MP_OPT_STRING, AT(bos), 0},
    {NULL, NULL, NULL, NULL, MP_OPT_FLAG, 0, 0},
};

static const mp_command_line line = {"tokenize", "turn text into token ids", rows};

static mp_status tokenize_file(const tokenize_config *config, mp_bos bos)
{
    const mp_corpus_request request = {.path = config->data, .model = config->model, .bos = bos};
    mp_tensor_info info = {.name = "tokens", .dtype = MP_I32, .ndim = 1};
    int32_t *ids = NULL;
    const void *data;
    mp_status st;

    MP_TRY(mp_corpus_stream(&request, &ids, &info.shape[0]));
    data = ids;
    st = mp_safetensors_write(config->out, &info, &data, 1);
    mp_free(ids);
    if (st == MP_OK) mp_log(MP_LOG_INFO, "%s: %lld tokens", config->out, (long long)info.shape[0]);
    return st;
}

/* All of standard input; owned by the caller (mp_free). */
static mp_status read_stdin(char **text, size_t *length)
{
    size_t room = 1 << 16, filled = 0;
    char *buffer = NULL, *larger;

    MP_TRY(MP_NEW_RAW(buffer, room, "standard input"));
    for (;;) {
        ssize_t got = read(STDIN_FILENO, buffer + filled, room - filled);

        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            mp_free(buffer);
            return mp_fail(MP_ERR_IO, "standard input: reading failed: %s", strerror(errno));
        }
        if (got == 0) break;
        filled += (size_t)got;
        if (filled < room) continue;
        if (MP_NEW_RAW(larger, 2 * room, "standard input") != MP_OK) {
            mp_free(buffer);
            return MP_ERR_NOMEM;
        }
        memcpy(larger, buffer, filled);
        mp_free(buffer);
        buffer = larger;
        room *= 2;
    }
    *text = buffer;
    *length = filled;
    return MP_OK;
}

/* Every id after a space, as llama.cpp's test vectors have it. */
static mp_status print_case(const mp_tokenizer *tokenizer, int32_t bos, const char *text,
                            size_t length)
{
    int32_t *ids = NULL;
    int64_t count = 0;

    MP_TRY(mp_tokenizer_encode(tokenizer, text, length, &ids, &count));
    if (bos >= 0) printf(" %d", (int)bos);
    for (int64_t i = 0; i < count; i++) printf(" %d", (int)ids[i]);
    putchar('\n');
    mp_free(ids);
    return MP_OK;
}

/* Without a separator every line ends a case; with one its line does, and the newline before it is
 * part of the separator. */
static mp_status print_cases(const tokenize_config *config, const mp_tokenizer *tokenizer,
                             int32_t bos, const char *text, size_t length)
{
    const char *end = text + length, *start = text, *at = text;

    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *stop = newline != NULL ? newline : end, *from = at;

        at = newline != NULL ? newline + 1 : end;
        if (config->separator == NULL) {
            MP_TRY(print_case(tokenizer, bos, from, (size_t)(stop - from)));
            start = at;
        } else if ((size_t)(stop - from) == strlen(config->separator) &&
                   memcmp(from, config->separator, (size_t)(stop - from)) == 0) {
            MP_TRY(
                print_case(tokenizer, bos, start, from > start ? (size_t)(from - start) - 1 : 0));
            start = at;
        }
    }
    if (start == end) return MP_OK;
    /* no separator after the last case: the newline at the end of the input takes its place */
    return print_case(tokenizer, bos, start, (size_t)(end - start) - (end[-1] == '\n'));
}

static mp_status tokenize_stdin(const tokenize_config *config, mp_bos when)
{
    mp_tokenizer *tokenizer = NULL;
    char *text = NULL;
    size_t length = 0;
    int32_t bos = -1;
    mp_status st;

    MP_GO(mp_tokenizer_load(config->model, &tokenizer));
    if (when == MP_BOS_ON) {
        bos = mp_tokenizer_bos(tokenizer);
        if (bos < 0) MP_GO(mp_fail(MP_ERR_ARG, "--bos on: %s names no BOS token", config->model));
    }
    MP_GO(read_stdin(&text, &length));
    MP_GO(print_cases(config, tokenizer, bos, text, length));
    if (fflush(stdout) != 0)
        st = mp_fail(MP_ERR_IO, "standard output: writing failed: %s", strerror(errno));
out:
    mp_free(text);
    mp_tokenizer_free(tokenizer);
    return st;
}

static mp_status check(const tokenize_config *config)
{
    if (config->from_stdin && (config->data != NULL || config->out != NULL))
        return mp_fail(MP_ERR_ARG, "--stdin: takes neither --data nor --out");
    if (!config->from_stdin && (config->data == NULL || config->out == NULL))
        return mp_fail(MP_ERR_ARG,
                       "'mpress tokenize' needs --data FILE and --out FILE, or --stdin");
    if (!config->from_stdin && config->separator != NULL)
        return mp_fail(MP_ERR_ARG, "--separator: expected only with --stdin");
    return MP_OK;
}

static mp_status run(const mp_comm *comm, int argc, char **argv)
{
    tokenize_config config;
    mp_bos bos = MP_BOS_AUTO;
    mp_status st = MP_OK;

    MP_TRY(command_parse(&command_tokenize, argc, argv, &config));
    MP_TRY(check(&config));
    MP_TRY(mp_bos_parse(config.bos, &bos));
    if (comm->rank == 0)
        st = config.from_stdin ? tokenize_stdin(&config, bos) : tokenize_file(&config, bos);
    return mp_comm_agree(comm, st);
}

const mp_command command_tokenize = {&line, run};
