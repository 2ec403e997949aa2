#include "mpress/jsonl.h"

#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 1 << 20, CHECKED_BYTES = 1 << 30 };

struct mp_jsonl {
    char *path;
    int fd;
    int64_t size;
    int64_t *begin; /* [room]; begin[i] is the offset of document i's line, begin[count] = size */
    int64_t count, room;
};

static mp_status add_line(mp_jsonl *file, int64_t begin)
{
    int64_t *larger, room = file->room * 2;

    if (file->count + 1 >= file->room) { /* one more for the end */
        MP_TRY(MP_NEW_RAW(larger, room, "the lines of a jsonl file"));
        memcpy(larger, file->begin, (size_t)file->count * sizeof *larger);
        mp_free(file->begin);
        file->begin = larger;
        file->room = room;
    }
    file->begin[file->count++] = begin;
    return MP_OK;
}

static int is_blank(char byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
}

/* Looks at the bytes at `offset`; *open says whether the line they begin in is a document already.
 */
static mp_status scan_piece(mp_jsonl *file, const char *bytes, size_t length, int64_t offset,
                            int *open)
{
    size_t at = 0;

    while (at < length) {
        if (*open) {
            const char *end = memchr(bytes + at, '\n', length - at);

            if (end == NULL) break;
            at = (size_t)(end - bytes) + 1;
            *open = 0;
        } else if (is_blank(bytes[at])) {
            at++;
        } else {
            MP_TRY(add_line(file, offset + (int64_t)at));
            *open = 1;
        }
    }
    return MP_OK;
}

static mp_status find_lines(mp_jsonl *file)
{
    mp_status st = MP_OK;
    char *piece = NULL;
    int open = 0;

    file->room = 1024;
    MP_GO(MP_NEW_RAW(file->begin, file->room, "the lines of a jsonl file"));
    MP_GO(MP_NEW_RAW(piece, PIECE, "a piece of a jsonl file"));
    for (int64_t at = 0; at < file->size; at += PIECE) {
        size_t length = (size_t)(file->size - at < PIECE ? file->size - at : PIECE);

        MP_GO(mp_file_pread(file->fd, file->path, piece, length, (uint64_t)at));
        MP_GO(scan_piece(file, piece, length, at, &open));
    }
    file->begin[file->count] = file->size;
    if (file->count == 0)
        st = mp_fail(MP_ERR_FORMAT, "%s: no document, expected lines like {\"text\": \"...\"}",
                     file->path);
out:
    mp_free(piece);
    return st;
}

void mp_jsonl_close(mp_jsonl *file)
{
    if (file == NULL) return;
    if (file->fd >= 0) close(file->fd);
    mp_free(file->begin);
    mp_free(file->path);
    mp_free(file);
}

int64_t mp_jsonl_count(const mp_jsonl *file)
{
    return file->count;
}

int64_t mp_jsonl_size(const mp_jsonl *file)
{
    return file->size;
}

/* 1-based; found by counting newlines again, because only an error asks for it. */
static mp_status line_number(const mp_jsonl *file, int64_t document, int64_t *line)
{
    mp_status st = MP_OK;
    char *piece = NULL;
    int64_t end = file->begin[document];

    *line = 1;
    MP_TRY(MP_NEW_RAW(piece, PIECE, "a piece of a jsonl file"));
    for (int64_t at = 0; at < end; at += PIECE) {
        size_t length = (size_t)(end - at < PIECE ? end - at : PIECE);

        MP_GO(mp_file_pread(file->fd, file->path, piece, length, (uint64_t)at));
        for (size_t i = 0; i < length; i++) *line += piece[i] == '\n';
    }
out:
    mp_free(piece);
    return st;
}

/* The text of one line; `where` names it in messages. */
static mp_status parse_line(const char *line, size_t size, const char *where, char **text,
                            size_t *length)
{
    mp_status st = MP_OK;
    json_t *object = NULL;
    const json_t *member;

    MP_TRY(mp_json_parse(line, size, where, &object));
    member = json_object_get(object, "text");
    if (!json_is_string(member))
        MP_GO(mp_fail(MP_ERR_FORMAT, "%s: \"text\" is %s, expected a string", where,
                      member == NULL ? "missing" : "something else"));
    *length = json_string_length(member); /* a text may hold NUL */
    MP_GO(MP_NEW_RAW(*text, *length + 1, "the text of a document"));
    memcpy(*text, json_string_value(member), *length + 1);
out:
    json_decref(object);
    return st;
}

mp_status mp_jsonl_text(const mp_jsonl *file, int64_t document, char **text, size_t *length)
{
    mp_status st;
    char *line = NULL;
    int64_t begin = file->begin[document], size = file->begin[document + 1] - begin, number;

    MP_TRY(MP_NEW_RAW(line, size, "a line of a jsonl file"));
    MP_GO(mp_file_pread(file->fd, file->path, line, (size_t)size, (uint64_t)begin));
    st = parse_line(line, (size_t)size, file->path, text, length);
    if (st == MP_ERR_FORMAT && line_number(file, document, &number) == MP_OK) {
        char where[768];

        snprintf(where, sizeof where, "%.700s: line %lld", file->path, (long long)number);
        st = parse_line(line, (size_t)size, where, text, length); /* for the message alone */
    }
out:
    mp_free(line);
    return st;
}

/* jansson reads some 60 MB/s: a GiB costs 17 s, a whole shard of the Pile would cost minutes. */
static mp_status check_lines(const mp_jsonl *file)
{
    for (int64_t i = 0; i < file->count && file->begin[i] < CHECKED_BYTES; i++) {
        char *text = NULL;
        size_t length;

        MP_TRY(mp_jsonl_text(file, i, &text, &length));
        mp_free(text);
    }
    return MP_OK;
}

mp_status mp_jsonl_open(const char *path, mp_jsonl **file)
{
    mp_status st = MP_OK;
    mp_jsonl *made = NULL;
    struct stat info;

    MP_TRY(MP_NEW(made, 1, "a jsonl file"));
    made->fd = -1;
    MP_GO(mp_strdup(path, &made->path));
    MP_GO(mp_file_open(path, O_RDONLY, &made->fd));
    if (fstat(made->fd, &info) != 0)
        MP_GO(mp_fail(MP_ERR_IO, "%s: opening failed: %s", path, strerror(errno)));
    if (!S_ISREG(info.st_mode)) MP_GO(mp_fail(MP_ERR_IO, "%s: not a regular file", path));
    made->size = info.st_size;
    MP_GO(find_lines(made));
    MP_GO(check_lines(made));
    *file = made;
    made = NULL;
out:
    mp_jsonl_close(made);
    return st;
}
