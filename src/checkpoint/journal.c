#include "journal.h"

#include "mpress/checkpoint.h"
#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"

#include <stdio.h>
#include <string.h>

/* How every line ends; the digits are those of the line up to here. */
static const char crc_key[] = ",\"crc\":\"";
enum { CRC_TAIL = sizeof crc_key - 1 + 8 + 2 };

mp_status mp_journal_path(const char *dir, char **path)
{
    return mp_path_join(dir, "journal.jsonl", path);
}

mp_status mp_rest_path(const char *dir, char **path)
{
    return mp_path_join(dir, MP_REST_FILE, path);
}

mp_status mp_block_path(const char *dir, int64_t block, char **path)
{
    char name[64];

    snprintf(name, sizeof name, MP_BLOCK_FILE, (long long)block);
    return mp_path_join(dir, name, path);
}

/* A line with its checksum, without a newline; owned by the caller. */
static mp_status seal(const json_t *line, char **sealed)
{
    char *text = NULL;
    size_t length;
    mp_status st;

    MP_TRY(mp_json_dump(line, 1, &text));
    length = strlen(text) - 1; /* without the closing brace */
    st = mp_alloc((void **)sealed, (int64_t)length + CRC_TAIL + 2, 1, 0, "a line of the journal");
    if (st == MP_OK)
        sprintf(*sealed, "%.*s%s%08x\"}", (int)length, text, crc_key, mp_crc32c(0, text, length));
    mp_free(text);
    return st;
}

static int is_sealed(const char *line, size_t length)
{
    char digits[16];
    size_t body = length - CRC_TAIL;

    if (length <= CRC_TAIL || memcmp(line + body, crc_key, sizeof crc_key - 1) != 0) return 0;
    snprintf(digits, sizeof digits, "%08x\"}", mp_crc32c(0, line, body));
    return memcmp(line + body + sizeof crc_key - 1, digits, 10) == 0;
}

/* {"event": .., "run": ..} and the members of `more`. */
static mp_status make_line(const mp_owner *owner, const char *event, json_t *more, char **sealed)
{
    json_t *line = json_pack("{s:s, s:s}", "event", event, "run", owner->run);
    mp_status st;

    if (line == NULL || (more != NULL && json_object_update(line, more) != 0))
        st = mp_fail(MP_ERR_NOMEM, "a line of the journal: out of memory");
    else
        st = seal(line, sealed);
    json_decref(line);
    return st;
}

mp_status mp_journal_start(const mp_owner *owner, const json_t *identity)
{
    json_t *more = json_pack("{s:s, s:i, s:O?}", "program", "mpress", "format",
                             MP_CHECKPOINT_FORMAT, "identity", (json_t *)(uintptr_t)identity);
    char *line = NULL, *path = NULL;
    mp_status st;

    MP_GO(make_line(owner, "start", more, &line));
    MP_GO(mp_journal_path(owner->dir, &path));
    strcat(line, "\n");
    MP_GO(mp_file_write(path, line, strlen(line)));
out:
    json_decref(more);
    mp_free(line);
    mp_free(path);
    return st;
}

mp_status mp_journal_add(const mp_owner *owner, const char *event, json_t *more)
{
    char *line = NULL, *path = NULL;
    mp_status st;

    MP_GO(make_line(owner, event, more, &line));
    MP_GO(mp_journal_path(owner->dir, &path));
    MP_GO(mp_file_append_line(path, line));
out:
    mp_free(line);
    mp_free(path);
    return st;
}

mp_status mp_journal_resume(const mp_owner *owner, const mp_journal *journal)
{
    char *path = NULL, *text = NULL;
    size_t length = 0;
    mp_status st;

    MP_GO(mp_journal_path(owner->dir, &path));
    MP_GO(mp_file_read(path, MP_JOURNAL_LIMIT, &text, &length));
    if (length > journal->length) MP_GO(mp_file_write(path, text, journal->length));
    MP_GO(mp_journal_add(owner, "resume", NULL));
out:
    mp_free(path);
    mp_free(text);
    return st;
}

mp_status mp_journal_check_owner(const mp_owner *owner)
{
    mp_journal journal;

    MP_TRY(mp_journal_read(owner->dir, &journal));
    if (strcmp(journal.run, owner->run) == 0) {
        mp_journal_free(&journal);
        return MP_OK;
    }
    mp_journal_free(&journal);
    return mp_fail(MP_ERR_IO, "%s: another run has taken it over meanwhile; this one stops",
                   owner->dir);
}

