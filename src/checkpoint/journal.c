#include "journal.h"

#include "mpress/checkpoint.h"
#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"

#include <stdio.h>
#include <string.h>

enum { JOURNAL_LIMIT = 1 << 30, LINE = 256 };

static const char JOURNAL_NAME[] = "journal.jsonl";
static const char REST_NAME[] = "blocks/rest.h5";

mp_status mp_rest_path(const char *dir, char **path)
{
    return mp_path_join(dir, REST_NAME, path);
}

mp_status mp_block_path(const char *dir, int64_t block, char **path)
{
    char name[64];

    snprintf(name, sizeof name, MP_BLOCK_FILE, (long long)block);
    return mp_path_join(dir, name, path);
}

mp_status mp_journal_start(const char *dir)
{
    char line[LINE];
    char *path = NULL;
    mp_status st;

    snprintf(line, sizeof line, "{\"program\":\"mpress\",\"format\":%d,\"event\":\"start\"}\n",
             MP_CHECKPOINT_FORMAT);
    MP_TRY(mp_path_join(dir, JOURNAL_NAME, &path));
    st = mp_file_write(path, line, strlen(line));
    mp_free(path);
    return st;
}

static mp_status append(const char *dir, const char *line)
{
    char *path = NULL;
    mp_status st;

    MP_TRY(mp_path_join(dir, JOURNAL_NAME, &path));
    st = mp_file_append_line(path, line);
    mp_free(path);
    return st;
}

mp_status mp_journal_rest(const char *dir, int64_t bytes)
{
    char line[LINE];

    snprintf(line, sizeof line, "{\"event\":\"rest\",\"file\":\"%s\",\"bytes\":%lld}", REST_NAME,
             (long long)bytes);
    return append(dir, line);
}

mp_status mp_journal_block(const char *dir, int64_t block, int64_t bytes)
{
    char line[LINE], file[64];

    snprintf(file, sizeof file, MP_BLOCK_FILE, (long long)block);
    snprintf(line, sizeof line,
             "{\"event\":\"block\",\"block\":%lld,\"file\":\"%s\",\"bytes\":%lld}",
             (long long)block, file, (long long)bytes);
    return append(dir, line);
}

mp_status mp_journal_finish(const char *dir)
{
    return append(dir, "{\"event\":\"finish\"}");
}

/* One line; `where` is "path: line N". */
static mp_status read_line(const char *line, size_t length, const char *where, mp_journal *journal)
{
    mp_status st = MP_OK;
    json_t *object = NULL;
    const char *event = NULL;
    int64_t block = 0;

    MP_TRY(mp_json_parse(line, length, where, &object));
    MP_GO(mp_json_text(object, "event", where, &event));
    if (strcmp(event, "finish") == 0) journal->finished = 1;
    if (strcmp(event, "rest") == 0) MP_GO(mp_json_int(object, "bytes", where, &journal->rest));
    if (strcmp(event, "block") != 0) goto out;
    MP_GO(mp_json_int(object, "block", where, &block));
    if (block < 0 || block >= journal->n_blocks)
        MP_GO(mp_fail(MP_ERR_FORMAT, "%s: block %lld, expected 0 to %lld", where, (long long)block,
                      (long long)journal->n_blocks - 1));
    MP_GO(mp_json_int(object, "bytes", where, &journal->blocks[block]));
out:
    json_decref(object);
    return st;
}

static mp_status read_lines(const char *path, const char *text, size_t length, mp_journal *journal)
{
    const char *at = text, *end;
    char where[768];

    for (int number = 1; (end = memchr(at, '\n', length - (size_t)(at - text))) != NULL; number++) {
        snprintf(where, sizeof where, "%.700s: line %d", path, number);
        MP_TRY(read_line(at, (size_t)(end - at), where, journal));
        at = end + 1;
    }
    return MP_OK;
}

mp_status mp_journal_read(const char *dir, int64_t n_blocks, mp_journal *journal)
{
    mp_status st;
    char *path = NULL, *text = NULL;
    size_t length = 0;

    *journal = (mp_journal){.rest = -1, .n_blocks = n_blocks};
    MP_TRY(MP_NEW_RAW(journal->blocks, n_blocks, "a journal"));
    for (int64_t b = 0; b < n_blocks; b++) journal->blocks[b] = -1;
    MP_GO(mp_path_join(dir, JOURNAL_NAME, &path));
    MP_GO(mp_file_read(path, JOURNAL_LIMIT, &text, &length));
    MP_GO(read_lines(path, text, length, journal));
out:
    mp_free(text);
    mp_free(path);
    if (st != MP_OK) mp_journal_free(journal);
    return st;
}

void mp_journal_free(mp_journal *journal)
{
    mp_free(journal->blocks);
    journal->blocks = NULL;
}

/* Whether the first line says that this program wrote it. */
static int is_ours(const char *path)
{
    char *text = NULL;
    size_t length = 0;
    json_t *object = NULL;
    const char *program = "";
    int ours;

    if (mp_file_read(path, JOURNAL_LIMIT, &text, &length) != MP_OK) return 0;
    if (mp_json_parse(text, strcspn(text, "\n"), path, &object) == MP_OK)
        (void)mp_json_opt_text(object, "program", path, &program);
    ours = strcmp(program, "mpress") == 0;
    json_decref(object);
    mp_free(text);
    return ours;
}

int mp_journal_is_there(const char *dir)
{
    char *path = NULL, *begun = NULL;
    int there = 0;

    if (mp_path_join(dir, JOURNAL_NAME, &path) == MP_OK &&
        mp_path_join(dir, "journal.jsonl.tmp", &begun) == MP_OK)
        there = is_ours(path) || (mp_path_exists(begun) && !mp_path_exists(path));
    mp_free(path);
    mp_free(begun);
    return there;
}