int mp_journal_is_owners(const mp_owner *owner, mp_status st)
{
    char message[1024];

    snprintf(message, sizeof message, "%s", mp_error_message());
    if (mp_journal_check_owner(owner) == MP_OK) return 1;
    (void)mp_fail(st, "%s", message);
    return 0;
}

/* What a line says of a file; `line` keeps its other members, which nobody reads. */
static mp_status take_file(mp_journal *journal, json_t *line, const char *where)
{
    const char *name = NULL;
    int64_t bytes = 0;

    MP_TRY(mp_json_text(line, "file", where, &name));
    MP_TRY(mp_json_int(line, "bytes", where, &bytes));
    if (json_object_set(journal->files, name, line) == 0) return MP_OK;
    return mp_fail(MP_ERR_NOMEM, "%s: out of memory", where);
}

/* Of the hidden states only the newest count: a commit removes the older ones.  After which block they are
 * is said by their own file's name: the line may be another block's. */
static mp_status take_hidden(mp_journal *journal, json_t *line, const char *where)
{
    json_t *hidden = json_object_get(line, "hidden");
    const char *name = NULL;
    char older[64];
    long long block;

    if (hidden == NULL) return MP_OK;
    MP_TRY(mp_json_text(hidden, "file", where, &name));
    if (sscanf(name, MP_HIDDEN_FILE, &block) != 1 || block < 0)
        return mp_fail(MP_ERR_FORMAT, "%s: hidden states \"%.60s\", expected hidden/NUMBER", where,
                       name);
    snprintf(older, sizeof older, MP_HIDDEN_FILE, (long long)journal->hidden);
    json_object_del(journal->files, older);
    journal->hidden = block;
    return take_file(journal, hidden, where);
}

static mp_status take_folder(mp_journal *journal, const json_t *line, const char *where)
{
    const char *name = NULL;

    MP_TRY(mp_json_text(line, "folder", where, &name));
    if (json_object_set_new(journal->folders, name, json_true()) == 0) return MP_OK;
    return mp_fail(MP_ERR_NOMEM, "%s: out of memory", where);
}

static void lose_folder_of(mp_journal *journal, const char *file)
{
    char folder[64];

    snprintf(folder, sizeof folder, "%.*s", (int)strcspn(file, "/"), file);
    json_object_del(journal->folders, folder);
}

static mp_status take_lost(mp_journal *journal, const json_t *line, const char *where)
{
    const char *name = NULL;
    char hidden[64];

    MP_TRY(mp_json_text(line, "file", where, &name));
    json_object_del(journal->files, name);
    journal->finished = 0;
    lose_folder_of(journal, name);
    snprintf(hidden, sizeof hidden, MP_HIDDEN_FILE, (long long)journal->hidden);
    if (strcmp(name, hidden) == 0) journal->hidden = -1;
    return MP_OK;
}

static mp_status take_fact(mp_journal *journal, const json_t *line, const char *where)
{
    const char *name = NULL;

    MP_TRY(mp_json_text(line, "name", where, &name));
    json_object_set(journal->facts, name, json_object_get(line, "value"));
    return MP_OK;
}

/* A run that is complete needs its hidden states no more. */
static void take_finish(mp_journal *journal)
{
    char hidden[64];

    snprintf(hidden, sizeof hidden, MP_HIDDEN_FILE, (long long)journal->hidden);
    json_object_del(journal->files, hidden);
    journal->hidden = -1;
    journal->finished = 1;
}

/* A line of whoever holds the directory. */
mp_status mp_journal_take(mp_journal *journal, const char *event, json_t *line, const char *where)
{
    if (strcmp(event, "file") == 0) return take_file(journal, line, where);
    if (strcmp(event, "lost") == 0) return take_lost(journal, line, where);
    if (strcmp(event, "folder") == 0) return take_folder(journal, line, where);
    if (strcmp(event, "fact") == 0) return take_fact(journal, line, where);
    if (strcmp(event, "finish") == 0) take_finish(journal);
    if (strcmp(event, "block") != 0) return MP_OK;
    MP_TRY(take_file(journal, line, where));
    return take_hidden(journal, line, where);
}

/* One whole line; `where` is "path: line N". */
static mp_status read_line(const char *text, size_t length, const char *where, mp_journal *journal)
{
    json_t *line = NULL;
    const char *event = NULL, *run = NULL;
    mp_status st;

    MP_TRY(mp_json_parse(text, length, where, &line));
    MP_GO(mp_json_text(line, "event", where, &event));
    MP_GO(mp_json_text(line, "run", where, &run));
    if (strcmp(event, "start") == 0 || strcmp(event, "resume") == 0) {
        snprintf(journal->run, sizeof journal->run, "%.19s", run);
        journal->finished = 0; /* it has found something to do */
        if (journal->identity == NULL)
            journal->identity = json_incref(json_object_get(line, "identity"));
    } else if (strcmp(run, journal->run) == 0) {
        MP_GO(mp_journal_take(journal, event, line, where));
    }
out:
    json_decref(line);
    return st;
}

static mp_status read_lines(const char *path, const char *text, size_t length, mp_journal *journal)
{
    const char *at = text, *end;
    char where[768];

    for (int number = 1; (end = memchr(at, '\n', length - (size_t)(at - text))) != NULL; number++) {
        snprintf(where, sizeof where, "%.700s: line %d", path, number);
        if (is_sealed(at, (size_t)(end - at)))
            MP_TRY(read_line(at, (size_t)(end - at), where, journal));
        else if (number == 1)
            return mp_fail(MP_ERR_FORMAT,
                           "%s: damaged, or of another version: does not fit its checksum", where);
        else if (journal->bad_line == 0)
            journal->bad_line = number;
        at = end + 1;
        journal->length = (size_t)(at - text);
    }
    if (journal->length > 0) return MP_OK;
    return mp_fail(MP_ERR_FORMAT, "%s: no whole line", path);
}

mp_status mp_journal_parse(const char *path, const char *text, size_t length, mp_journal *journal)
{
    mp_status st = MP_OK;

    *journal = (mp_journal){
        .files = json_object(), .folders = json_object(), .facts = json_object(), .hidden = -1};
    if (journal->files == NULL || journal->folders == NULL || journal->facts == NULL)
        st = mp_fail(MP_ERR_NOMEM, "%s: out of memory", path);
    if (st == MP_OK) st = read_lines(path, text, length, journal);
    if (st != MP_OK) mp_journal_free(journal);
    return st;
}

mp_status mp_journal_read(const char *dir, mp_journal *journal)
{
    char *path = NULL, *text = NULL;
    size_t length = 0;
    mp_status st;

    *journal = (mp_journal){.hidden = -1};
    MP_GO(mp_journal_path(dir, &path));
    MP_GO(mp_file_read(path, MP_JOURNAL_LIMIT, &text, &length));
    MP_GO(mp_journal_parse(path, text, length, journal));
out:
    mp_free(text);
    mp_free(path);
    return st;
}

void mp_journal_free(mp_journal *journal)
{
    json_decref(journal->files);
    json_decref(journal->folders);
    json_decref(journal->facts);
    json_decref(journal->identity);
    *journal = (mp_journal){.hidden = -1};
}

int64_t mp_journal_bytes(const mp_journal *journal, const char *file)
{
    const json_t *line = json_object_get(journal->files, file);

    return line != NULL ? json_integer_value(json_object_get(line, "bytes")) : -1;
}

int64_t mp_journal_block(const mp_journal *journal, int64_t block)
{
    char name[64];

    snprintf(name, sizeof name, MP_BLOCK_FILE, (long long)block);
    return mp_journal_bytes(journal, name);
}

/* Whether the first line says that this program wrote it. */
static mp_status look_at_first_line(const char *path, int *ours)
{
    char *text = NULL;
    size_t length = 0;
    json_t *object = NULL;
    const char *program = "";
    mp_status st;

    MP_TRY(mp_file_read(path, MP_JOURNAL_LIMIT, &text, &length));
    st = mp_json_parse(text, strcspn(text, "\n"), path, &object);
    if (st == MP_OK) st = mp_json_opt_text(object, "program", path, &program);
    *ours = st == MP_OK && strcmp(program, "mpress") == 0;
    json_decref(object);
    mp_free(text);
    return st == MP_ERR_FORMAT ? MP_OK : st; /* a file of somebody else */
}

mp_status mp_journal_is_there(const char *dir, int *there)
{
    char *path = NULL;
    mp_status st = MP_OK;

    MP_TRY(mp_journal_path(dir, &path));
    *there = 0;
    if (mp_path_exists(path)) st = look_at_first_line(path, there);
    mp_free(path);
    return st;
}
